"""What every command that computes sets up first: allocator, compilation cache, other hosts."""

import os
from dataclasses import dataclass
from pathlib import Path

from mobilevit_jax.cli.allocator import keep_freed_memory


@dataclass(frozen=True)
class HostsOptions:
    """Training by several processes, such as one on each host of a TPU slice or GPU cluster.

    Attributes:
        join: Join the others that the environment tells of (a TPU slice, Slurm, Open MPI).
        coordinator: Address of the first process, host:port, where the environment does not tell.
        processes: How many processes there are.
        process: Which one this is, from 0.
    """

    join: bool = False
    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def connect(self) -> None:
        """Joins the other processes, if there are to be any."""
        if self.join or self.coordinator is not None:
            from mobilevit_jax.training.parallel import join_hosts

            join_hosts(self.coordinator, self.processes, self.process)


def start_jax() -> None:
    """Switches JAX's persistent compilation cache on, and keeps freed memory for the next step.

    It lies in $JAX_COMPILATION_CACHE_DIR, else in $XDG_CACHE_HOME/mobilevit_jax/compilation
    (~/.cache by default). A second start of an experiment then compiles nothing anew.
    """
    keep_freed_memory()
    import jax

    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return  # JAX reads it itself
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(cache / "mobilevit_jax" / "compilation"))
