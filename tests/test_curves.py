"""Curve forms and their fits, against formulas, published numbers and other solvers."""

from __future__ import annotations

import csv
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from dlcore import scaling
from dlcore._core import curves as native
from dlcore.data import DataError
from dlcore.scaling.forms import ENSEMBLE, FORMS, SIZES, log_values

DATA = (
    Path(os.environ.get("DLCORE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "scaling"
)
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no data folder at {DATA} (DLCORE_DATA names its parent)"
)

# 4-digit addition, from the script of the broken neural scaling law.
ADDITION_X = [160, 192, 256, 320, 384, 448, 480, 512, 544, 576, 608, 640, 672, 736, 800, 864, 928]
ADDITION_Y = [
    2.13809046, 2.11813418, 2.08955508, 2.06988398, 2.05404987, 2.03837089, 2.02814281, 2.00496872,
    1.95576149, 1.86313841, 1.70891537, 1.50637664, 1.29754721, 0.96559684, 0.75856477, 0.64768338,
    0.55695445,
]  # fmt: skip
ADDITION = {
    "a": 0.413885, "b": 2.277272, "c0": 0.0550773, "c1": 5.66290, "d1": 612.584, "f1": 0.0591930
}  # fmt: skip


def bnsl(x, a, b, c0, c1, d1, f1):
    return a + b * x**-c0 * (1 + (x / d1) ** (1 / f1)) ** (-c1 * f1)


def m4(x, e, e0, alpha, beta, c):
    """Solved by bisection."""
    low, high = np.full_like(x, e), np.full_like(x, e0)
    for _ in range(200):
        middle = 0.5 * (low + high)
        above = (middle - e) / (e0 - middle) ** alpha > beta * x**-c
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return 0.5 * (low + high)


# The printed formulas, in the printed parameters.
FORMULAS = {
    "power": lambda x, b, c: b * x**-c,
    "power_floor": lambda x, e, b, c: e + b * x**-c,
    "shifted": lambda x, b, c, gamma: b * (1 / x + gamma) ** c,
    "pow4": lambda x, e, b, c, d: e + b * (x + d) ** -c,
    "m4": m4,
    "mmf4": lambda x, a, b, c, d: (a * b + c * x**d) / (b + x**d),
    "wbl4": lambda x, c, b, a, d: c + b * np.exp(-a * x**d),
    "exp4": lambda x, c, b, a, d: c + np.exp(b - a * x**d),
    "bnsl": bnsl,
}
# What the core calls them, at values of an ordinary error curve.
EXAMPLES = {
    "power": [0.3, 0.4],
    "power_floor": [-2.0, 0.3, 0.4],
    "shifted": [0.9, 0.5, -6.0],
    "pow4": [-2.0, 0.9, 0.6, 2.3],
    "m4": [-2.0, -0.3, 3.0, 0.7, 0.4],
    "mmf4": [-2.0, -0.3, 3.0, 0.7],
    "wbl4": [-2.0, -0.3, -1.5, 0.3],
    "bnsl": [-2.0, 0.2, 0.3, 0.8, 5.5, -0.6],
}
X = np.geomspace(16, 20000, 24)


def example(name, noise=0.0, seed=0, x=X):
    """x and y of a form, and its printed parameters."""
    form = FORMS[name]
    vector = np.zeros(8)
    vector[: form.size] = EXAMPLES[form.native]
    y = np.exp(log_values(form.native, vector, np.log(x))[0])
    return y * np.exp(np.random.default_rng(seed).normal(0, noise, len(x))), form.publish(vector)


# Forms


@pytest.mark.parametrize("name", FORMS)
def test_core_and_printed_formula_agree(name):
    y, parameters = example(name)
    assert y == pytest.approx(FORMULAS[name](X, **parameters), rel=1e-12)


@pytest.mark.parametrize("native_name", SIZES)
def test_derivatives_are_exact(native_name):
    vector = np.array(EXAMPLES[native_name])
    t = np.log(X)
    first, second = native.curve_derivatives(native_name, vector, t)
    step = np.finfo(float).eps ** (1 / 3)
    size = len(vector)
    for j in range(size):
        move = np.zeros(size)
        move[j] = step
        above, below = (
            native.curve_values(native_name, (vector + s * move)[None], t)[0] for s in (1, -1)
        )
        assert first[:, j] == pytest.approx((above - below) / (2 * step), rel=1e-6, abs=1e-8)
        above, below = (
            native.curve_derivatives(native_name, vector + s * move, t)[0] for s in (1, -1)
        )
        for i in range(j, size):
            assert second[:, i * (i + 1) // 2 + j] == pytest.approx(
                (above - below)[:, i] / (2 * step), rel=1e-6, abs=1e-8
            )


@given(log_alpha=st.floats(-2.5, 2.5), offset=st.floats(-60, 60), slope=st.floats(0, 8))
def test_implicit_form_is_solved_everywhere(log_alpha, offset, slope):
    t = np.linspace(-10, 30, 30)
    vector = np.array([[-300.0, 0.0, offset, slope, log_alpha]])
    log_s = native.curve_values("m4", vector, t)[0]
    assert (log_s <= 1e-12).all() and np.isfinite(log_s).all()
    open_interval = (log_s < -1e-9) & (log_s > -200)
    s = log_s[open_interval]
    left = s - np.exp(log_alpha) * np.log(-np.expm1(s))
    right = (offset - slope * t)[open_interval]
    assert left == pytest.approx(right, rel=1e-6, abs=1e-5)


# Fits


@pytest.mark.parametrize("loss", ["l2", "huber", "lad"])
@pytest.mark.parametrize("name", FORMS)
def test_noiseless_parameters_are_recovered(name, loss):
    y, parameters = example(name)
    found = scaling.fit(scaling.LearningCurve(X, y), name, loss)
    assert found.form == name
    assert found.parameters == pytest.approx(parameters, rel=1e-3)
    assert found.predict(4 * X[-1:]).value == pytest.approx(
        FORMULAS[name](4 * X[-1:], **parameters), rel=1e-5
    )


def test_power_law_is_ordinary_least_squares():
    y, _ = example("pow4", noise=0.05)
    slope, intercept = np.polyfit(np.log(X), np.log(y), 1)
    found = scaling.fit(scaling.LearningCurve(X, y), "m1", "l2").parameters
    assert found == pytest.approx({"b": np.exp(intercept), "c": -slope}, rel=1e-9)


@pytest.mark.parametrize("name", [name for name in FORMS if name != "exp4"])
def test_no_other_solver_finds_a_lower_sum(name):
    y, _ = example(name, noise=0.02)
    found = scaling.fit(scaling.LearningCurve(X, y), name, "l2")
    place = found.names.index(name)
    vector = found.origins[0].parameters[place][: FORMS[name].size].copy()

    def objective(v):
        return float(
            (
                (log_values(FORMS[name].native, np.pad(v, (0, 8 - len(v))), np.log(X)) - np.log(y))
                ** 2
            ).sum()
        )

    polished = minimize(objective, vector, method="Nelder-Mead", options={"maxiter": 4000})
    assert objective(vector) <= polished.fun * (1 + 1e-3)


def test_the_three_losses_differ_and_each_is_lowest_in_its_own():
    y, _ = example("power_floor", noise=0.05)
    curve = scaling.LearningCurve(X, y)
    residuals = {}
    for loss in ("huber", "lad", "l2"):
        found = scaling.fit(curve, "power_floor", loss, delta=2e-2)
        residuals[loss] = np.abs(np.log(FORMULAS["power_floor"](X, **found.parameters) / y))
    measures = {
        "huber": lambda r: np.where(r <= 2e-2, r**2 / 2, 2e-2 * (r - 1e-2)).sum(),
        "lad": lambda r: r.sum(),
        "l2": lambda r: (r**2).sum(),
    }
    for loss, measure in measures.items():
        values = {name: measure(r) for name, r in residuals.items()}
        assert min(values, key=values.get) == loss
        assert sorted(values.values())[1] > values[loss] * (1 + 1e-6)


def test_an_outlier_hardly_moves_the_default():
    y, parameters = example("power_floor", noise=1e-4)
    y[[3, 11, 17]] *= [1.4, 0.7, 1.3]
    robust = scaling.fit(scaling.LearningCurve(X, y), "power_floor").parameters
    assert robust == pytest.approx(parameters, rel=0.02)


def test_precise_points_count_more():
    x = np.geomspace(10, 10000, 12)
    y = 0.1 + 2 * x**-0.5
    wrong = y.copy()
    wrong[::3] *= 1.2
    se = np.where(np.arange(12) % 3 == 0, 0.3, 0.001) * y
    weighted = scaling.fit(scaling.LearningCurve(x, wrong, se=se), "power_floor", "l2").parameters
    plain = scaling.fit(scaling.LearningCurve(x, wrong), "power_floor", "l2").parameters
    assert abs(weighted["e"] - 0.1) < 0.2 * abs(plain["e"] - 0.1)


def test_same_bits_at_any_number_of_threads():
    y, _ = example("pow4", noise=0.03)
    curve = scaling.LearningCurve(X, y)
    one = scaling.fit(curve, threads=1)
    for threads in (2, 5):
        other = scaling.fit(curve, threads=threads)
        for a, b in zip(one.origins, other.origins, strict=True):
            assert (a.parameters == b.parameters).all()
        a, b = (found.predict([1e5, 1e6]) for found in (one, other))
        assert (a.value == b.value).all() and (a.low == b.low).all() and (a.high == b.high).all()


@pytest.mark.parametrize("kind", ["cases", "residuals"])
def test_bootstrap_agrees_with_the_spread_over_new_data(kind):
    curves = [scaling.LearningCurve(X, example("power_floor", 0.03, seed)[0]) for seed in range(80)]
    fits = [scaling.fit(curve, "power_floor", "l2") for curve in curves]
    spread = np.std([found.parameters["c"] for found in fits], ddof=1)
    draws = [found.bootstrap(300, kind=kind).standard_errors["c"] for found in fits[:8]]
    assert np.median(draws) == pytest.approx(spread, rel=0.35)


def test_bootstrap_of_seeds_draws_among_values_of_an_x():
    generator = np.random.default_rng(0)
    y, _ = example("power_floor")
    several = y[:, None] * np.exp(generator.normal(0, 0.05, (len(X), 5)))
    curve = scaling.LearningCurve(np.repeat(X, 5), several.ravel())
    found = scaling.fit(curve, "power_floor", "l2")
    draws = found.bootstrap(200)
    assert draws.kind == "seeds"
    low, high = draws.interval(0.99)["c"]
    assert low < found.parameters["c"] < high
    with pytest.raises(ValueError, match="at least two values at every x"):
        scaling.fit(scaling.LearningCurve(X, y), "power").bootstrap(10, kind="seeds")


# Published numbers


def test_four_digit_addition():
    x, y = np.array(ADDITION_X[:14], float), np.array(ADDITION_Y[:14])
    # The script fits log(y + 1).
    found = scaling.fit(scaling.LearningCurve(x, y + 1), "bnsl", "l2")
    parameters = found.parameters
    parameters["a"] -= 1
    assert parameters == pytest.approx(ADDITION, rel=1e-3)
    predicted = bnsl(np.array(ADDITION_X[14:], float), **parameters)
    assert predicted == pytest.approx([0.76019, 0.63750, 0.56260], rel=1e-4)
    error = np.sqrt(np.mean(np.log(predicted / ADDITION_Y[14:]) ** 2))
    assert error == pytest.approx(0.010916, rel=1e-3)


@pytest.mark.parametrize("last", [405, 390])
def test_noiseless_break_is_recovered_from_before_it(last):
    x = np.arange(1, last + 1.0)
    found = scaling.fit(scaling.LearningCurve(x, bnsl(x, **ADDITION)), "bnsl", "l2")
    assert found.parameters == pytest.approx(ADDITION, rel=1e-3)


@needs_data
def test_power_law_on_the_benchmark():
    with (DATA / "reference_estimators.lang.csv").open(newline="") as file:
        wanted = [row for row in csv.DictReader(file) if row["estimator"] == "M1"]
    curves = benchmark()
    for row in wanted:
        x, y, x_after, y_after = curves[row["domain"], row["task"], row["model"]]
        found = scaling.fit(scaling.LearningCurve(x, y), "m1", "l2")
        parameters = found.parameters
        assert -parameters["c"] == pytest.approx(float(row["c"]), rel=1e-5)
        assert parameters["b"] == pytest.approx(float(row["beta"]), rel=1e-5)
        error = np.log(parameters["b"] * x_after ** -parameters["c"]) - np.log(y_after)
        assert np.sqrt((error**2).mean()) == pytest.approx(float(row["rmse_log"]), rel=1e-5)
    assert len(wanted) >= 20


def benchmark():
    """(domain, task, model) -> x, y, x after, y after; one row per x."""
    points = {}
    with (DATA / "benchmark.lang.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            key = (row["Domain"], row["Task"], row["Model"])
            points.setdefault(key, {})[float(row["Seen Examples"])] = (
                float(row["Loss"]),
                row["Training"] == "1",
            )
    curves = {}
    for key, rows in points.items():
        x = np.array(sorted(rows))
        y = np.array([rows[at][0] for at in x])
        known = np.array([rows[at][1] for at in x])
        curves[key] = x[known], y[known], x[~known], y[~known]
    return curves


@needs_data
def test_ensemble_beats_the_best_single_row_of_the_baselines():
    errors = []
    for x, y, x_after, y_after in benchmark().values():
        value = scaling.fit(scaling.LearningCurve(x, y)).predict(x_after).value
        errors.append(np.sqrt(np.mean((np.log(value) - np.log(y_after)) ** 2)))
    with (DATA / "baseline_rmsle.lang.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    rivals = {
        name: np.mean([float(row[name]) for row in rows])
        for name in rows[0]
        if name not in ("domain", "task", "model")
    }
    assert len(errors) == 20
    assert np.mean(errors) <= min(rivals.values())


# The ensemble


def test_weights_add_up_and_members_are_shared():
    y, _ = example("pow4", noise=0.01)
    found = scaling.fit(scaling.LearningCurve(X, y))
    assert sum(found.weights.values()) == pytest.approx(1)
    assert set(found.names) == set(ENSEMBLE)
    alone = found.member("pow4")
    assert alone.form == "pow4" and alone.shrinkage == 1
    assert set(alone.parameters) == {"e", "b", "c", "d"}
    last = found.member("last")
    assert last.predict([1e6]).value == pytest.approx(y[-1:])
    assert found.form == "auto"  # the members are copies
    with pytest.raises(ValueError, match="name needs one of power, .*, found 'exp4'"):
        found.member("exp4")


def test_a_list_of_forms_is_an_ensemble_of_them():
    y, _ = example("pow4", noise=0.01)
    found = scaling.fit(scaling.LearningCurve(X, y), ["m2", "pow4", "last"])
    assert set(found.weights) <= {"power_floor", "pow4", "last"}
    assert found.form == "list"


def test_last_value():
    found = scaling.fit(scaling.LearningCurve([1, 2, 4, 8], [4, 3, 2.5, 2.2]), "last")
    assert found.parameters == {} and found.standard_errors == {}
    assert found.predict([16.0]).value == pytest.approx([2.2])


@given(
    y=st.lists(st.floats(0, 1e6), min_size=1, max_size=12),
    spread=st.floats(1.001, 10),
    form=st.sampled_from(["auto", *FORMS, "last"]),
)
def test_any_data_gives_finite_numbers_within_bounds(y, spread, form):
    x = 10 * spread ** np.arange(len(y))
    top = max(max(y), 1e-3) * 2
    curve = scaling.LearningCurve(x, y, bounds=(0, top))
    found = scaling.fit(curve, form)
    forecast = found.predict([x[0] / 2, x[-1], 2 * x[-1], 1e30])
    for part in (forecast.value, forecast.low, forecast.high):
        assert np.isfinite(part).all() and (part >= 0).all() and (part <= top).all()
    assert (forecast.low <= forecast.value).all() and (forecast.value <= forecast.high).all()
    assert set(forecast.statuses) <= {"ok", "undetermined"}
    assert set(forecast.warnings) <= set(scaling.WARNINGS)
    assert all(np.isfinite(value) for value in found.parameters.values())


# Long calls


def test_ctrl_c_ends_a_long_call():
    y, _ = example("bnsl", noise=0.05)
    found = scaling.fit(scaling.LearningCurve(X, y), "bnsl")

    def interrupt(signum, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    began = time.perf_counter()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        with pytest.raises(KeyboardInterrupt):
            for _ in range(1000):
                found.bootstrap(20000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.perf_counter() - began < 10


def test_other_threads_run_during_a_long_call():
    ticks = []
    stop = threading.Event()

    def tick():
        while not stop.wait(0.001):
            ticks.append(time.perf_counter())

    y, _ = example("bnsl", noise=0.05)
    found = scaling.fit(scaling.LearningCurve(X, y), "bnsl")
    thread = threading.Thread(target=tick)
    thread.start()
    log_x = np.tile(np.log(X), 400)
    log_y = np.tile(np.log(y), 400)
    offsets = np.arange(401, dtype=np.int64) * len(X)
    ones = np.ones_like(log_x)
    try:
        began = time.perf_counter()
        native.fit_curves(
            ["bnsl"],
            "huber",
            1e-3,
            offsets,
            log_x,
            log_y,
            ones,
            ones,
            4,
            np.zeros((0, 0, 8)),
            60,
            1,
        )
        ended = time.perf_counter()
    finally:
        stop.set()
        thread.join()
    assert sum(began < at < ended for at in ticks) > 5
    assert found.form == "bnsl"


# Input


def test_values_at_one_x_are_averaged():
    curve = scaling.LearningCurve([20, 10, 20, 10], [1.0, 4.0, 3.0, 2.0])
    assert curve.x.tolist() == [10, 20]
    assert curve.y.tolist() == [3, 2]
    assert curve.se == pytest.approx([1, 1])
    assert curve.counts.tolist() == [2, 2]


def test_zero_errors_are_raised_and_said():
    curve = scaling.LearningCurve([1, 2, 4, 8, 16, 32], [0.4, 0.2, 0.1, 0.05, 0, 0], bounds=(0, 1))
    assert curve.warnings == ("ZERO_ERROR",)
    assert curve.y[-1] == 0 and curve.positive[-1] == 0.025
    forecast = scaling.fit(curve).predict([64])
    assert forecast.low[0] == 0
    assert "ZERO_ERROR" in forecast.warnings


def test_csv(tmp_path):
    path = tmp_path / "curve.csv"
    path.write_text("n_train,error,se,who\n100,0.4,0.01,a\n200,0.3,0.01,b\n\n400,0.25,0.01,c\n")
    curve = scaling.LearningCurve.from_csv(path)
    assert curve.x.tolist() == [100, 200, 400] and curve.kind == "data"
    assert curve.bounds == (0, 1) and curve.se.tolist() == [0.01] * 3
    path.write_text("compute,loss\n1e18,3.5\n1e19,3.1\n")
    curve = scaling.LearningCurve.from_csv(path)
    assert curve.kind == "compute" and curve.bounds == (0, np.inf) and curve.se is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs a header line and at least one row"),
        ("x,y\n", "needs a header line and at least one row"),
        ("a,b\n1,2\n", "needs a column named x, m, parameters, compute or steps, found a, b"),
        ("x,b\n1,2\n", "needs a column named y, error or loss, found x, b"),
        ("x,y\n1,2\n3,\n", "line 3, column y needs a number, found nothing"),
        ("x,y\n1,2\n3,nan\n", "line 3, column y needs a number, found 'nan'"),
        ("x,y\n1,2\n-3,4\n", "x needs positive numbers, found -3 at index 1"),
        ("x,y\n1,-2\n", "y needs errors of zero or more"),
    ],
)
def test_wrong_csv_is_a_sentence(tmp_path, text, said):
    path = tmp_path / "curve.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said) as caught:
        scaling.LearningCurve.from_csv(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_unreadable_csv_is_a_sentence(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        scaling.LearningCurve.from_csv(tmp_path / "none.csv")
    path = tmp_path / "binary.csv"
    path.write_bytes(b"\xff\xfe\x00\x80" * 10)
    with pytest.raises(DataError, match="is not a CSV file"):
        scaling.LearningCurve.from_csv(path)


def test_errors_are_sentences():
    curve = scaling.LearningCurve([1, 2, 3], [3, 2, 1.5])
    with pytest.raises(ValueError, match="one value per x, found 2 for 3"):
        scaling.LearningCurve([1, 2, 3], [3, 2])
    with pytest.raises(ValueError, match="values in 0..1, found 3 at index 0"):
        scaling.LearningCurve([1, 2, 3], [3, 2, 1], bounds=(0, 1))
    with pytest.raises(ValueError, match="kind needs one of data"):
        scaling.LearningCurve([1, 2], [3, 2], kind="days")
    with pytest.raises(ValueError, match="found nan at index 1"):
        scaling.LearningCurve([1, np.nan], [3, 2])
    with pytest.raises(TypeError, match="x needs numbers"):
        scaling.LearningCurve(["a", "b"], [3, 2])
    with pytest.raises(ValueError, match="form needs one of power, .*found 'cubic'"):
        scaling.fit(curve, "cubic")
    with pytest.raises(ValueError, match="loss needs one of huber, lad, l2, found 'mse'"):
        scaling.fit(curve, loss="mse")
    with pytest.raises(ValueError, match="delta needs a positive number"):
        scaling.fit(curve, delta=0)
    with pytest.raises(TypeError, match="curve needs a LearningCurve, found tuple"):
        scaling.fit(([1], [2]))
    with pytest.raises(ValueError, match="x_new needs one axis of positive finite numbers"):
        scaling.fit(curve).predict([-1])
    with pytest.raises(ValueError, match="interval needs a share between 0 and 1"):
        scaling.fit(curve).predict([4], interval=90)


def test_native_calls_refuse_what_they_cannot_read():
    t = np.log(X)
    with pytest.raises(TypeError, match="log_x needs C-contiguous float64"):
        native.curve_values("power", np.zeros((1, 8)), t.astype(np.float32))
    with pytest.raises(TypeError, match="log_x needs C-contiguous float64"):
        native.curve_values("power", np.zeros((1, 8)), t[::2])
    with pytest.raises(ValueError, match="no form is named cubic"):
        native.curve_values("cubic", np.zeros((1, 8)), t)
    with pytest.raises(ValueError, match="too few parameters"):
        native.curve_values("bnsl", np.zeros((1, 3)), t)
    ones = np.ones(3)
    none = np.zeros((0, 0, 8))
    for offsets, said in (
        (np.array([0, 2], np.int64), "from 0 to the number of points"),
        (np.array([0, 0, 3], np.int64), "a problem has no points"),
    ):
        with pytest.raises(ValueError, match=said):
            native.fit_curves(["power"], "l2", 1.0, offsets, ones, ones, ones, ones, 1, none, 10, 1)
    with pytest.raises(TypeError, match="offsets needs one axis of int64"):
        native.fit_curves(
            ["power"], "l2", 1.0, np.array([0.0, 3.0]), ones, ones, ones, ones, 1, none, 10, 1
        )


@pytest.mark.parametrize("name", ["x", "y", "se"])
def test_numbers_whose_squares_overflow_are_refused(name):
    given = {"x": [10.0, 20.0], "y": [0.2, 0.1], "se": [0.01, 0.01]}
    scaling.LearningCurve(**{**given, name: [given[name][0], 1e100]})
    with pytest.raises(ValueError, match=f"{name} needs numbers up to 1e.100, found 1e.101 at"):
        scaling.LearningCurve(**{**given, name: [given[name][0], 1e101]})
