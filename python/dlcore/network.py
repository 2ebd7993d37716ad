"""The network: layers that were connected, their weights, and training and using them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dlcore import (
    _device,
    _inputs,
    _summary,
    initializers,
    layers,
    losses,
    optimizers,
    saving,
    training,
)
from dlcore._settings import Text, choice, describe, integer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from dlcore._core import Network as Core
    from dlcore.history import EarlyStopping, History
    from dlcore.layers import Step
    from dlcore.losses import Loss
    from dlcore.optimizers import Optimizer

    Array = NDArray[Any]

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
    device : str, default "cpu"
        Where the network lives and trains: "cpu", "cuda" (the first GPU), or "cuda:1" and so on.
        A network on a GPU is of dtype float32; see `docs/cuda.md`.

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
        self.input_shape = _inputs.shape(input_shape)
        self.seed = integer("Network: seed", seed, 0, 2**64 - 1)
        self.dtype = _inputs.float_dtype(dtype)
        self.device = _device.parse(device, "Network: device")
        self.loss = None
        self.optimizer = None
        self.input_scale = None
        self._precision = "fp32" if self.device == "cpu" else _device.PRECISIONS[0]
        self._graph = layers.Graph()
        self._graph.connect(self.layers, 0)
        self._core = self._make_core(self.device)

    def _make_core(self, device: str) -> Core:
        """Return the native network, its parameters zero, on a device."""
        extension, number = _device.load(device, "Network: device")
        if device != "cpu" and self.dtype != "float32":
            raise ValueError(
                f'Network: device="{device}" needs dtype="float32", found {self.dtype!r}; a float64 '
                "network trains on the CPU"
            )
        try:
            core: Core = extension.Network(self._graph.nodes, self.input_shape, self.dtype, number)
        except MemoryError:
            shapes = self._graph.parameter_shapes(self.input_shape).values()
            count = sum(map(math.prod, shapes))
            raise MemoryError(
                f"Network: {count:,} parameters in {self.dtype} do not fit into memory"
            ) from None
        return core

    def to(self, device: str) -> Network:
        """Move the network to another device; its parameters keep their bits.

        The optimizer's moments stay behind: the next fit begins with fresh ones.

        Parameters
        ----------
        device : str
            As for `Network`.

        Returns
        -------
        Network
            This network.

        Raises
        ------
        ValueError
            If `device` is no device, or the network is of dtype float64 and `device` a GPU.
        RuntimeError
            If the device is not available, or the network is being trained.

        Examples
        --------
        >>> import dlcore
        >>> dlcore.Network([dlcore.Dense(2)], input_shape=(3,)).to("cpu").device
        'cpu'
        """
        wanted = _device.parse(device, "to: device")
        if self._core.training:
            raise RuntimeError("to: this network is training; wait for that fit or move a copy")
        if wanted != self.device:
            core = self._make_core(wanted)
            for name in self._core.parameter_names:
                core.set_parameter(name, self._core.get_parameter(name))
            core.step = self._core.step
            self._core, self.device = core, wanted
            self._precision = "fp32" if wanted == "cpu" else _device.PRECISIONS[0]
        return self

    @property
    def precision(self) -> str:
        """How float32 products are computed where `fit` does not say: "fp32", "tf32" or "bf16".

        On the CPU this is "fp32". On a GPU a network begins with "tf32", whose factors keep 10 bits
        behind the point; it can be set, and what `fit` is given stays.

        Raises
        ------
        ValueError
            If it is set to what the device cannot do.
        """
        return self._precision

    @precision.setter
    def precision(self, value: str) -> None:
        self._precision = self._check_precision(value, "Network: precision")
        self._core.set_precision(self._precision)

    def _check_precision(self, value: object, what: str) -> str:
        allowed = ("fp32",) if self.device == "cpu" else _device.PRECISIONS
        return choice(what, value, allowed)

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
        shapes = {name: self._core.parameter_shape(name) for name in self._core.parameter_names}
        for name, value in _inputs.parameters(parameters, shapes, self.dtype, operation).items():
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
        scale = _inputs.scale(data, input_scale, self.input_scale, operation)
        result = self._core.forward(
            data, head, scale, _PREDICT_BATCH, _inputs.threads(threads, operation)
        )
        if _device.is_array(result):  # where x lies
            return result
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
            _inputs.scale(data, input_scale, self.input_scale, "evaluate"),
            _PREDICT_BATCH,
            _inputs.threads(threads, "evaluate"),
        )
        return (
            {"loss": value, "accuracy": accuracy}
            if training.has_accuracy(chosen)
            else {"loss": value}
        )

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
            _inputs.scale(data, input_scale, self.input_scale, operation),
            _inputs.threads(threads, operation),
            _inputs.clip_norm(clip_norm, operation),
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
        statistics: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
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
        precision : {None, "fp32", "tf32", "bf16"}, optional
            How float32 products are computed. "bf16" rounds their factors to bfloat16 (8 bits of
            precision) and sums in float32; weights and everything else stay float32. It needs a
            CPU with AVX-512 BF16 (``dlcore.info()``) and pays from widths of some hundreds on.
            On a GPU "tf32" is what a network begins with, "bf16" also keeps what flows between
            layers in bfloat16, and what is given stays for later calls (`Network.precision`).
        input_scale : float, optional
            Factor on every input, here and from now on wherever none is given; left out, 1/255
            for uint8 and 1 for other dtypes.
        statistics : bool, default False
            Whether to measure the health of each dense layer, which takes some time:
            gradient and weight norms, dead and saturated units, in `History.layers`. The weights
            get the same bits with and without.
        checkpoint : path, optional
            File that keeps the state of the fit, written several times a second at most. If it is
            there when the same fit is called again, on a network built alike and the same
            data, the fit goes on from it and ends with the same bits; a fit that ends removes it.
            A process that is killed so loses the running epoch and half a second.
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
        return training.fit(
            self,
            x,
            y,
            threads,
            progress,
            loss=loss,
            optimizer=optimizer,
            epochs=epochs,
            batch_size=batch_size,
            validation_data=validation_data,
            seed=seed,
            shuffle=shuffle,
            sample_weight=sample_weight,
            class_weight=class_weight,
            early_stopping=early_stopping,
            on_epoch=on_epoch,
            clip_norm=clip_norm,
            precision=precision,
            input_scale=input_scale,
            statistics=statistics,
            checkpoint=checkpoint,
        )

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
        lines = _summary.table(self)
        if batch_size is not None:
            lines.append(
                _summary.memory(
                    self,
                    integer("summary: batch_size", batch_size, 1),
                    optimizers.check(optimizer or self.optimizer or optimizers.Adam(), "summary"),
                    integer("summary: examples", examples, 0),
                    bool(validation),
                    bool(early_stopping),
                    bool(clip_norm),
                )
            )
        return Text("\n".join(lines))

    def __repr__(self) -> str:
        shown = [layers.show(self.layers), f"input_shape={self.input_shape}", f"seed={self.seed}"]
        if self.dtype != "float32":
            shown.append(f"dtype={self.dtype!r}")
        if self.device != "cpu":
            shown.append(f"device={self.device!r}")
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
        saving.write(self, path)

    def __reduce__(self) -> tuple[Callable[..., Network], tuple[Any, ...]]:
        """Pickle and copy by settings and parameters; the optimizer's moments stay behind."""
        arguments = (self.layers, self.input_shape, self.seed, self.dtype, self.device)
        remembered = (self.loss, self.optimizer, self.input_scale, self._core.step)
        return saving.rebuild, (arguments, dict(self.parameters), remembered, self.precision)

    def _examples(self, x: ArrayLike, operation: str, what: str, *, empty: bool = True) -> Array:
        return _inputs.examples(
            x, self.input_shape, self.dtype, empty, self.device, what=f"{operation}: {what}"
        )

    def _targets(
        self, y: ArrayLike, loss: str | Loss | None, operation: str, what: str
    ) -> tuple[Array, Loss]:
        """Return `y` as the core takes it for the loss, and the loss."""
        known = self.loss if loss is None else losses.get(loss, operation)
        return _inputs.targets(y, known, self.output_shape, self.dtype, f"{operation}: {what}")
