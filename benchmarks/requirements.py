"""What has to be installed for a comparison with PyTorch."""

import argparse
import importlib.util

from contenders import IN_JAX, RUNTIMES, torchvision_name

from mobilevit_jax.errors import ConfigurationError


def check(options: argparse.Namespace) -> None:
    """Refuses what cannot be measured, before anything is.

    Raises:
        ConfigurationError: Names what to install.
    """
    if set(options.contenders) - set(IN_JAX):
        _check_pytorch(options.models)
    wanted = set(options.contenders) & set(RUNTIMES)
    needed = ("onnx", "onnxscript", *(name.lower() for name in wanted)) if wanted else ()
    if missing := [name for name in needed if not importlib.util.find_spec(name)]:
        raise ConfigurationError(
            f"{' and '.join(missing)} cannot be imported; install the extra (pip install -e "
            f"'.[runtimes]'), or leave {' and '.join(sorted(wanted))} out of --contenders"
        )


def _check_pytorch(models: list[str]) -> None:
    missing = [name for name in ("torch", "transformers") if not importlib.util.find_spec(name)]
    if missing:
        raise ConfigurationError(
            f"{' and '.join(missing)} cannot be imported; install the extra: "
            "pip install torch==2.13.0 && pip install -e '.[parity]'"
        )
    theirs = [model for model in models if torchvision_name(model)]
    if theirs and not importlib.util.find_spec("torchvision"):
        raise ConfigurationError(
            f"{' and '.join(theirs)} would be compared with torchvision's, which is not there; "
            "install the torchvision that belongs to your torch"
        )
