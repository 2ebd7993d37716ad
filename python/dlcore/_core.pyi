"""Types of the compiled core (cpp/bindings/)."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

class LayerStatistics(TypedDict):
    """Health of one dense layer over an epoch; NaN where a measure does not apply."""

    name: str
    gradient_norm: float
    weight_norm: float
    update_ratio: float
    dead: float
    saturated: float

class EpochRecord(TypedDict):
    """What one epoch measured; a metric that does not apply is NaN."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float
    examples_per_second: float
    layers: list[LayerStatistics]  # empty unless statistics were asked for

class FitResult(TypedDict):
    """Outcome of ``Network.fit``."""

    epochs: list[EpochRecord]
    # "completed", "early_stopping", "callback" (a callback asked to stop) or "diverged"
    stopped: str
    message: str
    best_epoch: int
    engine: str  # "cpu", or on a GPU "population", "group" or "graph"
    engine_reason: str  # what stood against those before it

class Network:
    """Parameters, optimizer state and plans of one network; rows of `x` are flattened examples."""

    def __init__(
        self,
        nodes: Sequence[dict[str, Any]],
        input_shape: Sequence[int],
        dtype: str,
        device: int = 0,
    ) -> None: ...
    @property
    def dtype(self) -> str: ...
    @property
    def output_shape(self) -> tuple[int, ...]: ...
    @property
    def node_shapes(self) -> list[tuple[int, ...]]: ...
    @property
    def parameter_names(self) -> list[str]: ...
    @property
    def parameter_count(self) -> int: ...
    @property
    def flops_per_example(self) -> int: ...
    @property
    def step(self) -> int: ...
    @step.setter
    def step(self, value: int) -> None: ...
    @property
    def training(self) -> bool: ...
    # "fp32", on a GPU also "tf32" and "bf16"
    def set_precision(self, name: str) -> None: ...
    def parameter_shape(self, name: str) -> tuple[int, ...]: ...
    def get_parameter(self, name: str) -> Array: ...
    def set_parameter(self, name: str, value: Array) -> None: ...
    def memory(
        self,
        batch_size: int,
        optimizer: dict[str, Any],
        validation: bool,
        early_stopping: bool,
        examples: int = 0,
        clip: bool = False,
        bf16: bool = False,
    ) -> dict[str, int]: ...
    # head: "identity", "softmax" or "sigmoid", applied to the logits
    def forward(
        self, x: Array, head: str, input_scale: float, batch_size: int, threads: int
    ) -> Array: ...
    # loss: {"kind": "cross_entropy" | "binary_cross_entropy" | "mse" | "huber", "delta": float}
    # y: int64 (n,) for cross_entropy, else the network's dtype (n, outputs), C-contiguous
    def evaluate(
        self,
        x: Array,
        y: Array,
        loss: dict[str, Any],
        sample_weight: Array | None,
        input_scale: float,
        batch_size: int,
        threads: int,
    ) -> tuple[float, float]: ...
    def loss_and_gradients(
        self,
        x: Array,
        y: Array,
        loss: dict[str, Any],
        sample_weight: Array | None,
        input_scale: float,
        threads: int,
        clip_norm: float,
        dropout_seed: int | None,
    ) -> tuple[float, dict[str, Array]]: ...
    def fit(
        self,
        x: Array,
        y: Array,
        *,
        rows: Array | None,
        loss: dict[str, Any],
        # {"kind": "sgd", "momentum", "nesterov", "weight_decay"} or
        # {"kind": "adam" | "adamw", "beta1", "beta2", "epsilon", "weight_decay"}
        optimizer: dict[str, Any],
        # {"kind": "constant" | "step" | "cosine", "learning_rate", "epochs", "factor", "final",
        #  "warmup_epochs"}; epochs 0 means the whole fit
        schedule: dict[str, Any],
        epochs: int,
        batch_size: int,
        shuffle: bool,
        seed: int,
        threads: int,
        sample_weight: Array | None,
        validation_x: Array | None,
        validation_y: Array | None,
        validation_weight: Array | None,
        # {"patience": int, "min_delta": float, "restore_best": bool} or None
        early_stopping: dict[str, Any] | None,
        clip_norm: float,
        input_scale: float,
        statistics: bool = False,
        bf16: bool = False,
        # Given a dict with the state at the beginning of an epoch, which `resume` takes
        on_checkpoint: Callable[[dict[str, Any]], object] = ...,
        checkpoint_seconds: float = ...,
        resume: dict[str, Any] = ...,
        on_epoch: Callable[[EpochRecord], object] | None,
        # (epoch, steps done in it, steps in it), at most every 100 ms
        on_progress: Callable[[int, int, int], object] | None,
    ) -> FitResult: ...

# One dict of fit's keyword arguments a network, without on_progress; on_finish(i, its result) is
# called when network i is done, on_progress(finished, networks) at most every 50 ms.
def fit_many(
    networks: list[Network],
    xs: list[Array],
    ys: list[Array],
    settings: list[dict[str, Any]],
    threads: int,
    on_finish: Callable[[int, FitResult], object] | None,
    on_progress: Callable[[int, int], object] | None,
) -> list[FitResult]: ...

# Kernels chosen by name; "" asks for the best of this CPU.
def available_kernels() -> list[str]: ...
def kernels() -> str: ...
def has_bf16() -> bool: ...
def set_kernels(name: str) -> None: ...
def default_threads() -> int: ...
def set_threads(threads: int) -> None: ...
def cgroup_cpus(root: str) -> int: ...
def pool_threads() -> int: ...

# functional: C-contiguous arrays of one floating dtype; `out` of the result's shape and dtype
def activation_forward(kind: str, x: Array, alpha: float, out: Array | None) -> Array: ...
def activation_backward(
    kind: str, dy: Array, saved: Array, alpha: float, out: Array | None
) -> Array: ...
def dense_forward(x: Array, weight: Array, bias: Array | None, out: Array | None) -> Array: ...
def dense_backward(dy: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]: ...
def softmax(logits: Array, out: Array | None) -> Array: ...
def dropout_forward(
    x: Array, p: float, seed: int, step: int, layer: int, out: Array | None
) -> Array: ...
def cross_entropy_forward(logits: Array, labels: Array, sample_weight: Array | None) -> float: ...
def cross_entropy_backward(
    logits: Array, labels: Array, sample_weight: Array | None, out: Array | None
) -> Array: ...

# kind: binary_cross_entropy, mse, huber
def loss_forward(
    kind: str, prediction: Array, target: Array, sample_weight: Array | None, delta: float
) -> float: ...
def loss_backward(
    kind: str,
    prediction: Array,
    target: Array,
    sample_weight: Array | None,
    delta: float,
    out: Array | None,
) -> Array: ...

# One step in place on flat arrays; `step` counts from 1
def sgd_step(
    parameter: Array,
    gradient: Array,
    velocity: Array,
    learning_rate: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> None: ...
def adam_step(
    parameter: Array,
    gradient: Array,
    first: Array,
    second: Array,
    learning_rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    decoupled: bool,
    step: int,
) -> None: ...

# Random numbers (cpp/random.h); purposes 0 shuffle, 1 dropout, 2 weights
def random_words(
    seed: int, purpose: int, layer: int, step: int, count: int
) -> NDArray[np.uint32]: ...
def random_uniform(seed: int, purpose: int, layer: int, count: int) -> NDArray[np.float64]: ...
def random_normal(seed: int, purpose: int, layer: int, count: int) -> NDArray[np.float64]: ...
def random_permutation(seed: int, step: int, count: int) -> NDArray[np.int64]: ...

__version__: str
# The fits of scaling curves (cpp/curves/bindings.cpp)
curves: ModuleType
