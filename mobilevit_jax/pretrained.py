"""Weights ready for use, from wherever they are: joins files, names, configuration and processor.

What a source is, is decided in this order: a path that exists (a work directory, a directory with
a `config.json`, a weight file), then an id of the Hugging Face hub.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import jax
import numpy as np

from mobilevit_jax.convert import files, hub, load_state_dict, native
from mobilevit_jax.convert.config import Configured, read_config, timm_processor
from mobilevit_jax.convert.recognise import recognise
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import create_model
from mobilevit_jax.models.layers import dense_init
from mobilevit_jax.processing import CONFIG_NAME as PROCESSOR_NAME
from mobilevit_jax.processing import ImageProcessor

if TYPE_CHECKING:
    from mobilevit_jax.config import Experiment
    from mobilevit_jax.models import MobileViT
    from mobilevit_jax.training.checkpoint import Checkpoints

Choice = Literal["latest", "best", "average"] | int

CONFIG = "config.json"
EXPERIMENT = "experiment.json"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Pretrained:
    """A model with its weights and what belongs to them.

    Attributes:
        model: The module.
        variables: {"params", "batch_stats"}, NumPy arrays, float32.
        processor: What images go through before it.
        class_names: In the order of the logits.
        model_name: One of `list_models()`, or "mobilevit" for widths of nobody's table.
        description: Which weights these are, for reports.
        experiment: The run that made the weights, if it was a run of this package.
    """

    model: "MobileViT"
    variables: dict[str, Any]
    processor: ImageProcessor
    class_names: tuple[str, ...]
    model_name: str
    description: str
    experiment: "Experiment | None" = None


def from_pretrained(
    source: str | Path,
    *,
    checkpoint: Choice = "latest",
    raw: bool = False,
    revision: str | None = None,
    allow_half: bool = False,
    replace_classifier: bool = False,
    **options: Any,
) -> tuple["MobileViT", dict[str, Any], ImageProcessor]:
    """Loads a model, its variables and its image processor.

    Args:
        source: See `load_weights`.
        checkpoint: See `load_weights`.
        raw: See `load_weights`.
        revision: See `load_weights`.
        allow_half: See `load_weights`.
        replace_classifier: Whether a `num_classes` that differs from the weights' is meant: the
            classifier is then initialised anew.
        **options: Fields of `MobileViT` that differ from what the source says, such as `dtype`,
            `output_stride`, `patch_sizes`, `dropout`, or `num_classes=0` for pooled features.

    Returns:
        (model, variables, processor), for `model.apply(variables, processor(image))`.

    Raises:
        ConfigurationError: Also for an option that does not fit the weights.
        DataError: See `load_weights`.
    """
    loaded = load_weights(
        source, checkpoint=checkpoint, raw=raw, revision=revision, allow_half=allow_half
    )
    model, variables = _with_options(loaded, options, replace_classifier)
    return model, variables, loaded.processor


def load_weights(
    source: str | Path,
    *,
    checkpoint: Choice = "latest",
    raw: bool = False,
    revision: str | None = None,
    allow_half: bool = False,
) -> Pretrained:
    """Loads weights with all that belongs to them.

    Args:
        source: A work directory of `mobilevit train`; a directory with `config.json` and weights,
            as `save_pretrained`, transformers and timm write them; a weight file (safetensors, or
            PyTorch's, which is read without executing it); or an id of the Hugging Face hub, such
            as "apple/mobilevit-small".
        checkpoint: Of a work directory: "latest", "best" by the validation metric, "average" of
            the best that were kept (as CVNets averages its five best), or a step.
        raw: Whether the raw weights are taken instead of their exponential moving average, from a
            work directory or a training checkpoint of CVNets.
        revision: Branch, tag or commit of a hub id.
        allow_half: Whether weights in half precision are widened to float32 rather than refused.

    Raises:
        ConfigurationError: If there is nothing at `source`, or an argument does not go with it.
        DataError: If what is there cannot be read or is not a MobileViT; the file is named.
    """
    path = Path(source)
    is_run = (path / EXPERIMENT).is_file()
    if not is_run and checkpoint != "latest":
        raise ConfigurationError(
            f"only a work directory has checkpoints to choose from, and {source} is none; "
            "leave the checkpoint out"
        )
    if revision is not None and path.exists():
        raise ConfigurationError(f"{source} is a path; only an id of the hub has revisions")
    if is_run:
        return _load_run(path, checkpoint, raw)
    if path.is_file():
        return _load_file(path, averaged=not raw, allow_half=allow_half)
    if raw:
        raise ConfigurationError(f"{source} has no averaged weights beside the raw ones")
    if path.is_dir():
        return _load_directory(path, str(source), allow_half)
    if hub.is_hub_id(str(source)):
        where = f"{source}@{revision}" if revision else str(source)
        return _load_directory(hub.fetch(str(source), revision), where, allow_half)
    raise ConfigurationError(
        f"there is nothing at {source}; name a work directory, a directory with {CONFIG}, "
        "a weight file, or an id of the hub such as apple/mobilevit-small"
    )


def _load_directory(directory: Path, name: str, allow_half: bool) -> Pretrained:
    """Loads a directory with `config.json`; `name` is what the user called it."""
    if not (directory / CONFIG).is_file():
        raise DataError(
            f"{directory} has neither {EXPERIMENT} nor {CONFIG}, so it is neither a work "
            "directory nor saved weights; name the directory or the weight file itself"
        )
    configured = read_config(directory)
    path = _weight_file(directory)
    tensors = files.read_state_dict(path)
    try:
        if configured.layout == "native":
            variables = native.from_native(configured.model, tensors)
        else:
            variables = load_state_dict(configured.model, tensors, allow_half=allow_half)
    except DataError as error:
        raise DataError(f"{path} does not fit {directory / CONFIG}: {error}") from error
    return Pretrained(
        configured.model,
        variables,
        _processor_of(directory, configured),
        configured.class_names or _names_of_classes(configured.model.num_classes),
        _name_of(configured.model),
        f"weights of {name}",
    )


def _weight_file(directory: Path) -> Path:
    for name in WEIGHT_FILES:
        if (directory / name).is_file():
            return directory / name
    raise DataError(f"{directory} holds no weights; looked for {' and '.join(WEIGHT_FILES)}")


def _processor_of(directory: Path, configured: Configured) -> ImageProcessor:
    if (directory / PROCESSOR_NAME).is_file():
        return ImageProcessor.load(directory)
    return configured.processor or ImageProcessor()


def _load_file(path: Path, *, averaged: bool, allow_half: bool) -> Pretrained:
    """Loads a bare weight file: names and shapes tell the model, its naming the channel order."""
    tensors = files.read_state_dict(path, averaged=averaged)
    try:
        found = recognise({name: np.shape(tensor) for name, tensor in tensors.items()})
        model = create_model(
            found.name or "mobilevit_s",
            variant=found.variant,
            num_classes=found.num_classes,
            fusion=found.fusion,
            kernel_size=found.kernel_size,
        )
        variables = load_state_dict(model, tensors, allow_half=allow_half)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return Pretrained(
        model,
        variables,
        timm_processor() if found.layout == "timm" else ImageProcessor(),
        _names_of_classes(found.num_classes),
        _name_of(model),
        f"weights of {path}",
    )


def _name_of(model: "MobileViT") -> str:
    """Returns the name of a published size; the depth of a block is all that others share."""
    from mobilevit_jax.models import VARIANTS

    widths = replace(model.variant, dropout=0.0)
    published = {size: replace(variant, dropout=0.0) for size, variant in VARIANTS.items()}
    return next((f"mobilevit_{size}" for size, v in published.items() if v == widths), "mobilevit")


def _names_of_classes(count: int) -> tuple[str, ...]:
    """Names classes that nobody named: 1000 of them are ImageNet's."""
    if count == 1000:
        from mobilevit_jax.data.imagenet_names import class_names_imagenet

        return class_names_imagenet()
    return tuple(f"LABEL_{index}" for index in range(count))


def _with_options(
    loaded: Pretrained, options: dict[str, Any], replace_classifier: bool
) -> tuple["MobileViT", dict[str, Any]]:
    """Applies options to a loaded model, and to its classifier what follows from them."""
    if not options:
        return loaded.model, loaded.variables
    fields = {name: getattr(loaded.model, name) for name in _field_names(loaded.model)}
    known = loaded.model_name if loaded.model_name != "mobilevit" else "mobilevit_s"
    model = create_model(known, **(fields | options))
    before, now = loaded.model.num_classes, model.num_classes
    if now == before:
        return model, _checked(model, loaded.variables, options)
    params = dict(loaded.variables["params"])
    params.pop("classifier", None)
    if now:
        if not replace_classifier:
            raise ConfigurationError(
                f"the weights have {before} classes, not {now}; leave num_classes out, take "
                "pooled features by num_classes=0, or say replace_classifier=True to have the "
                "classifier initialised anew"
            )
        width = model.variant.exp_channels
        params["classifier"] = {
            "kernel": np.asarray(dense_init(jax.random.key(0), (width, now))),
            "bias": np.zeros(now, np.float32),
        }
    return model, _checked(model, {**loaded.variables, "params": params}, options)


def _field_names(model: Any) -> list[str]:
    import dataclasses

    return [f.name for f in dataclasses.fields(model) if f.name not in ("parent", "name")]


def _checked(model: "MobileViT", variables: dict[str, Any], options: dict[str, Any]) -> Any:
    """Refuses options, such as another kernel size, that the weights were not made for."""
    from flax import traverse_util

    from mobilevit_jax.models.shapes import variable_shapes

    expected = variable_shapes(model)
    found = {path: leaf.shape for path, leaf in traverse_util.flatten_dict(variables).items()}
    wrong = sorted("/".join(p[1:]) for p, _ in expected.items() ^ found.items())
    if wrong:
        raise ConfigurationError(
            f"the weights do not fit {', '.join(f'{k}={v!r}' for k, v in options.items())}: "
            f"{wrong[0]} differs ({len(set(wrong))} tensors in all)"
        )
    return variables


def _load_run(directory: Path, checkpoint: Choice, raw: bool) -> Pretrained:
    """Loads a checkpoint of a work directory, the averaged weights if it has any."""
    # Imported here because weights from elsewhere need neither training nor Orbax.
    from mobilevit_jax.training import parallel, workdir
    from mobilevit_jax.training.averaging import average
    from mobilevit_jax.training.checkpoint import Checkpoints

    experiment, class_names = workdir.read_experiment(directory)
    model = experiment.model.build(len(class_names), parallel.AXIS)
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), image)
    averaged = bool(experiment.ema.decay) and not raw
    wanted = {"ema": abstract} if averaged else abstract
    if not (directory / workdir.CHECKPOINTS).is_dir():
        raise DataError(f"{directory} has no checkpoint yet; train it first")
    with Checkpoints.reader(directory / workdir.CHECKPOINTS) as checkpoints:
        steps = _choose(checkpoints, checkpoint, directory, experiment.checkpoint.keep_best)
        if len(steps) > 1:
            state = average(checkpoints, steps, wanted)
        else:
            state = checkpoints.restore(steps[0], wanted, partial=True)
    which = f"{'EMA' if averaged else 'raw'} weights of step {', '.join(map(str, steps))}"
    return Pretrained(
        model,
        state["ema"] if averaged else state,
        experiment.processor,
        class_names,
        experiment.model.name,
        f"averaged {which}" if len(steps) > 1 else which,
        experiment,
    )


def _choose(
    checkpoints: "Checkpoints", choice: Choice, directory: Path, keep_best: int
) -> list[int]:
    """Returns the steps that a choice stands for."""
    if choice == "latest":
        return checkpoints.steps()[-1:]
    if isinstance(choice, int):
        if choice not in checkpoints.steps():
            known = ", ".join(map(str, checkpoints.steps()))
            raise ConfigurationError(
                f"{directory} has no checkpoint of step {choice}; it has {known}"
            )
        return [choice]
    best = [ranked.step for ranked in checkpoints.best()]
    if not best:
        raise ConfigurationError(
            f"no checkpoint in {directory} was evaluated, so none is the best; use latest"
        )
    # The latest is on disk as well, and need not be among the best.
    return best[:1] if choice == "best" else best[: max(keep_best, 1)]
