"""`mobilevit compile FILE --target v5e-8`: what a run would be on a TPU, without one."""

import dataclasses
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from mobilevit_jax.cli.commands.train import build_task, check_settings, is_drawn, parse
from mobilevit_jax.cli.console import print_table, say
from mobilevit_jax.cli.options import called
from mobilevit_jax.config import Experiment
from mobilevit_jax.errors import ConfigurationError, ExitStatus

if TYPE_CHECKING:
    from mobilevit_jax.analysis.chips import Target
    from mobilevit_jax.analysis.tpu_programs import Compiled
    from mobilevit_jax.data.stored import DatasetInfo
    from mobilevit_jax.tasks.base import DataTask

# Classes of the recipes' data sets, and images to train on; others are prepared, or told.
_KNOWN = {"imagenet": (1000, 1281167), "coco": (80, 117266), "voc_segmentation": (20, 10582)}
_EXAMPLES = 100_000


@dataclass(frozen=True)
class Arguments:
    """Compile an experiment's steps for a TPU, by the TPU's compiler, on any Linux machine.

    For the training step at each size and for the evaluation step it prints the seconds of
    lowering and compiling here; the memory of a device that the step takes, and whether that fits;
    its arithmetic and the bytes that it moves; and the time that it takes at least, by the chip's
    peaks. That bound is no measurement: no TPU is asked. Data need not be there; of a data set
    that is neither prepared nor one of the recipes, --model.num-classes tells the classes.
    Needs pip install 'mobilevit-jax[tpu]'. A step takes minutes to compile.

    The exit status is 1 if a step does not fit.

    Attributes:
        file: Python file with a function experiment().
        target: The slice: v4-8, v5e-8, v5p-8, v6e-8 and so on.
        config: The experiment, field by field.
        row: Where the file is a study, which of its rows.
        tiny: Shrink the experiment, as `mobilevit train` does.
        output: Write the numbers into this JSON file, anew after each step.
    """

    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    config: Annotated[Experiment, tyro.conf.arg(name="")]
    target: str = "v5e-8"
    row: Annotated[str | None, called("NAME")] = None
    tiny: tyro.conf.FlagCreatePairsOff[bool] = False
    output: Annotated[Path | None, called("FILE")] = None


def main(argv: list[str]) -> int:
    """Runs `mobilevit compile` and returns its exit status: 1 if a step does not fit."""
    arguments = parse(Arguments, "compile", argv)
    from mobilevit_jax.analysis.chips import target_named

    target = target_named(arguments.target)
    # The machine's own devices are not asked for: a TPU may be at work. libtpu warns of the TPU
    # that is missing, which is as it should be.
    os.environ["JAX_PLATFORMS"] = "cpu"
    for level in ("TPU_MIN_LOG_LEVEL", "TPU_STDERR_LOG_LEVEL", "TF_CPP_MIN_LOG_LEVEL"):
        os.environ.setdefault(level, "3")
    done: list[Compiled] = []
    for one in _compiled(arguments.config, target):
        done.append(one)
        say(f"    {_verdict(one)}, compiled in {one.compile_seconds:.0f} s")
        if arguments.output:
            _write(arguments.output, target, arguments.config, done)
    _show(arguments.config, target, done)
    if all(one.fits for one in done):
        return ExitStatus.DONE
    say(_advice(arguments.config))
    return ExitStatus.FAILED


def _compiled(experiment: Experiment, target: "Target") -> Iterator["Compiled"]:
    from mobilevit_jax.analysis.tpu_programs import compile_steps, topology_of

    with topology_of(target) as devices:
        say(f"{target.name}: {len(devices)} devices of {target.chip.memory / 2**30:.0f} GiB")
        task = _task(experiment)
        check_settings(experiment, task)
        yield from compile_steps(experiment, task, target.chip, say)


def _task(experiment: Experiment) -> "DataTask":
    """Returns the experiment's task, of its data set if that is here."""
    from mobilevit_jax.data.sources import dataset_info
    from mobilevit_jax.tasks import create_task

    if is_drawn(experiment):
        return build_task(experiment)
    try:
        dataset_info(experiment.data.dataset, experiment.data.data_dir)
    except ConfigurationError as error:
        info = _described(experiment, error)
        say(f"{info.name} is not prepared here: {len(info.class_names)} classes are taken for it")
        return create_task(experiment, info)
    return create_task(experiment)


def _described(experiment: Experiment, missing: ConfigurationError) -> "DatasetInfo":
    from mobilevit_jax.analysis.tpu_programs import described
    from mobilevit_jax.models.registry import head_named

    name = experiment.data.dataset.partition("/")[0]
    classes, examples = _KNOWN.get(name, (None, _EXAMPLES))
    if experiment.model.num_classes is not None:
        head = head_named(experiment.model.name)
        # Segmentation models and some detectors count a background that data sets do not.
        background = 1 if head.task == "segmentation" else head.first_named
        classes = experiment.model.num_classes - background
    if classes is None:
        raise ConfigurationError(
            f"{missing}; or tell how many classes it has with --model.num-classes"
        )
    return described(experiment, [f"class {index}" for index in range(classes)], examples)


def _verdict(one: "Compiled") -> str:
    return "fits" if one.fits else "does not fit"


def _advice(experiment: Experiment) -> str:
    parts = 2 * experiment.optimizer.accumulation
    options = [f"--optimizer.accumulation {parts}"]
    if not experiment.model.remat:
        options.insert(0, "--model.remat")
    return f"what does not fit may with {' or '.join(options)}, or on more chips"


def _show(experiment: Experiment, target: "Target", done: list["Compiled"]) -> None:
    limit = target.chip.memory
    print_table(
        ["step", "batch", "compile, s", "memory, GiB", "fits", "TFLOP", "GB moved", "ms at least"],
        [
            [
                f"{one.step} {one.size}",
                one.batch,
                f"{one.lower_seconds + one.compile_seconds:.0f}",
                "-" if one.memory is None else f"{one.memory / 2**30:.2f}",
                "yes" if one.fits else "NO",
                "-" if one.operations is None else f"{one.operations / 1e12:.2f}",
                "-" if one.accessed is None else f"{one.accessed / 1e9:.1f}",
                "-" if one.bound_seconds is None else f"{1e3 * one.bound_seconds:.1f}",
            ]
            for one in done
        ],
        title=f"{experiment.name} on {target.name}: a device has {limit / 2**30:.0f} GiB",
    )
    say(
        "of one device, by the compiler; ms at least: arithmetic and bytes over the chip's peaks "
        f"({target.chip.operations_per_second / 1e12:.0f} TFLOP/s in bfloat16, "
        f"{target.chip.bytes_per_second / 1e9:.0f} GB/s), not measured"
    )


def _write(path: Path, target: "Target", experiment: Experiment, done: list["Compiled"]) -> None:
    from mobilevit_jax.base.atomic import write_json
    from mobilevit_jax.training.workdir import versions

    path.parent.mkdir(parents=True, exist_ok=True)
    chip = dataclasses.asdict(target.chip)
    chip.pop("shapes")
    steps = [dataclasses.asdict(one) for one in done]
    about = {"experiment": experiment.name, "target": target.name, "topology": target.topology}
    write_json(path, {**about, "chip": chip, "versions": versions(), "steps": steps})
