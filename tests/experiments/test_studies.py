"""The studies: their resolved configurations, the paper's numbers, a start of every row."""

import json
import pathlib
from dataclasses import replace

import pytest

from mobilevit_jax.analysis.counts import stages
from mobilevit_jax.cli.main import main
from mobilevit_jax.config import differences, from_dict, to_dict
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sampler import check_devices, scale_table, steps_in_epoch
from mobilevit_jax.models.config import ModelConfig
from mobilevit_jax.study import Study, check_different, load_study, shrink_study, varied
from mobilevit_jax.training.metrics_log import read_metrics
from tests.small import build_small_net

EXPERIMENTS = pathlib.Path(__file__).parents[2] / "experiments"
ROOT = EXPERIMENTS / "ablations"
GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "experiments" / "ablations"
FOUND = [path for path in EXPERIMENTS.rglob("*.py") if "def study(" in path.read_text()]
PATHS = {path.stem: path for path in FOUND}
assert len(PATHS) == len(FOUND), "two studies of one name"
FILES = sorted(PATHS)
PAPERS = [name for name in FILES if "cifar10" not in name]
# Those of MobileViT-S, which share its recipe.
RECIPES = [name for name in PAPERS if name not in ("sampler_networks", "mobilevitv2")]

# Study -> {table: {line: the paper's numbers}}, as the paper has them.
NUMBERS = {
    "weight_decay": {
        "weight decay": {"0.1": [76.5], "0.01": [78.4], "0.001": [77.6], "0.0001": [77.4]}
    },
    "skip_connection": {"skip connection": {"with": [78.4], "without": [77.9]}},
    "patch_size": {
        "patch sizes": {
            "2, 2, 2": [78.4, 9.85],
            "3, 3, 3": [78.5, 14.69],
            "4, 4, 4": [77.6, 8.23],
            "8, 4, 2": [77.3, 8.20],
        }
    },
    "kernel_size": {
        "kernel and patch size": {
            "n = 3, h = w = 2: sees all": [78.4],
            "n = 3, h = w = 3: sees all": [78.5],
            "n = 3, h = w = 4: holes": [77.6],
            "n = 5, h = w = 4: sees all": [None],
            "n = 1, h = w = 2: holes": [None],
        }
    },
    "label_smoothing_ema": {
        "label smoothing and EMA": {"none": [78.0], "LS": [78.3], "LS + EMA": [78.4]}
    },
    "sampler": {
        "samplers: cost": {"standard": [375_000, 380], "multi-scale": [232_000, 270]},
        "samplers: accuracy": {"standard": [None] * 7, "multi-scale": [78.4] + [None] * 6},
    },
    "sampler_networks": {
        "samplers: other networks": {
            "ResNet-50, standard": [77.1, 187_000, 360],
            "ResNet-50, multi-scale": [78.6, 116_000, 267],
            "MobileNetv2, standard": [72.1, 375_000, 260],
            "MobileNetv2, multi-scale": [73.3, 232_000, 223],
        }
    },
    "mobilevitv2": {
        "MobileViTv2 by width": {
            "width 0.5": [70.18],
            "width 0.75": [75.56],
            "width 1": [78.09],
            "width 1.25": [79.65],
            "width 1.5": [80.38],
            "width 1.75": [80.84],
            "width 2": [81.17],
        }
    },
}
SOURCES = {"sampler_networks": "Table 5", "mobilevitv2": "model zoo of CVNets v0.2"}


def read(name):
    return load_study(PATHS[name])


@pytest.mark.parametrize("name", FILES)
def test_resolved_configuration_is_the_committed_one(name):
    # To accept a change: python -m tests.experiments.test_studies
    resolved = to_dict(read(name))
    assert resolved == json.loads((GOLDEN / f"{name}.json").read_text())


def test_no_golden_is_left_over():
    assert sorted(path.stem for path in GOLDEN.iterdir()) == FILES


@pytest.mark.parametrize("name", PAPERS)
def test_the_papers_numbers(name):
    study = read(name)
    assert study.name == name
    found = {}
    for table in study.tables:
        percent = [100 if metric.startswith("top1") else 1 for metric in table.metrics]
        found[table.title] = {
            line.label: [
                None if value is None else pytest.approx(value * factor)
                for value, factor in zip(line.paper, percent, strict=True)
            ]
            for line in table.lines
        }
    assert found == NUMBERS[name]


@pytest.mark.parametrize("small", ["cifar10", "sampler_networks_cifar10"])
def test_the_small_form_has_the_same_numbers(small):
    papers = {table.title: table for name in PAPERS for table in read(name).tables}
    for table in read(small).tables:
        theirs = {line.label: line.paper for line in papers[table.title].lines}
        for line in table.lines:
            assert line.paper[:1] == theirs[line.label][:1]
            assert [n for n in line.paper if n] == [n for n in theirs[line.label] if n][
                : len([n for n in line.paper if n])
            ]


@pytest.mark.parametrize("name", FILES)
def test_the_docstring_has_claim_command_and_time(name):
    text = " ".join(PATHS[name].read_text().split('"""')[1].split())
    path = PATHS[name].relative_to(EXPERIMENTS.parent)
    assert "Claim:" in text and f"mobilevit sweep {path}" in text
    if name in PAPERS:
        assert "TPU v3-8" in text and "8 GPUs" in text
        source = SOURCES.get(name, "Figure 5b")
        assert "hours" in text and source in text and "Not run" in text
        for numbers in NUMBERS[name].values():
            for label, values in numbers.items():
                if label.startswith("n ="):
                    continue
                # Of Table 5 the runs' seconds are in the text, not the epochs'.
                for value in filter(None, values if name != "sampler_networks" else values[:2]):
                    shown = f"{value / 1000:g} thousand" if value > 1e5 else f"{value:g}"
                    assert shown in text or f"{value:.2f}" in text or f"{value:.1f}%" in text


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("weight_decay", ["optimizer.weight_decay"]),
        ("skip_connection", ["model.fusion"]),
        ("patch_size", ["model.patch_sizes"]),
        ("kernel_size", ["model.kernel_size", "model.patch_sizes"]),
        ("label_smoothing_ema", ["loss.label_smoothing"]),
        ("sampler", ["sampler.sizes"]),
        ("sampler_networks_cifar10", ["sampler.sizes"]),
        (
            "mobilevitv2",
            ["model.name", "optimizer.weight_decay", "schedule.end", "schedule.peak"],
        ),
    ],
)
def test_rows_differ_in_nothing_else(name, fields):
    assert varied(read(name)) == fields


def test_the_recipe_is_the_same_run_everywhere_and_that_of_imagenet():
    from mobilevit_jax.config import load_experiment

    recipes = [to_dict(read(name).row("recipe").experiment) for name in RECIPES]
    assert all(recipe == recipes[0] for recipe in recipes)
    imagenet = load_experiment(ROOT.parent / "imagenet" / "mobilevit_s.py")
    assert differences(to_dict(imagenet), recipes[0]) == [
        "evaluation.raw_weights: False -> True",
        "name: 'imagenet_mobilevit_s' -> 'recipe'",
    ]
    shared = {}
    for name in RECIPES:
        for row in read(name).rows:
            assert shared.setdefault(row.name, row.experiment) == row.experiment


def test_the_updates_that_the_docstring_of_the_samplers_states():
    counts = []
    for row in read("sampler").rows:
        table = scale_table(row.experiment.sampler)
        counts.append(sum(steps_in_epoch(0, epoch, 1_281_167, table) for epoch in range(300)))
    assert [round(count / 1000) for count in counts] == [376, 257]


def test_the_recipes_of_other_networks_are_those_of_cvnets():
    """Its own function gives these sizes and batches of a device for base 224 and 128 images."""
    rows = {row.name: row.experiment for row in read("sampler_networks").rows}
    counts = {}
    for name, experiment in rows.items():
        table, epochs = scale_table(experiment.sampler), experiment.epochs
        several = [(128, 392), (160, 248), (192, 176), (224, 128), (256, 128)]
        expected = several if "multi" in name else [(224, 128)]
        assert [(scale.height, scale.batch_size // 8) for scale in table] == expected
        counts[name] = sum(steps_in_epoch(0, epoch, 1_281_167, table) for epoch in range(epochs))
        schedule, optimizer = experiment.schedule, experiment.optimizer
        assert (schedule.start, schedule.peak, schedule.end) == (0.05, 0.4, 2e-4)
        assert (schedule.warmup_steps, schedule.cosine_by) == (7500, "epoch")
        assert (optimizer.name, optimizer.momentum) == ("sgd", 0.9)
        assert not optimizer.decay_one_dimensional
        mobile = name.startswith("mobilenetv2")
        assert (optimizer.weight_decay, optimizer.nesterov) == (4e-5 if mobile else 1e-4, mobile)
        model = experiment.model.build(1000, "devices")
        assert model.classifier_dropout == 0.2
        parameters = sum(stage.parameters for stage in stages(model, 32))
        assert parameters == (3_504_872 if mobile else 25_550_056)
    assert [round(count / 1000) for count in counts.values()] == [376, 224, 188, 112]


def test_the_recipe_of_mobilevitv2_is_that_of_cvnets():
    """Its mobilevit_v2.yaml, with rates and decays by width from its documentation."""
    rates = [0.009, 0.009, 0.0075, 0.0049, 0.0035, 0.0026, 0.002]
    decays = [0.004, 0.008, 0.013, 0.020, 0.029, 0.039, 0.05]
    rows = read("mobilevitv2").rows
    assert [row.name[-3:] for row in rows] == ["050", "075", "100", "125", "150", "175", "200"]
    for row, rate, decay in zip(rows, rates, decays, strict=True):
        experiment, augment = row.experiment, row.experiment.augment
        assert experiment.model.name == row.name
        assert [tuple(scale) for scale in scale_table(experiment.sampler)] == [(256, 256, 1024)]
        optimizer, schedule = experiment.optimizer, experiment.schedule
        assert (optimizer.name, optimizer.weight_decay) == ("adamw", decay)
        assert (optimizer.clip_norm, optimizer.decay_one_dimensional) == (10, False)
        assert (schedule.start, schedule.peak, schedule.end) == (1e-6, rate, rate / 10)
        assert (schedule.warmup_steps, schedule.cosine_by) == (20_000, "epoch")
        assert (experiment.epochs, experiment.ema.decay) == (300, 0.9995)
        assert experiment.loss.label_smoothing == 0.1
        assert (augment.interpolation, augment.crop_scale) == ("bicubic", (0.08, 1.0))
        assert (augment.rand_augment, augment.rand_augment_magnitude) == (2, 9)
        assert (augment.erase_probability, augment.erase_scale) == (0.25, (0.02, 0.33))
        assert augment.erase_ratio == (0.3, 3.3)
        assert (augment.mixup_alpha, augment.mixup_probability) == (0.2, 0.5)
        assert (augment.cutmix_alpha, augment.cutmix_probability) == (1.0, 0.5)
        processor = experiment.processor
        assert (processor.size, processor.crop_size) == (288, (256, 256))
        assert (processor.channel_order, processor.resample) == ("rgb", "pillow_bicubic")


def test_only_the_samplers_of_a_network_differ():
    rows = {row.name: row.experiment for row in read("sampler_networks").rows}
    for network in ("mobilenetv2", "resnet50"):
        both = [
            to_dict(replace(rows[f"{network}_{sampler}"], name=""))
            for sampler in ("standard", "multi_scale")
        ]
        changed = [text.split(":")[0] for text in differences(both[0], both[1])]
        assert sorted(changed) == ["sampler.max_size", "sampler.min_size", "sampler.sizes"]


@pytest.mark.parametrize("name", FILES)
def test_survives_json_and_shrinks(name):
    study = read(name)
    assert from_dict(Study, json.loads(json.dumps(to_dict(study)))) == study
    check_different(study.rows)
    tiny = shrink_study(study)
    check_different(tiny.rows)
    for row, small in zip(study.rows, tiny.rows, strict=True):
        assert small.experiment.name == f"{row.name}-tiny"
        for devices in (1, 2, 4, 8):
            check_devices(scale_table(row.experiment.sampler), devices)
        assert len(small.sizes) == len(row.sizes) and all(size <= 80 for size in small.sizes)
    for table in tiny.tables:
        for metric in table.metrics:
            size = metric.partition("@")[2]
            assert not size or any(int(size) in row.sizes for row in tiny.rows)


def test_every_row_has_a_model():
    built = {row.experiment.model for name in FILES for row in read(name).rows}
    assert all(model.build(10, "devices") for model in built)
    # Other tests run all the others, and published weights hold the results against PyTorch's.
    for kernel in (1, 5):
        (config,) = [model for model in built if model.kernel_size == kernel]
        found = stages(config.build(1000, "devices"), 64)
        text = (ROOT / "kernel_size.py").read_text()
        assert f"{sum(part.parameters for part in found):,} with n = {kernel}" in text


@pytest.mark.slow
@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("name", FILES)
def test_a_row_of_the_tiny_form_runs(name, tmp_path, monkeypatch):
    """One that is not the recipe, with blocks of the network if it is about one."""
    fields = varied(read(name))
    if "networks" not in name and not any(field.startswith("model.") for field in fields):
        monkeypatch.setattr(ModelConfig, "build", build_small_net)
    prepare("shapes/tiny", data_dir=tmp_path)
    row = next(row.name for row in read(name).rows if row.name != "recipe")
    # Each size is compiled; one row has but one.
    sizes = [] if name.startswith("sampler") else ["--sampler.sizes", "32"]
    options = [
        *sizes,
        "--row",
        row,
        "--data.data-dir",
        str(tmp_path),
        "--workdir",
        str(tmp_path / "run"),
    ]
    assert main(["train", str(PATHS[name]), "--tiny", *options]) == 0
    rows = read_metrics(tmp_path / "run")
    assert [row["split"] for row in rows if row["split"] != "train"] == ["validation", "test"]
    assert ("raw_top1" in rows[-1]) == (name != "mobilevitv2")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for study in FILES:
        text = json.dumps(to_dict(read(study)), indent=1)
        (GOLDEN / f"{study}.json").write_text(text + "\n")
