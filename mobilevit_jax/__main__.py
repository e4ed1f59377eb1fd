"""Makes `python -m mobilevit_jax` the same as the command `mobilevit`."""

from mobilevit_jax.cli.main import console

if __name__ == "__main__":
    console()
