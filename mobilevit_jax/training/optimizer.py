"""AdamW as the paper uses it, with decay on every tensor unless told otherwise; or SGD."""

from dataclasses import dataclass, fields
from typing import Any, Literal

import jax
import optax

from mobilevit_jax.errors import ConfigurationError, check_fields, unknown_name
from mobilevit_jax.training.schedule import Schedule

# First names of the paths of what is pretrained by classification; all the rest is a model's head.
BACKBONE = ("backbone", "conv_1x1_exp")


# Options of one optimizer alone.
_OWN = {"adamw": ("beta1", "beta2", "eps"), "sgd": ("momentum", "nesterov")}


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and what surrounds it.

    Attributes:
        name: "adamw", or "sgd", which is PyTorch's.
        weight_decay: Decay, multiplied by the learning rate. AdamW's is decoupled from the
            gradient; SGD's is added to it, and so goes through the momentum.
        decay_one_dimensional: Whether biases and norm scales decay too, as in the paper's runs
            (CVNets v0.1: `no_decay_bn_filter_bias: false`).
        beta1: AdamW: decay of the first moment.
        beta2: AdamW: decay of the second moment.
        eps: AdamW: added to the root of the second moment.
        momentum: SGD: decay of the sum of gradients that is stepped along; 0 for none.
        nesterov: SGD: whether a step looks ahead along that sum.
        clip_norm: Largest global norm of the gradient, or None for no clipping (the recipe's).
        accumulation: Parts that each device splits its batch into to save memory; their gradients
            are averaged, batch norm sees one part at a time.
        backbone_lr: Factor on the learning rate of everything but the head; below 1 it keeps
            pretrained weights near where they start.
        head_lr: Factor on the learning rate of the head: the classifier, or all that a detector or
            segmentation model has behind the backbone (10 in the paper's runs of DeepLabv3).
    """

    name: Literal["adamw", "sgd"] = "adamw"
    weight_decay: float = 0.01
    decay_one_dimensional: bool = True
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = False
    clip_norm: float | None = None
    accumulation: int = 1
    backbone_lr: float = 1.0
    head_lr: float = 1.0


def create_optimizer(
    config: OptimizerConfig, learning_rate: Schedule, *, freeze_backbone: bool = False
) -> optax.GradientTransformation:
    """Builds the optimizer.

    Args:
        config: Its configuration.
        learning_rate: The rate at each step, to which the factors of backbone and head apply.
        freeze_backbone: Whether everything but the head stays as it is, without decay.

    Raises:
        ConfigurationError: If a field is out of range, or there is a factor for a frozen backbone.
    """
    _check(config)
    if freeze_backbone and config.backbone_lr != 1:
        raise ConfigurationError(
            "a frozen backbone has no learning rate: leave optimizer.backbone_lr at 1 or "
            f"model.freeze_backbone off; got backbone_lr {config.backbone_lr}"
        )
    rates = (config.backbone_lr, config.head_lr)
    backbone = optax.set_to_zero() if freeze_backbone else _rule(config, learning_rate, rates[0])
    if freeze_backbone or rates != (1, 1):
        head = _rule(config, learning_rate, rates[1])
        optimizer = optax.multi_transform({"backbone": backbone, "head": head}, _part_of)
    else:
        optimizer = backbone
    if config.clip_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), optimizer)


def _part_of(params: Any) -> dict[str, str]:
    """Labels the first level of the parameters, and so all below it."""
    return {name: "backbone" if name in BACKBONE else "head" for name in params}


def _rule(
    config: OptimizerConfig, learning_rate: Schedule, factor: float
) -> optax.GradientTransformationExtraArgs:
    def at_least_two_axes(params: optax.Params) -> optax.Params:
        return jax.tree.map(lambda p: p.ndim > 1, params)

    rate = learning_rate if factor == 1 else lambda step: factor * learning_rate(step)
    mask = None if config.decay_one_dimensional else at_least_two_axes
    if config.name == "sgd":
        return optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask),
            optax.sgd(rate, config.momentum or None, config.nesterov),
        )
    return optax.adamw(
        rate,
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=mask,
    )


def _check(config: OptimizerConfig) -> None:
    """Raises ConfigurationError for the first field that is out of range, NaN included."""
    if config.backbone_lr == 0:
        raise ConfigurationError(
            "optimizer.backbone_lr 0 would compute gradients and still move running statistics; "
            "set model.freeze_backbone to leave the backbone as it is"
        )
    if config.name not in _OWN:
        raise unknown_name("optimizer.name", str(config.name), _OWN)
    _check_own(config)
    infinity = float("inf")
    check_fields(
        config,
        "optimizer.",
        weight_decay=(0 <= config.weight_decay < infinity, "0 or more"),
        beta1=(0 <= config.beta1 < 1, "in [0, 1)"),
        beta2=(0 <= config.beta2 < 1, "in [0, 1)"),
        eps=(0 < config.eps < infinity, "above 0"),
        momentum=(0 <= config.momentum < 1, "in [0, 1)"),
        nesterov=(config.momentum > 0 or not config.nesterov, "off without momentum"),
        clip_norm=(config.clip_norm is None or config.clip_norm > 0, "above 0, or None"),
        accumulation=(config.accumulation >= 1, "1 or more"),
        backbone_lr=(0 < config.backbone_lr < infinity, "above 0"),
        head_lr=(0 < config.head_lr < infinity, "above 0"),
    )


def _check_own(config: OptimizerConfig) -> None:
    """Refuses options of the other optimizer, which would have no effect."""
    defaults = {field.name: field.default for field in fields(config)}
    for owner, names in _OWN.items():
        for name in names:
            if owner != config.name and (value := getattr(config, name)) != defaults[name]:
                raise ConfigurationError(
                    f"optimizer.{name} is an option of {owner}, and optimizer.name is "
                    f"{config.name!r}: leave {name} out, or set the name; got {name} {value!r}"
                )
