"""Devices by name, and the extension that serves each: `_core` for the CPU, `_cuda` for GPUs.

`_cuda` is imported at the first use, so that `import dlcore` costs nothing more where there is one.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcore import _core
from dlcore._settings import describe

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# DLPack's numbers of devices.
_CUDA, _CUDA_MANAGED = 2, 13

#: How products are computed on a GPU; the first is what a network begins with.
PRECISIONS = ("tf32", "fp32", "bf16")

_CUBLASLT = "libcublasLt.so.13"
# The wheels' folder of NVIDIA's libraries: nvidia/cu13/lib.
_WHEEL = "nvidia.cu13"


def parse(given: object, what: str) -> str:
    """Return a device's name: "cpu", "cuda" (the first GPU) or "cuda:1"."""
    if given == "cpu":
        return "cpu"
    if isinstance(given, str):
        kind, _, number = given.partition(":")
        if kind == "cuda" and (given == "cuda" or (number.isdecimal() and len(number) < 4)):
            return given
    raise ValueError(f'{what} needs to be "cpu" or "cuda", found {describe(given)}')


def load(device: str, what: str) -> tuple[Any, int]:
    """Return the extension that serves a device, and the device's number, or say what is missing."""
    if device == "cpu":
        return _core, 0
    extension = engine(device, what)
    number = int(device.partition(":")[2] or 0)
    if why := extension.why_not(number):
        raise RuntimeError(f'{what}="{device}" {why}')
    return extension, number


def engine(device: str, what: str) -> Any:
    """Return the extension that serves GPUs, whichever of them, or say what is missing."""
    extension, why = _usable()
    if extension is None:
        raise RuntimeError(f'{what}="{device}" is not available: {why}; use device="cpu"')
    return extension


def cuda_status() -> tuple[bool, str]:
    """Return whether the GPU engines can be used, and the reason in a few words."""
    extension, why = _usable()
    return extension is not None, why


def is_array(value: object) -> bool:
    """Return whether an array lies on a GPU, whichever library made it."""
    if isinstance(value, (np.ndarray, type)):
        return False
    place = getattr(value, "__dlpack_device__", None)
    if place is not None:
        return int(place()[0]) in (_CUDA, _CUDA_MANAGED)
    return hasattr(value, "__cuda_array_interface__")


def as_array(value: object, what: str) -> Any:
    """Return an array on a GPU as dlcore's own, without a copy."""
    return engine("cuda", f"{what}: device").as_array(value, what)


def device_array(x: ArrayLike, device: str = "cuda", stream: object = None) -> Any:
    """Return an array on a GPU: a copy of a NumPy array, or a view of what lies on one already.

    What comes back goes to CuPy, PyTorch and JAX without a copy (``torch.from_dlpack(a)``), and to
    NumPy by its ``numpy()``.

    Parameters
    ----------
    x : array_like
        float32, float64, float16, uint8, int32 or int64.
    device : str, default "cuda"
        As for `Network`.
    stream : int or object with ``__cuda_stream__``, optional
        Whose work on `x` is waited for, where `x` does not tell it. DLPack and the third version of
        ``__cuda_array_interface__`` do, so that CuPy's, PyTorch's and JAX's arrays need none.

    Returns
    -------
    Array
        With ``shape``, ``dtype``, ``device`` and ``numpy()``.

    Raises
    ------
    TypeError
        If `x` is of another dtype, or lies on a GPU with gaps, or `stream` is no stream.
    ValueError
        If `device` is no GPU.
    RuntimeError
        If the device is not available.
    """
    name = parse(device, "device_array: device")
    if name == "cpu":
        raise ValueError('device_array: device needs to be "cuda", found "cpu"')
    if is_array(x):
        return engine(name, "device_array: device").as_array(x, "device_array", stream)
    extension, number = load(name, "device_array: device")
    return extension.from_numpy(np.asarray(x, order="C"), number)


def _extension() -> tuple[ModuleType | None, str]:
    try:
        return importlib.import_module("dlcore._cuda"), ""
    except ModuleNotFoundError:
        return None, "this build of dlcore has no CUDA engine"
    except ImportError as error:
        return None, f"dlcore._cuda cannot be loaded: {error}"


def _usable() -> tuple[ModuleType | None, str]:
    """Return the extension where a GPU and all else is there, and the reason in a few words."""
    extension, why = _extension()
    if extension is None:
        return None, why
    usable, device = extension.probe()
    if not usable:
        return None, device
    opened, library, _ = extension.open_cublaslt(_wheel_path())
    if not opened:
        return None, f'{library}; pip install "nvidia-cublas>=13,<14"'
    return extension, f"{device}; {library}"


def _wheel_path() -> str:
    """Return the absolute path of the cuBLASLt in the package nvidia-cublas, or ""."""
    try:
        spec = importlib.util.find_spec(_WHEEL)
    except ModuleNotFoundError:
        return ""
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = os.path.join(os.path.abspath(folder), "lib", _CUBLASLT)
        if os.path.exists(path):
            return path
    return ""
