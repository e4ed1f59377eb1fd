"""What is read in the fuzz tests: whole files to begin with, and the function that reads one."""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np

from tests.data.coco_layout import HEIGHT, WIDTH, annotation, content, write_split
from tests.fuzz.mutations import damage, damage_json

PNG = b"\x89PNG\r\n\x1a\n"

Reader = Callable[[Path], Any]


class Target(NamedTuple):
    """A kind of file.

    Attributes:
        prepare: Writes whole files into a directory; returns the reader and the files.
        damage: Changes the bytes of one.
    """

    prepare: Callable[[Path], tuple[Reader, list[Path]]]
    damage: Callable[[bytes, Random, Sequence[bytes]], bytes]


def picture() -> np.ndarray:
    """Returns uint8 [20, 28, 3] that compresses a little."""
    y, x = np.mgrid[0:20, 0:28]
    return np.stack([y * 9, x * 8, (x * y) % 256], -1).astype(np.uint8)


def encoded_images() -> dict[str, bytes]:
    """Returns small files of every format and variant that images come in."""
    from PIL import Image

    rgb = Image.fromarray(picture())
    rgba = rgb.copy()
    rgba.putalpha(Image.fromarray(picture()[:, :, 0]))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    kinds: dict[str, tuple[Any, str, dict[str, Any]]] = {
        "plain.jpg": (rgb, "JPEG", {"exif": exif}),
        "progressive.jpg": (rgb, "JPEG", {"progressive": True, "restart_marker_rows": 1}),
        "grey.jpg": (rgb.convert("L"), "JPEG", {}),
        "cmyk.jpg": (rgb.convert("CMYK"), "JPEG", {}),
        "several.mpo": (rgb, "MPO", frames),
        "plain.png": (rgb, "PNG", {"exif": exif}),
        "grey.png": (rgb.convert("L"), "PNG", {}),
        "wide.png": (Image.fromarray(picture()[:, :, 0].astype(np.uint16) * 200), "PNG", {}),
        "palette.png": (rgb.quantize(20), "PNG", {"transparency": 3}),
        "alpha.png": (rgba, "PNG", {}),
        "animated.png": (rgb, "PNG", frames),
        "lossy.webp": (rgb, "WEBP", {}),
        "lossless.webp": (rgba, "WEBP", {"lossless": True, "exif": exif}),
        "animated.webp": (rgb, "WEBP", frames),
        "plain.bmp": (rgb, "BMP", {}),
        "palette.bmp": (rgb.quantize(20), "BMP", {}),
        "plain.gif": (rgb.quantize(20), "GIF", {}),
        "animated.gif": (rgb, "GIF", frames),
        "plain.tiff": (rgb, "TIFF", {"exif": exif}),
        "lzw.tiff": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "deflate.tiff": (rgba, "TIFF", {"compression": "tiff_adobe_deflate"}),
    }
    files = {}
    for name, (image, file_format, options) in kinds.items():
        buffer = io.BytesIO()
        image.save(buffer, file_format, **options)
        files[name] = buffer.getvalue()
    return files


def _written(directory: Path, files: dict[str, bytes]) -> list[Path]:
    paths = []
    for name, data in files.items():
        paths.append(directory / name)
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        paths[-1].write_bytes(data)
    return paths


def _images(directory: Path) -> tuple[Reader, list[Path]]:
    from mobilevit_jax.data.decode import read_image

    def read(path: Path) -> None:
        image = read_image(path)
        assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size

    return read, _written(directory, encoded_images())


def _masks(directory: Path) -> tuple[Reader, list[Path]]:
    from mobilevit_jax.data.masks import decode_mask

    def read(path: Path) -> None:
        mask = decode_mask(path.read_bytes(), name=str(path))
        assert mask.dtype == np.uint8 and mask.ndim == 2 and mask.size

    kinds = ("grey.png", "palette.png")
    return read, _written(directory, {name: encoded_images()[name] for name in kinds})


def _weights(directory: Path) -> tuple[Reader, list[Path]]:
    from safetensors.numpy import save

    from mobilevit_jax.convert.files import read_state_dict
    from tests.convert.torch_zip import write_torch

    tensors = {"a.weight": np.ones((3, 4), np.float32), "a.bias": np.zeros(3, np.float16)}
    paths = _written(directory, {"plain.safetensors": save(tensors)})
    for name in ("plain.pt", "checkpoint.pt"):
        paths.append(directory / name)
        nested = {"state_dict": tensors, "state_dict_ema": tensors, "epoch": 3, "seen": [1, (2,)]}
        write_torch(paths[-1], tensors if name == "plain.pt" else nested)
    return read_state_dict, paths


def _pickles(directory: Path) -> tuple[Reader, list[Path]]:
    """What is inside a zip file of PyTorch's, whose checksums would find most damage."""
    from mobilevit_jax.convert.files import read_state_dict

    _, (_, *archives) = _weights(directory / "whole")
    files, storages = {}, {}
    for path in archives:
        with zipfile.ZipFile(path) as archive:
            files[f"{path.stem}.pkl"] = archive.read("archive/data.pkl")
            storages |= {n: archive.read(n) for n in archive.namelist() if "/data/" in n}
    cube = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    arrays = {"c": cube, "f": np.asfortranarray(cube), "k": cube.transpose(1, 2, 0)}
    files |= {f"arrays{n}.pkl": pickle.dumps(arrays, protocol=n) for n in (2, 5)}
    around = directory / "around.pt"

    def read(path: Path) -> None:
        with zipfile.ZipFile(around, "w") as archive:
            archive.writestr("archive/data.pkl", path.read_bytes())
            for name, data in storages.items():
                archive.writestr(name, data)
        read_state_dict(around)

    return read, _written(directory, files)


def _safetensors_headers(directory: Path) -> tuple[Reader, list[Path]]:
    """The JSON in front of the tensors, its length being right."""
    from mobilevit_jax.convert.files import read_state_dict

    shapes = {"F32": [2, 2], "U8": [16], "F64": [1, 2], "F16": [2, 4], "BF16": [8], "BOOL": [4, 4]}
    files = {}
    for kind, shape in shapes.items():
        tensor = {"dtype": kind, "shape": shape, "data_offsets": [0, 16]}
        header = {"conv.weight": tensor, "__metadata__": {"format": "pt"}}
        files[f"{kind}.json"] = json.dumps(header).encode()
    around = directory / "around.safetensors"

    def read(path: Path) -> None:
        data = path.read_bytes()
        around.write_bytes(struct.pack("<Q", len(data)) + data + bytes(16))
        read_state_dict(around)

    return read, _written(directory, files)


def _json_files(directory: Path) -> tuple[Reader, list[Path]]:
    from mobilevit_jax.config import Experiment, from_dict, to_dict
    from mobilevit_jax.convert.config import read_config, to_huggingface, to_native, to_timm
    from mobilevit_jax.models import create_model
    from mobilevit_jax.processing import ImageProcessor

    small = create_model("mobilevit_xxs", num_classes=3)
    detector, yolox, segmenter = (
        create_model(f"{head}_mobilevit_xxs", num_classes=4)
        for head in ("ssdlite", "yolox", "deeplabv3")
    )
    names = ["cat", "dog", "owl"]
    forms = {
        "native": to_native(small, names),
        "detector": to_native(detector, names),
        "yolox": to_native(yolox, [*names, "yak"]),
        "segmenter": to_native(segmenter),
        "huggingface": to_huggingface(small, names),
        "huggingface_segmenter": to_huggingface(segmenter),
        "timm": to_timm(small, names, ImageProcessor()),
    }
    files = {f"{name}/config.json": json.dumps(form).encode() for name, form in forms.items()}
    processor = json.dumps(ImageProcessor().to_dict()).encode()
    files["processor/preprocessor_config.json"] = processor
    files["experiment.json"] = json.dumps(to_dict(Experiment())).encode()

    def read(path: Path) -> None:
        if path.name == "config.json":
            read_config(path.parent)
        elif path.name == "experiment.json":
            experiment = _experiment(path)
            assert from_dict(Experiment, to_dict(experiment)) == experiment
        else:
            ImageProcessor.load(path)

    def _experiment(path: Path) -> Experiment:
        try:
            values = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            return Experiment()
        if not isinstance(values, dict):
            return Experiment()
        return from_dict(Experiment, values)

    return read, _written(directory, files)


def _annotations(directory: Path) -> tuple[Reader, list[Path]]:
    from mobilevit_jax.data.builders.coco import Coco
    from mobilevit_jax.data.builders.coco_segmentation import CocoSegmentation

    builders: dict[str, Any] = {"boxes": Coco, "masks": CocoSegmentation}
    what = content()
    code = {"size": [HEIGHT, WIDTH], "counts": [100, 50, 1050]}
    text = {"size": [HEIGHT, WIDTH], "counts": "T3b1jP1"}  # the same
    for number, segmentation in enumerate((code, text), 1004):
        more = annotation(number, 11, 3, [3, 4, 5, 6], segmentation=segmentation)
        what["annotations"].append(more)
    what["categories"] = [entry for entry in what["categories"] if entry["id"] in (1, 3, 18, 90)]
    for name in builders:
        write_split(directory / name, "train", what)

    def read(path: Path) -> None:
        source = path.parents[1]
        builder = builders[source.name](source=source, data_dir=directory / "data")
        for item in (item for items in builder.items().values() for item in items):
            builder.example(item)

    return read, [directory / name / "annotations/instances_train.json" for name in builders]


def _boxes(directory: Path) -> tuple[Reader, list[Path]]:
    """The files of YOLO and of VOC."""
    from mobilevit_jax.data.builders.voc_detection import VocDetection
    from mobilevit_jax.data.builders.yolo import Yolo

    image = encoded_images()["plain.png"]
    thing = "<object><name>{}</name><bndbox><xmin>3</xmin><ymin>4</ymin><xmax>9</xmax>"
    thing += "<ymax>12</ymax></bndbox><difficult>0</difficult></object>"
    size = "<size><width>28</width><height>20</height></size>"
    things = thing.format("nut") + thing.format("bolt")
    texts = {
        "yolo/data.yaml": "path: .\ntrain: train.txt\nval: images\nnc: 2\nnames: [nut, bolt]\n",
        "yolo/train.txt": "./images/1.png\nimages/2.png\n",
        "yolo/labels/1.txt": "0 0.5 0.5 0.2 0.4\n1 0.1 0.1 0.4 0.1 0.3 0.6\n",
        "voc/Annotations/1.xml": f"<annotation>{size}{things}</annotation>",
        "voc/ImageSets/Main/train.txt": "1\n2\n",
        "voc/classes.txt": "bolt\nnut\n",
    }
    others = {
        "yolo/images/1.png": image,
        "yolo/images/2.png": image,
        "voc/JPEGImages/1.png": image,
        "voc/JPEGImages/2.png": image,
        "voc/Annotations/2.xml": f"<annotation>{size}</annotation>".encode(),
    }
    _written(directory, others)

    def read(path: Path) -> None:
        builder = Yolo if "yolo" in path.parts else VocDetection
        source = directory / ("yolo" if builder is Yolo else "voc")
        items = builder(data_dir=directory / "data", source=source).items()
        for item in (item for split in items.values() for item in split):
            boxes = item.content.objects["box"]
            assert (boxes >= 0).all() and (boxes <= 1).all() and boxes.shape[1] == 4

    return read, _written(directory, {name: text.encode() for name, text in texts.items()})


def _parquet(directory: Path) -> tuple[Reader, list[Path]]:
    from mobilevit_jax.data.builders.parquet import Parquet
    from tests.data.test_parquet import rows_of, write

    paths = [directory / kind / "train.parquet" for kind in ("named", "numbered")]
    for path, names in zip(paths, (["a", "b", "c"], None), strict=True):
        write(path, rows_of(6, size=4), names=names)

    def read(path: Path) -> None:
        builder = Parquet(data_dir=directory / "data", source=path.parent)
        for item in builder.fetched(builder.items()["train"]):
            builder.example(item)

    return read, paths


def _damage_image(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    """Damages an image; the checksums of most PNGs are made right again, so that more is read."""
    changed = damage(data, rng, others)
    if changed.startswith(PNG) and rng.random() < 0.8:
        return _with_checksums(changed)
    return changed


def _with_checksums(data: bytes) -> bytes:
    changed, position = bytearray(data), len(PNG)
    while position + 12 <= len(data):
        end = position + 12 + int.from_bytes(data[position : position + 4])
        if end <= len(data):
            changed[end - 4 : end] = zlib.crc32(data[position + 4 : end - 4]).to_bytes(4)
        position = end
    return bytes(changed)


def _damage_json(data: bytes, rng: Random, others: Sequence[bytes]) -> bytes:
    return damage_json(json.loads(data), rng)


TARGETS = {
    "images": Target(_images, _damage_image),
    "masks": Target(_masks, _damage_image),
    "weights": Target(_weights, damage),
    "pickles": Target(_pickles, damage),
    "safetensors": Target(_safetensors_headers, _damage_json),
    "json": Target(_json_files, _damage_json),
    "annotations": Target(_annotations, _damage_json),
    "boxes": Target(_boxes, damage),
    "parquet": Target(_parquet, damage),
}
