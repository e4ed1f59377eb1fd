"""Names of timm's mobilevit_xxs, mobilevit_xs and mobilevit_s."""

from mobilevit_jax.convert.names import Layout, Row

_RESIDUAL = "backbone/layer_{stage}/block_{block}"
_BLOCK = "backbone/layer_{stage}/mobilevit"
_LAYER = "backbone/layer_{stage}/mobilevit/transformer_{layer}"
_THEIRS = "stages.{index}.1.transformer.{layer}"

TIMM = Layout(
    name="timm",
    title="timm",
    encoder=(
        Row("backbone/conv_1", "stem"),
        Row(f"{_RESIDUAL}/expand_1x1", "stages.{index}.{block}.conv1_1x1"),
        Row(f"{_RESIDUAL}/conv_3x3", "stages.{index}.{block}.conv2_kxk"),
        Row(f"{_RESIDUAL}/reduce_1x1", "stages.{index}.{block}.conv3_1x1"),
        Row(f"{_BLOCK}/local_conv", "stages.{index}.1.conv_kxk"),
        Row(f"{_BLOCK}/local_project", "stages.{index}.1.conv_1x1", "conv"),
        Row(f"{_LAYER}/attention_norm", f"{_THEIRS}.norm1", "norm"),
        Row(f"{_LAYER}/attention/qkv", f"{_THEIRS}.attn.qkv", "dense"),
        Row(f"{_LAYER}/attention/out", f"{_THEIRS}.attn.proj", "dense"),
        Row(f"{_LAYER}/ffn_norm", f"{_THEIRS}.norm2", "norm"),
        Row(f"{_LAYER}/ffn_expand", f"{_THEIRS}.mlp.fc1", "dense"),
        Row(f"{_LAYER}/ffn_reduce", f"{_THEIRS}.mlp.fc2", "dense"),
        Row(f"{_BLOCK}/final_norm", "stages.{index}.1.norm", "norm"),
        Row(f"{_BLOCK}/project", "stages.{index}.1.conv_proj"),
        Row(f"{_BLOCK}/fusion", "stages.{index}.1.conv_fusion"),
        Row("conv_1x1_exp", "final_conv"),
    ),
    head=(Row("classifier", "head.fc", "dense"),),
    words=("conv", "bn"),
    depths=(2, 4, 3),
    channel_order="rgb",
)
