"""Makes `python -m mobilevit_jax` the same as the command `mobilevit`."""

import sys

from mobilevit_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
