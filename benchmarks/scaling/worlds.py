"""Simulated worlds whose loss surface is known: is the advice right, is it given, are alarms false?

Chinchilla, Kaplan, Rosenfeld, quanta and double descent; runs on a grid of examples and sizes with 2 %
noise and 3 seeds. The question is asked at a random cell of the upper half of the grid; prices make
twice the data cost about as much as twice the size. The truth is the sign of the true marginal gains
per cost, or "at_floor" where twice of both gains less than 2 %. The plateau test runs on every size's
curve over the data.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np
from common import Array, Checks, binomial_interval, parser

from dlcore import scaling

Generator = np.random.Generator
Surface = Callable[[Array, Array], Array]  # log m, log N (both from 0 up) -> loss


def chinchilla(r: Generator) -> Surface:
    floor, a, b = r.uniform(0.02, 0.6), r.uniform(0.3, 1), r.uniform(0.3, 1)
    alpha, beta = r.uniform(0.15, 0.6), r.uniform(0.15, 0.6)
    return lambda t, s: floor + a * np.exp(-alpha * s) + b * np.exp(-beta * t)


def kaplan(r: Generator) -> Surface:
    size, data = r.uniform(0.15, 0.5), r.uniform(0.15, 0.5)
    c, d = r.uniform(0.3, 1.5), r.uniform(0.3, 1.5)
    return lambda t, s: (c * np.exp(-size / data * s) + d * np.exp(-t)) ** data


def rosenfeld(r: Generator) -> Surface:
    inner = chinchilla(r)
    ceiling = r.uniform(0.5, 1.2)
    return lambda t, s: (inner(t, s) ** -2 + ceiling**-2) ** -0.5


def quanta(r: Generator) -> Surface:
    share = np.arange(1, 4001.0) ** -(r.uniform(0.3, 0.9) + 1)
    share /= share.sum()
    rank = np.arange(1, 4001.0)
    room, seen, floor = r.uniform(3, 20), r.uniform(2, 20), r.uniform(0, 0.2)

    def loss(t: Array, s: Array) -> Array:
        flat = []
        for data, size in zip(np.ravel(t), np.ravel(s), strict=True):
            learnt = -np.expm1(-share * np.exp(data) * seen)
            held = 1 / (1 + (rank / (np.exp(size) * room)) ** 6)
            flat.append(floor + (share * (1 - learnt * held)).sum())
        return np.reshape(flat, np.shape(t))

    return loss


def double_descent(r: Generator) -> Surface:
    inner = chinchilla(r)
    height, width, place = r.uniform(0.1, 0.4), r.uniform(0.4, 0.8), r.uniform(-3, 3)
    return lambda t, s: inner(t, s) * (1 + height * np.exp(-0.5 * ((s - t - place) / width) ** 2))


WORLDS: dict[str, Callable[[Generator], Surface]] = {
    "chinchilla": chinchilla,
    "kaplan": kaplan,
    "rosenfeld": rosenfeld,
    "quanta": quanta,
    "double descent": double_descent,
}


def truth(surface: Surface, t: float, s: float, prices: float) -> tuple[str, float]:
    """The right answer at log m = t, log N = s."""
    step = 1e-3

    def log_loss(dt: float, ds: float) -> float:
        return float(np.log(surface(np.array(t + dt), np.array(s + ds))))

    by_data = log_loss(-step, 0) - log_loss(step, 0)
    by_size = log_loss(0, -step) - log_loss(0, step)
    remaining = -np.expm1(log_loss(np.log(2), np.log(2)) - log_loss(0, 0))
    better = "more_data" if by_data * np.exp(prices) > by_size else "larger_network"
    return better, float(remaining)


def runs(r: Generator, surface: Surface) -> tuple[Array, Array, Array]:
    """log m, log N and the noisy losses of three seeds."""
    t, s = np.meshgrid(np.linspace(0, 7, 8), np.linspace(0, 6, 5), indexing="ij")
    t, s = np.tile(t.ravel(), 3), np.tile(s.ravel(), 3)
    return t, s, surface(t, s) * np.exp(r.normal(0, 0.02, len(t)))


def main() -> None:
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--worlds", type=int, default=60, help="of each kind")
    options_parser.add_argument("--first-seed", type=int, default=0)
    options_parser.add_argument("--form", default="chinchilla")
    options = options_parser.parse_args()
    count = options.worlds
    checks = Checks()
    checks.heading("advice")
    total, given, right = 0, 0, 0
    alarms, falling, near_alarms, near = 0, 0, 0, 0
    threshold = -np.log1p(-0.02)
    for name, make in WORLDS.items():
        tally = {"right": 0, "wrong": 0, "undecided": 0}
        for seed in range(options.first_seed, options.first_seed + count):
            r = np.random.default_rng([seed, zlib.crc32(name.encode())])
            surface = make(r)
            t, s, losses = runs(r, surface)
            fitted = scaling.fit_surface(
                scaling.LossSurface(1000 * np.exp(s), 200 * np.exp(t), losses), options.form
            )
            at_t = np.linspace(0, 7, 8)[int(r.integers(4, 8))]
            at_s = np.linspace(0, 6, 5)[int(r.integers(2, 5))]
            prices = r.normal(0, 0.7)
            here_m, here_n = 200 * np.exp(at_t), 1000 * np.exp(at_s)
            advice = fitted.advise(here_m, here_n, np.exp(-prices) / here_m, 1 / here_n)
            better, remaining = truth(surface, at_t, at_s, prices)
            if advice == "undecided":
                tally["undecided"] += 1
            elif advice == "at_floor":
                tally["right" if remaining < 0.02 else "wrong"] += 1
            else:
                tally["right" if advice == better else "wrong"] += 1
            for size in np.unique(s)[:: 2 if seed % 2 else 4]:
                chosen = s == size
                curve = scaling.LearningCurve(200 * np.exp(t[chosen]), losses[chosen])
                ends = surface(np.array([7 - np.log(2), 7.0]), np.array([size, size]))
                fall = float(np.log(ends[0] / ends[1]))
                if fall < threshold:
                    continue
                alarm = scaling.fit(curve).plateau(0.02, 2, 0.05).flat is True
                falling, alarms = falling + 1, alarms + alarm
                if fall < 2 * threshold:
                    near, near_alarms = near + 1, near_alarms + alarm
        answers = tally["right"] + tally["wrong"]
        total, given, right = total + count, given + answers, right + tally["right"]
        checks.figure(name, tally)
        print(f"{name:16s} {tally}  right when given {tally['right'] / max(answers, 1):.3f}")
    low, high = binomial_interval(right / given, given)
    print(
        f"right when given {right / given:.3f} ({low:.3f} to {high:.3f}) of {given} answers to {total}"
    )
    checks.row("wrong when given", 1 - right / given, 0.1, 0, "at most")
    checks.row("not given", 1 - given / total, 0.3, 0, "at most")
    checks.heading("plateau, 2 % per doubling at level 0.05: falling curves called flat")
    for title, found, whole in (
        ("all", alarms, falling),
        ("falling by 2 to 4 %", near_alarms, near),
    ):
        low, high = binomial_interval(found / whole, whole)
        print(f"{title}: {found} of {whole} ({low:.3f} to {high:.3f})")
        checks.row(f"false alarms, {title}", found / whole, 0.05, 0, "at most")
    checks.finish(options, "worlds")


if __name__ == "__main__":
    main()
