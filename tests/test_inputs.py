"""What a network takes as data: arrays of every dtype and layout, data frames, lists."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dlcore
from test_network import blobs, classifier, weights_equal


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_floats_are_used_in_their_own_dtype(dtype):
    x, y = blobs()
    x = x.astype(np.float16)  # exact in all three
    network, expected = classifier(), classifier()
    network.fit(x.astype(dtype), y, epochs=2, batch_size=16)
    expected.fit(x.astype(np.float32), y, epochs=2, batch_size=16)
    assert weights_equal(network, expected)
    np.testing.assert_array_equal(network(x.astype(dtype)), expected(x.astype(np.float32)))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint16, np.longdouble, ">f4", ">i2", "O"])
def test_other_dtypes_are_converted_and_not_scaled(dtype):
    x, y = blobs()
    x = np.abs(np.rint(x))
    network, expected = classifier(), classifier()
    network.fit(x.astype(dtype), y, epochs=2, batch_size=16)
    expected.fit(x, y, epochs=2, batch_size=16)
    assert weights_equal(network, expected)
    np.testing.assert_array_equal(network(x.astype(dtype)), expected(x))


def test_lists_and_booleans_are_data_too():
    network = dlcore.Network([dlcore.Dense(2)], input_shape=(2,))
    x = [[True, False], [False, False], [True, True]]
    network.fit(x, [0, 1, 1], epochs=1)
    np.testing.assert_array_equal(network(x), network(np.array(x, np.float32)))


def test_pixels_are_scaled_on_the_way():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(60, 4), dtype=np.uint8)
    y = (pixels[:, 0] > 127).astype(int)
    floats = pixels.astype(np.float64) / 255
    network, expected = classifier(2, dtype="float64"), classifier(2, dtype="float64")
    network.fit(pixels, y, epochs=3, batch_size=16, validation_data=(pixels[:9], y[:9]))
    expected.fit(floats, y, epochs=3, batch_size=16, validation_data=(floats[:9], y[:9]))
    for name, value in network.parameters.items():
        np.testing.assert_allclose(value, expected.parameters[name], rtol=1e-9, atol=1e-12)
    # Nothing was remembered: floats of the same network are taken as they are.
    assert network.input_scale is None
    np.testing.assert_allclose(network(pixels), network(floats), rtol=1e-9, atol=1e-12)


def test_an_input_scale_is_remembered():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, size=(60, 4), dtype=np.uint8)
    y = (pixels[:, 0] > 127).astype(int)
    network, expected = classifier(2), classifier(2)
    network.fit(pixels, y, epochs=2, input_scale=0.5)
    expected.fit(pixels * 0.5, y, epochs=2)
    assert weights_equal(network, expected)
    assert network.input_scale == 0.5
    np.testing.assert_array_equal(network(pixels), expected(pixels * 0.5))
    np.testing.assert_array_equal(network(pixels.astype(float)), expected(pixels * 0.5))
    np.testing.assert_array_equal(network(pixels, input_scale=1.0), expected(pixels * 1.0))
    assert network.evaluate(pixels, y) == expected.evaluate(pixels * 0.5, y)
    network.fit(pixels, y, epochs=1)
    expected.fit(pixels * 0.5, y, epochs=1)
    assert weights_equal(network, expected)


LAYOUTS = {
    "reversed": lambda x: x[::-1][:, ::-1].copy()[::-1, ::-1],
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every other column": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "fortran": np.asfortranarray,
    "a slice of a wider table": lambda x: np.pad(x, ((0, 0), (2, 3)))[:, 2:-3],
    "a field of a record": lambda x: x.view([("f", x.dtype, x.shape[1])])["f"].reshape(x.shape),
    "unaligned": lambda x: np.frombuffer(b"1" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.uint8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_bits(layout, dtype):
    x, y = blobs()
    x = np.ascontiguousarray(np.abs(8 * x).astype(dtype))
    view = LAYOUTS[layout](x)
    np.testing.assert_array_equal(view, x)
    plain, network = classifier(), classifier()
    plain.fit(x, y, epochs=2, batch_size=16, validation_data=(x, y))
    network.fit(view, y, epochs=2, batch_size=16, validation_data=(view, y))
    assert weights_equal(plain, network)
    np.testing.assert_array_equal(plain(x), network(view))
    assert plain.evaluate(x, y) == network.evaluate(view, y)


def test_broadcast_and_permuted_axes_are_layouts_too():
    x = np.random.default_rng(0).normal(size=(3, 20, 2)).astype(np.float32)
    network = dlcore.Network([dlcore.Flatten(), dlcore.Dense(2)], input_shape=(2, 3))
    moved = x.transpose(1, 2, 0)
    np.testing.assert_array_equal(network(moved), network(moved.copy()))
    constant = np.broadcast_to(np.float32(0.5), (20, 2, 3))
    np.testing.assert_array_equal(network(constant), network(constant.copy()))
    y = np.arange(20) % 2
    other = copy.deepcopy(network)
    network.fit(moved, y, epochs=2, batch_size=8)
    other.fit(moved.copy(), y, epochs=2, batch_size=8)
    assert weights_equal(network, other)


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_memory_map_is_read_where_it_lies(tmp_path, dtype):
    x, y = blobs()
    x = np.abs(8 * x).astype(dtype)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert isinstance(mapped, np.memmap)
    plain, network = classifier(), classifier()
    plain.fit(x, y, epochs=2, batch_size=16)
    network.fit(mapped, np.load(tmp_path / "y.npy", mmap_mode="r"), epochs=2, batch_size=16)
    assert weights_equal(plain, network)
    np.testing.assert_array_equal(network.predict(mapped), plain.predict(x))


def test_native_data_is_not_copied():
    """Peak memory of Python's own allocations stays far below the size of the data."""
    import tracemalloc

    x = np.ones((100_000, 16), np.float32)
    x[::2] = 0
    y = np.arange(100_000, dtype=np.int64) % 2
    network = classifier(2, 16)
    network.fit(x[:100], y[:100], epochs=1)
    tracemalloc.start()
    network.fit(x[::2], y[: len(x) // 2], epochs=1, batch_size=1000)
    network.fit(x, y, epochs=1, batch_size=1000)
    network.evaluate(x[:, ::-1], y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 4


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64, bool, ">i4", "O"])
def test_classes_of_every_integer_dtype(dtype):
    x, y = blobs(classes=2)
    network, expected = classifier(2), classifier(2)
    network.fit(x, y.astype(dtype), epochs=2, batch_size=16)
    expected.fit(x, y, epochs=2, batch_size=16)
    assert weights_equal(network, expected)


def test_data_frames_are_data_too():
    pandas = pytest.importorskip("pandas")
    x, y = blobs()
    network, expected = classifier(), classifier()
    network.fit(pandas.DataFrame(x), pandas.Series(y, dtype="Int64"), epochs=2, batch_size=16)
    expected.fit(x, y, epochs=2, batch_size=16)
    assert weights_equal(network, expected)
    np.testing.assert_array_equal(network.predict(pandas.DataFrame(x)), expected.predict(x))


def test_a_column_of_classes_counts_as_flat():
    x, y = blobs()
    assert classifier().evaluate(x, y[:, None]) == classifier().evaluate(x, y)
    assert classifier().evaluate(x, np.repeat(y, 2)[::2]) == classifier().evaluate(x, y)


def test_no_example_gives_no_prediction():
    network = classifier()
    empty = network.predict(np.zeros((0, 4)))
    assert empty.shape == (0, 3)
    assert empty.dtype == np.float32
    assert network(np.zeros((0, 4), np.float32)).shape == (0, 3)


@given(st.integers(1, 600))
def test_predictions_do_not_depend_on_how_many_are_made_at_once(count):
    x = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    network = classifier()
    np.testing.assert_array_equal(network(x[:count]), network(x)[:count])
