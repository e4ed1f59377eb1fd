"""Which form of an operation a computation gets: by its platform, or as a test forces it."""

from collections.abc import Callable
from typing import Any, Literal

from jax import lax

Form = Literal["auto", "cpu", "accelerator"]
FORMS: tuple[Form, ...] = ("auto", "cpu", "accelerator")

_form: Form = "auto"


class use_form:
    """Context manager that forces one form of all operations traced inside it.

    Args:
        form: "cpu", "accelerator" or "auto" (by platform at lowering, the default outside of it).
    """

    def __init__(self, form: Form) -> None:
        if form not in FORMS:
            raise ValueError(f"unknown form {form!r}; use 'auto', 'cpu' or 'accelerator'")
        self.form: Form = form
        self.previous: Form = _form

    def __enter__(self) -> None:
        global _form
        self.previous, _form = _form, self.form

    def __exit__(self, *exception: object) -> None:
        global _form
        _form = self.previous


def current_form() -> Form:
    """Returns the form that the innermost `use_form` asks for."""
    return _form


def by_platform(
    form: Form, cpu: Callable[..., Any], accelerator: Callable[..., Any], *operands: Any
) -> Any:
    """Returns what one of two functions makes of the operands.

    With "auto" both are traced, and the choice falls when the computation is lowered for its
    platform, so that an exported program holds the right one for each.
    """
    if form == "auto":
        return lax.platform_dependent(*operands, cpu=cpu, default=accelerator)
    return (cpu if form == "cpu" else accelerator)(*operands)
