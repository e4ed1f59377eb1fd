"""config.json in three forms: there and back, what they cannot express, what we cannot read."""

import dataclasses
import json

import jax.numpy as jnp
import pytest

from mobilevit_jax.convert.config import (
    from_huggingface,
    from_native,
    from_timm,
    read_config,
    timm_processor,
    to_huggingface,
    to_native,
    to_timm,
)
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import VARIANTS, Variant, create_model
from mobilevit_jax.processing import ImageProcessor
from tests.small import TINY, tiny_model

NAMES = ("tench", "crane", "crane", "ü", "LABEL_4", "x", "y")
WIDE = Variant((16, 24, 24, 32, 40, 48), (36, 48, 60), 3, 64, 0.2, heads=6, ffn_multiplier=3)
OPTIONS = {
    "patch_sizes": (4, 4, 4),
    "kernel_size": 5,
    "output_stride": 16,
    "dropout": 0.3,
    "attention_dropout": 0.2,
    "classifier_dropout": 0.0,
}


def hf(**changes):
    """Returns a configuration of transformers' with some entries changed, None for left out."""
    config = to_huggingface(create_model("mobilevit_xs", num_classes=7), NAMES) | changes
    return {name: value for name, value in config.items() if value is not None}


def native(**changes):
    config = to_native(create_model("mobilevit_xs", num_classes=7), NAMES)
    return config | {"model": config["model"] | changes}


def timm(**changes):
    config = to_timm(create_model("mobilevit_xs", num_classes=7), NAMES, timm_processor())
    return config | changes


def timm_input(**changes):
    config = timm()
    return config | {"pretrained_cfg": config["pretrained_cfg"] | changes}


class TestNative:
    @pytest.mark.parametrize(
        "model",
        [
            create_model("mobilevit_xxs"),
            create_model("mobilevit_s", num_classes=0, **OPTIONS),
            create_model("mobilevit_xs", patch_sizes=(8, 4, 2), fusion=False, ffn_dropout=0.1),
            tiny_model(7),
        ],
        ids=["published", "options", "ablations", "widths"],
    )
    def test_there_and_back(self, model):
        names = NAMES if model.num_classes == 7 else None
        config = to_native(model, names)
        assert config == json.loads(json.dumps(config))
        assert config["library"] == "mobilevit_jax"
        assert from_native(config) == (model, names or ())

    def test_how_a_run_was_made_is_left_out(self):
        plain = create_model("mobilevit_xs")
        run = plain.clone(
            dtype=jnp.bfloat16,
            remat=True,
            bn_axis_name="batch",
            bn_unbiased=False,
            freeze_backbone=True,
        )
        assert to_native(run) == to_native(plain)
        assert from_native(to_native(run))[0] == plain

    def test_every_other_field_is_stored(self):
        stored = set(to_native(create_model("mobilevit_xs"))["model"])
        machinery = {"dtype", "remat", "bn_axis_name", "bn_unbiased", "freeze_backbone"}
        fields = {field.name for field in dataclasses.fields(create_model("mobilevit_xs"))}
        assert stored == {"type", *fields} - machinery - {"parent", "name"}

    def test_a_field_of_later_versions_has_its_default(self):
        config = native()
        del config["model"]["attention_dropout"]
        assert from_native(config)[0] == create_model("mobilevit_xs", num_classes=7)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (native(rotary=True), "rotary: not known to mobilevit_jax .* update the package"),
            (native(type="SSDLite"), "a model of the type 'SSDLite', not 'MobileViT'"),
            (native(num_classes="7"), "num_classes must be a whole number, not '7'"),
            (native(fusion=1), "fusion must be true or false, not 1"),
            (native(dropout="0"), "dropout must be a number, not '0'"),
            (native(patch_sizes=[2, 2]), r"patch_sizes must be a list of 3, not \[2, 2\]"),
            (native(kernel_size=4), "kernel_size must be a positive odd integer"),
            (native(variant=None), "'variant' are missing"),
            ({"library": "mobilevit_jax"}, "'model' .* missing"),
            (
                native(variant=dataclasses.asdict(VARIANTS["s"]) | {"heads": 5}),
                "5 heads do not divide token widths",
            ),
            (
                native(variant=dataclasses.asdict(VARIANTS["s"]) | {"exp_channels": 0}),
                "exp_channels must be at least 1",
            ),
            (native() | {"id2label": {"0": "a"}}, "id2label must have one name for each index"),
        ],
    )
    def test_bad(self, config, message):
        with pytest.raises(DataError, match=message):
            from_native(config)


class TestHuggingFace:
    @pytest.mark.parametrize("size", VARIANTS)
    def test_there_and_back(self, size):
        model = create_model(f"mobilevit_{size}", num_classes=7)
        config = to_huggingface(model, NAMES)
        assert config == json.loads(json.dumps(config))
        assert from_huggingface(config) == (model, NAMES)

    def test_options_and_widths(self):
        model = create_model("mobilevit_s", variant=WIDE, num_classes=7, **OPTIONS)
        found, names = from_huggingface(to_huggingface(model, NAMES))
        assert names == NAMES
        # The format has one dropout, the variant's default is another name for it.
        assert found == model.clone(variant=dataclasses.replace(WIDE, dropout=0.3))

    def test_published_values(self):
        config = to_huggingface(create_model("mobilevit_s"), image_size=320)
        assert config["neck_hidden_sizes"] == [16, 32, 64, 96, 128, 160, 640]
        assert config["hidden_sizes"] == [144, 192, 240]
        assert (config["expand_ratio"], config["mlp_ratio"]) == (4.0, 2.0)
        assert (config["hidden_dropout_prob"], config["image_size"]) == (0.1, 320)
        assert len(config["id2label"]) == len(config["label2id"]) == 1000
        assert config["id2label"]["999"] == "LABEL_999"

    def test_placeholders_are_no_names(self):
        model = create_model("mobilevit_xs", num_classes=3)
        assert from_huggingface(to_huggingface(model)) == (model, ())

    def test_features_alone(self):
        model = create_model("mobilevit_xs", num_classes=0)
        assert to_huggingface(model)["id2label"] == {}
        assert from_huggingface(to_huggingface(model)) == (model, ())
        assert from_huggingface(hf(architectures=["MobileViTModel"])) == (model, ())

    def test_what_a_file_leaves_out_is_transformers_default(self):
        model, names = from_huggingface({"model_type": "mobilevit"})
        assert model == create_model("mobilevit_s", num_classes=2) and names == ()

    def test_names_are_in_the_order_of_their_indices(self):
        labels = {str(index): f"c{index}" for index in reversed(range(12))}
        assert from_huggingface(hf(id2label=labels))[1] == tuple(f"c{i}" for i in range(12))

    def test_left_out_are_things_of_training(self):
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
    def test_what_it_cannot_express_is_named(self, options, named):
        with pytest.raises(ConfigurationError, match=named + ".*layout='native'"):
            to_huggingface(create_model("mobilevit_s", **options))

    def test_names_for_other_classes(self):
        with pytest.raises(ConfigurationError, match="7 class names were given for a model of 8"):
            to_huggingface(create_model("mobilevit_s", num_classes=8), NAMES)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (hf(model_type="mobilevitv2"), "MobileViTv2, another architecture"),
            (hf(model_type="vit"), "a model of the type 'vit', not 'mobilevit'"),
            (
                hf(architectures=["MobileViTForSemanticSegmentation"]),
                "describes a MobileViTForSemanticSegmentation",
            ),
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
            (hf(id2label=5), "id2label must be a mapping from index to name, not 5"),
            (hf(id2label={"0": 1}), "id2label must be a text, not 1"),
        ],
    )
    def test_what_our_model_does_not_do_is_named(self, config, message):
        with pytest.raises(DataError, match=message):
            from_huggingface(config)


class TestTimm:
    @pytest.mark.parametrize("size", VARIANTS)
    @pytest.mark.parametrize(
        "processor",
        [
            timm_processor(),
            ImageProcessor(do_flip_channel_order=False),
            ImageProcessor(
                size=333,
                crop_size=(320, 320),
                resample="pillow_bilinear",
                do_flip_channel_order=False,
            ),
            ImageProcessor(
                size=101,
                crop_size=(128, 128),
                resample="pillow_bicubic",
                do_flip_channel_order=False,
            ),
        ],
        ids=["published", "opencv", "bilinear", "padded"],
    )
    def test_there_and_back(self, size, processor):
        model = create_model(f"mobilevit_{size}", num_classes=7)
        config = to_timm(model, NAMES, processor)
        assert config == json.loads(json.dumps(config))
        assert from_timm(config) == (model, NAMES, processor)

    def test_every_size_survives_the_fraction(self):
        model = create_model("mobilevit_xs", num_classes=7)
        for size in range(1, 700):
            processor = dataclasses.replace(timm_processor(), size=size)
            assert from_timm(to_timm(model, None, processor))[2].size == size

    def test_the_published_processor(self):
        assert timm_processor() == ImageProcessor(
            size=284, crop_size=(256, 256), do_flip_channel_order=False, resample="pillow_bicubic"
        )

    def test_channels_are_always_rgb(self):
        model = create_model("mobilevit_xs", num_classes=7)
        bgr = ImageProcessor(resample="pillow_bicubic")
        found = from_timm(to_timm(model, NAMES, bgr))[2]
        assert found == dataclasses.replace(bgr, do_flip_channel_order=False)

    def test_forms_of_other_versions(self):
        model = create_model("mobilevit_xs", num_classes=7)
        old = {"architecture": "mobilevit_xs", "num_classes": 7, "crop_pct": 0.9}
        assert from_timm(old) == (model, (), timm_processor())
        arguments = {"in_chans": 3, "num_classes": 7, "global_pool": "avg", "drop_rate": 0.25}
        found = from_timm(timm(architecture="mobilevit_xs.cvnets_in1k", model_args=arguments))
        assert found[0] == model.clone(classifier_dropout=0.25)
        assert from_timm(timm(label_names=dict(enumerate(NAMES))))[1] == NAMES

    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"patch_sizes": (8, 4, 2)}, r"patch_sizes=\(8, 4, 2\)"),
            ({"fusion": False}, "fusion=False"),
            ({"kernel_size": 5}, "kernel_size=5"),
            ({"output_stride": 16}, "output_stride=16"),
            ({"variant": TINY}, "no published size"),
        ],
        ids=str,
    )
    def test_models_it_cannot_express_are_named(self, options, named):
        with pytest.raises(ConfigurationError, match=f"timm.*{named}.*layout='native'"):
            to_timm(create_model("mobilevit_xs", **options), None, timm_processor())

    @pytest.mark.parametrize(
        "changes",
        [
            {"do_resize": False},
            {"do_center_crop": False},
            {"do_rescale": False},
            {"size": (300, 300)},
            {"crop_size": (256, 224)},
            {"rescale_factor": 1 / 127.5},
        ],
        ids=str,
    )
    def test_processors_it_cannot_express_are_named(self, changes):
        processor = dataclasses.replace(timm_processor(), **changes)
        with pytest.raises(ConfigurationError, match=f"timm.*{next(iter(changes))}="):
            to_timm(create_model("mobilevit_xs"), None, processor)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (timm(architecture="resnet18"), "timm's 'resnet18'; only mobilevit_xxs"),
            (timm(architecture="mobilevitv2_100"), "another architecture than MobileViT"),
            (timm(architecture=3), "architecture must be a text"),
            (timm(model_args={"no_fusion": True}), "model_args no_fusion=True is not supported"),
            (timm(model_args={"in_chans": 1}), "model_args in_chans=1 is not supported"),
            (timm(global_pool="max"), "global_pool='max' is not supported"),
            (timm(label_names=["a"]), "label_names must name 7 classes"),
            (timm_input(mean=[0.485, 0.456, 0.406]), "mean=.* is not supported"),
            (timm_input(crop_mode="squash"), "crop_mode='squash' is not supported"),
            (timm_input(interpolation="random"), "interpolation='random' is not supported"),
            (timm_input(input_size=[1, 256, 256]), "input_size=.* is not supported"),
            (timm_input(crop_pct=0), "crop_pct must be positive"),
        ],
    )
    def test_what_we_cannot_read_is_named(self, config, message):
        with pytest.raises(DataError, match=message):
            from_timm(config)


class TestReading:
    @pytest.mark.parametrize(
        ("config", "layout", "processor"),
        [
            (native(), "native", None),
            (hf(), "huggingface", None),
            (timm(), "timm", timm_processor()),
        ],
        ids=["native", "huggingface", "timm"],
    )
    def test_tells_the_forms_apart(self, config, layout, processor, tmp_path):
        (tmp_path / "config.json").write_text(json.dumps(config))
        found = read_config(tmp_path)
        assert found.layout == layout
        assert found.model == create_model("mobilevit_xs", num_classes=7)
        assert found.class_names == NAMES
        assert found.processor == processor

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (None, "cannot be read .No such file"),
            ("{", "not valid JSON"),
            ("[]", "holds no JSON object"),
            ("{}", "describes no model; expected"),
            ('{"model_type": "vit"}', "a model of the type 'vit'"),
            ('{"model_type": "timm_wrapper", "architecture": "mobilevit_s"}', "'timm_wrapper'"),
            (json.dumps(native(output_stride=4)), "output_stride must be one of"),
            (b"\xff\xfe\x00", "not valid JSON"),
        ],
        ids=["missing", "cut", "list", "empty", "vit", "wrapped", "option", "binary"],
    )
    def test_errors_name_the_file(self, text, message, tmp_path):
        path = tmp_path / "config.json"
        if text is not None:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DataError, match=f"^{path}: .*{message}"):
            read_config(tmp_path)
