"""Drawn street scenes in CamVid's layout: 11 classes and void, masks in colours or in indices."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

# None of them is a background, and the first fills much of every image.
STREET: dict[str, tuple[int, int, int]] = {
    "sky": (120, 170, 220),
    "building": (130, 60, 50),
    "pole": (200, 200, 130),
    "road": (120, 70, 120),
    "pavement": (70, 50, 200),
    "tree": (120, 130, 10),
    "traffic sign": (190, 130, 130),
    "fence": (60, 60, 120),
    "car": (60, 10, 130),
    "pedestrian": (60, 60, 10),
    "bicyclist": (10, 130, 190),
}
VOID_COLOR = (0, 0, 0)
NAMES = tuple(STREET)
SIZE = (48, 64)  # height, width


def draw_street(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns an image, uint8 [h, w, 3] in RGB, and its mask, uint8 [h, w], 255 for void.

    Every class is in every scene.
    """
    rng = np.random.default_rng(seed)
    height, width = SIZE
    mask = np.zeros(SIZE, np.uint8)
    horizon = int(rng.integers(24, 30))
    mask[horizon:] = 3
    for index, left in ((1, 0), (7, 18), (5, 30), (1, 46)):  # building, fence, tree, building
        top = horizon - int(rng.integers(6, 14))
        mask[top:horizon, left : left + int(rng.integers(10, 16))] = index
    mask[horizon : horizon + 4] = 4
    for index, size in ((8, (12, 7)), (9, (3, 9)), (10, (5, 8)), (2, (2, 14)), (6, (5, 5))):
        x, y = int(rng.integers(0, width - size[0])), int(rng.integers(horizon - 2, horizon + 9))
        y = y - 16 if index in (2, 6) else y  # poles and signs stand against the sky
        mask[y : y + size[1], x : x + size[0]] = index
    for index in range(len(NAMES)):  # whatever was covered
        if not (mask == index).any():
            mask[-3:, 5 * index : 5 * index + 5] = index
    mask[0] = 255
    image = colored(mask) + rng.normal(0, 12, (*SIZE, 3))
    return np.clip(image, 0, 255).astype(np.uint8), mask


def colored(mask: np.ndarray) -> np.ndarray:
    """Returns the mask in the classes' colours, uint8 [h, w, 3] in RGB."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(NAMES)] = list(STREET.values())
    palette[255] = VOID_COLOR
    return palette[mask]


def png(pixels: np.ndarray) -> bytes:
    """Encodes greyscale or RGB."""
    return cv2.imencode(".png", pixels if pixels.ndim == 2 else pixels[:, :, ::-1])[1].tobytes()


def write_streets(
    root: Path, splits: Sequence[str] = ("train", "validation"), count: int = 4, *, colors=True
) -> Path:
    """Writes `<split>/images/*.png`, `<split>/masks/*_L.png` in colours, and label_colors.txt.

    Args:
        root: The source to be.
        splits: The folders' names.
        count: Scenes in each.
        colors: False writes `<split>/masks/*.png` in indices, and classes.txt.
    """
    for number, split in enumerate(splits):
        for folder in ("images", "masks"):
            (root / split / folder).mkdir(parents=True)
        for index in range(count):
            image, mask = draw_street(1000 * number + index)
            stem = f"{split}_{index:03d}"
            (root / split / "images" / f"{stem}.png").write_bytes(png(image))
            path = root / split / "masks" / (f"{stem}_L.png" if colors else f"{stem}.png")
            path.write_bytes(png(colored(mask) if colors else mask))
    if colors:
        lines = [f"{r} {g} {b}\t{name}" for name, (r, g, b) in STREET.items()] + ["0 0 0\tVoid"]
        (root / "label_colors.txt").write_text("\n".join(lines))
    else:
        (root / "classes.txt").write_text("\n".join(NAMES))
    return root
