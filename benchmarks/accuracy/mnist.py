"""Test accuracy of a network of 800 hidden ReLU units on MNIST: at least 98.3 %.

    python benchmarks/accuracy/mnist.py --data-dir DIR --json benchmarks/results/accuracy-mnist.json

Simard et al. (ICDAR 2003) give 98.4 % for 800 hidden units with cross-entropy. The settings were
chosen with --validation, which looks at no test image.
"""

from __future__ import annotations

import sys

from recipe import Recipe, main

from dlcore import Adam, Dense, Dropout, ReLU, schedules

RECIPE = Recipe(
    data="mnist",
    layers=[Dense(800), ReLU(), Dropout(0.5), Dense(10)],
    optimizer=Adam(schedules.Cosine(1e-3)),
    epochs=20,
    batch_size=128,
    needed=0.983,
)

if __name__ == "__main__":
    sys.exit(main(RECIPE, __doc__))
