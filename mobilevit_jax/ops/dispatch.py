"""Which form of an operation a computation gets: by its platform, or as a test forces it."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

from jax import lax

Form = Literal["auto", "cpu", "accelerator"]
FORMS: tuple[Form, ...] = get_args(Form)

_form: Form = "auto"


@contextlib.contextmanager
def use_form(form: Form) -> Iterator[None]:
    """Forces one form of all operations traced inside it.

    Args:
        form: "cpu", "accelerator" or "auto" (by platform at lowering, the default outside of it).
    """
    global _form
    if form not in FORMS:
        raise ValueError(f"unknown form {form!r}; use 'auto', 'cpu' or 'accelerator'")
    previous, _form = _form, form
    try:
        yield
    finally:
        _form = previous


def current_form() -> Form:
    """Returns the form that the innermost `use_form` asks for."""
    return _form


def by_platform(
    form: Form,
    cpu: Callable[..., Any],
    accelerator: Callable[..., Any],
    *operands: Any,
    tpu: Callable[..., Any] | None = None,
) -> Any:
    """Returns what one of the functions makes of the operands.

    With "auto" all are traced, and the choice falls when the computation is lowered for its
    platform, so that an exported program holds the right one for each. Without `tpu`, a TPU is an
    accelerator as any other.
    """
    if form == "auto":
        return lax.platform_dependent(
            *operands, cpu=cpu, tpu=tpu or accelerator, default=accelerator
        )
    return (cpu if form == "cpu" else accelerator)(*operands)
