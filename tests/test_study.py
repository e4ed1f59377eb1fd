"""Studies: what they refuse, and what makes rows the same run."""

from dataclasses import replace

import pytest

from mobilevit_jax.config import Experiment
from mobilevit_jax.errors import ConfigurationError
from mobilevit_jax.study import (
    Line,
    Row,
    Study,
    Table,
    check_different,
    load_run,
    load_study,
    shrink_study,
    varied,
)

A = Experiment(epochs=3)
B = replace(A, seed=4, epochs=5)

FILE = """
from mobilevit_jax.config import Experiment
from mobilevit_jax.study import Row, Study

def study():
    return Study("s", "", (Row("a", Experiment("other", epochs=3)), Row("b", Experiment())))
"""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Study("s", "", ()), "rows of different names"),
        (lambda: Study("s", "", (Row("a", A), Row("a", B))), "rows of different names"),
        (lambda: Study("s", "", (Row("../a", A),)), "'../a' cannot name a study or a row"),
        (lambda: Study("", "", (Row("a", A),)), "'' cannot name"),
        (lambda: Table("t", "", ("top1", "loss"), (Line("x", "a", (1.0,)),)), "1 numbers of the"),
        (
            lambda: Study(
                "s", "", (Row("abc", A),), (Table("t", "", (), (Line("x", "abd", ()),)),)
            ),
            r"unknown row of table 't' 'abd' \(did you mean 'abc'\?\)",
        ),
    ],
)
def test_what_is_no_study(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


def test_rows_get_their_names_when_they_are_loaded(tmp_path):
    path = tmp_path / "s.py"
    path.write_text(FILE)
    study = load_study(path)
    assert [row.experiment.name for row in study.rows] == ["a", "b"]
    assert load_run(path, "a") == Experiment("a", epochs=3)
    with pytest.raises(ConfigurationError, match="unknown row of the study s 'c'"):
        load_run(path, "c")
    path.write_text(FILE + "\ndef experiment():\n    return Experiment('mine')\n")
    assert load_run(path) == Experiment("mine")


def test_rows_that_are_the_same_run():
    check_different((Row("a", A), Row("b", B)))
    check_different((Row("a", A), Row("b", A, (32,))))
    with pytest.raises(ConfigurationError, match="rows 'a' and 'b' are the same run"):
        check_different((Row("a", A), Row("b", replace(A, name="b"))))


def test_what_varies():
    assert varied(Study("s", "", (Row("a", A), Row("b", B)))) == ["epochs", "seed"]
    assert varied(Study("s", "", (Row("a", A),))) == []


def test_the_tiny_form_has_sizes_in_proportion():
    table = Table("t", "", ("top1", "top1@320", "updates"), (Line("x", "a", (None,) * 3),))
    tiny = shrink_study(Study("s", "", (Row("a", A, (160, 320)), Row("b", A)), (table,)))
    assert [row.sizes for row in tiny.rows] == [(40, 80), ()]
    assert tiny.tables[0].metrics == ("top1", "top1@80", "updates")
