"""Loss over network size and examples: fits of the whole surface, and what to buy next.

References
----------
.. [1] Hoffmann et al., "Training compute-optimal large language models", 2022 (the form
   E + A / N^alpha + B / D^beta, and approaches 2 and 3).
.. [2] Besiroglu et al., "Chinchilla scaling: a replication attempt", 2024 (sum, not mean, of the
   Huber loss; the bootstrap).
.. [3] Rosenfeld et al., "A constructive prediction of the generalization error across scales",
   ICLR 2020 (the form that saturates for small N and D).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dlcore._core import curves as _native
from dlcore.data import DataError
from dlcore.scaling.columns import (
    X_COLUMNS,
    Y_COLUMNS,
    column_numbers,
    find_column,
    plain_name,
    read_table,
)
from dlcore.scaling.compute import OptimalSplit, isoflop_bias, optimal, required

if TYPE_CHECKING:
    from dlcore.scaling.advice import SurfaceAdvice
    from dlcore.scaling.decisions import Requirement

Array = NDArray[np.float64]

SURFACE_FORMS = {
    "chinchilla": ("A", "B", "E", "alpha", "beta"),
    "rosenfeld": ("A", "B", "E", "alpha", "beta", "ceiling"),
}
LOSSES = ("huber", "lad", "l2")
# At fixed exponents the rest is linear, and solved, so only exponents need a grid.
_EXPONENTS = (0.02, 0.08, 0.2, 0.45, 0.9, 1.6)
# Steps per start. The best one goes on for twenty times as many: where noise hides a term, the valley
# to the edge of what is possible takes a thousand and more.
_ITERATIONS, _FINISH = 300, 6000
# Steps over the exponents alone before a descent of all: a search, only the coefficients, or none.
_SEARCH, _SOLVE, _NEAR = 40, 0, -1

_PARAMETER_COLUMNS = {
    "parameters": "parameters",
    "params": "parameters",
    "n": "parameters",
    "model_size": "parameters",
}
_EXAMPLE_COLUMNS = {
    "examples": "data",
    "d": "data",
    "m": "data",
    "tokens": "data",
    "n_train": "data",
    "data": "data",
}
# Beside columns of their own, x and y are something else, such as places in a figure.
_LOSS_COLUMNS = {**{name: kind for name, kind in Y_COLUMNS.items() if name != "y"}, "y": "loss"}
_COMPUTE_COLUMNS = {name: kind for name, kind in X_COLUMNS.items() if kind == "compute"}


class LossSurface:
    """Losses of networks of several sizes trained on several numbers of examples.

    Parameters
    ----------
    parameters, examples, loss : array_like, (n,)
        Network size N, training examples (or tokens) D and the loss; positive. A pair (N, D) may come
        several times, with several seeds.

    Attributes
    ----------
    parameters, examples, loss : array, (n,)

    Raises
    ------
    ValueError
        If lengths differ or anything is not positive and finite.

    Examples
    --------
    >>> surface = LossSurface([1e6, 1e6, 1e7, 1e7], [1e8, 1e9, 1e8, 1e9], [4.2, 3.6, 3.9, 3.1])
    >>> len(surface)
    4
    """

    def __init__(self, parameters: ArrayLike, examples: ArrayLike, loss: ArrayLike) -> None:
        self.parameters = _positive("parameters", parameters)
        self.examples = _positive("examples", examples)
        self.loss = _positive("loss", loss)
        if not len(self.parameters) == len(self.examples) == len(self.loss):
            raise ValueError(
                "LossSurface: parameters, examples and loss need one length, found "
                f"{len(self.parameters)}, {len(self.examples)} and {len(self.loss)}"
            )

    @classmethod
    def from_csv(cls, path: str | Path, flops_per_example_parameter: float = 6) -> LossSurface:
        """Read a surface from a CSV file with a header.

        Parameters
        ----------
        path : str or Path
            Columns parameters (or n, params, model_size), examples (or d, m, tokens) and loss (or
            error). Where there is no column of examples, one of compute (or flops) gives them.
        flops_per_example_parameter : float, default 6
            k of compute = k * parameters * examples.

        Returns
        -------
        LossSurface

        Raises
        ------
        dlcore.data.DataError
            With one sentence that names the file, the row and the column.
        """
        columns, rows = read_table(Path(path))
        plain = {plain_name(name) for name in columns}
        by_compute = not plain & set(_EXAMPLE_COLUMNS) and bool(plain & set(_COMPUTE_COLUMNS))
        names = [
            find_column(columns, _PARAMETER_COLUMNS, path, "parameters")[0],
            find_column(columns, _COMPUTE_COLUMNS, path, "compute")[0]
            if by_compute
            else find_column(columns, _EXAMPLE_COLUMNS, path, "examples")[0],
            find_column(columns, _LOSS_COLUMNS, path, "loss or error")[0],
        ]
        size, other, loss = (np.array(v) for v in column_numbers(path, columns, rows, names))
        try:
            if by_compute:
                return cls(
                    size, other / flops_per_example_parameter / _positive(names[0], size), loss
                )
            return cls(size, other, loss)
        except ValueError as error:
            raise DataError(f"{path}: {error}") from None

    @staticmethod
    def is_surface(path: str | Path) -> bool:
        """Whether a CSV file's header has parameters (or N) and examples (or D, or compute)."""
        plain = {plain_name(name) for name in read_table(Path(path))[0]}
        sizes = plain & {"parameters", "params", "model_size"}
        others = plain & {*_EXAMPLE_COLUMNS, *_COMPUTE_COLUMNS}
        return {"n", "d"} <= plain or bool(sizes and others)

    def where(self, kept: ArrayLike) -> LossSurface:
        """The rows for which ``kept`` is true."""
        mask = np.asarray(kept, bool)
        return LossSurface(self.parameters[mask], self.examples[mask], self.loss[mask])

    def __len__(self) -> int:
        return len(self.loss)

    def __repr__(self) -> str:
        return (
            f"LossSurface({len(self)} runs, {self.parameters.min():.3g}..{self.parameters.max():.3g} "
            f"parameters, {self.examples.min():.3g}..{self.examples.max():.3g} examples)"
        )


def _positive(name: str, values: ArrayLike) -> Array:
    try:
        column = np.ascontiguousarray(values, np.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"LossSurface: {name} needs numbers, found {type(values).__name__}"
        ) from None
    if column.ndim != 1:
        raise ValueError(f"LossSurface: {name} needs one axis, found shape {column.shape}")
    wrong = ~(np.isfinite(column) & (column > 0))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise ValueError(
            f"LossSurface: {name} needs positive finite numbers, found {column[at]:g} at index {at}"
        )
    return column


def fit_surface(
    surface: LossSurface,
    form: str = "chinchilla",
    loss: str = "huber",
    delta: float = 1e-3,
    residuals: str = "log",
    *,
    starts: ArrayLike | None = None,
    threads: int | None = None,
) -> SurfaceFit:
    """Fit E + A / N^alpha + B / D^beta, or the form that saturates.

    Parameters
    ----------
    surface : LossSurface
    form : {"chinchilla", "rosenfeld"}
        The latter is (u^-2 + ceiling^-2)^(-1/2), u the former.
    loss : {"huber", "lad", "l2"}, default "huber"
        Sum over the residuals of Huber's loss, absolute values, or half squares.
    delta : float, default 1e-3
        Where the Huber loss turns.
    residuals : {"log", "linear"}
        Of the logarithm of the loss, or of the loss.
    starts : array_like, (s, p), optional
        Where to start: log A, log B, log E, alpha, beta (, log ceiling). By default a grid of
        exponents, the rest being linear and solved.
    threads : int, optional
        At most so many; the results do not depend on it.

    Returns
    -------
    SurfaceFit

    Raises
    ------
    ValueError
        If an argument is unknown, or there are too few rows for the form.

    Examples
    --------
    >>> size, data = (grid.ravel() for grid in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
    >>> found = fit_surface(LossSurface(size, data, 1.7 + 400 / size**0.34 + 410 / data**0.28))
    >>> round(found.parameters["alpha"], 6), round(found.parameters["E"], 6)
    (0.34, 1.7)
    """
    if not isinstance(surface, LossSurface):
        raise TypeError(
            f"fit_surface: surface needs a LossSurface, found {type(surface).__name__}; make one "
            "with scaling.LossSurface(parameters, examples, loss)"
        )
    if form not in SURFACE_FORMS:
        raise ValueError(
            f"fit_surface: form needs one of {', '.join(SURFACE_FORMS)}, found {form!r}"
        )
    if loss not in LOSSES:
        raise ValueError(f"fit_surface: loss needs one of {', '.join(LOSSES)}, found {loss!r}")
    if residuals not in ("log", "linear"):
        raise ValueError(f"fit_surface: residuals needs log or linear, found {residuals!r}")
    if not (isinstance(delta, (int, float)) and math.isfinite(delta) and delta > 0):
        raise ValueError(f"fit_surface: delta needs a positive number, found {delta!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"fit_surface: threads needs at least 1, found {threads}")
    size = len(SURFACE_FORMS[form])
    if len(surface) < size:
        raise ValueError(
            f"fit_surface: form {form!r} needs at least {size} rows, found {len(surface)}"
        )
    problem = Problem(surface, form, loss, float(delta), residuals, threads or 0)
    if starts is None:
        vector, value = problem.best(np.ones(len(surface)))
    else:
        places = np.ascontiguousarray(starts, np.float64)
        if places.ndim != 2 or places.shape[1] != size or not np.isfinite(places).all():
            raise ValueError(f"fit_surface: starts needs finite numbers, (s, {size})")
        vector, value = problem.best(np.ones(len(surface)), places)
    return SurfaceFit(problem, vector, value)


@dataclass(frozen=True, eq=False)
class Problem:
    """A surface with everything that says how it is fitted."""

    surface: LossSurface
    form: str
    loss: str
    delta: float
    residuals: str
    threads: int

    def best(self, weights: Array, starts: Array | None = None) -> tuple[Array, float]:
        """The lowest place that any start leads to, and its objective."""
        places = self.grid() if starts is None else starts
        parts = [self.solve(weights[None, :], places, _SEARCH)]
        if starts is None:
            # The search sees relative residuals, not their logarithms, and may leave a shallow minimum.
            parts.append(self.solve(weights[None, :], places[-(len(_EXPONENTS) ** 2) :], _SOLVE))
        found, objective, _, converged = (np.concatenate(part, axis=1)[0] for part in zip(*parts))
        at = int(np.argmin(objective))
        vector, value = found[at], float(objective[at])
        if not converged[at]:
            further, lower, _, _ = self.solve(weights[None, :], vector[None, :], _NEAR, _FINISH)
            if lower[0, 0] < value:
                vector, value = further[0, 0], float(lower[0, 0])
        return vector, value

    def solve(
        self, weights: Array, starts: Array, search: int, iterations: int = _ITERATIONS
    ) -> tuple[Array, Array, Any, Any]:
        """Descend from every start for every row of weights."""
        found: tuple[Array, Array, Any, Any] = _native.fit_surface(
            self.form,
            self.residuals == "log",
            self.loss,
            self.delta,
            np.log(self.surface.parameters),
            np.log(self.surface.examples),
            self.surface.loss,
            weights,
            starts,
            search,
            iterations,
            self.threads,
        )
        return found

    def grid(self) -> Array:
        """Starts."""
        pairs = [(a, b) for a in _EXPONENTS for b in _EXPONENTS]
        base = [[0.0, 0.0, 0.0, a, b] for a, b in pairs]
        if self.form == "chinchilla":
            return np.array(base)
        top = math.log(float(self.surface.loss.max()))
        return np.array([[*row, top + above] for above in (0.05, 0.4, 3.0) for row in base])


@dataclass(frozen=True, eq=False)
class SurfaceForecast:
    """Losses at new sizes and numbers of examples.

    Attributes
    ----------
    parameters, examples, value, low, high : array, (k,)
        The interval is for the next run: bootstrap of the fit, and the spread of the residuals.
    interval : float
        Nominal coverage.
    statuses : tuple of str
        "undetermined" further than 16 times beyond the data in either direction.
    warnings : tuple of str
    """

    parameters: Array
    examples: Array
    value: Array
    low: Array
    high: Array
    interval: float
    statuses: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def status(self) -> str:
        """ "ok" if every point is determined."""
        return "ok" if all(status == "ok" for status in self.statuses) else "undetermined"


@dataclass(frozen=True, eq=False)
class SurfaceBootstrap:
    """A surface refitted to resamples of its runs.

    Attributes
    ----------
    vectors : array, (resamples, p)
        Log A, log B, log E, alpha, beta (, log ceiling).
    parameters : dict of str to array, (resamples,)
    """

    vectors: Array
    parameters: dict[str, Array]

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard deviations."""
        return {name: float(values.std(ddof=1)) for name, values in self.parameters.items()}

    @property
    def covariance(self) -> Array:
        """Covariance of the parameters, in their order."""
        result: Array = np.cov(np.stack(list(self.parameters.values())))
        return result

    def interval(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Percentile intervals."""
        tail = 50 * (1 - level)
        return {
            name: (float(np.percentile(values, tail)), float(np.percentile(values, 100 - tail)))
            for name, values in self.parameters.items()
        }


class SurfaceFit:
    """A fitted surface; made by :func:`fit_surface`.

    Attributes
    ----------
    surface : LossSurface
    form, loss, residuals : str
    delta : float
    vector : array, (p,)
        Log A, log B, log E, alpha, beta (, log ceiling).
    objective : float
        Sum of the loss over the residuals.
    """

    def __init__(self, problem: Problem, vector: Array, objective: float) -> None:
        self.problem = problem
        self.surface = problem.surface
        self.form = problem.form
        self.loss = problem.loss
        self.delta = problem.delta
        self.residuals = problem.residuals
        self.vector = vector
        self.objective = objective

    @property
    def parameters(self) -> dict[str, float]:
        """A, B, E, alpha, beta (, ceiling)."""
        return {name: float(values[0]) for name, values in self._published(self.vector).items()}

    def _published(self, vectors: Array) -> dict[str, Array]:
        rows = np.atleast_2d(vectors)
        return {
            name: rows[:, j] if name in ("alpha", "beta") else np.exp(np.minimum(rows[:, j], 700))
            for j, name in enumerate(SURFACE_FORMS[self.form])
        }

    @functools.cached_property
    def standard_errors(self) -> dict[str, float]:
        """Bootstrap standard errors, 1,000 resamples."""
        return self.draws.standard_errors

    @functools.cached_property
    def draws(self) -> SurfaceBootstrap:
        """The bootstrap behind all intervals, 1,000 resamples."""
        return self.bootstrap(1000, seed=0)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Codes of :data:`dlcore.scaling.WARNINGS`."""
        alpha, beta = self.vector[3], self.vector[4]
        codes = []
        if min(alpha, beta) <= 1e-6 or max(alpha, beta) >= 7.99:
            codes.append("BOUNDARY")
        for name in ("alpha", "beta"):
            if self.standard_errors[name] > abs(self.parameters[name]):
                codes.append("EXPONENT_NOT_IDENTIFIED")
        return tuple(dict.fromkeys(codes))

    @property
    def status(self) -> str:
        """ "undetermined" where an exponent is not."""
        return "undetermined" if self.warnings else "ok"

    # Resampling

    def bootstrap(
        self, resamples: int = 1000, seed: int = 0, clusters: ArrayLike | None = None
    ) -> SurfaceBootstrap:
        """Refit to resamples of the runs.

        Parameters
        ----------
        resamples : int, default 1000
        seed : int, default 0
            Of NumPy's legacy generator, whose stream published bootstraps can be compared with.
        clusters : array_like, (n,), optional
            Runs of one label (a pair of N and D with its seeds, say) are drawn together.

        Returns
        -------
        SurfaceBootstrap

        Raises
        ------
        ValueError
            If there are fewer than two resamples or not one label per run.
        """
        if resamples < 2:
            raise ValueError(f"bootstrap: resamples needs at least 2, found {resamples}")
        n = len(self.surface)
        generator = np.random.RandomState(seed)
        if clusters is None:
            labels, count = np.arange(n), n
        else:
            given = np.asarray(clusters)
            if given.shape != (n,):
                raise ValueError(
                    f"bootstrap: clusters needs one label per run, found {given.shape}"
                )
            labels = np.unique(given, return_inverse=True)[1]
            count = int(labels.max()) + 1
        drawn = generator.randint(0, count, (resamples, count))
        offsets = np.arange(resamples)[:, None] * count
        times = np.bincount((drawn + offsets).ravel(), minlength=resamples * count)
        weights = times.reshape(resamples, count)[:, labels].astype(np.float64)
        return self.refit(weights)

    def refit(self, weights: Array) -> SurfaceBootstrap:
        """Fits to rows of weights of the runs, from the point estimate."""
        found, _, _, _ = self.problem.solve(
            np.ascontiguousarray(weights), self.vector[None, :], _NEAR
        )
        vectors = np.ascontiguousarray(found[:, 0])
        return SurfaceBootstrap(vectors, self._published(vectors))

    # Values

    def log_loss(self, vectors: Array, log_parameters: Array, log_examples: Array) -> Array:
        """Log of the loss of every row of ``vectors`` at every point."""
        v = np.atleast_2d(vectors)[:, :, None]
        by_size = v[:, 0] - v[:, 3] * log_parameters
        by_data = v[:, 1] - v[:, 4] * log_examples
        value = np.logaddexp(np.logaddexp(by_size, by_data), v[:, 2])
        if self.form == "rosenfeld":
            value = -0.5 * np.logaddexp(-2 * value, -2 * v[:, 5])
        result: Array = value
        return result

    def predict(
        self, parameters: ArrayLike, examples: ArrayLike, interval: float = 0.9
    ) -> SurfaceForecast:
        """Forecast the loss of new runs.

        Parameters
        ----------
        parameters, examples : array_like
            Broadcast against each other.
        interval : float, default 0.9

        Returns
        -------
        SurfaceForecast

        Raises
        ------
        ValueError
            If a number is not positive or ``interval`` not a share.
        """
        size, data = np.broadcast_arrays(
            np.atleast_1d(np.asarray(parameters, float)), np.atleast_1d(np.asarray(examples, float))
        )
        if size.ndim != 1 or not (np.isfinite(size * data) & (size > 0) & (data > 0)).all():
            raise ValueError("predict: parameters and examples need positive finite numbers")
        if not 0 < interval < 1:
            raise ValueError(f"predict: interval needs a share between 0 and 1, found {interval}")
        log_size, log_data = np.log(size), np.log(data)
        value = self.log_loss(self.vector, log_size, log_data)[0]
        draws = self.log_loss(self.draws.vectors, log_size, log_data)
        # A residual, drawn anew for every resample, makes it an interval for a run.
        noise = np.random.default_rng(0).choice(self.log_residuals, draws.shape)
        tail = 50 * (1 - interval)
        low, high = np.percentile(draws + noise, [tail, 100 - tail], axis=0)
        reach = math.log(16)
        known = (
            (log_size < np.log(self.surface.parameters.max()) + reach)
            & (log_size > np.log(self.surface.parameters.min()) - reach)
            & (log_data < np.log(self.surface.examples.max()) + reach)
            & (log_data > np.log(self.surface.examples.min()) - reach)
        )
        codes = list(self.warnings)
        if not known.all():
            codes.append("FAR_EXTRAPOLATION")
        determined = known & (self.status == "ok")
        value, low, high = (np.exp(np.clip(part, -690, 690)) for part in (value, low, high))
        return SurfaceForecast(
            size,
            data,
            value,
            np.minimum(low, value),
            np.maximum(high, value),
            interval,
            tuple("ok" if flag else "undetermined" for flag in determined),
            tuple(codes),
        )

    @functools.cached_property
    def log_residuals(self) -> Array:
        """Of log loss, enlarged for the parameters that were fitted."""
        fitted = self.log_loss(
            self.vector, np.log(self.surface.parameters), np.log(self.surface.examples)
        )[0]
        result: Array = (np.log(self.surface.loss) - fitted) * math.sqrt(
            len(fitted) / max(len(fitted) - len(self.vector), 1)
        )
        return result

    @property
    def noise(self) -> float:
        """Standard deviation of the residuals of log loss, robustly."""
        return 1.4826 * float(np.median(np.abs(self.log_residuals))) + 1e-9

    # Decisions

    def optimal(
        self, compute: float, flops_per_example_parameter: float = 6, interval: float = 0.9
    ) -> OptimalSplit:
        """Split a computation between size and data.

        With C = k N D: N* = G (C/k)^a and D* = (C/k) / N*, G = (alpha A / (beta B))^(1 / (alpha +
        beta)), a = beta / (alpha + beta).

        Parameters
        ----------
        compute : float
            In FLOPs.
        flops_per_example_parameter : float, default 6
            k.
        interval : float, default 0.9
            Level of the bootstrap intervals.

        Returns
        -------
        OptimalSplit

        Raises
        ------
        ValueError
            If an argument is not positive.
        """
        return optimal(self, compute, flops_per_example_parameter, interval)

    def required(
        self, target: float, flops_per_example_parameter: float = 6, interval: float = 0.9
    ) -> Requirement:
        """Computation at whose best split the loss comes down to a target.

        Parameters
        ----------
        target : float
            Loss to reach.
        flops_per_example_parameter : float, default 6
            k of C = k N D.
        interval : float, default 0.9
            Level of the bootstrap interval.

        Returns
        -------
        Requirement
            "not reachable" where the target lies below the floor E, by more than the interval.

        Raises
        ------
        ValueError
            If an argument is not positive.

        Examples
        --------
        >>> size, data = (g.ravel() for g in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
        >>> found = fit_surface(LossSurface(size, data, 1.7 + 400 / size**0.34 + 410 / data**0.28))
        >>> need = found.required(3.0)
        >>> round(found.optimal(need.value).loss, 6), found.required(1.6).status
        (3.0, 'not reachable')
        """
        return required(self, target, flops_per_example_parameter, interval)

    def isoflop_bias(
        self,
        compute: float,
        budgets: ArrayLike,
        width: float,
        flops_per_example_parameter: float = 6,
        *,
        points: int = 15,
        offset: float = 1.0,
        drift: float = 1.0,
    ) -> float:
        """Relative error of D* by isoFLOP parabolas, were this surface the truth without noise.

        Parameters
        ----------
        compute : float
            Where the line through the vertices is read.
        budgets : array_like
            Computations of the parabolas.
        width : float
            Points lie within this factor of each centre.
        flops_per_example_parameter : float, default 6
        points : int, default 15
            Per parabola.
        offset : float, default 1
            Centres lie at this factor of the true D*.
        drift : float, default 1
            Factor that the offset gains from the smallest budget to the largest.

        Returns
        -------
        float
        """
        return isoflop_bias(
            self, compute, budgets, width, flops_per_example_parameter, points, offset, drift
        )

    def advise(
        self,
        m: float,
        parameters: float,
        cost_example: float,
        cost_parameter: float,
        confidence: float = 0.9,
    ) -> SurfaceAdvice:
        """Say whether examples or parameters are the better buy; see :func:`dlcore.scaling.advise`."""
        from dlcore.scaling.advice import advise

        return advise(self, m, parameters, cost_example, cost_parameter, confidence)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {value:.5g}" for name, value in self.parameters.items())
        return f"SurfaceFit({self.form}, {self.loss}, {self.residuals} residuals: {shown})"
