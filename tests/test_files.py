"""Saving and loading: round trips, what other readers see, and readers that survive any bytes."""

import json
import os
import re
import stat
import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import dlcore
from dlcore import files


def build(dtype="float32"):
    return dlcore.Network(
        [
            dlcore.Dense(6, initializer="orthogonal"),
            dlcore.GELU("tanh"),
            dlcore.Residual([dlcore.Dense(6, bias=False), [dlcore.LeakyReLU(0.2)]]),
            dlcore.Dropout(0.25),
            dlcore.Dense(3),
        ],
        input_shape=(4,),
        seed=2**63 + 5,
        dtype=dtype,
    )


def data(classes=3):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 4)).astype(np.float32)
    return x, rng.integers(classes, size=40)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "net.safetensors"


def same_bits(a, b):
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert a[name].tobytes() == b[name].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loaded_network_is_the_saved_one(path, dtype):
    network = build(dtype)
    x, y = data()
    network.fit(x, y, epochs=2, batch_size=16)
    network.save(path)
    loaded = dlcore.load(path)
    same_bits(network.parameters, loaded.parameters)
    assert repr(loaded) == repr(network)
    assert loaded.layers == network.layers
    assert (loaded.seed, loaded.dtype, loaded.device) == (2**63 + 5, dtype, "cpu")
    assert loaded.loss == network.loss == dlcore.losses.CrossEntropy()
    assert loaded.optimizer is None
    np.testing.assert_array_equal(loaded.predict(x), network.predict(x))


def test_predictions_after_loading_mean_the_same(path):
    x, y = data(2)
    for loss, target in [
        ("binary_cross_entropy", y),
        (dlcore.losses.Huber(0.5), y.astype(float)),
        ("mse", y.astype(float)),
    ]:
        network = dlcore.Network([dlcore.Dense(1)], input_shape=(4,))
        network.fit(x, target, loss=loss, epochs=1)
        network.save(path)
        loaded = dlcore.load(path)
        assert loaded.loss == network.loss
        np.testing.assert_array_equal(loaded.predict(x), network.predict(x))


def test_the_input_scale_travels_with_the_network(path):
    x = np.arange(80, dtype=np.uint8).reshape(20, 4)
    y = np.arange(20) % 2
    network = dlcore.Network([dlcore.Dense(2)], input_shape=(4,))
    network.save(path)
    assert dlcore.load(path).input_scale is None
    network.fit(x, y, epochs=1, input_scale=0.01)
    network.save(path)
    loaded = dlcore.load(path)
    assert loaded.input_scale == 0.01
    np.testing.assert_array_equal(loaded(x), network(x))
    assert not np.array_equal(loaded(x, input_scale=1 / 255), network(x))


def test_training_goes_on_with_the_order_it_would_have_had(path):
    """The step counter is kept, so shuffling does not repeat; plain SGD has no other state."""
    x, y = data()
    network = dlcore.Network([dlcore.Dense(3), dlcore.Dropout(0.5)], input_shape=(4,))
    settings = {"optimizer": dlcore.SGD(0.1), "epochs": 2, "batch_size": 8}
    network.fit(x, y, **settings)
    network.save(path)
    loaded = dlcore.load(path)
    network.fit(x, y, **settings)
    loaded.fit(x, y, **settings)
    same_bits(network.parameters, loaded.parameters)


def test_the_file_is_plain_safetensors(path):
    """Read here by the format's own words: length, JSON, little-endian numbers, no holes."""
    network = build()
    network.save(path)
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert (8 + length) % 8 == 0
    header = json.loads(content[8 : 8 + length])
    metadata = header.pop("__metadata__")
    assert list(metadata) == ["dlcore"]
    described = json.loads(metadata["dlcore"])
    assert described["version"] == dlcore.__version__
    assert described["layers"][0] == {
        "layer": "Dense",
        "units": 6,
        "bias": True,
        "initializer": "orthogonal",
    }
    end = 0
    for name, value in network.parameters.items():
        entry = header.pop(name)
        assert entry["dtype"] == "F32"
        assert tuple(entry["shape"]) == value.shape
        start, stop = entry["data_offsets"]
        assert start == end
        numbers = np.frombuffer(content[8 + length + start : 8 + length + stop], "<f4")
        np.testing.assert_array_equal(numbers.reshape(value.shape), value)
        end = stop
    assert not header
    assert 8 + length + end == len(content)


def test_other_programs_read_and_write_these_files(path):
    library = pytest.importorskip("safetensors.numpy")
    network = build()
    network.save(path)
    read = library.load_file(path)
    same_bits(dict(sorted(read.items())), dict(sorted(network.parameters.items())))
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.zeros((0, 2), np.int8)}
    library.save_file(arrays, path, {"made": "elsewhere"})
    read, metadata = files.read(path)
    assert metadata == {"made": "elsewhere"}
    same_bits(dict(sorted(read.items())), arrays)


ARRAYS = {
    "bool": np.array([True, False]),
    "uint8": np.arange(3, dtype=np.uint8),
    "int16": np.arange(-2, 2, dtype=np.int16),
    "half": np.array([0.5, np.inf, np.nan], np.float16),
    "scalar": np.array(2.5),
    "empty": np.zeros((3, 0, 2), np.float32),
    "big-endian": np.arange(4, dtype=">i8"),
    "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "strided": np.arange(10.0)[::-3],
    'a "quoted" name\n': np.ones((1, 1, 1), np.uint64),
}


def test_arrays_of_every_layout_come_back(path):
    files.write(path, ARRAYS, {"k": "v", "ä": "ö\n"})
    arrays, metadata = files.read(path)
    assert metadata == {"k": "v", "ä": "ö\n"}
    assert list(arrays) == list(ARRAYS)
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], value)
        assert arrays[name].shape == value.shape
        assert arrays[name].dtype == value.dtype.newbyteorder("=")
        assert not arrays[name].flags.writeable


def test_no_array_at_all_is_a_file_too(path):
    files.write(path, {})
    assert files.read(path) == ({}, {})


@pytest.mark.parametrize("dtype", [complex, "U3", "M8[s]", object])
def test_a_dtype_without_a_place_in_the_format_is_refused(path, dtype):
    with pytest.raises(TypeError, match=r'^write: "a" is .*, which safetensors does not hold; '):
        files.write(path, {"a": np.zeros(2, dtype)})
    assert list(path.parent.iterdir()) == []


def test_writing_replaces_the_whole_file_and_leaves_nothing_beside_it(path):
    path.write_bytes(b"old")
    build().save(path)
    build().save(str(path))
    assert os.listdir(path.parent) == [path.name]
    dlcore.load(path)


def test_a_write_that_fails_leaves_the_old_file(path, monkeypatch):
    build().save(path)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    network = dlcore.Network([dlcore.Dense(2)], input_shape=(2,))
    with pytest.raises(OSError, match="No space left"):
        network.save(path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_the_content_reaches_the_disk_before_the_name(path, monkeypatch):
    events = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("fsync"), fsync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("replace"), replace(a, b)))
    build().save(path)
    assert events == ["fsync", "replace", "fsync"]


def test_a_link_is_followed_and_permissions_are_the_usual_ones(path):
    target = path.parent / "target.safetensors"
    target.write_bytes(b"old")
    path.symlink_to(target)
    build().save(path)
    assert path.is_symlink()
    assert dlcore.load(target).parameter_count == build().parameter_count
    usual = path.parent / "usual"
    usual.write_bytes(b"")
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


def test_a_folder_or_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        dlcore.load(tmp_path / "none.safetensors")
    with pytest.raises(OSError):  # its text is the system's
        dlcore.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        build().save(tmp_path / "none" / "net.safetensors")


# Damaged files.


def pack(header, values=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def entry(shape=(2,), offsets=(0, 8), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


ZEROS = b"\0" * 8
DAMAGED = [
    (b"", "a safetensors file has at least 8 bytes, this one has 0"),
    (b"1234567", "a safetensors file has at least 8 bytes, this one has 7"),
    (
        b"\xff" * 8 + b"{}",
        (
            "not a whole safetensors file: the header should have 18446744073709551615 bytes, "
            "the file has 10"
        ),
    ),
    (
        pack(b"{}")[:-1],
        "not a whole safetensors file: the header should have 2 bytes, the file has 9",
    ),
    (
        pack(b'{"a"}'),
        (
            "the safetensors header is not valid JSON (Expecting ':' delimiter: line 1 column 5 "
            "(char 4))"
        ),
    ),
    (
        pack(b'{"\xff": 1}'),
        (
            "the safetensors header is not valid JSON ('utf-8' codec can't decode byte 0xff in "
            "position 2: invalid start byte)"
        ),
    ),
    (
        pack(b'{"a": NaN}'),
        "the safetensors header is not valid JSON (NaN is not a number of JSON)",
    ),
    (pack(b"[" * 200_000), "the safetensors header is not valid JSON (nested too deeply)"),
    (
        pack(b'{"a": 1, "a": 1}'),
        "the safetensors header is not valid JSON (a name occurs twice)",
    ),
    (pack([]), "the safetensors header needs to be a JSON object, found list"),
    (pack({"__metadata__": {"a": 1}}), "the safetensors header's __metadata__ needs strings only"),
    (pack({"__metadata__": 1}), "the safetensors header's __metadata__ needs strings only"),
    (pack({"a": 1}), '"a" needs exactly dtype, shape and data_offsets'),
    (
        pack({"a": {**entry(), "more": 1}}, ZEROS),
        '"a" needs exactly dtype, shape and data_offsets',
    ),
    (
        pack({"a": entry(dtype="BF16", shape=(4,))}, ZEROS),
        (
            '"a" needs one of the dtypes BOOL, U8, I8, U16, I16, U32, I32, U64, I64, F16, F32, F64, '
            "found str 'BF16'"
        ),
    ),
    (
        pack({"a": entry(dtype=["F32"])}, ZEROS),
        (
            '"a" needs one of the dtypes BOOL, U8, I8, U16, I16, U32, I32, U64, I64, F16, F32, F64, '
            "found list ['F32']"
        ),
    ),
    (
        pack({"a": entry(shape=(-2,))}, ZEROS),
        '"a" needs a shape of at most 32 sizes, found list [-2]',
    ),
    (
        pack({"a": entry(shape=(True, 2))}, ZEROS),
        '"a" needs a shape of at most 32 sizes, found list [True, 2]',
    ),
    (
        pack({"a": entry(shape=(1,) * 33)}, ZEROS),
        '"a" needs a shape of at most 32 sizes, found list',
    ),
    (
        pack(b'{"a": {"dtype": "F32", "shape": [1e3], "data_offsets": [0, 8]}}', ZEROS),
        '"a" needs a shape of at most 32 sizes, found list [1000.0]',
    ),
    (
        pack({"a": entry(shape=(0, 2**61), offsets=(0, 0))}),
        '"a" has the shape list [0, 2305843009213693952], beyond what NumPy can hold',
    ),
    (
        pack({"a": entry(offsets=(0, -8))}, ZEROS),
        '"a" needs two data_offsets, found list [0, -8]',
    ),
    (pack({"a": entry(offsets=(8, 0))}, ZEROS), '"a" lies at bytes 8 to 0 of 8'),
    (pack({"a": entry(offsets=(0, 9))}, ZEROS), '"a" lies at bytes 0 to 9 of 8'),
    (
        pack({"a": entry(shape=(3,))}, ZEROS),
        '"a" needs 12 bytes for F32 [3] but has 8',
    ),
    (
        pack({"a": entry(), "b": entry()}, ZEROS),
        '"b" starts at byte 0 of the values, not 8',
    ),
    (
        pack({"a": entry((1,), (0, 4)), "b": entry((1,), (8, 12))}, ZEROS + ZEROS),
        '"b" starts at byte 8 of the values, not 4',
    ),
    (pack({"a": entry()}, ZEROS + b"1"), "the arrays take 8 bytes but the file holds 9"),
    (
        pack({"a": entry(dtype="BOOL", shape=(8,))}, b"\2" * 8),
        '"a" holds a BOOL that is neither 0 nor 1',
    ),
]


@pytest.mark.parametrize(("content", "sentence"), DAMAGED)
def test_each_damage_has_its_sentence(path, content, sentence):
    path.write_bytes(content)
    for read in (files.read, dlcore.load):
        with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {sentence}')}$"):
            read(path)


def saved(network, path, **changes):
    """Save `network` with changes to its description; None leaves an entry out."""
    network.save(path)
    arrays, metadata = files.read(path)
    described = {**json.loads(metadata["dlcore"]), **changes}
    described = {name: value for name, value in described.items() if value is not Ellipsis}
    files.write(path, arrays, {"dlcore": json.dumps(described)})


LAYERS = [{"layer": "Dense", "units": 3, "bias": True, "initializer": "he_normal"}]
MISFITS = [
    ({"format": 2}, "the network is in format 2; this version of dlcore reads format 1"),
    (
        {"format": ...},
        "the network is in format None; this version of dlcore reads format 1",
    ),
    ({"seed": ...}, "the network's description has missing or unknown entries: seed"),
    ({"extra": 1}, "the network's description has missing or unknown entries: extra"),
    ({"layers": {}}, "layers needs a list, found dict {}"),
    ({"layers": []}, "layers needs at least one layer, found an empty list"),
    ({"layers": ["ReLU"]}, "layers[0] needs a layer's name, found str 'ReLU'"),
    ({"layers": [{"layer": "Conv"}]}, "layers[0] is the unknown layer 'Conv'"),
    (
        {"layers": [{**LAYERS[0], "units": 2.5}]},
        "Dense: units needs an integer of at least 1, found float 2.5",
    ),
    (
        {"layers": [{**LAYERS[0], "wings": 2}]},
        "Dense.__init__() got an unexpected keyword argument 'wings'",
    ),
    (
        {"layers": [{**LAYERS[0], "units": 10**12}]},
        '"0.weight" needs (1000000000000, 4) float32 but is (3, 4) float32',
    ),
    (
        {"input_shape": [10**12]},
        '"0.weight" needs (3, 1000000000000) float32 but is (3, 4) float32',
    ),
    ({"input_shape": []}, "Network: input_shape needs at least one size, found []"),
    (
        {"input_shape": [4, -1]},
        "Network: input_shape[1] needs an integer of at least 1, found -1",
    ),
    (
        {"layers": [LAYERS[0], LAYERS[0]]},
        'the layers and the arrays disagree about "1.bias", "1.weight"',
    ),
    (
        {"layers": [{"layer": "ReLU"}]},
        'the layers and the arrays disagree about "0.bias", "0.weight"',
    ),
    ({"dtype": "float64"}, '"0.weight" needs (3, 4) float64 but is (3, 4) float32'),
    (
        {"dtype": "float16"},
        'Network: dtype needs to be "float32" or "float64", found str \'float16\'',
    ),
    ({"seed": -1}, "Network: seed needs an integer from 0 to 18446744073709551615, found -1"),
    (
        {"step": 2**48},
        "the network's step needs an integer from 0 to 281474976710655, found 281474976710656",
    ),
    (
        {"input_scale": 0},
        "the network's input_scale needs a finite number above 0, found 0",
    ),
    ({"loss": "mse"}, "the network's loss needs a name and settings, found str 'mse'"),
    ({"loss": {"name": "mse", "settings": 1}}, "the network's loss needs its settings by name"),
    (
        {"loss": {"name": "hinge", "settings": {}}},
        (
            "the network: loss needs one of cross_entropy, binary_cross_entropy, mse, huber, "
            "found 'hinge'"
        ),
    ),
    (
        {"loss": {"name": "huber", "settings": {"delta": -1}}},
        "Huber: delta needs a finite number above 0, found -1",
    ),
]


@pytest.mark.parametrize(("changes", "sentence"), MISFITS)
def test_a_description_that_does_not_fit_has_its_sentence(path, changes, sentence):
    saved(dlcore.Network([dlcore.Dense(3)], input_shape=(4,)), path, **changes)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {sentence}')}$"):
        dlcore.load(path)


def test_layers_nested_without_end_are_refused(path):
    layers = []
    for _ in range(500):
        layers = [layers]
    network = dlcore.Network([dlcore.Dense(3)], input_shape=(4,))
    saved(network, path, layers=layers)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: "):
        dlcore.load(path)


def test_weights_that_are_not_finite_are_refused(path):
    network = dlcore.Network([dlcore.Dense(1)], input_shape=(2,))
    network.save(path)
    arrays, metadata = files.read(path)
    arrays["0.weight"] = np.array([[1.0, np.nan]], np.float32)
    files.write(path, arrays, metadata)
    sentence = f'{path}: "0.weight" needs finite values, found nan at (0, 1)'
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        dlcore.load(path)


def test_a_file_of_another_program_says_what_to_do(path):
    files.write(path, {"0.weight": np.zeros((1, 2), np.float32)})
    sentence = (
        f"{path}: the file holds no network of dlcore; build one and pass what dlcore.files.read "
        "returns to its set_parameters"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}$"):
        dlcore.load(path)
    network = dlcore.Network([dlcore.Dense(1, bias=False)], input_shape=(2,))
    network.set_parameters(files.read(path)[0])
    np.testing.assert_array_equal(network([[1.0, 1.0]]), [[0.0]])


# Readers survive any bytes: they return, or raise one ValueError of one line.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F64", "BOOL", "U8", "BF16"]) | json_values,
        "shape": st.lists(st.integers(-1, 5) | st.integers(), max_size=3) | json_values,
        "data_offsets": st.lists(st.integers(-1, 40) | st.integers(), min_size=2, max_size=2)
        | json_values,
    }
)
headers = st.dictionaries(st.text(max_size=4) | st.just("__metadata__"), entries | json_values)


def survive(content):
    try:
        arrays, metadata = files.parse(content)
    except ValueError as error:
        assert "\n" not in str(error)
        assert len(str(error)) < 600
    else:
        assert all(isinstance(value, np.ndarray) for value in arrays.values())
        assert all(isinstance(value, str) for value in metadata.values())


@given(st.binary(max_size=200))
def test_parsing_survives_any_bytes(content):
    survive(content)


@given(headers, st.binary(max_size=40))
@example({"a": entry(shape=(2,), offsets=(0, 8))}, ZEROS)
def test_parsing_survives_any_header(header, values):
    survive(pack(header, values))


@given(st.text(alphabet='{}[]",:0123456789eE+-.truefalsn \\u\ud800', max_size=60))
def test_parsing_survives_any_near_json(text):
    survive(pack(text.encode("utf-8", "surrogatepass")))


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "valid.safetensors"
    build().save(path)
    return path.read_bytes()


def survive_load(path, content):
    path.write_bytes(content)
    try:
        network = dlcore.load(path)
    except ValueError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    else:
        x = np.zeros((1, *network.input_shape))
        assert network.predict(x).shape == (1, *network.output_shape)


@given(st.data())
def test_loading_survives_a_few_changed_bytes(valid, tmp_path_factory, data):
    content = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    survive_load(tmp_path_factory.getbasetemp() / "changed.safetensors", bytes(content))


@given(st.integers(0, 10_000))
def test_loading_survives_a_cut(valid, tmp_path_factory, length):
    if length < len(valid):
        survive_load(tmp_path_factory.getbasetemp() / "cut.safetensors", valid[:length])


@given(
    st.dictionaries(
        st.sampled_from(["layers", "input_shape", "seed", "dtype", "loss", "input_scale", "step"]),
        json_values
        | st.lists(
            st.fixed_dictionaries(
                {"layer": st.sampled_from(["Dense", "ReLU", "Residual", "Dropout"])},
                optional={"units": json_values, "p": json_values, "layers": json_values},
            ),
            max_size=3,
        ),
        min_size=1,
        max_size=2,
    )
)
def test_loading_survives_any_description(valid, tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "described.safetensors"
    arrays, metadata = files.parse(valid)
    described = {**json.loads(metadata["dlcore"]), **changes}
    files.write(path, arrays, {"dlcore": json.dumps(described)})
    survive_load(path, path.read_bytes())
