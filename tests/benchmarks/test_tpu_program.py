"""What a TPU's program writes, its padding, the tables."""

# The scripts are no package; their directory is put on the path below.
# pyright: reportMissingImports=false

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("f32[]", 4),
        ("f32[3,5]{1,0}", 60),
        # The minor axis comes in 128 lanes, the next in 8 rows.
        ("f32[3,5]{1,0:T(8,128)}", 8 * 128 * 4),
        ("bf16[3,5]{0,1:T(8,128)(2,1)}", 8 * 128 * 2),
        ("bf16[2,9,130]{2,1,0:T(8,128)(2,1)S(1)}", 2 * 16 * 256 * 2),
        ("f32[200]{0:T(256)}", 1024),
        ("(f32[2]{0}, s32[4]{0}, token[])", 24),
    ],
)
def test_padding_counts(shape, expected):
    from tpu_program import padded_bytes

    assert padded_bytes(shape) == expected


PROGRAM = """
HloModule jit_step
%fused (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  ROOT %copy.9 = f32[2]{0} copy(%p)
}
ENTRY %main (x: f32[2,3]) -> f32[2] {
  %x = f32[2,3]{1,0} parameter(0)
  %copy.1 = f32[2,3]{0,1} copy(%x)
  %copy-start.1 = (f32[2,3]{0,1:S(1)}, f32[2,3]{0,1}, u32[]) copy-start(%copy.1)
  %copy-done.1 = f32[2,3]{0,1:S(1)} copy-done(%copy-start.1)
  %copy.2 = f32[2,3]{1,0:S(1)} copy(%copy-done.1)
  %copy-start.2 = (f32[2,3]{0,1}, f32[2,3]{0,1:S(1)}, u32[]) copy-start(%copy.2)
  ROOT %fusion.2 = f32[2]{0} fusion(%copy-done.1), kind=kLoop, calls=%fused
}
"""


def test_what_the_entry_writes_to_main_memory_is_counted():
    from tpu_program import written

    assert list(written(PROGRAM)) == [
        *(("copy", 24), ("copy-start", 0), ("copy", 0), ("copy-start", 24), ("fusion", 8))
    ]


def test_the_tables_have_ratios():
    from tpu_program import show

    row = {"accessed": 2e9, "temporary": 1e9, "transcendentals": 1e9, "flops": 4e9, "copies": 2}
    row |= {"copied": 1e9, "written": 1e9, "compile_seconds": 3.0, "by_kind": {"copy": 10**9}}
    text = show({"xxs": {"ours": row, "plain port": row | {"accessed": 4e9}}})
    assert "| xxs | bytes accessed, GB | 2.00 | 4.00 | 0.50 |" in text
    assert "| xxs | plain port | copy | 1.00 |" in text
    assert "| xxs | copies | 2.00 | - | - |" in show({"xxs": {"ours": row}})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--batch", "0"), "must be at least 1"), (("--target", "v9-1"), "unknown target 'v9-1'")],
)
def test_bad_input_is_one_line(arguments, words, monkeypatch, capsys):
    from tpu_program import main

    monkeypatch.setattr(sys, "argv", ["tpu_program.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert words in error
