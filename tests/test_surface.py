"""Fits of E + A / N^alpha + B / D^beta, against published numbers, closed forms and other solvers."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.optimize import minimize

from dlcore import scaling
from dlcore.data import DataError
from dlcore.scaling.compute import isoflop_parabola
from dlcore.scaling.surface import SURFACE_FORMS

DATA = (
    Path(os.environ.get("DLCORE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "scaling"
)
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no data folder at {DATA} (DLCORE_DATA names its parent)"
)
TRUTH = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}
ASYMMETRIC = {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.465, "beta": 0.155}


def value(size, data, A, B, E, alpha, beta, ceiling=None):
    """The form as in the papers."""
    u = E + A / size**alpha + B / data**beta
    return u if ceiling is None else (u**-2 + ceiling**-2) ** -0.5


def runs(truth=TRUTH, sizes=8, datas=8, noise=0.0, seed=0):
    size, data = (
        grid.ravel()
        for grid in np.meshgrid(np.geomspace(1e7, 1e10, sizes), np.geomspace(1e8, 1e11, datas))
    )
    factor = np.exp(np.random.default_rng(seed).normal(0, noise, len(size)))
    return scaling.LossSurface(size, data, value(size, data, **truth) * factor)


@pytest.fixture(scope="module")
def chinchilla():
    """240 of the 245 points, as Besiroglu et al. take them."""
    if not DATA.is_dir():
        pytest.skip(f"no data folder at {DATA}")
    with (DATA / "svg_extracted_data.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    size, flop, loss = (
        np.array([float(row[name]) for row in rows])
        for name in ("Model Size", "Training FLOP", "loss")
    )
    everything = scaling.LossSurface(size, flop / 6 / size, loss)
    return everything.where(loss < np.sort(loss)[-5])


def huber(r, delta):
    size = np.abs(r)
    return np.where(size <= delta, 0.5 * r**2, delta * (size - 0.5 * delta)).sum()


def log_residuals(fit, vector):
    s = fit.surface
    return fit.log_loss(vector, np.log(s.parameters), np.log(s.examples))[0] - np.log(s.loss)


# Exactness


@pytest.mark.parametrize("loss", ["huber", "lad", "l2"])
@pytest.mark.parametrize("residuals", ["log", "linear"])
@pytest.mark.parametrize("truth", [TRUTH, ASYMMETRIC], ids=["chinchilla", "asymmetric"])
def test_noiseless_surface_is_recovered(loss, residuals, truth):
    found = scaling.fit_surface(runs(truth), loss=loss, residuals=residuals)
    assert found.parameters == pytest.approx(truth, rel=1e-6)
    assert found.objective < 1e-12


@pytest.mark.parametrize("residuals", ["log", "linear"])
def test_saturating_form_is_recovered(residuals):
    truth = TRUTH | {"ceiling": 4.0}
    found = scaling.fit_surface(runs(truth), "rosenfeld", loss="l2", residuals=residuals)
    assert found.parameters == pytest.approx(truth, rel=1e-5)


def test_saturating_form_without_a_ceiling_is_the_other():
    surface = runs(noise=0.01)
    plain = scaling.fit_surface(surface, "chinchilla", loss="l2")
    other = scaling.fit_surface(surface, "rosenfeld", loss="l2")
    assert other.objective <= plain.objective * (1 + 1e-9)


@given(
    alpha=st.floats(0.05, 1.5),
    beta=st.floats(0.05, 1.5),
    unit=st.sampled_from([1e-3, 1.0, 1e4]),
    seed=st.integers(0, 50),
)
@example(alpha=1.0, beta=1.0, unit=1e4, seed=3)  # noise hides both terms
def test_no_other_solver_finds_a_lower_objective(alpha, beta, unit, seed):
    truth = {"A": 40 * unit, "B": 60 * unit, "E": 1.2 * unit, "alpha": alpha, "beta": beta}
    surface = runs(truth, 5, 5, 0.02, seed)
    found = scaling.fit_surface(surface, loss="l2")

    def objective(vector):
        return 0.5 * (log_residuals(found, vector) ** 2).sum()

    assert found.objective == pytest.approx(objective(found.vector), rel=1e-9)
    # Within our limits of the exponents, from where we ended and from the truth.
    limits = [(None, None)] * 3 + [(0, 8)] * 2
    at_truth = [*np.log(list(truth.values())[:3]), alpha, beta]
    for start in (found.vector, at_truth):
        polished = minimize(
            objective, start, method="Nelder-Mead", bounds=limits, options={"maxiter": 1500}
        )
        assert found.objective <= polished.fun * (1 + 1e-4)


def test_the_three_losses_differ_and_each_is_lowest_in_its_own():
    surface = runs(noise=0.05)
    fits = {
        loss: scaling.fit_surface(surface, loss=loss, delta=1e-2) for loss in ("huber", "lad", "l2")
    }
    measures = {
        "huber": lambda r: huber(r, 1e-2),
        "lad": lambda r: np.abs(r).sum(),
        "l2": lambda r: 0.5 * (r**2).sum(),
    }
    for loss, measure in measures.items():
        values = {name: measure(log_residuals(fit, fit.vector)) for name, fit in fits.items()}
        assert min(values, key=values.get) == loss
        assert fits[loss].objective == pytest.approx(values[loss], rel=1e-8)
        for other in set(values) - {loss}:
            assert values[other] > values[loss] * (1 + 1e-6)


def test_least_absolute_deviations_pass_through_as_many_points_as_parameters():
    found = scaling.fit_surface(runs(noise=0.05), loss="lad")
    assert (np.abs(log_residuals(found, found.vector)) < 1e-7).sum() == 5


def test_an_outlier_moves_squares_and_not_absolute_values():
    surface = runs(noise=1e-4)
    loss = surface.loss.copy()
    loss[::9] *= 1.5
    spoilt = scaling.LossSurface(surface.parameters, surface.examples, loss)
    robust = scaling.fit_surface(spoilt, loss="huber").parameters
    assert robust == pytest.approx(TRUTH, rel=0.02)
    assert scaling.fit_surface(spoilt, loss="l2").parameters["E"] != pytest.approx(1.69, rel=0.02)


def test_same_bits_at_any_number_of_threads():
    surface = runs(noise=0.03)
    one = scaling.fit_surface(surface, threads=1)
    for threads in (2, 3, 7):
        other = scaling.fit_surface(surface, threads=threads)
        assert (other.vector == one.vector).all()
        draws = [fit.bootstrap(50, seed=1).vectors for fit in (one, other)]
        assert (draws[0] == draws[1]).all()


def test_bootstrap_draws_clusters_whole():
    surface = runs(noise=0.02)
    found = scaling.fit_surface(surface, loss="l2")
    # One label for all: every resample is the surface itself.
    draws = found.bootstrap(5, seed=0, clusters=np.zeros(len(surface)))
    assert draws.vectors == pytest.approx(np.tile(found.vector, (5, 1)), rel=1e-6)


def test_bootstrap_agrees_with_the_spread_over_new_data():
    truth = TRUTH
    fits = [scaling.fit_surface(runs(truth, noise=0.02, seed=s), loss="l2") for s in range(60)]
    spread = np.std([fit.parameters["alpha"] for fit in fits], ddof=1)
    assert fits[0].standard_errors["alpha"] == pytest.approx(spread, rel=0.45)


# Published numbers


def test_huber_optimum(chinchilla):
    found = scaling.fit_surface(chinchilla, loss="huber", delta=1e-3)
    assert found.objective <= 1.018274035e-3
    want = {"A": 477.83, "B": 2143.4, "E": 1.81722, "alpha": 0.347311, "beta": 0.367172}
    for name, tolerance in zip(want, (1e-3, 3e-3, 1e-4, 1e-4, 1e-4), strict=True):
        assert found.parameters[name] == pytest.approx(want[name], rel=tolerance)
    hoffmann = np.array([6.0073404, 6.0179186, 0.5267228, 0.33917084, 0.2849083])
    assert huber(log_residuals(found, hoffmann), 1e-3) == pytest.approx(1.23116260e-3, abs=1e-9)


def test_least_absolute_deviation_is_the_headline(chinchilla):
    found = scaling.fit_surface(chinchilla, loss="lad")
    assert found.objective == pytest.approx(1.12949465, rel=1e-8)
    want = {"A": 482.006, "B": 2085.436, "E": 1.816864, "alpha": 0.347813, "beta": 0.365854}
    assert found.parameters == pytest.approx(want, rel=1e-5)
    for compute, size, data, ratio in (
        (1e21, 2.782e9, 5.991e10, 21.53),
        (5.88e23, 7.313e10, 1.340e12, 18.33),
        (1e24, 9.601e10, 1.736e12, 18.08),
    ):
        split = found.optimal(compute)
        assert (split.parameters, split.examples, split.ratio) == pytest.approx(
            (size, data, ratio), rel=1e-3
        )
        assert split.exponent == pytest.approx(0.5126, abs=1e-3)
        assert split.parameters_interval[0] < split.parameters < split.parameters_interval[1]


def test_published_bootstrap(chinchilla):
    draws = scaling.fit_surface(chinchilla).bootstrap(4000, seed=42)
    want = {"A": 124.52, "B": 1293.28, "E": 0.02566, "alpha": 0.01540, "beta": 0.02060}
    assert draws.standard_errors == pytest.approx(want, rel=1e-3)
    first = {name: values[0] for name, values in draws.parameters.items()}
    assert first == pytest.approx(
        {"A": 349.556, "B": 2356.248, "E": 1.79333, "alpha": 0.328633, "beta": 0.371855}, rel=2e-5
    )
    limits = draws.interval(0.95)
    assert limits["A"] == pytest.approx((285.2, 743.6), rel=0.05)
    assert limits["B"] == pytest.approx((1042, 5810), rel=0.08)
    assert limits["E"] == pytest.approx((1.769, 1.871), abs=0.004)
    assert limits["alpha"] == pytest.approx((0.317, 0.373), abs=0.003)
    assert limits["beta"] == pytest.approx((0.331, 0.415), abs=0.004)


def test_every_start_of_the_published_grid_ends_at_the_optimum(chinchilla):
    # Every 37th of the 4,500.
    axes = [np.arange(0, 26, 5.0)] * 2 + [np.arange(-1, 1.1, 0.5)] + [np.arange(0, 2.1, 0.5)] * 2
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)[::37]
    for start in grid:
        found = scaling.fit_surface(chinchilla, starts=[start])
        assert found.objective <= 1.018274035e-3


# The isoFLOP parabola


@pytest.mark.parametrize(
    ("truth", "offset", "drift", "width", "published"),
    [
        (TRUTH, 1, 1, 2, -0.3269),
        (TRUTH, 1, 1, 16, -5.1002),
        (ASYMMETRIC, 1, 1, 8, -13.9104),
        (ASYMMETRIC, 3, 1, 4, 14.414),
        (ASYMMETRIC, 1, 3, 16, 13.997),
        (TRUTH | {"A": 400.0, "B": 400.0, "alpha": 0.31, "beta": 0.31}, 1, 1, 8, 0.0),
        (TRUTH | {"A": 400.0, "B": 400.0, "alpha": 0.31, "beta": 0.31}, 1, 3, 2, 6.071),
    ],
)
def test_bias_of_the_parabola(truth, offset, drift, width, published):
    found = scaling.fit_surface(runs(truth), loss="l2")
    bias = found.isoflop_bias(1e24, np.geomspace(1e17, 1e21, 5), width, offset=offset, drift=drift)
    assert 100 * bias == pytest.approx(published, abs=1e-3)


def test_parabola_is_exact_on_parabolas():
    grids = [np.linspace(8, 10, 9), np.linspace(9, 11, 9)]
    losses = [(grids[0] - 9.2) ** 2 + 1, (grids[1] - 10.2) ** 2 + 0.5]
    slope, intercept = isoflop_parabola([18, 20], grids, losses)
    assert (slope, intercept) == pytest.approx((0.5, 0.2))


def test_bias_is_warned_about():
    split = scaling.fit_surface(runs(ASYMMETRIC, noise=0.001)).optimal(1e20)
    assert split.isoflop_bias < -0.02
    assert "ISOFLOP_BIAS" in split.warnings
    assert "ISOFLOP_BIAS" in scaling.WARNINGS


# Forecasts


def test_forecast_intervals_hold_new_runs():
    inside = []
    for seed in range(15):
        found = scaling.fit_surface(runs(noise=0.02, seed=seed), loss="l2")
        new = runs(noise=0.02, seed=1000 + seed)
        forecast = found.predict(4 * new.parameters, 4 * new.examples)
        truth = value(4 * new.parameters, 4 * new.examples, **TRUTH)
        noise = np.exp(np.random.default_rng(seed).normal(0, 0.02, len(new)))
        inside.append(((truth * noise >= forecast.low) & (truth * noise <= forecast.high)).mean())
        assert forecast.status == "ok"
    assert np.mean(inside) == pytest.approx(0.9, abs=0.05)


def test_far_forecasts_are_undetermined():
    forecast = scaling.fit_surface(runs(noise=0.01)).predict([1e10, 1e14], [1e11, 1e11])
    assert forecast.statuses == ("ok", "undetermined")
    assert "FAR_EXTRAPOLATION" in forecast.warnings


def test_everything_stays_finite_on_hopeless_data():
    generator = np.random.default_rng(0)
    for loss in (np.full(12, 3.0), generator.lognormal(0, 3, 12)):
        surface = scaling.LossSurface(
            generator.lognormal(10, 2, 12), generator.lognormal(10, 2, 12), loss
        )
        for form in SURFACE_FORMS:
            found = scaling.fit_surface(surface, form)
            forecast = found.predict([1.0, 1e30], [1e30, 1.0])
            split = found.optimal(1e20)
            numbers = [*found.parameters.values(), *forecast.value, *forecast.low, *forecast.high]
            numbers += [split.parameters, split.examples, split.loss, split.isoflop_bias]
            assert np.isfinite(numbers).all()


# Input


def test_csv(tmp_path):
    surface = runs(sizes=3, datas=3)
    path = tmp_path / "runs.csv"
    rows = zip(surface.parameters, surface.examples, surface.loss, strict=True)
    path.write_text(
        "Model Size,tokens,loss\n"
        + "\n".join(f"{float(n)!r},{float(d)!r},{float(x)!r}" for n, d, x in rows)
    )
    read = scaling.LossSurface.from_csv(path)
    assert (read.loss == surface.loss).all()
    assert (read.parameters == surface.parameters).all()
    path.write_text("parameters,tokens,loss\n1,2,three\n")
    with pytest.raises(DataError, match="line 2, column loss needs a number, found 'three'"):
        scaling.LossSurface.from_csv(path)


def test_errors_are_sentences():
    with pytest.raises(ValueError, match="loss needs positive finite numbers, found -1 at index 1"):
        scaling.LossSurface([1, 2], [1, 2], [1, -1])
    with pytest.raises(ValueError, match="need one length, found 2, 2 and 1"):
        scaling.LossSurface([1, 2], [1, 2], [1])
    surface = runs()
    with pytest.raises(ValueError, match="form needs one of chinchilla, rosenfeld, found 'cubic'"):
        scaling.fit_surface(surface, "cubic")
    with pytest.raises(ValueError, match="loss needs one of huber, lad, l2"):
        scaling.fit_surface(surface, loss="mae")
    with pytest.raises(ValueError, match="needs at least 5 rows, found 4"):
        scaling.fit_surface(surface.where(np.arange(64) < 4))
    with pytest.raises(TypeError, match="surface needs a LossSurface, found list"):
        scaling.fit_surface([1, 2, 3])
    with pytest.raises(ValueError, match="compute needs a positive number"):
        scaling.fit_surface(surface).optimal(-1)
