"""What `Network.summary` says."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from dlcore import layers

if TYPE_CHECKING:
    from dlcore.network import Network
    from dlcore.optimizers import Optimizer


def table(network: Network) -> list[str]:
    """Return a line for each layer and one for the whole."""
    core = network._core
    rows = [("name", "layer", "output shape", "parameters")]
    for name, layer, node in network._graph.rows:
        nested = isinstance(layer, layers.Residual)
        count = sum(
            math.prod(core.parameter_shape(parameter))
            for parameter in (f"{name}.weight", f"{name}.bias")
            if parameter in core.parameter_names
        )
        shown = "Residual" if nested else repr(layer)
        rows.append((name, shown, str(core.node_shapes[node]), "" if nested else f"{count:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]:<{widths[2]}}  "
        f"{row[3]:>{widths[3]}}".rstrip()
        for row in rows
    ]
    size = network.parameter_count * np.dtype(network.dtype).itemsize
    lines.append(
        f"{network.parameter_count:,} parameters ({_bytes(size)} in {network.dtype}); "
        f"{network.flops_per_example:,} FLOP per example and training step"
    )
    return lines


def memory(
    network: Network,
    batch_size: int,
    optimizer: Optimizer,
    examples: int,
    validation: bool,
    early_stopping: bool,
    clip_norm: bool,
) -> str:
    """Return a line about the memory that a fit takes beside the data."""
    parts = network._core.memory(
        batch_size, optimizer._native(), validation, early_stopping, examples, clip_norm
    )
    total = _bytes(parts.pop("total"))
    shown = ", ".join(
        f"{name.replace('_', ' ')} {_bytes(part)}" for name, part in parts.items() if part
    )
    return (
        f"fit at batch_size={batch_size} with {optimizer!r} takes {total} beside the data: {shown}"
    )


def _bytes(size: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:,.0f} {unit}" if unit == "bytes" else f"{size:,.1f} {unit}"
