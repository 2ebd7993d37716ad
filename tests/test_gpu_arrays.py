"""Other libraries' arrays on a GPU: in and out, their streams, and networks that take them."""

from __future__ import annotations

import numpy as np
import pytest

import dlcore
from gpus import Foreign, emulated_only, needs_gpu, small_network
from networks import bits, small_data

pytestmark = needs_gpu

if dlcore.info()["cuda"]:
    from dlcore import _cuda


@pytest.mark.parametrize("protocol", ["interface", "dlpack", "dlpack1"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint8", "int32", "int64"])
def test_arrays_go_in_and_out_without_a_copy(protocol, dtype):
    x = np.arange(24).reshape(4, 6).astype(dtype)
    array = dlcore.device_array(x)
    assert (array.shape, array.ndim, array.size, len(array)) == ((4, 6), 2, 24, 4)
    assert array.dtype == x.dtype
    assert array.device == "cuda:0"
    assert repr(array) == f"Array(shape=(4, 6), dtype={dtype}, device='cuda:0')"
    view = dlcore.device_array(Foreign(array, protocol))
    pointer = array.__cuda_array_interface__["data"][0]
    assert view.__cuda_array_interface__["data"][0] == pointer
    del array
    np.testing.assert_array_equal(view.numpy(), x)


class Streamed(Foreign):
    """An array whose values are still to be written by its library's stream."""

    def __init__(self, protocol, how):
        array = dlcore.device_array(np.zeros(5, np.float32))
        self.stream = _cuda.EmulatedStream()
        self.stream.fill(array, 3.0)
        number = self.stream.number
        changes = {}
        if how == "entry":
            changes = {"stream": number, "version": 3}
        elif how == "object in the entry":
            changes = {"stream": Stream(number), "version": 3}
        elif how == "method":
            self.__cuda_stream__ = lambda: (0, number)
        elif how == "property":
            self.__cuda_stream__ = (0, number)
        super().__init__(array, protocol, **changes)


class Stream:
    def __init__(self, number):
        self.number = number

    def __cuda_stream__(self):
        return 0, self.number


class CupyStream:
    def __init__(self, number):
        self.ptr = number


@emulated_only
@pytest.mark.parametrize(
    ("protocol", "how"),
    [
        ("dlpack", ""),
        ("dlpack1", ""),
        ("interface", "entry"),
        ("interface", "object in the entry"),
        ("interface", "method"),
        ("interface", "property"),
    ],
)
def test_what_a_stream_still_writes_is_waited_for(protocol, how):
    view = dlcore.device_array(Streamed(protocol, how))
    np.testing.assert_array_equal(view.numpy(), np.full(5, 3, np.float32))
    doubled = dlcore.functional.relu(Streamed(protocol, how))
    np.testing.assert_array_equal(doubled.numpy(), np.full(5, 3, np.float32))


@emulated_only
@pytest.mark.parametrize("kind", [int, Stream, CupyStream])
def test_a_stream_that_nobody_tells_can_be_given(kind):
    array = Streamed("interface", "")
    # Nobody has waited: what the tests above see is due to the streams.
    np.testing.assert_array_equal(dlcore.device_array(array).numpy(), np.zeros(5))
    view = dlcore.device_array(array, stream=kind(array.stream.number))
    np.testing.assert_array_equal(view.numpy(), np.full(5, 3, np.float32))
    own = Streamed("interface", "")
    dlcore.device_array(own._array, stream=kind(own.stream.number))
    np.testing.assert_array_equal(own._array.numpy(), np.full(5, 3, np.float32))


def test_what_is_no_stream():
    array = dlcore.device_array(np.zeros(3, np.float32))
    for stream in ("1", 1.0, object()):
        with pytest.raises(TypeError, match="device_array: a stream needs to be an int or an obj"):
            dlcore.device_array(array, stream=stream)

    class Later:
        def __cuda_stream__(self):
            return 1, 0

    with pytest.raises(TypeError, match="device_array: dlcore knows version 0 of __cuda_stream__"):
        dlcore.device_array(array, stream=Later())


def test_arrays_that_are_refused():
    array = dlcore.device_array(np.zeros((4, 6), np.float32))
    with pytest.raises(ValueError, match=r"must have no negative extents, found \(-4, 6\)"):
        dlcore.device_array(Foreign(array, "interface", shape=(-4, 6)))
    with pytest.raises(ValueError, match=r"has 2 axes but 1 strides"):
        dlcore.device_array(Foreign(array, "interface", strides=(4,)))
    for changes, sentence in (
        ({"strides": (48, 8)}, r"must be C-contiguous; make it so there"),
        ({"typestr": "<c8"}, r"must be float32, float64, float16, uint8, int32 or int64"),
    ):
        with pytest.raises(TypeError, match=sentence):
            dlcore.device_array(Foreign(array, "interface", **changes))
    dlcore.device_array(Foreign(array, "interface", strides=(24, 4), stream=1))
    with pytest.raises(TypeError, match="must be float32, float64"):
        dlcore.device_array(np.zeros(3, np.complex64))
    with pytest.raises(TypeError, match="relu_backward: y lies on no GPU"):
        dlcore.functional.relu_backward(array, np.zeros((4, 6), np.float32))
    with pytest.raises(TypeError, match="sigmoid: x must be float32 on a GPU, found float64"):
        dlcore.functional.sigmoid(dlcore.device_array(np.zeros(3)))
    with pytest.raises(ValueError, match=r"relu: out must be \(4, 6\), found \(3,\)"):
        dlcore.functional.relu(array, out=dlcore.device_array(np.zeros(3, np.float32)))
    with pytest.raises(ValueError, match='needs to be "cuda"'):
        dlcore.device_array(np.zeros(3), "cpu")


@pytest.mark.parametrize("protocol", ["interface", "dlpack1"])
def test_read_only_arrays_are_read_alone(protocol):
    """As JAX's are, which nobody may change; and what dlcore shows of them says so again."""
    x = np.linspace(-1, 1, 6, dtype=np.float32)
    array = dlcore.device_array(x)
    place = array.__cuda_array_interface__["data"][0]
    given = dlcore.device_array(Foreign(array, "interface", data=(place, True)))
    if protocol == "dlpack1":
        given = dlcore.device_array(Foreign(given, "dlpack1"))
        with pytest.raises(TypeError, match="__dlpack__: this array is read-only, which versions"):
            given.__dlpack__()
    assert given.__cuda_array_interface__["data"] == (place, True)
    np.testing.assert_array_equal(dlcore.functional.relu(given).numpy(), np.maximum(x, 0))
    with pytest.raises(ValueError, match="^relu: out is read-only$"):
        dlcore.functional.relu(array, out=given)
    with pytest.raises(ValueError, match="^sgd_step: parameter is read-only$"):
        _cuda.sgd_step(given, array, array, 0.1, 0.5, False, 0.0)
    np.testing.assert_array_equal(array.numpy(), x)


@pytest.mark.parametrize("protocol", ["own", "interface", "dlpack1"])
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_networks_take_arrays_where_they_lie(dtype, protocol):
    rng = np.random.default_rng(0)
    host = rng.integers(0, 200, (90, 6)).astype(dtype)
    y = rng.integers(0, 3, 90)
    array = dlcore.device_array(host)
    x = array if protocol == "own" else Foreign(array, protocol)
    results = []
    for data, labels in ((host, y), (x, dlcore.device_array(y))):
        layers = [dlcore.Dense(5), dlcore.ReLU(), dlcore.Dense(3)]
        network = dlcore.Network(layers, 6, seed=1, device="cuda")
        options = {"input_scale": 0.01, "epochs": 2, "batch_size": 8}
        history = network.fit(data, labels, optimizer=dlcore.SGD(0.1), **options)
        results.append(
            (
                history.loss,
                network.evaluate(data, labels),
                network.loss_and_gradients(data, labels)[0],
                bits(network),
                network.predict(data),
            )
        )
    assert results[0][:4] == results[1][:4]
    assert isinstance(results[0][4], np.ndarray)
    np.testing.assert_array_equal(results[1][4].numpy(), results[0][4])
    with pytest.raises(
        TypeError, match="needs to be float32, float64, float16, uint8, found int64"
    ):
        network.predict(dlcore.device_array(host.astype(np.int64)))
    with pytest.raises(ValueError, match="x needs shape"):
        network.predict(dlcore.device_array(host[:, :5]))
    # A network on the CPU copies it.
    network.to("cpu").predict(x)


def test_bad_values_on_the_device_are_named():
    x, y = small_data("float32", count=50)
    x[33, 2] = np.inf
    with pytest.raises(ValueError, match="fit: x holds inf at row 33, column 2"):
        small_network().fit(dlcore.device_array(x), y)
