"""A few steps of everything on toy shapes, for compute-sanitizer."""

from __future__ import annotations

import numpy as np

import dlcore

ACTIVATIONS = (dlcore.ReLU(), dlcore.GELU(), dlcore.Tanh(), dlcore.SiLU(), dlcore.Softplus())


def main() -> None:
    """Train networks of each kind for two epochs, groups of them, and a fleet."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (70, 13), dtype=np.uint8)
    y = rng.integers(0, 3, 70)
    for precision in ("fp32", "tf32", "bf16"):
        for activation in ACTIVATIONS:
            layers = [
                dlcore.Dense(17),
                activation,
                dlcore.Dropout(0.2),
                dlcore.Residual([dlcore.Dense(17), activation]),
                dlcore.Dense(3),
            ]
            network, *group = (dlcore.Network(layers, 13, seed=k, device="cuda") for k in range(4))
            options = {"epochs": 2, "batch_size": 32, "clip_norm": 1.0, "precision": precision}
            network.fit(x, y, **options)
            network.predict(x)
            dlcore.fit_many(group, x, y, subsets=[None, slice(20), slice(5, 60)], **options)
    fleet = [
        dlcore.Network([dlcore.Dense(16 + k), dlcore.ReLU(), dlcore.Dense(3)], 13, seed=k)
        for k in range(9)
    ]
    dlcore.fit_many(fleet, x, y, epochs=2, batch_size=32, device="cuda")


if __name__ == "__main__":
    main()
