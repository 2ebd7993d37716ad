"""Layers: the settings of each step of a network, and how steps connect.

A layer holds settings and no weights; `dlcore.Network` owns the weights. The same object may
therefore stand in several places or networks, each with weights of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, TypeAlias

from dlcore import initializers
from dlcore._settings import Settings, choice, describe, integer, number

#: One step of a network; a list of steps is a step too, named as PyTorch names nested Sequentials.
Step: TypeAlias = "Layer | Sequence[Step]"


class Graph:
    """The nodes of a network as the core takes them, collected layer by layer.

    Node 0 is the input and is not in the list; the others count from 1.

    Attributes
    ----------
    nodes : list of dict
    dense : list of (str, int, Dense)
        Name, node number and settings of each layer with weights.
    rows : list of (str, Layer, int)
        Name, settings and output node of every layer, outermost first.
    """

    def __init__(self) -> None:
        self.nodes: list[dict[str, Any]] = []
        self.dense: list[tuple[str, int, Dense]] = []
        self.rows: list[tuple[str, Layer, int]] = []

    def add(self, op: str, *inputs: int, **settings: Any) -> int:
        """Append a node and return its number."""
        self.nodes.append({"op": op, "inputs": list(inputs), **settings})
        return len(self.nodes)

    def parameter_shapes(self, input_shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """Follow the shapes from the input; return those of the parameters by name.

        The core does the same when it builds the network, and allocates; this is for looking at
        a description that cannot be trusted, before.
        """
        shapes: list[tuple[int, ...]] = [tuple(input_shape)]
        parameters: dict[str, tuple[int, ...]] = {}
        for node in self.nodes:
            shape = shapes[node["inputs"][0]]
            if node["op"] == "dense":
                parameters[f"{node['name']}.weight"] = (node["units"], shape[-1])
                if node["bias"]:
                    parameters[f"{node['name']}.bias"] = (node["units"],)
                shape = (*shape[:-1], node["units"])
            elif node["op"] == "flatten":
                shape = (math.prod(shape),)
            shapes.append(shape)
        return parameters

    def connect(self, steps: Sequence[Step], x: int, prefix: str = "") -> int:
        """Chain `steps` after node `x`; return the node of the last one."""
        for position, step in enumerate(steps):
            name = f"{prefix}{position}"
            if isinstance(step, Layer):
                row = len(self.rows)
                x = step._connect(self, x, name)
                self.rows.insert(row, (name, step, x))
            else:
                x = self.connect(step, x, name + ".")
        return x


class Layer(Settings):
    """Base of the layers; use one of its subclasses."""

    def _connect(self, graph: Graph, x: int, name: str) -> int:
        """Add this layer's nodes after node `x`; return the node of its output."""
        raise NotImplementedError


class Dense(Layer):
    """Affine map of the last axis: ``y = x @ weight.T + bias``.

    Parameters
    ----------
    units : int
        Size of the last axis of ``y``, at least 1; that of ``x`` is known when the network is
        built.
    bias : bool, default True
        Whether to add a bias, which starts at zero.
    initializer : str, default "he_normal"
        Draws the initial weight; "he_normal" is N(0, 2 / in_features) [1]_, and
        `dlcore.initializers` lists the others.

    Attributes
    ----------
    units, bias, initializer
        The arguments. The network's parameters are ``"<name>.weight"`` of shape
        (units, in_features) and ``"<name>.bias"`` of shape (units,), where the name is the
        layer's position.

    Raises
    ------
    TypeError
        If an argument is of the wrong type.
    ValueError
        If `units` is below 1 or `initializer` is unknown.

    References
    ----------
    .. [1] He et al., "Delving Deep into Rectifiers", ICCV 2015, eq. 10.

    Examples
    --------
    >>> import numpy as np
    >>> import dlcore
    >>> network = dlcore.Network([dlcore.Dense(2)], input_shape=(3,), seed=0)
    >>> network(np.ones((5, 3), np.float32)).shape
    (5, 2)
    """

    units: int
    bias: bool
    initializer: str

    def __init__(self, units: int, bias: bool = True, initializer: str = "he_normal") -> None:
        super().__init__(
            units=integer("Dense: units", units, 1),
            bias=_boolean("Dense: bias", bias),
            initializer=choice("Dense: initializer", initializer, initializers.NAMES),
        )

    def _connect(self, graph: Graph, x: int, name: str) -> int:
        node = graph.add("dense", x, name=name, units=self.units, bias=self.bias)
        graph.dense.append((name, node, self))
        return node


class Identity(Layer):
    """Pass ``x`` on unchanged; costs nothing, and keeps the names of the layers after it."""

    def __init__(self) -> None:
        super().__init__()

    def _connect(self, graph: Graph, x: int, name: str) -> int:
        return x


class _Activation(Layer):
    """Base of the element-wise layers; `kind` is the core's name of the function."""

    kind: ClassVar[str] = ""

    def _connect(self, graph: Graph, x: int, name: str) -> int:
        return graph.add("activation", x, kind=self.kind, alpha=0.0)


class ReLU(_Activation):
    """Rectified linear unit, ``max(x, 0)`` [1]_, element by element; its derivative at 0 is 0.

    References
    ----------
    .. [1] Glorot, Bordes and Bengio, "Deep Sparse Rectifier Neural Networks", AISTATS 2011.
    """

    kind = "relu"

    def __init__(self) -> None:
        super().__init__()


class LeakyReLU(_Activation):
    """``x`` where it is positive, else ``negative_slope * x`` [1]_, element by element.

    Parameters
    ----------
    negative_slope : float, default 0.01
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If the slope is not a finite number of at least 0.

    References
    ----------
    .. [1] Maas, Hannun and Ng, "Rectifier Nonlinearities Improve Neural Network Acoustic
       Models", ICML 2013.
    """

    kind = "leaky_relu"
    negative_slope: float

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__(negative_slope=number("LeakyReLU: negative_slope", negative_slope, 0))

    def _connect(self, graph: Graph, x: int, name: str) -> int:
        return graph.add("activation", x, kind=self.kind, alpha=self.negative_slope)


class Sigmoid(_Activation):
    """Logistic function, ``1 / (1 + exp(-x))``, element by element."""

    kind = "sigmoid"

    def __init__(self) -> None:
        super().__init__()


class Tanh(_Activation):
    """Hyperbolic tangent, element by element."""

    kind = "tanh"

    def __init__(self) -> None:
        super().__init__()


class GELU(_Activation):
    """Gaussian error linear unit, ``x * Phi(x)`` [1]_, element by element.

    Parameters
    ----------
    approximate : {"none", "tanh"}, default "none"
        "none" computes the normal distribution function ``Phi`` itself, "tanh" the form
        ``x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))``.

    Raises
    ------
    TypeError, ValueError
        If `approximate` is neither.

    References
    ----------
    .. [1] Hendrycks and Gimpel, "Gaussian Error Linear Units (GELUs)", 2016, section 2.
    """

    approximate: str

    def __init__(self, approximate: str = "none") -> None:
        super().__init__(
            approximate=choice("GELU: approximate", approximate, ("none", "tanh")),
        )

    def _connect(self, graph: Graph, x: int, name: str) -> int:
        kind = "gelu" if self.approximate == "none" else "gelu_tanh"
        return graph.add("activation", x, kind=kind, alpha=0.0)


class SiLU(_Activation):
    """Sigmoid linear unit, ``x / (1 + exp(-x))`` [1]_, element by element; also called swish.

    References
    ----------
    .. [1] Elfwing, Uchibe and Doya, "Sigmoid-Weighted Linear Units for Neural Network Function
       Approximation in Reinforcement Learning", Neural Networks 107 (2018).
    """

    kind = "silu"

    def __init__(self) -> None:
        super().__init__()


class Softplus(_Activation):
    """Smooth form of ReLU, ``log(1 + exp(x))`` [1]_, element by element.

    References
    ----------
    .. [1] Dugas et al., "Incorporating Second-Order Functional Knowledge for Better Option
       Pricing", NIPS 2000.
    """

    kind = "softplus"

    def __init__(self) -> None:
        super().__init__()


class Dropout(Layer):
    """While training, zero each element with probability `p` and divide the rest by ``1 - p`` [1]_.

    Outside ``fit`` the layer passes ``x`` on unchanged. Which elements are dropped follows from
    the seed of the fit, the layer's place and the step, never from the number of threads.

    Parameters
    ----------
    p : float, default 0.5
        From 0 to below 1.

    Raises
    ------
    TypeError, ValueError
        If `p` is not a number in that range.

    References
    ----------
    .. [1] Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
       Overfitting", JMLR 15 (2014).
    """

    p: float

    def __init__(self, p: float = 0.5) -> None:
        super().__init__(p=number("Dropout: p", p, 0, 1))

    def _connect(self, graph: Graph, x: int, name: str) -> int:
        return graph.add("dropout", x, p=self.p)


class Flatten(Layer):
    """Turn each example into one axis, in C order: (n, a, b, ...) becomes (n, a * b * ...)."""

    def __init__(self) -> None:
        super().__init__()

    def _connect(self, graph: Graph, x: int, name: str) -> int:
        return graph.add("flatten", x)


class Residual(Layer):
    """Add a chain of layers to what goes into it: ``y = x + layers(x)`` [1]_.

    Parameters
    ----------
    layers : list of Layer
        At least one; together they keep the shape of ``x``. Inside a residual layer at position
        2 the first layer is named "2.0".

    Raises
    ------
    TypeError, ValueError
        If `layers` is not a list of layers, or is empty.

    References
    ----------
    .. [1] He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, eq. 1.

    Examples
    --------
    >>> import dlcore
    >>> block = dlcore.Residual([dlcore.Dense(4), dlcore.ReLU()])
    >>> list(dlcore.Network([block], input_shape=(4,)).parameters)
    ['0.0.weight', '0.0.bias']
    """

    layers: tuple[Step, ...]

    def __init__(self, layers: Sequence[Step]) -> None:
        super().__init__(layers=check_layers(layers, "Residual: layers"))

    def _connect(self, graph: Graph, x: int, name: str) -> int:
        return graph.add("add", x, graph.connect(self.layers, x, name + "."))

    def __repr__(self) -> str:
        return f"Residual({show(self.layers)})"


#: The layers by name, as files spell them.
BY_NAME: dict[str, type[Layer]] = {
    layer.__name__: layer
    for layer in (
        Dense,
        Identity,
        ReLU,
        LeakyReLU,
        Sigmoid,
        Tanh,
        GELU,
        SiLU,
        Softplus,
        Dropout,
        Flatten,
        Residual,
    )
}


def _boolean(what: str, value: object) -> bool:
    # numpy.bool is fine; a stray array or string is a mistake that bool() would hide
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{what} needs True or False, found {describe(value)}")
    return bool(value)


def check_layers(layers: object, what: str) -> tuple[Step, ...]:
    """Return `layers` as a tuple of layers and nested tuples, or name the first wrong entry."""
    if not isinstance(layers, (list, tuple)):
        raise TypeError(f"{what} needs a list of layers, found {describe(layers)}")
    if not layers:
        raise ValueError(f"{what} needs at least one layer, found an empty list")
    checked: list[Step] = []
    for position, layer in enumerate(layers):
        place = f"{what}[{position}]"
        if isinstance(layer, (list, tuple)):
            checked.append(check_layers(layer, place))
        elif isinstance(layer, Layer):
            checked.append(layer)
        elif isinstance(layer, type) and issubclass(layer, Layer):
            raise TypeError(
                f"{place} is the class {layer.__name__}; make a layer of it, "
                f"dlcore.{layer.__name__}(...)"
            )
        else:
            raise TypeError(f"{place} needs a layer such as dlcore.ReLU(), found {describe(layer)}")
    return tuple(checked)


def show(layers: Sequence[Step]) -> str:
    """Write layers as the list a user would type."""
    shown = (repr(layer) if isinstance(layer, Layer) else show(layer) for layer in layers)
    return f"[{', '.join(shown)}]"


def to_json(layers: Sequence[Step]) -> list[Any]:
    """Describe layers by lists, dicts, strings and numbers alone; `from_json` reads it back."""
    described: list[Any] = []
    for layer in layers:
        if not isinstance(layer, Layer):
            described.append(to_json(layer))
        elif isinstance(layer, Residual):
            described.append({"layer": "Residual", "layers": to_json(layer.layers)})
        else:
            described.append({"layer": type(layer).__name__, **layer.settings})
    return described


def from_json(described: object) -> list[Step]:
    """Make the layers that `to_json` described.

    Raises
    ------
    TypeError, ValueError
        If the description is not one: an unknown layer, a missing or unknown setting.
    """
    if not isinstance(described, list):
        raise TypeError(f"layers needs a list, found {describe(described)}")
    layers: list[Step] = []
    for position, entry in enumerate(described):
        if isinstance(entry, list):
            layers.append(from_json(entry))
            continue
        if not isinstance(entry, dict) or not isinstance(entry.get("layer"), str):
            raise TypeError(f"layers[{position}] needs a layer's name, found {describe(entry)}")
        settings = dict(entry)
        name = settings.pop("layer")
        if name not in BY_NAME:
            raise ValueError(f"layers[{position}] is the unknown layer {name!r}")
        if name == "Residual" and "layers" in settings:
            settings["layers"] = from_json(settings["layers"])
        layers.append(BY_NAME[name](**settings))
    return layers
