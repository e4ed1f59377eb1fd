"""The process of one run of a sweep, with a network that compiles in a second.

Usage: python -m tests.cli.small_row, an order on stdin
"""

from mobilevit_jax.cli.main import guarded, leave
from mobilevit_jax.cli.study_row import main
from mobilevit_jax.models.config import ModelConfig
from tests.small import build_small_net

if __name__ == "__main__":
    ModelConfig.build = build_small_net  # pyright: ignore[reportAttributeAccessIssue]
    leave(guarded(main))
