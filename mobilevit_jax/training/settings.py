"""What a run of training is told, whatever it trains."""

from dataclasses import dataclass, field
from typing import Literal

from mobilevit_jax.errors import ConfigurationError, check_fields
from mobilevit_jax.training.optimizer import OptimizerConfig
from mobilevit_jax.training.recovery import RecoveryConfig
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig


@dataclass(frozen=True)
class EvaluationConfig:
    """Evaluation during the run.

    Attributes:
        every_epochs: Epochs between evaluations on the validation split; the last epoch always
            ends with one.
        batch_size: Images of a batch over all devices.
        raw_weights: Whether the raw weights are evaluated beside their average; their metrics
            are prefixed "raw_".
    """

    every_epochs: int = 1
    batch_size: int = 800
    raw_weights: bool = False

    def __post_init__(self) -> None:
        check_fields(
            self,
            "evaluation.",
            every_epochs=(self.every_epochs >= 1, "at least 1"),
            batch_size=(self.batch_size >= 1, "at least 1"),
        )


@dataclass(frozen=True)
class CheckpointConfig:
    """What is kept of a run.

    Attributes:
        every_epochs: Epochs between checkpoints; the last epoch always ends with one.
        every_steps: Steps of the run between further checkpoints, for long epochs; None for none.
        keep_best: Checkpoints kept by the validation metric, besides the latest.
        metric: Name of the metric; None takes the task's own: top1, map or miou.
        mode: Whether its highest or its lowest value is the best.
    """

    every_epochs: int = 1
    every_steps: int | None = None
    keep_best: int = 5
    metric: str | None = None
    mode: Literal["max", "min"] = "max"

    def __post_init__(self) -> None:
        steps = self.every_steps
        check_fields(
            self,
            "checkpoint.",
            every_epochs=(self.every_epochs >= 1, "at least 1"),
            every_steps=(steps is None or steps >= 1, "at least 1, or None"),
            keep_best=(self.keep_best >= 0, "0 or more"),
        )


@dataclass(frozen=True)
class TrainingSettings:
    """The part of an experiment that the training loop knows.

    Attributes:
        name: Names the default work directory, runs/<name>.
        epochs: Passes over the training split.
        seed: Seed of initialisation, sampler, augmentation and dropout.
        log_every: Steps between rows of metrics.jsonl; each epoch also ends with one.
        init_from: Weights to start from: work directory, directory with config.json, weight file
            or hub id; None starts from scratch. A classifier of other classes is replaced.
        optimizer: The optimizer.
        schedule: The learning rate.
        ema: The average of the weights.
        evaluation: Evaluation during the run.
        checkpoint: What is kept.
        recovery: What happens when a loss is not finite.
    """

    name: str = "experiment"
    epochs: int = 300
    seed: int = 0
    log_every: int = 100
    init_from: str | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)

    def __post_init__(self) -> None:
        check_fields(
            self,
            epochs=(self.epochs >= 1, "at least 1"),
            log_every=(self.log_every >= 1, "at least 1"),
            seed=(0 <= self.seed < 2**63, "0 or more and below 2**63"),  # JAX takes no larger one
        )
        if self.evaluation.raw_weights and not self.ema.decay:
            raise ConfigurationError(
                "evaluation.raw_weights needs an average to stand beside; set ema.decay above 0, "
                "or leave it out: without an average the raw weights are evaluated anyway"
            )

    @property
    def freeze_backbone(self) -> bool:
        """Whether only the head is trained."""
        return False
