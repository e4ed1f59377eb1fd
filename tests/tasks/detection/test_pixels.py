import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks.detection.pixels import pixel_boxes, seen_part

WHOLE = ImageProcessor(size=(320, 320), crop_size=(320, 320))
LETTERBOX = ImageProcessor(do_pad=True, size=(320, 416), crop_size=(320, 416))


def test_shares_of_a_whole_image():
    boxes = np.array([[0.25, 0.5, 0.5, 1], [-0.2, -0.1, 1.3, 2]], np.float32)
    found = pixel_boxes(boxes, 480, 640, WHOLE)
    np.testing.assert_allclose(found, [[160, 240, 320, 480], [0, 0, 640, 480]])
    assert found.dtype == np.float32
    assert pixel_boxes(boxes[:0], 480, 640, WHOLE).shape == (0, 4)


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (WHOLE, (0, 0, 640, 480)),
        (ImageProcessor(size=(240, 320), crop_size=(240, 320)), (0, 0, 640, 480)),
        (ImageProcessor(size=240, crop_size=(240, 240)), (80, 0, 560, 480)),
        (ImageProcessor(size=288, do_center_crop=False), (0, 0, 640, 480)),
        (ImageProcessor(do_resize=False, crop_size=(400, 600)), (20, 40, 620, 440)),
        # 80 and 160 zeros around it.
        (ImageProcessor(do_resize=False, crop_size=(640, 960)), (-160, -80, 800, 560)),
        # 320 x 426 would be too wide: 312 x 416.
        (LETTERBOX, (0, 0, 640, 480 * 320 / 312)),
        (ImageProcessor(do_pad=True, size=64, do_center_crop=False), (0, 0, 640, 640)),
    ],
)
def test_the_part_that_is_seen(processor, expected):
    assert seen_part(480, 640, processor) == pytest.approx(expected)


@pytest.mark.parametrize(
    "processor",
    [
        WHOLE,
        ImageProcessor(size=90, crop_size=(70, 64)),
        ImageProcessor(do_resize=False, crop_size=(151, 160)),
        ImageProcessor(size=(50, 61), crop_size=(80, 40)),
        ImageProcessor(do_pad=True, size=(96, 160), crop_size=(96, 160)),
        ImageProcessor(do_pad=True, size=(200, 96), do_center_crop=False),
    ],
)
def test_a_patch_is_found_where_it_is(processor):
    image = np.zeros((120, 100, 3), np.uint8)
    cv2.rectangle(image, (40, 50), (59, 79), (255, 255, 255), -1)
    seen = processor.pixels(image)[:, :, 0] > 127
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    corners = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    shares = corners / (seen.shape[::-1] * 2)
    found = pixel_boxes(shares, 120, 100, processor)
    np.testing.assert_allclose(found, [40, 50, 60, 80], atol=1.3)


side, share = st.integers(1, 3000), st.floats(0, 1)


@given(side, side, side, side, st.tuples(share, share, share, share))
def test_into_a_letterbox_and_back(height, width, most_height, most_width, shares):
    """Whatever the sizes, one pixel included, a box comes back to where it was."""
    size = (most_height, most_width)
    processor = ImageProcessor(do_pad=True, size=size, crop_size=size)
    resized = processor.resized_size(height, width)
    into = np.array(resized[::-1] * 2) / (size[::-1] * 2)
    box = np.sort(np.reshape(shares, (2, 2)), axis=0).ravel()
    found = pixel_boxes(box * into, height, width, processor)
    np.testing.assert_allclose(found, box * ([width, height] * 2), rtol=1e-5, atol=1e-5)
    # What is found in the padding is cut off at the image's edge.
    whole = pixel_boxes(np.array([0, 0, 1, 1]), height, width, processor)
    np.testing.assert_allclose(whole, [0, 0, width, height], rtol=1e-6)
