"""config.json in three forms: there and back, what they cannot express, what we cannot read."""

import dataclasses
import json
import math

import jax.numpy as jnp
import pytest

from mobilevit_jax.convert.config import (
    from_native,
    from_timm,
    read_config,
    timm_processor,
    to_huggingface,
    to_native,
    to_timm,
)
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import VARIANTS, SSDLite, Variant, create_model, list_models
from mobilevit_jax.models.anchors import AnchorConfig
from mobilevit_jax.models.registry import families, options_of, with_options
from mobilevit_jax.processing import ImageProcessor
from tests.small import TINY, tiny_model

TIMM = timm_processor(families()["mobilevit"])
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
ANCHORS = AnchorConfig(0.2, 0.9, ((), (2,), (2, 3.5), (3,), (), (2,)))
LATER = {
    "output_stride": 8,
    "aspp_features": 512,
    "aspp_rates": (12, 24, 36),
    "aspp_dropout": 0.2,
    "channel_dropout": True,
    "head_dropout": 0.0,
    "aux_width": 128,
    "aux_dropout": 0.3,
    "align_corners": True,
}


def hf(**changes):
    """Returns a configuration of transformers' with some entries changed, None for left out."""
    config = to_huggingface(create_model("mobilevit_xs", num_classes=7), NAMES) | changes
    return {name: value for name, value in config.items() if value is not None}


def native_detector(**changes):
    config = to_native(create_model("ssdlite_mobilevit_xs", num_classes=8), NAMES)
    anchors = config["model"]["anchor_config"] | changes
    return config | {"model": config["model"] | {"anchor_config": anchors}}


def native(**changes):
    config = to_native(create_model("mobilevit_xs", num_classes=7), NAMES)
    return config | {"model": config["model"] | changes}


def timm(**changes):
    config = to_timm(create_model("mobilevit_xs", num_classes=7), NAMES, TIMM)
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
            create_model("ssdlite_mobilevit_xxs", num_classes=7),
            create_model("ssdlite_mobilevit_s", anchor_config=ANCHORS, fusion=False),
            create_model("yolox_mobilevit_xxs", num_classes=7),
            create_model("yolox_resnet18", head_width=40, depthwise=True),
            create_model("deeplabv3_mobilevit_xs", num_classes=7),
            create_model("deeplabv3_mobilevit_s", upsample=False, aux_head=True, **LATER),
        ],
        ids=[
            *("published", "options", "ablations", "widths"),
            *("detector", "anchors", "yolox", "yolox_options", "segmentation", "later"),
        ],
    )
    def test_there_and_back(self, model):
        names = NAMES if model.num_classes == 7 else None
        if names and isinstance(model, SSDLite):
            names = names[1:]  # the background has none
        config = to_native(model, names)
        assert config == json.loads(json.dumps(config))
        assert config["library"] == "mobilevit_jax"
        assert from_native(config) == (model, names or ())

    def test_names_of_a_detector_are_counted_from_1(self):
        """As its labels are, 0 being the background."""
        config = native_detector()
        assert config["id2label"]["1"] == NAMES[0] and config["id2label"]["7"] == NAMES[6]
        assert from_native(config)[1] == NAMES
        placeholders = tuple(f"LABEL_{index}" for index in range(1, 8))
        assert from_native(to_native(from_native(config)[0], placeholders))[1] == ()
        with pytest.raises(DataError, match="one name for each index from 0 to 7"):
            from_native(config | {"id2label": {"2": "a"}})

    def test_how_a_run_was_made_is_left_out(self):
        plain = create_model("mobilevit_xs")
        run = with_options(
            plain,
            dtype=jnp.bfloat16,
            remat=True,
            bn_axis_name="batch",
            bn_unbiased=False,
            freeze_backbone=True,
        )
        assert to_native(run) == to_native(plain)
        assert from_native(to_native(run))[0] == plain

    @pytest.mark.parametrize("name", list_models("*_xs"))
    def test_every_other_option_is_stored(self, name):
        model = create_model(name)
        stored = set(to_native(model)["model"])
        machinery = {"dtype", "remat", "bn_axis_name", "bn_unbiased", "freeze_backbone"}
        assert stored == {"type", "backbone", *options_of(model)} - machinery

    def test_a_file_from_before_there_were_several_backbones(self):
        config = native()
        del config["model"]["backbone"]
        assert from_native(config)[0] == create_model("mobilevit_xs", num_classes=7)

    def test_a_field_of_later_versions_has_its_default(self):
        config = native()
        del config["model"]["attention_dropout"]
        assert from_native(config)[0] == create_model("mobilevit_xs", num_classes=7)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (native(rotary=True), "rotary: not known to mobilevit_jax .* update the package"),
            (native(type="YOLO"), "type 'YOLO', none of MobileViT, DeepLabV3, SSDLite"),
            (native(backbone="vit"), "a backbone 'vit', none of .*mobilevit"),
            (
                native(type="SSDLite"),
                "classifier_dropout, problem_type: not known to mobilevit_jax",
            ),
            (native(aux_head=True), "aux_head: not known to mobilevit_jax"),
            (native_detector(min_scale="0"), "min_scale must be a number, not '0'"),
            (native_detector(min_scale=2), "anchors need 0 < min_scale < max_scale"),
            (native_detector(aspect_ratios=[[2], 3]), r"aspect_ratios\[1\] must be a list, not 3"),
            (
                native_detector(aspect_ratios=[["2"]] * 6),
                r"aspect_ratios\[0\]\[0\] must be a number",
            ),
            (native_detector(aspect_ratios=[[2]]), "ratios of 6 levels; got 1"),
            (native(num_classes="7"), "num_classes must be a whole number, not '7'"),
            (native(fusion=1), "fusion must be true or false, not 1"),
            (native(dropout=math.nan), "dropout must be a finite number, not nan"),
            (native(dropout="0"), "dropout must be a number, not '0'"),
            (native(patch_sizes=[2, 2]), r"patch_sizes must be a list of 3, not \[2, 2\]"),
            (native(kernel_size=4), "kernel_size must be a positive odd integer"),
            (
                native(variant=dataclasses.asdict(VARIANTS["s"]) | {"dropout": 5}),
                r"dropout must be in \[0, 1\)",
            ),
            (native(variant=None), "'variant' are missing"),
            ({"library": "mobilevit_jax"}, "'model' .* missing"),
            (
                native(variant=dataclasses.asdict(VARIANTS["s"]) | {"heads": 5}),
                "5 heads do not divide token widths",
            ),
            (
                native(variant=dataclasses.asdict(VARIANTS["s"]) | {"exp_channels": 0}),
                "exp_channels must be from 1 to 65536",
            ),
            (native() | {"id2label": {"0": "a"}}, "id2label must have one name for each index"),
        ],
    )
    def test_bad(self, config, message):
        with pytest.raises(DataError, match=message):
            from_native(config)


class TestTimm:
    @pytest.mark.parametrize("size", VARIANTS)
    @pytest.mark.parametrize(
        "processor",
        [
            TIMM,
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
            processor = dataclasses.replace(TIMM, size=size)
            assert from_timm(to_timm(model, None, processor))[2].size == size

    def test_the_published_processor(self):
        assert TIMM == ImageProcessor(
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
        assert from_timm(old) == (model, (), TIMM)
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
            to_timm(create_model("mobilevit_xs", **options), None, TIMM)

    def test_what_is_said_of_tests_alone_goes_before(self):
        """As in timm's own evaluation."""
        said = {"test_input_size": [3, 320, 320], "test_crop_pct": 1.0, "label_offset": 0}
        found = from_timm(timm_input(**said))[2]
        assert (found.size, found.crop_size) == (320, (320, 320))
        assert from_timm(timm_input(test_input_size=None, test_crop_pct=None))[2] == TIMM

    def test_mean_and_standard_deviation(self):
        """In the file for R, G, B, whichever order the processor has."""
        processor = dataclasses.replace(TIMM, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
        config = to_timm(create_model("mobilevit_xs"), None, processor)
        assert config["pretrained_cfg"]["mean"] == [0.1, 0.2, 0.3]
        assert from_timm(config)[2] == processor
        turned = dataclasses.replace(
            processor, mean=(0.3, 0.2, 0.1), std=(0.6, 0.5, 0.4), do_flip_channel_order=True
        )
        assert to_timm(create_model("mobilevit_xs"), None, turned) == config

    @pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
    def test_what_logits_stand_for_has_no_place(self, problem):
        model = create_model("mobilevit_xs", num_classes=7, problem_type=problem)
        with pytest.raises(ConfigurationError, match=f"timm.*problem_type='{problem}'"):
            to_timm(model, None, TIMM)
        with pytest.raises(ConfigurationError, match="timm.*problem_type='single_label_class"):
            to_timm(create_model("mobilevit_xs", num_classes=1), None, TIMM)
        assert from_timm(timm(num_classes=1, label_names=None))[0].problem_type == (
            "multi_label_classification"
        )

    @pytest.mark.parametrize("name", ["ssdlite_mobilevit_s", "deeplabv3_mobilevit_s"])
    def test_other_kinds_are_named(self, name):
        with pytest.raises(ConfigurationError, match="timm.*a model of the type (ssd|deep)l"):
            to_timm(create_model(name), None, TIMM)

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
        processor = dataclasses.replace(TIMM, **changes)
        with pytest.raises(ConfigurationError, match=f"timm.*{next(iter(changes))}="):
            to_timm(create_model("mobilevit_xs"), None, processor)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (timm(architecture="vgg16"), "timm's 'vgg16'; only .*mobilevit_xxs"),
            (timm(architecture="mobilevitv2_110"), r"'mobilevitv2_110' \(did you mean 'mobilev"),
            (timm(architecture=3), "architecture must be a text"),
            (timm(model_args={"no_fusion": True}), "model_args no_fusion=True is not supported"),
            (timm(model_args={"in_chans": 1}), "model_args in_chans=1 is not supported"),
            (timm(global_pool="max"), "global_pool='max' is not supported"),
            (timm(label_names=["a"]), "label_names must name 7 classes"),
            (timm_input(mean=[0.5, 0.5]), "mean must be a list of 3"),
            (timm_input(std=[0.5, 0.5, 0]), "std must be three numbers above 0"),
            (timm_input(crop_mode="squash"), "crop_mode='squash' is not supported"),
            (timm_input(interpolation="random"), "interpolation='random' is not supported"),
            (timm_input(input_size=[1, 256, 256]), "input_size=.* is not supported"),
            (timm_input(global_pool="max"), "global_pool='max' is not supported, only 'avg'"),
            (timm_input(in_chans=1), "in_chans=1 is not supported, only 3"),
            (timm_input(label_offset=1), "label_offset=1 is not supported, only 0"),
            (timm_input(test_crop_pct="x"), "test_crop_pct must be a"),
            (timm_input(crop_pct=0), "crop_pct must be positive"),
            (timm_input(crop_pct=math.nan), "crop_pct must be a finite number, not nan"),
            (timm_input(crop_pct=1e-320), "crop_pct=1e-320 is not supported.* would be inf long"),
            (timm_input(crop_pct=257.0), "crop_pct=257.0 is not supported"),
            (timm_input(input_size=[3, 10**400, 10**400]), "input_size=.* is not supported"),
            (timm(pretrained_cfg="x"), "pretrained_cfg must be a mapping, not 'x'"),
            (timm(model_args={"drop_rate": 5}), r"dropout must be in \[0, 1\)"),
            (timm(model_args="abc"), "model_args must be a mapping, not 'abc'"),
            (timm(model_args=[1]), r"model_args must be a mapping, not \[1\]"),
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
            (timm(), "timm", TIMM),
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
            (None, "No such file"),
            ("{", "not valid JSON"),
            ("[" * 100_000, "not valid JSON"),
            ("[]", "holds no JSON object"),
            ("{}", "describes no model; expected"),
            ('{"model_type": "vit"}', "a model of the type 'vit'"),
            ('{"model_type": "timm_wrapper", "architecture": "mobilevit_s"}', "'timm_wrapper'"),
            (json.dumps(native(output_stride=4)), "output_stride must be one of"),
            (b"\xff\xfe\x00", "is not text in UTF-8"),
        ],
        ids=["missing", "cut", "deep", "list", "empty", "vit", "wrapped", "option", "binary"],
    )
    def test_errors_name_the_file(self, text, message, tmp_path):
        path = tmp_path / "config.json"
        if text is not None:
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DataError, match=f"{path}.*{message}"):
            read_config(tmp_path)
