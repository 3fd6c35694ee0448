"""Tables as people have them: missing cells, text, separators, identifiers; and what is said about each."""

import gzip
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from rsl_cli.data import content_identity, load_dataset
from rsl_cli.data.cells import find_dialect, is_number, read_cells
from rsl_cli.errors import ConfigError, DataError

ROWS = 40
DRAWS = np.random.default_rng(1)
FRAME = pd.DataFrame(
    {
        "id": range(100, 100 + ROWS),
        "age": DRAWS.normal(40, 10, ROWS),
        "city": ["Rome", "Bonn", "Oslo", "Bonn"] * (ROWS // 4),
        "price": DRAWS.normal(3, 1, ROWS),
    }
)


def load(tmp_path, frame: pd.DataFrame | None = None, *, text: str | None = None, suffix: str = "csv", **keys):
    path = tmp_path / f"a.{suffix}"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    elif suffix == "csv":
        (FRAME if frame is None else frame).to_csv(path, index=False)
    else:
        (FRAME if frame is None else frame).to_parquet(path)
    keys = {"standardize": False, "target": "price", **keys}
    return load_dataset({"name": suffix, "path": str(path), **keys})


def pairs(data) -> list[tuple]:
    x, y = np.vstack([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])
    return sorted(map(tuple, np.column_stack([x, y]).tolist()))


def test_keys_at_their_defaults_are_unsaid_in_the_identity(tmp_path):
    FRAME[["age", "price"]].to_csv(tmp_path / "a.csv", index=False)
    config = {"name": "csv", "path": str(tmp_path / "a.csv"), "target": "price"}
    before = {"name", "path", "target", "features", "task", "test_fraction", "seed", "standardize"}
    assert content_identity(config).keys() == before
    assert content_identity({**config, "missing": "drop"}).keys() == before | {"missing"}
    assert content_identity({**config, "thousands": "none", "na": None}).keys() == before


@pytest.mark.parametrize(
    ("cells", "said", "found"),
    [
        (["1.5", "2.5"], "none", None),
        (["0,5", "1.000"], "point", None),
        (["555 123", "1 100"], "auto", "space"),
        (["1,100,200", "7"], "auto", "comma"),
        (["555 123", "1 100"], "space", "space"),
    ],
)
def test_thousands_are_in_the_identity_where_versions_before_read_something_else(cells, said, found, tmp_path):
    text = "x;y\n" + "".join(f"{cells[i % 2]};{i}e1\n" for i in range(12))
    (tmp_path / "a.csv").write_text(text)
    config = {"name": "csv", "path": str(tmp_path / "a.csv"), "target": "y", "categorical": "ordinal"}
    assert content_identity({**config, "thousands": said}).get("thousands") == found


@pytest.mark.parametrize(
    ("text", "keys", "found"),
    [
        # Read by commas in both versions; quoted among commas, as numbers in this one alone.
        ("x;y\n" + "1,5;2,25\n2,5;3,5\n" * 6, {}, None),
        ("x,y\n" + '"1,5",2\n"2,5",3\n' * 6, {}, "comma"),
        # One comma in a text once made 4.236 into 4236.
        ("x;y;z\n" + "4.236;1.5;5,7\n7.5;2.5;a\n" * 6, {"drop": ["z"]}, "point"),
        ("x;y\n" + "1,5;2.25\n1,7;3.5\n" * 6, {"decimal": "point", "thousands": "none"}, "point"),
    ],
)
def test_a_decimal_mark_is_in_the_identity_where_versions_before_took_another(text, keys, found, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    config = {"name": "csv", "path": str(tmp_path / "a.csv"), "target": "y", "categorical": "ordinal"}
    assert content_identity({**config, **keys, "task": "regression"}).get("decimal") == found


def test_a_file_says_its_separator_or_what_it_is_not(tmp_path):
    rows = "".join(f"{i},5;{2 * i},5\n" for i in range(10))
    assert pairs(load(tmp_path, text="sep=;\nx;price\n" + rows)) == [(i + 0.5, 2 * i + 0.5) for i in range(10)]
    with pytest.raises(DataError, match=r"row 3 has 1 cells, the header has 2"):
        load(tmp_path, text='"x";"price"\n' + '"1";"2"\n' * 2 + '"3"\n')
    (tmp_path / "a.csv").write_text("x,price\n1,2\n", encoding="utf-16-le")
    with pytest.raises(DataError, match="zero bytes, as UTF-16 does that says not so at its start; save it as UTF-8"):
        load_dataset({"name": "csv", "path": str(tmp_path / "a.csv"), "target": "price"})
    (tmp_path / "a.csv").write_bytes(gzip.compress(b"x,price\n1,2\n"))
    with pytest.raises(DataError, match=r"is compressed; unpack it first, e\.g\. with gunzip"):
        load_dataset({"name": "csv", "path": str(tmp_path / "a.csv"), "target": "price"})


def test_points_that_might_all_part_thousands_are_told(tmp_path):
    rows = "".join(f"{i + 1}.234;{i}e1\n" for i in range(10))
    data = load(tmp_path, text="x;price\n" + rows)
    assert pairs(data)[0] == (1.234, 0)
    told = "numbers such as 1.234 are read with a decimal point; if it parts thousands, set dataset.thousands=point"
    assert told in data.notes[1]
    assert pairs(load(tmp_path, text="x;price\n" + rows, thousands="point"))[0] == (1234, 0)
    for other in ("0.5", "1.23"):
        assert told not in str(load(tmp_path, text=f"x;price\n{rows}{other};3e1\n").notes)


@pytest.mark.parametrize("marker", ["", "n/a", "N/a", "NULL", "none", "#N/A", "<NA>", "NaN", "-nan", "?", "#DIV/0!"])
def test_markers_of_missing_cells_are_no_classes(marker, tmp_path):
    rows = "".join(f"{i},{['yes', 'no', marker][i % 3]}\n" for i in range(30))
    with pytest.raises(
        DataError, match=r"column 'y', row 3: missing value .* cells by column: 'y' 10; set dataset\.mis"
    ):
        load(tmp_path, text="x,y\n" + rows, target="y")
    data = load(tmp_path, text="x,y\n" + rows, target="y", missing="drop")
    assert data.outputs == 2 and "classes of 'y': no 10, yes 10" in data.notes
    assert "missing cells by column: 'y' 10; 10 of 30 rows left out" in data.notes


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_rows_that_lack_a_value_can_be_dropped_or_filled(suffix, tmp_path):
    frame = FRAME[["age", "price"]].copy()
    frame.loc[[3, 7, 9], "age"] = np.nan
    frame.loc[[9, 11], "price"] = np.nan
    dropped = load(tmp_path, frame, suffix=suffix, missing="drop")
    assert pairs(dropped) == sorted(map(tuple, frame.dropna().to_numpy().tolist()))
    for policy, statistic in (("mean", np.nanmean), ("median", np.nanmedian)):
        data = load(tmp_path, frame, suffix=suffix, missing=policy)
        assert len(pairs(data)) == ROWS - 2
        known, ages = dict(frame.dropna()[["price", "age"]].to_numpy()), {price: age for age, price in pairs(data)}
        training = [known[price] for price in data.y_train[:, 0] if price in known]
        filled = statistic(training)
        assert ages == known | {frame["price"][row]: filled for row in (3, 7)}, "of the training part alone"
        said = f"'age' 3, 'price' 2; 2 of {ROWS} rows left out, the others filled with the column's {policy}"
        assert any(said in note or "'price' 2, 'age' 3" in note for note in data.notes)


def test_what_fills_a_cell_is_known_where_none_was_missing_too(tmp_path):
    """So that what was trained can be asked about rows that lack a value."""
    data = load(tmp_path, drop=["id", "city"], missing="median")
    assert data.reading is not None and data.reading.fill is not None
    assert data.reading.fill.tolist() == [np.median(data.x_train)]
    assert data.x_train.tolist() == load(tmp_path, drop=["id", "city"]).x_train.tolist()


def test_rows_are_counted_as_the_user_counts_them(tmp_path):
    rows = [f"{i},{i / 7}" for i in range(30)]
    rows[2], rows[20] = ",0.5", "inf,0.25"
    with pytest.raises(DataError, match=r"column 'x', row 21 is infinite"):
        load(tmp_path, text="x,price\n" + "\n".join(rows), missing="drop")


def test_text_is_encoded_as_asked(tmp_path):
    frame = FRAME.drop(columns="id")
    with pytest.raises(DataError, match=r"'Rome' is text, not a number; encode it by dataset\.categorical=onehot"):
        load(tmp_path, frame)
    onehot = load(tmp_path, frame, categorical="onehot")
    expected = pd.get_dummies(frame, columns=["city"], dtype=float)
    wanted = expected[["age", "city_Bonn", "city_Oslo", "city_Rome", "price"]].to_numpy()
    assert pairs(onehot) == sorted(map(tuple, wanted.tolist()))
    assert "categories by column, onehot: 'city' 3" in onehot.notes
    ordinal = load(tmp_path, frame, categorical="ordinal")
    codes = frame.assign(city=frame["city"].astype("category").cat.codes)
    assert pairs(ordinal) == sorted(map(tuple, codes.to_numpy(float).tolist()))


def test_a_slip_among_numbers_is_no_category(tmp_path):
    ages = [*map(str, range(20, 29)), "12 years"] * 2
    text = "age,price\n" + "".join(f"{age},{i / 3}\n" for i, age in enumerate(ages))
    with pytest.raises(
        DataError, match=r"column 'age', row 10: '12 years' is text, not a number; encode it as a number"
    ):
        load(tmp_path, text=text, categorical="onehot")
    with pytest.raises(DataError, match=r"column 'city' holds 40 different texts in 40 rows, as names and IDs do"):
        load(tmp_path, FRAME.assign(city=[f"c{i}" for i in range(ROWS)]), categorical="onehot")


def test_columns_can_be_left_out_and_ids_are_named(tmp_path):
    data = load(tmp_path, drop=["id", "city"])
    assert data.input_shape == (1,) and data.notes == ()
    noted = load(tmp_path, drop=["city"])
    assert [note for note in noted.notes if "dataset.drop=[id]" in note] == list(noted.notes) != []
    with pytest.raises(DataError, match=r"dataset\.drop 'ids' is not a column of .*did you mean 'id'"):
        load(tmp_path, drop=["ids"])
    with pytest.raises(ConfigError, match=r"dataset\.drop holds the target"):
        load(tmp_path, drop=["price"])
    with pytest.raises(ConfigError, match=r"dataset\.features and dataset\.drop both name 'id'"):
        load(tmp_path, drop=["id"], features=["id"])


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_are_recognised(separator, tmp_path):
    frame = FRAME[["age", "price"]]
    data = load(tmp_path, text=frame.to_csv(index=False, sep=separator))
    assert pairs(data) == sorted(map(tuple, frame.to_numpy().tolist()))
    assert bool(data.notes) == (separator != ",")


def test_decimal_commas_are_recognised_or_asked_for(tmp_path):
    frame = FRAME[["age", "price"]]
    expected = sorted(map(tuple, frame.to_numpy().tolist()))
    text = frame.to_csv(index=False, sep=";", decimal=",")
    data = load(tmp_path, text=text)
    assert pairs(data) == expected and "separated by semicolon, numbers written with a decimal comma" in data.notes[0]
    assert pairs(load(tmp_path, text=frame.to_csv(index=False, decimal=","), decimal="comma")) == expected
    german = "x;price\n" + "".join(f"1.{i:03d},5;{i},25\n" for i in range(10))
    assert pairs(load(tmp_path, text=german)) == [(1000.5 + i, i + 0.25) for i in range(10)]
    unclear = "x;price\n" + "".join(f"1,{i:03d};{i}\n" for i in range(10))
    with pytest.raises(DataError, match=r"row 1: 1,000 may be a decimal comma .* set dataset\.decimal=comma or"):
        load(tmp_path, text=unclear, task="regression")
    assert pairs(load(tmp_path, text=unclear, decimal="comma", task="regression"))[3] == (1.003, 3)


def written(frame: pd.DataFrame, **formats: str) -> str:
    """The frame as text separated by semicolons, some columns by a format of Python's, then marks exchanged by it."""
    cells = {name: [formats[name].format(value) for value in frame[name]] for name in formats}
    return frame.assign(**cells).to_csv(index=False, sep=";")


SUMS = pd.DataFrame({"x": [0.5, 12.25, *np.arange(8) / 4], "price": [1234567.5, *(np.arange(9) * 1100.25)]})
EXCHANGED = str.maketrans(",.", ".,")
SWISS = str.maketrans(",", "'")
FRENCH = str.maketrans(",.", "\u202f,")


@pytest.mark.parametrize(
    ("exchange", "said"),
    [
        ({}, "thousands parted by comma"),
        (EXCHANGED, "numbers written with a decimal comma, thousands parted by point"),
        (SWISS, "thousands parted by apostrophe"),
        (FRENCH, "numbers written with a decimal comma, thousands parted by space"),
    ],
)
def test_parted_thousands_are_recognised_where_nothing_else_fits(exchange, said, tmp_path):
    text = written(SUMS, x="{:.2f}", price="{:,.2f}").translate(exchange)
    data = load(tmp_path, text=text, task="regression")
    assert pairs(data) == sorted(map(tuple, SUMS.to_numpy().tolist()))
    assert data.notes[0].endswith(f"cells separated by semicolon, {said}")
    whole = SUMS.assign(x=range(10), price=[1_234_567, *range(1100, 10_000, 1100)])
    text = written(whole, price="{:,}").translate(exchange)
    assert pairs(load(tmp_path, text=text, task="regression")) == sorted(map(tuple, whole.to_numpy(float).tolist()))


def test_numbers_in_any_notation_are_read_right_or_asked_for():
    """But for points before three digits everywhere: these are decimal, as everywhere else."""
    draws, outcomes = np.random.default_rng(0), Counter()
    auto = {"decimal": "auto", "thousands": "auto", "na": None}
    for _ in range(500):
        point = str(draws.choice([".", ","]))
        group = str(draws.choice([mark for mark in ("", ",", ".", "'", " ") if mark != point]))
        columns, truth = {}, {}
        for name in "abc"[: draws.integers(1, 4)]:
            digits, size = draws.integers(5), 10.0 ** draws.integers(7)
            truth[name] = np.round(draws.normal(size=5) * size, digits) + 0.0
            texts = [f"{number:_.{digits}f}" for number in truth[name]]
            columns[name] = [text.replace(".", point).replace("_", group) for text in texts]
        try:
            dialect = find_dialect(columns, auto, "a.csv")
        except DataError:
            outcomes["asked"] += 1
            continue
        read = {name: read_cells(cells, dialect).values for name, cells in columns.items()}
        right = all(np.array_equal(read[name].astype(float), truth[name]) for name in columns)
        outcomes["right" if right else "plain"] += 1
        assert right or (group == "." and all(is_number(cell) for cells in columns.values() for cell in cells))
    assert outcomes["right"] > 450 and outcomes["asked"] > 5 and outcomes["plain"] < 10, outcomes


@pytest.mark.parametrize("task", ["auto", "regression"])
def test_a_price_with_parted_thousands_is_asked_for_and_no_class(task, tmp_path):
    """Once eight classes."""
    rows = [(1 + i % 8, 100_000 + 10_000 * (i % 8)) for i in range(40)]
    text = "x,price\n" + "".join(f'{x},"{price:,}"\n' for x, price in rows)
    message = r"column 'price', row 1: 100,000 may be .*; set dataset\.decimal=comma or dataset\.thousands=comma$"
    with pytest.raises(DataError, match=message):
        load(tmp_path, text=text, task=task)
    task = {"task": "regression"}
    assert pairs(load(tmp_path, text=text, thousands="comma", **task)) == sorted(rows)
    assert pairs(load(tmp_path, text=text, decimal="point", **task)) == sorted(rows)
    assert pairs(load(tmp_path, text=text, decimal="comma", **task)) == sorted((x, price / 1000) for x, price in rows)
    assert load(tmp_path, text=text, decimal="point", thousands="none").outputs == 8, "as text, which was asked for"
    with pytest.raises(DataError, match=r"1\.25 has another decimal mark; set dataset\.thousands=comma if it does"):
        load(tmp_path, text=text.replace("\n1,", "\n1.25,"))
    with pytest.raises(
        DataError, match=r"dataset\.decimal and dataset\.thousands are both comma; give one mark to one"
    ):
        load(tmp_path, text=text, decimal="comma", thousands="comma")


@pytest.mark.parametrize(
    ("text", "keys", "message"),
    [
        ("a;b;price\n" + "5,7;4.236;40.64\n" * 9, {}, r"column 'a', row 1: 5,7 and column 'price', row 1: 40\.64 are"),
        ("a;price\n" + "5,7;4.236\n" * 9, {}, r"row 1: 4\.236 may be .* as column 'a', row 1: 5,7 has another"),
        ("a,price\n" + '1.5,2.5\n' * 9 + '"1,5",2\n', {}, r"column 'a', row 10: 1,5 and column 'a', row 1: 1\.5 are"),
        ("a,price\n" + '"1,5",2\n' * 9, {"decimal": "point"}, r"row 1: 1,5 is no number with dataset\.decimal=point"),
        ("a;price\n" + "1.25;2\n" * 9, {"decimal": "comma"}, r"row 1: 1\.25 is no number with dataset\.decimal=comma"),
        ("a,price\n" + "1.25,2\n" * 9, {"thousands": "point"}, r"row 1: 1\.25 is no number with dataset\.decimal=auto"),
    ],
)  # fmt: skip
def test_numbers_of_two_kinds_are_named_by_both_cells(text, keys, message, tmp_path):
    """Once a comma in one column multiplied another by a thousand."""
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path, text=text, task="regression", **keys)
    assert "dataset.decimal" in str(caught.value) and "\n" not in str(caught.value)


def test_marks_of_columns_that_are_left_out_or_are_text_count_for_nothing(tmp_path):
    rows = "".join(f'"{i},5","{"to, from" if i % 2 else "1,5"}",{i / 4}\n' for i in range(10))
    keys = {"task": "regression", "categorical": "onehot"}
    with pytest.raises(DataError, match="are not numbers of one kind"):
        load(tmp_path, text="a,b,price\n" + rows, **keys)
    for given in ({"drop": ["a"]}, {"features": ["b"]}):
        data = load(tmp_path, text="a,b,price\n" + rows, **keys, **given)
        assert data.reading is not None and data.reading.columns[0].categories == ("1,5", "to, from")


def test_decimal_commas_in_quotes_are_recognised_too(tmp_path):
    text = "x,price\n" + "".join(f'"{i},5","{2 * i},25"\n' for i in range(10))
    data = load(tmp_path, text=text)
    assert pairs(data) == [(i + 0.5, 2 * i + 0.25) for i in range(10)]
    assert data.notes[0].endswith("a.csv: numbers written with a decimal comma")


@pytest.mark.parametrize("cell", ["$140,000", "$ 170", "170 €", "-USD 5", "5%", "R$ 1.000,5"])
def test_amounts_with_a_unit_are_no_classes(cell, tmp_path):
    text = "x,price\n" + "".join(f'{i % 5},"{cell}"\n' for i in range(20)) + '1,"12"\n' * 2
    for task in ("auto", "regression"):
        with pytest.raises(
            DataError, match=r"column 'price', row 1: .* it has a unit: write the number alone, or choose"
        ):
            load(tmp_path, text=text, task=task)
    with pytest.raises(DataError, match=r"row 1: .* write the number alone, or leave .* dataset\.drop=\[price\]"):
        load(tmp_path, text=text, target="x")
    data = load(tmp_path, text=text, target="x", categorical="onehot")
    assert data.x_train.shape[1] == 2 and any("categories, but it has a unit" in note for note in data.notes)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_target_of_many_numbers_and_a_slip_is_no_class(suffix, tmp_path):
    frame = pd.DataFrame({"x": range(66), "price": [*map(str, range(100, 132))] * 2 + ["soon"] * 2})
    with pytest.raises(
        DataError, match=r"row 65: 'soon' is text, .* encode it as a number, or choose .*=classification"
    ):
        load(tmp_path, frame, suffix=suffix)
    assert load(tmp_path, frame, suffix=suffix, task="classification").outputs == 33
    marked = frame.assign(price=[f"{i + 1},000" for i in range(33)] * 2)
    if suffix == "parquet":  # In separated text these are numbers, once it is said which.
        with pytest.raises(DataError, match=r"row 1: '1,000' is text, not a number; encode it as a number"):
            load(tmp_path, marked, suffix=suffix)


@pytest.mark.parametrize("form", ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%y", "%Y-%m-%dT%H:%M:%S"])
def test_dates_are_no_categories(form, tmp_path):
    frame = FRAME[["age", "price"]].assign(day=pd.date_range("2024-01-01", periods=ROWS).strftime(form))
    with pytest.raises(DataError, match=r"column 'day', row 1: .* a date: put a number .* dataset\.drop=\[day\]") as no:
        load(tmp_path, frame)
    assert "onehot" not in str(no.value)
    with pytest.raises(DataError, match="different texts in"):
        load(tmp_path, frame, categorical="onehot")
    few = frame.assign(day=list(frame["day"][:4]) * (ROWS // 4) + list(frame["day"][: ROWS % 4]))
    data = load(tmp_path, few, categorical="onehot")
    assert data.x_train.shape[1] == 5 and any("categories, but it is a date" in note for note in data.notes)
    with pytest.raises(DataError, match=r"column 'day', row 1: .* it is a date"):
        load(tmp_path, frame, target="day")


@pytest.mark.parametrize("marker", ["-", "--", ".", "\u2013"])
def test_dashes_are_missing_among_numbers_alone(marker, tmp_path):
    rows = "".join(f"{marker if i % 5 == 2 else i},{'ab'[i % 2] if i % 5 else marker}\n" for i in range(20))
    with pytest.raises(DataError, match=r"column 'x', row 3: missing value \(the cell is '"):
        load(tmp_path, text="x,y\n" + rows, target="y")
    data = load(tmp_path, text="x,y\n" + rows, target="y", missing="drop")
    assert data.outputs == 3 and data.samples + len(data.x_test) == 16


def test_markers_of_ones_own(tmp_path):
    rows = "".join(f"{-999 if i % 5 == 2 else i},{'None yet' if i % 5 == 1 else i / 3}\n" for i in range(20))
    for written in (-999, "-999.0", "-9.99e2"):  # A number is one however it is written.
        data = load(tmp_path, text="x,price\n" + rows, na=[written, "none yet"], missing="drop")
        assert pairs(data) == [(i, i / 3) for i in range(20) if i % 5 not in (1, 2)]
    assert "missing cells by column: 'price' 4, 'x' 4; 8 of 20 rows left out" in data.notes


@pytest.mark.parametrize(("index", "place"), [(range(ROWS), 1), (range(1, ROWS + 1), 1), ([""] * ROWS, 3)])
def test_a_column_without_name_that_numbers_the_rows_is_left_out(index, place, tmp_path):
    frame = FRAME[["age", "price"]].copy()
    frame.insert(place - 1, "", list(index))
    data = load(tmp_path, frame)
    assert data.input_shape == (1,)
    assert [note for note in data.notes if f"column {place} has no name and numbers the rows or is empty" in note]
    frame[""] = range(5, 5 + ROWS)
    with pytest.raises(DataError, match=rf"column {place} has no name, .*; name it .* dataset\.features=\[\.\.\.\]$"):
        load(tmp_path, frame)
    assert load(tmp_path, frame, features=["age"]).input_shape == (1,)


def test_numbers_of_rows_in_any_notation_are_named(tmp_path):
    frame = FRAME[["age", "price"]].assign(nr=np.arange(ROWS) * 1.0)
    assert any("dataset.drop=[nr]" in note for note in load(tmp_path, frame).notes)
    assert not load(tmp_path, frame.assign(nr=np.arange(ROWS) * 0.5)).notes


@pytest.mark.parametrize("text", ["# by hand\nx,price\n1,2\n", "x price\n1 2\n"])
def test_the_separators_there_are_are_listed(text, tmp_path):
    with pytest.raises(DataError, match=r"the first line, '.*', names fewer .*: comma, semicolon, tab, pipe$"):
        load(tmp_path, text=text)


def test_integers_that_lose_digits_are_named(tmp_path):
    text = "x,price\n" + "".join(f"{2**60 + i},{i / 3}\n" for i in range(10))
    assert "column 'x' holds integers beyond 2^53, whose last digits are lost" in load(tmp_path, text=text).notes
    exact = "x,price\n" + "".join(f"{2**60 * (i % 2)},{i / 3}\n" for i in range(10))
    assert load(tmp_path, text=exact).notes == ()


def test_a_table_of_very_many_columns(tmp_path):
    """Once quadratic in its columns: 40,000 took half a minute."""
    columns = 20_000
    rows = np.arange(12)[:, None] * 0.25 + np.arange(columns) % 7
    header = ",".join(f"c{i}" for i in range(columns))
    lines = [f"{i},{','.join(map(str, row.tolist()))}" for i, row in enumerate(rows)]
    (tmp_path / "wide.csv").write_text("\n".join([f"price,{header}", *lines]) + "\n")
    settings = {"path": str(tmp_path / "wide.csv"), "target": "price", "task": "regression", "standardize": False}
    data = load_dataset({"name": "csv", **settings})
    read = np.concatenate([data.x_train, data.x_test])
    assert read.shape == (12, columns)
    np.testing.assert_allclose(read[read[:, 0].argsort()], rows)


def test_markers_in_other_formats_are_no_classes_either(tmp_path):
    labels = ["yes", "no", "N/A"] * 10
    frame = pd.DataFrame({"x": range(30), "y": labels})
    with pytest.raises(DataError, match=r"column 'y', row 3: missing value \('N/A'\)"):
        load(tmp_path, frame, suffix="parquet", target="y")
    assert load(tmp_path, frame, suffix="parquet", target="y", missing="drop").outputs == 2
    np.savez(tmp_path / "a.npz", x=np.arange(30.0)[:, None], y=np.array(labels))
    with pytest.raises(DataError, match=r"array 'y', row 3: 'N/A' stands for a missing value, in 10 rows"):
        load_dataset({"name": "npz", "path": str(tmp_path / "a.npz")})
    np.savez(tmp_path / "a.npz", x=np.arange(30.0)[:, None], y=np.array(["yes", "no", "no"] * 10))
    assert load_dataset({"name": "npz", "path": str(tmp_path / "a.npz")}).notes == ("classes of 'y': no 20, yes 10",)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-16", "UTF-16"),
        ("latin-1", "Windows-1252"),
        ("cp1252", "Windows-1252"),
    ],
)
def test_a_table_may_be_written_in_any_of_the_usual_encodings(encoding, said, tmp_path):
    rows = "".join(f"{i},5;{'weiß' if i % 3 else 'grün'};{i % 7}\n" for i in range(30))
    (tmp_path / "a.csv").write_bytes(f"Größe;Farbe;Preis\n{rows}".encode(encoding))
    config = {
        "name": "csv",
        "path": str(tmp_path / "a.csv"),
        "target": "Preis",
        "categorical": "onehot",
        "task": "auto",
    }
    data = load_dataset({**config, "standardize": False, "drop": None})
    assert data.reading is not None
    assert [one.name for one in data.reading.columns] == ["Größe", "Farbe"]
    assert data.reading.columns[1].categories == ("grün", "weiß")
    assert [f"read as {said}" in note for note in data.notes if "semicolon" in note] == [said is not None]


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\x00", b"PK\x03\x04\xe9", b"x,y\n1,\x81\n", b"\xff\xfe\x00"])
def test_what_is_no_text_in_any_of_them_is_refused(content, tmp_path):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match="is not comma-separated text in UTF-8, or is damaged"):
        load_dataset({"name": "csv", "path": str(tmp_path / "a.csv"), "target": "y"})


def test_a_target_of_few_whole_numbers_and_gaps_is_told(tmp_path):
    text = "x,y\n" + "".join(f"{i}.5,{'' if i == 7 else i % 3}\n" for i in range(30))
    data = load(tmp_path, text=text, target="y", missing="drop")
    assert data.task == "regression" and any("dataset.task=classification makes classes" in note for note in data.notes)
    chosen = load(tmp_path, text=text, target="y", missing="drop", task="classification")
    assert chosen.task == "classification" and not any("makes classes" in note for note in chosen.notes)
    many = load(tmp_path, text=text.replace(",0\n", ",0.5\n"), target="y", missing="drop")
    assert not any("makes classes" in note for note in many.notes)
