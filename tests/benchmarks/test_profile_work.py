"""The profile: what operations tell of themselves, its tables, a small one, bad input."""

# The scripts are no package; their directory is put on the path below.
# pyright: reportMissingImports=false

import json
import sys
from pathlib import Path

import pytest

from mobilevit_jax.errors import DataError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _scripts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


PROGRAM = """
HloModule jit_f
%fused (p: f32[2]) -> f32[2] {
  ROOT %add.1 = f32[2]{0} add(%p, %p)
}
ENTRY %main (x: f32[2,3]) -> f32[2] {
  %x = f32[2,3]{1,0} parameter(0)
  %conv.7 = (f32[2]{0}, /*index=1*/u8[0]{0:T(256)}) custom-call(%x), metadata=\
{op_name="jit(f)/conv_1/c"}
  %dot.5 = f32[2,2]{1,0} dot(%x, %x), metadata={op_name="jit(f)/jvp(M)/M.stages/backbone/layer_3/\
mobilevit/transformer_1/attention/qkv/dot_general" source_file="a.py"}
  ROOT %fusion.2 = f32[2]{0} fusion(%dot.5), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/\
transpose(jvp(M))/backbone/layer_1/block_0/conv_3x3/norm/checkpoint/mul"}
}
"""


def test_operations_know_where_they_come_from():
    from profile_work import Operation, operations

    found = operations(PROGRAM)
    assert set(found) == {"add.1", "x", "conv.7", "dot.5", "fusion.2"}
    # One that a GPU's library computes has room to work in among its results.
    assert (found["conv.7"].kind, found["conv.7"].part) == ("custom-call", "conv_1")
    dot, fusion = found["dot.5"], found["fusion.2"]
    assert (dot.kind, dot.shape, dot.part, dot.backward) == (
        *("dot", "f32[2,2]{1,0}", "layer_3 attention", False),
    )
    assert (fusion.kind, fusion.part, fusion.backward) == ("fusion", "layer_1 conv_3x3", True)
    assert Operation("a", "add", "f32[]", "jit(f)/sqrt").part == "the rest"


def test_tables_add_up():
    from profile_work import show

    rows = [
        {"ms": ms, "part": part, "backward": backward, "kind": "dot", "shape": "f32[2]{0}"}
        | {"path": "a/b/c/d/e/f", "name": "dot"}
        for ms, part, backward in ((6.0, "a", True), (3.0, "b", False), (1.0, "a", False))
    ]
    about = {"work": "w", "ms": 8.0, "machine": "m", "date": "d"}
    text = show({**about, "operations": rows}, top=2)
    assert "w: 8 ms by the clock, all operations 10 ms" in text
    assert "| a | 1.00 | 6.00 | 70.0% |" in text and "| b | 3.00 | 0.00 | 30.0% |" in text
    assert text.count("`b/c/d/e/f`") == 2


def test_a_profile_without_operations_is_refused(monkeypatch):
    import profile_work

    monkeypatch.setattr(profile_work, "trace", lambda call, directory: {})
    options = ["mobilevit_xxs", "--work", "forward", "--size", "32", "--batch", "1"]
    with pytest.raises(DataError, match="none of the program's operations.*command_buffer="):
        profile_work.measure(profile_work.parse(options))


def test_a_forward_pass(tmp_path, monkeypatch, capsys):
    output = tmp_path / "profile.json"
    options = ("--work", "forward", "--size", "32", "--batch", "1", "--output", str(output))
    monkeypatch.setattr(sys, "argv", ["profile_work.py", "mobilevit_xxs", *options])
    from profile_work import main

    main()
    found = json.loads(output.read_text())
    assert found["ms"] > 0 and found["operations"][0]["ms"] > 0
    parts = {row["part"] for row in found["operations"]}
    assert {"layer_1 conv_3x3", "layer_3 ffn_expand", "conv_1"} <= parts
    assert "| part | forward, ms | backward, ms | share |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("mobilevit_q",), "unknown model 'mobilevit_q'"),
        (("mobilevit_xxs", "--rounds", "0"), "--rounds must be at least 1"),
        (("mobilevit_xxs", "--batch", "0"), "--batch must be at least 1"),
    ],
)
def test_bad_input_is_one_line(arguments, words, monkeypatch, capsys):
    from profile_work import main

    monkeypatch.setattr(sys, "argv", ["profile_work.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
