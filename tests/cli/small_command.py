"""The command `mobilevit` with a network that compiles in a second in place of MobileViT.

Usage: python -m tests.cli.small_command train FILE ...
"""

import sys

from mobilevit_jax.cli.main import main
from mobilevit_jax.models.config import ModelConfig
from tests.small import build_small_net

if __name__ == "__main__":
    ModelConfig.build = build_small_net  # pyright: ignore[reportAttributeAccessIssue]
    sys.exit(main())
