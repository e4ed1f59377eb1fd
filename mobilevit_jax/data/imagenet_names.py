"""The 1000 classes of ILSVRC2012: WordNet ids, in the order of the class indices, and names."""

import functools
from importlib import resources


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """Returns {WordNet id: name}, in the order of the class indices 0 to 999.

    The indices follow the sorted ids, as everywhere outside the development kit of ILSVRC2012.
    """
    table = resources.files("mobilevit_jax.data").joinpath("imagenet_classes.tsv")
    rows = [line.split("\t") for line in table.read_text("utf-8").splitlines()[1:]]
    return {wnid: name for _, wnid, name in rows}


def class_names_imagenet() -> tuple[str, ...]:
    """Returns the 1000 readable names; crane and maillot stand for two classes each."""
    return tuple(imagenet_classes().values())
