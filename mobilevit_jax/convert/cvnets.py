"""Names of CVNets v0.1 (github.com/apple/ml-cvnets).

Later versions kept those of classifiers and detectors, and changed some of DeepLabv3's head.
"""

from dataclasses import replace

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

_EXTRA = "extra_layers.os_{extra}"
_PREDICTOR = "ssd_heads.{level}"

CVNETS_SSDLITE = replace(
    CVNETS,
    kind="ssdlite_mobilevit",
    prefixes=("encoder.",),
    head=(
        Row("extra_{extra}/depthwise", f"{_EXTRA}.dw_conv.block"),
        Row("extra_{extra}/pointwise", f"{_EXTRA}.pw_conv.block"),
        Row("extra_pool", "extra_layers.os_-1.1.block.conv", "conv"),
        Row("head_{level}/project", f"{_PREDICTOR}.proj_layer.block"),
        Row("head_{level}/depthwise", f"{_PREDICTOR}.loc_cls_layer.dw_conv.block"),
        Row("head_{level}/predict", f"{_PREDICTOR}.loc_cls_layer.pw_conv.block.conv", "dense"),
        # The pooled level has one place only, and no neighbourhood.
        Row("head_5/predict", "ssd_heads.5.loc_cls_layer.block.conv", "dense"),
    ),
)

_PYRAMID = "seg_head.aspp.aspp_layer"
_PYRAMID_ROWS = (
    Row("aspp/conv_{branch}", f"{_PYRAMID}.convs.{{branch}}.block"),
    Row("aspp/pool", f"{_PYRAMID}.convs.4.aspp_pool.conv_1x1.block"),
    Row("aspp/project", f"{_PYRAMID}.project.block"),
)

CVNETS_DEEPLABV3 = replace(
    CVNETS,
    kind="deeplabv3_mobilevit",
    prefixes=("encoder.",),
    head=(
        *_PYRAMID_ROWS,
        Row("classifier", "seg_head.classifier.classifier.block.conv", "dense"),
        Row("aux_conv", "seg_head.aux_head.aux_projection.block"),
        Row("aux_classifier", "seg_head.aux_head.aux_classifier.block.conv", "dense"),
    ),
)

# Versions from 0.2 read images with Pillow and trained by another recipe; what leaves no trace in
# the tensors is in its configuration, `pascal_voc/deeplabv3_mobilevit.yaml`.
CVNETS_LATER_DEEPLABV3 = replace(
    CVNETS_DEEPLABV3,
    title="CVNets after v0.1",
    head=(
        *_PYRAMID_ROWS,
        Row("classifier", "seg_head.classifier.block.conv", "dense"),
        Row("aux_conv", "seg_head.aux_head.0.block"),
        Row("aux_classifier", "seg_head.aux_head.2.block.conv", "dense"),
    ),
    channel_order="rgb",
    assumed=(
        ("output_stride", 8),
        ("aspp_rates", (12, 24, 36)),
        ("channel_dropout", True),
        ("head_dropout", 0.0),
        ("align_corners", True),
    ),
)
