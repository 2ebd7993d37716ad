"""Coverage of the intervals on simulated curves of other forms than those fitted or calibrated on.

Through the public call; the eight families take no part in intervals.json. Also: the plateau test's
false alarms where the truth is known.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import simulated
from common import Checks, binomial_interval, parser

from dlcore import scaling

FIRST = 10_000  # seeds that nothing else uses


def main() -> None:
    options_parser = parser(__doc__ or "")
    options_parser.add_argument("--per-family", type=int, default=80)
    options_parser.add_argument("--first-seed", type=int, default=FIRST)
    options = options_parser.parse_args()
    count, first = options.per_family, options.first_seed
    checks = Checks()
    jobs = [(family, seed) for family in simulated.HELD_OUT for seed in range(first, first + count)]

    def run(job: tuple[str, int]) -> tuple[object, ...]:
        case, _truth, gain = simulated.draw(*job)
        found = scaling.fit(scaling.LearningCurve(case.x, case.y), threads=1)
        shown = found.predict(case.x_after)
        held = np.mean((case.y_after >= shown.low) & (case.y_after <= shown.high))
        determined = shown.status == "ok"
        error = np.sqrt(np.mean(np.log(shown.value / case.y_after) ** 2))
        last = np.sqrt(np.mean(np.log(case.y[-1] / case.y_after) ** 2))
        flat = found.plateau(0.02, 2).flat
        return (
            job[0],
            held,
            determined,
            error,
            last,
            flat,
            gain,
            shown.warnings,
            np.median(shown.high / np.maximum(shown.low, 1e-9)),
        )

    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(run, jobs))

    checks.heading(f"90 % intervals, {len(rows)} curves")
    for family in (*simulated.HELD_OUT, "all"):
        part = [row for row in rows if family in ("all", row[0])]
        held = np.array([row[1] for row in part], float)
        determined = np.array([row[2] for row in part], bool)
        low, high = binomial_interval(held.mean(), len(part))
        print(
            f"{family:13s} hold {held.mean():.3f} ({low:.3f} to {high:.3f}); determined {determined.mean():.3f}, "
            f"of these {held[determined].mean():.3f}; median high/low {np.median([row[8] for row in part]):.3f}; "
            f"median RMSLE {np.median([row[3] for row in part]):.4f}, last value {np.median([row[4] for row in part]):.4f}"
        )
    share = float(np.mean([row[1] for row in rows]))
    checks.row("coverage of 90 % intervals", share, 0.90, 0.02, "absolute")
    print("warnings:", dict(Counter(code for row in rows for code in row[7])))

    checks.heading("plateau, 2 % per doubling at level 0.05")
    threshold = -np.log1p(-0.02)
    falling = [row for row in rows if row[6] >= threshold]
    near = [row for row in falling if row[6] < 2 * threshold]
    level = [row for row in rows if row[6] < threshold / 2]
    for name, part, wrong in (
        ("falling by more: called flat", falling, True),
        ("falling by 2 to 4 %: called flat", near, True),
        ("falling by less than 1 %: called falling", level, False),
    ):
        alarms = sum(row[5] is wrong for row in part)
        low, high = binomial_interval(alarms / len(part), len(part))
        print(f"{name}: {alarms} of {len(part)} ({low:.3f} to {high:.3f})")
        checks.row(f"share, {name}", alarms / len(part), 0.05, 0, "at most")
    found = sum(row[5] is True for row in level)
    print(f"falling by less than 1 %: found flat {found} of {len(level)}")
    checks.finish(options, "coverage")


if __name__ == "__main__":
    main()
