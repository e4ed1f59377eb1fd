"""An experiment: the frozen dataclasses that the rooms own, composed; files and JSON.

An experiment file is a Python file with a function `experiment() -> Experiment`. Its docstring
holds the claim, the number, the time and the command.
"""

import dataclasses
import math
import runpy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from mobilevit_jax.base.json_dataclasses import from_dict as from_dict
from mobilevit_jax.data.augment import AugmentConfig
from mobilevit_jax.data.loader import LoaderConfig
from mobilevit_jax.data.sampler import SamplerConfig
from mobilevit_jax.errors import ConfigurationError, nearest
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.config import DetectionConfig
from mobilevit_jax.tasks.segmentation.config import SegmentationConfig
from mobilevit_jax.training.losses import LossConfig
from mobilevit_jax.training.optimizer import OptimizerConfig
from mobilevit_jax.training.recovery import RecoveryConfig
from mobilevit_jax.training.schedule import ScheduleConfig
from mobilevit_jax.training.state import EMAConfig


@dataclass(frozen=True)
class DataConfig:
    """Which data.

    Attributes:
        dataset: Name of a prepared data set, `name/config` for one of its configurations.
        data_dir: Where data sets are stored; None takes $TFDS_DATA_DIR or ~/tensorflow_datasets.
        train: Training split; slices such as "train[:98%]" work.
        validation: Split evaluated during the run, or None.
        test: Split evaluated once, at the end, or None.
    """

    dataset: str = "imagenet"
    data_dir: str | None = None
    train: str = "train"
    validation: str | None = "validation"
    test: str | None = None


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
        if self.every_epochs < 1 or self.batch_size < 1:
            raise ConfigurationError(
                "evaluation.every_epochs and evaluation.batch_size must be at least 1; got "
                f"{self.every_epochs} and {self.batch_size}"
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
        if self.every_epochs < 1:
            raise ConfigurationError(
                f"checkpoint.every_epochs must be at least 1; got {self.every_epochs}"
            )
        if self.every_steps is not None and self.every_steps < 1:
            raise ConfigurationError(
                f"checkpoint.every_steps must be at least 1, or None; got {self.every_steps}"
            )
        if self.keep_best < 0:
            raise ConfigurationError(
                f"checkpoint.keep_best must be 0 or more; got {self.keep_best}"
            )


@dataclass(frozen=True)
class Experiment:
    """A run; everything that it computes follows from this.

    Attributes:
        name: Names the default work directory, runs/<name>.
        epochs: Passes over the training split.
        seed: Seed of initialisation, sampler, augmentation and dropout.
        log_every: Steps between rows of metrics.jsonl; each epoch also ends with one.
        init_from: Weights to start from: work directory, directory with config.json, weight file
            or hub id; None starts from scratch. A classifier of other classes is replaced.
        model: The model.
        data: The data.
        processor: What evaluation images go through; its channel order holds in training too.
        augment: What training images go through in classification.
        sampler: Sizes and batches.
        loader: Threads and memory.
        loss: The loss of classification.
        detection: Settings of ssdlite_* models.
        segmentation: Settings of deeplabv3_* models.
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
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    processor: ImageProcessor = field(default_factory=ImageProcessor)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    detection: DetectionConfig = field(default_factory=DetectionConfig)
    segmentation: SegmentationConfig = field(default_factory=SegmentationConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    ema: EMAConfig = field(default_factory=EMAConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    recovery: RecoveryConfig = field(default_factory=RecoveryConfig)

    def __post_init__(self) -> None:
        for name in ("epochs", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1; got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:  # JAX takes no larger one
            raise ConfigurationError(f"seed must be 0 or more and below 2**63; got {self.seed}")
        if self.evaluation.raw_weights and not self.ema.decay:
            raise ConfigurationError(
                "evaluation.raw_weights needs an average to stand beside; set ema.decay above 0, "
                "or leave it out: without an average the raw weights are evaluated anyway"
            )
        self._check_processor()

    def _check_processor(self) -> None:
        """Refuses what training and evaluation, which batch uint8 images, would not do."""
        processor = self.processor
        if not processor.do_rescale or not math.isclose(processor.rescale_factor, 1 / 255):
            raise ConfigurationError(
                "pixels are always scaled by 1/255 in training and evaluation; leave "
                "processor.do_rescale and processor.rescale_factor as they are"
            )
        if not processor.do_center_crop:
            raise ConfigurationError(
                "evaluation batches need crops of one size, so processor.do_center_crop must stay; "
                "for whole images set processor.size and processor.crop_size to the same "
                "(height, width)"
            )


def load_experiment(path: str | Path) -> Experiment:
    """Runs an experiment file and returns what its `experiment()` returns.

    Raises:
        ConfigurationError: If there is no such file, or it does not hold an experiment.
    """
    return check_experiment(path, made_by(path, "experiment").get("experiment"))


def check_experiment(path: str | Path, experiment: Any) -> Experiment:
    """Returns what a file's `experiment()` made, if it is one; the error names the file."""
    if not isinstance(experiment, Experiment):
        raise ConfigurationError(
            f"{path} needs a function experiment() that returns a mobilevit_jax.config.Experiment"
        )
    return experiment


def made_by(path: str | Path, *names: str) -> dict[str, Any]:
    """Runs a Python file and calls those of its functions of these names that there are.

    Returns:
        Their results, by name.

    Raises:
        ConfigurationError: If there is no such file, or its code raises.
    """
    path = Path(path)
    if not path.is_file():
        raise no_experiment_file(path)
    try:
        found = runpy.run_path(str(path))
        return {name: found[name]() for name in names if callable(found.get(name))}
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error
    except Exception as error:  # whatever the user's code raises
        raise ConfigurationError(f"{path}: {type(error).__name__}: {error}") from error


def no_experiment_file(path: str | Path) -> ConfigurationError:
    """Builds the error for a path that is no Python file, with the nearest one beside it."""
    folder = Path(path).parent
    beside = [str(p) for p in folder.glob("*.py")] if folder.is_dir() else []
    hint = nearest(str(path), beside)
    return ConfigurationError(f"no experiment file {path}{hint}; name a Python file (.py)")


# Side in pixels of the images of the `--tiny` form.
TINY_SIZE = 64


def shrink(experiment: Experiment) -> Experiment:
    """Returns the experiment's `--tiny` form: the same code path in seconds on a laptop.

    The data become `shapes/tiny` (64 training images of 64 pixels), the sizes 32 and 64, the
    batches 16 images at 64 pixels, the run one epoch; model, optimizer, loss and rules stay.
    """
    several = experiment.sampler.sizes is None or len(experiment.sampler.sizes) > 1
    return replace(
        experiment,
        name=f"{experiment.name}-tiny",
        epochs=1,
        log_every=2,
        model=replace(experiment.model, num_classes=None),
        data=replace(
            experiment.data,
            dataset="shapes/tiny",
            train="train",
            validation="validation",
            test="test",
        ),
        processor=replace(experiment.processor, size=TINY_SIZE, crop_size=(TINY_SIZE, TINY_SIZE)),
        sampler=SamplerConfig(
            batch_size=16,
            base_size=TINY_SIZE,
            sizes=(32, TINY_SIZE) if several else (TINY_SIZE,),
            rule=experiment.sampler.rule,
            reference_devices=1,
        ),
        schedule=replace(experiment.schedule, warmup_steps=1),
        evaluation=replace(experiment.evaluation, batch_size=16),
    )


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a configuration as nested dictionaries that JSON can hold (tuples as lists)."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list | tuple) else value

    return plain(dataclasses.asdict(config))


def differences(old: dict[str, Any], new: dict[str, Any], where: str = "") -> list[str]:
    """Lists the fields in which two `to_dict` forms differ, as "name: old -> new"."""
    found = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{where}{name}.")
        elif before != after:
            found.append(f"{where}{name}: {before!r} -> {after!r}")
    return found
