"""Tables as people have them: missing cells, text, separators, identifiers; and what is said about each."""

import numpy as np
import pandas as pd
import pytest

from rsl_cli.data import content_identity, load_dataset
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
    FRAME.to_csv(tmp_path / "a.csv", index=False)
    config = {"name": "csv", "path": str(tmp_path / "a.csv"), "target": "price"}
    before = {"name", "path", "target", "features", "task", "test_fraction", "seed", "standardize"}
    assert content_identity(config).keys() == before
    assert content_identity({**config, "missing": "drop"}).keys() == before | {"missing"}


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
