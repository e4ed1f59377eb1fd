"""What an image goes through before the model; evaluation and prediction share it.

The fields and the file format are those of Hugging Face's `MobileViTImageProcessor`, so that a
`preprocessor_config.json` can be read from there and written for there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mobilevit_jax.base.atomic import write_json
from mobilevit_jax.base.processor_fields import (
    FLAGS,
    NORMALISING,
    PLAIN,
    RESAMPLES,
    both_sides,
    parse_channels,
    parse_size,
    read_fields,
    write_sizes,
)
from mobilevit_jax.base.processor_fields import Resample as Resample  # public here
from mobilevit_jax.base.texts import read_object
from mobilevit_jax.errors import ConfigurationError, DataError, shortened, unknown_name
from mobilevit_jax.resizing import (
    fit_within,
    interpolate,
    interpolation,
    on_whole_pixels,
    pad_after,
    pad_to,
)

if TYPE_CHECKING:
    from PIL.Image import Image

    ImageInput = str | Path | np.ndarray | Image

CONFIG_NAME = "preprocessor_config.json"
PAD_VALUE = 114  # the grey that YOLOX's images have around them
# A resized image with more pixels than this many crops is not made as a whole.
_CROPS_TO_RESIZE = 16
# The most that is made of such an image for the sake of exactness.
_MOST_PIXELS = 2**22


@dataclass(frozen=True)
class ImageProcessor:
    """Resizes, crops and scales images; the defaults are those of the published checkpoints.

    Calling it with an image or a list of images gives what the model takes. An image is a path, a
    Pillow image (of any mode), or a uint8 array [h, w, 3] with channels in the order R, G, B.
    Their sizes may differ.

    Attributes:
        do_resize: Whether to resize.
        size: The length of the short side in pixels (the long side keeps the aspect ratio, its
            fraction of a pixel dropped), or (height, width) outright. Hugging Face's dictionaries
            {"shortest_edge": 288} and {"height": 288, "width": 288} are understood too.
        do_center_crop: Whether to cut (height, width) = `crop_size` out of the centre; an image
            that is smaller is surrounded with zeros.
        crop_size: Pixels as (height, width), one number, or {"height": 256, "width": 256}.
        do_rescale: Whether to multiply by `rescale_factor`.
        rescale_factor: 1/255 gives values in [0, 1].
        do_flip_channel_order: Whether the model's channels are B, G, R, as the published weights
            expect, instead of R, G, B.
        resample: "bilinear" is OpenCV's, without antialiasing, as in the code that trained the
            published weights (CVNets v0.1). "pillow_bilinear" and "pillow_bicubic" antialias
            and are what transformers does.
        mean: What is subtracted from the scaled values of each channel, in the model's order; None
            for nothing, as MobileViT's weights want it.
        std: What they are divided by then; given with `mean`.
        do_pad: Whether to letterbox: images are resized, their aspect ratio kept, to what fits into
            `size` as (height, width), or as the side of a square; they stand in its top left
            corner, and `pad_value` fills the rest. Nothing is left to crop then: `crop_size` must
            be the same, unless `do_center_crop` is false.
        pad_value: What those pixels are, from 0 to 255, before anything is scaled.
    """

    do_resize: bool = True
    size: int | tuple[int, int] = 288
    do_center_crop: bool = True
    crop_size: tuple[int, int] = (256, 256)
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_flip_channel_order: bool = True
    resample: Resample = "bilinear"
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    do_pad: bool = False
    pad_value: int = PAD_VALUE

    def __post_init__(self) -> None:
        for field in FLAGS:
            if not isinstance(getattr(self, field), bool):
                raise ConfigurationError(
                    f"{field} must be true or false, not {getattr(self, field)!r}"
                )
        size = parse_size("size", self.size)
        object.__setattr__(self, "size", both_sides(size) if self.do_pad else size)
        crop_size = both_sides(parse_size("crop_size", self.crop_size))
        object.__setattr__(self, "crop_size", crop_size)
        self._check_padding()
        factor = self.rescale_factor
        if not isinstance(factor, float | int) or not 0 < factor < float("inf"):
            raise ConfigurationError(f"rescale_factor must be a positive number, not {factor!r}")
        if self.resample not in RESAMPLES:
            raise unknown_name("resample", str(self.resample), RESAMPLES)
        for field in ("mean", "std"):
            object.__setattr__(self, field, parse_channels(field, getattr(self, field)))
        if (self.mean is None) != (self.std is None):
            raise ConfigurationError(
                f"mean and std go together; got mean {self.mean} and std {self.std}"
            )

    def _check_padding(self) -> None:
        """Refuses what padding would leave without effect, and what would undo it."""
        value = self.pad_value
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 255:
            raise ConfigurationError(
                f"pad_value must be a whole number from 0 to 255, not {value!r}"
            )
        if not self.do_pad and value != PAD_VALUE:
            raise ConfigurationError(
                f"pad_value {value} has no effect while do_pad is false; set do_pad, or leave "
                "pad_value out"
            )
        if self.do_pad and not self.do_resize:
            raise ConfigurationError("do_pad fits images into size, so do_resize must be true")
        if self.do_pad and self.do_center_crop and self.crop_size != self.size:
            raise ConfigurationError(
                f"do_pad makes images of size {self.size}, which crop_size {self.crop_size} would "
                "cut or surround; set both to the same (height, width)"
            )

    def __call__(
        self, images: "ImageInput | list[ImageInput] | tuple[ImageInput, ...]"
    ) -> np.ndarray:
        """Prepares one image or a list of images for the model.

        Args:
            images: See the class. A single image gives a batch of one.

        Returns:
            float32 [b, h, w, 3], channels in the model's order.

        Raises:
            DataError: An image cannot be read, is no image, or comes out at another size than the
                others (possible without the centre crop).
        """
        batch = list(images) if isinstance(images, list | tuple) else [images]
        if not batch:
            raise DataError("no images were given")
        pixels = [self.pixels(self._load(image, index)) for index, image in enumerate(batch)]
        sizes = sorted({array.shape[:2] for array in pixels})
        if len(sizes) > 1:
            raise DataError(
                f"images of different sizes ({sizes[0]} and {sizes[1]}) do not fit in one batch; "
                "set do_center_crop, or process them one by one"
            )
        output = np.stack(pixels).astype(np.float32)
        if self.do_rescale:
            output *= np.float32(self.rescale_factor)
        return self.normalised(output)

    def normalised(self, images: Any) -> Any:
        """Subtracts the mean and divides by the standard deviation, if there are any.

        Args:
            images: float32 [b, h, w, 3] of NumPy or JAX, scaled, channels in the model's order.
        """
        if self.mean is None or self.std is None:
            return images
        mean, std = np.asarray((self.mean, self.std), np.float32).reshape(2, 1, 1, 1, 3)
        return (images - mean) / std

    @property
    def channel_order(self) -> Literal["bgr", "rgb"]:
        """The order of the model's channels."""
        return "bgr" if self.do_flip_channel_order else "rgb"

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """Resizes, and crops or pads, without touching channels or values.

        Evaluation keeps images as uint8 until they are on the device, and scales them there.

        Args:
            image: uint8 [h, w, 3], channels already in the model's order.

        Returns:
            uint8 [h, w, 3], contiguous.
        """
        height, width = self.resized_size(*image.shape[:2])
        if self.do_pad:
            resized = self._resize(image, height, width)
            return np.ascontiguousarray(pad_after(resized, *both_sides(self.size), self.pad_value))
        if not self.do_center_crop:
            return np.ascontiguousarray(self._resize(image, height, width))
        crop_height, crop_width = self.crop_size
        box = (
            max(0, (height - crop_height) // 2),
            max(0, (width - crop_width) // 2),
            min(crop_height, height),
            min(crop_width, width),
        )
        if self.do_resize and height * width > _CROPS_TO_RESIZE * crop_height * crop_width:
            cropped = self._resize_box(image, height, width, box)
        else:
            top, left, h, w = box
            cropped = self._resize(image, height, width)[top : top + h, left : left + w]
        return pad_to(cropped, crop_height, crop_width)

    def for_size(self, size: int) -> "ImageProcessor":
        """Returns the processor for images of another size.

        The margin between resize and crop stays the same: for 320, the default processor (288,
        crop 256) becomes (352, crop 320).

        Args:
            size: Height and width of what the model gets, in pixels.
        """
        if size < 1:
            raise ConfigurationError(f"an image size must be at least 1 pixel, not {size}")
        resized: int | tuple[int, ...]
        if not self.do_center_crop:
            resized = size if isinstance(self.size, int) else (size, size)
        elif isinstance(self.size, int):
            resized = max(1, size + self.size - min(self.crop_size))
        else:
            sides = zip(self.size, self.crop_size, strict=True)
            resized = tuple(max(1, size + whole - crop) for whole, crop in sides)
        return replace(self, size=resized, crop_size=(size, size))

    def to_dict(self) -> dict[str, Any]:
        """Returns the contents of a `preprocessor_config.json` that transformers reads as well.

        With mean and standard deviation it is a `BitImageProcessor`'s, which does all that
        MobileViT's does but for turning channels round.

        The format has no name for OpenCV's interpolation. It is written as Pillow's bilinear with
        an extra entry, `resample_library`, which transformers leaves alone. A size to be padded to
        is {"max_height", "max_width"} there, as for its detectors; neither of the two classes pads.
        """
        library, number = RESAMPLES[self.resample]
        return {
            "image_processor_type": PLAIN if self.mean is None else NORMALISING,
            **{flag: getattr(self, flag) for flag in FLAGS},
            **write_sizes(self.size, self.crop_size, self.pad_value if self.do_pad else None),
            "rescale_factor": self.rescale_factor,
            **({"do_normalize": True, "image_mean": self.mean} if self.mean else {}),
            **({"image_std": self.std} if self.std else {}),
            "resample": number,
            **({"resample_library": library} if library != "pillow" else {}),
        }

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "ImageProcessor":
        """Reads the contents of a `preprocessor_config.json`.

        A field that is absent has transformers' default, which for size and resample differs from
        this class's own. Entries that are about other things than pixels are left aside.

        Raises:
            ConfigurationError: A field is invalid, or asks for what this processor does not do.
        """
        return cls(**read_fields(config))

    def save(self, directory: str | Path) -> Path:
        """Writes `preprocessor_config.json`, whole, into a directory, made if need be.

        Returns:
            The file's path.

        Raises:
            OSError: If it cannot be written; an older file stays as it was.
        """
        path = Path(directory) / CONFIG_NAME
        write_json(path, self.to_dict())
        return path

    @classmethod
    def load(cls, path: str | Path) -> "ImageProcessor":
        """Reads a `preprocessor_config.json`, given as a file or by its directory.

        Raises:
            DataError: The file is missing or not a JSON object.
            ConfigurationError: See `from_dict`; the message has the path.
        """
        path = Path(path)
        path = path / CONFIG_NAME if path.is_dir() else path
        config = read_object(path)
        try:
            return cls.from_dict(config)
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: {shortened(error, 600)}") from error

    def _load(self, image: "ImageInput", index: int) -> np.ndarray:
        """Returns uint8 [h, w, 3] in the model's channel order."""
        # Imported here because models can be used where OpenCV and Pillow are not installed.
        from mobilevit_jax.data.decode import pillow_to_rgb, read_image

        if isinstance(image, str | Path):
            return read_image(image, channel_order=self.channel_order)
        if not isinstance(image, np.ndarray):
            image = pillow_to_rgb(image, name=f"image {index}")
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise DataError(
                f"image {index}: an array must be uint8 [h, w, 3] in RGB, not {image.dtype} "
                f"{list(image.shape)}"
            )
        return image[:, :, ::-1] if self.do_flip_channel_order else image

    def resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Returns the size in pixels that an image is resized to, before crop or padding."""
        if not self.do_resize:
            return height, width
        if not isinstance(self.size, int):
            return fit_within(height, width, *self.size) if self.do_pad else self.size
        short = min(height, width)
        # In whole numbers: the long side times size / short, its fraction dropped.
        return height * self.size // short, width * self.size // short

    def _resize(self, image: np.ndarray, height: int, width: int) -> np.ndarray:
        if image.shape[:2] == (height, width):
            return image
        if self.resample == "bilinear":
            import cv2

            return cv2.resize(
                np.ascontiguousarray(image), (width, height), interpolation=cv2.INTER_LINEAR
            )
        return self._resize_box(image, height, width, (0, 0, height, width))

    def _resize_box(
        self, image: np.ndarray, height: int, width: int, box: tuple[int, int, int, int]
    ) -> np.ndarray:
        """Returns a box (top, left, h, w) of the image resized to height x width.

        Only the box is computed: a picture of 1 x 1000 pixels would fill a quarter of a gigabyte
        if it were resized as a whole before its centre is cut out.
        """
        top, left, h, w = box
        if self.resample == "bilinear":
            rows = interpolation(image.shape[0], height, top, h)
            columns = interpolation(image.shape[1], width, left, w)
            return interpolate(image, rows, columns)
        from PIL import Image

        above, below = on_whole_pixels(image.shape[0], height, top, top + h)
        before, after = on_whole_pixels(image.shape[1], width, left, left + w)
        if (below - above) * (after - before) > _MOST_PIXELS:
            above, below, before, after = top, top + h, left, left + w
        rows, columns = image.shape[0] / height, image.shape[1] / width
        resized = Image.fromarray(np.ascontiguousarray(image)).resize(
            (after - before, below - above),
            Image.Resampling(RESAMPLES[self.resample][1]),
            box=(before * columns, above * rows, after * columns, below * rows),
        )
        return np.asarray(resized)[top - above :, left - before :][:h, :w]
