"""The 21 classes of PASCAL VOC's segmentation: names, colours, and what COCO has of them."""

import functools

import numpy as np

VOC_CLASSES: tuple[str, ...] = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""By class index; `VOID` pixels have none."""

VOID = 255
"""The value of the pixels that belong to no class: outlines and what is too hard to tell."""

VOC_OF_COCO: dict[int, int] = {
    5: 1,
    2: 2,
    16: 3,
    9: 4,
    44: 5,
    6: 6,
    3: 7,
    17: 8,
    62: 9,
    21: 10,
    67: 11,
    18: 12,
    19: 13,
    4: 14,
    1: 15,
    64: 16,
    20: 17,
    63: 18,
    7: 19,
    72: 20,
}
"""{COCO category id: VOC class}; the other 60 categories are background.

From CVNets' `coco_segmentation.py`, which lists the ids in the order of VOC's classes.
"""


def class_names_voc() -> tuple[str, ...]:
    """Returns the 21 names, background first."""
    return VOC_CLASSES


@functools.cache
def voc_palette() -> np.ndarray:
    """Returns VOC's colours, uint8 [256, 3] in RGB, by class index; black for the background.

    As the development kit of VOC defines them: the bits of the index go to red, green and blue in
    turn, each colour's from its highest bit down.
    """
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        channel, place = bit % 3, 7 - bit // 3
        palette[:, channel] |= ((index >> bit & 1) << place).astype(np.uint8)
    palette.setflags(write=False)
    return palette
