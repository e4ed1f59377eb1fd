"""Pre-norm transformer over the tokens of a MobileViT block (paper section 3.1; CVNets v0.1)."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util

from mobilevit_jax.models.layers import Dense, Dropout, Dtype
from mobilevit_jax.ops import (
    attention_map,
    join_heads,
    layer_norm,
    recomputed,
    self_attention,
    split_heads,
)

_EPS = 1e-5


class LayerNorm(nn.Module):
    """Layer norm over the last axis, eps 1e-5, as `nn.LayerNorm` but by `ops.layer_norm`.

    Attributes:
        dtype: Type of the output; the statistics are float32.
        whole: Whether mean and variance are those of a whole map, [b, ..., c], as of PyTorch's
            `GroupNorm` with one group.
    """

    dtype: Dtype = jnp.float32
    whole: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [..., c] to the same shape."""
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        return layer_norm(x, scale, bias, _EPS, self.whole).astype(self.dtype)


class MultiHeadAttention(nn.Module):
    """Self-attention with one fused projection for query, key and value.

    The attention map [b, p, heads, n, n] is sown as "attention" in the collection "intermediates".

    Attributes:
        heads: Number of heads; the token's width must be a multiple.
        dropout: Rate on the attention map.
        dtype: Type of the computation; the softmax is float32.
    """

    heads: int
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens [b, p, n, dim] to the same shape; attention runs over n."""
        dim = x.shape[-1]
        qkv = Dense(3 * dim, dtype=self.dtype, name="qkv")(x)
        dropped = train and self.dropout > 0
        if dropped or self.is_mutable_collection("intermediates"):
            query, key, value = split_heads(qkv, self.heads)
            weights = attention_map(query, key)
            self.sow("intermediates", "attention", weights)
            weights = Dropout(self.dropout)(weights, train)
            y = join_heads(weights.astype(self.dtype) @ value)
        else:
            y = self_attention(qkv, self.heads)
        return Dense(dim, dtype=self.dtype, name="out")(y)


class TransformerLayer(nn.Module):
    """y + Drop(MHA(LN(y))), then y + Drop(FFN(LN(y))) with SiLU inside the FFN.

    Attributes:
        heads: Attention heads.
        ffn_dim: Hidden width of the feed-forward network.
        dropout: Rate after attention and after the feed-forward network.
        attention_dropout: Rate on the attention map.
        ffn_dropout: Rate on the hidden layer of the feed-forward network.
        dtype: Type of the computation.
    """

    heads: int
    ffn_dim: int
    dropout: float = 0.1
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps tokens [b, p, n, dim] to the same shape."""
        y = LayerNorm(self.dtype, name="attention_norm")(x)
        y = MultiHeadAttention(
            self.heads, self.attention_dropout, dtype=self.dtype, name="attention"
        )(y, train)
        x = x + Dropout(self.dropout)(y, train)
        y = LayerNorm(self.dtype, name="ffn_norm")(x)
        y = Dense(self.ffn_dim, dtype=self.dtype, name="ffn_expand")(y)
        y = Dropout(self.ffn_dropout)(recomputed(nn.silu, y), train)
        y = Dense(x.shape[-1], dtype=self.dtype, name="ffn_reduce")(y)
        return x + Dropout(self.dropout)(y, train)


def attention_maps(
    model: nn.Module, variables: Any, images: jax.Array
) -> dict[str, tuple[jax.Array, ...]]:
    """Returns the attention maps of every stage that has any, for looking inside.

    Args:
        model: Any model of `create_model`.
        variables: Its parameters and batch statistics.
        images: [b, h, w, 3] in [0, 1].

    Returns:
        {stage: maps}, of MobileViT "layer_3", "layer_4", "layer_5" -> one array [b, p, heads, n, n]
        for each transformer layer: p places in a patch, n patches in row-major order; the last axis
        sums to 1.
    """
    _, state = model.apply(variables, images, mutable=["intermediates"])
    sown: dict[tuple[str, ...], Any] = traverse_util.flatten_dict(state.get("intermediates", {}))
    found: dict[str, list[jax.Array]] = {}
    # Numbers in names are compared as numbers: transformer_10 comes after transformer_9.
    for path in sorted(sown, key=lambda path: [_numbered(part) for part in path]):
        if path[-1] == "attention":
            found.setdefault(path[1], []).append(sown[path][0])
    return {stage: tuple(maps) for stage, maps in found.items()}


def _numbered(name: str) -> tuple[str, int]:
    stem, _, number = name.rpartition("_")
    return (stem, int(number)) if number.isdecimal() else (name, 0)
