"""Names of the tensors of `models.trunk`, which are the same for all versions of MobileViT."""

from mobilevit_jax.models.names import Row

_RESIDUAL = "backbone/layer_{stage}/block_{block}"
HUGGINGFACE_STAGE = "encoder.layer.{index}"

CVNETS_TRUNK = (
    Row("backbone/conv_1", "conv_1.block"),
    Row(f"{_RESIDUAL}/expand_1x1", "layer_{stage}.{block}.block.exp_1x1.block"),
    Row(f"{_RESIDUAL}/conv_3x3", "layer_{stage}.{block}.block.conv_3x3.block"),
    Row(f"{_RESIDUAL}/reduce_1x1", "layer_{stage}.{block}.block.red_1x1.block"),
)
HUGGINGFACE_TRUNK = (
    Row("backbone/conv_1", "conv_stem"),
    Row("backbone/layer_1/block_{block}/{unit}", "encoder.layer.0.layer.{block}.{unit}"),
    Row("backbone/layer_2/block_{block}/{unit}", "encoder.layer.1.layer.{block}.{unit}"),
    Row(
        "backbone/layer_{stage}/block_0/{unit}", f"{HUGGINGFACE_STAGE}.downsampling_layer.{{unit}}"
    ),
)
TIMM_TRUNK = (
    Row("backbone/conv_1", "stem"),
    Row(f"{_RESIDUAL}/expand_1x1", "stages.{index}.{block}.conv1_1x1"),
    Row(f"{_RESIDUAL}/conv_3x3", "stages.{index}.{block}.conv2_kxk"),
    Row(f"{_RESIDUAL}/reduce_1x1", "stages.{index}.{block}.conv3_1x1"),
)
