"""The networks side by side: what is known of each, and a plot whose labels can be read."""

import dataclasses

import numpy as np
import pytest

from mobilevit_jax.analysis.networks import networks
from mobilevit_jax.analysis.plots import new_figure
from mobilevit_jax.analysis.plots_networks import (
    Point,
    accuracy_over_parameters,
    covered,
    drawn,
    place_labels,
)
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.models.registry import families

# As CVNets v0.2's model zoo, the paper (Figure 6, Table 5) and torchvision 0.28 have them.
TOP1 = {
    "mobilevit_xxs": 0.690,
    "mobilevit_xs": 0.748,
    "mobilevit_s": 0.784,
    "mobilevitv2_050": 0.7018,
    "mobilevitv2_100": 0.7809,
    "mobilevitv2_200": 0.8117,
    "mobilenetv2_035": None,
    "mobilenetv2_100": 0.7293,
    "resnet50": 0.7613,
    "resnet50, stem=cvnets": 0.786,
}


@pytest.fixture(scope="module")
def every():
    return networks()


def test_every_classifier_is_there_once_with_what_is_published(every):
    found = {network.label: network for network in every}
    assert len(found) == len(every)
    assert {network.name for network in every} == {
        name for family in families().values() for name in family.variants
    }
    assert {label: found[label].top1 for label in TOP1} == TOP1
    assert all((network.top1 is None) is (network.source is None) for network in every)
    assert found["resnet50, stem=cvnets"].parameters == 25_550_056
    assert found["resnet50"].parameters == 25_557_032


def test_what_is_published_is_of_a_variant():
    for family in families().values():
        assert {figure.variant for figure in family.accuracies} <= set(family.variants)


def test_the_size_of_images():
    (small,) = networks("mobilenetv2_100", 224)
    assert (small.size, small.macs) == (224, 300_774_272)


def test_labels_cover_neither_points_nor_lines_nor_one_another():
    figure = new_figure(4.0, 3.0)
    axes = figure.add_subplot()
    places = [(10, 50), (10.5, 51), (11, 50), (10.2, 53), (11, 53), (11.2, 50.5), (20, 70)]
    points = [Point(x, y, f"{x}") for x, y in places]
    axes.plot(*zip(*places, strict=True))
    figure.draw_without_rendering()
    boxes = [np.array(label.get_window_extent().extents) for label in place_labels(axes, points)]
    assert len(boxes) == len(points)
    for index, box in enumerate(boxes):
        assert covered(box, np.vstack([drawn(axes), *boxes[:index], *boxes[index + 1 :]])) == 0


def test_areas_in_common():
    others = np.array([[1.0, 1, 3, 3], [2, 2, 5, 5], [-1, 0, 0, 9]])
    assert covered(np.array([0.0, 0, 2, 4]), others) == 2


def test_an_svg_by_its_name(every, tmp_path):
    accuracy_over_parameters(every, tmp_path / "networks.SVG")
    assert "<svg" in (tmp_path / "networks.SVG").read_text()


def test_nothing_to_draw(every, tmp_path):
    unknown = [dataclasses.replace(network, top1=None) for network in every]
    with pytest.raises(ConfigurationError, match="of no network a top-1 is published"):
        accuracy_over_parameters(unknown, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
