"""Which input pixels reach which output pixels of a MobileViT block, exactly, from gradients.

Attention joins the pixels at the same place of every patch; each of them has its neighbours from
the n x n convolution before. So an output pixel sees all of the map if the patch is not larger than
the kernel, h, w <= n (paper, Figure 13), but for a margin at the border, where a patch may lack the
neighbour that would have brought them.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.backbones.mobilevit import MobileViTBlock

_CHANNELS, _DIM = 4, 8
_AT_ONCE = 100  # output pixels whose gradients are held together


@functools.lru_cache(maxsize=32)
def reach(
    kernel_size: int, patch_size: int, side: int, *, depth: int = 1, fusion: bool = False
) -> np.ndarray:
    """Finds out which pixels of a map the outputs of a MobileViT block depend on.

    The block has random weights, so that no gradient is zero by chance; those of pixels out of
    reach are exactly zero, since they are products with zero.

    Args:
        kernel_size: Side n of the local and of the fusion convolution, odd.
        patch_size: Side h = w of a patch.
        side: Height and width of the map in pixels.
        depth: Transformer layers.
        fusion: Whether the block goes on to its fusion convolution, which joins what its
            neighbours see; without it local convolution and attention alone count.

    Returns:
        bool [side, side, side, side], read-only: for each output pixel [y, x] the map of the input
        pixels that reach it. A map that does not hold whole patches is resized as in the model.

    Raises:
        ConfigurationError: If the kernel is even, or a number is not positive.
    """
    if min(kernel_size, patch_size, side, depth) < 1 or kernel_size % 2 == 0:
        raise ConfigurationError(
            "kernel_size, patch_size, side and depth must be at least 1 and the kernel odd; got "
            f"{kernel_size}, {patch_size}, {side}, {depth}"
        )
    block, variables, x = _random_block(kernel_size, patch_size, side, depth, fusion)
    # Compiled once and run once: optimising the code would take longer than running it.
    compiled = jax.jit(
        functools.partial(_depends, block), compiler_options={"xla_backend_optimization_level": 0}
    )
    found = np.array(compiled(variables, x)).reshape(side, side, side, side)
    found.flags.writeable = False  # callers share it
    return found


def _random_block(
    kernel_size: int, patch_size: int, side: int, depth: int, fusion: bool
) -> tuple[MobileViTBlock, Any, jax.Array]:
    """Returns a block, random variables, and a random map [1, side, side, channels]."""
    block = MobileViTBlock(
        dim=_DIM,
        depth=depth,
        heads=2,
        ffn_dim=_DIM,
        patch_size=patch_size,
        kernel_size=kernel_size,
        fusion=fusion,
    )
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((1, side, side, _CHANNELS)), jnp.float32)
    # Drawn here, as compiling `init` would take longer than all the rest.
    shapes = jax.eval_shape(block.init, jax.random.key(0), x)
    return block, jax.tree_util.tree_map_with_path(functools.partial(_draw, rng), shapes), x


def _depends(block: MobileViTBlock, variables: Any, x: jax.Array) -> jax.Array:
    """Whether each output pixel has a gradient at each input pixel, [side ** 2, side, side]."""

    def outputs(image: jax.Array) -> jax.Array:
        """One number for each output pixel, [side ** 2]."""
        output: Any = block.apply(variables, image)
        return jnp.sum(output, (0, 3)).reshape(-1)

    _, pull_back = jax.vjp(outputs, x)
    return jax.lax.map(
        lambda row: jnp.any(pull_back(row)[0][0] != 0, -1),
        jnp.eye(x.shape[1] * x.shape[2]),
        batch_size=_AT_ONCE,
    )


def _draw(rng: np.random.Generator, path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Draws a variable so that nothing saturates: an attention of 0 would cut a path."""
    if path[-1].key in ("scale", "var"):
        return jnp.ones(leaf.shape)
    fan_in = np.prod(leaf.shape[:-1])
    return jnp.asarray(rng.standard_normal(leaf.shape) * fan_in**-0.5, jnp.float32)


def sees_all(kernel_size: int, patch_size: int, side: int | None = None) -> bool:
    """Whether every pixel sees every other one, the patches along the border left out.

    Local convolution and attention alone, before the fusion convolution.

    Args:
        kernel_size: Side n of the kernel, odd.
        patch_size: Side h = w of a patch.
        side: Height and width of the map in pixels; five patches if None.

    Raises:
        ConfigurationError: As `reach` does.
    """
    side = side or 5 * patch_size
    inside = slice(patch_size, side - patch_size)
    return bool(reach(kernel_size, patch_size, side)[:, :, inside, inside].all())
