"""What the logits of a classifier stand for, by the names that transformers gave it."""

from typing import Any, Final

SINGLE_LABEL: Final = "single_label_classification"
"""Their softmax is the probability of each class."""

MULTI_LABEL: Final = "multi_label_classification"
"""The sigmoid of each is a class's own probability."""

REGRESSION: Final = "regression"
"""They are the numbers that are looked for."""

PROBLEM_TYPES: Final = (SINGLE_LABEL, MULTI_LABEL, REGRESSION)


def assumed_problem_type(num_classes: int) -> str:
    """Returns what logits stand for where nothing says it.

    As transformers has it: the softmax of one logit alone would be 1, whatever the image.
    """
    return MULTI_LABEL if num_classes == 1 else SINGLE_LABEL


def problem_type_of(model: Any) -> str:
    """Returns what the logits of any module stand for; those without the option name classes."""
    return getattr(model, "problem_type", SINGLE_LABEL)


def unsaid(model: Any) -> list[str]:
    """Returns the options that have to be said to whoever reads a model's tensors alone."""
    found = getattr(model, "problem_type", None)
    if found in (None, assumed_problem_type(model.num_classes)):
        return []
    return [f"problem_type={found!r}"]
