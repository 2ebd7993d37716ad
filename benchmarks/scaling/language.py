"""benchmark.lang: errors of every form and of the ensemble beside the baselines; coverage and width.

arXiv 2209.06640. None of these curves is in the calibration of the intervals.
"""

from __future__ import annotations

import numpy as np
from common import Array, Case, Checks, binomial_interval, folder, language, parser, rows

from dlcore import scaling
from dlcore.scaling.forms import form_named, log_values

COLUMNS = {
    "last": "last",
    "power": "m1",
    "power_floor": "m2",
    "shifted": "m3",
    "m4": "m4",
    "pow4": "pow4",
    "mmf4": "mmf",
    "wbl4": "",
    "bnsl": "bnsl1",
    "auto": "",
}


def rmsle(value: Array, truth: Array) -> float:
    return float(np.sqrt(np.mean((np.log(value) - np.log(truth)) ** 2)))


def naive(case: Case, draws: int = 200) -> tuple[Array, Array]:
    """90 % interval by the residual bootstrap of the power law with floor, noise added."""
    found = scaling.fit(scaling.LearningCurve(case.x, case.y), "power_floor", "l2")
    form = form_named("power_floor")
    origin = found.origins[0]
    place = found.names.index("power_floor")
    sample = found.bootstrap(draws, kind="residuals")
    vectors = np.zeros((draws, 8))
    vectors[:, 0] = np.log(np.maximum(sample.parameters["e"], 1e-300))
    vectors[:, 1] = np.log(sample.parameters["b"])
    vectors[:, 2] = sample.parameters["c"]
    values = log_values(form.native, vectors, np.log(case.x_after))
    residuals = origin.residuals[place] * np.sqrt(len(case.x) / max(len(case.x) - 3, 1))
    values = values + np.random.default_rng(0).choice(residuals, values.shape)
    low, high = np.exp(np.percentile(values, [5, 95], axis=0))
    return low, high


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    path = folder(options)
    cases = language(path)
    baseline = {
        f"{r['domain']}|{r['task']}|{r['model']}": r for r in rows(path / "baseline_rmsle.lang.csv")
    }
    checks = Checks()

    checks.heading("M1 against the released estimator")
    worst = 0.0
    for row in rows(path / "reference_estimators.lang.csv"):
        if row["estimator"] != "M1":
            continue
        case = next(c for c in cases if c.name == f"{row['domain']}|{row['task']}|{row['model']}")
        found = scaling.fit(scaling.LearningCurve(case.x, case.y), "m1", "l2").parameters
        error = rmsle(found["b"] * case.x_after ** -found["c"], case.y_after)
        worst = max(
            worst, abs(error / float(row["rmse_log"]) - 1), abs(-found["c"] / float(row["c"]) - 1)
        )
    checks.row("M1, worst relative difference", worst, 1e-5, 0, "at most")

    errors: dict[str, list[float]] = {name: [] for name in COLUMNS}
    held, naive_held, widths, naive_widths, statuses = [], [], [], [], []
    for case in cases:
        curve = scaling.LearningCurve(case.x, case.y)
        found = scaling.fit(curve)
        for name in COLUMNS:
            if name in ("auto", "last"):
                value = (
                    (found if name == "auto" else found.member("last")).predict(case.x_after).value
                )
            else:
                value = scaling.fit(curve, name, "l2").predict(case.x_after).value
            errors[name].append(rmsle(value, case.y_after))
        forecast = found.predict(case.x_after, 0.9)
        held.append(np.mean((case.y_after >= forecast.low) & (case.y_after <= forecast.high)))
        widths.append(np.median(forecast.high - forecast.low))
        statuses.append(forecast.status)
        low, high = naive(case)
        naive_held.append(np.mean((case.y_after >= low) & (case.y_after <= high)))
        naive_widths.append(np.median(high - low))

    checks.heading(
        "mean RMSLE: ours (squares of logs; auto: Huber) / published or measured baseline"
    )
    domains = ("NMT", "LM", "BB")
    print(f"{'form':14s}" + "".join(f"{domain:>20s}" for domain in (*domains, "all 20")))
    for name, column in COLUMNS.items():
        cells = []
        for domain in (*domains, ""):
            chosen = [i for i, case in enumerate(cases) if domain in ("", case.group)]
            ours = np.mean([errors[name][i] for i in chosen])
            theirs = (
                f"{np.mean([float(baseline[cases[i].name][column]) for i in chosen]):.5f}"
                if column
                else "-"
            )
            cells.append(f"{ours:.5f} / {theirs}")
        print(f"{name:14s}" + "".join(f"{cell:>20s}" for cell in cells))
    best = min(
        np.mean([float(baseline[case.name][column]) for case in cases])
        for column in next(iter(baseline.values()))
        if column not in ("domain", "task", "model")
    )
    checks.row(
        "mean RMSLE of auto over all 20", float(np.mean(errors["auto"])), float(best), 0, "at most"
    )

    checks.heading("90 % intervals")
    low_share, high_share = binomial_interval(float(np.mean(held)), len(cases))
    print(
        f"auto hold {np.mean(held):.3f} of the points, pooled by curve ({low_share:.3f} to "
        f"{high_share:.3f}); naive {np.mean(naive_held):.3f}; undetermined {statuses.count('undetermined')}"
    )
    for domain in domains:
        chosen = [i for i, case in enumerate(cases) if case.group == domain]
        print(
            f"  {domain}: auto {np.mean([held[i] for i in chosen]):.3f}, naive "
            f"{np.mean([naive_held[i] for i in chosen]):.3f}"
        )
    checks.row("0.9 is in the binomial interval, low", low_share, 0.9, 0, "at most")
    checks.row("0.9 is in the binomial interval, high", 0.9, high_share, 0, "at most")
    ratio = float(np.median(widths) / np.median(naive_widths))
    checks.row("median width over the naive median width", ratio, 3.0, 0, "at most")
    print(f"median of the ratios {np.median(np.array(widths) / np.array(naive_widths)):.2f}")
    checks.finish(options, "language")


if __name__ == "__main__":
    main()
