"""The figures of a report: that all of a legend is in the picture."""

import pytest

from mobilevit_jax.analysis import plots
from mobilevit_jax.studies.report.figures import Curves, draw_lines


@pytest.mark.parametrize("labels", [("a", "b", "c"), ("runs/" + 30 * "W", "runs/" + 30 * "M")])
def test_the_legend_is_inside(labels, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "write_figure", lambda figure, path: figures.append(figure))
    lines = [Curves(label, [[(0.0, 0.1), (1.0, 0.2)]]) for label in labels]
    draw_lines(lines, tmp_path / "plot.png", metric="top1", title="top-1", sizes=True)
    (figure,) = figures
    figure.draw_without_rendering()
    (legend,) = figure.legends
    assert [text.get_text()[-1] for text in legend.get_texts()] == [one[-1] for one in labels]
    left, right = legend.get_window_extent().intervalx
    assert left >= 0 and right <= figure.bbox.width
