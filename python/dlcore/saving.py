"""Networks in files: a description as JSON in the metadata of a safetensors file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dlcore import _core, _inputs, files, layers, losses
from dlcore._settings import describe, integer, number

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from dlcore.network import Network

    Array = NDArray[Any]
    # Arguments of the network, its parameters, and its loss, optimizer, input scale and step.
    Saved = tuple[tuple[Any, ...], dict[str, Array], tuple[Any, ...]]

_FORMAT = 1


def write(network: Network, path: str | os.PathLike[str]) -> None:
    """Write what `Network.save` promises."""
    described = {
        "format": _FORMAT,
        "version": _core.__version__,
        "layers": layers.to_json(network.layers),
        "input_shape": network.input_shape,
        "seed": network.seed,
        "dtype": network.dtype,
        "loss": None
        if network.loss is None
        else {"name": network.loss.name, "settings": network.loss.settings},
        "input_scale": network.input_scale,
        "step": network._core.step,
    }
    files.write(path, network.parameters, {"dlcore": json.dumps(described, allow_nan=False)})


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
        return rebuild(*_restore(arrays, metadata))
    except RecursionError:
        reason = "its layers are nested too deeply"
    except (TypeError, ValueError, OverflowError, MemoryError) as error:
        reason = str(error)
    raise ValueError(f"{os.fsdecode(path)}: {reason}")


def rebuild(
    arguments: tuple[Any, ...],
    parameters: Mapping[str, Array],
    remembered: tuple[Any, ...],
    precision: str | None = None,
) -> Network:
    """Make a network from its settings and weights, without drawing initial ones."""
    from dlcore.network import Network  # not above: that module needs this one

    network = Network.__new__(Network)
    network._connect(*arguments)
    network._set(parameters)
    network.loss, network.optimizer, network.input_scale, network._core.step = remembered
    if precision is not None:
        network.precision = precision
    return network


def _restore(arrays: dict[str, Array], metadata: dict[str, str]) -> Saved:
    if "dlcore" not in metadata:
        raise ValueError(
            "the file holds no network of dlcore; build one and pass what dlcore.files.read "
            "returns to its set_parameters"
        )
    described = files.parse_json(metadata["dlcore"].encode("utf-8", "replace"), "the network")
    if described.get("format") != _FORMAT:
        raise ValueError(
            f"the network is in format {describe(described.get('format'))}; "
            f"this version of dlcore reads format {_FORMAT}"
        )
    needed = {"format", "version", "layers", "input_shape", "seed", "dtype", "loss", "input_scale"}
    needed.add("step")
    if set(described) != needed:
        wrong = ", ".join(sorted(set(described) ^ needed))
        raise ValueError(f"the network's description has missing or unknown entries: {wrong[:80]}")
    steps = layers.from_json(described["layers"])
    input_shape = _inputs.shape(described["input_shape"])
    dtype = _inputs.float_dtype(described["dtype"])
    step = integer("the network's step", described["step"], 0, 2**48 - 1)
    # The sizes are believed only once the arrays in the file bear them out: a line of JSON must
    # not make us allocate a terabyte.
    graph = layers.Graph()
    graph.connect(layers.check_layers(steps, "layers"), 0)
    shapes = graph.parameter_shapes(input_shape)
    if set(shapes) != set(arrays):
        wrong = _inputs.listing(sorted(set(shapes) ^ set(arrays)))
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
    return arguments, arrays, (loss, None, scale, step)
