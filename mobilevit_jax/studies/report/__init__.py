"""A report of runs and sweeps: one page that stands alone, Markdown, and the figures as files.

Nothing is trained or evaluated for it: what a run has not left is said to be missing.
"""

from mobilevit_jax.studies.report.runs import collect
from mobilevit_jax.studies.report.sections import compose
from mobilevit_jax.studies.report.writing import write

__all__ = ["collect", "compose", "write"]
