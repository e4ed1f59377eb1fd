"""Unfolding of feature maps into patches and back (paper section 3.1, Figure 1b)."""

import jax
import jax.numpy as jnp
import numpy as np


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


def resize_bilinear(
    x: jax.Array, size: tuple[int, int], *, align_corners: bool = False
) -> jax.Array:
    """Resizes a map [b, h, w, c] as PyTorch does.

    Antialiasing, which JAX would switch on for shrinking, is off: PyTorch has none.

    Args:
        x: The map.
        size: Height and width of the result.
        align_corners: Whether the centres of the corner pixels stay where they are, instead of the
            corners of the image.
    """
    if x.shape[1:3] == tuple(size):
        return x
    shape = (x.shape[0], *size, x.shape[-1])
    if not align_corners:
        return jax.image.resize(x, shape, "bilinear", antialias=False).astype(x.dtype)
    # A side of one pixel has no second corner: PyTorch repeats it, or takes the first of many.
    x = x[:, : 1 if size[0] == 1 else None, : 1 if size[1] == 1 else None]
    old = np.array(x.shape[1:3])
    scale = np.where(old > 1, (np.array(size) - 1) / np.maximum(old - 1, 1), size)
    # JAX puts the centre of pixel i at i + 0.5.
    translation = np.where(old > 1, 0.5 - 0.5 * scale, 0.0)
    resized = jax.image.scale_and_translate(
        x,
        shape,
        (1, 2),
        jnp.asarray(scale, jnp.float32),
        jnp.asarray(translation, jnp.float32),
        "bilinear",
        antialias=False,
    )
    return resized.astype(x.dtype)
