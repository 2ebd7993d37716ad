"""The network: layers that were connected, their weights, and training and using them."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore import _core, _inputs, files, initializers, layers, losses, optimizers
from dlcore._settings import Text, describe, integer, number
from dlcore.history import DivergenceWarning, EarlyStopping, History, ProgressLine
from dlcore.info import cuda_status

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dlcore.layers import Step
    from dlcore.losses import Loss
    from dlcore.optimizers import Optimizer

    Array = NDArray[Any]

_FILE_FORMAT = 1
# Examples in one native call of predict and evaluate: enough to fill the products, small enough
# that the activations stay in a few megabytes.
_PREDICT_BATCH = 256


class Network:
    """A network of layers with its weights.

    Parameters
    ----------
    layers : list of Layer
        Applied one after the other; a list inside the list is a step too. Layers hold settings
        only, so the same object may occur twice.
    input_shape : tuple of int, or int
        Shape of one example, without the batch axis.
    seed : int, default 0
        Draws the initial weights; from 0 to 2**64 - 1. The same seed gives the same weights.
    dtype : {"float32", "float64"}, default "float32"
        Of the weights and of all arithmetic.
    device : {"cpu"}, default "cpu"
        Where the network lives.

    Attributes
    ----------
    layers : tuple of Layer
    input_shape, output_shape : tuple of int
        Of one example, without the batch axis.
    seed : int
    dtype : str
    device : str
    loss : Loss or None
        Of the last fit; it decides what `predict` returns, and is kept in files.
    optimizer : Optimizer or None
        Of the last fit.
    input_scale : float or None
        Factor on every input that the last fit was given, if any; None stands for 1/255 on uint8
        and 1 on other dtypes. Kept in files.

    Raises
    ------
    TypeError
        If an argument is of the wrong type, or a layer is not a layer.
    ValueError
        If shapes do not fit, or an argument is out of its range.
    RuntimeError
        If the device is not available.
    MemoryError
        If there is no memory for the parameters.

    Notes
    -----
    Every method converts what people have: lists, integers, data frames. Data in float32, float64,
    float16 or uint8 is used where it lies, in any layout, a memory map too; each batch is
    converted inside the native loop, and uint8 is scaled by 1/255 on the way unless `input_scale`
    says otherwise. Data of another dtype is converted as a whole, once per call, to the network's
    dtype, and not scaled.

    A network can be copied by ``copy.deepcopy`` and pickled; the optimizer's moments stay behind.

    Examples
    --------
    >>> import numpy as np
    >>> import dlcore
    >>> x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    >>> y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    >>> network = dlcore.Network(
    ...     [dlcore.Dense(16), dlcore.ReLU(), dlcore.Dense(2)], input_shape=(2,), seed=0
    ... )
    >>> history = network.fit(x, y, optimizer=dlcore.Adam(0.01), epochs=40, batch_size=20)
    >>> history.stopped
    'completed'
    >>> network.evaluate(x, y)["accuracy"] > 0.9
    True
    """

    layers: tuple[Step, ...]
    input_shape: tuple[int, ...]
    seed: int
    dtype: str
    device: str
    loss: Loss | None
    optimizer: Optimizer | None
    input_scale: float | None

    def __init__(
        self,
        layers: Sequence[Step],
        input_shape: int | Sequence[int],
        seed: int = 0,
        dtype: str = "float32",
        device: str = "cpu",
    ) -> None:
        self._connect(layers, input_shape, seed, dtype, device)
        for name, node, layer in self._graph.dense:
            rows, columns = self._core.parameter_shape(f"{name}.weight")
            weight = initializers.draw(layer.initializer, rows, columns, self.seed, node)
            self._core.set_parameter(f"{name}.weight", weight.astype(self.dtype))

    def _connect(
        self,
        steps: object,
        input_shape: object,
        seed: object,
        dtype: object,
        device: object,
    ) -> None:
        """Do all of the construction but the drawing of weights, which start as zeros."""
        self.layers = layers.check_layers(steps, "Network: layers")
        self.input_shape = _shape(input_shape)
        self.seed = integer("Network: seed", seed, 0, 2**64 - 1)
        self.dtype = _float_dtype(dtype)
        self.device = _device(device)
        self.loss = None
        self.optimizer = None
        self.input_scale = None
        self._graph = layers.Graph()
        self._graph.connect(self.layers, 0)
        try:
            self._core = _core.Network(self._graph.nodes, self.input_shape, self.dtype)
        except MemoryError:
            shapes = self._graph.parameter_shapes(self.input_shape).values()
            count = sum(map(math.prod, shapes))
            raise MemoryError(
                f"Network: {count:,} parameters in {self.dtype} do not fit into memory"
            ) from None

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the logits of one example."""
        return self._core.output_shape

    @property
    def parameter_count(self) -> int:
        """Number of weights and biases."""
        return self._core.parameter_count

    @property
    def flops_per_example(self) -> int:
        """Floating-point operations of one training step per example.

        Each dense layer of P weights takes 2 P forward, 2 P for the weight's gradient and, where
        something trainable comes before it, 2 P for the input's gradient. Element-wise work is
        not counted.
        """
        return self._core.flops_per_example

    @property
    def parameters(self) -> Mapping[str, Array]:
        """Weights and biases by name: a read-only snapshot, which training does not change.

        The names and layouts are those of PyTorch's Sequential of the same layers:
        ``"0.weight"`` of shape (out_features, in_features), ``"0.bias"`` of shape
        (out_features,).
        """
        snapshot = {}
        for name in self._core.parameter_names:
            value = self._core.get_parameter(name)
            value.flags.writeable = False
            snapshot[name] = value
        return MappingProxyType(snapshot)

    def set_parameters(self, parameters: Mapping[str, ArrayLike]) -> None:
        """Replace weights and biases; those that are left out keep their values.

        Parameters
        ----------
        parameters : mapping of str to array_like
            The names and shapes of `parameters`; values are converted to the network's dtype.

        Raises
        ------
        TypeError
            If `parameters` is not a mapping, or a value not numeric.
        ValueError
            If a name is unknown, a shape is wrong or a value is not finite; then nothing has
            been replaced.

        Examples
        --------
        >>> import dlcore
        >>> network = dlcore.Network([dlcore.Dense(1)], input_shape=(2,))
        >>> network.set_parameters({"0.weight": [[1.0, -1.0]]})
        >>> network([[3.0, 2.0]])
        array([[1.]], dtype=float32)
        """
        if not isinstance(parameters, Mapping):
            raise TypeError(
                "set_parameters: parameters needs a mapping of names to arrays, "
                f"found {describe(parameters)}"
            )
        self._set(parameters, "set_parameters: ")

    def _set(self, parameters: Mapping[str, ArrayLike], operation: str = "") -> None:
        """Check all values, then set them; `operation` begins the error's sentence."""
        names = self._core.parameter_names
        checked = {}
        for name, given in parameters.items():
            what = f'{operation}"{name}"'
            if name not in names:
                raise ValueError(f"{what} is not a parameter; there are {_listing(names)}")
            value = _inputs.numeric(given, what)
            shape = self._core.parameter_shape(name)
            if value.shape != shape:
                raise ValueError(f"{what} needs {shape} but is {value.shape}")
            value = np.ascontiguousarray(_inputs.cast(value, self.dtype))
            finite = np.isfinite(value)
            if not finite.all():
                where = tuple(int(i) for i in np.argwhere(~finite)[0])
                raise ValueError(f"{what} needs finite values, found {value[where]} at {where}")
            checked[name] = value
        for name, value in checked.items():
            self._core.set_parameter(name, value)

    def __call__(
        self, x: ArrayLike, *, input_scale: float | None = None, threads: int | None = None
    ) -> Array:
        """Return the network's raw outputs (logits); dropout passes its input on.

        Parameters
        ----------
        x : array_like, shape (n, *input_shape)
        input_scale : float, optional
            Factor on every input; left out, that of the last fit, or else 1/255 for uint8 and 1
            for other dtypes.
        threads : int, optional
            Number of threads to use; the result does not depend on it.

        Returns
        -------
        ndarray, shape (n, *output_shape), the network's dtype

        Raises
        ------
        TypeError
            If `x` is not numeric.
        ValueError
            If the shape of `x` does not fit, or `x` holds NaN or infinity.
        """
        return self._forward("network", x, "identity", input_scale, threads)

    def predict(
        self,
        x: ArrayLike,
        *,
        loss: str | Loss | None = None,
        input_scale: float | None = None,
        threads: int | None = None,
    ) -> Array:
        """Return predictions: class probabilities or regression values.

        What comes out follows from the loss that the network was last trained with: after
        "cross_entropy" the softmax of the logits, after "binary_cross_entropy" their sigmoid,
        after "mse" and "huber" the outputs themselves. A network that was never trained has no
        loss yet and returns its raw outputs, as ``network(x)`` does, unless `loss` says what they
        mean.

        Parameters
        ----------
        x : array_like, shape (n, *input_shape)
        loss : str or Loss, optional
            Instead of the loss of the last fit, for weights that came by `set_parameters`.
        input_scale : float, optional
            Factor on every input; left out, that of the last fit, or else 1/255 for uint8 and 1
            for other dtypes.
        threads : int, optional
            Number of threads to use; the result does not depend on it.

        Returns
        -------
        ndarray, shape (n, *output_shape), the network's dtype

        Raises
        ------
        TypeError
            If `x` is not numeric.
        ValueError
            If the shape of `x` does not fit, or `x` holds NaN or infinity.
        """
        known = self.loss if loss is None else losses.get(loss, "predict")
        head = "identity" if known is None else known.head
        return self._forward("predict", x, head, input_scale, threads)

    def _forward(
        self,
        operation: str,
        x: ArrayLike,
        head: str,
        input_scale: float | None,
        threads: int | None,
    ) -> Array:
        data = self._examples(x, operation, "x")
        scale = self._scale(data, input_scale, operation)
        result = self._core.forward(data, head, scale, _PREDICT_BATCH, _threads(threads, operation))
        return result.reshape(len(data), *self.output_shape)

    def evaluate(
        self,
        x: ArrayLike,
        y: ArrayLike,
        *,
        loss: str | Loss | None = None,
        sample_weight: ArrayLike | None = None,
        input_scale: float | None = None,
        threads: int | None = None,
    ) -> dict[str, float]:
        """Measure the loss on data, and for classes the accuracy.

        Parameters
        ----------
        x : array_like, shape (n, *input_shape)
        y : array_like
            As for `fit`.
        loss : str or Loss, optional
            Left out, that of the last fit, or else the one that `fit` would choose for `y`.
        sample_weight : array_like, shape (n,), optional
            Weight of each example in both measures; not negative.
        input_scale : float, optional
            As for `predict`.
        threads : int, optional
            Number of threads to use; the result does not depend on it.

        Returns
        -------
        dict of str to float
            "loss"; with "cross_entropy" and "binary_cross_entropy" also "accuracy", the share of
            examples (of elements, where each has several yes-or-no labels) whose likeliest
            class is right.

        Raises
        ------
        TypeError
            If `x`, `y` or `sample_weight` is not numeric, or `y` does not suit the loss.
        ValueError
            If there is no example, a shape does not fit, a label is out of range, or something is
            not finite.
        """
        data = self._examples(x, "evaluate", "x", empty=False)
        targets, chosen = self._targets(y, loss, "evaluate", "y")
        value, accuracy = self._core.evaluate(
            data,
            targets,
            chosen._native(),
            _inputs.sample_weights(sample_weight, len(data), "evaluate: sample_weight"),
            self._scale(data, input_scale, "evaluate"),
            _PREDICT_BATCH,
            _threads(threads, "evaluate"),
        )
        return {"loss": value, "accuracy": accuracy} if _has_accuracy(chosen) else {"loss": value}

    def loss_and_gradients(
        self,
        x: ArrayLike,
        y: ArrayLike,
        loss: str | Loss | None = None,
        *,
        sample_weight: ArrayLike | None = None,
        clip_norm: float | None = None,
        dropout_seed: int | None = None,
        input_scale: float | None = None,
        threads: int | None = None,
    ) -> tuple[float, dict[str, Array]]:
        """Return the loss on `x` and `y` as one batch, and its gradient; nothing is updated.

        Parameters
        ----------
        x : array_like, shape (n, *input_shape)
        y : array_like
            As for `fit`.
        loss : str or Loss, optional
            As for `evaluate`.
        sample_weight : array_like, shape (n,), optional
            Weight of each example; not negative.
        clip_norm : float, optional
            As for `fit`.
        dropout_seed : int, optional
            Drop elements as a step of a fit with this seed would; left out, dropout passes its
            input on.
        input_scale : float, optional
            As for `predict`.
        threads : int, optional
            Number of threads to use; the result does not depend on it.

        Returns
        -------
        loss : float
        gradients : dict of str to ndarray
            The names and shapes of `parameters`.

        Raises
        ------
        TypeError, ValueError
            As `evaluate`.
        """
        operation = "loss_and_gradients"
        data = self._examples(x, operation, "x", empty=False)
        targets, chosen = self._targets(y, loss, operation, "y")
        seed = dropout_seed
        if seed is not None:
            seed = integer(f"{operation}: dropout_seed", seed, 0, 2**64 - 1)
        return self._core.loss_and_gradients(
            data,
            targets,
            chosen._native(),
            _inputs.sample_weights(sample_weight, len(data), f"{operation}: sample_weight"),
            self._scale(data, input_scale, operation),
            _threads(threads, operation),
            _clip_norm(clip_norm, operation),
            seed,
        )

    def fit(
        self,
        x: ArrayLike,
        y: ArrayLike,
        loss: str | Loss | None = None,
        optimizer: Optimizer | None = None,
        epochs: int = 10,
        batch_size: int = 128,
        validation_data: Sequence[ArrayLike] | None = None,
        seed: int = 0,
        threads: int | None = None,
        *,
        shuffle: bool = True,
        sample_weight: ArrayLike | None = None,
        class_weight: Mapping[int, float] | str | None = None,
        early_stopping: EarlyStopping | None = None,
        on_epoch: Callable[[dict[str, Any]], object] | None = None,
        clip_norm: float | None = None,
        precision: str | None = None,
        input_scale: float | None = None,
        progress: bool | Callable[[int, int, int], object] = False,
    ) -> History:
        """Train on `x` and `y`; called again, go on training.

        Parameters
        ----------
        x : array_like, shape (n, *input_shape)
            Examples. float32, float64, float16 and uint8 are used where they lie, in any layout;
            other dtypes are converted once. uint8 is scaled by 1/255, see `input_scale`.
        y : array_like
            Integers or booleans mean classes, of shape (n,): 0..C-1 for C outputs, 0 or 1 for one
            output; where the output has several axes the last one holds the classes, and `y`
            has shape (n, *output_shape[:-1]). Floats mean regression, of shape
            (n, *output_shape), or (n,) for one output. With ``loss="binary_cross_entropy"``,
            targets in [0, 1] of those shapes, so one example may carry several labels.
        loss : str or Loss, optional
            "cross_entropy", "binary_cross_entropy", "mse", "huber" or an object of
            `dlcore.losses`. Left out, the loss of the previous fit; in the first fit
            "cross_entropy" for integers ("binary_cross_entropy" if the network has one
            output), "mse" for floats.
        optimizer : Optimizer, optional
            Left out, that of the previous fit; in the first fit ``dlcore.Adam()``.
        epochs : int, default 10
            Passes over the data, at least 1.
        batch_size : int, default 128
            Examples per step; the last batch of an epoch may be smaller, and a batch larger than
            the data is the data.
        validation_data : tuple (x, y) or (x, y, sample_weight), optional
            Measured after each epoch, never trained on.
        seed : int, default 0
            Orders the examples and chooses what dropout drops; from 0 to 2**64 - 1.
        threads : int, optional
            Number of threads to use; left out, DLCORE_NUM_THREADS, else OMP_NUM_THREADS, else the
            CPUs this process may use. The result is the same to the bit.
        shuffle : bool, default True
            Whether each epoch takes the examples in a new order.
        sample_weight : array_like, shape (n,), optional
            Weight of each example, not negative; the loss is ``sum(w_i l_i) / sum(w_i)`` over a
            batch.
        class_weight : dict of int to float, or "balanced", optional
            Weight of each class, multiplied into `sample_weight`; a class left out has weight 1.
            "balanced" is ``n / (number of classes present * examples of the class)``.
        early_stopping : EarlyStopping, optional
            When to stop, by the validation loss, or without validation data by the loss.
        on_epoch : callable, optional
            Called after each epoch with a dict of "epoch" (from 1) and the measures of `History`;
            it stops the fit by returning False.
        clip_norm : float, optional
            Scale the gradient down to this 2-norm over all parameters where it is larger: ``g *
            min(1, clip_norm / (norm + 1e-6))``, as in PyTorch.
        precision : {None, "fp32"}, optional
            How float32 products are computed.
        input_scale : float, optional
            Factor on every input, here and from now on wherever none is given; left out, 1/255
            for uint8 and 1 for other dtypes.
        progress : bool or callable, default False
            True shows a progress line on the standard error stream. A callable gets (epoch, steps
            done in it, steps in it), at most every 50 ms.

        Returns
        -------
        History
            Loss, accuracy, learning rate and time of each epoch, and why the fit stopped.

        Warns
        -----
        DivergenceWarning
            If the loss stops being finite. The fit ends there, the network is at its last
            finite state, and ``history.stopped`` is "diverged".

        Raises
        ------
        TypeError
            If an argument is of the wrong type, or `y` does not suit the loss.
        ValueError
            If there is no example, only one class, a shape that does not fit, a label out of
            range, NaN or infinity in the data, or an argument out of its range. The weights
            are as they were before the call.
        RuntimeError
            If this network is being trained already.
        KeyboardInterrupt
            On Ctrl-C, within 100 ms or at the end of the running step; the network stays usable,
            at the last whole step.
        """
        chosen_optimizer = optimizers.check(
            optimizer if optimizer is not None else self.optimizer or optimizers.Adam(), "fit"
        )
        epochs = integer("fit: epochs", epochs, 1)
        batch_size = integer("fit: batch_size", batch_size, 1)
        seed = integer("fit: seed", seed, 0, 2**64 - 1)
        thread_count = _threads(threads, "fit")
        clip = _clip_norm(clip_norm, "fit")
        self._check_precision(precision)
        if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
            raise TypeError(
                "fit: early_stopping needs an object such as dlcore.EarlyStopping(patience=5), "
                f"found {describe(early_stopping)}"
            )
        if on_epoch is not None and not callable(on_epoch):
            raise TypeError(f"fit: on_epoch needs a callable, found {describe(on_epoch)}")
        if not isinstance(progress, bool) and not callable(progress):
            raise TypeError(
                f"fit: progress needs True, False or a callable, found {describe(progress)}"
            )

        data = self._examples(x, "fit", "x", empty=False)
        targets, chosen = self._targets(y, loss, "fit", "y")
        labels = _inputs.single_classes(targets, chosen)
        _inputs.check_several(labels, "fit: y")
        weights = _inputs.sample_weights(sample_weight, len(data), "fit: sample_weight")
        if class_weight is not None:
            classes = max(self.output_shape[-1], 2)
            weights = _inputs.class_weights(
                class_weight, labels, weights, classes, "fit: class_weight"
            )
        scale = self._scale(data, input_scale, "fit")
        validation_x, validation_y, validation_weight = self._validation(
            validation_data, chosen, input_scale, scale
        )

        names = ["loss"]
        if _has_accuracy(chosen):
            names.append("accuracy")
        if validation_x is not None:
            names += [f"val_{name}" for name in names]
        names += ["learning_rate", "seconds", "examples_per_second"]
        line = ProgressLine(epochs) if progress is True else None
        listener = line.step if line is not None else progress

        # The core counts epochs from 0, people from 1.
        def after_epoch(record: Mapping[str, Any]) -> bool:
            shown = {name: record[name] for name in names}
            shown = {"epoch": record["epoch"] + 1, **shown}
            if line is not None:
                line.epoch(shown)
            answer = None if on_epoch is None else on_epoch(shown)
            return not (isinstance(answer, (bool, np.bool_)) and not answer)

        def between_steps(epoch: int, done: int, steps: int) -> None:
            if callable(listener):
                listener(epoch + 1, done, steps)

        before = self._core.step, self.loss, self.optimizer, self.input_scale
        if not self._core.training:  # else the core refuses, and what was remembered stays
            self.loss, self.optimizer = chosen, chosen_optimizer
            self.input_scale = self.input_scale if input_scale is None else scale
        try:
            result = self._core.fit(
                data,
                targets,
                rows=None,
                loss=chosen._native(),
                optimizer=chosen_optimizer._native(),
                schedule=chosen_optimizer.schedule._native(),
                epochs=epochs,
                batch_size=batch_size,
                shuffle=bool(shuffle),
                seed=seed,
                threads=thread_count,
                sample_weight=weights,
                validation_x=validation_x,
                validation_y=validation_y,
                validation_weight=validation_weight,
                early_stopping=None if early_stopping is None else early_stopping.settings,
                clip_norm=clip,
                input_scale=scale,
                on_epoch=None if line is None and on_epoch is None else after_epoch,
                on_progress=between_steps if callable(listener) else None,
            )
        except BaseException:
            if self._core.step == before[0]:  # nothing was learnt
                _, self.loss, self.optimizer, self.input_scale = before
            raise
        history = History(result, names)
        if history.stopped == "diverged":
            warnings.warn(history.message, DivergenceWarning, stacklevel=2)
        return history

    def summary(
        self,
        batch_size: int | None = None,
        optimizer: Optimizer | None = None,
        *,
        examples: int = 0,
        validation: bool = False,
        early_stopping: bool = False,
        clip_norm: bool = False,
    ) -> str:
        """Describe the network in a table: layers, shapes, parameters, cost.

        Parameters
        ----------
        batch_size : int, optional
            State the memory that a fit with this batch size takes beside the data.
        optimizer : Optimizer, optional
            Of that fit; left out, that of the last fit, or else ``dlcore.Adam()``.
        examples : int, default 0
            Number of examples of that fit, whose order takes a few bytes each.
        validation, early_stopping, clip_norm : bool, default False
            Whether that fit has validation data, may stop early, and clips the gradient.

        Returns
        -------
        str
            An interactive session shows it with its line breaks.

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong type or out of its range.

        Examples
        --------
        >>> import dlcore
        >>> network = dlcore.Network(
        ...     [dlcore.Dense(4), dlcore.ReLU(), dlcore.Dense(1)], input_shape=(3,)
        ... )
        >>> network.summary()
        name  layer     output shape  parameters
        0     Dense(4)  (4,)                  16
        1     ReLU()    (4,)                   0
        2     Dense(1)  (1,)                   5
        21 parameters (84 bytes in float32); 72 FLOP per example and training step
        """
        shapes = self._core.node_shapes
        rows = [("name", "layer", "output shape", "parameters")]
        for name, layer, node in self._graph.rows:
            nested = isinstance(layer, layers.Residual)
            count = sum(
                math.prod(self._core.parameter_shape(parameter))
                for parameter in (f"{name}.weight", f"{name}.bias")
                if parameter in self._core.parameter_names
            )
            shown = "Residual" if nested else repr(layer)
            rows.append((name, shown, str(shapes[node]), "" if nested else f"{count:,}"))
        widths = [max(len(row[column]) for row in rows) for column in range(4)]
        lines = [
            f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  "
            f"{row[3]:>{widths[3]}}".rstrip()
            for row in rows
        ]
        size = self.parameter_count * np.dtype(self.dtype).itemsize
        lines.append(
            f"{self.parameter_count:,} parameters ({_bytes(size)} in {self.dtype}); "
            f"{self.flops_per_example:,} FLOP per example and training step"
        )
        if batch_size is not None:
            chosen = optimizers.check(optimizer or self.optimizer or optimizers.Adam(), "summary")
            memory = self._core.memory(
                integer("summary: batch_size", batch_size, 1),
                chosen._native(),
                bool(validation),
                bool(early_stopping),
                integer("summary: examples", examples, 0),
                bool(clip_norm),
            )
            total = _bytes(memory.pop("total"))
            parts = ", ".join(
                f"{name.replace('_', ' ')} {_bytes(part)}" for name, part in memory.items() if part
            )
            lines.append(
                f"fit at batch_size={batch_size} with {chosen!r} takes {total} beside the data: "
                f"{parts}"
            )
        return Text("\n".join(lines))

    def __repr__(self) -> str:
        shown = [layers.show(self.layers), f"input_shape={self.input_shape}", f"seed={self.seed}"]
        if self.dtype != "float32":
            shown.append(f"dtype={self.dtype!r}")
        return f"Network({', '.join(shown)})"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to a safetensors file, which `dlcore.load` reads.

        The file holds the parameters under the names of `parameters`, so other libraries read it
        too, and in its metadata the layers, the loss and the input scale as JSON. The optimizer
        and its moments are not kept. The file appears whole or not at all: it is written beside and
        renamed.

        Parameters
        ----------
        path : str or path-like

        Raises
        ------
        OSError
            If the file cannot be written; what was there before is untouched.

        Examples
        --------
        >>> import os, tempfile
        >>> import dlcore
        >>> path = os.path.join(tempfile.mkdtemp(), "net.safetensors")
        >>> network = dlcore.Network([dlcore.Dense(2)], input_shape=(3,))
        >>> network.save(path)
        >>> dlcore.load(path)
        Network([Dense(2)], input_shape=(3,), seed=0)
        """
        described = {
            "format": _FILE_FORMAT,
            "version": _core.__version__,
            "layers": layers.to_json(self.layers),
            "input_shape": self.input_shape,
            "seed": self.seed,
            "dtype": self.dtype,
            "loss": None
            if self.loss is None
            else {"name": self.loss.name, "settings": self.loss.settings},
            "input_scale": self.input_scale,
            "step": self._core.step,
        }
        files.write(path, self.parameters, {"dlcore": json.dumps(described, allow_nan=False)})

    def __reduce__(self) -> tuple[Callable[..., Network], tuple[Any, ...]]:
        """Pickle and copy by settings and parameters; the optimizer's moments stay behind."""
        arguments = (self.layers, self.input_shape, self.seed, self.dtype, self.device)
        remembered = (self.loss, self.optimizer, self.input_scale, self._core.step)
        return _rebuild, (arguments, dict(self.parameters), remembered)

    def _examples(self, x: ArrayLike, operation: str, what: str, *, empty: bool = True) -> Array:
        return _inputs.examples(x, self.input_shape, self.dtype, f"{operation}: {what}", empty)

    def _scale(self, data: Array, input_scale: float | None, operation: str) -> float:
        if input_scale is not None:
            return number(f"{operation}: input_scale", input_scale, 0, include_low=False)
        if self.input_scale is not None:
            return self.input_scale
        return 1 / 255 if data.dtype == np.uint8 else 1.0

    def _targets(
        self, y: ArrayLike, loss: str | Loss | None, operation: str, what: str
    ) -> tuple[Array, Loss]:
        """Return `y` as the core takes it for the loss, and the loss."""
        known = self.loss if loss is None else losses.get(loss, operation)
        return _inputs.targets(y, known, self.output_shape, self.dtype, f"{operation}: {what}")

    def _validation(
        self, given: object, loss: Loss, input_scale: float | None, scale: float
    ) -> tuple[Array | None, Array | None, Array | None]:
        if given is None:
            return None, None, None
        if not isinstance(given, (tuple, list)) or len(given) not in (2, 3):
            raise TypeError(
                "fit: validation_data needs a tuple (x, y) or (x, y, sample_weight), found "
                + (f"{len(given)} entries" if isinstance(given, (tuple, list)) else describe(given))
            )
        data = self._examples(given[0], "fit", "validation_data x", empty=False)
        targets, _ = self._targets(given[1], loss, "fit", "validation_data y")
        weights = _inputs.sample_weights(
            given[2] if len(given) == 3 else None, len(data), "fit: validation_data sample_weight"
        )
        if self._scale(data, input_scale, "fit") != scale:
            raise TypeError(
                "fit: validation_data x is scaled otherwise than x because one of them is uint8; "
                "pass both in one dtype, or input_scale"
            )
        return data, targets, weights

    def _check_precision(self, precision: object) -> None:
        if precision is None or (precision == "fp32" and self.dtype == "float32"):
            return
        needed = 'None or "fp32"' if self.dtype == "float32" else "None in a float64 network"
        raise ValueError(f"fit: precision needs to be {needed}, found {describe(precision)}")


def _rebuild(
    arguments: tuple[Any, ...], parameters: Mapping[str, Array], remembered: tuple[Any, ...]
) -> Network:
    """Make a network from its settings and weights, without drawing initial ones."""
    network = Network.__new__(Network)
    network._connect(*arguments)
    network._set(parameters)
    network.loss, network.optimizer, network.input_scale, network._core.step = remembered
    return network


def load(path: str | os.PathLike[str]) -> Network:
    """Read a network that `Network.save` wrote.

    Parameters
    ----------
    path : str or path-like

    Returns
    -------
    Network
        With the same parameters to the bit; `Network.fit` goes on training it with fresh moments.

    Raises
    ------
    OSError
        If the file cannot be opened or read.
    ValueError
        If the file is damaged, holds no network, or one of a later format; the sentence begins
        with the file's name. Whatever the bytes, nothing in the file is run.
    """
    arrays, metadata = files.read(path)
    try:
        return _restore(arrays, metadata)
    except RecursionError:
        reason = "its layers are nested too deeply"
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error)
    raise ValueError(f"{os.fsdecode(path)}: {reason}")


def _restore(arrays: dict[str, Array], metadata: dict[str, str]) -> Network:
    if "dlcore" not in metadata:
        raise ValueError(
            "the file holds no network of dlcore; build one and pass what dlcore.files.read "
            "returns to its set_parameters"
        )
    described = files.parse_json(metadata["dlcore"].encode("utf-8", "replace"), "the network")
    if described.get("format") != _FILE_FORMAT:
        raise ValueError(
            f"the network is in format {describe(described.get('format'))}; "
            f"this version of dlcore reads format {_FILE_FORMAT}"
        )
    needed = {"format", "version", "layers", "input_shape", "seed", "dtype", "loss", "input_scale"}
    needed.add("step")
    if set(described) != needed:
        wrong = ", ".join(sorted(set(described) ^ needed))
        raise ValueError(f"the network's description has missing or unknown entries: {wrong[:80]}")
    steps = layers.from_json(described["layers"])
    input_shape = _shape(described["input_shape"])
    dtype = _float_dtype(described["dtype"])
    step = integer("the network's step", described["step"], 0, 2**48 - 1)
    # The sizes are believed only once the arrays in the file bear them out: a line of JSON must
    # not make us allocate a terabyte.
    graph = layers.Graph()
    graph.connect(layers.check_layers(steps, "layers"), 0)
    shapes = graph.parameter_shapes(input_shape)
    if set(shapes) != set(arrays):
        wrong = _listing(sorted(set(shapes) ^ set(arrays)))
        raise ValueError(f"the layers and the arrays disagree about {wrong}")
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype != dtype:
            raise ValueError(
                f'"{name}" needs {shape} {dtype} but is {arrays[name].shape} {arrays[name].dtype}'
            )
    loss, scale = described["loss"], described["input_scale"]
    if loss is not None:
        if not isinstance(loss, dict) or set(loss) != {"name", "settings"}:
            raise ValueError(
                f"the network's loss needs a name and settings, found {describe(loss)}"
            )
        if not isinstance(loss["settings"], dict):
            raise ValueError("the network's loss needs its settings by name")
        loss = type(losses.get(loss["name"], "the network"))(**loss["settings"])
    if scale is not None:
        scale = number("the network's input_scale", scale, 0, include_low=False)
    arguments = (steps, input_shape, described["seed"], dtype, "cpu")
    return _rebuild(arguments, arrays, (loss, None, scale, step))


def _shape(given: object) -> tuple[int, ...]:
    what = "Network: input_shape"
    if not isinstance(given, (tuple, list)):
        return (integer(what, given, 1),)
    if not given:
        raise ValueError(f"{what} needs at least one size, found {given!r}")
    return tuple(integer(f"{what}[{axis}]", size, 1) for axis, size in enumerate(given))


def _float_dtype(given: object) -> str:
    try:
        name = np.dtype(given).name  # type: ignore[call-overload]
    except (TypeError, ValueError):
        name = ""
    if given is None or name not in ("float32", "float64"):
        what = 'Network: dtype needs to be "float32" or "float64"'
        raise ValueError(f"{what}, found {describe(given)}")
    return str(name)


def _device(given: object) -> str:
    if given == "cpu":
        return "cpu"
    if isinstance(given, str) and given.split(":")[0] == "cuda":
        why = cuda_status()[1]
        raise RuntimeError(f'Network: device="{given}" is not available: {why}; use device="cpu"')
    raise ValueError(f'Network: device needs to be "cpu" or "cuda", found {describe(given)}')


def _threads(given: object, operation: str) -> int:
    if given is None:
        return _core.default_threads()
    return integer(f"{operation}: threads", given, 1, 1024)


def _clip_norm(given: object, operation: str) -> float:
    if given is None:
        return 0.0
    return number(f"{operation}: clip_norm", given, 0, include_low=False)


def _has_accuracy(loss: Loss) -> bool:
    return isinstance(loss, (losses.CrossEntropy, losses.BinaryCrossEntropy))


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(f'"{name[:40]}"' for name in names[:8])
    return f"{shown}, and {len(names) - 8} more" if len(names) > 8 else shown or "none"


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
