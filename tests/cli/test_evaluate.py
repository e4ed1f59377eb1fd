"""`mobilevit evaluate`: exact counts, the table, the JSON file, and data that do not fit."""

import json
from pathlib import Path

import pytest

from mobilevit_jax.data.sources import dataset_info
from mobilevit_jax.models.registry import with_options
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained
from tests.small import random_variables, tiny_model


def table_row(out: str) -> list[str]:
    """Returns the cells of a table with one row."""
    lines = [line for line in out.splitlines() if line.strip()]
    return lines[-1].split()


def test_the_training_s_own_test_split(trained, mobilevit):
    path = trained.directory / "evaluation-shapes_tiny-test-32.json"
    ran = mobilevit("evaluate", "--weights", trained.directory)
    try:
        assert ran.status == 0
        result = json.loads(path.read_text())
    finally:
        path.unlink(missing_ok=True)  # other tests compare the directory
    assert ran.err == f"written to {path}\n"
    assert ran.out.startswith("mobilevit_xxs, EMA weights of step 1\n")
    test = json.loads((trained.directory / "metrics.jsonl").read_text().splitlines()[-1])
    assert test["split"] == "test"
    for name in ("loss", "top1", "top5"):
        assert result[name] == pytest.approx(test[name], rel=1e-5)
    assert (result["count"], result["skipped"], result["size"]) == (32, 0, 32)
    assert table_row(ran.out)[:4] == ["shapes/tiny", "test", "32", "32"]
    assert table_row(ran.out)[-2:] == [f"{test['top1']:.2%}", f"{test['top5']:.2%}"]


@pytest.mark.parametrize("batch", [3, 8, 200])
def test_counts_are_exact_for_any_batch_and_number_of_images(trained, mobilevit, batch, tmp_path):
    """Seven images and four devices: padding is never counted."""
    output = tmp_path / "new" / "result.json"
    ran = mobilevit(
        *("evaluate", "--weights", trained.directory, "--split", "test[:7]"),
        *("--batch-size", batch, "--output", output),
    )
    assert ran.status == 0
    result = json.loads(output.read_text())
    assert result["count"] == 7
    assert result["top1"] * 7 == pytest.approx(round(result["top1"] * 7))
    parts = []
    for split, images in (("test[:3]", 3), ("test[3:7]", 4)):
        mobilevit(
            *("evaluate", "--weights", trained.directory, "--split", split),
            *("--batch-size", batch, "--output", output),
        )
        part = json.loads(output.read_text())
        assert part["count"] == images
        parts.append(images * part["loss"])
    assert sum(parts) / 7 == pytest.approx(result["loss"], rel=1e-5)


def test_another_size(trained, mobilevit, tmp_path):
    losses = []
    for size in (32, 40):
        output = tmp_path / f"{size}.json"
        ran = mobilevit(
            *("evaluate", "--weights", trained.directory, "--split", "test[:4]"),
            *("--size", size, "--output", output),
        )
        assert ran.status == 0
        assert table_row(ran.out)[2] == str(size)
        result = json.loads(output.read_text())
        assert result["size"] == size
        losses.append(result["loss"])
    assert losses[0] != losses[1]


def test_the_raw_weights_are_others_than_the_average(trained, mobilevit, tmp_path):
    results = []
    for option in ([], ["--raw"]):
        output = tmp_path / "result.json"
        ran = mobilevit(
            *("evaluate", "--weights", trained.directory, "--split", "test[:4]"),
            *("--output", output, *option),
        )
        assert ran.status == 0
        results.append(json.loads(output.read_text()))
    assert [r["weights"] for r in results] == ["EMA weights of step 1", "raw weights of step 1"]
    assert results[0]["loss"] != results[1]["loss"]


def test_a_data_set_with_other_classes(trained, broken, mobilevit, tmp_path):
    output = tmp_path / "result.json"
    ran = mobilevit(
        "evaluate", "--weights", trained.directory, "--dataset", broken, "--output", output
    )
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == (
        "mobilevit: error: broken has 2 classes, the weights 8; name the data set that they were "
        "trained on\n"
    )
    assert not output.exists()


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--dataset", "shapes/tinny"], 2, "no data set 'shapes/tinny'"),
        (["--split", "tset"], 2, "unknown split of shapes/tiny 'tset' (did you mean 'test'?)"),
        (["--split", "test[:0]"], 2, "split 'test[:0]' of shapes/tiny selects no image"),
        (["--size", 0], 2, "at least 1 pixel, not 0"),
        (["--batch-size", 0], 2, "batch_size must be at least 1"),
        (["--checkpoint", "bset"], 2, "--checkpoint must be latest, best, average or a step"),
        (["--checkpoint", 7], 2, "has no checkpoint of step 7; it has 1"),
        (["--data-dir", "nowhere"], 2, "nothing is there"),
    ],
)
def test_options_that_do_not_fit(trained, mobilevit, options, status, message):
    ran = mobilevit("evaluate", "--weights", trained.directory, *options)
    assert ran.status == status
    assert message in ran.err and ran.err.count("\n") == 1
    assert not list(trained.directory.glob("evaluation-*"))


def test_weights_that_are_not_there(mobilevit, tmp_path):
    ran = mobilevit("evaluate", "--weights", tmp_path / "none")
    assert ran.status == 2 and f"there is nothing at {tmp_path / 'none'}" in ran.err
    ran = mobilevit("evaluate", "--weights", tmp_path)
    assert ran.status == 1 and "neither a work directory nor saved weights" in ran.err


def test_a_bad_record_is_named_or_skipped_and_counted(broken, mobilevit, train_tiny):
    """Training and evaluation alike; the bad images are cat/3.jpg of either split."""
    data = ["--data.dataset", broken, "--data.validation", "None"]
    batch = ["--sampler.batch-size", 4, "--sampler.base-size", 32]
    ran = train_tiny("stopped", [*data, *batch])
    assert ran.status == 1
    assert ran.err.splitlines()[-1].startswith("mobilevit: error: train/cat/3.jpg: ")
    assert "Traceback" not in ran.err

    ran = train_tiny("run", [*data, *batch, "--loader.skip-bad-images"])
    assert ran.status == 0
    assert "skipped 1 image that could not be decoded" in ran.err
    test = json.loads(Path("run/metrics.jsonl").read_text().splitlines()[-1])
    assert (test["split"], test["count"]) == ("test", 7)

    ran = mobilevit("evaluate", "--weights", "run")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("mobilevit: error: test/cat/3.jpg: ")
    ran = mobilevit("evaluate", "--weights", "run", "--skip-bad-images", "--output", "r.json")
    assert ran.status == 0
    assert "skipped 1 image that could not be decoded" in ran.err
    result = json.loads(Path("r.json").read_text())
    assert (result["count"], result["skipped"]) == (7, 1)


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """Saves a small classifier with class names in an order: `named(names, order)`."""
    model = tiny_model(8)
    variables = random_variables(model)

    def save(names, order=range(8), **options):
        turned = with_classes(variables, list(order))
        directory = tmp_path_factory.mktemp("named")
        processor = ImageProcessor(size=32, crop_size=(32, 32))
        chosen = with_options(model, **options)
        save_pretrained(
            directory, chosen, turned, processor, class_names=tuple(names), layout="native"
        )
        return directory

    return save


def with_classes(variables, order):
    params = dict(variables["params"])
    params["classifier"] = {n: v[..., order] for n, v in params["classifier"].items()}
    return {**variables, "params": params}


def evaluate(mobilevit, weights, *options):
    ran = mobilevit(
        *("evaluate", "--weights", weights, "--dataset", "shapes/tiny", "--output", "r.json"),
        *options,
    )
    return ran, json.loads(Path("r.json").read_text()) if ran.status == 0 else {}


@pytest.mark.slow
def test_classes_in_another_order_are_matched_by_name(named, mobilevit, test_images, data_dir):
    names = dataset_info("shapes/tiny", data_dir).class_names
    ran, expected = evaluate(mobilevit, named(names))
    assert ran.err == "written to r.json\n"
    order = [3, 0, 7, 1, 2, 6, 5, 4]
    turned = named([names[place] for place in order], order)
    ran, found = evaluate(mobilevit, turned, "--plots", "drawn.png")
    assert "both have the same classes, which are matched by their names" in ran.err
    for metric in ("loss", "top1", "top5"):
        assert found[metric] == pytest.approx(expected[metric], rel=1e-5)


def test_classes_that_are_the_same_in_part_are_refused(named, mobilevit, test_images, data_dir):
    names = list(dataset_info("shapes/tiny", data_dir).class_names)
    ran, _ = evaluate(mobilevit, named(["[bold]x", *names[1:]]))
    assert ran.status == 2 and "only the weights '[bold]x', and they share other" in ran.err
    ran, _ = evaluate(mobilevit, named([f"class {i}" for i in range(8)]))
    assert ran.status == 0 and "going on, as both have 8 classes" in ran.err


@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_weights_that_choose_no_class(named, mobilevit, test_images, data_dir, problem):
    names = dataset_info("shapes/tiny", data_dir).class_names
    ran, _ = evaluate(mobilevit, named(names, problem_type=problem))
    assert ran.status == 2 and f"the weights have problem_type='{problem}', and eval" in ran.err
