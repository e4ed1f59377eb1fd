"""`mobilevit predict`: what it prints, that it sees what evaluation sees, and odd images."""

import json
import math
import os
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.predictors import load_predictor
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.saving import save_pretrained
from tests.small import random_variables, tiny_model

ORIENTATION = 0x0112


@pytest.fixture
def predict(trained, mobilevit):
    """Predicts images and returns {file name: {class: probability}}."""

    def answers(*arguments: object) -> dict[str, dict[str, float]]:
        ran = mobilevit("predict", *arguments, "--weights", trained.directory, "--json")
        assert ran.status == 0, ran.err
        return {
            answer["image"].rpartition("/")[2]: {
                item["class"]: item["probability"] for item in answer["predictions"]
            }
            for answer in json.loads(ran.out)
        }

    return answers


def test_the_table_of_several_images(trained, mobilevit, test_images):
    ran = mobilevit("predict", *test_images[:2], "--weights", trained.directory, "--top", 3)
    assert (ran.status, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line for line in lines if line.startswith("/")] == [str(p) for p in test_images[:2]]
    percent = [float(line.split()[-1].rstrip("%")) for line in lines if line.endswith("%  ")]
    assert len(percent) == 6
    assert percent[:3] == sorted(percent[:3], reverse=True)


def test_json_alone_is_on_stdout(trained, mobilevit, test_images):
    ran = mobilevit("predict", test_images[0].parent, "--weights", trained.directory, "--json")
    answers = json.loads(ran.out)
    assert [answer["image"] for answer in answers] == [str(path) for path in test_images]
    record = json.loads((trained.directory / "experiment.json").read_text())
    for answer in answers:
        predictions = answer["predictions"]
        assert len(predictions) == 5
        assert all(record["class_names"][p["index"]] == p["class"] for p in predictions)
        probabilities = [p["probability"] for p in predictions]
        assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) < 1


def test_more_classes_than_there_are(predict, test_images):
    (answer,) = predict(test_images[0], "--top", 100).values()
    assert len(answer) == 8
    assert sum(answer.values()) == pytest.approx(1, abs=1e-5)


def test_it_sees_what_evaluation_sees(trained, predict, mobilevit, test_images, tmp_path):
    from mobilevit_jax.data.sources import open_split

    output = tmp_path / "result.json"
    mobilevit(
        *("evaluate", "--weights", trained.directory, "--split", "test[:6]"),
        *("--output", output),
    )
    evaluated = json.loads(output.read_text())
    names = json.loads((trained.directory / "experiment.json").read_text())["class_names"]
    records = open_split("shapes/tiny", "test[:6]").records(range(6))
    answers = predict(*test_images, "--top", 8)
    losses, hits, near = [], [], []
    for path, record in zip(test_images, records, strict=True):
        ranked = list(answers[path.name])
        right = names[record["label"]]
        losses.append(-math.log(answers[path.name][right]))
        hits.append(ranked.index(right) < 1)
        near.append(ranked.index(right) < 5)
    assert np.mean(losses) == pytest.approx(evaluated["loss"], abs=1e-4)
    assert np.mean(hits) == pytest.approx(evaluated["top1"])
    assert np.mean(near) == pytest.approx(evaluated["top5"])


def test_another_size(predict, test_images):
    plain = predict(test_images[0])
    assert predict(test_images[0], "--size", 32) == plain
    assert predict(test_images[0], "--size", 40) != plain


def test_a_picture(trained, mobilevit, test_images, tmp_path):
    path = tmp_path / "new" / "shown.png"
    ran = mobilevit("predict", *test_images, "--weights", trained.directory, "--plot", path)
    assert ran.status == 0 and ran.err == f"drawn into {path}\n"
    picture = cv2.imread(str(path))
    assert picture is not None and picture.std() > 10


def test_a_name_that_is_no_text(trained, mobilevit, test_images, tmp_path):
    """Bytes that are no UTF-8, in the table, in JSON and in the picture."""
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.jpg")
    shutil.copy(test_images[0], path)
    ran = mobilevit("predict", path, "--weights", trained.directory, "--plot", tmp_path / "a.png")
    assert ran.status == 0 and r"\udcff.jpg" in ran.out
    ran = mobilevit("predict", path, "--weights", trained.directory, "--json")
    assert ran.status == 0 and json.loads(ran.out)[0]["image"] == path
    ran.out.encode()


def test_missing_images(trained, mobilevit, predict, test_images):
    options = ["--weights", trained.directory]
    ran = mobilevit("predict", "gone.jpg", test_images[0], *options)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err == "mobilevit: error: no file or folder gone.jpg\n"
    ran = mobilevit("predict", "gone.jpg", test_images[0], *options, "--skip-bad-images")
    assert ran.status == 0
    assert ran.err == "skipped 1 image that could not be read: gone.jpg\n"
    assert str(test_images[0]) in ran.out


@pytest.mark.parametrize("kind", ["cut", "empty", "text"])
def test_bad_images(trained, mobilevit, test_images, tmp_path, kind):
    good = test_images[0].read_bytes()
    data = {"cut": good[: len(good) // 2], "empty": b"", "text": b"not an image"}[kind]
    (tmp_path / "bad.jpg").write_bytes(data)
    (tmp_path / "good.png").write_bytes(good)
    options = ["--weights", trained.directory]
    ran = mobilevit("predict", tmp_path, *options)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"mobilevit: error: {tmp_path / 'bad.jpg'}: ")
    assert ran.err.count("\n") == 1
    ran = mobilevit("predict", tmp_path, *options, "--json", "--skip-bad-images")
    assert ran.status == 0
    assert [answer["image"] for answer in json.loads(ran.out)] == [str(tmp_path / "good.png")]
    assert ran.err == f"skipped 1 image that could not be read: {tmp_path / 'bad.jpg'}\n"
    ran = mobilevit(
        "predict", tmp_path / "bad.jpg", *options, "--skip-bad-images", "--plot", "no.png"
    )
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.endswith("mobilevit: error: no image is left to predict\n")
    assert not (tmp_path / "no.png").exists()


def test_what_is_in_a_folder(trained, mobilevit, test_images, tmp_path):
    with Image.open(test_images[0]) as image:
        for name in ("a.tif", "b.GIF", "c.bmp", "d.jfif", "site/e.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            image.save(tmp_path / name)
    for name in ("Thumbs.db", "notes.txt", "photo.heic", ".hidden.png"):
        (tmp_path / name).write_text("no image")
    ran = mobilevit("predict", tmp_path, "--weights", trained.directory, "--json")
    assert ran.status == 0
    names = [answer["image"] for answer in json.loads(ran.out)]
    expected = ("a.tif", "b.GIF", "c.bmp", "d.jfif", "site/e.png")
    assert names == [str(tmp_path / name) for name in expected]
    assert ran.err == (
        f"left out 4 files in {tmp_path} not named like an image: "
        "Thumbs.db, notes.txt, photo.heic, ...\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name at least one image or folder"),
        (["empty"], "no image in empty; looked for .jpg, .jpeg, "),
        (["image.png", "--top", 0], "--top must be at least 1; got 0"),
        (["image.png", "--size", 0], "at least 1 pixel, not 0"),
        (["image.png", "--checkpoint", "lates"], "--checkpoint must be latest"),
    ],
)
def test_arguments_that_do_not_fit(trained, mobilevit, test_images, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "image.png").write_bytes(test_images[0].read_bytes())
    ran = mobilevit("predict", *arguments, "--weights", trained.directory)
    assert (ran.status, ran.out) == (2, "")
    assert message in ran.err and ran.err.count("\n") == 1


def test_weights_are_asked_for(mobilevit):
    ran = mobilevit("predict", "image.png")
    assert ran.status == 2 and "--weights" in ran.err


SCORES = np.array([1.5, -0.25, 0.0, 3.0], np.float32)
NAMES = ("$x$", "[bold]b", "c[/d]", "e|f")
MEANINGS = {
    "single_label_classification": np.exp(SCORES) / np.exp(SCORES).sum(),
    "multi_label_classification": 1 / (1 + np.exp(-SCORES)),
    "regression": SCORES,
}


@pytest.mark.slow
@pytest.mark.parametrize("problem", MEANINGS)
def test_numbers_mean_what_the_weights_say(mobilevit, test_images, tmp_path, problem):
    """From the file through every kind of answer; class names of any characters."""
    variables = random_variables(model := tiny_model(4, problem_type=problem))
    classifier = variables["params"]["classifier"]
    classifier["kernel"], classifier["bias"] = classifier["kernel"] * 0, SCORES
    save_pretrained(
        *(tmp_path / "w", model, variables, ImageProcessor(size=32, crop_size=(32, 32))),
        **{"class_names": NAMES, "layout": "native"},
    )
    options = ("--weights", tmp_path / "w")
    order = np.argsort(-SCORES)
    expected = MEANINGS[problem]

    ran = mobilevit("predict", test_images[0], *options, "--json", "--plot", tmp_path / "p.png")
    assert ran.status == 0, ran.err
    kind = "value" if problem == "regression" else "probability"
    found = json.loads(ran.out)[0]["predictions"]
    assert [item["class"] for item in found] == [NAMES[place] for place in order]
    np.testing.assert_allclose([item[kind] for item in found], expected[order], rtol=1e-5)
    assert np.std(np.asarray(Image.open(tmp_path / "p.png").convert("L"))) > 10

    lines = mobilevit("predict", test_images[0], *options).out.splitlines()
    for place in range(4):
        number = float(expected[place])
        shown = f"{number:.4g}" if problem == "regression" else f"{number:.1%}"
        (line,) = [line for line in lines if NAMES[place] in line]
        assert line.split()[-1] == shown

    answers = load_predictor(tmp_path / "w")(test_images[0])
    np.testing.assert_allclose([getattr(a, kind) for a in answers], expected[order], rtol=1e-5)
    if problem != "single_label_classification":
        for destination in ("w.safetensors", "timm"):
            ran = mobilevit("convert", tmp_path / "w", tmp_path / destination, "--layout", "timm")
            assert ran.status == 2 and f"problem_type='{problem}'" in ran.err


class TestOddImages:
    """Each is written in an odd way and in the plain way, and both must be the same to the model.

    The model scores colours, so that channels in another order, a picture that lies on its side or
    a wrong range would all show.
    """

    @pytest.fixture
    def rgb(self):
        y, x = np.mgrid[0:40, 0:60] / 60
        picture = np.stack([np.sin(5 * x), np.cos(6 * y), x * y], -1) * 100 + 110
        picture[:12, :20] = (250, 20, 10)
        return picture.astype(np.uint8)

    def assert_same(self, predict, tmp_path, odd: str, plain: np.ndarray, tolerance=1e-6):
        Image.fromarray(plain).save(tmp_path / "plain.png")
        answers = predict(tmp_path / odd, tmp_path / "plain.png", "--top", 8)
        assert answers[odd].keys() == answers["plain.png"].keys()
        for name, probability in answers[odd].items():
            assert probability == pytest.approx(answers["plain.png"][name], abs=tolerance)

    def test_alpha(self, predict, tmp_path, rgb):
        alpha = np.full((40, 60, 1), 255, np.uint8)
        alpha[20:] = 0
        Image.fromarray(np.concatenate([rgb, alpha], -1)).save(tmp_path / "odd.png")
        rgb[20:] = 255
        self.assert_same(predict, tmp_path, "odd.png", rgb)

    def test_grey(self, predict, tmp_path, rgb):
        Image.fromarray(rgb[:, :, 1]).save(tmp_path / "odd.png")
        self.assert_same(predict, tmp_path, "odd.png", np.repeat(rgb[:, :, 1:2], 3, 2))

    def test_sixteen_bits(self, predict, tmp_path, rgb):
        cv2.imwrite(str(tmp_path / "odd.png"), rgb[:, :, ::-1].astype(np.uint16) * 256 + 99)
        self.assert_same(predict, tmp_path, "odd.png", rgb)

    def test_cmyk(self, predict, tmp_path, rgb):
        Image.fromarray(rgb).convert("CMYK").save(tmp_path / "odd.jpg", quality=98)
        self.assert_same(predict, tmp_path, "odd.jpg", rgb, 0.003)

    def test_rotated_by_exif(self, predict, tmp_path, rgb):
        exif = Image.Exif()
        exif[ORIENTATION] = 6  # to be turned clockwise
        Image.fromarray(np.rot90(rgb).copy()).save(tmp_path / "odd.png", exif=exif)
        self.assert_same(predict, tmp_path, "odd.png", rgb)

    @pytest.mark.parametrize("shape", [(1, 1), (50, 1), (1, 1000), (1000, 1)])
    def test_one_pixel_wide(self, predict, tmp_path, shape):
        """One colour is the same picture at any size."""
        Image.fromarray(np.full((*shape, 3), (200, 90, 30), np.uint8)).save(tmp_path / "odd.png")
        plain = np.full((32, 32, 3), (200, 90, 30), np.uint8)
        self.assert_same(predict, tmp_path, "odd.png", plain)
