"""`load_state_dict` and `to_state_dict` in all layouts; the tables have files of their own."""

import json
import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from mobilevit_jax import convert
from mobilevit_jax.errors import ConfigurationError, DataError
from mobilevit_jax.models import Variant, create_model
from mobilevit_jax.models.variables import variable_shapes
from tests import reference

SIZES = ("xxs", "xs", "s")
LAYOUTS = ("huggingface", "cvnets", "timm")
CLASSIFIERS = {
    "huggingface": "classifier.weight",
    "cvnets": "classifier.fc.weight",
    "timm": "head.fc.weight",
}


@pytest.fixture(scope="module")
def xxs():
    return create_model("mobilevit_xxs")


@pytest.fixture(scope="module")
def variables(xxs):
    return convert.load_state_dict(xxs, reference.state_dict("xxs"))


@pytest.fixture
def state_dict(xxs, variables):
    return convert.to_state_dict(xxs, variables)


def committed_names(layout, size):
    table = json.loads((reference.GOLDEN / f"{layout}_names.json").read_text())
    return {name: tuple(shape) for name, shape in table[size].items()}


class TestRoundTrips:
    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("size", SIZES)
    def test_there_and_back_is_exact(self, size, layout):
        model, original = create_model(f"mobilevit_{size}"), reference.state_dict(size)
        variables = convert.load_state_dict(model, original)
        state_dict = convert.to_state_dict(model, variables, layout)
        names = committed_names(layout, size)
        assert {name: array.shape for name, array in state_dict.items()} == names
        assert convert.detect_layout(state_dict) == layout
        assert all(array.flags.c_contiguous for array in state_dict.values())
        again = convert.to_state_dict(model, convert.load_state_dict(model, state_dict), "cvnets")
        assert again.keys() == original.keys()
        for name, array in original.items():
            assert again[name].dtype == array.dtype, name
            np.testing.assert_array_equal(again[name], array, err_msg=name)

    @pytest.mark.parametrize("layout", ["cvnets", "timm"])
    def test_order_is_theirs(self, xxs, variables, layout):
        assert [*convert.to_state_dict(xxs, variables, layout)] == [*committed_names(layout, "xxs")]

    def test_hugging_face_by_the_verified_map(self, state_dict):
        """Every tensor of CVNets is under the name, or the three names, that transformers has."""
        table = json.loads((reference.GOLDEN / "cvnets_to_huggingface.json").read_text())
        original = reference.state_dict("xxs")
        for name, theirs in table.items():
            joined = np.concatenate([state_dict[part] for part in theirs])
            np.testing.assert_array_equal(joined, original[name], err_msg=name)
        named = {part for theirs in table.values() for part in theirs}
        assert named == {name for name in state_dict if not name.endswith("num_batches_tracked")}

    def test_timm_by_position(self, xxs, variables):
        """timm registers the same tensors in the same order as CVNets."""
        theirs = convert.to_state_dict(xxs, variables, "timm")
        for ours, array in zip(reference.state_dict("xxs").values(), theirs.values(), strict=True):
            np.testing.assert_array_equal(array, ours)

    def test_counters_are_integers(self, state_dict):
        counters = [a for name, a in state_dict.items() if name.endswith("num_batches_tracked")]
        assert len(counters) == 32
        assert all(a.dtype == np.int64 and a.shape == () and a == 0 for a in counters)

    def test_axes(self, xxs, variables, state_dict):
        params = variables["params"]
        stem = state_dict["mobilevit.conv_stem.convolution.weight"]
        kernel = params["backbone"]["conv_1"]["conv"]["kernel"]
        np.testing.assert_array_equal(kernel, stem.transpose(2, 3, 1, 0))
        np.testing.assert_array_equal(
            params["classifier"]["kernel"], state_dict["classifier.weight"].T
        )
        depthwise = params["backbone"]["layer_1"]["block_0"]["conv_3x3"]["conv"]["kernel"]
        assert depthwise.shape == (3, 3, 1, 32)

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_without_a_classifier(self, variables, layout):
        model = create_model("mobilevit_xxs", num_classes=0)
        headless = {**variables, "params": {**variables["params"]}}
        del headless["params"]["classifier"]
        state_dict = convert.to_state_dict(model, headless, layout)
        assert committed_names(layout, "xxs").keys() - state_dict.keys() == {
            CLASSIFIERS[layout],
            CLASSIFIERS[layout].replace("weight", "bias"),
        }
        jax.tree.map(
            np.testing.assert_array_equal, convert.load_state_dict(model, state_dict), headless
        )

    def test_a_bare_model_of_transformers_has_no_prefix(self, xxs, state_dict, variables):
        bare = {
            name.removeprefix("mobilevit."): array
            for name, array in state_dict.items()
            if not name.startswith("classifier")
        }
        model = create_model("mobilevit_xxs", num_classes=0)
        loaded = convert.load_state_dict(model, bare)
        jax.tree.map(
            np.testing.assert_array_equal,
            loaded["params"]["backbone"],
            variables["params"]["backbone"],
        )

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_other_widths_and_kernels(self, layout):
        variant = Variant((8, 16, 24, 32, 40, 48), (16, 24, 32), 3, 56, dropout=0.1)
        model = create_model("mobilevit_s", variant=variant, kernel_size=5, num_classes=7)
        rng = np.random.default_rng(0)
        flat = {
            path: rng.standard_normal(shape, np.float32)
            for path, shape in variable_shapes(model).items()
        }
        variables = traverse_util.unflatten_dict(flat)
        state_dict = convert.to_state_dict(model, variables, layout)
        back = convert.load_state_dict(model, state_dict)
        jax.tree.map(np.testing.assert_array_equal, back, variables)


class TestOutward:
    def test_unknown_layout(self, xxs):
        with pytest.raises(ConfigurationError, match="unknown layout 'cvnet' .*mean 'cvnets'"):
            convert.to_state_dict(xxs, {}, "cvnet")

    @pytest.mark.parametrize(
        ("layout", "options", "named"),
        [
            ("huggingface", {"fusion": False}, "fusion=False"),
            ("huggingface", {"depths": (1, 1, 1)}, r"depths=\(1, 1, 1\) \(always \(2, 4, 3\) th"),
            ("timm", {"depths": (2, 4, 4)}, r"depths=\(2, 4, 4\)"),
        ],
    )
    def test_what_the_names_cannot_express(self, layout, options, named):
        depths = options.pop("depths", (2, 4, 3))
        variant = Variant((8, 8, 8, 8, 8, 8), (8, 8, 8), 2, 16, dropout=0.1, depths=depths)
        model = create_model("mobilevit_s", variant=variant, **options)
        with pytest.raises(ConfigurationError, match=f"{layout!r} .* cannot express {named}"):
            convert.to_state_dict(model, {}, layout)

    def test_variables_of_another_model(self, xxs, variables):
        broken: Any = traverse_util.flatten_dict(variables, sep="/")
        broken["params/classifier/kernel"] = np.zeros((320, 10), np.float32)
        broken["params/head/bias"] = broken.pop("params/classifier/bias")
        with pytest.raises(DataError) as caught:
            convert.to_state_dict(xxs, traverse_util.unflatten_dict(broken, sep="/"))
        assert str(caught.value) == (
            "the variables do not fit the model; missing: params/classifier/bias; unexpected: "
            "params/head/bias; of another shape than the model's: params/classifier/kernel"
        )

    def test_arrays_of_jax_in_half_precision_come_out_wide(self, xxs, variables):
        kernel = jnp.asarray(variables["params"]["classifier"]["kernel"], jnp.bfloat16)
        classifier = variables["params"]["classifier"] | {"kernel": kernel}
        half = variables | {"params": variables["params"] | {"classifier": classifier}}
        weight = convert.to_state_dict(xxs, half)["classifier.weight"]
        assert weight.dtype == np.float32
        np.testing.assert_array_equal(weight.T, kernel.astype(np.float32))


class TestMisfits:
    @pytest.fixture
    def broken(self, state_dict):
        del state_dict["mobilevit.conv_stem.convolution.weight"]
        del state_dict["mobilevit.conv_stem.normalization.running_var"]
        state_dict["extra.weight"] = np.zeros(3, np.float32)
        state_dict["classifier.weight"] = np.zeros((10, 320), np.float32)
        return state_dict

    def test_all_are_listed(self, xxs, broken):
        with pytest.raises(DataError) as caught:
            convert.load_state_dict(xxs, broken)
        message = str(caught.value)
        assert "missing: mobilevit.conv_stem.convolution.weight, mobilevit.conv_stem" in message
        assert "unexpected: extra.weight;" in message
        assert "of another shape: classifier.weight (10, 320) instead of (1000, 320)" in message

    def test_report_and_fresh_initialisation(self, xxs, broken, variables):
        tree, report = convert.load_state_dict(xxs, broken, strict=False)
        assert report == convert.Report(
            missing=(
                "mobilevit.conv_stem.convolution.weight",
                "mobilevit.conv_stem.normalization.running_var",
            ),
            unexpected=("extra.weight",),
            misshapen=("classifier.weight",),
        )
        assert report and not convert.Report()
        loaded: Any = traverse_util.flatten_dict(tree, sep="/")
        expected: Any = traverse_util.flatten_dict(variables, sep="/")
        var = "batch_stats/backbone/conv_1/norm/var"
        fresh = {"params/backbone/conv_1/conv/kernel", "params/classifier/kernel", var}
        for path, array in loaded.items():
            assert array.shape == expected[path].shape and array.dtype == np.float32
            assert (path in fresh) != np.array_equal(array, expected[path]), path
        np.testing.assert_array_equal(loaded[var], np.ones(16, np.float32))
        assert loaded["params/classifier/kernel"].std() == pytest.approx(0.02, rel=0.02)
        fan_out = 3 * 3 * 16
        stem = loaded["params/backbone/conv_1/conv/kernel"]
        assert stem.std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)

    def test_nothing_to_report(self, xxs, state_dict, variables):
        loaded, report = convert.load_state_dict(xxs, state_dict, strict=False)
        assert not report
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)

    def test_one_missing_projection_leaves_the_others(self, xxs, state_dict, variables):
        attention = "mobilevit.encoder.layer.2.transformer.layer.1.attention.attention"
        del state_dict[f"{attention}.key.weight"]
        loaded, report = convert.load_state_dict(xxs, state_dict, strict=False)
        assert report.missing == (f"{attention}.key.weight",)
        query, key, value = np.split(qkv(loaded), 3, axis=1)
        old_query, old_key, old_value = np.split(qkv(variables), 3, axis=1)
        np.testing.assert_array_equal(query, old_query)
        np.testing.assert_array_equal(value, old_value)
        assert not np.array_equal(key, old_key) and key.std() == pytest.approx(0.02, rel=0.1)

    def test_long_lists_are_cut(self, state_dict):
        with pytest.raises(DataError) as caught:
            convert.load_state_dict(create_model("mobilevit_s"), state_dict)
        message = str(caught.value)
        assert message.count(" instead of ") == 10
        assert message.endswith(" more; they would fit a model with the size of mobilevit_xxs")

    @pytest.mark.parametrize(
        ("name", "options", "hint"),
        [
            ("mobilevit_xxs", {"num_classes": 10}, "num_classes=1000"),
            ("mobilevit_xxs", {"num_classes": 0}, "num_classes=1000"),
            ("mobilevit_xxs", {"fusion": False, "kernel_size": 5}, "fusion=True, kernel_size=3"),
            ("mobilevit_xs", {"num_classes": 3}, "the size of mobilevit_xxs, num_classes=1000"),
        ],
    )
    def test_hint(self, state_dict, name, options, hint):
        with pytest.raises(DataError, match=f"; they would fit a model with {hint}$"):
            convert.load_state_dict(create_model(name, **options), state_dict)

    def test_no_hint_if_the_tensors_are_of_no_model(self, xxs, state_dict):
        del state_dict["mobilevit.encoder.layer.3.conv_1x1.convolution.weight"]
        with pytest.raises(DataError, match=r"missing: \S+conv_1x1.convolution.weight$"):
            convert.load_state_dict(xxs, state_dict)


def qkv(tree):
    block = tree["params"]["backbone"]["layer_3"]["mobilevit"]
    return block["transformer_1"]["attention"]["qkv"]["kernel"]


class TestNumbers:
    NAME = "mobilevit.conv_1x1_exp.convolution.weight"

    @pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
    @pytest.mark.parametrize("strict", [True, False])
    def test_half_precision_only_if_allowed(self, xxs, state_dict, kind, strict):
        half = state_dict[self.NAME].astype(kind)
        state_dict[self.NAME] = half
        message = f"{half.dtype.name} in {self.NAME}; allow it with allow_half=True, --allow-half"
        with pytest.raises(DataError, match=message):
            convert.load_state_dict(xxs, state_dict, strict=strict)
        loaded = convert.load_state_dict(xxs, state_dict, allow_half=True)
        kernel = loaded["params"]["conv_1x1_exp"]["conv"]["kernel"]
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel.transpose(3, 2, 0, 1), half.astype(np.float32))

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("strict", [True, False])
    def test_not_finite(self, xxs, state_dict, value, strict):
        damaged = state_dict[self.NAME].copy()
        damaged[3, 2] = value
        state_dict[self.NAME] = damaged
        with pytest.raises(DataError, match=f"NaN or infinite values in {self.NAME}; the weights"):
            convert.load_state_dict(xxs, state_dict, strict=strict)

    def test_double_precision_is_rounded(self, xxs, state_dict, variables):
        state_dict = {name: array.astype(np.float64) for name, array in state_dict.items()}
        loaded = convert.load_state_dict(xxs, state_dict)
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)
        assert {leaf.dtype for leaf in jax.tree.leaves(loaded)} == {np.dtype(np.float32)}

    def test_double_precision_beyond_single(self, xxs, state_dict):
        state_dict[self.NAME] = state_dict[self.NAME] * np.float64(1e300)
        with pytest.raises(DataError, match=f"infinite values in {self.NAME}"):
            convert.load_state_dict(xxs, state_dict)

    @pytest.mark.parametrize(
        ("value", "kind"),
        [
            (np.zeros((320, 80, 1, 1), np.int8), "int8"),
            (np.zeros((320, 80, 1, 1), bool), "bool"),
            (np.zeros((320, 80, 1, 1), np.complex64), "complex64"),
            (np.zeros((320, 80, 1, 1), ml_dtypes.float8_e4m3fn), "float8_e4m3fn"),
            ({"weight": 1}, "dict"),
            ([[1.0], [2.0, 3.0]], "list"),
            ("weights", "str"),
        ],
    )
    def test_what_is_no_floating_point_tensor(self, xxs, state_dict, value, kind):
        state_dict[self.NAME] = value
        with pytest.raises(DataError, match=f"found {kind}.* in {self.NAME}"):
            convert.load_state_dict(xxs, state_dict, strict=False)

    def test_other_byte_order(self, xxs, state_dict, variables):
        swapped = {name: a.astype(a.dtype.newbyteorder(">")) for name, a in state_dict.items()}
        loaded = convert.load_state_dict(xxs, swapped)
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)
        assert all(leaf.dtype.isnative for leaf in jax.tree.leaves(loaded))

    def test_arrays_of_jax(self, xxs, state_dict, variables):
        names = [name for name in state_dict if ".layer.2." in name]
        of_jax = {name: jnp.asarray(state_dict[name]) for name in names}
        loaded = convert.load_state_dict(xxs, state_dict | of_jax)
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)


class Lazy(Mapping):
    """Counts how often each tensor is read."""

    def __init__(self, tensors):
        self.tensors, self.reads = tensors, dict.fromkeys(tensors, 0)

    def __getitem__(self, name):
        self.reads[name] += 1
        return self.tensors[name]

    def __contains__(self, name):
        return name in self.tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self):
        return len(self.tensors)


class TestCost:
    def test_a_lazy_mapping_is_read_once(self, xxs, state_dict):
        lazy = Lazy(state_dict)
        convert.load_state_dict(xxs, lazy)
        assert set(lazy.reads.values()) == {0, 1}  # 0: counters
        assert all(name.endswith("num_batches_tracked") for name, n in lazy.reads.items() if n == 0)

    def test_a_lazy_mapping_is_read_once_if_it_does_not_fit(self, state_dict):
        lazy = Lazy(state_dict | {"extra": np.zeros(3)})
        with pytest.raises(DataError, match="do not fit"):
            convert.load_state_dict(create_model("mobilevit_xs"), lazy)
        assert max(lazy.reads.values()) == 1

    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_memory_stays_below_the_weights_once_more(self, layout):
        model = create_model("mobilevit_s")
        variables = convert.load_state_dict(model, reference.state_dict("s"))
        state_dict = convert.to_state_dict(model, variables, layout)
        size = sum(array.nbytes for array in state_dict.values())
        tracemalloc.start()
        try:
            loaded = convert.load_state_dict(model, state_dict)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert loaded and peak < 0.5 * size


@pytest.mark.parity
class TestTensorsOfPyTorch:
    @pytest.fixture
    def tensors(self, state_dict):
        torch = pytest.importorskip("torch")
        return {name: torch.from_numpy(array.copy()) for name, array in state_dict.items()}

    def test_with_gradients(self, xxs, tensors, variables):
        for tensor in tensors.values():
            tensor.requires_grad_(tensor.is_floating_point())
        loaded = convert.load_state_dict(xxs, tensors)
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)

    def test_views(self, xxs, tensors, variables):
        name = "classifier.weight"
        tensors[name] = tensors[name].T.contiguous().T
        loaded = convert.load_state_dict(xxs, tensors)
        jax.tree.map(np.testing.assert_array_equal, loaded, variables)

    def test_half_precision(self, xxs, tensors):
        name = "classifier.weight"
        tensors[name] = tensors[name].bfloat16()
        with pytest.raises(DataError, match="bfloat16 in classifier.weight"):
            convert.load_state_dict(xxs, tensors)
        loaded = convert.load_state_dict(xxs, tensors, allow_half=True)
        expected = tensors[name].float().numpy().T
        np.testing.assert_array_equal(loaded["params"]["classifier"]["kernel"], expected)

    def test_sparse(self, xxs, tensors):
        tensors["classifier.weight"] = tensors["classifier.weight"].to_sparse()
        with pytest.raises(DataError, match="floating-point numbers; found Tensor in classifier.w"):
            convert.load_state_dict(xxs, tensors)
