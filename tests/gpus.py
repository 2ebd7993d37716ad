"""What the tests of networks and arrays on a GPU share.

They run where ``device="cuda"`` works: on a GPU, or in the emulation (DLCORE_CUDA=EMULATE), which
runs the kernels, the streams and the products on the CPU.
"""

from __future__ import annotations

import pytest

import dlcore
from networks import small_network as small_network_on_cpu
from tolerances import Bounds, RoundedBounds

#: A GPU or its emulation: most machines have neither, and .ci/emulated.sh runs these tests there.
needs_gpu = pytest.mark.skipif(not dlcore.info()["cuda"], reason=dlcore.info()["cuda_status"])

if dlcore.info()["cuda"]:
    from dlcore import _cuda

    EMULATED = _cuda.emulated
else:
    EMULATED = False
#: What only the emulation lets a test see or set: counts of calls, GPUs of any kind.
emulated_only = pytest.mark.skipif(not EMULATED, reason="needs the emulation")

#: What each precision rounds: a kind of bounds.
PRECISIONS = {
    "fp32": Bounds("float32"),
    "tf32": RoundedBounds("float32", 2.0**-10),
    "bf16": RoundedBounds("float32", 2.0**-9, 2.0**-9),
}


def moved(network, precision="fp32"):
    """The network on the GPU."""
    network.to("cuda").precision = precision
    return network


def small_network(dropout=0.25, kind="tanh", precision="fp32"):
    return moved(small_network_on_cpu("float32", dropout, kind), precision)


def stored(bounds, x):
    return bounds.stored(x) if isinstance(bounds, RoundedBounds) else bounds.exact(x)


def taken(call):
    """What a call allocates on the GPU, and how many algorithms it asks cuBLASLt for."""
    before = _cuda.emulated_counts()
    call()
    after = _cuda.emulated_counts()
    return tuple(after[name] - before[name] for name in ("allocations", "choices"))


class Foreign:
    """Another library's array: it says where its memory is, in one of two ways."""

    def __init__(self, array, protocol, **changes):
        self._array = array
        if protocol == "interface":
            self.__cuda_array_interface__ = {**array.__cuda_array_interface__, **changes}
        else:
            versioned = protocol == "dlpack1"
            self.__dlpack_device__ = array.__dlpack_device__
            self.__dlpack__ = self._versioned if versioned else self._old

    def _versioned(self, *, stream=None, max_version=None):
        assert stream == 1
        return self._array.__dlpack__(stream=stream, max_version=max_version)

    def _old(self, *, stream=None):
        return self._array.__dlpack__(stream=stream)
