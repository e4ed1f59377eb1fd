import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.analysis.plots import learning_curves, predictions, shorten

TRAIN = {"step": 10, "epoch": 1, "split": "train", "loss": 2.0, "top1": 0.2, "learning_rate": 1e-3}
VALIDATION = {"step": 10, "epoch": 1, "split": "validation", "loss": 2.1, "top1": 0.25}
TEST = {"step": 20, "epoch": 2, "split": "test", "loss": 1.9, "top1": 0.3}
ANSWER = [("golden retriever", 0.9), ("jay", 0.06), ("tench", 0.02), ("cab", 0.01), ("bee", 0.01)]


def picture(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.convert("RGB")


def has_colour(image: Image.Image, colour: str) -> bool:
    wanted = tuple(bytes.fromhex(colour.removeprefix("#")))
    return bool((np.asarray(image) == wanted).all(-1).any())


def test_learning_curves_of_a_whole_run(tmp_path):
    rows = []
    for epoch in range(1, 31):
        for split, base in (("train", 0.0), ("validation", 0.1)):
            numbers = {"loss": base + 2 / epoch, "top1": 1 - base - 0.9 / epoch}
            rows.append({"step": 10 * epoch, "epoch": epoch, "split": split, **numbers})
            if split == "train":
                rows[-1]["learning_rate"] = 1e-3 / epoch
    learning_curves([*rows, {**TEST, "step": 300, "epoch": 30}], tmp_path / "a" / "curves.png")
    image = picture(tmp_path / "a" / "curves.png")
    assert image.size == (1704, 444)
    for colour in ("#0072B2", "#D55E00", "#009E73"):
        assert has_colour(image, colour)
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["curves.png"]


@pytest.mark.parametrize(
    ("rows", "width"),
    [
        ([TRAIN], 1704),
        ([TRAIN, VALIDATION, {**TRAIN, "step": 20, "epoch": 2}, TEST], 1704),
        ([VALIDATION, TEST], 1152),
        ([{**TRAIN, "loss": None}], 1152),
        ([{**TRAIN, "learning_rate": 0.0, "top1": 0.0}], 1704),
        ([{"step": 1, "epoch": 1, "split": "train", "loss": 1e30}], 600),
    ],
    ids=["one row", "all splits", "no training", "nan loss", "zeros", "loss alone"],
)
def test_learning_curves_of_odd_runs(tmp_path, rows, width):
    learning_curves(rows, tmp_path / "curves.png", title=r"École $\frac$ 日本")
    assert picture(tmp_path / "curves.png").size == (width, 444)


@pytest.mark.parametrize("rows", [[], [{"step": 1, "epoch": 1, "split": "train", "loss": None}]])
def test_nothing_to_draw_is_an_error(tmp_path, rows):
    with pytest.raises(ValueError, match="nothing to draw"):
        learning_curves(rows, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def solid(height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8), (height, width, 3)).copy()


@pytest.mark.parametrize(
    ("count", "size"), [(1, (744, 300)), (2, (1488, 300)), (3, (1488, 600)), (4, (1488, 600))]
)
def test_predictions(tmp_path, count, size):
    images = [solid(64, 64, (200, 40 + i, 20)) for i in range(count)]
    predictions(images, [ANSWER] * count, tmp_path / "top5.png", titles=["photo.jpg"] * count)
    image = picture(tmp_path / "top5.png")
    assert image.size == size
    for i in range(count):  # channels are not swapped
        assert has_colour(image, bytes((200, 40 + i, 20)).hex())


def test_predictions_of_odd_shapes_and_names(tmp_path):
    names = ["école", "日本", "$x_2$ \\frac{", "a, " * 60, ""]
    answer = [(name, 0.2) for name in names]
    images = [solid(*shape, (1, 2, 3)) for shape in ((1, 1), (1, 1000), (1000, 1), (7, 9))]
    answers = [answer, answer[:1], answer[:3], [("sure", 1.0)]]
    titles = ["$a_", "x/" * 80, "日", ""]
    predictions(images, answers, tmp_path / "top5.png", titles=titles)
    assert picture(tmp_path / "top5.png").size == (1488, 600)


def test_predictions_of_mismatched_lengths(tmp_path):
    image = solid(8, 8, (0, 0, 0))
    for images, answers in (([], []), ([image], []), ([image], [ANSWER, ANSWER])):
        with pytest.raises(ValueError, match="as many of each"):
            predictions(images, answers, tmp_path / "top5.png")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_an_os_error_that_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        learning_curves([TRAIN], tmp_path / "file" / "curves.png")
    (tmp_path / "curves.png").mkdir()
    with pytest.raises(IsADirectoryError):
        learning_curves([TRAIN], tmp_path / "curves.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "file"]


def test_shorten():
    assert shorten("jay", 5) == "jay"
    assert shorten("submarine, U-boat", 12) == "submarine…"
    assert max(len(shorten("x" * n, 5)) for n in range(10)) == 5


def test_pyplot_and_its_global_state_are_left_alone(tmp_path):
    code = (
        "import sys; from mobilevit_jax.analysis.plots import learning_curves;"
        "rows = [dict(step=1, epoch=1, split='train', loss=1.0)];"
        "learning_curves(rows, sys.argv[1]); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "curves.png")], check=True)
