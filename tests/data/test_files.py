"""Files that can be learnt from, and every way in which one cannot."""

import csv
import io
import zipfile
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from rsl_cli.data import load_dataset
from rsl_cli.data.files import MOST_CLASSES, encode_target
from rsl_cli.errors import ConfigError, DataError

ROWS = 30
DRAWS = np.random.default_rng(0)
AGE = DRAWS.normal(40, 10, ROWS)
ROOMS = DRAWS.integers(1, 9, ROWS)
GARDEN = DRAWS.integers(0, 2, ROWS).astype(bool)
PRICE = AGE * 3 + ROOMS + DRAWS.normal(size=ROWS)
HOUSES = pd.DataFrame({"age": AGE, "rooms": ROOMS, "garden": GARDEN, "price": PRICE})


def write_csv(path: Path, columns: dict) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


@pytest.fixture
def houses(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "houses.csv", {name: HOUSES[name].tolist() for name in HOUSES})


def load(path: Path, target: str | None = "price", name: str | None = None, **keys):
    config = {"name": name or path.suffix[1:], "path": str(path), **keys}
    return load_dataset(config if target is None else {**config, "target": target})


def refused(path: Path, message: str, kind: type[Exception] = DataError, **keys) -> str:
    with pytest.raises(kind, match=message) as caught:
        load(path, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def altered(tmp_path: Path, column: str, row: int, value: object) -> Path:
    columns = {name: HOUSES[name].tolist() for name in HOUSES}
    columns[column][row - 1] = value
    return write_csv(tmp_path / "altered.csv", columns)


def rows_of(data) -> list[tuple]:
    """All rows of a dataset that is not standardised, targets last, sorted."""
    x = np.vstack([data.x_train, data.x_test])
    y = np.concatenate([data.y_train, data.y_test]).reshape(len(x), -1)
    return sorted(map(tuple, np.hstack([x, y]).tolist()))


# --- what is read -----------------------------------------------------------------------------------------------


def test_csv_holds_exactly_its_numbers(houses: Path):
    data = load(houses, standardize=False)
    assert (data.task, data.outputs, data.input_shape) == ("regression", 1, (3,))
    assert (data.samples, len(data.x_test)) == (24, 6)
    assert rows_of(data) == sorted(map(tuple, HOUSES.astype(float).to_numpy().tolist()))


def test_the_three_formats_give_the_same_data(houses: Path, tmp_path: Path):
    HOUSES.to_parquet(tmp_path / "houses.parquet")
    x = HOUSES[["age", "rooms", "garden"]].to_numpy(float)
    np.savez(tmp_path / "houses.npz", x=x, y=PRICE)
    np.savez_compressed(tmp_path / "other.npz", inputs=x, price=PRICE[:, None])
    first, *others = (
        load(houses, seed=4),
        load(tmp_path / "houses.parquet", seed=4),
        load(tmp_path / "houses.npz", None, seed=4),
        load(tmp_path / "other.npz", inputs="inputs", seed=4),
    )
    for other in others:
        for part in ("x_train", "y_train", "x_test", "y_test"):
            assert np.array_equal(getattr(first, part), getattr(other, part))


def test_standardisation_is_fitted_on_the_training_part_only(houses: Path):
    data, raw = load(houses), load(houses, standardize=False)
    assert np.allclose(data.x_train.mean(axis=0), 0, atol=1e-12) and np.allclose(data.x_train.std(axis=0), 1)
    assert np.abs(data.x_test.mean(axis=0)).min() > 1e-3
    assert data.target_variance == pytest.approx(1)
    assert np.allclose(data.y_test, (raw.y_test - raw.y_train.mean()) / raw.y_train.std())


def test_features_choose_and_order_the_columns(houses: Path):
    both = load(houses, features=["rooms", "age"], standardize=False)
    every = load(houses, standardize=False)
    assert np.array_equal(both.x_train, every.x_train[:, [1, 0]])


def test_columns_that_are_not_asked_for_may_hold_anything(tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", {"x": range(10), "note": ["", "inf", "?"] * 3 + ["NA"], "price": AGE[:10]})
    assert load(path, features=["x"]).input_shape == (1,)
    refused(path, "column 'note', row 1: missing value")


def test_names_of_digits_may_be_given_as_numbers(tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", {"0": AGE, "1": PRICE})
    assert load(path, 1, features=[0]).samples == 24  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("\ufeffa,y\n{}", "a byte-order mark"),
        ("a, y\n{}", "a blank after the comma"),
        (' "a","y"\n{}', "quoted names"),
        ("\n  \na,y\n\n{}\n\n", "blank lines"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_dialects_of_csv_that_are_understood(text: str, why: str, newline: str, tmp_path: Path):
    path = tmp_path / "a.csv"
    body = text.format("\n".join(f'{i}, "{i * 0.5}"' for i in range(10))).replace("\n", newline)
    path.write_bytes(body.encode())
    assert rows_of(load(path, "y", standardize=False)) == [(i, i * 0.5) for i in range(10)], why


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=8, max_size=20, unique=True))
@example(values=[0.1, 1e-310, 5e-324, 1.7976931348623157e308, -0.0, 1e16 + 2, 1 / 3, 2**60 + 1.0])
def test_csv_numbers_come_back_to_the_last_bit(values: list[float], tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", {"x": range(len(values)), "y": values})
    data = load(path, "y", task="regression", standardize=False)
    assert rows_of(data) == list(enumerate(values))


def test_parquet_kinds_that_are_numbers(tmp_path: Path):
    table = pa.table(
        {
            "half": pa.array(np.arange(10, dtype=np.float16)),
            "decimal": [Decimal(i) / 4 for i in range(10)],
            "small": pa.array(range(10), pa.uint8()),
            "coded": pa.array([1.5, 2.5] * 5).dictionary_encode(),
            "truth": [True, False] * 5,
            "y": [i / 7 for i in range(10)],
        }
    )
    parquet.write_table(table, tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet", "y", standardize=False)
    assert rows_of(data) == [(i, i / 4, i, 1.5 + i % 2, 1 - i % 2, i / 7) for i in range(10)]


def test_the_index_of_a_data_frame_is_no_feature_unless_asked_for(tmp_path: Path):
    path = tmp_path / "a.parquet"
    frame = HOUSES.sort_values("price")
    frame.to_parquet(path)
    assert load(path).input_shape == (3,)
    frame.set_index("age").to_parquet(path)
    assert load(path).input_shape == (2,)
    assert load(path, features=["age"]).input_shape == (1,)
    assert load(path, "age").input_shape == (3,)


@pytest.mark.parametrize("dtype", [">f4", "<f8", "f2", ">i4", "u8", "?", "i1"])
def test_npz_images_of_any_number_kind(dtype: str, tmp_path: Path):
    x = np.asfortranarray(DRAWS.integers(0, 2, (12, 3, 4, 5))).astype(dtype)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(12) % 3)
    data = load(tmp_path / "a.npz", None, standardize=False)
    assert (data.task, data.outputs, data.input_shape, data.x_train.dtype) == (
        "classification",
        3,
        (3, 4, 5),
        np.float64,
    )
    assert data.x_train.flags.c_contiguous
    order = [int(np.flatnonzero((x == row).all(axis=(1, 2, 3)))[0]) for row in data.x_train]
    assert np.array_equal(data.y_train, np.array(order) % 3)


def test_npz_targets_of_several_columns(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=np.arange(20.0).reshape(10, 2), y=np.arange(30).reshape(10, 3) % 4)
    data = load(tmp_path / "a.npz", None)
    assert (data.task, data.outputs, data.y_train.shape) == ("regression", 3, (8, 3))
    assert data.target_variance == pytest.approx(3)


# --- which task -------------------------------------------------------------------------------------------------

TEXT = np.array(["no", "yes", "maybe"] * 8, dtype=object)
MANY = np.repeat(np.arange(MOST_CLASSES + 1), 2)


@pytest.mark.parametrize(
    ("values", "task", "chosen", "outputs", "start"),
    [
        (np.arange(24) / 2, "auto", "regression", 1, [0, 0.5]),
        (np.array([0.0, 1.0] * 12), "auto", "regression", 1, [0, 1]),
        (np.array([0.0, 1.0] * 12), "classification", "classification", 2, [0, 1]),
        (np.array([7, -3, 7] * 8), "auto", "classification", 2, [1, 0, 1]),
        (np.array([7, -3, 7] * 8), "regression", "regression", 1, [7, -3, 7]),
        (np.array([False, True] * 12), "auto", "classification", 2, [0, 1]),
        (np.array([False, True] * 12), "regression", "regression", 1, [0, 1]),
        (TEXT, "auto", "classification", 3, [1, 2, 0]),
        (MANY, "auto", "regression", 1, [0, 0, 1]),
        (MANY, "classification", "classification", MOST_CLASSES + 1, [0, 0, 1]),
        (MANY[2:], "auto", "classification", MOST_CLASSES, [0, 0, 1]),
    ],
)
def test_tasks(values: np.ndarray, task: str, chosen: str, outputs: int, start: list):
    got, y, width, _ = encode_target(values, task, "y")
    assert (got, width) == (chosen, outputs)
    assert y.dtype == (np.float64 if chosen == "regression" else np.int64)
    assert y.shape == ((len(values), 1) if chosen == "regression" else (len(values),))
    assert y.ravel()[: len(start)].tolist() == start


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
def test_text_classes_are_numbered_in_sorted_order(suffix: str, tmp_path: Path):
    path = tmp_path / f"a.{suffix}"
    frame = pd.DataFrame({"x": np.arange(24), "y": TEXT})
    if suffix == "npz":
        np.savez(path, x=frame[["x"]].to_numpy(), y=TEXT.astype("U"))
    elif suffix == "csv":
        write_csv(path, {"x": range(24), "y": TEXT})
    else:
        frame.astype({"y": "category"}).to_parquet(path)
    assert rows_of(load(path, "y", standardize=False)) == [(i, [1, 2, 0][i % 3]) for i in range(24)]


@pytest.mark.parametrize(
    ("cells", "task", "outputs"),
    [
        (["True", "false"], "classification", 2),
        (["1", "a"], "classification", 2),
        (["1", "true"], "classification", 2),
        (["1_0", "2_0"], "classification", 2),
        (["1", "2.0"], "regression", 1),
        (["+1", "-02"], "classification", 2),
        (["99999999999999999999", "1"], "regression", 1),
    ],
)
def test_kinds_of_csv_columns(cells: list[str], task: str, outputs: int, tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", {"x": range(10), "y": cells * 5})
    data = load(path, "y")
    assert (data.task, data.outputs) == (task, outputs)


# --- what is refused: the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["csv", "parquet", "npz"])
def test_paths_that_are_no_file(name: str, tmp_path: Path):
    (tmp_path / "houses.dat").write_bytes(b"")
    refused(
        tmp_path / "house.dat", r"house\.dat' is not there \(looked at .*\); did you mean 'houses\.dat'\?", name=name
    )
    refused(tmp_path / "no" / "a.dat", r"is not there .*; give the path of an existing file", name=name)
    refused(tmp_path, r"is a directory; give the path of the file itself", name=name)
    refused(tmp_path / "houses.dat", r"is an empty file; give one that holds data", name=name)
    refused(tmp_path / "houses.dat" / "a", r"is not there", name=name)
    refused(Path("/dev/null"), r"is not a regular file", name=name)
    refused(Path("~nobody-of-this-name/a"), r"cannot be read: .*; give the path of a readable file", name=name)
    refused(Path("a\0b"), r"dataset\.path", name=name)
    refused(tmp_path / ("a" * 5000), r"dataset\.path", name=name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("csv", b"\xff\xfe\x00", r"is not comma-separated text in UTF-8, or is damaged: .*; check dataset\.path"),
        ("csv", b'price,b\n1,"2\n', r"is damaged: unexpected end of data"),
        ("csv", b"\n\n", r"fewer than two columns"),
        ("csv", b"price\n1\n2\n", r"fewer than two columns"),
        (
            "csv",
            b"a.price\n1.2\n",
            r"fewer than two columns; .*separated by commas, or by what dataset\.separator names",
        ),
        ("csv", b"a,price\n", r"holds no data rows; give a file with a header"),
        ("csv", b"a,a,price\n1,2,3\n", r"column name 'a' is given twice \(columns 1 and 2\); rename one"),
        ("csv", b",price\n" + b"1,2\n" * 9, r"column 1 has no name, as a saved row index has none"),
        (
            "csv",
            b"a,price\n1,2\n1,2,3\n",
            r"row 2 has 3 cells, the header has 2; mend the row \(data rows count from 1",
        ),
        ("csv", b"a,price\n1,2\n\n1\n", r"row 2 has 1 cells"),
        ("csv", b"a,price\n" + b"1,2\n" * 7, r"holds 7 data rows; at least 8 are needed"),
        ("parquet", b"PAR1 is not enough", r"is not a Parquet file, or is damaged: .*; check dataset\.path"),
        ("npz", b"x,y\n1,2\n", r"is not an npz archive \(numpy\.savez\), or is damaged"),
        ("npz", b"PK\x03\x04 and no more", r"is not an npz archive"),
    ],
)
def test_files_that_cannot_be_parsed(name: str, content: bytes, message: str, tmp_path: Path):
    path = tmp_path / f"a.{name}"
    path.write_bytes(content)
    refused(path, message, target="price" if name != "npz" else None)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "npz"])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(data=st.data())
def test_damage_anywhere_is_one_line_or_does_no_harm(suffix: str, data, tmp_path: Path):
    whole = io.BytesIO()
    if suffix == "csv":
        whole.write(HOUSES.to_csv(index=False).encode())
    elif suffix == "parquet":
        HOUSES.to_parquet(whole)
    else:
        np.savez(whole, x=AGE[:, None], price=PRICE)
    content = bytearray(whole.getvalue())
    if data.draw(st.booleans(), label="cut"):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
            content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    try:
        loaded = load(path)
    except (DataError, ConfigError) as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(loaded.x_train).all()


def test_parquet_refusals(tmp_path: Path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    refused(path, r"column name 'a' is given twice \(columns 1 and 2\)", target="a")
    parquet.write_table(pa.table({"a": pa.array([], pa.int64()), "price": pa.array([], pa.int64())}), path)
    refused(path, "holds no data rows")
    parquet.write_table(pa.table({"price": range(10)}), path)
    refused(path, r"has no column beside the target 'price'")
    columns = {"x": list(range(10)), "price": AGE[:10]}
    for values, message in (
        ([1, 2, 3, None, *range(6)], r"column 'x', row 4: missing value \(null\)"),
        ([1.0, 2.0, np.nan, *range(7)], r"column 'x', row 3 is missing \(nan\)"),
        ([datetime(2024, 1, 1)] * 10, r"column 'x', row 1: values of type timestamp\[us\] are neither numbers"),
        ([[1]] * 10, r"column 'x', row 1: values of type list<"),
        ([b"a"] * 10, r"column 'x', row 1: values of type binary"),
        (["1"] * 10, r"column 'x', row 1: '1' is text, not a number"),
        ([None] * 10, r"column 'x', row 1: missing value"),
    ):
        parquet.write_table(pa.table({**columns, "x": values}), path)
        refused(path, message)


X = np.arange(20.0).reshape(10, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, r"dataset\.target: array 'y' is not known; accepted: x"),
        ({"X": X, "y": X}, r"dataset\.inputs: array 'x' is not known; accepted: X, y"),
        ({"x": X, "y": X[:9]}, r"array 'x' has 10 rows and .*array 'y' has 9; they must be as long as each other"),
        ({"x": X[:, 0], "y": X}, r"array 'x' has shape \(10,\); expected \(N, features\)"),
        ({"x": X[:, :0], "y": X}, r"array 'x' has shape \(10, 0\); expected"),
        ({"x": np.float64(1), "y": X}, r"array 'x' has shape \(\); expected"),
        ({"x": X, "y": X[:, :, None]}, r"array 'y' has shape \(10, 2, 1\); expected \(N,\) or \(N, outputs\)"),
        ({"x": X, "y": np.float64(3)}, r"array 'y' has shape \(\)"),
        ({"x": X, "y": X[:, :0]}, r"array 'y' has shape \(10, 0\)"),
        ({"x": X[:3], "y": X[:3]}, r"holds 3 data rows; at least 8"),
        ({"x": X[:0], "y": X[:0]}, r"holds 0 data rows; at least 8"),
        ({"x": X.astype(object), "y": X}, r"array 'x' holds Python objects, which rsl never unpickles; save it as"),
        ({"x": X.astype(complex), "y": X}, r"array 'x' holds complex128; accepted: integers"),
        ({"x": X.astype("M8[s]"), "y": X}, r"array 'x' holds datetime64"),
        ({"x": X, "y": np.array([b"a", b"b"] * 5)}, r"array 'y' holds \|S1"),
        ({"x": X.astype("U"), "y": X}, r"array 'x', row 1: '0\.0' is text, not a number"),
        (
            {"x": np.where(X == 11, np.inf, X), "y": X},
            r"array 'x', row 6, entry \[1\] is infinite \(inf\); mend or drop",
        ),
        ({"x": np.where(X == 4, np.nan, X), "y": X}, r"array 'x', row 3, entry \[0\] is missing \(nan\)"),
        ({"x": X, "y": np.where(X == 4, np.nan, X)[:, 0]}, r"array 'y', row 3 is missing \(nan\)"),
        ({"x": X * 1e300, "y": X}, r"array 'x', entry \[\d\] is too large or too small to be standardised"),
    ],
)
def test_npz_refusals(arrays: dict, message: str, tmp_path: Path):
    np.savez(tmp_path / "a.npz", **arrays)
    refused(tmp_path / "a.npz", message, target=None)


def test_npz_that_is_an_npy_or_holds_other_files(tmp_path: Path):
    np.save(tmp_path / "a.npy", X)
    refused(tmp_path / "a.npy", r"is a single array \(npy\); save inputs and target together", target=None, name="npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x", "no array")
        archive.writestr("y.npy", "no array either")
    refused(tmp_path / "a.npz", r"array 'x' holds raw bytes", target=None)


def test_an_npz_of_one_class_per_row_is_needed_for_classification(tmp_path: Path):
    np.savez(tmp_path / "a.npz", x=X, y=X)
    refused(
        tmp_path / "a.npz",
        r"has shape \(10, 2\); classification needs one class per row",
        target=None,
        task="classification",
    )


def test_a_path_of_several_lines_is_shown_on_one(tmp_path: Path):
    path = tmp_path / "two\nlines.csv"
    path.write_text("a,price\n1\n")
    refused(path, r"two\\nlines\.csv', row 1 has 1 cells")


# --- what is refused: columns and cells ---------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["", " ", "NA", "N/A", "nan", "NaN", "null", "NULL", "None"])
@pytest.mark.parametrize("column", ["age", "garden", "price"])
def test_missing_cells_are_named_by_column_and_row(missing: str, column: str, tmp_path: Path):
    path = altered(tmp_path, column, 17, missing)
    text = refused(path, rf"altered\.csv: column '{column}', row 17: missing value \(the cell is '")
    assert "data rows count from 1, without the header" in text
    assert path.read_text().splitlines()[17].split(",")[HOUSES.columns.get_loc(column)] == missing


@pytest.mark.parametrize("infinity", ["inf", "-inf", "Infinity", "1e999"])
@pytest.mark.parametrize("column", ["age", "rooms", "price"])
def test_infinite_cells_are_named_by_column_and_row(infinity: str, column: str, tmp_path: Path):
    refused(altered(tmp_path, column, 30, infinity), rf"column '{column}', row 30 is infinite \(-?inf\)")


@pytest.mark.parametrize("text", ["tall", "12 years", "1_000", "0x10", "true"])
def test_text_among_numbers_is_named_by_column_and_row(text: str, tmp_path: Path):
    message = rf"column 'age', row 2: '{text}' is text, not a number; encode it .* dataset\.features=\[\.\.\.\]"
    refused(altered(tmp_path, "age", 2, text), message)


def test_the_first_bad_row_is_the_one_named(tmp_path: Path):
    path = altered(tmp_path, "age", 9, "nine")
    path.write_text(path.read_text().replace("nine", "x") + "y,1,True,2\n")
    refused(path, "column 'age', row 9: 'x' is text")


def test_unknown_columns(houses: Path):
    refused(
        houses,
        r"dataset\.target 'prise' is not a column of .*houses\.csv; it has: 'age', 'rooms', 'garden', 'price'; "
        r"did you mean 'price'\?",
        target="prise",
    )
    refused(houses, r"dataset\.features 'room' is not a column .*; did you mean 'rooms'\?", features=["age", "room"])
    refused(houses, r"dataset\.target is not set", ConfigError, target=None)


def test_a_wide_table_is_not_listed_whole(tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", {f"c{i}": range(9) for i in range(500)})
    assert len(refused(path, r"'c9', \.\.\.; did you mean 'c499'\?", target="c4999")) < 400


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        (["a"] * 10, "auto", r"column 'y' holds the single class a; classification needs two or more"),
        ([3] * 10, "auto", r"holds the single class 3"),
        ([True] * 10, "classification", r"holds the single class True"),
        (["a", "b"] * 4 + ["a", "c"], "auto", r"row 10: class 'c' is in this row only; each class needs two or more"),
        (list("abcdefghij"), "auto", r"row 1: class 'a' is in this row only"),
        ([0.5, 1.0] * 5, "classification", r"row 1: 0\.5 is not a class; use integers, booleans or text"),
        ([0.0, 1.0] * 4 + ["inf", 1], "classification", r"row 9 is infinite"),
        ([0.1] * 10, "auto", r"column 'y' has the same value in every row, so there is nothing to learn"),
        ([3] * 10, "regression", r"the same value in every row"),
        (["a", "b"] * 5, "regression", r"row 1: 'a' is text, not a number; choose dataset\.task=classification"),
    ],
)
def test_targets_that_cannot_be_learnt(values: list, task: str, message: str, tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", {"x": range(10), "y": values})
    refused(path, message, target="y", task=task)


def test_a_target_that_is_constant_on_the_training_part_is_refused(tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", {"x": range(10), "y": [0.5] * 9 + [1.5]})
    outcomes = set()
    for seed in range(40):
        try:
            load(path, "y", seed=seed)
            outcomes.add("loaded")
        except DataError as error:
            assert "the same value in every row, so its variance is 0" in str(error)
            outcomes.add("refused")
    assert outcomes == {"loaded", "refused"}


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_split_that_leaves_a_part_empty_is_refused(fraction: float, houses: Path):
    message = r"dataset\.test_fraction is 0\.\d+, which holds out \d+ of 30 rows; accepted here: 0\.0333 to 0\.933"
    refused(houses, message, ConfigError, test_fraction=fraction)


def test_a_column_too_large_to_standardise_is_named(tmp_path: Path):
    path = write_csv(tmp_path / "a.csv", {"x": range(10), "big": [1e200, -1e200] * 5, "y": AGE[:10]})
    refused(path, r"a\.csv: column 'big' is too large or too small", target="y")
    assert load(path, "y", standardize=False).samples == 8
