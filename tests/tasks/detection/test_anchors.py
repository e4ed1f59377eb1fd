import numpy as np
import pytest

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.anchors import AnchorConfig, anchors, anchors_per_location
from tests.reference import golden

SIZES = ((20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1))


def test_golden():
    np.testing.assert_array_equal(anchors(SIZES), golden("ssd_s_320")["anchors"])


def test_order_and_form():
    found = anchors(SIZES)
    assert found.shape == (3232, 4) and found.dtype == np.float32
    # Small square, large square, then wide and tall of each ratio; then the next column.
    large = np.sqrt(0.1 * (0.1 + 0.95 / 6))
    w, h = 0.1 * np.sqrt([2, 3]), 0.1 / np.sqrt([2, 3])
    sizes = [(0.1, 0.1), (large, large), (w[0], h[0]), (h[0], w[0]), (w[1], h[1]), (h[1], w[1])]
    expected = [(0.025, 0.025, *size) for size in sizes]
    np.testing.assert_allclose(found[:6], expected, rtol=1e-6)
    np.testing.assert_allclose(found[6], (0.075, 0.025, 0.1, 0.1), rtol=1e-6)
    np.testing.assert_allclose(found[20 * 6], (0.025, 0.075, 0.1, 0.1), rtol=1e-6)


def test_clipped_to_the_unit_square_by_component():
    last = anchors(SIZES)[-4:]
    # 0.8917 * sqrt(2) is over 1, and so is the side of nothing else here.
    np.testing.assert_allclose(last[:, :2], 0.5)
    np.testing.assert_allclose(last[2], (0.5, 0.5, 1, 0.891667 / np.sqrt(2)), rtol=1e-5)
    np.testing.assert_allclose(last[3], (0.5, 0.5, 0.891667 / np.sqrt(2), 1), rtol=1e-5)


def test_height_and_width_are_not_confused():
    config = AnchorConfig(aspect_ratios=((),))
    found = anchors([(2, 3)], config)
    centres = [(x, y) for y in (1 / 4, 3 / 4) for x in (1 / 6, 1 / 2, 5 / 6)]
    np.testing.assert_allclose(found[::2, :2], centres, rtol=1e-6)


def test_count_follows_the_ratios():
    assert anchors_per_location() == (6, 6, 6, 6, 6, 4)
    config = AnchorConfig(0.2, 0.9, ((2,), (2, 3, 4)))
    assert anchors_per_location(config) == (4, 8)
    assert len(anchors([(4, 5), (2, 3)], config)) == 4 * 20 + 8 * 6


def test_a_level_too_few():
    with pytest.raises(ConfigurationError, match="6 levels, but there are 5 feature maps"):
        anchors(SIZES[:5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_scale": 0}, "0 < min_scale"),
        ({"min_scale": 1.2}, "0 < min_scale"),
        ({"aspect_ratios": ()}, "at least one level"),
        ({"aspect_ratios": ((2, -3),)}, "ratio must be positive; got -3"),
    ],
)
def test_bad_configuration(options, message):
    with pytest.raises(ConfigurationError, match=message):
        AnchorConfig(**options)
