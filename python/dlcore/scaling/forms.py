"""Forms of a learning curve, and the native fits of them.

The core knows a form by parameters that are logarithms and exponents (cpp/curves/forms.cpp); here
are the parameters that papers print.

References
----------
.. [1] Alabdulmohsin, Neyshabur, Zhai, "Revisiting neural scaling laws in language and vision",
   NeurIPS 2022 (M1 to M4).
.. [2] Caballero et al., "Broken neural scaling laws", ICLR 2023.
.. [3] Mohr, Viering, Loog, van Rijn, "LCDB 1.0", ECML 2022 (pow4, mmf4, wbl4, exp4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dlcore._core import curves as _native

Array = NDArray[np.float64]
Parameters = dict[str, float]


def _exp(value: float) -> float:
    """e**value, finite."""
    return math.exp(min(value, 700.0))


def _power(p: Array) -> Parameters:
    return {"b": _exp(p[0]), "c": p[1]}


def _power_floor(p: Array) -> Parameters:
    return {"e": _exp(p[0]), "b": _exp(p[1]), "c": p[2]}


def _shifted(p: Array) -> Parameters:
    return {"b": _exp(p[0]), "c": p[1], "gamma": _exp(p[2])}


def _pow4(p: Array) -> Parameters:
    return {"e": _exp(p[0]), "b": _exp(p[1]), "c": p[2], "d": _exp(p[3])}


def _m4(p: Array) -> Parameters:
    floor, alpha = _exp(p[0]), _exp(p[4])
    return {
        "e": floor,
        "e0": floor + _exp(p[1]),
        "alpha": alpha,
        "beta": _exp(p[2] + (1 - alpha) * p[1]),
        "c": p[3],
    }


def _mmf4(p: Array) -> Parameters:
    floor = _exp(p[0])
    return {"a": floor + _exp(p[1]), "b": _exp(p[2]), "c": floor, "d": p[3]}


def _wbl4(p: Array) -> Parameters:
    return {"c": _exp(p[0]), "b": _exp(p[1]), "a": _exp(p[2]), "d": p[3]}


def _exp4(p: Array) -> Parameters:
    return {"c": _exp(p[0]), "b": p[1], "a": _exp(p[2]), "d": p[3]}


def _bnsl(p: Array) -> Parameters:
    return {
        "a": _exp(p[0]),
        "b": _exp(p[1]),
        "c0": p[2],
        "c1": p[3],
        "d1": _exp(p[4]),
        "f1": _exp(p[5]),
    }


@dataclass(frozen=True)
class Form:
    """One form.

    Attributes
    ----------
    name : str
        As :func:`dlcore.scaling.fit` takes it.
    native : str
        As the core calls it; wbl4 and exp4 are one family.
    formula : str
        In the parameters of ``publish``.
    publish : callable
        From the core's parameters to the printed ones.
    exponents : tuple of int
        Which of the core's parameters are exponents of x.
    floor : bool
        Whether it tends to a value above zero, the core's first parameter.
    """

    name: str
    native: str
    formula: str
    publish: Callable[[Array], Parameters]
    exponents: tuple[int, ...]
    floor: bool = True

    @property
    def size(self) -> int:
        """Number of parameters."""
        return SIZES[self.native]


SIZES: dict[str, int] = _native.form_sizes()
FORMS = {
    form.name: form
    for form in (
        Form("power", "power", "b x^-c", _power, (1,), floor=False),
        Form("power_floor", "power_floor", "e + b x^-c", _power_floor, (2,)),
        Form("shifted", "shifted", "b (1/x + gamma)^c", _shifted, (1,), floor=False),
        Form("pow4", "pow4", "e + b (x + d)^-c", _pow4, (2,)),
        Form("m4", "m4", "(y - e) / (e0 - y)^alpha = beta x^-c", _m4, (3,)),
        Form("mmf4", "mmf4", "(a b + c x^d) / (b + x^d)", _mmf4, (3,)),
        Form("wbl4", "wbl4", "c + b exp(-a x^d)", _wbl4, (3,)),
        Form("exp4", "wbl4", "c + exp(b - a x^d)", _exp4, (3,)),
        Form("bnsl", "bnsl", "a + b x^-c0 (1 + (x/d1)^(1/f1))^(-c1 f1)", _bnsl, (2, 3)),
    )
}
# What the papers call them.
ALIASES = {
    "m1": "power",
    "pow2": "power",
    "m2": "power_floor",
    "pow3": "power_floor",
    "m3": "shifted",
}
# Forms of the ensemble; exp4 would count wbl4 twice.
ENSEMBLE = ("power", "power_floor", "shifted", "pow4", "m4", "mmf4", "wbl4", "bnsl")
LAST = "last"
STRIDE = 8  # numbers per parameter vector of the core

# Steps per start; the best one goes on for twelve times as many.
ITERATIONS = 60


def form_named(name: str) -> Form:
    """Look a form up by its name or the name a paper gives it.

    Raises
    ------
    ValueError
        If no form has that name.
    """
    found = FORMS.get(ALIASES.get(name.lower(), name.lower()))
    if found is None:
        known = ", ".join([*FORMS, LAST, "auto", *ALIASES])
        raise ValueError(f"fit: form needs one of {known}, or a list of them, found {name!r}")
    return found


@dataclass(frozen=True, eq=False)
class Problem:
    """Points to fit: logarithms of x and y, how much a residual counts, weights of the loss."""

    log_x: Array
    log_y: Array
    scale: Array
    weight: Array

    def first(self, count: int) -> Problem:
        """Only the first ``count`` points."""
        return Problem(
            self.log_x[:count], self.log_y[:count], self.scale[:count], self.weight[:count]
        )


def fit_problems(
    natives: Sequence[str],
    problems: Sequence[Problem],
    loss: str,
    delta: float,
    starts: int,
    warm: Array | None = None,
    threads: int = 0,
    iterations: int = ITERATIONS,
) -> tuple[Array, Array]:
    """Fit every form to every problem.

    Parameters
    ----------
    natives : sequence of str
        The core's names of the forms.
    problems : sequence of Problem
    loss : {"huber", "lad", "l2"}
    delta : float
        Of the Huber loss.
    starts : int
        Places of each form's grid to descend from.
    warm : array, (forms, problems, STRIDE), optional
        Further starts.
    threads : int
        0 for as many as the process may use. The results do not depend on it.
    iterations : int
        Steps per start.

    Returns
    -------
    parameters : array, (forms, problems, STRIDE)
    objective : array, (forms, problems)
    """
    offsets = np.cumsum([0, *(len(problem.log_x) for problem in problems)], dtype=np.int64)
    parameters, objective, _, _ = _native.fit_curves(
        list(natives),
        loss,
        delta,
        offsets,
        np.concatenate([problem.log_x for problem in problems]),
        np.concatenate([problem.log_y for problem in problems]),
        np.concatenate([problem.scale for problem in problems]),
        np.concatenate([problem.weight for problem in problems]),
        starts,
        np.zeros((0, 0, STRIDE)) if warm is None else np.ascontiguousarray(warm),
        iterations,
        threads,
    )
    return parameters, objective


def log_values(native: str, parameters: Array, log_x: Array) -> Array:
    """Log y of one form for every row of ``parameters``, (rows, len(log_x))."""
    values: Array = _native.curve_values(
        native, np.ascontiguousarray(np.atleast_2d(parameters)), np.ascontiguousarray(log_x)
    )
    return values


def log_floor(form: Form, parameters: Array, largest: float) -> float:
    """Log of what the curve tends to; ``largest`` is the logarithm of an x that is far enough."""
    return float(log_values(form.native, parameters, np.array([largest]))[0, 0])
