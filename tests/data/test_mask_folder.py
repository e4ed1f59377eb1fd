"""Folders of images and masks: layouts, kinds of masks, class files, and faults of all of them."""

import contextlib
import json
import re
import shutil
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.data.builders.mask_classes import read_classes
from mobilevit_jax.data.masks import decode_mask, mask_class_names, to_segmentation
from mobilevit_jax.data.prepare import prepare
from mobilevit_jax.data.sources import open_split
from mobilevit_jax.errors import ConfigurationError, DataError
from tests.data.street_scenes import NAMES, SIZE, colored, draw_street, png, write_streets


@pytest.fixture
def data_dir(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def streets(tmp_path):
    return write_streets(tmp_path / "streets")


def store(source, data_dir, **options):
    return prepare("mask_folder", source=source, data_dir=data_dir, **options)


def fails(source, data_dir, match: str, kind: type[Exception] = DataError, **options) -> None:
    with pytest.raises(kind, match=match) as caught:
        store(source, data_dir, **options)
    assert "\n" not in str(caught.value)
    assert not data_dir.exists() or list(data_dir.rglob("*")) == []


def masks_of(data_dir, split: str, name: str = "mask_folder") -> dict[str, np.ndarray]:
    opened = open_split(name, split, data_dir)
    records = [to_segmentation(r) for r in opened.records(range(len(opened)))]
    return {r["name"]: decode_mask(r["mask"], name=r["name"]) for r in records}


def test_colours_of_camvid_become_classes(streets, data_dir):
    info = store(streets, data_dir)
    assert info.splits == {"train": 4, "validation": 4}
    assert mask_class_names(info) == info.class_names == NAMES
    masks = masks_of(data_dir, "validation")
    assert sorted(masks) == [f"validation/images/validation_00{i}.png" for i in range(4)]
    for number, name in enumerate(sorted(masks)):
        np.testing.assert_array_equal(masks[name], draw_street(1000 + number)[1])


def test_indices_palettes_and_the_other_layout(tmp_path, data_dir):
    source = write_streets(tmp_path / "a", colors=False)
    palette = Image.fromarray(draw_street(0)[1]).convert("P")
    palette.putdata(draw_street(0)[1].ravel().tolist())
    palette.save(source / "train" / "masks" / "train_000.png")
    turned = tmp_path / "b"
    for split in ("train", "validation"):
        for kind in ("images", "masks"):
            shutil.copytree(source / split / kind, turned / kind / split)
    shutil.copy(source / "classes.txt", turned)
    store(source, data_dir)
    store(turned, data_dir, name="turned")
    for split, seed in (("train", 0), ("validation", 1000)):
        masks, others = masks_of(data_dir, split), masks_of(data_dir, split, "turned")
        assert sorted(others) == [f"images/{split}/{split}_00{i}.png" for i in range(4)]
        for number, pair in enumerate(zip(sorted(masks), sorted(others), strict=True)):
            np.testing.assert_array_equal(masks[pair[0]], draw_street(seed + number)[1])
            np.testing.assert_array_equal(others[pair[1]], draw_street(seed + number)[1])


def test_files_in_folders_of_towns_and_other_files(streets, data_dir):
    for kind, end in (("images", ""), ("masks", "_mask")):
        (streets / "train" / kind / "town").mkdir()
        image, mask = draw_street(7)
        data = png(image if kind == "images" else colored(mask))
        (streets / "train" / kind / "town" / f"train_000{end}.png").write_bytes(data)
    (streets / "train" / "images" / "notes.txt").write_text("no image")
    info = store(streets, data_dir)
    assert info.splits["train"] == 5
    assert "train/images/town/train_000.png" in masks_of(data_dir, "train")
    assert info.notes == {"train": {"files of images left out, such as notes.txt": 1}}


def classes_of(tmp_path, text: str, name: str = "classes.txt"):
    for path in tmp_path.glob("*.*"):
        path.unlink()
    (tmp_path / name).write_text(text, "utf-8")
    return read_classes(tmp_path)


class TestClassFile:
    def test_void_may_stand_anywhere(self, tmp_path):
        classes = classes_of(tmp_path, "\ufeff# a remark\nvoid\nroad\r\n\nVoid\ntraffic light\n")
        assert classes.names == ("road", "traffic light")
        mask = np.array([[0, 1, 2, 3, 255]], np.uint8)
        found = classes.read(png(mask), name="m")
        np.testing.assert_array_equal(found, [[255, 0, 255, 1, 255]])

    def test_json_says_the_same(self, tmp_path):
        content = {
            "classes": ["road", "traffic light"],
            "colors": {"road": [1, 2, 3], "traffic light": [4, 5, 6], "void": [0, 0, 0]},
        }
        lines = "road: [1, 2, 3]\ntraffic light (4; 5; 6)\n0, 0, 0, void\n"
        pixels = np.array([[[1, 2, 3], [4, 5, 6], [0, 0, 0]]], np.uint8)
        for text, name in ((json.dumps(content), "classes.json"), (lines, "classes.txt")):
            classes = classes_of(tmp_path, text, name)
            assert classes.names == ("road", "traffic light")
            np.testing.assert_array_equal(classes.read(png(pixels), name="m"), [[0, 1, 255]])
        classes = classes_of(tmp_path, '{"classes": ["a", "b"], "void": 100}', "classes.json")
        mask = np.array([[0, 1, 100]], np.uint8)
        np.testing.assert_array_equal(classes.read(png(mask), name="m"), [[0, 1, 255]])
        with pytest.raises(DataError, match="value 255 at 1 pixel.* 0 to 1 and 100"):
            classes.read(png(np.array([[0, 255]], np.uint8)), name="m")

    def test_names_may_end_with_a_number(self, tmp_path):
        assert classes_of(tmp_path, "grade 0\ngrade 1\n").names == ("grade 0", "grade 1")

    def test_two_colours_of_one_class(self, tmp_path):
        classes = classes_of(tmp_path, "road 1 1 9\ncar 2 2 9\ncar 3 3 9\n")
        pixels = np.array([[[1, 1, 9], [2, 2, 9], [3, 3, 9]]], np.uint8)
        assert classes.names == ("road", "car")
        np.testing.assert_array_equal(classes.read(png(pixels), name="m"), [[0, 1, 1]])

    def test_grey_masks_beside_colours(self, tmp_path):
        mask = np.array([[0, 1, 255]], np.uint8)
        colors = classes_of(tmp_path, "road 1 1 9\ncar 2 2 9\n")
        np.testing.assert_array_equal(colors.read(png(mask), name="m"), [[0, 1, 255]])
        binary = classes_of(tmp_path, "background 0 0 0\nobject 255 255 255\n")
        np.testing.assert_array_equal(binary.read(png(mask // 255 * 255), name="m"), [[0, 0, 1]])

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("", "names 0 classes; 2 to 255 will do"),
            ("road\nvoid\n", "names 1 class; 2 to 255"),
            ("\n".join(f"c{i}" for i in range(256)), "names 256 classes"),
            ("road\ncar\nroad\n", "line 3: the class 'road' is named twice"),
            ("road 1 2 3\ncar\n", "line 2: 'car' has no colour r g b, but others have"),
            ("road 1 2 3\ncar 1 2 256\n", "line 2: the colour of 'car' must be of 0 to 255"),
            ("road 1 2 3\ncar 1 2 3\n", "line 2: the colour of 'car' is another class's too"),
            ("road 0\ncar 1\n", "every line ends with a number or a code of a colour"),
            ("road #804080\ncar #400080\n", "every line ends with a number or a code"),
            ("road 0.5 0.2 0.5\ncar 0.2 0 0.5\n", "every line ends with a number or a code"),
            ("road 1 1 9 255\ncar 2 1 9 255\n", "every line ends with a number or a code"),
            ("road 1 1 9\ncar(2, 2, 9)\n", r"line 2: car\(2, 2, 9\) is not a name and a colour"),
            ("road(1,1,9)\ncar(2,2,9)\n", "line 1: .* is not a name and a colour; write them as"),
            ("road (1 1 9\n", "line 1: .* is not a name and a colour"),
            ("1, 1, 9] road\n", "line 1: .* is not a name and a colour"),
            ("1, 1, 9\n", "line 1: .* is not a name and a colour"),
            ("0 road\n1: car\n", "every line begins with a number; write names alone"),
        ],
    )
    def test_faults_of_lines(self, tmp_path, text, match):
        with pytest.raises(DataError, match=f"classes.txt.*{match}"):
            classes_of(tmp_path, text)

    @pytest.mark.parametrize("form", ["{0}{1}x", "a{0}{1}x", "({1}1,{1}2,{1}3{1}{0}{1}{0}"])
    def test_a_long_line_takes_no_long_time(self, tmp_path, form):
        """By the cube of its length it would be an hour."""
        lines = "road\n" + form.format("," * 5000, " " * 5000)
        start = time.process_time()
        with contextlib.suppress(DataError):
            classes_of(tmp_path, lines)
        assert time.process_time() - start < 5

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            ([], "must hold {.*classes"),
            ({"classes": "road"}, "must hold {.*classes"),
            ({"classes": ["a", "b"], "color": {}}, "the key 'color' .did you mean 'colors'"),
            ({"classes": ["a", "b"], "void": 1}, '"void" must be .* no class.* 0 to 1; got 1'),
            ({"classes": ["a", "b"], "void": None}, '"void" must be .*; got None'),
            ({"classes": ["a", "b"], "colors": {"a": [1, 2]}}, '"colors" must be {name'),
            ({"classes": ["a", "b"], "colors": {"c": [1, 2, 3]}}, "a colour of 'c', which is no"),
            ({"classes": ["a", "b"], "colors": {"a": [1, 2, 3]}}, "class 1: 'b' has no colour"),
        ],
    )
    def test_faults_of_json(self, tmp_path, content, match):
        with pytest.raises(DataError, match=f"classes.json.*{match}"):
            classes_of(tmp_path, json.dumps(content), "classes.json")

    def test_none_two_or_unreadable(self, tmp_path):
        with pytest.raises(DataError, match="needs one file that names the classes.* has none"):
            read_classes(tmp_path)
        with pytest.raises(DataError, match="classes.json: not valid JSON .Expecting"):
            classes_of(tmp_path, "{", "classes.json")
        with pytest.raises(DataError, match="classes.json has the key 'a' twice; keep one"):
            classes_of(tmp_path, '{"colors": {"a": [1, 2, 3], "a": [4, 5, 6]}}', "classes.json")
        (tmp_path / "classes.json").rename(tmp_path / "classes.txt")
        (tmp_path / "classes.txt").write_bytes(b"\xff\xfe")
        with pytest.raises(DataError, match="classes.txt is not text in UTF-8"):
            read_classes(tmp_path)
        (tmp_path / "classes.json").touch()
        with pytest.raises(DataError, match="has classes.txt and classes.json"):
            read_classes(tmp_path)


class TestFaultsOfMasks:
    def mask_is(self, streets, data: bytes):
        path = streets / "train" / "masks" / "train_002_L.png"
        path.write_bytes(data)
        return re.escape(str(path))

    def test_a_colour_that_is_none(self, streets, data_dir):
        pixels = colored(draw_street(2)[1])
        pixels[5:7, 3:8] = (9, 8, 7)
        pixels[8, 3] = (1, 1, 1)
        where = self.mask_is(streets, png(pixels))
        match = f"{where} has the colour 9 8 7 at 10 pixels, and 1 more such colour, which label_"
        fails(streets, data_dir, match)
        info = store(streets, data_dir, skip_bad_images=True)
        assert info.splits["train"] == 3 and info.skipped == {"train": 1}

    def test_a_value_that_is_none(self, streets, data_dir):
        mask = draw_street(2)[1]
        mask[0, :3] = 12
        where = self.mask_is(streets, png(mask))
        fails(streets, data_dir, f"{where} has the value 12 at 3 pixels, .* 0 to 11 and 255")

    def test_another_size(self, streets, data_dir):
        where = self.mask_is(streets, png(colored(draw_street(2)[1])[:40]))
        fails(streets, data_dir, f"{where} is 64x40, but its image train_002.png is 64x48$")
        where = self.mask_is(streets, png(colored(draw_street(2)[1]).transpose(1, 0, 2)))
        fails(streets, data_dir, f"{where} is 48x64, but its image .* is 64x48, perhaps by EXIF")

    @pytest.mark.parametrize("channels", [3, 4])
    def test_alpha_sixteen_bits_and_jpeg(self, streets, data_dir, channels):
        if channels == 4:
            alpha = np.dstack([colored(draw_street(2)[1]), np.full(SIZE, 255, np.uint8)])
            where = self.mask_is(streets, cv2.imencode(".png", alpha)[1].tobytes())
            fails(streets, data_dir, f"{where}: an alpha channel; save it as RGB of 8 bits")
        deep = np.zeros((*SIZE, 3)[: channels - 1], np.uint16)
        where = self.mask_is(streets, cv2.imencode(".png", deep)[1].tobytes())
        fails(streets, data_dir, f"{where}: 16-bit values; save it as RGB of 8 bits")
        jpeg = cv2.imencode(".jpg", np.zeros(SIZE, np.uint8))[1].tobytes()
        where = self.mask_is(streets, jpeg)
        fails(streets, data_dir, f"{where}: a JPEG, which blurs the edges between classes")

    def test_a_file_that_is_called_jpeg(self, streets, data_dir):
        (streets / "train" / "masks" / "train_009.jpg").write_bytes(b"")
        fails(streets, data_dir, "train_009.jpg cannot be a mask: it must be a PNG")

    def test_nothing_to_learn(self, streets, data_dir):
        for path in (streets / "validation" / "masks").iterdir():
            path.write_bytes(png(np.where(draw_street(0)[1] == 255, 255, 0).astype(np.uint8)))
        fails(streets, data_dir, "no mask of the split 'validation' .* one class, 0, leaves")

    def test_a_class_that_no_mask_has_is_told(self, streets, data_dir):
        with (streets / "label_colors.txt").open("a") as file:
            file.write("\n1 2 3 tram\n")
        what = "of the 12 classes without a pixel, such as 'tram'"
        assert store(streets, data_dir).notes == {"train": {what: 1}, "validation": {what: 1}}


class TestFaultsOfFolders:
    def test_lonely_images_and_masks(self, streets, data_dir):
        (streets / "train" / "masks" / "train_001_L.png").unlink()
        fails(streets, data_dir, "train_001.png has no mask in .*train/masks, as have 0 more of th")
        info = store(streets, data_dir, skip_bad_images=True, name="skipped")
        assert info.skipped == {"train": 1}
        (streets / "validation" / "images" / "validation_003.png").unlink()
        other = data_dir.with_name("other")
        fails(streets, other, "validation_003_L.png has no image in", skip_bad_images=True)

    def test_two_of_one_name(self, streets, data_dir):
        masks = streets / "train" / "masks"
        shutil.copy(masks / "train_001_L.png", masks / "train_001.png")
        fails(streets, data_dir, "train_001.png has two masks, .*train_001.png and .*train_001_L")
        (masks / "train_001.png").unlink()
        images = streets / "train" / "images"
        shutil.copy(images / "train_001.png", images / "train_001.bmp")
        fails(streets, data_dir, "train_001.bmp and .*train_001.png have one name; rename one")

    def test_an_image_that_is_called_like_a_mask(self, streets, data_dir):
        images, masks = streets / "train" / "images", streets / "train" / "masks"
        shutil.copy(images / "train_001.png", images / "train_001_L.png")
        fails(streets, data_dir, "train_001.png has no mask")  # train_001_L.png is the other's
        shutil.copy(masks / "train_001_L.png", masks / "train_001.png")
        assert store(streets, data_dir).splits["train"] == 5

    def test_missing_folders_and_empty_splits(self, streets, data_dir, tmp_path):
        fails(None, data_dir, "mask_folder needs --source", ConfigurationError)
        fails(tmp_path / "nowhere", data_dir, "nowhere is not a directory")
        for path in (streets / "validation" / "images").iterdir():
            path.unlink()
        fails(streets, data_dir, r"validation/images has no image \(.jpg")
        shutil.rmtree(streets / "validation" / "masks")
        fails(streets, data_dir, "validation/masks is not there; a source holds <split>/images")
        shutil.rmtree(streets / "validation")
        shutil.rmtree(streets / "train")
        fails(streets, data_dir, "streets has no folders of splits")
