"""Unfolding of feature maps into patches and back (paper section 3.1, Figure 1b)."""

import jax
import jax.numpy as jnp


def padded_size(height: int, width: int, patch_size: tuple[int, int]) -> tuple[int, int]:
    """Returns the size in pixels, rounded up to whole patches."""
    rows, columns = patch_size
    return -(-height // rows) * rows, -(-width // columns) * columns


def unfold(x: jax.Array, patch_size: tuple[int, int]) -> jax.Array:
    """Groups the pixels that share their place in a patch, so that attention runs among them.

    Args:
        x: Feature map [b, h, w, c], h and w multiples of the patch.
        patch_size: Pixels of a patch, (rows, columns).

    Returns:
        [b, p, n, c]: p = rows * columns places in a patch, n patches in row-major order.

    Raises:
        ValueError: If the map does not hold whole patches.
    """
    batch, height, width, channels = x.shape
    rows, columns = patch_size
    if height % rows or width % columns:
        raise ValueError(
            f"a {height}x{width} map does not hold whole {rows}x{columns} patches; resize it to "
            f"{padded_size(height, width, patch_size)} first"
        )
    # b (nh ph) (nw pw) c -> b (ph pw) (nh nw) c
    x = x.reshape(batch, height // rows, rows, width // columns, columns, channels)
    x = x.transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(batch, rows * columns, -1, channels)


def fold(x: jax.Array, patch_size: tuple[int, int], size: tuple[int, int]) -> jax.Array:
    """Undoes `unfold`.

    Args:
        x: Tokens [b, p, n, c].
        patch_size: Pixels of a patch, (rows, columns).
        size: Height and width of the map in pixels.

    Returns:
        The feature map [b, h, w, c].
    """
    batch, _, _, channels = x.shape
    (rows, columns), (height, width) = patch_size, size
    # b (ph pw) (nh nw) c -> b (nh ph) (nw pw) c
    x = x.reshape(batch, rows, columns, height // rows, width // columns, channels)
    x = x.transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(batch, height, width, channels)


def resize_bilinear(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Resizes a map [b, h, w, c] as PyTorch does with `align_corners=False`.

    Antialiasing, which JAX would switch on for shrinking, is off: PyTorch has none.
    """
    if x.shape[1:3] == tuple(size):
        return x
    shape = (x.shape[0], *size, x.shape[-1])
    return jax.image.resize(x, shape, "bilinear", antialias=False).astype(jnp.result_type(x))
