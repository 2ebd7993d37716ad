"""Reading data: what comes in right, and the sentence for each way it can be wrong."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcore.data import DataError, Dataset, from_arrays, load, read_idx
from dlcore.scaling import grid
from dlcore.scaling.predict import load_features
from dlcore.scaling.preprocessing import Preprocessing

DATA = Path(os.environ.get("DLCORE_DATA", Path(__file__).parents[2] / "shared" / "data"))


def table(tmp_path: Path, text: str, name: str = "t.csv") -> str:
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return str(path)


def people(rows: int = 60, **changes: str) -> str:
    """A small CSV; ``changes`` maps "row,column" positions to other texts."""
    lines = ["age,city,income,label"]
    cities = ("Rome", "Oslo", "Lima")
    for k in range(rows):
        cells = [str(20 + k % 30), cities[k % 3], f"{1000 + 7.5 * k}", "yes" if k % 4 else "no"]
        for place, text in changes.items():
            row, column = place.strip("_").split("_")
            if int(row) == k + 1:
                cells[int(column)] = text
        lines.append(",".join(cells))
    return "\n".join(lines) + "\n"


# --------------------------------------------------------------------------------------------------
# Arrays


def test_whole_numbers_and_texts_are_classes_and_floats_are_quantities():
    x = np.arange(100.0).reshape(50, 2)
    assert from_arrays(x, np.arange(50) % 3).classes == ("0", "1", "2")
    assert from_arrays(x, np.array(["b", "a"] * 25)).classes == ("a", "b")
    assert from_arrays(x, np.array([True, False] * 25)).task == "classification"
    quantity = from_arrays(x, np.linspace(0, 1, 50))
    assert quantity.task == "regression" and quantity.y.dtype == np.float64
    assert from_arrays(x, np.arange(50) % 2 + 0.0, task="classification").classes == ("0", "1")


def test_pixels_are_scaled_and_other_arrays_are_not():
    y = np.arange(50) % 2
    assert from_arrays(np.zeros((50, 4, 4), np.uint8), y).scale == 1 / 255
    assert from_arrays(np.zeros((50, 4), np.float16), y).x.dtype == np.float32
    assert from_arrays(np.zeros((50, 4), np.int32), y).scale is None


def test_fingerprint_follows_every_part_of_the_data():
    x, y = np.arange(100.0).reshape(50, 2), np.arange(50) % 2
    first = from_arrays(x, y).fingerprint()
    assert first == from_arrays(x.copy(order="F"), y, name="other").fingerprint()
    changed = x.copy()
    changed[17, 1] += 1e-9
    assert from_arrays(changed, y).fingerprint() != first
    assert from_arrays(x, 1 - y).fingerprint() != first
    assert from_arrays(x, y, groups=np.arange(50) % 5).fingerprint() != first
    assert from_arrays(x, y, test=(x, y)).fingerprint() != first


X, Y = np.arange(100.0).reshape(50, 2), np.arange(50) % 2


def spoilt(value: float) -> np.ndarray:
    x = X.copy()
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "y", "options", "sentence"),
    [
        (X, Y[:-1], {}, "x has 50 rows but y has 49; both need one per example"),
        (np.zeros((0, 2)), Y[:0], {}, r"x is empty \(shape \(0, 2\)\)"),
        (spoilt(np.nan), Y, {}, r"x\[3, 1\] is nan; remove or replace it or choose a policy"),
        (spoilt(np.inf), Y, {"missing": "impute"}, r"x\[3, 1\] is inf; remove or replace it$"),
        (X.astype(str), Y, {}, "x holds <U32 values; numbers are needed"),
        (X, np.where(Y, np.nan, 1.0), {}, r"y\[1\] is nan; an example without its answer"),
        (X, np.zeros((50, 3)), {}, r"y has shape \(50, 3\); one number or class per example"),
        (X, Y.astype(complex), {}, "y holds complex128 values"),
        (X, np.zeros(50, int), {}, "every example of data has the same y, '0'; there is nothing"),
        (X, np.full(50, 2.5), {}, "every example of data has y 2.5; there is nothing to predict"),
        (X[:39], Y[:39], {}, "data has 39 examples; a study needs at least 40"),
        (X, Y, {"groups": Y[:3]}, r"groups has shape \(3,\); one per example is needed, \(50,\)"),
        (X, np.arange(50) + 0, {"name": "d"}, None),
        (X, Y, {"test": (X[:, :1], Y)}, r"one test example has shape \(1,\) but one training"),
        (X, Y, {"test": (X, Y[:4])}, "the test x has 50 rows but the test y has 4"),
        (
            X,
            Y,
            {"test": (X, Y + 1)},
            "row 1[0-9]* of the test data has y '2', a class that|row 2 of",
        ),
        (X, np.array(["a", "b"] * 25), {"task": "regression"}, "y cannot be a quantity"),
    ],
)
def test_arrays_that_cannot_be_used(x, y, options, sentence):
    if sentence is None:
        assert len(from_arrays(x, y, **options).classes) == 50
        return
    with pytest.raises(DataError, match=sentence):
        from_arrays(x, y, **options)


def test_many_whole_numbers_are_asked_about():
    x = np.zeros((300, 1))
    with pytest.raises(DataError, match="y has 300 different values in 300 examples; say --task"):
        from_arrays(x, np.arange(300))
    assert from_arrays(x, np.arange(300), task="regression").task == "regression"


def test_imbalance_is_noted():
    data = from_arrays(X, np.where(np.arange(50) < 45, "common", "rare"))
    assert "common 45, rare 5" in data.notes[0]


# --------------------------------------------------------------------------------------------------
# Tables


def test_table_with_categories(tmp_path):
    data = load(table(tmp_path, people()), target="label")
    assert data.x.shape == (60, 3) and data.classes == ("no", "yes")
    assert data.columns[1].categories == ("Lima", "Oslo", "Rome")
    assert data.x[:3, 1].tolist() == [2, 1, 0]
    preprocessing = Preprocessing.fit(data, np.arange(60))
    inside = preprocessing.transform(data.x)
    assert inside.shape == (60, 5) and inside.dtype == np.float32
    assert np.allclose(inside[:, [0, 4]].mean(axis=0), 0, atol=1e-6)
    assert np.allclose(inside[:, [0, 4]].std(axis=0), 1, atol=1e-6)
    assert inside[:3, 1:4].tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0]]


def test_table_is_regression_for_floats_and_reads_other_separators(tmp_path):
    data = load(table(tmp_path, people().replace(",", ";")), target="income")
    assert data.task == "regression" and data.name == "t"
    tabs = load(table(tmp_path, people().replace(",", "\t"), "t.tsv"), target="income")
    assert np.array_equal(data.x, tabs.x)
    packed = tmp_path / "p.csv.gz"
    packed.write_bytes(gzip.compress(people().encode()))
    assert np.array_equal(load(str(packed), target="income").x, data.x)


def test_columns_can_be_dropped_and_groups_and_times_are_no_features(tmp_path):
    path = table(tmp_path, people())
    data = load(path, target="label", drop=["income"], group="city")
    assert [column.name for column in data.columns] == ["age"]
    assert data.groups[:4].tolist() == [2, 1, 0, 2]
    data = load(path, target="label", time="age")
    assert [column.name for column in data.columns] == ["city", "income"]
    assert data.times[:3].tolist() == [0, 1, 2]


def test_no_feature_left(tmp_path):
    with pytest.raises(DataError, match="has no column left to predict label from"):
        load(table(tmp_path, people()), target="label", drop=["income", "age", "city"])


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        (
            people(),
            {},
            "is a table; say which column to predict: --target COLUMN, one of age, city",
        ),
        (people(), {"target": "x"}, "--target x: .* has no such column; it has age, city, income"),
        (people(), {"target": "label", "drop": ["x"]}, "--drop x: .* has no such column"),
        (people(), {"target": "label", "group": "x"}, "--group x: .* has no such column"),
        (
            people(_7_0=""),
            {"target": "label"},
            "row 7, column 'age' of .* is missing .1 missing in",
        ),
        (people(_7_1=""), {"target": "label"}, "row 7, column 'city' of .* is missing"),
        (
            people(_9_3=""),
            {"target": "label", "missing": "impute"},
            "row 9, column 'label' of .* is",
        ),
        (
            people(_5_0="12a"),
            {"target": "label"},
            "row 5, column 'age' .* a number is needed, not '1",
        ),
        (people(_5_2="inf"), {"target": "label"}, "row 5, column 'income' of .* is infinite"),
        (people(_5_2="inf"), {"target": "income"}, "row 5, column 'income' of .* is infinite"),
        ("", {"target": "a"}, "is empty; a first line with the names of the columns is needed"),
        ("a,b\n", {"target": "a"}, "names columns but has no rows"),
        ("a,b\n1,2\n1,2,3,4\n", {"target": "a"}, "is not a regular table"),
        ("1,2\n3,4\n", {"target": "1"}, "the first line of .* must name the columns, but it holds"),
        ("a,b\n" + "1,2\n" * 30, {"target": "a"}, "t has 30 examples; a study needs at least 40"),
        (
            "name,y\n" + "".join(f"person {k},{k % 2}\n" for k in range(200)),
            {"target": "y"},
            "column 'name' of .* has 200 different texts in 200 rows, .* --drop name",
        ),
        (
            "x,when,y\n"
            + "".join(f"{k},{'soon' if k == 4 else 2000 + k}-01-01,{k % 2}\n" for k in range(50)),
            {"target": "y", "time": "when"},
            "row 5, column 'when' .*: 'soon-01-01' is no date or number",
        ),
    ],
)
def test_tables_that_cannot_be_used(tmp_path, text, options, sentence):
    with pytest.raises(DataError, match=sentence):
        load(table(tmp_path, text), **options)


def test_missing_values_by_policy(tmp_path):
    path = table(tmp_path, people(_7_0="", _8_1=""))
    dropped = load(path, target="label", missing="drop")
    assert len(dropped.y) == 58 and "2 of 60 rows" in dropped.notes[0]
    kept = load(path, target="label", missing="impute")
    inside = Preprocessing.fit(kept, np.arange(60)).transform(kept.x)
    assert inside.shape == (60, 6) and np.isfinite(inside).all()
    assert inside[:, 4].tolist() == [float(k == 7) for k in range(60)]  # its own category
    ages = [20 + k % 30 for k in range(60) if k != 6]
    filled = np.array([*ages[:6], np.median(ages), *ages[6:]])
    assert np.allclose(inside[:, 0], (filled - filled.mean()) / filled.std(), atol=1e-5)


def test_test_file(tmp_path):
    path, other = table(tmp_path, people()), table(tmp_path, people(45), "o.csv")
    data = load(path, target="label", test=other)
    assert data.test_x.shape == (45, 3) and data.test_y.tolist() == data.y[:45].tolist()
    with pytest.raises(DataError, match="has no column 'city', which .*t.csv has"):
        load(path, target="label", test=table(tmp_path, people().replace("city", "town"), "o.csv"))
    with pytest.raises(DataError, match="row 3 of the test data has label 'maybe', a class that"):
        load(path, target="label", test=table(tmp_path, people(_3_3="maybe"), "o.csv"))
    with pytest.raises(DataError, match=r"the test file .*none.csv does not exist"):
        load(path, target="label", test=tmp_path / "none.csv")
    unseen = load(path, target="label", test=table(tmp_path, people(_2_1="Paris"), "o.csv"))
    encoded = Preprocessing.fit(unseen, np.arange(60)).transform(unseen.test_x)
    assert encoded[1, 1:4].tolist() == [0, 0, 0]


def test_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    try:
        pd.read_csv(table(tmp_path, people())).to_parquet(path)
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(DataError, match="reading Parquet needs pyarrow"):
            load(str(path), target="label")
        return
    assert load(str(path), target="label").x.shape == (60, 3)


# --------------------------------------------------------------------------------------------------
# Other files


def test_unknown_things():
    with pytest.raises(
        DataError, match="nothing does not exist; --data takes a file .* or one of d"
    ):
        load("nothing")
    with pytest.raises(DataError, match="mnist is read from its four idx files; .*--data-dir DIR"):
        load("mnist")
    with pytest.raises(DataError, match="--target names a column of a table, but digits is not"):
        load("digits", target="y")
    with pytest.raises(DataError, match="digits brings its own held-out examples"):
        load("digits", test="x.csv")


def test_unknown_kind_of_file(tmp_path):
    path = tmp_path / "notes.doc"
    path.write_text("hello")
    with pytest.raises(DataError, match="notes.doc is of no known kind; use .csv"):
        load(str(path), target="y")


def test_npz(tmp_path):
    path = tmp_path / "d.npz"
    np.savez(path, train_x=X, train_y=Y, test_x=X[:9], test_y=Y[:9])
    data = load(str(path))
    assert data.name == "d" and data.test_x.shape == (9, 2)
    np.savez(path, x=X, y=Y)
    other = tmp_path / "o.npz"
    np.savez(other, x=X[:7], y=Y[:7])
    assert load(str(path), test=other).test_y.shape == (7,)
    with pytest.raises(DataError, match="--test must be an .npz file"):
        load(str(path), test=Path(__file__))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"x": X}, "d.npz has no array 'y'; it holds x"),
        ({"a": X}, "d.npz has no array 'x'; it holds a"),
        (
            {"x": np.array([{}, []], object), "y": Y},
            "d.npz holds Python objects, which are not read",
        ),
        ({"x": spoilt(np.nan), "y": Y}, r"d.npz: x\[3, 1\] is nan"),
        (b"PK\x03\x04 cut off", "d.npz cannot be read as .npz"),
        (b"", "d.npz cannot be read as .npz"),
        (b"\x93NUMPY", "d.npz cannot be read as .npz"),
    ],
)
def test_npz_that_cannot_be_used(tmp_path, content, sentence):
    path = tmp_path / "d.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(DataError, match=sentence):
        load(str(path))


def test_bare_array_under_the_name_of_an_archive(tmp_path):
    with open(tmp_path / "d.npz", "wb") as file:
        np.save(file, X)
    with pytest.raises(
        DataError, match="d.npz holds one bare array; an .npz with x and y is needed"
    ):
        load(str(tmp_path / "d.npz"))


def idx(array: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
    return head + array.astype(np.uint8).tobytes()


def idx_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for part, count in (("train", 60), ("t10k", 20)):
        images = idx(random.integers(0, 256, (count, 5, 5)))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    return folder


def test_idx_folder_packed_or_not_or_inside_another(tmp_path):
    folder = idx_folder(tmp_path / "fashion_mnist")
    data = load("fashion-mnist", data_dir=folder)
    assert data.x.shape == (60, 5, 5) and data.test_x.shape == (20, 5, 5)
    assert data.classes[9] == "Ankle boot" and data.scale == 1 / 255
    assert load("fashion-mnist", data_dir=tmp_path).fingerprint() == data.fingerprint()


def test_idx_files_that_cannot_be_used(tmp_path):
    folder = idx_folder(tmp_path / "m")
    images = folder / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz cannot be read"):
        load("mnist", data_dir=folder)
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:-30]))
    with pytest.raises(DataError, match="says 60 x 5 x 5 bytes but holds 1470; it is cut off"):
        load("mnist", data_dir=folder)
    images.write_bytes(gzip.compress(b"\0\0\x0d\3"))
    with pytest.raises(DataError, match="is not an idx file of bytes with 3 axes"):
        load("mnist", data_dir=folder)
    images.write_bytes(whole)
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(7)))
    with pytest.raises(DataError, match="60 train images but 7 labels"):
        load("mnist", data_dir=folder)
    images.unlink()
    with pytest.raises(
        DataError, match="train-images-idx3-ubyte.gz does not exist; --data-dir must"
    ):
        load("mnist", data_dir=folder)


def test_a_folder_of_idx_files_needs_no_name(tmp_path):
    folder = tmp_path / "clothes"
    folder.mkdir()
    for part, count in (("train", 60), ("t10k", 20)):
        images = np.arange(count * 4).reshape(count, 2, 2)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 3))
    data = load(str(folder))
    assert (data.name, data.x.shape, data.classes) == ("clothes", (60, 2, 2), ("0", "1", "2"))
    assert len(data.test_y) == 20
    with pytest.raises(DataError, match="brings its own held-out examples; leave --test out"):
        load(str(folder), test=folder)


def test_a_column_of_dates_is_named(tmp_path):
    days = [f"2024-{1 + k % 12:02}-{1 + k % 28:02}" for k in range(150)]
    text = "day,x,y\n" + "".join(f"{days[k]} 0{k % 10}:00,{k},{k % 2}\n" for k in range(150))
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(
        DataError, match=r"column 'day' of .* holds dates; leave it out \(--drop day"
    ):
        load(str(tmp_path / "d.csv"), target="y")
    assert load(str(tmp_path / "d.csv"), target="y", time="day").times is not None


def test_image_folder(tmp_path):
    from PIL import Image

    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for k in range(25):
            pixels = np.full((4, 6, 3), 10 * k if name == "cat" else 250 - k, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{k:02}.png")
    data = load(str(tmp_path / "pets"))
    assert data.x.shape == (50, 4, 6, 3) and data.classes == ("cat", "dog")
    assert data.x[1, 0, 0, 0] == 10 and data.y.tolist() == [0] * 25 + [1] * 25
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "pets" / "dog" / "zz.png")
    with pytest.raises(DataError, match=r"zz.png is \(3, 3\) but .*00.png is \(4, 6, 3\)"):
        load(str(tmp_path / "pets"))
    (tmp_path / "pets" / "dog" / "zz.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"zz.png cannot be read"):
        load(str(tmp_path / "pets"))
    with pytest.raises(DataError, match="holds 0 folders; a folder of images needs one folder per"):
        load(str(tmp_path / "pets" / "cat"))


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data folder at {DATA} (DLCORE_DATA names one)")
def test_real_sets():
    fashion = load("fashion-mnist", data_dir=DATA)
    assert fashion.x.shape == (60000, 28, 28) and np.bincount(fashion.y).tolist() == [6000] * 10
    assert int(read_idx(DATA / "mnist" / "t10k-labels-idx1-ubyte.gz", 1)[:5].sum()) == 7 + 2 + 1 + 4
    usps = load(str(DATA / "usps" / "usps.npz"))
    assert usps.x.shape == (7291, 16, 16) and usps.test_x.shape == (2007, 16, 16)
    housing = DATA / "california_housing" / "fetch_california_housing.csv.gz"
    assert load(str(housing), target="target").x.shape == (20640, 8)


# --------------------------------------------------------------------------------------------------
# Preprocessing


def test_preprocessing_sees_its_own_rows_only():
    random = np.random.default_rng(1)
    x = random.normal(size=(80, 3))
    data = from_arrays(x, np.arange(80) % 2)
    rows = np.arange(40)
    fitted = Preprocessing.fit(data, rows)
    x[40:] *= 1e6
    assert Preprocessing.fit(from_arrays(x, np.arange(80) % 2), rows) == fitted
    x[3] += 1
    assert Preprocessing.fit(from_arrays(x, np.arange(80) % 2), rows) != fitted


def test_constant_columns_and_float_images_stay_finite():
    x = np.full((50, 2), 1e9)
    x[:, 1] = np.arange(50)
    inside = Preprocessing.fit(from_arrays(x, Y), np.arange(50)).transform(x)
    assert np.abs(inside[:, 0]).max() == 0 and abs(inside[:, 1].std() - 1) < 1e-6
    images = np.random.default_rng(0).normal(5, 3, (50, 4, 4))
    images[:, 0, 0] = 7  # a dead pixel must not become noise
    inside = Preprocessing.fit(from_arrays(images, Y), np.arange(50)).transform(images)
    assert inside.shape == (50, 16) and abs(inside.mean()) < 1e-5 and inside[:, 0].std() < 1e-6


@pytest.mark.parametrize("kind", ["pixels", "images", "table", "numbers", "regression"])
def test_preprocessing_survives_json(tmp_path, kind):
    random = np.random.default_rng(2)
    if kind == "table":
        data = load(table(tmp_path, people(_7_0="", _8_1="")), target="label", missing="impute")
    else:
        x = random.integers(0, 256, (60, 3, 3)).astype(np.uint8 if kind == "pixels" else float)
        x = x.reshape(60, 9) if kind in ("numbers", "regression") else x
        data = from_arrays(x, random.normal(size=60) if kind == "regression" else np.arange(60) % 3)
    fitted = Preprocessing.fit(data, np.arange(30))
    again = Preprocessing.from_json(fitted.to_json())
    if kind == "table":
        # Codes are renumbered to the categories that were seen: compare through a file.
        path = tmp_path / "new.csv"
        path.write_text(people(_3_1="Paris"))
        inside = again.transform(load_features(path, again))
        assert inside.shape == (60, fitted.features) and inside[2, 1:5].tolist() == [0] * 4
        rows = [k for k in range(60) if k not in (2, 6, 7)]
        assert np.array_equal(inside[rows], fitted.transform(data.x)[rows])
    else:
        assert again == fitted
        assert np.array_equal(again.transform(data.x), fitted.transform(data.x))
    y = data.y[:5]
    assert np.allclose(again.unscaled_target(again.scaled_target(y)), y) or data.classes


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "dlcore-preprocessing-1"}', "nul"])
def test_broken_preprocessing_is_refused(text):
    with pytest.raises(DataError, match="the preprocessing cannot be read"):
        Preprocessing.from_json(text)


def test_preprocessing_of_another_version_is_refused():
    with pytest.raises(DataError, match="the preprocessing is of the unknown kind 'x'"):
        Preprocessing.from_json(json.dumps({"format": "x"}))


# --------------------------------------------------------------------------------------------------
# Subsets


def classes_of(sizes: list[int], seed: int) -> Dataset:
    y = np.repeat(np.arange(len(sizes)), sizes)
    y = np.random.default_rng(seed).permutation(y)
    return Dataset("d", y[:, None].astype(float), y, classes=tuple(map(str, range(len(sizes)))))


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.integers(0, 5), st.data())
def test_subsets_are_nested_and_hold_each_class_in_proportion(sizes, seed, draw):
    data = classes_of(sizes, seed)
    pool = np.arange(len(data.y))
    whole = grid.subset(data, pool, len(pool), seed)
    assert np.array_equal(np.sort(whole), pool)
    m = draw.draw(st.integers(1, len(pool)))
    part = grid.subset(data, pool, m, seed)
    assert np.array_equal(part, whole[:m])
    share = np.bincount(data.y) / len(pool)
    counts = np.bincount(data.y[part], minlength=len(sizes))
    # A prefix of a systematic sample: each class within one of its share of the places so far,
    # and the places within one per class of m.
    assert (np.abs(counts - share * m) <= 1 + len(sizes) * share).all()


def test_seeds_draw_different_subsets():
    data = classes_of([50, 50], 0)
    pool = np.arange(100)
    assert set(grid.subset(data, pool, 20, 0)) != set(grid.subset(data, pool, 20, 1))


@given(st.lists(st.integers(1, 60), min_size=2, max_size=5), st.integers(5, 200), st.integers(0, 3))
def test_folds_part_the_labels_of_a_run(sizes, m, seed):
    data = classes_of(sizes, seed)
    pool = np.arange(len(data.y))
    m = min(m, len(pool))
    if m < 5:
        return
    rows = grid.subset(data, pool, m, seed)
    parts = grid.folds(data, rows, seed)
    for train, validation in parts:
        assert np.array_equal(np.sort(np.r_[train, validation]), np.sort(rows))
        assert len(validation) >= m // 5 and len(train) >= 1
    validated = np.concatenate([validation for _, validation in parts])
    assert len(np.unique(validated)) == len(validated)
    assert len(validated) >= min(50, m) or len(parts) == 5
    assert len(validated) - len(parts[-1][1]) < 50 + 5  # no fold more than is needed


def test_held_out_examples_are_apart_and_stratified():
    data = classes_of([100, 20, 1], 0)
    split = grid.split(data)
    assert not set(split.pool) & set(split.test)
    assert len(split.pool) + len(split.test) == 121
    assert np.bincount(data.y[split.test], minlength=3).tolist() == [25, 5, 0]  # not the single one


def test_groups_are_held_out_whole():
    y = np.arange(200) % 2
    data = from_arrays(np.zeros((200, 1)), y, groups=np.arange(200) // 10)
    split = grid.split(data)
    held_out = set(data.groups[split.test])
    assert not held_out & set(data.groups[split.pool]) and len(held_out) == 5
    rows = grid.subset(data, split.pool, 100, 0)
    for train, validation in grid.folds(data, rows, 0):
        assert not set(data.groups[train]) & set(data.groups[validation])
    few = from_arrays(np.zeros((200, 1)), y, groups=np.arange(200) // 80)
    with pytest.raises(DataError, match="has 3 groups; at least 4 are needed to hold some out"):
        grid.split(few)


def test_times_hold_out_the_latest():
    moments = np.random.default_rng(0).permutation(200)
    data = from_arrays(np.zeros((200, 1)), np.arange(200) % 2, times=moments)
    split = grid.split(data)
    assert data.times[split.pool].max() < data.times[split.test].min() and len(split.test) == 50
    rows = grid.subset(data, split.pool, 60, 0)
    ((train, validation),) = grid.folds(data, rows, 0)
    assert data.times[train].max() < data.times[validation].min() and len(validation) == 12
    same = from_arrays(np.zeros((200, 1)), np.arange(200) % 2, times=np.zeros(200))
    with pytest.raises(DataError, match="only 0 examples are earlier than the 200 latest"):
        grid.split(same)


@given(st.integers(20, 10**6), st.integers(0, 100), st.integers(3, 12))
def test_sizes_of_m_end_with_a_doubling(pool, classes, count):
    sizes = grid.sizes_of_m(pool, classes, count)
    assert sizes[-1] == pool and len(sizes) <= count and list(sizes) == sorted(set(sizes))
    if len(sizes) > 1:
        assert sizes[-2] == pool // 2


def test_sizes_that_cannot_be_had():
    assert grid.check_sizes([50, 10, 50], 100) == (10, 50)
    for wrong in ([4], [101], []):
        with pytest.raises(DataError):
            grid.check_sizes(wrong, 100)
