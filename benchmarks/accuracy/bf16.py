"""Test accuracy on Fashion-MNIST with float32 and with bfloat16 products: the same but for the seed.

    python benchmarks/accuracy/bf16.py --data-dir DIR --json benchmarks/results/accuracy-bf16.json

Each seed trains 784-2048-2048-2048-10 twice, from the same weights on the same batches. The mean
accuracies may differ by no more than float32 differs between seeds (its standard deviation).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recipe import flat

import dlcore
from dlcore import Adam, Dense, ReLU, data, schedules

PRECISIONS = ("float32", "bf16")


def train(
    hidden: Sequence[int],
    precision: str,
    seed: int,
    dataset: data.Dataset,
    optimizer: Adam,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Train once; how well it does on the test images, and how long it took."""
    layers = [layer for units in hidden for layer in (Dense(units), ReLU())]
    network = dlcore.Network([*layers, Dense(10)], input_shape=(784,), seed=seed)
    start = time.perf_counter()
    history = network.fit(
        flat(dataset.x),
        dataset.y,
        optimizer=optimizer,
        epochs=options.epochs,
        batch_size=options.batch,
        seed=seed,
        precision=None if precision == "float32" else precision,
    )
    seconds = time.perf_counter() - start
    measured = network.evaluate(flat(dataset.test_x), dataset.test_y)
    return {
        "seed": seed,
        "precision": precision,
        "seconds": round(seconds, 2),
        "training_loss": history.loss[-1],
        "accuracy": measured["accuracy"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        default=os.environ.get("DLCORE_DATA"),
        help="folder of the four idx files, or of the data sets (default: $DLCORE_DATA)",
    )
    parser.add_argument("--seeds", metavar="N", type=int, default=5, help="seeds 0 to N - 1 (5)")
    parser.add_argument("--epochs", metavar="N", type=int, default=5, help="5")
    parser.add_argument("--batch", metavar="N", type=int, default=1024, help="1024")
    parser.add_argument(
        "--hidden", metavar="LIST", default="2048,2048,2048", help="units of the hidden layers"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        type=Path,
        help="also write the results there; runs that the file has are not repeated",
    )
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds needs at least 2, found {options.seeds}")
    if not dlcore.info()["bf16"]:
        parser.error("this CPU has no AVX-512 BF16")
    hidden = [int(units) for units in options.hidden.split(",")]
    try:
        dataset = data.load("fashion-mnist", data_dir=options.data_dir)
    except data.DataError as error:
        parser.error(str(error))

    optimizer = Adam(schedules.Cosine(5e-4))
    settings = {
        "data": "fashion-mnist",
        "network": "-".join(map(str, [784, *hidden, 10])),
        "optimizer": repr(optimizer),
        "epochs": options.epochs,
        "batch_size": options.batch,
    }
    runs: list[dict[str, Any]] = []
    if options.json is not None and options.json.exists():
        kept = json.loads(options.json.read_text())
        if {key: kept[key] for key in settings} != settings:
            parser.error(f"--json {options.json} has runs with other settings")
        runs = [run for run in kept["runs"] if run["seed"] < options.seeds]
    print("seed  precision  seconds  training loss  test accuracy")
    for seed in range(options.seeds):
        for precision in PRECISIONS:
            run = next((r for r in runs if (r["seed"], r["precision"]) == (seed, precision)), None)
            if run is None:
                run = train(hidden, precision, seed, dataset, optimizer, options)
                runs.append(run)
            print(
                f"{seed:4}  {precision:9}  {run['seconds']:7.1f}  {run['training_loss']:13.4f}  "
                f"{run['accuracy']:.2%}",
                flush=True,
            )
    accuracies = {p: [r["accuracy"] for r in runs if r["precision"] == p] for p in PRECISIONS}
    means = {p: statistics.fmean(accuracies[p]) for p in PRECISIONS}
    deviation = statistics.stdev(accuracies["float32"])
    difference = means["bf16"] - means["float32"]
    print(
        f"float32 {means['float32']:.2%}, bf16 {means['bf16']:.2%}: a difference of "
        f"{difference:+.2%}; float32 differs between seeds by {deviation:.2%}"
    )
    if options.json is not None:
        record = {
            **settings,
            "means": means,
            "standard_deviation_float32": deviation,
            "difference": difference,
            "runs": runs,
            "info": dict(dlcore.info()),
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0 if abs(difference) <= deviation else 1


if __name__ == "__main__":
    sys.exit(main())
