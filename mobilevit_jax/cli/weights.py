"""The options by which commands choose weights."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.pretrained import Choice, Pretrained, load_weights

_NAMES = ("latest", "best", "average")


@dataclass(frozen=True)
class WeightsOptions:
    """Which weights.

    Attributes:
        weights: Work directory of a training.
        checkpoint: latest, best (by the validation metric), average (of the best that were kept),
            or a step.
        raw: Take the raw weights instead of their exponential moving average.
    """

    weights: Annotated[str, tyro.conf.arg(metavar="DIR")]
    checkpoint: str = "latest"
    raw: bool = False

    def load(self) -> Pretrained:
        """Loads them."""
        return load_weights(self.weights, checkpoint=self._choice(), raw=self.raw)

    def _choice(self) -> Choice:
        if self.checkpoint.isdecimal():
            return int(self.checkpoint)
        if self.checkpoint not in _NAMES:
            raise ConfigurationError(
                f"--checkpoint must be {', '.join(_NAMES)} or a step; got {self.checkpoint!r}"
            )
        return self.checkpoint  # pyright: ignore[reportReturnType]
