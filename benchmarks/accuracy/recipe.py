"""What the accuracy scripts share: train one recipe with several seeds, print what each reaches."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dlcore
from dlcore import data

HELD_OUT = 10_000  # training images that --validation measures on


@dataclass(frozen=True)
class Recipe:
    """A network with the way it is trained, and the mean test accuracy that it has to reach."""

    data: str  # a name that dlcore.data.load knows
    layers: Sequence[dlcore.layers.Step]
    optimizer: dlcore.optimizers.Optimizer
    epochs: int
    batch_size: int
    needed: float


def run(recipe: Recipe, seed: int, dataset: data.Dataset, threads: int | None) -> dict[str, Any]:
    """Train with one seed, which draws the weights, the order and the dropout."""
    x, y = flat(dataset.x), dataset.y
    network = dlcore.Network(recipe.layers, input_shape=x.shape[1:], seed=seed)
    start = time.perf_counter()
    network.fit(
        x,
        y,
        optimizer=recipe.optimizer,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        seed=seed,
        threads=threads,
    )
    seconds = time.perf_counter() - start
    measured = network.evaluate(flat(dataset.test_x), dataset.test_y, threads=threads)
    return {"seed": seed, "seconds": round(seconds, 2), "accuracy": measured["accuracy"]}


def flat(images: data.Array) -> data.Array:
    """Return a view of the images as rows of pixels."""
    return images.reshape(len(images), -1)


def hold_out(dataset: data.Dataset) -> data.Dataset:
    """Put the last training images in the place of the test images, which are not looked at."""
    return data.Dataset(
        dataset.name,
        dataset.x[:-HELD_OUT],
        dataset.y[:-HELD_OUT],
        test_x=dataset.x[-HELD_OUT:],
        test_y=dataset.y[-HELD_OUT:],
    )


def main(recipe: Recipe, description: str, arguments: Sequence[str] | None = None) -> int:
    """Run a recipe as a script; the exit status is 1 where its accuracy is not reached."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        default=os.environ.get("DLCORE_DATA"),
        help="folder of the four idx files, or of the data sets (default: $DLCORE_DATA)",
    )
    parser.add_argument("--seeds", metavar="N", type=int, default=5, help="seeds 0 to N - 1 (5)")
    parser.add_argument("--threads", metavar="N", type=int, help="threads (all CPUs)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="also write the results there")
    parser.add_argument(
        "--validation",
        action="store_true",
        help=f"measure on the last {HELD_OUT:,} training images, which then are not trained on: "
        "the way to compare settings without looking at the test images",
    )
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds needs at least 1, found {options.seeds}")
    try:
        dataset = data.load(recipe.data, data_dir=options.data_dir)
    except data.DataError as error:
        parser.error(str(error))
    if options.validation:
        dataset = hold_out(dataset)
    part = "validation" if options.validation else "test"

    print(f"{recipe.data}: {len(dataset.x):,} training and {len(dataset.test_x):,} {part} images")
    print(f"{dlcore.layers.show(recipe.layers)}")
    print(f"{recipe.optimizer}, {recipe.epochs} epochs, batches of {recipe.batch_size}")
    print(f"seed  seconds  {part} accuracy")
    runs = []
    for seed in range(options.seeds):
        runs.append(run(recipe, seed, dataset, options.threads))
        print("{seed:4}  {seconds:7.1f}  {accuracy:.2%}".format(**runs[-1]), flush=True)
    accuracies = [run["accuracy"] for run in runs]
    mean = statistics.fmean(accuracies)
    deviation = statistics.stdev(accuracies) if len(runs) > 1 else 0.0
    print(
        f"mean {mean:.2%}, standard deviation between seeds {deviation:.2%}; "
        f"needed on the test images {recipe.needed:.1%}"
    )
    if options.json is not None:
        record = {
            "data": recipe.data,
            "measured_on": part,
            "network": dlcore.layers.show(recipe.layers),
            "optimizer": repr(recipe.optimizer),
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "needed": recipe.needed,
            "mean": mean,
            "standard_deviation": deviation,
            "runs": runs,
            "info": {**dlcore.info(), "threads": options.threads or dlcore.info()["threads"]},
        }
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    if options.validation or mean >= recipe.needed:
        return 0
    print(f"{mean:.2%} is below the {recipe.needed:.1%} needed", file=sys.stderr)
    return 1
