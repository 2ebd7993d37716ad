"""What this installation is and can use."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from dlcore import _core
from dlcore._device import cuda_status


class Info(dict[str, Any]):
    """A dict that prints as a table."""

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:<{width}}  {_show(value)}" for name, value in self.items())

    __repr__ = __str__


def _show(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def info() -> Info:
    """Say which version this is, which instructions it uses, how many threads, and whether CUDA.

    Returns
    -------
    dict
        Prints as a table. Its keys are "version"; "kernels", the instruction set in use, and
        "available_kernels", those this CPU can run, best first (the environment variable
        DLCORE_KERNELS chooses); "bf16", whether ``precision="bf16"`` works on this CPU; "threads",
        what ``threads=None`` means; "cuda", whether ``device="cuda"`` works, and "cuda_status", with
        which GPU and libraries, or why not; "numpy" and "python", their versions.

    Examples
    --------
    >>> import dlcore
    >>> dlcore.info()["kernels"] in dlcore.info()["available_kernels"]
    True
    """
    available, status = cuda_status()
    return Info(
        version=_core.__version__,
        kernels=_core.kernels(),
        available_kernels=_core.available_kernels(),
        bf16=_core.has_bf16(),
        threads=_core.default_threads(),
        cuda=available,
        cuda_status=status,
        numpy=np.__version__,
        python=sys.version.split()[0],
    )
