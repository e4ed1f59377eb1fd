"""Names of CVNets v0.1 state dicts for our parameter paths (github.com/apple/ml-cvnets)."""

import re

# Rules for the module part of a path, tried in order; the first that matches whole is used.
_MODULES: tuple[tuple[str, str], ...] = (
    (r"backbone/conv_1/(conv|norm)", r"conv_1.block.\1"),
    (
        r"backbone/(layer_\d)/block_(\d)/(expand|reduce)_1x1/(conv|norm)",
        r"\1.\2.block.\3_1x1.block.\4",
    ),
    (r"backbone/(layer_\d)/block_(\d)/conv_3x3/(conv|norm)", r"\1.\2.block.conv_3x3.block.\3"),
    (
        r"backbone/(layer_\d)/mobilevit/local_conv/(conv|norm)",
        r"\1.1.local_rep.conv_{kernel}x{kernel}.block.\2",
    ),
    (r"backbone/(layer_\d)/mobilevit/local_project", r"\1.1.local_rep.conv_1x1.block.conv"),
    (
        r"backbone/(layer_\d)/mobilevit/transformer_(\d)/attention_norm",
        r"\1.1.global_rep.\2.pre_norm_mha.0",
    ),
    (
        r"backbone/(layer_\d)/mobilevit/transformer_(\d)/attention/(qkv|out)",
        r"\1.1.global_rep.\2.pre_norm_mha.1.\3_proj",
    ),
    (
        r"backbone/(layer_\d)/mobilevit/transformer_(\d)/ffn_norm",
        r"\1.1.global_rep.\2.pre_norm_ffn.0",
    ),
    (
        r"backbone/(layer_\d)/mobilevit/transformer_(\d)/ffn_expand",
        r"\1.1.global_rep.\2.pre_norm_ffn.1",
    ),
    (
        r"backbone/(layer_\d)/mobilevit/transformer_(\d)/ffn_reduce",
        r"\1.1.global_rep.\2.pre_norm_ffn.4",
    ),
    (r"backbone/(layer_\d)/mobilevit/final_norm", r"\1.1.global_rep.{last}"),
    (r"backbone/(layer_\d)/mobilevit/project/(conv|norm)", r"\1.1.conv_proj.block.\2"),
    (r"backbone/(layer_\d)/mobilevit/fusion/(conv|norm)", r"\1.1.fusion.block.\2"),
    (r"conv_1x1_exp/(conv|norm)", r"conv_1x1_exp.block.\1"),
    (r"classifier", r"classifier.fc"),
)
_SHORT = {"expand_1x1": "exp_1x1", "reduce_1x1": "red_1x1"}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


def name_of(path: tuple[str, ...], *, depths: dict[str, int], kernel_size: int) -> str:
    """Returns the CVNets v0.1 name of one of our tensors.

    Args:
        path: Path in "params" or "batch_stats", such as ("backbone", "conv_1", "conv", "kernel").
        depths: Transformer layers of each stage with a block; its final norm is named after them.
        kernel_size: Side of the blocks' local convolution, which is part of its name.

    Raises:
        ValueError: If the path has no counterpart.
    """
    module, leaf = "/".join(path[:-1]), path[-1]
    for pattern, replacement in _MODULES:
        match = re.fullmatch(pattern, module)
        if match is None:
            continue
        name = match.expand(replacement)
        stage = next((part for part in path if part in depths), None)
        name = name.replace("{kernel}", str(kernel_size))
        name = name.replace("{last}", str(depths[stage]) if stage else "")
        for long, short in _SHORT.items():
            name = name.replace(long, short)
        return f"{name}.{_LEAVES[leaf]}"
    raise ValueError(f"parameter {module}/{leaf} has no name in CVNets v0.1")
