"""transformers' config.json: there and back, what it cannot express, what we cannot read."""

import dataclasses
import json
import math

import jax.numpy as jnp
import pytest

from mobilevit_jax.convert.config import from_huggingface, to_huggingface
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import VARIANTS, create_model
from mobilevit_jax.models.registry import with_options
from tests.convert.test_config import NAMES, OPTIONS, WIDE, hf


def hf_segmentation(**changes):
    config = to_huggingface(create_model("deeplabv3_mobilevit_xs", num_classes=7), NAMES) | changes
    return {name: value for name, value in config.items() if value is not None}


@pytest.mark.parametrize("size", VARIANTS)
def test_there_and_back(size):
    model = create_model(f"mobilevit_{size}", num_classes=7)
    config = to_huggingface(model, NAMES)
    assert config == json.loads(json.dumps(config))
    assert from_huggingface(config) == (model, NAMES)


def test_options_and_widths():
    model = create_model("mobilevit_s", variant=WIDE, num_classes=7, **OPTIONS)
    found, names = from_huggingface(to_huggingface(model, NAMES))
    assert names == NAMES
    # The format has one dropout, the variant's default is another name for it.
    assert found == with_options(model, variant=dataclasses.replace(WIDE, dropout=0.3))


def test_published_values():
    config = to_huggingface(create_model("mobilevit_s"), image_size=320)
    assert config["neck_hidden_sizes"] == [16, 32, 64, 96, 128, 160, 640]
    assert config["hidden_sizes"] == [144, 192, 240]
    assert (config["expand_ratio"], config["mlp_ratio"]) == (4.0, 2.0)
    assert (config["hidden_dropout_prob"], config["image_size"]) == (0.1, 320)
    assert len(config["id2label"]) == len(config["label2id"]) == 1000
    assert config["id2label"]["999"] == "LABEL_999"


@pytest.mark.parametrize("size", VARIANTS)
def test_segmentation(size):
    model = create_model(f"deeplabv3_mobilevit_{size}", num_classes=7)
    config = to_huggingface(model, NAMES, image_size=512)
    assert config == json.loads(json.dumps(config))
    assert from_huggingface(config) == (model, NAMES)
    assert config["architectures"] == ["MobileViTForSemanticSegmentation"]
    assert (config["output_stride"], config["semantic_loss_ignore_index"]) == (16, 255)
    assert (config["aspp_out_channels"], config["atrous_rates"]) == (256, [6, 12, 18])


def test_options_of_segmentation():
    options = {**OPTIONS, "aspp_features": 64, "aspp_rates": (2, 4, 6), "aspp_dropout": 0.2}
    options["head_dropout"] = options.pop("classifier_dropout")
    model = create_model("deeplabv3_mobilevit_s", variant=WIDE, num_classes=7, **options)
    found = from_huggingface(to_huggingface(model, NAMES))[0]
    assert found == with_options(model, variant=dataclasses.replace(WIDE, dropout=0.3))


def test_segmentation_without_upsampling_has_the_same_file():
    """transformers resizes afterwards: what is read does so too, unless told otherwise."""
    model = create_model("deeplabv3_mobilevit_xs")
    config = to_huggingface(model.clone(upsample=False, channel_dropout=True))
    assert config == to_huggingface(model)
    assert from_huggingface(config)[0].upsample


def test_what_a_file_of_segmentation_leaves_out_is_transformers_default():
    architectures = ["MobileViTForSemanticSegmentation"]
    found, _ = from_huggingface({"model_type": "mobilevit", "architectures": architectures})
    assert found == create_model("deeplabv3_mobilevit_s", num_classes=2, output_stride=32)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("ssdlite_mobilevit_s", {}, "a model of the type ssdlite"),
        ("deeplabv3_mobilevit_s", {"aux_head": True}, "aux_head=True"),
        ("deeplabv3_mobilevit_s", {"align_corners": True}, "align_corners=True"),
        ("deeplabv3_mobilevit_s", {"fusion": False}, "fusion=False"),
    ],
)
def test_kinds_it_cannot_express_are_named(name, options, named):
    with pytest.raises(ConfigurationError, match=named + ".*layout='native'"):
        to_huggingface(create_model(name, **options))


@pytest.mark.parametrize("names", ["abc", (1, 2, 3), ("a", None, "c")])
def test_names_are_texts(names):
    with pytest.raises(ConfigurationError, match="class names must be a list of texts; got"):
        to_huggingface(create_model("mobilevit_xs", num_classes=3), names)


def test_placeholders_are_no_names():
    model = create_model("mobilevit_xs", num_classes=3)
    assert from_huggingface(to_huggingface(model)) == (model, ())


def test_features_alone():
    model = create_model("mobilevit_xs", num_classes=0)
    assert to_huggingface(model)["id2label"] == {}
    assert from_huggingface(to_huggingface(model)) == (model, ())
    assert from_huggingface(hf(architectures=["MobileViTModel"])) == (model, ())


def test_what_a_file_leaves_out_is_transformers_default():
    model, names = from_huggingface({"model_type": "mobilevit"})
    assert model == create_model("mobilevit_s", num_classes=2) and names == ()


def test_names_are_in_the_order_of_their_indices():
    labels = {str(index): f"c{index}" for index in reversed(range(12))}
    assert from_huggingface(hf(id2label=labels))[1] == tuple(f"c{i}" for i in range(12))


def test_left_out_are_things_of_training():
    model = create_model("mobilevit_xs", ffn_dropout=0.1, remat=True, dtype=jnp.bfloat16)
    assert to_huggingface(model) == to_huggingface(create_model("mobilevit_xs"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"patch_sizes": (8, 4, 2)}, r"patch_sizes=\(8, 4, 2\)"),
        ({"fusion": False}, "fusion=False"),
        ({"variant": dataclasses.replace(VARIANTS["s"], depths=(1, 4, 3))}, r"depths=\(1, 4,"),
        ({"variant": dataclasses.replace(WIDE, expansion=1, channels=(12,) * 6)}, "hidden wid"),
        ({"fusion": False, "patch_sizes": (4, 2, 2)}, "patch_sizes=.*; fusion=False"),
    ],
    ids=str,
)
def test_what_it_cannot_express_is_named(options, named):
    with pytest.raises(ConfigurationError, match=named + ".*layout='native'"):
        to_huggingface(create_model("mobilevit_s", **options))


def test_names_for_other_classes():
    with pytest.raises(ConfigurationError, match="7 class names were given for a model of 8"):
        to_huggingface(create_model("mobilevit_s", num_classes=8), NAMES)


SINGLE, MULTI = "single_label_classification", "multi_label_classification"


@pytest.mark.parametrize(
    ("stated", "classes", "meant"),
    [
        (None, 7, SINGLE),
        (SINGLE, 7, SINGLE),
        (MULTI, 7, MULTI),
        ("regression", 7, "regression"),
        (None, 1, MULTI),
        (SINGLE, 1, MULTI),
        (MULTI, 1, MULTI),
        ("regression", 1, "regression"),
    ],
)
def test_what_logits_stand_for(stated, classes, meant):
    """As transformers' pipeline takes them; a single logit has a sigmoid."""
    names = NAMES[:classes]
    labels = {str(index): name for index, name in enumerate(names)}
    config = hf(problem_type=stated, id2label=labels, label2id=None)
    model, found = from_huggingface(config)
    assert (model.problem_type, model.num_classes, found) == (meant, classes, names)
    again, found = from_huggingface(to_huggingface(model, names))
    assert (again, found) == (model, names)


def test_a_softmax_of_one_class_has_no_form_there():
    with pytest.raises(ConfigurationError, match=r"a softmax of one class \(it takes the sigmoid"):
        to_huggingface(create_model("mobilevit_xs", num_classes=1))


@pytest.mark.parametrize("index", [2, "2"])
def test_names_of_other_classes_may_be_left_over(index):
    """transformers shows `id2label`; programs that set only that leave the other as it was."""
    labels = {"tench": 0, "crane": index, "other": 5, "LABEL_6": 6}
    assert from_huggingface(hf(label2id=labels))[1] == NAMES


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (hf(model_type=["mobilevit"]), r"a model of the type \['mobilevit'\], not 'mobilevit'"),
        (hf(model_type="vit"), "a model of the type 'vit', not 'mobilevit'"),
        (hf(architectures=["MobileViTForDetection"]), "describes a MobileViTForDetection"),
        (hf_segmentation(atrous_rates=[6, 12]), "atrous_rates must be a list of 3"),
        (hf_segmentation(aspp_out_channels=0), "aspp_features must be at least 1"),
        (hf_segmentation(id2label={"0": "a"}), "num_classes must be 2 or more"),
        (hf(hidden_act="gelu"), "hidden_act='gelu' is not supported, only 'silu'"),
        (hf(layer_norm_eps=1e-6), "layer_norm_eps=1e-06 is not supported, only 1e-05"),
        (hf(qkv_bias=False), "qkv_bias=False is not supported, only True"),
        (hf(num_channels=1), "num_channels=1 is not supported, only 3"),
        (hf(expand_ratio=2.5), "expand_ratio=2.5 is not supported, only whole numbers"),
        (hf(mlp_ratio=1.5), "mlp_ratio=1.5 is not supported, only whole numbers"),
        (hf(patch_size=[2, 2]), r"patch_size must be a whole number, not \[2, 2\]"),
        (hf(hidden_sizes=[96, 120]), "hidden_sizes must be a list of 3"),
        (hf(output_stride=4), "output_stride must be one of"),
        (hf(hidden_dropout_prob=1.0), r"dropout must be in \[0, 1\)"),
        (hf(num_attention_heads=7), "7 heads do not divide"),
        (hf(neck_hidden_sizes=[12, 16, 24, 48, 64, 80, 320], expand_ratio=1), "rounds"),
        (hf(num_labels=9), "num_labels=9, but id2label names 7 classes"),
        (hf(id2label={"0": "a", "2": "b"}), "id2label must have one name for each index"),
        (
            hf(label2id={"tench": 1}),
            "label2id says that 'tench' is class 1, and id2label that it i",
        ),
        (hf(label2id={"tench": "x"}), "label2id says that 'tench' is class 'x', and id2label th"),
        (hf(label2id={"ü": 10**90}), "label2id says that 'ü' is class 1000"),
        (hf(label2id=[1]), "label2id must be a mapping"),
        (hf(problem_type="multi-label"), "unknown problem_type 'multi-label'.*did you mean 'mul"),
        (hf(problem_type=5), "problem_type must be a text, not 5"),
        (hf_segmentation(problem_type=MULTI), "problem_type='multi_label.*is not supported"),
        (hf(quantization_config={"bits": 4}), "quantization_config={'bits': 4} is not supported"),
        (hf(pruned_heads={"0": [1]}), "pruned_heads=.* is not supported; leave it out"),
        (hf(id2label=5), "id2label must be a mapping from index to name, not 5"),
        (hf(id2label={"0": 1}), "id2label must be a text, not 1"),
        (hf(expand_ratio=math.nan), "expand_ratio must be a finite number, not nan"),
        (hf(mlp_ratio=math.inf), "mlp_ratio must be a finite number, not inf"),
        (hf(mlp_ratio=10**400), "mlp_ratio must be a finite number, not 1000"),
        (hf(layer_norm_eps=math.nan), "layer_norm_eps must be a finite number, not nan"),
        (hf(architectures=5), "architectures must be a list of names, not 5"),
        (hf(architectures="MobileViTModel"), "architectures must be a list .*'MobileViTModel'"),
        (hf(architectures=[5]), "architectures must be a text, not 5"),
    ],
)
def test_what_our_model_does_not_do_is_named(config, message):
    with pytest.raises(DataError, match=message):
        from_huggingface(config)
