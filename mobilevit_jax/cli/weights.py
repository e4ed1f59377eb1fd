"""The options by which commands choose weights."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from mobilevit_jax.cli.console import say
from mobilevit_jax.cli.options import called
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.pretrained import Choice, Pretrained, load_weights

_NAMES = ("latest", "best", "average")


@dataclass(frozen=True)
class SelectionOptions:
    """Which of the weights that a source holds, and how they are read.

    Attributes:
        checkpoint: Of a work directory: latest, best (by the validation metric), average (of the
            best that were kept), or a step.
        raw: Take the raw weights instead of their exponential moving average.
        revision: Branch, tag or commit of a hub id.
        allow_half: Widen weights in half precision to float32 instead of refusing them.
        channel_order: Of the images that a bare weight file was trained on; by default what its
            names tell.
    """

    checkpoint: str = "latest"
    raw: bool = False
    revision: Annotated[str | None, called("REV")] = None
    allow_half: bool = False
    channel_order: Literal["bgr", "rgb"] | None = None

    def load(self, source: str) -> Pretrained:
        """Loads them from what `load_weights` takes, and says what was assumed."""
        loaded = load_weights(
            source,
            checkpoint=self._choice(),
            raw=self.raw,
            revision=self.revision,
            allow_half=self.allow_half,
            channel_order=self.channel_order,
        )
        for note in loaded.notes:
            say(note)
        return loaded

    def _choice(self) -> Choice:
        if self.checkpoint.isdecimal():
            return int(self.checkpoint)
        if self.checkpoint not in _NAMES:
            raise ConfigurationError(
                f"--checkpoint must be {', '.join(_NAMES)} or a step; got {self.checkpoint!r}"
            )
        return self.checkpoint  # pyright: ignore[reportReturnType]


Selection = tyro.conf.OmitArgPrefixes[Annotated[SelectionOptions, tyro.conf.arg(name="selection")]]


@dataclass(frozen=True)
class WeightsOptions:
    """Which weights.

    Attributes:
        weights: Work directory of a training, directory with config.json, weight file
            (safetensors or PyTorch's), or id of the Hugging Face hub.
        selection: Which of those that are there.
    """

    weights: Annotated[str, tyro.conf.arg(metavar="WEIGHTS")]
    selection: Selection = SelectionOptions()

    def load(self) -> Pretrained:
        """Loads them.

        Raises:
            ConfigurationError: If there is no classifier among them, or as `load_weights` does.
            DataError: As `load_weights` does.
        """
        loaded = self.selection.load(self.weights)
        if not loaded.class_names:
            raise ConfigurationError(f"{self.weights} has no classifier (0 classes), only features")
        return loaded
