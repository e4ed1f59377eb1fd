"""Trains as one of several processes, or alone, what it is told to in JSON.

    python -m tests.training.one_of_several TASKS RESULT

TASKS holds "place" ([address, processes, process] or null), "data_dir", "runs" (each
{"directory", "stop_at"}: a run of `experiment`, to its end or until this process gets a signal),
and for the last two things "detect" and "disagree" (true or false). What came of it is written to
the file RESULT.
"""

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mobilevit_jax.cli.commands import train
from mobilevit_jax.config import Experiment
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.tasks.classification import ClassificationTask
from mobilevit_jax.training import loop, parallel, workdir
from mobilevit_jax.training.multihost import hosts
from tests.small import SmallNet, build_small_net, tiny_experiment

STEPS = 12


def experiment(data_dir: Path, **options: Any) -> Experiment:
    """Three epochs of four steps without dropout, batch norm over all devices."""
    model = ModelConfig("mobilevit_xxs", sync_batch_norm=True)
    return tiny_experiment(data_dir, epochs=3, log_every=1, model=model, **options)


def build_without_dropout(config: ModelConfig, num_classes: int, bn_axis_name: str) -> SmallNet:
    """Takes the place of `ModelConfig.build`."""
    return build_small_net(config, num_classes, bn_axis_name).clone(dropout=0.0)


def run(experiment: Experiment, directory: Path, stop_at: int | None = None) -> dict[str, Any]:
    """Trains; returns the losses of the steps and how it ended."""
    from tests.training.test_loop import Reporter  # sets no devices, unlike its conftest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelConfig, "build", build_without_dropout)
        task = ClassificationTask(experiment)
        if parallel.is_first_host():
            workdir.open_workdir(directory, experiment, task.class_names, task.examples)
        reporter = Reporter(stop_at)
        outcome = loop.train(experiment, task, directory, reporter)
    return {
        "finished": outcome.finished,
        "losses": [loss for loss in reporter.losses if loss is not None],
        "said": reporter.said,
        "rows": reporter.rows,
    }


def detect(place: Path) -> dict[str, float]:
    """Evaluates a detector of known answers, and writes them to a file."""
    from tests.tasks.detection import test_evaluation as scenes
    from tests.tasks.detection.stand_ins import MemorySplit

    rng = np.random.default_rng(0)
    sizes, objects = scenes.random_scene(rng, 21)
    split = MemorySplit(sizes, objects, category_ids=scenes.NUMBERS)
    answers = scenes.noisy_answers(rng, sizes, objects)
    return scenes.evaluate(split, answers, 8, results=place)


def main(tasks: dict[str, Any], result: Path) -> None:
    """Does the tasks."""
    alone = contextlib.nullcontext()
    with hosts.joined(hosts.Place(*tasks["place"])) if tasks["place"] else alone:
        own = experiment(Path(tasks["data_dir"]))
        found: dict[str, Any] = {
            "runs": [run(own, Path(one["directory"]), one["stop_at"]) for one in tasks["runs"]]
        }
        if tasks.get("detect"):
            found["detected"] = detect(result.with_suffix(".detections"))
        result.write_text(json.dumps(found))
        if tasks.get("disagree"):
            index = tasks["place"][2]
            other = experiment(Path(tasks["data_dir"]), seed=index)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(ModelConfig, "build", build_without_dropout)
                train.run(other, result.with_suffix(".run"))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), Path(sys.argv[2]))
