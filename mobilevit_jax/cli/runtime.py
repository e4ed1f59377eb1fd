"""What every command that computes sets up first: the compilation cache."""

import os
from pathlib import Path


def start_jax() -> None:
    """Switches JAX's persistent compilation cache on.

    It lies in $JAX_COMPILATION_CACHE_DIR, else in $XDG_CACHE_HOME/mobilevit_jax/compilation
    (~/.cache by default). A second start of an experiment then compiles nothing anew.
    """
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return  # JAX reads it itself
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(cache / "mobilevit_jax" / "compilation"))
