"""Names of MobileViT's tensors in CVNets v0.1, transformers and timm; what tensors tell of it."""

from dataclasses import replace
from typing import Any

from mobilevit_jax.errors import DataError
from mobilevit_jax.models.backbones.mobilevit.network import MobileViT
from mobilevit_jax.models.backbones.mobilevit.variants import VARIANTS, Variant
from mobilevit_jax.models.names import BackboneNames, Row, Tensors, whole_ratio
from mobilevit_jax.models.trunk_names import (
    CVNETS_TRUNK,
    HUGGINGFACE_STAGE,
    HUGGINGFACE_TRUNK,
    TIMM_TRUNK,
)

# Leaves no trace in the tensors; all published sizes have as many.
_HEADS = 4
# The only depths that transformers and timm have: they stand in their code.
_DEPTHS = (2, 4, 3)

_BLOCK = "backbone/layer_{stage}/mobilevit"
_LAYER = "backbone/layer_{stage}/mobilevit/transformer_{layer}"
_CVNETS = "layer_{stage}.1.global_rep.{layer}"
_HUGGINGFACE = "encoder.layer.{index}.transformer.layer.{layer}"
_TIMM = "stages.{index}.1.transformer.{layer}"

_CVNETS_ROWS = (
    *CVNETS_TRUNK,
    # Before local_conv, whose name is the same for 1x1 kernels.
    Row(f"{_BLOCK}/local_project", "layer_{stage}.1.local_rep.conv_1x1.block.conv", "conv"),
    Row(f"{_BLOCK}/local_conv", "layer_{stage}.1.local_rep.conv_{kernel}x{kernel}.block"),
    Row(f"{_LAYER}/attention_norm", f"{_CVNETS}.pre_norm_mha.0", "norm"),
    Row(f"{_LAYER}/attention/qkv", f"{_CVNETS}.pre_norm_mha.1.qkv_proj", "dense"),
    Row(f"{_LAYER}/attention/out", f"{_CVNETS}.pre_norm_mha.1.out_proj", "dense"),
    Row(f"{_LAYER}/ffn_norm", f"{_CVNETS}.pre_norm_ffn.0", "norm"),
    Row(f"{_LAYER}/ffn_expand", f"{_CVNETS}.pre_norm_ffn.1", "dense"),
    Row(f"{_LAYER}/ffn_reduce", f"{_CVNETS}.pre_norm_ffn.4", "dense"),
    # The norm after the transformers is one more entry of their list.
    Row(f"{_BLOCK}/final_norm", "layer_{stage}.1.global_rep.{last}", "norm"),
    Row(f"{_BLOCK}/project", "layer_{stage}.1.conv_proj.block"),
    Row(f"{_BLOCK}/fusion", "layer_{stage}.1.fusion.block"),
    Row("conv_1x1_exp", "conv_1x1_exp.block"),
)

_HUGGINGFACE_ROWS = (
    *HUGGINGFACE_TRUNK,
    Row(f"{_BLOCK}/local_conv", f"{HUGGINGFACE_STAGE}.conv_kxk"),
    Row(f"{_BLOCK}/local_project", f"{HUGGINGFACE_STAGE}.conv_1x1.convolution", "conv"),
    Row(f"{_LAYER}/attention_norm", f"{_HUGGINGFACE}.layernorm_before", "norm"),
    Row(
        f"{_LAYER}/attention/qkv",
        tuple(f"{_HUGGINGFACE}.attention.attention.{part}" for part in ("query", "key", "value")),
        "dense",
    ),
    Row(f"{_LAYER}/attention/out", f"{_HUGGINGFACE}.attention.output.dense", "dense"),
    Row(f"{_LAYER}/ffn_norm", f"{_HUGGINGFACE}.layernorm_after", "norm"),
    Row(f"{_LAYER}/ffn_expand", f"{_HUGGINGFACE}.intermediate.dense", "dense"),
    Row(f"{_LAYER}/ffn_reduce", f"{_HUGGINGFACE}.output.dense", "dense"),
    Row(f"{_BLOCK}/final_norm", f"{HUGGINGFACE_STAGE}.layernorm", "norm"),
    Row(f"{_BLOCK}/project", f"{HUGGINGFACE_STAGE}.conv_projection"),
    Row(f"{_BLOCK}/fusion", f"{HUGGINGFACE_STAGE}.fusion"),
    Row("conv_1x1_exp", "conv_1x1_exp"),
)

_TIMM_ROWS = (
    *TIMM_TRUNK,
    Row(f"{_BLOCK}/local_conv", "stages.{index}.1.conv_kxk"),
    Row(f"{_BLOCK}/local_project", "stages.{index}.1.conv_1x1", "conv"),
    Row(f"{_LAYER}/attention_norm", f"{_TIMM}.norm1", "norm"),
    Row(f"{_LAYER}/attention/qkv", f"{_TIMM}.attn.qkv", "dense"),
    Row(f"{_LAYER}/attention/out", f"{_TIMM}.attn.proj", "dense"),
    Row(f"{_LAYER}/ffn_norm", f"{_TIMM}.norm2", "norm"),
    Row(f"{_LAYER}/ffn_expand", f"{_TIMM}.mlp.fc1", "dense"),
    Row(f"{_LAYER}/ffn_reduce", f"{_TIMM}.mlp.fc2", "dense"),
    Row(f"{_BLOCK}/final_norm", "stages.{index}.1.norm", "norm"),
    Row(f"{_BLOCK}/project", "stages.{index}.1.conv_proj"),
    Row(f"{_BLOCK}/fusion", "stages.{index}.1.conv_fusion"),
    Row("conv_1x1_exp", "final_conv"),
)


def _other_depths(backbone: MobileViT) -> list[str]:
    depths = backbone.variant.depths
    return [] if depths == _DEPTHS else [f"depths={depths} (always {_DEPTHS} there)"]


def _refused_by_huggingface(backbone: MobileViT) -> list[str]:
    return _other_depths(backbone) + ([] if backbone.fusion else ["fusion=False"])


def _refused_by_cvnets(backbone: MobileViT) -> list[str]:
    ratio = backbone.variant.expansion
    return [] if ratio >= 2 else [f"expansion={ratio} (no expanding convolution there)"]


def _unnamed_by_cvnets(backbone: MobileViT) -> list[str]:
    size = backbone.kernel_size
    return [] if size >= 3 else [f"kernel_size={size} (two convolutions of one name there)"]


def _values(backbone: MobileViT, stage: int) -> dict[str, Any]:
    last = backbone.variant.depths[stage - 3] if stage >= 3 else None
    return {"last": last, "kernel": backbone.kernel_size}


NAMES = {
    "cvnets": BackboneNames(
        _CVNETS_ROWS, "/transformer_", _refused_by_cvnets, _unnamed_by_cvnets, _values
    ),
    "huggingface": BackboneNames(_HUGGINGFACE_ROWS, "/transformer_", _refused_by_huggingface),
    "timm": BackboneNames(_TIMM_ROWS, "/transformer_", _other_depths),
}


def recognise(tensors: Tensors) -> tuple[str | None, dict[str, Any]]:
    """Tells the network from its tensors.

    Returns:
        The name of the size, None for one of nobody's table; and the options that follow.

    Raises:
        DataError: If what is there does not make up a MobileViT.
    """
    variant = _variant(tensors)
    size = next((size for size, known in VARIANTS.items() if same_tensors(known, variant)), None)
    return f"mobilevit_{size}" if size else None, {
        "variant": VARIANTS[size] if size else variant,
        "fusion": "backbone/layer_3/mobilevit/fusion/conv/kernel" in tensors,
        "kernel_size": tensors["backbone/layer_3/mobilevit/local_conv/conv/kernel"][-1],
    }


def _variant(tensors: Tensors) -> Variant:
    stages = [f"backbone/layer_{number}" for number in range(1, 6)]
    blocks = [f"{stage}/mobilevit" for stage in stages[2:]]
    channels = [tensors.outputs("backbone/conv_1/conv/kernel")]
    channels += [tensors.outputs(f"{stage}/block_0/reduce_1x1/conv/kernel") for stage in stages]
    hidden = tensors.outputs(f"{stages[0]}/block_0/expand_1x1/conv/kernel")
    dims = [tensors.outputs(f"{block}/local_project/kernel") for block in blocks]
    ffn_dim = tensors.outputs(f"{blocks[0]}/transformer_0/ffn_expand/kernel")
    depths = [tensors.count(f"{block}/transformer_") for block in blocks]
    if any(dim % _HEADS for dim in dims):
        raise DataError(
            f"cannot tell the number of attention heads: {_HEADS} were assumed, and token widths "
            f"{', '.join(map(str, dims))} are no multiples; create the model with its variant"
        )
    return Variant(
        (channels[0], channels[1], channels[2], channels[3], channels[4], channels[5]),
        (dims[0], dims[1], dims[2]),
        whole_ratio(hidden, channels[0], "expansion"),
        tensors.outputs("conv_1x1_exp/conv/kernel")
        if "conv_1x1_exp/conv/kernel" in tensors
        # Only classifiers have it; this is what one of the size has.
        else min(4 * channels[5], 960),
        dropout=0.1,
        depths=(depths[0], depths[1], depths[2]),
        heads=_HEADS,
        ffn_multiplier=whole_ratio(ffn_dim, dims[0], "ffn_multiplier"),
    )


def same_tensors(one: Variant, other: Variant) -> bool:
    """Whether two variants have tensors of the same names and shapes."""
    return replace(one, dropout=other.dropout, heads=other.heads) == other
