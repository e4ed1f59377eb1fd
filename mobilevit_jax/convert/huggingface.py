"""Names of Hugging Face transformers' MobileViT, whose attention has three projections."""

from dataclasses import replace

from mobilevit_jax.convert.names import Layout, Row

_BLOCK = "backbone/layer_{stage}/mobilevit"
_LAYER = "backbone/layer_{stage}/mobilevit/transformer_{layer}"
_STAGE = "encoder.layer.{index}"
_THEIRS = "encoder.layer.{index}.transformer.layer.{layer}"

HUGGINGFACE = Layout(
    name="huggingface",
    title="Hugging Face transformers",
    encoder=(
        Row("backbone/conv_1", "conv_stem"),
        Row("backbone/layer_1/block_{block}/{unit}", "encoder.layer.0.layer.{block}.{unit}"),
        Row("backbone/layer_2/block_{block}/{unit}", "encoder.layer.1.layer.{block}.{unit}"),
        Row("backbone/layer_{stage}/block_0/{unit}", f"{_STAGE}.downsampling_layer.{{unit}}"),
        Row(f"{_BLOCK}/local_conv", f"{_STAGE}.conv_kxk"),
        Row(f"{_BLOCK}/local_project", f"{_STAGE}.conv_1x1.convolution", "conv"),
        Row(f"{_LAYER}/attention_norm", f"{_THEIRS}.layernorm_before", "norm"),
        Row(
            f"{_LAYER}/attention/qkv",
            (
                f"{_THEIRS}.attention.attention.query",
                f"{_THEIRS}.attention.attention.key",
                f"{_THEIRS}.attention.attention.value",
            ),
            "dense",
        ),
        Row(f"{_LAYER}/attention/out", f"{_THEIRS}.attention.output.dense", "dense"),
        Row(f"{_LAYER}/ffn_norm", f"{_THEIRS}.layernorm_after", "norm"),
        Row(f"{_LAYER}/ffn_expand", f"{_THEIRS}.intermediate.dense", "dense"),
        Row(f"{_LAYER}/ffn_reduce", f"{_THEIRS}.output.dense", "dense"),
        Row(f"{_BLOCK}/final_norm", f"{_STAGE}.layernorm", "norm"),
        Row(f"{_BLOCK}/project", f"{_STAGE}.conv_projection"),
        Row(f"{_BLOCK}/fusion", f"{_STAGE}.fusion"),
        Row("conv_1x1_exp", "conv_1x1_exp"),
    ),
    head=(Row("classifier", "classifier", "dense"),),
    words=("convolution", "normalization"),
    # Models with a head keep the rest under this prefix; a bare MobileViTModel has none.
    prefixes=("mobilevit.", ""),
    depths=(2, 4, 3),
    fusion_required=True,
)

_PYRAMID = "segmentation_head.aspp"

HUGGINGFACE_DEEPLABV3 = replace(
    HUGGINGFACE,
    kind="deeplabv3_mobilevit",
    prefixes=("mobilevit.",),
    head=(
        Row("aspp/conv_{branch}", f"{_PYRAMID}.convs.{{branch}}"),
        Row("aspp/pool", f"{_PYRAMID}.convs.4.conv_1x1"),
        Row("aspp/project", f"{_PYRAMID}.project"),
        Row("classifier", "segmentation_head.classifier.convolution", "dense"),
    ),
)
