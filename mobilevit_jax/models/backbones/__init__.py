"""Backbones, a file or folder each, with a `FAMILY`; see `models.model`."""
