"""dlcore: measures whether more data, a larger network or more computation would help you.

Networks are built from layers and trained natively: `Network`, its layers and optimizers are
here, single operations in `functional`, learning rates in `schedules`, losses in `losses`. The
studies that answer the question are in `scaling`.
"""

from typing import TYPE_CHECKING

from dlcore import _threadpool, files, functional, initializers, losses, optimizers, schedules
from dlcore._core import __version__
from dlcore._device import device_array
from dlcore.fleet import fit_many
from dlcore.history import DivergenceWarning, EarlyStopping, History
from dlcore.info import info
from dlcore.layers import (
    GELU,
    Dense,
    Dropout,
    Flatten,
    Identity,
    LeakyReLU,
    ReLU,
    Residual,
    Sigmoid,
    SiLU,
    Softplus,
    Tanh,
)
from dlcore.network import Network
from dlcore.optimizers import SGD, Adam, AdamW
from dlcore.saving import load

if TYPE_CHECKING:
    from dlcore import scaling, sklearn

__all__ = [
    "GELU",
    "SGD",
    "Adam",
    "AdamW",
    "Dense",
    "DivergenceWarning",
    "Dropout",
    "EarlyStopping",
    "Flatten",
    "History",
    "Identity",
    "LeakyReLU",
    "Network",
    "ReLU",
    "Residual",
    "SiLU",
    "Sigmoid",
    "Softplus",
    "Tanh",
    "__version__",
    "device_array",
    "files",
    "fit_many",
    "functional",
    "info",
    "initializers",
    "load",
    "losses",
    "optimizers",
    "scaling",
    "schedules",
    "sklearn",
]

# Loaded on first use, so that `import dlcore` stays quick and needs NumPy alone.
_LAZY = ("claims", "scaling", "sklearn")


def __getattr__(name: str) -> object:
    if name in _LAZY:
        import importlib

        try:
            return importlib.import_module(f"dlcore.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"dlcore.{name}":  # something that the module itself needs
                raise
    raise AttributeError(f"module 'dlcore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


_threadpool.watch()
