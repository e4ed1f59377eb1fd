"""The whole way with a real MobileViT, from drawing data to predicting, and no TensorFlow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Several libraries ask in several ways whether TensorFlow is installed; this answers all of them.
PIPELINE = """
import sys
from importlib.machinery import PathFinder
class Hidden(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] == "tensorflow"
        return None if hidden else PathFinder.find_spec(name, path, target)
sys.meta_path[:] = [Hidden if finder is PathFinder else finder for finder in sys.meta_path]

from pathlib import Path
from mobilevit_jax.cli.main import main
from mobilevit_jax.data.sources import open_split

experiment = sys.argv[1]
size = ["--sampler.sizes", "32", "--processor.size", "32", "--processor.crop-size", "32", "32"]
assert main(["prepare", "shapes/tiny"]) == 0
assert main(["train", experiment, "--tiny", *size, "--workdir", "run"]) == 0
assert main(["evaluate", "--weights", "run", "--output", "evaluated.json"]) == 0
for index, record in enumerate(open_split("shapes/tiny", "test").records(range(2))):
    Path(f"{index}.png").write_bytes(record["image"])
sys.stdout = open("predicted.json", "w")
assert main(["predict", "0.png", "1.png", "--weights", "run", "--json", "--plot", "shown.png"]) == 0
sys.stdout.close()
sys.stdout = sys.__stdout__
print([name for name in sys.modules if name.partition(".")[0] == "tensorflow"])
"""


@pytest.mark.slow
def test_prepare_train_evaluate_predict(tmp_path):
    experiment = ROOT / "experiments" / "quickstart.py"
    result = subprocess.run(
        [sys.executable, "-c", PIPELINE, str(experiment)],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=tmp_path,
        env={**os.environ, "TFDS_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"
    assert "compiling 32x32, batch 64 (1/1)" in result.stderr
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["train", "validation", "test"]
    evaluated = json.loads((tmp_path / "evaluated.json").read_text())
    assert evaluated["count"] == 32
    assert evaluated["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-5)
    predicted = json.loads((tmp_path / "predicted.json").read_text())
    assert [answer["image"] for answer in predicted] == ["0.png", "1.png"]
    assert all(len(answer["predictions"]) == 5 for answer in predicted)
    assert (tmp_path / "shown.png").read_bytes()[:4] == b"\x89PNG"
