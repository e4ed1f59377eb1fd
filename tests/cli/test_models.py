"""`mobilevit models`: the published numbers, and patterns."""

import json

import pytest
from PIL import Image

PARAMETERS = {
    "mobilevit_s": 5_578_632,
    "mobilevit_xs": 2_317_848,
    "mobilevit_xxs": 1_272_024,
    "ssdlite_mobilevit_s": 5_738_826,
    "ssdlite_mobilevit_xs": 2_742_042,
    "ssdlite_mobilevit_xxs": 1_755_050,
    "deeplabv3_mobilevit_s": 6_357_941,
    "deeplabv3_mobilevit_xs": 2_944_069,
    "deeplabv3_mobilevit_xxs": 1_854_853,
    "yolox_mobilevit_s": 7_309_727,
    "yolox_mobilevit_xs": 3_188_943,
    "yolox_mobilevit_xxs": 1_086_911,
}
MACS = {
    "mobilevit_s": "2,000.8",
    "mobilevit_xs": "1,025.9",
    "mobilevit_xxs": "407.4",
    "ssdlite_mobilevit_s": "3,426.7",
    "ssdlite_mobilevit_xs": "1,845.4",
    "ssdlite_mobilevit_xxs": "842.0",
    "deeplabv3_mobilevit_s": "13,693.5",
    "deeplabv3_mobilevit_xs": "7,378.4",
    "deeplabv3_mobilevit_xxs": "3,952.8",
    "yolox_mobilevit_s": "8,622.7",
    "yolox_mobilevit_xs": "4,609.5",
    "yolox_mobilevit_xxs": "1,564.0",
}


def rows(out: str) -> dict[str, list[str]]:
    """Returns the cells of each row of a table, by the first."""
    return {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}


def test_the_listing(mobilevit):
    ran = mobilevit("models")
    assert (ran.status, ran.err) == (0, "")
    shown = rows(ran.out)
    for name, parameters in PARAMETERS.items():
        assert shown[name][1:3] == [f"{parameters:,}", MACS[name]]
    assert shown["mobilevit_xs"][3:] == ["32x32x64", "16x16x80", "8x8x96"]
    assert shown["deeplabv3_mobilevit_s"][3:] == ["64x64x96", "32x32x128", "32x32x160"]
    sizes = {"mobilevit_s": "256", "ssdlite_mobilevit_s": "320", "deeplabv3_mobilevit_s": "512"}
    assert {name: shown[name][0] for name in sizes} == sizes
    assert "MACs are multiply-adds for one image of size x size pixels" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 100


def test_the_stages_of_one_model(mobilevit):
    ran = mobilevit("models", "mobilevit_xxs", "--size", 64, "--num-classes", 10)
    shown = rows(ran.out)
    assert shown["classifier"][0] == "3,210"
    assert shown["layer_5"][0] == "2x2x80"
    parts = [int(cells[-2].replace(",", "")) for name, cells in shown.items() if "_" in name[5:8]]
    assert shown["total"][0] == f"{PARAMETERS['mobilevit_xxs'] - 321_000 + 3_210:,}"
    assert sum(parts) < PARAMETERS["mobilevit_xxs"]


def test_json(mobilevit):
    models = json.loads(mobilevit("models", "mobilevit_x*", "--json").out)
    assert list(models) == ["mobilevit_xs", "mobilevit_xxs"]
    for name, model in models.items():
        assert model["parameters"] == PARAMETERS[name]
        assert f"{model['macs'] / 1e6:,.1f}" == MACS[name]
        assert sum(stage["macs"] for stage in model["stages"]) == model["macs"]


def test_a_size_and_classes_for_all(mobilevit):
    models = json.loads(
        mobilevit("models", "*_xxs", "--size", 64, "--num-classes", 3, "--json").out
    )
    assert {model["size"] for model in models.values()} == {64}
    stages = {stage["name"]: stage for stage in models["ssdlite_mobilevit_xxs"]["stages"]}
    assert list(stages)[6:8] == ["extra_64", "extra_128"]
    assert stages["head_5"]["parameters"] == 65 * 4 * 7
    assert stages["extra_pool"]["shape"] == [1, 1, 64]


def test_no_classes(mobilevit):
    model = json.loads(mobilevit("models", "mobilevit_xs", "--num-classes", 0, "--json").out)
    assert model["mobilevit_xs"]["parameters"] == PARAMETERS["mobilevit_xs"] - 385 * 1000
    assert "classifier" not in {stage["name"] for stage in model["mobilevit_xs"]["stages"]}


def test_networks_side_by_side(mobilevit, tmp_path):
    output, plot = tmp_path / "new" / "networks.json", tmp_path / "networks.png"
    ran = mobilevit("models", "--compare", "--output", output, "--plot", plot)
    assert ran.status == 0
    shown = rows(ran.out)
    assert shown["mobilevit_s"] == ["256", "5,578,632", "2,000.8", "78.40", "[3]"]
    assert shown["[3]"] == ["MobileViT", "paper", "(arXiv", "2110.02178),", "Figure", "6"]
    assert shown["mobilenetv2_140"] == ["256", "6,108,776", "759.9"]
    assert not any(name.startswith(("ssdlite", "deeplab", "yolox")) for name in shown)
    assert max(map(len, ran.out.splitlines()[1:])) <= 80
    assert "not drawn, since no top-1 is known: mobilenetv2_035, mobilenetv2_140\n" in ran.err
    found = json.loads(output.read_text())["networks"]
    assert next(one for one in found if one["options"])["source"] == "CVNets v0.2, model zoo"
    with Image.open(plot) as image:
        assert image.format == "PNG"


@pytest.mark.slow
def test_latency_beside_them(mobilevit):
    ran = mobilevit("models", "resnet18", "--compare", "--latency", "--size", 32, "--json")
    numbers = json.loads(ran.out)
    assert numbers["machine"]["cores"] >= 1
    assert 0 < numbers["networks"][0]["milliseconds"] < 1000
    assert "measuring resnet18 (1/1)" in ran.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mobilevit_xss"], "unknown model 'mobilevit_xss' (did you mean 'mobilevit_xs'?); known"),
        (["*large"], "unknown model '*large'; known: deeplabv3_mobilenetv2_025, "),
        (["--size", 0], "--size must be at least 1 pixel; got 0"),
        (["mobilevit_s", "--num-classes", -1], "num_classes must be 0 (pooled features) or more"),
        (["--latency"], "--latency goes with --compare; give that too"),
        (["--compare", "--num-classes", 10], "--compare is of classifiers of 1000 classes; leave"),
        (["--compare", "--plot", "a.pdf"], "--plot a.pdf must end with .png or .svg"),
        (["ssdlite_mobilevit_s", "--compare"], "unknown classifier 'ssdlite_mobilevit_s'"),
        (["*_140", "--compare", "--plot", "a.png"], "there is nothing to draw: of no network a"),
        (["ssd*", "--num-classes", 1], "num_classes must be 2 or more, the background and at"),
    ],
)
def test_arguments_that_do_not_fit(mobilevit, arguments, message):
    ran = mobilevit("models", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith(f"mobilevit: error: {message}") and ran.err.count("\n") == 1
