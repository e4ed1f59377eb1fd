import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.analysis.plots_detection import class_colour, draw_detections, grid, save_png
from mobilevit_jax.tasks.detection.predict import Detection

GREY = (128, 128, 128)


def canvas(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def where(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (image == colour).all(-1)


def test_a_box_is_drawn_on_its_edges():
    found = Detection((100, 120, 300, 400), 1, "cat", 0.875)
    image = canvas(600, 500)
    drawn = draw_detections(image, [found])
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == GREY).all()
    mine = where(drawn, class_colour(1))
    assert mine[120, 100:300].all() and mine[399, 100:300].all()
    assert mine[120:400, 100].all() and mine[120:400, 299].all()
    assert where(drawn, GREY)[130:390, 110:290].all()  # the name is above
    changed = ~where(drawn, GREY)
    assert not changed[401:].any() and not changed[:, 301:].any() and not changed[:, :100].any()
    assert changed[100:120, 100:150].any()


def test_nothing_to_draw():
    image = canvas(500, 490)
    np.testing.assert_array_equal(draw_detections(image, []), image)


@pytest.mark.parametrize(
    ("size", "scale"),
    [((32, 48), 10), ((64, 64), 8), ((480, 640), 1), ((2000, 1500), 1), ((30, 900), 4)],
)
def test_text_grows_with_the_image(size, scale):
    height, width = size
    box = (0.2 * width, 0.5 * height, 0.8 * width, height)
    drawn = draw_detections(canvas(*size), [Detection(box, 2, "a", 0.5)])
    assert drawn.shape[:2] == (scale * height, scale * width)
    mine = where(drawn, class_colour(2))
    above = np.flatnonzero(mine[: int(0.5 * scale * height)].any(1))
    least = max(13, np.sqrt(height * width) * scale / 32)
    assert least <= len(above) <= 1.5 * least + 4


@pytest.mark.parametrize("side", [100, 333, 1000])
def test_the_long_side_may_be_given(side):
    drawn = draw_detections(canvas(40, 80), [Detection((10, 10, 30, 30), 1, "a", 0.5)], side=side)
    assert drawn.shape == (round(side / 2), side, 3)


@pytest.mark.parametrize(
    "box",
    [
        (-50, -50, 900, 900),
        (0, 0, 0, 0),
        (499, 499, 500, 500),
        (0, 490, 500, 500),
        (600, 600, 9, 9),
    ],
)
def test_nothing_leaves_the_image(box):
    names = ["a", "a name that is much longer than the picture is wide, as nobody would have it"]
    found = [Detection(box, label, name, 1.0) for label, name in enumerate(names)]
    drawn = draw_detections(canvas(500, 500), found)
    assert drawn.shape == (500, 500, 3)
    assert where(drawn, class_colour(0)).any() and where(drawn, class_colour(1)).any()


def test_names_do_not_cover_one_another():
    found = [Detection((100, 100, 400, 400), label, f"class {label}", 0.5) for label in range(1, 5)]
    drawn = draw_detections(canvas(500, 500), found)
    areas = [where(drawn, class_colour(label)).sum() for label in range(1, 5)]
    alone = [
        where(draw_detections(canvas(500, 500), [d]), class_colour(d.label)).sum() for d in found
    ]
    # Only the first keeps the outline of the box that all share; all keep their names.
    assert areas[0] == pytest.approx(alone[0], rel=0.2)
    assert all(area > 500 for area in areas)


def test_colours_tell_classes_apart():
    colours = np.array([class_colour(label) for label in range(1, 81)], int)
    assert len(np.unique(colours, axis=0)) == 80
    assert min(np.abs(np.diff(colours, axis=0)).sum(1)) > 100


def test_grid(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    images = [
        np.full((*size, 3), colour, np.uint8)
        for size, colour in zip([(40, 60), (50, 30), (20, 20)], colours, strict=True)
    ]
    grid(images, tmp_path / "deep" / "grid.png")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["grid.png"]
    sheet = np.asarray(Image.open(tmp_path / "deep" / "grid.png"))
    assert sheet.shape == (2 * 50 + 3 * 8, 2 * 60 + 3 * 8, 3)
    assert [where(sheet, colour).sum() for colour in colours] == [2400, 1500, 400]
    grid(images, tmp_path / "row.png", columns=5)
    assert np.asarray(Image.open(tmp_path / "row.png")).shape == (66, 3 * 68 + 8, 3)
    with pytest.raises(ValueError, match="no picture"):
        grid([], tmp_path / "none.png")


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="taken"):
        save_png(canvas(4, 4), tmp_path / "taken")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
