"""Draws scenes of overlapping, textured shapes, with the mask and boxes of what can be seen."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

Points = np.ndarray  # float [n, 2], x and y; a shape fits the circle of radius 1 around 0
_SUBPIXEL_BITS = 4


@dataclass(frozen=True)
class SceneConfig:
    """How scenes look.

    Attributes:
        size: Height and width in pixels.
        largest: Range of the diameter of the largest object, as a share of `size`.
        others: Range of the number of further objects.
        other_scale: Range of their diameter, as a share of the largest object's.
        area_limit: No other object shows more than this share of the largest one's visible area.
        visible: The share of the largest object that must be visible, at least.
        contrast: Smallest difference between the mean colours of an object and the background
            (Euclidean, in 0 to 255 a channel).
        texture: Range of the difference between the two colours of a texture, likewise.
        noise: Standard deviation of the pixel noise.
        squeeze: Largest factor by which an object is squeezed along some direction.
        rotation: Largest angle by which an object is turned, in degrees.
        others_visible: The share of each other object that must be visible, at least.
    """

    size: int
    largest: tuple[float, float]
    others: tuple[int, int]
    other_scale: tuple[float, float]
    area_limit: float
    visible: float
    contrast: float
    texture: tuple[float, float]
    noise: float
    squeeze: float
    rotation: float = 180.0
    others_visible: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        image: uint8 [size, size, 3], RGB.
        mask: uint8 [size, size]: 0 for background, else 1 + class.
        boxes: float32 [n, 4]: (ymin, xmin, ymax, xmax) of the visible part of each visible object,
            from 0 to 1.
        labels: int64 [n], their classes.
        label: The class of the object with the largest visible area.
    """

    image: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    label: int


@dataclass(frozen=True)
class _Object:
    label: int
    contours: list[np.ndarray]  # int32 [n, 2] each, in fixed-point pixels, as OpenCV wants them


def draw_scene(label: int, config: SceneConfig, rng: np.random.Generator) -> Scene:
    """Draws a scene whose largest object has the class `label`."""
    objects, order, owner = _arrange(label, config, rng)
    background = rng.uniform(40, 215, 3)
    image = _texture((config.size, config.size), background, config, rng)
    for index in order:
        color = _contrasting(background, config.contrast, rng)
        _paint(image, objects[index], color, config, rng)
    image *= np.float32(rng.uniform(0.8, 1.15))
    image += rng.standard_normal(image.shape, np.float32) * config.noise
    boxes, labels = _visible_objects(objects, owner)
    classes = np.array([0, *[1 + o.label for o in objects]], np.uint8)
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    return Scene(pixels, classes[owner], boxes, labels, label)


def _paint(
    image: np.ndarray,
    shape: _Object,
    color: np.ndarray,
    config: SceneConfig,
    rng: np.random.Generator,
) -> None:
    """Lays a textured object over float32 [size, size, 3], in place."""
    alpha = _coverage(shape, config.size, cv2.LINE_AA)
    x, y, width, height = cv2.boundingRect(alpha)
    here = slice(y, y + height), slice(x, x + width)
    fill = _texture((height, width), color, config, rng)
    weight = alpha[here].astype(np.float32) / 255
    image[here] += weight[..., None] * (fill - image[here])


def _arrange(
    label: int, config: SceneConfig, rng: np.random.Generator
) -> tuple[list[_Object], list[int], np.ndarray]:
    """Places objects until the first is clearly the largest.

    Returns:
        The objects, the order to draw them in, and what `_owners` returns for both.
    """
    others = int(rng.integers(config.others[0], config.others[1] + 1))
    while True:
        diameter = rng.uniform(*config.largest) * config.size
        objects = [_place(label, diameter, config, rng)]
        for _ in range(others):
            scale = rng.uniform(*config.other_scale)
            other = int(rng.integers(len(SHAPE_NAMES)))
            objects.append(_place(other, diameter * scale, config, rng))
        order = [int(i) for i in rng.permutation(len(objects))]
        owner = _owners(objects, order, config.size)
        areas = np.bincount(owner.ravel(), minlength=others + 2)[1:]
        least = [config.visible, *[config.others_visible] * others]
        clear = not others or areas[1:].max() <= config.area_limit * areas[0]
        if clear and all(
            shows >= share * np.count_nonzero(_coverage(shape, config.size, cv2.LINE_8))
            for shape, shows, share in zip(objects, areas, least, strict=True)
        ):
            return objects, order, owner


def _place(label: int, diameter: float, config: SceneConfig, rng: np.random.Generator) -> _Object:
    angle = math.radians(config.rotation) * rng.uniform(-1, 1)
    along = rng.uniform(0, 2 * math.pi)
    squeeze = np.diag([1.0, 1 / rng.uniform(1, config.squeeze)])
    turned = _rotation(along) @ squeeze @ _rotation(-along) @ _rotation(angle)
    # Most of every object lies within the picture.
    margin = 0.42 * diameter
    center = rng.uniform(margin, config.size - margin, 2)
    matrix = turned.T * diameter / 2
    placed = [points @ matrix + center for points in SHAPES[SHAPE_NAMES[label]]]
    return _Object(label, [np.rint(p * 2**_SUBPIXEL_BITS).astype(np.int32) for p in placed])


def _coverage(shape: _Object, size: int, line: int) -> np.ndarray:
    """Returns uint8 [size, size]: 255 inside, with antialiased edges for LINE_AA."""
    canvas = np.zeros((size, size), np.uint8)
    # Several contours in one call are filled by the even-odd rule, which makes the ring's hole.
    return cv2.fillPoly(canvas, shape.contours, 255, line, _SUBPIXEL_BITS)


def _owners(objects: list[_Object], order: list[int], size: int) -> np.ndarray:
    """Returns uint8 [size, size]: 1 + the index of the object that is seen, 0 for background."""
    owner = np.zeros((size, size), np.uint8)
    for index in order:
        cv2.fillPoly(owner, objects[index].contours, 1 + index, cv2.LINE_8, _SUBPIXEL_BITS)
    return owner


def _visible_objects(objects: list[_Object], owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = len(owner)
    least = max(8, (size / 32) ** 2)  # fewer pixels cannot be told apart
    boxes, labels = [], []
    for index, shape in enumerate(objects):
        seen = (owner == 1 + index).astype(np.uint8)
        if np.count_nonzero(seen) < least:
            continue
        x, y, width, height = cv2.boundingRect(seen)
        boxes.append([y, x, y + height, x + width])
        labels.append(shape.label)
    return np.array(boxes, np.float32).reshape(-1, 4) / size, np.array(labels, np.int64)


def _contrasting(other: np.ndarray, least: float, rng: np.random.Generator) -> np.ndarray:
    while True:
        color = rng.uniform(10, 245, 3)
        if np.linalg.norm(color - other) >= least:
            return color


def _texture(
    shape: tuple[int, int], color: np.ndarray, config: SceneConfig, rng: np.random.Generator
) -> np.ndarray:
    """Returns float32 [*shape, 3]: a pattern of two colours around `color`."""
    direction = rng.standard_normal(3)
    direction *= rng.uniform(*config.texture) / 2 / np.linalg.norm(direction)
    pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))]
    angle = rng.uniform(0, 2 * math.pi)
    period = rng.uniform(0.1, 0.25) * config.size
    level = pattern(*_grid(shape, angle, rng.uniform(0, config.size, 2)), period)
    return color.astype(np.float32) + level[..., None] * direction.astype(np.float32)


def _grid(shape: tuple[int, int], angle: float, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns turned and shifted pixel coordinates, float32 of that shape each."""
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    x = np.arange(shape[1], dtype=np.float32)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    u = cos * x + sin * y + np.float32(shift[0])
    v = cos * y - sin * x + np.float32(shift[1])
    return u, v


def _flat(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    del v, period
    return np.zeros_like(u)


def _stripes(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    del v
    return _soft(np.sin(u * np.float32(2 * math.pi / period)))


def _checker(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    scale = np.float32(math.pi / period)
    return _soft(2 * np.sin(u * scale) * np.sin(v * scale))


def _dots(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    scale = np.float32(2 * math.pi / period)
    return _soft(np.cos(u * scale) + np.cos(v * scale) - 0.5)


def _gradient(u: np.ndarray, v: np.ndarray, period: float) -> np.ndarray:
    del v, period
    low, high = float(u.min()), float(u.max())
    return (u - low) * np.float32(2 / max(high - low, 1)) - 1


def _soft(wave: np.ndarray) -> np.ndarray:
    """Turns a wave into two levels with edges about a pixel wide."""
    return np.clip(wave * 3, -1, 1)


_PATTERNS: tuple[Callable[[np.ndarray, np.ndarray, float], np.ndarray], ...] = (
    _flat,
    _stripes,
    _checker,
    _dots,
    _gradient,
)


def _rotation(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _arc(radius: float, start: float, stop: float, count: int = 48) -> Points:
    angles = np.linspace(start, stop, count)
    return radius * np.stack([np.cos(angles), np.sin(angles)], 1)


def _polygon(corners: int) -> Points:
    return _arc(1.0, 0, 2 * math.pi, corners + 1)[:-1]


def _star() -> Points:
    points = _polygon(10)
    points[1::2] *= 0.42
    return points


def _cross(arm: float = 0.32) -> Points:
    quarter = np.array([[1, -arm], [1, arm], [arm, arm]]) * [0.95, 1]
    turns = [quarter @ _rotation(k * math.pi / 2).T for k in range(4)]
    return np.concatenate(turns)


def _crescent(shift: float = 0.5) -> Points:
    # The unit circle without an equal circle that lies `shift` to the right.
    half = math.acos(shift / 2)
    outer = _arc(1.0, half, 2 * math.pi - half)
    inner = _arc(1.0, math.pi + half, math.pi - half)[::1] + [shift, 0]
    return np.concatenate([outer, inner])


def _heart() -> Points:
    t = np.linspace(0, 2 * math.pi, 60, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2.5], 1) / 16


SHAPES: dict[str, list[Points]] = {
    "circle": [_polygon(48)],
    "square": [_polygon(4)],
    "triangle": [_polygon(3)],
    "star": [_star()],
    "cross": [_cross()],
    "ring": [_polygon(48), 0.55 * _polygon(48)],
    "heart": [_heart()],
    "crescent": [_crescent()],
}
SHAPE_NAMES: tuple[str, ...] = tuple(SHAPES)
