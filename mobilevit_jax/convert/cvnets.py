"""Names of CVNets v0.1 (github.com/apple/ml-cvnets); later versions kept the classifier's."""

from mobilevit_jax.convert.names import Layout, Row

_RESIDUAL = "backbone/layer_{stage}/block_{block}"
_BLOCK = "backbone/layer_{stage}/mobilevit"
_LAYER = "backbone/layer_{stage}/mobilevit/transformer_{layer}"
_THEIRS = "layer_{stage}.1.global_rep.{layer}"

CVNETS = Layout(
    name="cvnets",
    title="CVNets v0.1",
    encoder=(
        Row("backbone/conv_1", "conv_1.block"),
        Row(f"{_RESIDUAL}/expand_1x1", "layer_{stage}.{block}.block.exp_1x1.block"),
        Row(f"{_RESIDUAL}/conv_3x3", "layer_{stage}.{block}.block.conv_3x3.block"),
        Row(f"{_RESIDUAL}/reduce_1x1", "layer_{stage}.{block}.block.red_1x1.block"),
        # Before local_conv, whose name is the same for 1x1 kernels.
        Row(f"{_BLOCK}/local_project", "layer_{stage}.1.local_rep.conv_1x1.block.conv", "conv"),
        Row(f"{_BLOCK}/local_conv", "layer_{stage}.1.local_rep.conv_{kernel}x{kernel}.block"),
        Row(f"{_LAYER}/attention_norm", f"{_THEIRS}.pre_norm_mha.0", "norm"),
        Row(
            f"{_LAYER}/attention/qkv",
            f"{_THEIRS}.pre_norm_mha.1.qkv_proj",
            "dense",
        ),
        Row(
            f"{_LAYER}/attention/out",
            f"{_THEIRS}.pre_norm_mha.1.out_proj",
            "dense",
        ),
        Row(f"{_LAYER}/ffn_norm", f"{_THEIRS}.pre_norm_ffn.0", "norm"),
        Row(f"{_LAYER}/ffn_expand", f"{_THEIRS}.pre_norm_ffn.1", "dense"),
        Row(f"{_LAYER}/ffn_reduce", f"{_THEIRS}.pre_norm_ffn.4", "dense"),
        # The norm after the transformers is one more entry of their list.
        Row(f"{_BLOCK}/final_norm", "layer_{stage}.1.global_rep.{last}", "norm"),
        Row(f"{_BLOCK}/project", "layer_{stage}.1.conv_proj.block"),
        Row(f"{_BLOCK}/fusion", "layer_{stage}.1.fusion.block"),
        Row("conv_1x1_exp", "conv_1x1_exp.block"),
    ),
    head=(Row("classifier", "classifier.fc", "dense"),),
    words=("conv", "norm"),
    min_expansion=2,
    min_kernel_size=3,
)
