"""Damaged files, thousands of them: read right or refused, and nothing else, under limits."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("worker.py")
# Times as many cases, other ones each time, where it is set.
FACTOR = int(os.environ.get("MOBILEVIT_FUZZ", "1"))
CASES = {
    "images": 800,
    "masks": 200,
    "weights": 400,
    "pickles": 600,
    "safetensors": 300,
    "json": 800,
    "annotations": 600,
    "boxes": 600,
    "parquet": 300,
}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="measures memory by /proc")
@pytest.mark.parametrize("target", CASES)
def test_damaged_files_are_read_or_refused(tmp_path, target):
    seed = 0 if FACTOR == 1 else random.SystemRandom().randrange(10**9)
    command = [sys.executable, WORKER, target, str(CASES[target] * FACTOR), str(seed), tmp_path]
    ran = subprocess.run(command, capture_output=True, text=True, errors="replace")
    # A crash or a hang: the file that was being read is still there.
    assert ran.returncode == 0, f"seed {seed}: {ran.stderr[-3000:]}"
    report = json.loads(ran.stdout)
    assert not report["problems"], f"seed {seed}: " + "\n".join(report["problems"])
    # So that the damage is neither nothing nor all.
    assert CASES[target] * 0.05 < report["refused"] / FACTOR < CASES[target]
