"""Decisions from curves and surfaces, the intervals behind them, and what is warned about."""

from __future__ import annotations

import csv
import functools
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcore import scaling
from dlcore.scaling.intervals import Table, noise, recent_slope, roughness, table
from dlcore.scaling.views import misfit

DATA = (
    Path(os.environ.get("DLCORE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "scaling"
)
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no data folder at {DATA} (DLCORE_DATA names its parent)"
)
X = np.geomspace(100, 51200, 19)


def curve(law, noise=0.01, seed=0, x=X, **options):
    """A curve of a law with multiplicative noise."""
    y = law(x) * np.exp(np.random.default_rng(seed).normal(0, noise, len(x)))
    return scaling.LearningCurve(x, y, **options)


def falling(x):
    return 0.05 + 2 * x**-0.5


def level(x):
    return 0.2 + 20 / x


def surface(law, noise=0.01, seeds=3, seed=0):
    """Runs of sizes 1e3 to 1e6 and 200 to 2e5 examples."""
    size, data = (
        np.tile(grid.ravel(), seeds)
        for grid in np.meshgrid(np.geomspace(1e3, 1e6, 5), np.geomspace(200, 2e5, 8))
    )
    factor = np.exp(np.random.default_rng(seed).normal(0, noise, len(size)))
    return scaling.LossSurface(size, data, law(size, data) * factor)


@functools.cache
def fitted(law, noise=0.01, seed=0):
    return scaling.fit(curve(law, noise, seed))


# How much is needed


def test_required_finds_the_x():
    found = scaling.fit(curve(falling)).required(0.056)  # truly 111,111
    assert found.status == "ok" and found.kind == "data"
    assert found.low < 111_111 < found.high
    assert found.value == pytest.approx(111_111, rel=0.4)  # the curve is nearly flat there


def test_below_the_floor_is_not_reachable():
    found = scaling.fit(curve(falling, noise=0.001)).required(0.02)
    assert (found.status, found.value, found.low, found.high) == ("not reachable", None, None, None)
    assert "NOT_REACHABLE" in found.warnings
    assert str(found) == "an error of 0.02 is not reachable: below the floor"


def test_too_far_out_is_undetermined():
    found = scaling.fit(curve(lambda x: x**-0.05)).required(0.3)  # truly 3e10
    assert found.status == "undetermined" and "BEYOND_HORIZON" in found.warnings
    assert "undetermined" in str(found) and "further out" in str(found)


def test_a_target_inside_the_data_is_read_off_them():
    # The first half is no power law: forms that fit the end misfit the beginning.
    def law(x):
        return np.where(x < 1500, 0.5 - 0.1 * np.log10(x / 100), 0.1 + 0.28 * (x / 1500) ** -2)

    found = scaling.fit(curve(law, noise=0.002)).required(0.45)  # truly 316
    assert found.low <= 316 <= found.high
    assert found.value == pytest.approx(316, rel=0.1)


@given(first=st.floats(0.051, 0.4), second=st.floats(0.051, 0.4), share=st.sampled_from([0.5, 0.9]))
def test_a_smaller_error_needs_no_less(first, second, share):
    fit = fitted(falling)
    low, high = sorted((first, second))
    hard, easy = fit.required(low, share), fit.required(high, share)
    for found in (hard, easy):
        edges = [edge for edge in (found.low, found.value, found.high) if edge is not None]
        assert edges == sorted(edges) and np.isfinite(edges).all()
        if found.status == "ok":
            assert None not in (found.low, found.value, found.high)
    for edge in ("low", "value", "high"):
        a, b = getattr(hard, edge), getattr(easy, edge)
        assert a is None or (b is not None and b <= a * (1 + 1e-9))


# Whether more pays


def test_plateau_tells_flat_from_falling():
    flat = scaling.fit(curve(level)).plateau()
    assert flat.flat is True and bool(flat) and flat.high < 0.02 and str(flat).startswith("flat")
    steep = scaling.fit(curve(falling)).plateau()
    assert steep.flat is False and steep.low > 0.02 and str(steep).startswith("still falling")
    # Measured badly, neither is shown: not to see a fall is not to see that there is none.
    vague = scaling.fit(curve(level, noise=0.2)).plateau()
    assert vague.flat is None and vague.status == "undetermined" and not vague


def test_plateau_of_few_points_is_undetermined():
    found = scaling.fit(scaling.LearningCurve([1, 2, 4], [0.2, 0.2, 0.2])).plateau()
    assert found.flat is None and "TOO_FEW_POINTS" in found.warnings
    short = scaling.fit(curve(level, x=np.linspace(100, 120, 8))).plateau()
    assert short.flat is None and "SHORT_SPAN" in short.warnings


def test_plateau_hardly_ever_alarms_falsely():
    # A fall of 2.2 % per doubling is one that matters; at the level 0.05 at most one in twenty is missed.
    alarms = sum(
        scaling.fit(curve(lambda x: x**-0.032, 0.02, seed)).plateau().flat is True
        for seed in range(40)
    )
    assert alarms <= 5  # of 40 at 5 %: more with a probability of 1.4 %


@given(
    seed=st.integers(0, 5),
    spread=st.sampled_from([1e-4, 0.01, 0.1, 0.3]),
    per=st.floats(1.1, 8),
    asked=st.floats(0.001, 0.5),
)
def test_plateau_is_one_of_three_and_consistent(seed, spread, per, asked):
    found = fitted(falling, spread, seed).plateau(asked, per)
    assert found.low <= found.gain <= found.high
    assert np.isfinite([found.low, found.gain, found.high]).all()
    assert found.flat is (True if found.high < asked else False if found.low > asked else None)
    assert (found.status == "ok") == (found.flat is not None)


# Which learner


def test_crossing_has_an_interval_and_a_side():
    first = scaling.fit(curve(lambda x: 0.2 + 2 / x, 0.003, 1))
    second = scaling.fit(curve(lambda x: 0.1 + 4 * x**-0.5, 0.003, 2))
    found = first.crossing(second)
    true = 1559.6  # 0.2 + 2 / x = 0.1 + 4 / sqrt(x)
    assert found.exists is True and found.status == "ok"
    assert found.low < true < found.high and found.value == pytest.approx(true, rel=0.1)
    assert (found.better_before, found.better_after) == ("first", "second")
    back = second.crossing(first)
    assert back.value == pytest.approx(found.value) and back.better_after == "first"


def test_curves_that_keep_apart_do_not_cross():
    low = scaling.fit(curve(lambda x: 0.1 + 20 / x))
    high = scaling.fit(curve(lambda x: 0.3 + 20 / x))
    found = low.crossing(high)
    assert found.exists is False and found.value is None and found.better_after == "first"
    assert "NO_CROSSING" in found.warnings
    # Two curves that lie in one another's intervals: nobody knows.
    twin = scaling.fit(curve(lambda x: 0.1 + 20 / x, seed=5))
    assert low.crossing(twin).exists is None


def test_cheapest_prefers_the_first_that_is_good_enough():
    simple = scaling.fit(curve(lambda x: 0.2 + 2 / x, 0.003, 1))
    network = scaling.fit(curve(lambda x: 0.1 + 4 * x**-0.5, 0.003, 2))
    fits = {"simple": simple, "network": network}
    now, later = scaling.cheapest(fits, 400), scaling.cheapest(fits)
    assert (now.best, now.cheapest, now.status) == ("simple", "simple", "ok")
    assert (later.best, later.cheapest, later.status) == ("network", "network", "ok")
    assert later.x == X[-1]
    assert later.excess["simple"][0] == pytest.approx(0.2 - 0.1 - 4 * X[-1] ** -0.5, rel=0.05)
    # With a tolerance of the whole difference the simple one will do.
    assert scaling.cheapest(fits, delta=0.3).cheapest == "simple"
    # Where the difference is about the tolerance, nobody knows.
    between = scaling.cheapest(fits, delta=float(later.excess["simple"][0]))
    assert between.status == "undetermined"
    ahead = scaling.cheapest(fits, 4 * X[-1])
    assert (ahead.best, ahead.cheapest) == ("network", "network")


def test_decisions_refuse_nonsense():
    fit = scaling.fit(curve(falling, bounds=(0, 1)))
    other = scaling.fit(scaling.LearningCurve(X, falling(X), kind="steps"))
    for call, said in (
        (lambda: fit.required(0), "target needs a positive number in 0..1"),
        (lambda: fit.required(1.5), "target needs a positive number in 0..1"),
        (lambda: fit.required(float("nan")), "found nan"),
        (lambda: fit.plateau(2), "relative_gain needs a share between 0 and 1"),
        (lambda: fit.plateau(per=1), "per needs a factor above 1"),
        (lambda: fit.plateau(level=0.6), "level needs a share between 0 and 0.5"),
        (lambda: fit.crossing(other), "the same kind of x, found data and steps"),
        (
            lambda: fit.crossing(scaling.fit(curve(falling, x=X * 1e9))),
            "the curves share no range of x",
        ),
        (lambda: scaling.cheapest({}), "fits needs at least one fit"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


# Data or size


def data_limited(size, data):
    return 0.05 + 2 / size**0.6 + 3 / data**0.3


def size_limited(size, data):
    return 0.05 + 3 / size**0.2 + 2 / data**0.6


@pytest.mark.parametrize(
    ("law", "answer"),
    [
        (data_limited, "more_data"),
        (size_limited, "larger_network"),
        (lambda n, d: 0.5 + 10 / n + 10 / d, "at_floor"),
    ],
)
def test_advice_names_the_better_buy(law, answer):
    fit = scaling.fit_surface(surface(law))
    advice = fit.advise(2e4, 1e5, cost_example=1 / 2e4, cost_parameter=1 / 1e5)
    assert advice == answer and advice.answer == answer and advice.status == "ok"
    assert advice.gain_data > 0 and advice.gain_parameters > 0
    assert advice.remaining[1] <= advice.remaining[0] <= advice.remaining[2]
    if answer != "at_floor":
        assert (advice.gain_data > advice.gain_parameters) == (answer == "more_data")
        assert advice.log_ratio[0] == pytest.approx(
            np.log(advice.gain_data / advice.gain_parameters), abs=1e-6
        )
    assert "per cost" in advice.explain() or "gains what matters" in advice.explain()


def test_marginal_gains_are_derivatives_of_the_loss_over_the_cost():
    fit = scaling.fit_surface(surface(data_limited, noise=1e-4))
    advice = fit.advise(2e4, 1e5, cost_example=3.0, cost_parameter=0.5)
    assert advice.gain_data == pytest.approx(0.3 * 3 / 2e4**1.3 / 3.0, rel=0.02)
    assert advice.gain_parameters == pytest.approx(0.6 * 2 / 1e5**1.6 / 0.5, rel=0.05)


def test_prices_turn_the_advice_and_their_unit_does_not():
    fit = scaling.fit_surface(surface(data_limited))
    cheap, dear = (fit.advise(2e4, 1e5, c / 2e4, 1 / 1e5) for c in (1.0, 1e4))
    assert (cheap, dear) == ("more_data", "larger_network")
    other_unit = fit.advise(2e4, 1e5, 1e3 / 2e4, 1e3 / 1e5)
    assert other_unit == cheap and other_unit.probability == cheap.probability


def test_far_from_all_runs_there_is_no_advice_but_a_run():
    fit = scaling.fit_surface(surface(data_limited))
    advice = fit.advise(1e9, 1e5, 1e-9, 1e-5)
    assert advice == "undecided" and advice.status == "undetermined"
    assert "FAR_EXTRAPOLATION" in advice.warnings
    m, size = advice.next_run
    assert (m, size) in {(1e9, 2e5), (2e9, 1e5), (2e9, 2e5)} or m >= 1e9
    assert "next" in advice.explain()


def ridge(size, data):
    """A bump that moves with the data, as in double descent, but narrower than the runs are apart."""
    away = np.log(size) - np.log(data)
    return data_limited(size, data) * (1 + 0.4 * np.exp(-0.5 * away**2))


def test_a_surface_that_is_no_law_is_looked_at_from_nearby():
    fit = scaling.fit_surface(surface(ridge))
    assert misfit(fit) and not misfit(scaling.fit_surface(surface(data_limited)))
    # The law says more data, beyond doubt; what it leaves over could turn the slopes.
    advice = fit.advise(2e5, 1e6, 1 / 2e5, 1 / 1e6, confidence=0.95)
    assert advice == "undecided" and "LOCAL_DISAGREEMENT" in advice.warnings
    assert advice.probability > 0.9


def test_computation_for_a_loss():
    fit = scaling.fit_surface(surface(data_limited, noise=0.005))
    target = fit.optimal(2e10).loss
    found = fit.required(target)
    assert found.status == "ok" and found.kind == "compute"
    assert found.value == pytest.approx(2e10, rel=1e-6)
    assert found.low < 2e10 < found.high
    assert fit.required(0.001).status == "not reachable"
    assert fit.required(0.0501).status in ("undetermined", "not reachable")
    saturating = scaling.fit_surface(surface(data_limited, noise=0.005), "rosenfeld")
    found = saturating.required(target)
    assert saturating.optimal(found.value).loss == pytest.approx(target, rel=1e-6)
    assert saturating.required(1e6).value == 0 or saturating.required(1e6).value is None


def test_a_split_far_beyond_the_runs_is_undetermined():
    fit = scaling.fit_surface(surface(data_limited))
    used = 6 * fit.surface.parameters * fit.surface.examples
    assert fit.optimal(50 * used.max()).status == "ok"
    far = fit.optimal(1e4 * used.max())
    assert far.status == "undetermined" and "FAR_EXTRAPOLATION" in far.warnings


def test_surface_decisions_refuse_nonsense():
    fit = scaling.fit_surface(surface(data_limited))
    for call, said in (
        (lambda: fit.advise(0, 1, 1, 1), "m needs a positive number, found 0"),
        (lambda: fit.advise(1, 1, 1, float("inf")), "cost_parameter needs a positive number"),
        (lambda: fit.advise(1, 1, 1, 1, 0.4), "confidence needs a share between 0.5 and 1"),
        (lambda: fit.required(-1), "target needs a positive number, found -1"),
        (lambda: fit.required(1, interval=2), "interval needs a share"),
        (lambda: fit.required(1, 0), "flops_per_example_parameter needs a positive number"),
        (lambda: fit.optimal(1e9, interval=0), "interval needs a share"),
    ):
        with pytest.raises(ValueError, match=said):
            call()


# What is warned about


def bump(x):
    return falling(x) * (1 + 1.5 * np.exp(-0.5 * (np.log(x / 900) / 0.5) ** 2))


def broken(x):
    return np.exp(-0.05 * np.log(x) - 0.8 * np.maximum(np.log(x / 1000), 0))


WARNED = {
    "TOO_FEW_POINTS": lambda: scaling.fit(scaling.LearningCurve([1, 2, 4], [3, 2, 1])),
    "SHORT_SPAN": lambda: scaling.fit(curve(falling, x=np.linspace(100, 150, 9))),
    "FAR_EXTRAPOLATION": lambda: scaling.fit(curve(falling)).predict([1e9]),
    "RISING": lambda: scaling.fit(curve(lambda x: 0.1 * x**0.2)),
    "DOUBLE_DESCENT": lambda: scaling.fit(curve(bump)),
    "BREAK": lambda: scaling.fit(curve(broken, 0.002, x=np.geomspace(100, 20000, 40))),
    "BREAK_AT_END": lambda: scaling.fit(curve(broken, 0.002, x=np.geomspace(20, 1800, 40))),
    "EXPONENT_NOT_IDENTIFIED": lambda: scaling.fit(
        curve(lambda x: 0.3 + 0 * x, 0.05, x=X[:8]), "power_floor"
    ),
    "FORMS_DISAGREE": lambda: scaling.fit(
        curve(lambda x: 0.02 + np.exp(-x / 8000), 0.02, x=np.geomspace(10, 8000, 9))
    ),
    "WIDE_INTERVAL": lambda: scaling.fit(curve(falling, 0.5)).predict([1e5]),
    "BACKTEST_FAILED": lambda: scaling.fit(
        curve(lambda x: 0.02 + np.exp(-((x / 5000) ** 2)), 0.002, x=np.geomspace(100, 9000, 9))
    ),
    "ZERO_ERROR": lambda: scaling.fit(scaling.LearningCurve(X[:5], [0.4, 0.2, 0.1, 0, 0])),
    "NOT_REACHABLE": lambda: scaling.fit(curve(falling, 0.001)).required(0.01),
    "BEYOND_HORIZON": lambda: scaling.fit(curve(lambda x: x**-0.05)).required(0.3),
    "NO_CROSSING": lambda: scaling.fit(curve(level)).crossing(
        scaling.fit(curve(lambda x: 2 * level(x)))
    ),
    "ISOFLOP_BIAS": lambda: scaling.fit_surface(surface(data_limited)).optimal(1e10),
    "BOUNDARY": lambda: scaling.fit_surface(surface(lambda n, d: 1 + 0 * n)),
    "LOCAL_DISAGREEMENT": lambda: scaling.fit_surface(surface(ridge)).advise(
        2e5, 1e6, 5e-6, 1e-6, confidence=0.95
    ),
}


def test_every_code_has_a_case_here():
    assert set(WARNED) == set(scaling.WARNINGS)


@pytest.mark.parametrize("code", WARNED)
def test_warning(code):
    assert code in WARNED[code]().warnings


@pytest.mark.parametrize("law", [falling, level, lambda x: x**-0.3])
def test_a_good_curve_is_not_warned_about(law):
    found = scaling.fit(curve(law, 0.003))
    assert set(found.warnings) <= {"EXPONENT_NOT_IDENTIFIED"} and found.status == "ok"
    assert found.predict(2 * X[-1:]).status == "ok"


# Intervals


def test_shipped_table_is_ordered_and_survives_a_round_trip():
    shipped = table()
    assert Table.from_json(shipped.to_json()) == shipped
    for form in shipped.quantiles:
        edges = [shipped.limits(form, level) for level in (0.3, 0.5, 0.8, 0.9, 0.95, 0.98, 0.995)]
        lows, highs = zip(*edges, strict=True)
        assert list(lows) == sorted(lows, reverse=True) and list(highs) == sorted(highs)
        covered = [shipped.covered(form, level) for level in (0.5, 0.8, 0.9, 0.98)]
        assert covered == sorted(covered) and abs(covered[2] - 0.9) < 0.05
    assert shipped.limits("pow9", 0.9) == shipped.limits("auto", 0.9)
    assert {row["curves"] for row in shipped.measured} == {"public", "simulated"}


def test_measures_of_a_curve():
    r = np.random.default_rng(0).normal(0, 0.02, 400)
    assert noise(r) == pytest.approx(0.02, rel=0.1)
    assert abs(roughness(r)) < 0.15
    assert roughness(np.sin(np.arange(100) / 10)) > 0.8
    assert recent_slope(np.log(X), -0.3 * np.log(X)) == pytest.approx(0.3 * np.log(2))


@given(level=st.floats(0.05, 0.98), wider=st.floats(0.001, 0.019), factor=st.floats(0.5, 8))
def test_intervals_grow_with_their_level_and_their_distance(level, wider, factor):
    fit = fitted(falling)
    x = np.array([factor * X[-1]])
    narrow, wide = fit.predict(x, level), fit.predict(x, level + wider)
    assert wide.low <= narrow.low <= narrow.value <= narrow.high <= wide.high
    assert narrow.coverage <= wide.coverage
    if factor > 1:
        near = fit.predict(X[-1:] * (1 + 0.5 * (factor - 1)), level)
        assert np.log(narrow.high / narrow.low) >= np.log(near.high / near.low) * (1 - 1e-9)


def test_intervals_hold_what_they_say_on_forms_that_are_not_fitted():
    # Two powers, a logistic step on a power, one over a logarithm: 60 curves, 4 points ahead of each.
    generator = np.random.default_rng(0)
    held = []
    for k in range(60):
        t = np.log(np.geomspace(1, 64, generator.integers(8, 20)))
        after = t[-1] + np.log([1.4, 2, 2.8, 4])
        both = np.concatenate([t, after])
        floor, a = generator.uniform(0, 0.4), generator.uniform(0.2, 0.9)
        if k % 3 == 0:
            y = floor + 0.5 * np.exp(-a * both) + 0.5 * np.exp(-0.3 * a * both)
        elif k % 3 == 1:
            y = floor + np.exp(-0.4 * a * both) / (1 + np.exp(both - generator.uniform(0, 4)))
        else:
            y = floor + 3 * a / (2 + both)
        y *= np.exp(generator.normal(0, 10 ** generator.uniform(-2.5, -1.5), len(y)))
        n = len(t)
        shown = scaling.fit(scaling.LearningCurve(50 * np.exp(t), y[:n])).predict(
            50 * np.exp(after)
        )
        held.append(np.mean((y[n:] >= shown.low) & (y[n:] <= shown.high)))
    assert 0.82 <= np.mean(held) <= 0.99  # 0.9 less and more than 2.5 binomial standard errors


@needs_data
def test_language_curves_are_covered_at_a_bearable_width():
    points = {}
    with (DATA / "benchmark.lang.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = (row["Domain"], row["Task"], row["Model"])
            known = row["Training"] == "1"
            points.setdefault(key, {})[float(row["Seen Examples"])] = (float(row["Loss"]), known)
    held, widths = [], []
    for rows in points.values():
        x = np.array(sorted(rows))
        y = np.array([rows[at][0] for at in x])
        known = np.array([rows[at][1] for at in x])
        shown = scaling.fit(scaling.LearningCurve(x[known], y[known])).predict(x[~known])
        held.append(np.mean((y[~known] >= shown.low) & (y[~known] <= shown.high)))
        widths.append(np.median(shown.high / shown.low))
    assert np.median(widths) < 1.05
    assert 0.77 <= np.mean(held) <= 1  # 0.9 lies in the binomial interval of 20


@needs_data
def test_lcdb_forecasts_beat_the_last_value_and_plateaus_are_told():
    curves = {}
    with (DATA / "lcdb11_visible.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            curves.setdefault((row["learner"], row["name"]), []).append(
                [float(row[name]) for name in ("n_train", "err_val", "se_val")]
            )
    ours, last, verdicts = [], [], {"MLP": [], "LogisticRegression": []}
    for (learner, _), rows in curves.items():
        # Every eighth anchor, one a doubling: benchmarks/scaling/lcdb.py takes all.
        x, y, se = np.array(sorted(rows)).T[:, ::-1][:, ::8][:, ::-1]
        if learner in verdicts:
            whole = scaling.LearningCurve(x, y, se, bounds=(0, 1))
            verdicts[learner].append(scaling.fit(whole).plateau(0.02, 4).flat)
        known = scaling.LearningCurve(x[:-3], y[:-3], se[:-3], bounds=(0, 1))
        value = scaling.fit(known).predict(x[-1:]).value[0]
        assert 0 <= value <= 1
        ours.append(abs(value - y[-1]))
        last.append(abs(y[-4] - y[-1]))
    assert len(ours) == 208
    assert np.mean(ours) <= 0.95 * np.mean(last) and np.median(ours) <= np.median(last)
    assert verdicts["LogisticRegression"].count(True) > 13  # of 26
    assert verdicts["MLP"].count(True) < 13


def test_before_the_break_the_forecast_knows_that_it_does_not_know():
    x, after = np.arange(1, 391.0), np.arange(391, 4096.0, 7)

    def law(m):
        turn = (1 + (m / 612.584) ** (1 / 0.059193)) ** (-5.6629 * 0.059193)
        return 0.413885 + 2.277272 * m**-0.0550773 * turn

    shown = scaling.fit(scaling.LearningCurve(x, law(x))).predict(after)
    held = np.mean((law(after) >= shown.low) & (law(after) <= shown.high))
    assert held >= 0.85 or shown.status == "undetermined"


# Analytic laws


def test_quanta_have_the_exponents_of_their_frequencies():
    # Michaud et al. 2023: skills of frequency k^-(s+1) give s in size and s / (s + 1) in data.
    for s in (0.4, 0.8):
        frequency = np.arange(1, 2_000_001.0) ** -(s + 1)
        tail = np.cumsum(frequency[::-1])[::-1]
        size = np.geomspace(20, 2000, 15)
        by_size = scaling.LearningCurve(size, tail[size.astype(int)], kind="parameters")
        found = scaling.fit(by_size, "power_floor", "l2").parameters["c"]
        assert found == pytest.approx(s, rel=0.06)
        data = np.geomspace(1e3, 1e5, 15)
        missed = [float((frequency * np.exp(-m * frequency)).sum()) for m in data]
        found = scaling.fit(scaling.LearningCurve(data, missed), "power_floor", "l2").parameters
        assert found["c"] == pytest.approx(s / (s + 1), rel=0.06)
