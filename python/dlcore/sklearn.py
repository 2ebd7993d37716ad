"""Networks as scikit-learn estimators: in pipelines, grid searches and cross-validation.

scikit-learn is needed for this module alone: ``pip install "dlcore[lab]"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import dlcore
from dlcore import _inputs
from dlcore._settings import choice, describe, integer, number

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as missing:
    raise ImportError(
        'dlcore.sklearn: scikit-learn 1.6 or later is needed; pip install "dlcore[lab]"'
    ) from missing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    Array = NDArray[Any]

__all__ = ["NetworkClassifier", "NetworkRegressor"]

_ACTIVATIONS = {
    "relu": dlcore.ReLU,
    "leaky_relu": dlcore.LeakyReLU,
    "sigmoid": dlcore.Sigmoid,
    "tanh": dlcore.Tanh,
    "gelu": dlcore.GELU,
    "silu": dlcore.SiLU,
    "softplus": dlcore.Softplus,
    "identity": dlcore.Identity,
}
_OPTIMIZERS: dict[str, Any] = {"adam": dlcore.Adam, "adamw": dlcore.AdamW, "sgd": dlcore.SGD}


# scikit-learn converts every other dtype to the first, uint8 too: an estimator scales nothing.
_DTYPES = [np.float32, np.float64]


class _NetworkEstimator(BaseEstimator):  # type: ignore[misc]
    """What the two estimators share."""

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        *,
        activation: str = "relu",
        optimizer: str | dlcore.optimizers.Optimizer = "adam",
        learning_rate: float | dlcore.schedules.Schedule = 1e-3,
        epochs: int = 100,
        batch_size: int = 32,
        early_stopping: bool | dlcore.EarlyStopping = False,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        threads: int | None = None,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.threads = threads

    def _train(
        self,
        x: Array,
        y: Array,
        outputs: int,
        sample_weight: ArrayLike | None,
        loss: str,
        class_weight: object = None,
    ) -> None:
        """Build the network and fit it; where that is interrupted, what was learnt stays."""
        name = type(self).__name__
        optimizer, stopping = self._optimizer(name), self._stopping(name)
        weights = _inputs.sample_weights(sample_weight, len(x), f"{name}: sample_weight")
        if class_weight is not None:  # here, so that examples held out count alike
            weights = _inputs.class_weights(
                class_weight, y, weights, None, outputs, f"{name}: class_weight"
            )
        random = check_random_state(self.random_state)
        seed = int(random.randint(2**31 - 1))
        network = dlcore.Network(
            [*self._hidden(name), dlcore.Dense(outputs)], input_shape=x.shape[1], seed=seed
        )
        validation: tuple[Array, ...] | None = None
        if stopping is not None:
            share = number(
                f"{name}: validation_fraction", self.validation_fraction, 0, 1, include_low=False
            )
            kept, held = train_test_split(
                np.arange(len(x)),
                test_size=share,
                random_state=random,
                stratify=y if loss == "cross_entropy" else None,
            )
            validation = (x[held], y[held])
            if weights is not None:
                validation, weights = (*validation, weights[held]), weights[kept]
            x, y = x[kept], y[kept]
        self.network_ = network
        self.history_ = network.fit(
            x,
            y,
            loss,
            optimizer,
            epochs=self.epochs,
            batch_size=self.batch_size,
            validation_data=validation,
            seed=seed,
            threads=self.threads,
            sample_weight=weights,
            early_stopping=stopping,
        )

    def _hidden(self, name: str) -> list[dlcore.layers.Layer]:
        activation = _ACTIVATIONS[choice(f"{name}: activation", self.activation, _ACTIVATIONS)]
        sizes = self.hidden_layer_sizes
        steps: list[dlcore.layers.Layer] = []
        for i, size in enumerate((sizes,) if isinstance(sizes, int) else sizes):
            steps += [
                dlcore.Dense(integer(f"{name}: hidden_layer_sizes[{i}]", size, 1)),
                activation(),
            ]
        return steps

    def _optimizer(self, name: str) -> dlcore.optimizers.Optimizer:
        if not isinstance(self.optimizer, str):
            return dlcore.optimizers.check(self.optimizer, name)
        build = _OPTIMIZERS[choice(f"{name}: optimizer", self.optimizer, _OPTIMIZERS)]
        chosen: dlcore.optimizers.Optimizer = build(self.learning_rate)
        return chosen

    def _stopping(self, name: str) -> dlcore.EarlyStopping | None:
        given = self.early_stopping
        if isinstance(given, dlcore.EarlyStopping):
            return given
        if not isinstance(given, (bool, np.bool_)):
            raise TypeError(
                f"{name}: early_stopping needs True, False or an object such as "
                f"dlcore.EarlyStopping(patience=5), found {describe(given)}"
            )
        return dlcore.EarlyStopping(10) if given else None

    def _outputs(self, x: ArrayLike) -> Array:
        check_is_fitted(self, "network_")
        data = validate_data(self, x, dtype=_DTYPES, reset=False)
        return self.network_.predict(data, threads=self.threads)


class NetworkClassifier(ClassifierMixin, _NetworkEstimator):  # type: ignore[misc]
    """A multi-layer perceptron that tells classes apart, trained with cross-entropy.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (64,)
        Units of each hidden layer; empty for a linear model.
    activation : str, default "relu"
        After each hidden layer: "relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu",
        "softplus" or "identity".
    optimizer : {"adam", "adamw", "sgd"} or Optimizer, default "adam"
        An object of `dlcore.optimizers` has its own learning rate.
    learning_rate : float or Schedule, default 0.001
        Where `optimizer` is a name.
    epochs : int, default 100
        Passes over the data, at most.
    batch_size : int, default 32
        Examples per step.
    early_stopping : bool or EarlyStopping, default False
        Hold out `validation_fraction` of the examples and stop when their loss no longer falls,
        with the best weights; True means ``dlcore.EarlyStopping(10)``.
    validation_fraction : float, default 0.1
        Share of the examples that `early_stopping` holds out, of each class alike.
    random_state : int, RandomState or None, default None
        Draws the initial weights, the order of the examples and what is held out.
    threads : int, optional
        Number of threads to use; the result does not depend on it.
    class_weight : dict of class to float, or "balanced", optional
        As for `Network.fit`, with the classes as they are in `y`.

    Attributes
    ----------
    classes_ : ndarray
        The classes, sorted; column i of `predict_proba` is the probability of ``classes_[i]``.
    network_ : Network
        Also after a fit that was interrupted, at its last whole step.
    history_ : History
        Of the last fit.
    n_features_in_ : int
    feature_names_in_ : ndarray
        Where `X` was a data frame with names of its own.

    Notes
    -----
    Inputs should be of about unit scale, so put a `sklearn.preprocessing.StandardScaler` before.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from dlcore.sklearn import NetworkClassifier
    >>> x, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), NetworkClassifier(random_state=0))
    >>> model.fit(x, y).score(x, y) > 0.95
    True
    """

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (64,),
        *,
        activation: str = "relu",
        optimizer: str | dlcore.optimizers.Optimizer = "adam",
        learning_rate: float | dlcore.schedules.Schedule = 1e-3,
        epochs: int = 100,
        batch_size: int = 32,
        early_stopping: bool | dlcore.EarlyStopping = False,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        threads: int | None = None,
        class_weight: Mapping[Any, float] | str | None = None,
    ) -> None:
        super().__init__(
            hidden_layer_sizes,
            activation=activation,
            optimizer=optimizer,
            learning_rate=learning_rate,
            epochs=epochs,
            batch_size=batch_size,
            early_stopping=early_stopping,
            validation_fraction=validation_fraction,
            random_state=random_state,
            threads=threads,
        )
        self.class_weight = class_weight

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> NetworkClassifier:
        """Train a new network.

        Parameters
        ----------
        X : array_like, shape (n, features)
        y : array_like, shape (n,)
            Classes of any type.
        sample_weight : array_like, shape (n,), optional
            Weight of each example, not negative.

        Returns
        -------
        NetworkClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError
            If an argument or the data is wrong, or there is one class only.
        """
        x, classes = validate_data(self, X, y, dtype=_DTYPES)
        check_classification_targets(classes)
        self.classes_, labels = np.unique(classes, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"NetworkClassifier: y holds one class only ({self.classes_[0]}); training needs "
                "examples of at least two"
            )
        weight = self._class_weight()
        self._train(x, labels, len(self.classes_), sample_weight, "cross_entropy", weight)
        return self

    def _class_weight(self) -> object:
        """Return the weights of classes by their positions."""
        if not isinstance(self.class_weight, dict):
            return self.class_weight
        positions = {label: i for i, label in enumerate(self.classes_.tolist())}
        unknown = [label for label in self.class_weight if label not in positions]
        if unknown:
            raise ValueError(
                f"NetworkClassifier: class_weight needs classes of y, found {describe(unknown[0])}"
            )
        return {positions[label]: weight for label, weight in self.class_weight.items()}

    def predict_proba(self, X: ArrayLike) -> Array:
        """Return the probability of each class, shape (n, classes), float32.

        Parameters
        ----------
        X : array_like, shape (n, features)
        """
        return self._outputs(X)

    def predict(self, X: ArrayLike) -> Array:
        """Return the likeliest class of each example, shape (n,).

        Parameters
        ----------
        X : array_like, shape (n, features)
        """
        chosen = self.predict_proba(X).argmax(axis=1)
        found: Array = self.classes_[chosen]
        return found


class NetworkRegressor(RegressorMixin, _NetworkEstimator):  # type: ignore[misc]
    """A multi-layer perceptron that predicts numbers, trained with the mean squared error.

    Parameters
    ----------
    hidden_layer_sizes, activation, optimizer, learning_rate, epochs, batch_size
        As for `NetworkClassifier`.
    early_stopping, validation_fraction, random_state, threads
        As for `NetworkClassifier`.

    Attributes
    ----------
    network_ : Network
        Also after a fit that was interrupted, at its last whole step.
    history_ : History
        Of the last fit.
    n_features_in_ : int
    feature_names_in_ : ndarray
        Where `X` was a data frame with names of its own.

    Notes
    -----
    Inputs and targets should be of about unit scale, so put a
    `sklearn.preprocessing.StandardScaler` before, and a
    `sklearn.compose.TransformedTargetRegressor` around it for targets of another scale.

    Examples
    --------
    >>> import numpy as np
    >>> from dlcore.sklearn import NetworkRegressor
    >>> x = np.random.default_rng(0).normal(size=(300, 2))
    >>> y = np.sin(2 * x[:, 0]) + x[:, 1] ** 2
    >>> model = NetworkRegressor((64, 64), activation="silu", learning_rate=0.01, random_state=0)
    >>> model.fit(x, y).score(x, y) > 0.98
    True
    """

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> NetworkRegressor:
        """Train a new network.

        Parameters
        ----------
        X : array_like, shape (n, features)
        y : array_like, shape (n,) or (n, targets)
        sample_weight : array_like, shape (n,), optional
            Weight of each example, not negative.

        Returns
        -------
        NetworkRegressor
            Itself.

        Raises
        ------
        TypeError, ValueError
            If an argument or the data is wrong.
        """
        x, target = validate_data(self, X, y, dtype=_DTYPES, multi_output=True, y_numeric=True)
        self._target_shape = target.shape[1:]
        numbers = target.reshape(len(target), -1).astype(np.float64)
        self._train(x, numbers, numbers.shape[1], sample_weight, "mse")
        return self

    def predict(self, X: ArrayLike) -> Array:
        """Return the predicted numbers, of the shape of `y` in `fit`, float64.

        Parameters
        ----------
        X : array_like, shape (n, features)
        """
        predicted = self._outputs(X)
        return predicted.reshape(len(predicted), *self._target_shape).astype(np.float64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
