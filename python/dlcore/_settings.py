"""What layers, losses, optimizers and schedules share: checked, read-only, printable arguments."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sized
from typing import Any

INDEX_LIMIT = 2**63 - 1  # the core's index type


def describe(value: object) -> str:
    """Name `value` in an error: its type, and its text when that is short."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    try:
        if isinstance(value, Sized) and len(value) > 60:
            return name  # its text may be long, and slow to make
        text = repr(value)
    except Exception:  # noqa: BLE001 - an int of thousands of digits, or somebody's broken class
        return name
    if value is None or (type(value) is int and len(text) < 22):
        return text
    return f"{name} {text}" if len(text) <= 60 and "\n" not in text else name


def integer(what: str, value: object, low: int, high: int = INDEX_LIMIT) -> int:
    """Return `value` as an int of at least `low` and at most `high`, or say what is wrong."""
    limits = f"of at least {low}" if high == INDEX_LIMIT else f"from {low} to {high}"
    try:
        result = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{what} needs an integer {limits}, found {describe(value)}") from None
    if result > INDEX_LIMIT and high == INDEX_LIMIT:
        raise ValueError(f"{what} needs an integer below 2**63, found a larger one")
    if not low <= result <= high:
        raise ValueError(f"{what} needs an integer {limits}, found {describe(result)}")
    return result


def number(
    what: str,
    value: object,
    low: float,
    high: float = math.inf,
    *,
    include_low: bool = True,
    include_high: bool = False,
) -> float:
    """Return `value` as a finite float between `low` and `high`, or say what is wrong."""
    limits = f"{'of at least' if include_low else 'above'} {low:g}"
    if high != math.inf:
        limits += f" and {'at most' if include_high else 'below'} {high:g}"
    if isinstance(value, (str, bytes)):  # float("1") would pass
        raise TypeError(f"{what} needs a number {limits}, found {describe(value)}")
    try:
        result = float(value)  # type: ignore[arg-type]
    except OverflowError:  # an int beyond the floats
        result = math.inf
    except (TypeError, ValueError):
        raise TypeError(f"{what} needs a number {limits}, found {describe(value)}") from None
    above = result >= low if include_low else result > low
    below = result <= high if include_high else result < high
    if not (above and below and math.isfinite(result)):
        raise ValueError(f"{what} needs a finite number {limits}, found {result:g}")
    return result


def choice(what: str, value: object, allowed: Iterable[str]) -> str:
    """Return `value` if it is one of the names `allowed`, or list them."""
    names = list(allowed)
    if not isinstance(value, str):
        raise TypeError(f"{what} needs one of {', '.join(names)}, found {describe(value)}")
    if value not in names:
        raise ValueError(f"{what} needs one of {', '.join(names)}, found {value!r}")
    return value


class Settings:
    """Base of the small classes that hold nothing but their constructor's arguments.

    The arguments become read-only attributes of the same names, so an object can be shared by
    several networks; two objects of one class with equal arguments are equal.
    """

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments by name, as a new dict."""
        return dict(self.__dict__)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is read-only; make a new one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is read-only; make a new one")

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), repr(self)))

    def __repr__(self) -> str:
        """The call that makes this object; arguments at their defaults are left out."""
        code = type(self).__init__.__code__
        names = code.co_varnames[1 : code.co_argcount]
        values = type(self).__init__.__defaults__ or ()
        defaults = dict(zip(names[len(names) - len(values) :], values, strict=True))
        shown = []
        for position, (name, value) in enumerate(self.__dict__.items()):
            if name not in defaults or value != defaults[name]:
                shown.append(repr(value) if position == 0 else f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Text(str):
    """A string that an interactive session shows as it is, with its line breaks."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)
