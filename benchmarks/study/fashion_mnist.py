"""The study of Fashion-MNIST: 8 numbers of examples x 5 network sizes x 5 seeds, beside PyTorch.

    python benchmarks/study/fashion_mnist.py --data-dir DIR --out build/fashion-mnist \
        --torch /path/to/python --json benchmarks/results/study-fashion-mnist.json

First the networks of the study are trained, by ``dlcore study``, and that is timed: tries, early
stopping, validation, health of the layers and the record are in it. With ``--budget`` it is made in
several calls, and the seconds that the runs took on one core each are what counts. (``dlcore study`` without ``--learners relu`` and with the same ``--out`` then
adds logistic regression and the SVM; ``--baselines`` does so.)

Then some of these trainings, drawn at random with the seed 0 until they have so many steps, are
made again by dlcore (one fleet on all cores) and by PyTorch at its best: one process with a thread
per core or one process of one thread per core, and of eager Adam with fused or foreach updates and
a compiled step on float32 or uint8 data whatever is fastest. Same rows, batches of 32, epochs and
rates; no validation, which would add to both. The ratio is that of these times, of equal work.
``extrapolated_torch_seconds`` is what PyTorch would take for all steps of the study at that pace.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import machine

SIZES = (8, 16, 32, 64, 128)
VARIANTS = ("fused", "foreach", "compiled", "compiled-uint8")
GOAL = 5.0


def study(options: argparse.Namespace, learners: str, seconds: float | None) -> list[str]:
    command = [sys.executable, "-m", "dlcore.cli", "study", "--data", "fashion-mnist"]
    command += ["--data-dir", options.data_dir, "--sizes", ",".join(map(str, SIZES))]
    command += ["--seeds", str(options.seeds), "--learners", learners, "--out", options.out]
    if seconds is not None:
        command += ["--budget", f"{seconds:g}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.splitlines()


def trainings(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Every training of a network that the study made, as far as it can be made again by others.

    Those with fewer examples than a batch are left out, and the others cut to whole batches.
    """
    found = []
    for run in report["runs"]:
        if run["epochs"] is None:
            continue
        hidden = int(run["learner"].partition("-")[2])
        folds = len(run["tries"][0]["trained_epochs"])
        held = run["validated_labels"] // folds
        lengths = [
            (run["m"] - held, epochs, entry["value"])
            for entry in run["tries"]
            for epochs in entry["trained_epochs"]
        ]
        lengths.append((run["m"], run["epochs"], run["value"]))
        for examples, epochs, rate in lengths:
            if examples >= 32:
                found.append(
                    {
                        "hidden": hidden,
                        "examples": examples // 32 * 32,
                        "epochs": epochs,
                        "rate": rate,
                        "seed": run["seed"],
                    }
                )
    return found


def steps(training: dict[str, Any]) -> int:
    return int(training["examples"] // 32 * training["epochs"])


def drawn(every: list[dict[str, Any]], wanted: int) -> list[dict[str, Any]]:
    """Trainings at random until they have so many steps; one that is too long is passed over."""
    order = random.Random(0).sample(every, len(every))
    chosen, total = [], 0
    for training in order:
        if total + steps(training) <= wanted:
            chosen.append(training)
            total += steps(training)
    return chosen


def shared(todo: list[dict[str, Any]], parts: int) -> list[list[dict[str, Any]]]:
    """The longest first, each to the part that has least."""
    lists: list[list[dict[str, Any]]] = [[] for _ in range(parts)]
    cost = [0.0] * parts
    for training in sorted(todo, key=lambda t: -steps(t) * (t["hidden"] + 20)):
        at = cost.index(min(cost))
        lists[at].append(training)
        cost[at] += steps(training) * (training["hidden"] + 20)
    return lists


def timed(
    python: str, folder: str, variant: str, lists: list[list[dict[str, Any]]], threads: int
) -> dict[str, Any]:
    """Seconds until the last process is done, from when all were ready."""
    script = Path(__file__).with_name("trainings.py")
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    processes = []
    for k, part in enumerate(lists):
        command = [python, str(script)]
        if len(lists) > 1:
            command = ["taskset", "-c", str(k), *command]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        assert process.stdin is not None
        spec = {"folder": folder, "variant": variant, "threads": threads, "trainings": part}
        process.stdin.write(json.dumps(spec) + "\n")
        process.stdin.flush()
        processes.append(process)
    for process in processes:
        assert process.stdout is not None
        if process.stdout.readline().strip() != "ready":
            raise RuntimeError(f"{variant}: the process did not get ready")
    begin = time.perf_counter()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = [json.loads(process.stdout.readline()) for process in processes]
    seconds = time.perf_counter() - begin
    for process in processes:
        process.wait()
    losses = [loss for answer in answers for loss in answer["losses"]]
    return {"seconds": seconds, "median_loss": statistics.median(losses)}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", required=True, help="the four idx files of Fashion-MNIST")
    parser.add_argument("--out", default="build/fashion-mnist", help="folder of the study")
    parser.add_argument("--torch", metavar="PYTHON", help="a Python that has PyTorch")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100_000, help="of the equal work")
    parser.add_argument("--warm", action="store_true", help="compile for PyTorch, time nothing")
    parser.add_argument("--baselines", action="store_true", help="add them to the study and stop")
    parser.add_argument("--budget", type=float, help="seconds after which the study starts no run")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    if options.baselines:
        print("\n".join(study(options, "relu,logistic,svm", options.budget)))
        return 0
    out = Path(options.out)
    lines = study(options, "relu", options.budget)
    print("\n".join(lines))
    found = next(m for line in lines if (m := re.match(r"([\d,]+) runs made in (\d+) s", line)))
    made, seconds = int(found[1].replace(",", "")), int(found[2])
    report = json.loads((out / "report.json").read_text())
    every = trainings(report)
    todo = drawn(every, options.steps)
    total = sum(map(steps, todo))
    result: dict[str, Any] = {
        **machine.header("benchmarks/study/fashion_mnist.py"),
        "study": {
            "network_runs_made_now": made,
            "seconds": seconds,
            "network_runs": sum(run["epochs"] is not None for run in report["runs"]),
            "core_seconds_of_network_runs": sum(
                run["seconds"] for run in report["runs"] if run["epochs"] is not None
            ),
            "trainings": len(every),
            "steps": sum(map(steps, every)),
        },
        "equal_work": {"trainings": len(todo), "steps": total},
    }
    print(f"equal work: {len(todo)} of {len(every)} trainings, {total:,} steps")
    if options.torch is None:
        return 0
    folder = options.data_dir
    inner = Path(folder) / "fashion_mnist"
    folder = str(inner if inner.is_dir() else folder)
    rivals: dict[str, dict[str, Any]] = {}
    ways = [
        (f"{variant}, {count} of {cores // count}", variant, count, cores // count)
        for variant in VARIANTS
        for count in sorted({1, cores})
    ]
    if options.warm:
        todo = [{**t, "epochs": 1, "examples": 640} for t in todo]
    # dlcore before, between and after, so that a clock that drifts shows.
    for number, (name, variant, processes, threads) in enumerate(ways):
        if number % 4 == 0:
            one = timed(sys.executable, folder, "dlcore", [todo], cores)
            rivals[f"dlcore {number // 4 + 1}"] = one
        lists = shared(todo, processes)
        rivals[name] = timed(options.torch, folder, variant, lists, threads)
        print(f"{name:<28} {rivals[name]['seconds']:7.2f} s", flush=True)
    rivals["dlcore 3"] = timed(sys.executable, folder, "dlcore", [todo], cores)
    own = statistics.median(r["seconds"] for n, r in rivals.items() if n.startswith("dlcore"))
    name, best = min(
        ((n, r) for n, r in rivals.items() if not n.startswith("dlcore")),
        key=lambda pair: pair[1]["seconds"],
    )
    ratio = best["seconds"] / own
    pace = best["seconds"] / max(1, total)
    result["equal_work"] |= {
        "seconds": rivals,
        "dlcore_seconds": own,
        "best_torch": name,
        "best_torch_seconds": best["seconds"],
        "ratio": ratio,
        "goal": GOAL,
    }
    result["extrapolated_torch_seconds"] = pace * result["study"]["steps"]
    print(f"dlcore {own:.2f} s; PyTorch at its best ({name}) {best['seconds']:.2f} s: {ratio:.1f}x")
    print(f"all steps of the study at that pace: {result['extrapolated_torch_seconds']:.0f} s")
    if options.json and not options.warm:
        machine.write(Path(options.json), result)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
