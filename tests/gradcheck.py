"""Gradients against central differences along a random direction, in float64.

(f(x + h d) - f(x - h d)) / 2h differs from f'(x) d by h^2 / 6 |f'''| and by rounding, about
eps |f| / h; a step of eps^(1/3) balances the two at about 1e-10 for values near one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

STEP = np.finfo(np.float64).eps ** (1 / 3)
TOLERANCE = 1e-6

Point = Mapping[str, np.ndarray]


def _moved(point: Point, direction: Point, step: float) -> dict[str, np.ndarray]:
    return {name: value + step * direction[name] for name, value in point.items()}


def _inner(a: Point, b: Point) -> float:
    return float(sum(np.sum(a[name] * b[name]) for name in a))


def relative_error(
    value: Callable[[Point], float],
    gradient: Point,
    point: Point,
    rng: np.random.Generator,
    kink_sides: Callable[[Point], np.ndarray] | None = None,
) -> float:
    """|numeric - analytic| / max of the two, along one random direction.

    Parameters
    ----------
    value
        The function, of arrays by name.
    gradient, point
        Its gradient at `point`.
    kink_sides
        On which side of its kinks the function is evaluated; a step that crosses one is made
        shorter, as there is no derivative to compare with on the way.
    """
    for _ in range(100):
        direction = {name: rng.standard_normal(v.shape) for name, v in point.items()}
        length = np.sqrt(_inner(direction, direction))
        direction = {name: v / length for name, v in direction.items()}
        analytic = _inner(gradient, direction)
        # A direction nearly along the level set has a derivative of rounding errors only.
        size = np.sqrt(_inner(gradient, gradient) / sum(v.size for v in point.values()))
        if abs(analytic) >= 0.3 * size:
            break
    else:
        raise AssertionError("no direction has a derivative worth comparing")
    step = STEP * max(1.0, np.sqrt(_inner(point, point)))
    for _ in range(6):
        ahead, behind = _moved(point, direction, step), _moved(point, direction, -step)
        if kink_sides is None or np.array_equal(kink_sides(ahead), kink_sides(behind)):
            break
        step /= 2
    else:
        raise AssertionError("the point lies on a kink; choose another")
    numeric = (value(ahead) - value(behind)) / (2 * step)
    largest = max(abs(numeric), abs(analytic))
    return abs(numeric - analytic) / largest if largest else 0.0


def check(value, gradient, point, rng, kink_sides=None, directions=1) -> None:
    """Fail if the gradient is wrong by more than `TOLERANCE` along any of `directions`."""
    for _ in range(directions):
        error = relative_error(value, gradient, point, rng, kink_sides)
        assert error <= TOLERANCE, f"gradient is wrong by {error:.3g} of its size"
