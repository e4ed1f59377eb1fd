"""Pictures of features and attention: which pixel looks where, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mobilevit_jax.analysis.plots_inside import (
    attended,
    attention_over_patches,
    feature_maps,
    patch_grid,
)
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.patches import unfold

RNG = np.random.default_rng(0)


def attention(places, heads, patches):
    weights = RNG.random((1, places, heads, patches, patches))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("patch_size", [1, 2, 3, 4])
@pytest.mark.parametrize("pixel", [(0, 0), (5, 7), (11, 23), (4, 12)])
def test_a_place_of_the_image_is_the_pixel_that_unfolding_gives(patch_size, pixel):
    height, width = 12, 24
    grid = patch_grid((height, width), patch_size)
    numbers = jnp.arange(height * width).reshape(1, height, width, 1)
    tokens = np.asarray(unfold(numbers, (patch_size, patch_size)))[0, :, :, 0]
    (place,), (patch,) = np.nonzero(tokens == pixel[0] * width + pixel[1])
    weights = attention(*[patch_size**2, 3, grid[0] * grid[1]])
    at = (pixel[0] + 0.5) / height, (pixel[1] + 0.5) / width
    found, frame = attended(weights, grid, patch_size, at)
    np.testing.assert_array_equal(
        found, weights[0, place, :, patch].reshape(3, *grid).astype(np.float32)
    )
    assert frame == divmod(patch, grid[1])
    np.testing.assert_allclose(found.sum((1, 2)), 1, rtol=1e-6)


def test_a_map_that_does_not_divide_is_enlarged():
    assert patch_grid((9, 16), 4) == (3, 4)
    assert patch_grid((8, 8), 2) == (4, 4)


@pytest.mark.parametrize("at", [(1.0, 0.5), (0.5, -0.1)])
def test_a_place_outside_is_refused(at):
    with pytest.raises(ConfigurationError, match=r"shares of the image in \[0, 1\)"):
        attended(attention(4, 2, 16), (4, 4), 2, at)


def test_attention_of_another_grid_is_refused():
    with pytest.raises(ConfigurationError, match="16 patches of 4 places.*grid of 3 x 4"):
        attended(attention(4, 2, 16), (3, 4), 2, (0.5, 0.5))


def test_several_images_are_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="one image is drawn at a time, not 2"):
        feature_maps({"layer_1": np.zeros((2, 4, 4, 3))}, tmp_path / "features.png")


def test_a_model_without_attention_maps(tmp_path):
    with pytest.raises(ConfigurationError, match="there are no attention maps to draw"):
        attention_over_patches(np.zeros((8, 8, 3)), {}, {}, tmp_path / "a.png")


def test_nothing_to_draw_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="at least one stage"):
        feature_maps({}, tmp_path / "features.png")


def test_features_are_drawn(tmp_path):
    path = tmp_path / "features.png"
    features = {"conv_1": RNG.random((1, 16, 16, 5)), "layer_1": RNG.random((1, 8, 8, 12))}
    feature_maps(features, path, channels=6)  # conv_1 has only five
    pixels = np.asarray(Image.open(path).convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_attention_is_drawn_for_every_block(tmp_path):
    path = tmp_path / "attention.png"
    attention_over_patches(
        RNG.random((64, 96, 3)),
        {"layer_3": (attention(4, 4, 24),) * 2, "layer_4": (attention(9, 4, 4),) * 3},
        {"layer_3": np.zeros((1, 8, 12, 3)), "layer_4": np.zeros((1, 4, 6, 3))},
        path,
        patch_sizes=(2, 3),
        at=(0.9, 0.1),
    )
    height, width, _ = np.asarray(Image.open(path)).shape
    assert width > height > 300


def test_the_frame_stands_on_the_patch_that_looks(tmp_path):
    """The frame's colour is nowhere but round the patch, in the corner that `at` names."""
    path = tmp_path / "attention.png"
    attention_over_patches(
        np.zeros((64, 64, 3)),
        {"layer_3": (attention(4, 1, 16),)},
        {"layer_3": np.zeros((1, 8, 8, 3))},
        path,
        patch_sizes=(2,),
        at=(0.95, 0.05),
    )
    pixels = np.asarray(Image.open(path).convert("RGB")).astype(int)
    framed = np.argwhere(np.abs(pixels - [0xD5, 0x5E, 0x00]).sum(-1) < 12)
    third = pixels.shape[1] // 3  # the image, the mean, and the only head
    left = framed[framed[:, 1] < third]
    assert len(left) > 100
    assert left[:, 0].min() > 0.6 * pixels.shape[0]
    assert left[:, 1].max() < 0.5 * third
