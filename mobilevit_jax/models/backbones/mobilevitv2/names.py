"""Names of MobileViTv2's tensors in CVNets, transformers and timm; what tensors tell of it."""

from typing import Any

from mobilevit_jax.errors import DataError
from mobilevit_jax.models.backbones.mobilevitv2.network import MobileViTv2
from mobilevit_jax.models.backbones.mobilevitv2.variants import Variant, published
from mobilevit_jax.models.heads.deeplabv3 import LATER
from mobilevit_jax.models.names import BackboneNames, HeadNames, Row, Tensors, whole_ratio
from mobilevit_jax.models.trunk_names import (
    CVNETS_TRUNK,
    HUGGINGFACE_STAGE,
    HUGGINGFACE_TRUNK,
    TIMM_TRUNK,
)

_BLOCK = "backbone/layer_{stage}/mobilevit"
_UNIT = "backbone/layer_{stage}/mobilevit/unit_{layer}"
_CVNETS = "layer_{stage}.1.global_rep.{layer}"
_HUGGINGFACE = "encoder.layer.{index}.transformer.layer.{layer}"
_TIMM = "stages.{index}.1.transformer.{layer}"

_CVNETS_ROWS = (
    *CVNETS_TRUNK,
    Row(f"{_BLOCK}/local_conv", "layer_{stage}.1.local_rep.0.block"),
    Row(f"{_BLOCK}/local_project", "layer_{stage}.1.local_rep.1.block.conv", "conv"),
    Row(f"{_UNIT}/attention_norm", f"{_CVNETS}.pre_norm_attn.0", "norm"),
    Row(f"{_UNIT}/attention/qkv", f"{_CVNETS}.pre_norm_attn.1.qkv_proj.block.conv", "dense"),
    Row(f"{_UNIT}/attention/out", f"{_CVNETS}.pre_norm_attn.1.out_proj.block.conv", "dense"),
    Row(f"{_UNIT}/ffn_norm", f"{_CVNETS}.pre_norm_ffn.0", "norm"),
    Row(f"{_UNIT}/ffn_expand", f"{_CVNETS}.pre_norm_ffn.1.block.conv", "dense"),
    Row(f"{_UNIT}/ffn_reduce", f"{_CVNETS}.pre_norm_ffn.3.block.conv", "dense"),
    # The norm after the units is one more entry of their list.
    Row(f"{_BLOCK}/final_norm", "layer_{stage}.1.global_rep.{last}", "norm"),
    Row(f"{_BLOCK}/project", "layer_{stage}.1.conv_proj.block"),
)

_HUGGINGFACE_ROWS = (
    *HUGGINGFACE_TRUNK,
    Row(f"{_BLOCK}/local_conv", f"{HUGGINGFACE_STAGE}.conv_kxk"),
    Row(f"{_BLOCK}/local_project", f"{HUGGINGFACE_STAGE}.conv_1x1.convolution", "conv"),
    Row(f"{_UNIT}/attention_norm", f"{_HUGGINGFACE}.layernorm_before", "norm"),
    Row(f"{_UNIT}/attention/qkv", f"{_HUGGINGFACE}.attention.qkv_proj.convolution", "dense"),
    Row(f"{_UNIT}/attention/out", f"{_HUGGINGFACE}.attention.out_proj.convolution", "dense"),
    Row(f"{_UNIT}/ffn_norm", f"{_HUGGINGFACE}.layernorm_after", "norm"),
    Row(f"{_UNIT}/ffn_expand", f"{_HUGGINGFACE}.ffn.conv1.convolution", "dense"),
    Row(f"{_UNIT}/ffn_reduce", f"{_HUGGINGFACE}.ffn.conv2.convolution", "dense"),
    Row(f"{_BLOCK}/final_norm", f"{HUGGINGFACE_STAGE}.layernorm", "norm"),
    Row(f"{_BLOCK}/project", f"{HUGGINGFACE_STAGE}.conv_projection"),
)

_TIMM_ROWS = (
    *TIMM_TRUNK,
    Row(f"{_BLOCK}/local_conv", "stages.{index}.1.conv_kxk"),
    Row(f"{_BLOCK}/local_project", "stages.{index}.1.conv_1x1", "conv"),
    Row(f"{_UNIT}/attention_norm", f"{_TIMM}.norm1", "norm"),
    Row(f"{_UNIT}/attention/qkv", f"{_TIMM}.attn.qkv_proj", "dense"),
    Row(f"{_UNIT}/attention/out", f"{_TIMM}.attn.out_proj", "dense"),
    Row(f"{_UNIT}/ffn_norm", f"{_TIMM}.norm2", "norm"),
    Row(f"{_UNIT}/ffn_expand", f"{_TIMM}.mlp.fc1", "dense"),
    Row(f"{_UNIT}/ffn_reduce", f"{_TIMM}.mlp.fc2", "dense"),
    Row(f"{_BLOCK}/final_norm", "stages.{index}.1.norm", "norm"),
    Row(f"{_BLOCK}/project", "stages.{index}.1.conv_proj"),
)


def _refused_by_cvnets(backbone: MobileViTv2) -> list[str]:
    ratio = backbone.variant.expansion
    return [] if ratio >= 2 else [f"expansion={ratio} (no expanding convolution there)"]


def _last(backbone: MobileViTv2, stage: int) -> dict[str, Any]:
    return {"last": backbone.variant.depths[stage - 3] if stage >= 3 else None}


NAMES = {
    # It came with v0.2, which reads images with Pillow and resizes bicubically.
    "cvnets": BackboneNames(
        _CVNETS_ROWS,
        "/unit_",
        _refused_by_cvnets,
        values=_last,
        heads={
            "classifier": (HeadNames((Row("classifier", "classifier.1", "dense"),)),),
            "deeplabv3": (LATER,),
        },
        title="CVNets after v0.1",
        channel_order="rgb",
        processing={"resample": "pillow_bicubic"},
    ),
    "huggingface": BackboneNames(
        _HUGGINGFACE_ROWS,
        "/unit_",
        assumed={"implementation": "transformers"},
        processing={"resample": "pillow_bilinear"},
    ),
    "timm": BackboneNames(_TIMM_ROWS, "/unit_"),
}


def recognise(tensors: Tensors) -> tuple[str | None, dict[str, Any]]:
    """Tells the network from its tensors.

    Returns:
        The name of the size, None for one of nobody's table; and the options that follow.

    Raises:
        DataError: If what is there does not make up a MobileViTv2.
    """
    variant = _variant(tensors)
    return published(variant), {"variant": variant}


def _variant(tensors: Tensors) -> Variant:
    stages = [f"backbone/layer_{number}" for number in range(1, 6)]
    blocks = [f"{stage}/mobilevit" for stage in stages[2:]]
    channels = [tensors.outputs("backbone/conv_1/conv/kernel")]
    channels += [tensors.outputs(f"{stage}/block_0/reduce_1x1/conv/kernel") for stage in stages]
    hidden = tensors.outputs(f"{stages[0]}/block_0/expand_1x1/conv/kernel")
    dims = [tensors.outputs(f"{block}/local_project/kernel") for block in blocks]
    depths = [tensors.count(f"{block}/unit_") for block in blocks]
    ffn_dims = [tensors.outputs(f"{block}/unit_0/ffn_expand/kernel") for block in blocks]
    variant = Variant(
        (channels[0], channels[1], channels[2], channels[3], channels[4], channels[5]),
        (dims[0], dims[1], dims[2]),
        whole_ratio(hidden, channels[0], "expansion"),
        (depths[0], depths[1], depths[2]),
        -(-ffn_dims[0] // max(dims[0], 1)),  # hidden widths are rounded down
    )
    if ffn_dims != [variant.ffn_dim(dim) for dim in dims]:
        raise DataError(
            f"hidden widths of {ffn_dims} in the feed-forward networks are no multiple of the "
            f"units' {dims}, rounded down to 16"
        )
    return variant
