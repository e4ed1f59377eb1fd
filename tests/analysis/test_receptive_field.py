"""Which pixels reach which: the paper's rule h, w <= n, and what it is made of."""

import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.analysis.plots_receptive_field import codes, receptive_fields
from mobilevit_jax.analysis.receptive_field import reach, sees_all
from mobilevit_jax.errors import ConfigurationError


def expected(kernel, patch, side):
    """Reckons the same without a network: attended pixels and their neighbours."""
    places = np.arange(side)
    attended = places[:, None] % patch == places % patch  # output row, attended row
    near = np.abs(places[:, None] - places) <= kernel // 2  # attended row, input row
    line = attended.astype(int) @ near.astype(int) > 0
    return line[:, None, :, None] & line[None, :, None, :]


@pytest.mark.parametrize(("kernel", "patch"), [(1, 1), (1, 2), (3, 2), (3, 3), (3, 4), (5, 4)])
def test_gradients_say_what_the_construction_says(kernel, patch):
    side = 3 * patch if patch > 1 else 4
    found = reach(kernel, patch, side)
    assert found.shape == (side,) * 4 and found.dtype == bool
    np.testing.assert_array_equal(found, expected(kernel, patch, side))


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_every_pixel_sees_all_if_and_only_if_the_patch_is_at_most_the_kernel(kernel):
    for patch in range(1, 7):
        # As the construction has it, which the test above holds against gradients, everywhere ...
        side = 5 * patch
        inside = slice(patch, side - patch)
        rule = expected(kernel, patch, side)[:, :, inside, inside].all()
        assert rule == (patch <= kernel)
    for patch in (kernel, kernel + 1):  # ... and gradients themselves where the rule turns
        assert sees_all(kernel, patch, 3 * patch) == (patch <= kernel)


def test_at_the_border_a_pixel_may_be_out_of_reach():
    # The last place of a patch of 3: of the first patch it sees rows 1 to 3, never row 0.
    found = reach(3, 3, 9)
    assert not found[2, 2, 0].any() and found[2, 2, 1:, 1:].all()


def test_more_layers_reach_no_further_and_the_fusion_does():
    np.testing.assert_array_equal(reach(3, 4, 12, depth=2), reach(3, 4, 12))
    assert not reach(3, 4, 12)[5, 5].all() and reach(3, 4, 12, fusion=True)[5, 5].all()


@pytest.mark.parametrize("numbers", [(2, 2, 4), (3, 0, 4), (3, 2, 0), (-1, 2, 4)])
def test_sizes_that_are_none(numbers):
    with pytest.raises(ConfigurationError, match="at least 1 and the kernel odd"):
        reach(*numbers)


def test_the_kinds_of_pixels():
    found, (row, column) = codes(3, 4)
    assert found.shape == (12, 12) and (row, column) == (5, 5)
    assert found[5, 5] == 3
    # Eight attended pixels; each of the nine brings eight neighbours.
    assert [int((found == kind).sum()) for kind in range(4)] == [144 - 81, 72, 8, 1]
    assert {tuple(place % 4) for place in np.argwhere(found >= 2)} == {(1, 1)}


def test_the_picture(tmp_path):
    receptive_fields(tmp_path / "field.png", [(3, 2), (3, 4)])
    with Image.open(tmp_path / "field.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    for colour in ("D55E00", "0072B2", "B7CFE0"):
        assert (pixels == tuple(bytes.fromhex(colour))).all(-1).any()
    with pytest.raises(ConfigurationError, match="no kernel"):
        receptive_fields(tmp_path / "none.png", [])
    assert [path.name for path in tmp_path.iterdir()] == ["field.png"]
