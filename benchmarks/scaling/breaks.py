"""Curves with a break or a bump: the six parameters of 4-digit addition, and what is said before it.

Data: the script of the broken neural scaling law (ethancaballero/broken_neural_scaling_laws), and the
double-descent curve of Nakkiran et al. 2019.
"""

from __future__ import annotations

import numpy as np
from common import Array, Checks, folder, parser, rows

from dlcore import scaling

X = np.array(
    [160, 192, 256, 320, 384, 448, 480, 512, 544, 576, 608, 640, 672, 736, 800, 864, 928.0]
)
Y = np.array(
    [
        2.13809046, 2.11813418, 2.08955508, 2.06988398, 2.05404987, 2.03837089, 2.02814281, 2.00496872,
        1.95576149, 1.86313841, 1.70891537, 1.50637664, 1.29754721, 0.96559684, 0.75856477, 0.64768338,
        0.55695445,
    ]
)  # fmt: skip
TRUTH = {
    "a": 0.413885,
    "b": 2.277272,
    "c0": 0.0550773,
    "c1": 5.66290,
    "d1": 612.584,
    "f1": 0.0591930,
}


def law(x: Array, a: float, b: float, c0: float, c1: float, d1: float, f1: float) -> Array:
    result: Array = a + b * x**-c0 * (1 + (x / d1) ** (1 / f1)) ** (-c1 * f1)
    return result


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    path = folder(options)
    checks = Checks()
    checks.heading("4-digit addition, 14 points")
    found = scaling.fit(scaling.LearningCurve(X[:14], Y[:14] + 1), "bnsl", "l2").parameters
    found["a"] -= 1
    for name, value in TRUTH.items():
        checks.row(name, found[name], value, 1e-3, "relative")
    predicted = law(X[14:], **found)
    for ours, published in zip(predicted, (0.76019, 0.63750, 0.56260), strict=True):
        checks.row("prediction", float(ours), published, 1e-4, "relative")
    train = np.log(law(X[:14], **found) / Y[:14])
    checks.row(
        "RMSLE after",
        float(np.sqrt(np.mean(np.log(predicted / Y[14:]) ** 2))),
        0.010916,
        1e-3,
        "relative",
    )
    checks.row("RMSLE before", float(np.sqrt(np.mean(train**2))), 5.985e-4, 1e-3, "relative")
    for form in ("auto", "bnsl"):
        shown = scaling.fit(scaling.LearningCurve(X[:14], Y[:14]), form).predict(X[14:])
        held = np.mean((Y[14:] >= shown.low) & (Y[14:] <= shown.high))
        print(f"{form}: intervals hold {held:.2f} of the three, {shown.status}, {shown.warnings}")

    for last in (405, 390):
        checks.heading(f"noiseless, x = 1..{last}")
        x, after = np.arange(1, last + 1.0), np.arange(last + 1, 4096.0)
        recovered = scaling.fit(scaling.LearningCurve(x, law(x, **TRUTH)), "bnsl", "l2").parameters
        for name, value in TRUTH.items():
            checks.row(name, recovered[name], value, 1e-3, "relative")
        for title, digits, noise in (
            ("noiseless", 16, 0.0), ("six digits", 6, 0.0), ("four digits", 4, 0.0), ("noise of 0.1 %", 16, 1e-3)
        ):  # fmt: skip
            y = np.round(law(x, **TRUTH), digits)
            y = y * np.exp(np.random.default_rng(0).normal(0, noise, len(y)))
            shown = scaling.fit(scaling.LearningCurve(x, y)).predict(after)
            truth = law(after, **TRUTH)
            inside = float(np.mean((truth >= shown.low) & (truth <= shown.high)))
            certain = np.array(shown.statuses) == "ok"
            good = inside >= 0.85 or shown.status == "undetermined"
            if title == "noiseless":
                checks.row("held, or undetermined", float(good), 1, 0, "absolute")
            print(
                f"auto, {title}: intervals hold {inside:.2f}; undetermined {1 - certain.mean():.2f} "
                f"of the x, {shown.warnings}"
            )

    checks.heading("double descent over network width, known up to each width")
    table = rows(path / "nlp-model-dd.csv")
    width = np.array([float(row["n"]) for row in table])
    for column in ("test_error", "test_loss"):
        y = np.array([float(row[column]) for row in table])
        for known in (8, 12, 20, 28, 36, 44):
            found_dd = scaling.fit(
                scaling.LearningCurve(width[:known], y[:known], kind="parameters")
            )
            shown = found_dd.predict(width[known:])
            held = np.mean((y[known:] >= shown.low) & (y[known:] <= shown.high))
            print(
                f"{column}, width <= {width[known - 1]:.0f}: hold {held:.2f}, {shown.status}, {shown.warnings}"
            )
    checks.finish(options, "breaks")


if __name__ == "__main__":
    main()
