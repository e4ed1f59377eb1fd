"""Heads, a file each, with a `HEAD`; see `models.model`."""
