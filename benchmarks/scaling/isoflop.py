"""The bias of isoFLOP parabolas, noise-free, and how well surfaces are recovered from noise.

arXiv 2603.22339 (repository Open-Athena/scaling-law-analysis); the published tables beside ours.
"""

from __future__ import annotations

import time

import numpy as np
from common import Array, Checks, parser

from dlcore import scaling
from dlcore.scaling.surface import SurfaceFit

SURFACES = {
    "Symmetric": (400, 400, 1.69, 0.31, 0.31),
    "Chinchilla": (406.4, 410.7, 1.69, 0.34, 0.28),
    "Asymmetric": (406.4, 410.7, 1.69, 0.465, 0.155),
}
BUDGETS = np.geomspace(1e17, 1e21, 5)
# Per cent, for widths 2, 4, 8, 16.
PUBLISHED = {
    ("Symmetric", 1, 1): (0, 0, 0, 0),
    ("Chinchilla", 1, 1): (-0.3269, -1.3011, -2.9029, -5.1002),
    ("Asymmetric", 1, 1): (-1.6747, -6.4978, -13.9104, -23.1163),
    ("Symmetric", 3, 1): (3.974, 3.472, 2.645, 1.510),
    ("Chinchilla", 3, 1): (7.110, 5.691, 3.376, 0.238),
    ("Asymmetric", 3, 1): (19.221, 14.414, 6.959, -2.425),
    ("Symmetric", 1, 3): (6.071, 5.171, 3.698, 1.689),
    ("Chinchilla", 1, 3): (11.614, 9.832, 6.939, 3.048),
    ("Asymmetric", 1, 3): (34.575, 30.038, 22.969, 13.997),
}


def known(name: str) -> SurfaceFit:
    """The fit of a surface's noise-free losses, which is the surface."""
    return scaling.fit_surface(
        scaling.LossSurface(*runs(name, BUDGETS, 15, 8.0, 1)), loss="l2", residuals="linear"
    )


def runs(
    name: str, budgets: Array, points: int, width: float, drift: float
) -> tuple[Array, Array, Array]:
    """N, D and L on isoFLOP curves whose centres drift from D* to ``drift`` D*."""
    a, b, e, alpha, beta = SURFACES[name]
    ratio = (alpha * a / (beta * b)) ** (1 / (alpha + beta))
    size, data = [], []
    for i, compute in enumerate(budgets):
        best = ratio * (compute / 6) ** (beta / (alpha + beta))
        centre = np.log10(best) - np.log10(drift) * i / max(len(budgets) - 1, 1)
        n = np.logspace(centre - np.log10(width), centre + np.log10(width), points)
        size.append(n)
        data.append(compute / 6 / n)
    n, d = np.concatenate(size), np.concatenate(data)
    return n, d, e + a / n**alpha + b / d**beta


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    checks = Checks()
    checks.heading("bias of D* at 1e24, per cent")
    for (name, offset, drift), row in PUBLISHED.items():
        surface = known(name)
        for width, published in zip((2, 4, 8, 16), row, strict=True):
            ours = 100 * surface.isoflop_bias(1e24, BUDGETS, width, offset=offset, drift=drift)
            checks.row(
                f"{name}, offset {offset}, drift {drift}, +-{width}x",
                ours,
                published,
                1e-3,
                "absolute",
            )
    checks.heading("the line through the vertices, centred, +-16x")
    for name, slope, intercept in (
        ("Symmetric", 0.5, None),
        ("Chinchilla", 0.548387, -0.578092),
        ("Asymmetric", 0.75, -1.459957),
    ):
        a, b, e, alpha, beta = SURFACES[name]
        n, d, _ = runs(name, BUDGETS, 15, 16, 1)
        grids = np.split(np.log10(d), len(BUDGETS))
        losses = np.split(e + a / n**alpha + b / d**beta, len(BUDGETS))
        found_slope, found_intercept = scaling.isoflop_parabola(np.log10(BUDGETS), grids, losses)
        checks.row(f"{name}: slope", found_slope, slope, 1e-6, "absolute")
        if intercept is not None:
            checks.row(f"{name}: intercept", found_intercept, intercept, 1e-6, "absolute")

    checks.heading("noise-free recovery, worst relative error of five parameters over 60 fits")
    worst = 0.0
    for name, truth in SURFACES.items():
        for drift in (1, 3):
            for width in np.geomspace(2, 16, 10):
                n, d, loss = runs(name, BUDGETS, 15, width, drift)
                found = scaling.fit_surface(
                    scaling.LossSurface(n, d, loss), loss="l2", residuals="linear"
                )
                ours = np.array(list(found.parameters.values()))
                worst = max(worst, float(np.abs(ours / np.array(truth) - 1).max()))
    checks.row("worst relative error", worst, 1e-6, 0, "at most")

    checks.heading("recovery from noise: Asymmetric, drift 3, +-8x, 9,216 fits")
    _a, _b, _, alpha, beta = SURFACES["Asymmetric"]
    true = beta / (alpha + beta)
    errors: list[tuple[float, float]] = []
    began = time.perf_counter()
    for sigma in (0.05, 0.1, 0.2):
        for budgets in (2, 3, 4):
            for repeat in range(256):
                generator = np.random.default_rng(42 + repeat)
                for points in (4, 8, 16, 32):
                    n, d, loss = runs("Asymmetric", np.geomspace(1e17, 1e21, budgets), points, 8, 3)
                    for part in np.split(loss, budgets):
                        part += generator.normal(0, sigma, points)
                    found = scaling.fit_surface(
                        scaling.LossSurface(n, d, loss), loss="l2", residuals="linear"
                    )
                    p, q = found.vector[3], found.vector[4]
                    ours = q / (p + q) if p + q > 0 else 0.5
                    errors.append((abs(ours / true - 1), abs((1 - ours) / (1 - true) - 1)))
    seconds = time.perf_counter() - began
    table = 100 * np.array(errors)
    checks.row(
        "geometric mean error of (a, b), per cent",
        float(np.exp(np.log(table[table > 0]).mean())),
        1.1,
        0,
        "at most",
    )
    checks.row("worst error of a, per cent", float(table[:, 0].max()), 35.0, 0, "at most")
    checks.figure("seconds for 9,216 fits", round(seconds, 2))
    print(f"{len(errors):,} fits from the whole grid of starts: {seconds:.1f} s")
    checks.finish(options, "isoflop")


if __name__ == "__main__":
    main()
