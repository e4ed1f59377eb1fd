"""Whether a command line is one that `mobilevit` takes, without doing what it says."""

import tyro

from mobilevit_jax.cli.main import main


class Parsed(BaseException):
    """Comes in place of doing what a command line says."""


def parse_only(words, monkeypatch):
    """Calls `mobilevit` with the words; raises Parsed where it would begin to work."""
    real = tyro.cli

    def parse(*arguments, **options):
        raise Parsed(real(*arguments, **options))

    monkeypatch.setattr(tyro, "cli", parse)
    return main(words)
