"""scikit-learn's MLPClassifier as a rival."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import runner
import sklearn
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

warnings.simplefilter("ignore", ConvergenceWarning)


class Adam(AdamOptimizer):
    """With epsilon where the paper and the other libraries have it, beside the corrected root."""

    @property
    def epsilon(self) -> float:
        return float(1e-8 * np.sqrt(1 - self.beta_2**self.t))

    @epsilon.setter
    def epsilon(self, value: float) -> None:
        pass


class Training(runner.Training):
    def setup(self, variant: str) -> None:
        self.x, self.y = self.floats()[: self.examples], self.labels[: self.examples]
        self.model = MLPClassifier(
            hidden_layer_sizes=tuple(self.case["layers"][1:-1]),
            alpha=0.0,
            batch_size=self.batch,
            solver=self.optimizer,
            learning_rate_init=self.rate,
            momentum=0.9,
            nesterovs_momentum=False,
            shuffle=False,
            random_state=0,
        )
        # The first call makes weights and optimizer; both are then set back to the common start.
        self.model.partial_fit(
            self.x[: self.batch], self.y[: self.batch], classes=np.arange(self.case["layers"][-1])
        )
        for i, (weight, bias) in enumerate(self.layers):
            self.model.coefs_[i][...] = weight.T
            self.model.intercepts_[i][...] = bias
        rule = self.model._optimizer
        for name in ("velocities", "ms", "vs"):
            for array in getattr(rule, name, []):
                array[...] = 0
        if self.optimizer == "adam":
            rule.t = 0
            rule.__class__ = Adam
        self.model.t_ = 0

    def epoch(self, order: np.ndarray) -> None:
        self.model.partial_fit(self.x[order], self.y[order])

    def loss(self, count: int) -> list[float]:
        p = self.model.predict_proba(self.x[:count]).astype(np.float64)
        return [float(-np.mean(np.log(p[np.arange(count), self.y[:count]])))]


def prepare(case: dict[str, Any], threads: int, mode: str) -> runner.Case:
    if case["kind"] != "train":
        raise runner.Unsupported(
            "scikit-learn trains one network at a time and has no such function"
        )
    return Training(case, threads, mode)


if __name__ == "__main__":
    runner.serve(prepare, lambda: {"sklearn": sklearn.__version__, "numpy": np.__version__})
