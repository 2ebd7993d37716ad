"""Make python/dlcore/scaling/intervals.json: the scale and the quantiles of forecast errors.

Calibrated on half of the public LCDB data sets and on six families of simulated curves; coverage is
measured on the other data sets and on eight other families. benchmark.lang takes no part: language.py
has it as a test. About 10 minutes on two cores.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import simulated
from common import Array, Case, binomial_interval, folder, lcdb_cases, parser
from scipy.optimize import minimize

from dlcore import scaling
from dlcore.scaling.decisions import log_gain
from dlcore.scaling.intervals import Backtest, Features, Table

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98)
FREEDOM = 3.0  # of the Student t that the errors over their scale are taken for while fitting it
FORMS = ("power", "power_floor", "shifted", "pow4", "m4", "mmf4", "wbl4", "bnsl", "last")
OUT = Path(__file__).parents[2] / "python" / "dlcore" / "scaling" / "intervals.json"


SHARES = {"simulated": 0.5, "lcdb": 0.5}  # of the groups in the calibration


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A forecast that was made, and its errors."""

    group: str
    errors: Array
    features: Features
    backtests: tuple[Backtest, ...]
    rough: float


def forecast(case: Case) -> dict[str, Any]:
    """Fit the known part and compare with what followed, by every form."""
    found = scaling.fit(scaling.LearningCurve(case.x, case.y, se=case.se, bounds=case.bounds))
    after = np.log(np.maximum(case.y_after, found.curve.positive.min() / 2))
    rows: dict[str, Any] = {"gain": log_gain(found, 2)}
    for form in ("auto", *FORMS):
        fitted = found if form == "auto" else found.member(form)
        value, features = fitted.features(np.log(case.x_after))
        rows[form] = Row(
            case.source.split(",")[0], after - value, features, fitted.backtests, fitted.rough
        )
    return rows


def stack(rows: Sequence[Row], value: Callable[[Row], Array]) -> Array:
    return np.concatenate([value(row) for row in rows])


def weights(rows: Sequence[Row]) -> Array:
    """Every curve counts alike within its group, and the groups by their shares."""
    size = {group: sum(row.group == group for row in rows) for group in SHARES}
    return stack(
        rows,
        lambda row: np.full(len(row.errors), SHARES[row.group] / len(row.errors) / size[row.group]),
    )


def likelihood(errors: Array, scale: Array, weight: Array) -> float:
    """Negative log of a Student t."""
    tail = (FREEDOM + 1) / 2 * np.log1p((errors / scale) ** 2 / FREEDOM)
    return float(weight @ (np.log(scale) + tail))


def fit_table(rows: Sequence[Row]) -> Table:
    """Weights and exponents of the scale."""
    errors, weight = stack(rows, lambda row: row.errors), weights(rows)
    blank = Table((0.0,) * 6, (0.0,) * 4, {}, {}, {}, [])

    def of_base(p: Array) -> float:
        table = dataclasses.replace(blank, base=tuple(p))
        scale = stack(rows, lambda row: table.base_scale(row.features))
        return likelihood(errors, scale, weight) + 1e-4 * float(p @ p)

    start = np.append(np.log([1, 0.5, 0.1, 0.1]), [0, 0])
    base = minimize(of_base, start, method="BFGS").x
    table = dataclasses.replace(blank, base=tuple(float(v) for v in base))
    kappas = [table.agreement(row.features.horizon, row.backtests) for row in rows]

    def of_correction(p: Array) -> float:
        changed = dataclasses.replace(table, correction=tuple(p))
        scale = np.concatenate(
            [
                changed.scale(row.features, kappa, row.rough)
                for row, kappa in zip(rows, kappas, strict=True)
            ]
        )
        return likelihood(errors, scale, weight) + 1e-4 * float(p @ p)

    correction = minimize(of_correction, np.zeros(4), method="BFGS").x
    return dataclasses.replace(table, correction=tuple(float(v) for v in correction))


def standardised(table: Table, rows: Sequence[Row]) -> Array:
    """Errors over their scale."""
    return stack(
        rows,
        lambda row: (
            row.errors
            / table.scale(
                row.features, table.agreement(row.features.horizon, row.backtests), row.rough
            )
        ),
    )


def quantile(values: Array, weight: Array, share: float) -> float:
    order = np.argsort(values)
    reached = (np.cumsum(weight[order]) - 0.5 * weight[order]) / weight.sum()
    return float(np.interp(share, reached, values[order]))


def quantiles(table: Table, rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    values, weight = standardised(table, rows), weights(rows)
    return {
        f"{level:g}": (
            quantile(values, weight, (1 - level) / 2),
            quantile(values, weight, (1 + level) / 2),
        )
        for level in LEVELS
    }


def plateau_factors(found: Sequence[dict[str, Any]], gains: Sequence[float]) -> dict[str, float]:
    """How far the gain of the last doubling is off at one in twenty, over 1.645 standard errors.

    Of curves that still fall by more than 1 %, because false alarms are theirs.
    """
    off = np.array(
        [
            (true - row["gain"][0]) / row["gain"][1]
            for row, true in zip(found, gains, strict=True)
            if true > 0.01
        ]
    )
    return {
        "high": round(max(1.0, float(np.quantile(off, 0.95)) / 1.645), 4),
        "low": round(max(1.0, -float(np.quantile(off, 0.05)) / 1.645), 4),
    }


def inside(table: Table, form: str, rows: Sequence[Row], level: float) -> Array:
    """Share of each curve's points inside."""
    low, high = table.limits(form, level)
    flags = standardised(table, rows)
    parts = np.split(flags, np.cumsum([len(row.errors) for row in rows])[:-1])
    return np.array([np.mean((part >= low) & (part <= high)) for part in parts])


def main() -> None:
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--per-family", type=int, default=120)
    options_parser.add_argument("--out", type=Path, default=OUT)
    options_parser.add_argument(
        "--rows", type=Path, help="keep the forecasts here, or take them from here"
    )
    options = options_parser.parse_args()
    public = lcdb_cases(folder(options))
    sets = sorted({case.group for case in public})
    known = set(sets[::2])

    # A log of errors of zero says nothing about the scale of errors.
    public = [case for case in public if (case.y > 0).all()]

    def simulate(families: Sequence[str], count: int) -> list[tuple[Case, float]]:
        drawn = [simulated.draw(family, seed) for family in families for seed in range(count)]
        return [(case, gain) for case, _, gain in drawn]

    count = options.per_family
    chosen = [case for case in public if case.group in known]
    drawn = simulate(list(simulated.CALIBRATION), count)
    gains = [gain for _, gain in drawn]
    kept_out = {
        "public": [case for case in public if case.group not in known],
        "simulated": [case for case, _ in simulate(list(simulated.HELD_OUT), count)],
    }
    if options.rows is not None and options.rows.exists():
        rows, checked = pickle.loads(options.rows.read_bytes())
    else:
        rows = [forecast(case) for case in chosen + [case for case, _ in drawn]]
        checked = {name: [forecast(case) for case in cases] for name, cases in kept_out.items()}
        if options.rows is not None:
            options.rows.write_bytes(pickle.dumps((rows, checked)))
    table = fit_table([row["auto"] for row in rows])
    table.plateau.update(plateau_factors(rows[len(chosen) :], gains))
    print(f"plateau: standard error times {table.plateau}")
    for form in ("auto", *FORMS):
        table.quantiles[form] = quantiles(table, [row[form] for row in rows])
        table.coverage[form] = {
            f"{level:g}": round(
                float(
                    np.mean(
                        [
                            inside(table, form, [row[form] for row in group], level).mean()
                            for group in checked.values()
                        ]
                    )
                ),
                4,
            )
            for level in LEVELS
        }
        for name, group in checked.items():
            share = float(inside(table, form, [row[form] for row in group], 0.9).mean())
            low, high = binomial_interval(share, len(group))
            print(
                f"{form}, kept out, {name}: {len(group)} curves, 90 % intervals hold {share:.4f} "
                f"({low:.4f} to {high:.4f})"
            )
            if form == "auto":
                table.measured.append(
                    {"curves": name, "count": len(group), "level": 0.9, "coverage": round(share, 4)}
                )
    options.out.write_text(table.to_json())
    print(f"base {np.round(table.base, 3)}, correction {np.round(table.correction, 3)}")


if __name__ == "__main__":
    main()
