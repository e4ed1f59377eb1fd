"""Classes of weights and of data, by their names."""

import dataclasses
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from mobilevit_jax.data.imagenet_names import class_names_imagenet
from mobilevit_jax.data.sources import DatasetInfo
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models import create_model
from mobilevit_jax.processing import ImageProcessor
from mobilevit_jax.tasks import create_evaluator
from mobilevit_jax.tasks.class_names import in_order_of, match_names
from mobilevit_jax.tasks.pretrained import Pretrained
from tests.small import TINY, random_variables, tiny_experiment, tiny_model

NAMES = ("ant", "bee", "cat", "dog")


@pytest.mark.parametrize(
    ("weights", "data", "order"),
    [
        ("a b c", "a b c", (0, 1, 2)),
        ("a b c", "c a b", (2, 0, 1)),
        ("a b c", "x y z", None),
        ("LABEL_0 LABEL_1", "a b", None),
        ("Traffic_Light cat", "Cat traffic-light", (1, 0)),
        ("background tv/monitor", "tvmonitor Background", (1, 0)),
        ("+ -", "- +", (1, 0)),
        # In their very spelling they are two classes, and otherwise one.
        ("Cat cat", "cat Cat", (1, 0)),
        # Signs, where nothing else tells them apart.
        ("C++ C", "c c++", (1, 0)),
        ("a-b ab", "AB A-B", (1, 0)),
        # The same twice, at the same places, as in ImageNet.
        ("crane b crane", "crane b crane", (0, 1, 2)),
    ],
)
def test_matches(weights, data, order):
    assert match_names(weights.split(), data.split()) == order


@pytest.mark.parametrize(
    ("weights", "data", "order"),
    [
        (["Felis, cat", "Canis, dog"], ["dog", "cat"], (1, 0)),
        (["cafe\u0301", "b"], ["b", "caf\u00e9"], (1, 0)),
        (["cat, pet", "dog, pet"], ["dog", "cat"], (1, 0)),
    ],
)
def test_synonyms_and_accents(weights, data, order):
    assert match_names(weights, data) == order


def test_as_many_names_as_all_of_imagenet_has():
    """A look through a list for each name took some ten seconds."""
    weights = [f"class {place}" for place in range(22_000)]
    start = time.process_time()
    assert match_names(weights, weights[::-1]) == tuple(range(22_000))[::-1]
    # Only their signs differ, so that each is looked for on the other side.
    signs = [name.replace(" ", "-") for name in weights]
    assert match_names(weights, signs) == tuple(range(22_000))
    assert time.process_time() - start < 3


def test_names_of_imagenet_with_all_synonyms():
    ours = class_names_imagenet()
    theirs = [f"{name}, Genus species" for name in ours]
    theirs[134], theirs[517] = "crane (bird)", "crane (machine)"
    assert match_names(theirs, ours) == tuple(range(1000))


@pytest.mark.parametrize(
    ("weights", "data", "message"),
    [
        ("a b c", "a b x", "only the data have 'x', only the weights 'c', and they share other"),
        ("a b c", "x y a", "only the data have 'x', 'y', only the weights 'b', 'c', and"),
        ("a b c d e f", "u v w x y f", "'u', 'v', 'w' and 2 more, only the weights 'a', 'b', 'c'"),
        ("a a b", "a b x", "only the data have 'x', only the weights none, and they share"),
        ("a,x b c", "x y z", "only the data have 'y', 'z', only the weights 'b', 'c', and they"),
        ("C++ C x_y", "c c++ x-y", "the same names, some of them twice, in another order"),
        ("crane crane a", "a crane crane", "the same names, some of them twice, in another order"),
    ],
)
def test_a_part_that_matches_is_refused(weights, data, message):
    with pytest.raises(ConfigurationError, match=message):
        match_names(weights.split(), data.split())


def loaded_with(model, name, names, **options):
    processor = ImageProcessor(size=32, crop_size=(32, 32))
    return Pretrained(model, random_variables(model), processor, names, name, "weights", **options)


CASES = {
    "classification": lambda: (tiny_model(4), "mobilevit_xxs", NAMES),
    # The weights may have outputs beyond the names.
    "unnamed": lambda: (tiny_model(6), "mobilevit_xxs", NAMES),
    "detection": lambda: (
        create_model("ssdlite_mobilevit_xxs", variant=TINY, num_classes=5),
        "ssdlite_mobilevit_xxs",
        NAMES,
    ),
    "segmentation": lambda: (
        create_model("deeplabv3_mobilevit_xxs", variant=TINY, num_classes=5, aspp_features=8),
        "deeplabv3_mobilevit_xxs",
        ("background", *NAMES),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_class_keeps_its_scores(case):
    """Of an image, by name; a detector's offsets and background stay where they are."""
    model, name, names = CASES[case]()
    loaded = loaded_with(model, name, names)
    turned = names[2:] + names[:2]
    matched, note = in_order_of(loaded, turned, "mine")
    assert note == (
        f"class 0 of mine is {turned[0]!r}, that of the weights {names[0]!r}; both have the same "
        "classes, which are matched by their names"
    )
    assert matched.class_names == turned
    image = np.random.default_rng(0).random((1, 64, 64, 3), np.float32)
    before, after = (jax.jit(model.apply)(w.variables, image) for w in (loaded, matched))
    if case == "detection":
        np.testing.assert_array_equal(before[1], after[1])
        before, after = before[0], after[0]
        np.testing.assert_array_equal(before[..., 0], after[..., 0])
        before, after = before[..., 1:], after[..., 1:]
    for place, own in enumerate(turned):
        score = np.asarray(before[..., names.index(own)])
        np.testing.assert_allclose(after[..., place], score, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(before[..., len(names) :], after[..., len(names) :])


def test_other_classes(tmp_path):
    loaded = loaded_with(tiny_model(4), "mobilevit_xxs", NAMES)
    with pytest.raises(ConfigurationError, match="mine has 3 classes, the weights 4; name the dat"):
        in_order_of(loaded, NAMES[1:], "mine")
    with pytest.raises(ConfigurationError, match="of mine are not those of the weights: only the"):
        in_order_of(loaded, ("x", *NAMES[1:]), "mine")
    same, note = in_order_of(loaded, tuple("wxyz"), "mine")
    assert same is loaded
    assert note == (
        "class 0 of mine is 'w', that of the weights 'ant'; going on, as both have 4 classes"
    )
    assumed = dataclasses.replace(loaded, names_assumed=True)
    assert in_order_of(assumed, ("x", *NAMES[1:]), "mine")[0] is assumed
    run = dataclasses.replace(loaded, experiment=tiny_experiment(tmp_path))
    with pytest.raises(ConfigurationError, match="class 0 of mine is 'w'.*; name the data set"):
        in_order_of(run, tuple("wxyz"), "mine")
    assert in_order_of(run, NAMES[::-1], "mine")[0].class_names == NAMES[::-1]


def test_an_evaluation_takes_no_other_order():
    loaded = loaded_with(tiny_model(4), "mobilevit_xxs", NAMES)
    info = DatasetInfo("mine", Path(), {}, NAMES[::-1])
    with pytest.raises(ConfigurationError, match="in another order; evaluate what .*in_order_of"):
        create_evaluator(loaded, info, loaded.processor)
    create_evaluator(in_order_of(loaded, NAMES[::-1], "mine")[0], info, loaded.processor)
