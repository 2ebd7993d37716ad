"""Simulated learning curves whose forms are not among the fitted ones.

Calibration and check use different families. A curve's noise, number and placing of points, span,
horizon and unit are drawn too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from common import Array, Case

Generator = np.random.Generator


def two_powers(r: Generator, t: Array) -> Array:
    """Floor and two power laws."""
    floor = r.uniform(0, 0.6) * (r.random() < 0.7)
    fast = r.uniform(0.05, 0.9)
    slow, share = fast * r.uniform(0.15, 0.6), r.uniform(0.1, 0.9)
    return floor + (1 - floor) * (share * np.exp(-fast * t) + (1 - share) * np.exp(-slow * t))


def vapour(r: Generator, t: Array) -> Array:
    """exp(a + b / x^k - c log x), and a floor."""
    slope, early, fade = r.uniform(0.02, 0.6), r.uniform(-0.5, 1.5), r.uniform(0.3, 3)
    return np.exp(early * np.exp(-t / fade) - slope * t) + r.uniform(0, 0.3)


def inverse_log(r: Generator, t: Array) -> Array:
    """Floor and one over log x."""
    reach, floor = r.uniform(1, 6), r.uniform(0, 0.7) * (r.random() < 0.6)
    return floor + (1 - floor) * reach / (reach + t)


def bent_power(r: Generator, t: Array) -> Array:
    """A power law whose slope changes steadily in log x."""
    floor = r.uniform(0, 0.5) * (r.random() < 0.5)
    slope, bend = r.uniform(0.02, 0.4), r.uniform(-0.02, 0.04)
    if bend < 0:
        t = np.minimum(t, -slope / (2 * bend))  # flat from where it would rise
    return floor + (1 - floor) * np.exp(-slope * t - bend * t * t)


def quanta(r: Generator, t: Array) -> Array:
    """Skills of power-law frequency, each learnt once it has been seen (Michaud et al. 2023)."""
    tail, floor = r.uniform(0.2, 1.2), r.uniform(0, 0.5)
    share = np.arange(1, 20001.0) ** -(tail + 1)
    share /= share.sum()
    x = np.exp(t) * r.uniform(0.5, 30)
    missed = np.array([(share * np.exp(-np.minimum(share * m, 700))).sum() for m in x])
    return floor + (1 - floor) * missed


def kernel(r: Generator, t: Array) -> Array:
    """Modes of a kernel regression, each shrunk by its eigenvalue times the data."""
    mode = np.arange(1, 5001.0)
    value, share = mode ** -r.uniform(1.2, 3), mode ** -r.uniform(1.1, 2.5)
    share /= share.sum()
    x, floor = np.exp(t) * r.uniform(0.5, 10), r.uniform(0, 0.4)
    return floor + (1 - floor) * np.array([(share / (1 + m * value) ** 2).sum() for m in x])


def steps(r: Generator, t: Array) -> Array:
    """A few abilities that arrive one after the other."""
    floor, count = r.uniform(0, 0.4), int(r.integers(2, 7))
    places = np.sort(r.uniform(-1, t[-1] + 1, count))
    heights = r.dirichlet(np.ones(count))
    total = np.zeros_like(t)
    for place, height in zip(places, heights, strict=True):
        total += height / (1 + np.exp((t - place) / r.uniform(0.4, 1.5)))
    return floor + (1 - floor) * total


def drift(r: Generator, t: Array) -> Array:
    """The log of the slope wanders and comes back."""
    floor = r.uniform(0, 0.4) * (r.random() < 0.5)
    grid = np.linspace(0, max(float(t.max()), 1), 200)
    step = grid[1]
    slope = np.empty(200)
    mean = slope[0] = np.log(r.uniform(0.05, 0.5))
    speed = r.uniform(0.1, 0.5)
    for i in range(1, 200):
        back = 0.15 * (mean - slope[i - 1]) * step
        slope[i] = slope[i - 1] + back + speed * np.sqrt(step) * r.normal()
    fallen = np.concatenate([[0], np.cumsum(np.exp(slope[:-1]) * step)])
    return floor + (1 - floor) * np.exp(-np.interp(t, grid, fallen))


def chance(r: Generator, t: Array) -> Array:
    """Guessing at first, then a power law with floor; a soft corner between."""
    guess, floor, slope = r.uniform(0.4, 0.95), r.uniform(0, 0.3), r.uniform(0.1, 0.8)
    sharp, place = r.uniform(2, 8), r.uniform(0, 3)
    law = floor + guess * np.exp(-slope * (t - place))
    result: Array = (law**-sharp + guess**-sharp) ** (-1 / sharp)
    return result


def slow_log(r: Generator, t: Array) -> Array:
    """A power of log x above a floor."""
    floor, rate, power = r.uniform(0, 0.6), r.uniform(0.1, 1), r.uniform(0.5, 3)
    return floor + (1 - floor) * (1 + rate * t) ** -power


def cliff(r: Generator, t: Array) -> Array:
    """Half is learnt exponentially fast at some point, half by a power law."""
    floor, rate = r.uniform(0, 0.6), r.uniform(0.3, 2)
    fast = np.exp(-np.exp(t - r.uniform(1, 6)) * rate)
    return floor + (1 - floor) * 0.5 * (fast + np.exp(-r.uniform(0.1, 0.5) * t))


def joint(r: Generator, t: Array) -> Array:
    """Data and size limits joined as by Kaplan et al. 2020, seen along the data."""
    a, b, other = r.uniform(0.1, 0.6), r.uniform(0.1, 0.6), r.uniform(0.05, 0.8)
    result: Array = (other + np.exp(-a / b * t)) ** b
    return result


def exponentials(r: Generator, t: Array) -> Array:
    """A spread of exponential decays in x itself."""
    count = 12
    rates = np.exp(r.uniform(-float(t[-1]) - 1, 0, count))
    heights = r.dirichlet(np.full(count, 0.7))
    floor = r.uniform(0, 0.4)
    return floor + (1 - floor) * (heights * np.exp(-rates * np.exp(t)[:, None])).sum(axis=1)


def smooth(r: Generator, t: Array) -> Array:
    """Log of the slope a smooth random function of log x (a Gaussian process)."""
    floor = r.uniform(0, 0.4) * (r.random() < 0.5)
    grid = np.linspace(0, max(float(t.max()), 1), 120)
    apart = (grid[:, None] - grid[None, :]) / r.uniform(2, 6)
    root = np.linalg.cholesky(np.exp(-0.5 * apart**2) + 1e-8 * np.eye(len(grid)))
    slope = r.uniform(0.05, 0.4) * np.exp(r.uniform(0.2, 0.8) * (root @ r.normal(size=len(grid))))
    fallen = np.concatenate([[0], np.cumsum(slope[:-1] * grid[1])])
    return floor + (1 - floor) * np.exp(-np.interp(t, grid, fallen))


CALIBRATION: dict[str, Callable[[Generator, Array], Array]] = {
    "slow_log": slow_log,
    "drift": drift,
    "joint": joint,
    "bent_power": bent_power,
    "quanta": quanta,
    "vapour": vapour,
}
HELD_OUT: dict[str, Callable[[Generator, Array], Array]] = {
    "two_powers": two_powers,
    "inverse_log": inverse_log,
    "kernel": kernel,
    "steps": steps,
    "chance": chance,
    "cliff": cliff,
    "exponentials": exponentials,
    "smooth": smooth,
}
FAMILIES = {**CALIBRATION, **HELD_OUT}


def draw(family: str, seed: int) -> tuple[Case, Array, float]:
    """One curve.

    Parameters
    ----------
    family : str
        A key of ``FAMILIES``.
    seed : int

    Returns
    -------
    case : Case
    truth_after : array
        What follows, without noise.
    gain : float
        True fall of log y over the last doubling of the known x.
    """
    r = np.random.default_rng([zlib.crc32(family.encode()), seed])
    count = round(np.exp(r.uniform(np.log(6), np.log(48))))
    octaves = max(min(r.uniform(3, 11), (count - 1) * r.uniform(0.5, 1.5)), 2.5)
    first, factor = 10 ** r.uniform(0.7, 5), 2 ** r.uniform(0.5, 3.5)
    if r.random() < 0.7:
        places = np.linspace(0, octaves, count)
    elif r.random() < 0.5:
        places = np.log2(np.linspace(1, 2**octaves, count))
    else:
        places = np.sort(np.concatenate([[0, octaves], r.uniform(0, octaves, count - 2)]))
    after = np.linspace(0, np.log2(factor), 7)[1:] + octaves
    t = np.concatenate([places, after]) * np.log(2)
    exact = FAMILIES[family](r, np.concatenate([[(octaves - 1) * np.log(2)], t]))
    gain = float(np.log(exact[0] / exact[count]))
    truth = exact[1:] * 10 ** r.uniform(-1, 0.5)
    sigma, decay = 10 ** r.uniform(-3, -1.3), r.uniform(0, 0.3)
    level = sigma * np.exp(-decay * t * (r.random() < 0.5))
    noise = r.normal(size=len(t))
    if r.random() < 0.25:
        noise = r.standard_t(3, len(t)) / 1.7
    y = truth * np.exp(level * noise)
    case = Case(
        "simulated",
        f"{family}|{seed}",
        first * 2**places,
        y[:count],
        first * 2**after,
        y[count:],
        group=family,
    )
    return case, truth[count:], gain
