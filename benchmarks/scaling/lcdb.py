"""LCDB 1.1, visible curves: forecasts of eight times more data, and which curves are flat.

Half of these data sets calibrate the intervals; the other half is shown apart.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from common import Checks, folder, lcdb, parser

from dlcore import scaling

CUT = 24  # anchors; eight are a doubling


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    path = folder(options)
    curves = lcdb(path)
    checks = Checks()
    sets = sorted({name for name, _ in curves})
    kept_out = set(sets[1::2])

    def forecast(key: tuple[str, str]) -> tuple[float, ...]:
        x, y, se = curves[key]
        known = scaling.LearningCurve(x[:-CUT], y[:-CUT], se=se[:-CUT], bounds=(0, 1))
        shown = scaling.fit(known, threads=1).predict(x[-CUT:])
        off, last = np.abs(shown.value - y[-CUT:]), np.abs(y[-CUT - 1] - y[-CUT:])
        held = np.mean((y[-CUT:] >= shown.low) & (y[-CUT:] <= shown.high))
        possible = (
            np.isfinite(shown.value).all() and (shown.value >= 0).all() and (shown.value <= 1).all()
        )
        return off[-1], last[-1], off.mean(), last.mean(), held, shown.status == "ok", possible

    with ThreadPoolExecutor(2) as pool:
        table = np.array(list(pool.map(forecast, curves)))
    for title, chosen in (
        ("all 208 curves", np.ones(len(table), bool)),
        ("data sets kept out of the calibration", np.array([key[0] in kept_out for key in curves])),
    ):
        part = table[chosen]
        checks.heading(title)
        for column, name in ((0, "last anchor"), (2, "mean over 24 anchors")):
            ours, last = part[:, column], part[:, column + 1]
            checks.row(
                f"{name}: mean over that of last value",
                ours.mean() / last.mean(),
                0.95,
                0,
                "at most",
            )
            checks.row(
                f"{name}: median over that of last value",
                float(np.median(ours) / np.median(last)),
                1.0,
                0,
                "at most",
            )
            print(
                f"  mean {ours.mean():.5f} against {last.mean():.5f}, median {np.median(ours):.5f} "
                f"against {np.median(last):.5f}, better on {np.mean(ours < last):.2f}"
            )
        print(f"  90 % intervals hold {part[:, 4].mean():.3f}; status ok {part[:, 5].mean():.3f}")
        checks.row("forecasts outside 0..1", float((part[:, 6] == 0).sum()), 0, 0, "at most")

    checks.heading("plateau, 2 % per factor 4 (whole curves)")

    def verdict(key: tuple[str, str]) -> str:
        x, y, se = curves[key]
        found = scaling.fit(scaling.LearningCurve(x, y, se=se, bounds=(0, 1)), threads=1)
        flat = found.plateau(0.02, 4).flat
        return {True: "flat", False: "falling", None: "undetermined"}[flat]

    with ThreadPoolExecutor(2) as pool:
        verdicts = dict(zip(curves, pool.map(verdict, curves), strict=True))
    for learner in sorted({key[1] for key in curves}):
        found = [verdicts[key] for key in curves if key[1] == learner]
        print(
            f"{learner:24s}"
            + "".join(
                f"{name} {found.count(name):2d}  " for name in ("flat", "falling", "undetermined")
            )
        )
        if learner == "LogisticRegression":
            checks.row(
                "share of flat logistic-regression curves",
                found.count("flat") / len(found),
                0.5,
                0,
                "at least",
            )
        if learner == "MLP":
            checks.row(
                "share of flat network curves", found.count("flat") / len(found), 0.5, 0, "at most"
            )
    checks.finish(options, "lcdb")


if __name__ == "__main__":
    main()
