"""What was trained, asked in the units of its data: from Python, and from an exported folder alone."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from rsl_cli import load_study
from rsl_cli.cli import main
from rsl_cli.data import load_dataset
from rsl_cli.errors import DataError
from rsl_cli.portable import model
from rsl_cli.portable.model import encode

DRAWS = np.random.default_rng(3)
ROWS = 60
HOUSES = pd.DataFrame(
    {
        "id": range(ROWS),
        "age": DRAWS.normal(40, 10, ROWS).round(3),
        "city": ["Rome", "Bonn", "Oslo"] * (ROWS // 3),
        "garden": [True, False] * (ROWS // 2),
        "flat": 7.0,
        "price": DRAWS.normal(3e5, 4e4, ROWS).round(2),
    }
)
LINE = ["dataset=csv", "dataset.path=a.csv", "lift=2", "seeds=1", "trainer=adam", "trainer.steps=5", "executor=local"]
LINE += ["trainer.dtype=float64"]
KEYS = ["dataset.drop=[id]", "dataset.categorical=onehot", "dataset.missing=median"]


@pytest.fixture
def houses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame = HOUSES.copy()
    frame.loc[[4, 30], "age"] = np.nan
    frame.to_csv("a.csv", index=False)
    return frame


def test_prices_come_in_the_units_of_prices(houses, tmp_path):
    assert main(["run", *LINE, *KEYS, "dataset.target=price", "study=s"]) == 0
    network = load_study("results/s").network(2, 0)
    got = network.predict(houses.sample(frac=1, axis=1, random_state=1))
    assert got.shape == (ROWS, 1) and got.dtype == torch.float64
    # By hand: the network's outputs on the dataset's own arrays, scaled back by the raw training part.
    keys = {"name": "csv", "path": "a.csv", "target": "price", "drop": ["id"], "categorical": "onehot"}
    data, raw = (load_dataset({**keys, "missing": "median", "standardize": flag}) for flag in (True, False))
    back = network(torch.as_tensor(data.x_test)).detach().double() * raw.y_train.std() + raw.y_train.mean()
    places = [int(np.flatnonzero(houses["price"] == price)[0]) for price in raw.y_test[:, 0]]
    torch.testing.assert_close(got[places], back, rtol=1e-12, atol=0)
    assert main(["export", "s", "--to", "out"]) == 0
    script = (
        "import csv, json, sys\nfrom model import LiftedModel\n"
        "rows = list(csv.DictReader(open('../a.csv')))\n"
        "cells = {name: [row[name] for row in rows] for name in rows[0]}\n"
        "cells['age'] = [None if cell == '' else cell for cell in cells['age']]\n"
        "cells['garden'] = [cell == 'True' for cell in cells['garden']]\n"
        "print(json.dumps(LiftedModel.load('.').predict(cells).tolist()))\n"
        "assert not [name for name in sys.modules if name.startswith(('rsl_cli', 'pandas'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd="out", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout), dtype=torch.float64), got, rtol=1e-12, atol=0)


def test_classes_come_by_name(houses):
    assert main(["run", *LINE, "dataset.target=city", "dataset.drop=[id,age]", "study=s"]) == 0
    network = load_study("results/s").network(2, 0)
    labels = network.predict(houses)
    assert len(labels) == ROWS and set(labels) <= {"Bonn", "Oslo", "Rome"}
    data = load_dataset({"name": "csv", "path": "a.csv", "target": "city", "drop": ["id", "age"]})
    scale = np.array([data.reading.shift, data.reading.scale])
    x = (houses[["garden", "flat", "price"]].to_numpy(float) - scale[0]) / np.where(scale[1] == 0, np.inf, scale[1])
    expected = network(torch.as_tensor(x)).argmax(1).tolist()
    assert labels == [["Bonn", "Oslo", "Rome"][index] for index in expected]


def test_what_cannot_be_asked_is_refused_by_name(houses):
    assert main(["run", *LINE, *KEYS[:2], "dataset.missing=drop", "dataset.target=price", "study=s"]) == 0
    network = load_study("results/s").network(2, 0)
    for table, text in (
        (houses.drop(columns="age"), "the table lacks column 'age'; needed: "),
        (houses.assign(city="Paris"), "column 'city', row 1: 'Paris' is none of"),
        (houses, r"row 5, input \[1\] \(column 'age'\) is missing or infinite"),
        (houses[["age", "flat"]].to_numpy(), "some columns are text"),
    ):
        with pytest.raises(DataError, match=text):
            network.predict(table)


@pytest.mark.parametrize("name", ["digits", "sine2d"])
def test_arrays_can_be_asked_too(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = ["run", f"dataset={name}", "study=s", "trainer=adam", "trainer.steps=3", "lift=2", "seeds=1"]
    assert main([*line, "executor=local"]) == 0
    network = load_study("results/s").network(2, 0)
    data, raw = load_dataset({"name": name}, flat=True), None
    if name == "digits":
        raw = load_dataset({"name": name, "standardize": False})
        assert network.predict(raw.x_test) == network(torch.as_tensor(data.x_test)).argmax(1).tolist()
    else:
        assert torch.equal(network.predict(data.x_test), network(torch.as_tensor(data.x_test)).detach().double())


def test_a_study_that_kept_nothing_about_its_data_is_mended_by_its_line(houses):
    line = ["run", *LINE, *KEYS, "dataset.target=price", "study=s"]
    assert main(line) == 0
    file = Path("results/s/study.json")
    content = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in content.items() if key not in ("data", "digest")}))
    with pytest.raises(DataError, match="nothing is known about the data"):
        load_study("results/s").network(2, 0).predict(houses)
    assert main(line) == 0
    assert load_study("results/s").store.read_study()["data"] == content["data"]


PLAIN = {"id": [1, 2], "age": [40.5, 30.25], "flat": [7, 7]}


@pytest.fixture(scope="module")
def priced(tmp_path_factory):
    """A network that asks for id, age and flat."""
    folder = tmp_path_factory.mktemp("priced")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        HOUSES.to_csv("a.csv", index=False)
        assert main(["run", *LINE, "dataset.target=price", "dataset.features=[id,age,flat]", "study=s"]) == 0
        return load_study("results/s").network(2, 0)


def test_a_table_may_come_in_any_of_the_usual_forms(priced):
    frame = pd.DataFrame(PLAIN)
    wanted = priced.predict(frame)
    assert wanted.shape == (2, 1) and wanted[0] != wanted[1]
    arrow, rows = pa.Table.from_pandas(frame), frame.to_dict("records")
    text = {name: [f" {cell} " for cell in cells] for name, cells in PLAIN.items()}
    for table in (PLAIN, text, rows, frame.to_records(), arrow, frame.rename(columns=lambda name: f" {name} ")):
        assert torch.equal(priced.predict(table), wanted), type(table)
    array = frame.to_numpy()
    for samples in (
        array,
        array.tolist(),
        torch.tensor(array),
        torch.tensor(array).bfloat16(),
        array.astype(str),
        array.astype(object),
    ):
        assert torch.equal(priced.predict(samples), wanted), type(samples)
    for sample in (frame.iloc[0], rows[0], array[0], array[0].tolist(), array[:1]):
        assert torch.equal(priced.predict(sample), wanted[:1]), type(sample)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        (np.zeros((2, 4)), r"got an array of shape \(2, 4\); wanted \(N, 3\), the columns \['id', 'age', 'flat'\]"),
        (np.zeros((3, 2)), r"got an array of shape \(3, 2\); wanted"),
        (np.zeros((2, 3, 3)), r"got an array of shape \(2, 3, 3\); wanted"),
        (np.zeros(6), r"got an array of shape \(6,\); wanted"),
        (np.zeros((0, 3)), "the table has no rows"),
        ([[1, 2, 3], [1, 2]], "samples differ in length"),
        (np.ones((2, 3), complex), r"got complex128; wanted numbers \(N, 3\)"),
        ("a.csv", r"got str; wanted numbers \(N, 3\)"),
        (None, "got NoneType; wanted"),
        ([["1", "tall", "3"]], r"row 1, input \[2\] \(column 'age'\): 'tall' is not a number$"),
        ([[1, None, 3]], r"row 1, input \[2\] \(column 'age'\) is missing or infinite"),
        ({**PLAIN, "age": [1.0]}, "columns differ in length: 'id' 2, 'age' 1, 'flat' 2"),
        ({**PLAIN, "age": 1.0}, "columns differ in length"),
        ({**PLAIN, "age": ["1", "tall"]}, r"column 'age', row 2: 'tall' is not a number$"),
        ({**PLAIN, "age": ["1", "?"]}, r"row 2, input \[2\] \(column 'age'\) is missing or infinite"),
        ({**PLAIN, "age": ["1", "1,5"]}, r"row 2: '1,5' is not a number; numbers of .* have a decimal '\.'"),
        ({**PLAIN, "age": ["1", "1_5"]}, "row 2: '1_5' is not a number"),
        ({**PLAIN, "age": [1, pd.Timestamp(0)]}, "column 'age', row 2: .* is not a number"),
        ({**PLAIN, "age": [1, pd.NA]}, r"row 2, input \[2\] \(column 'age'\) is missing or infinite; fill it in"),
        ({**PLAIN, "age": np.zeros((2, 2))}, r"column 'age' has shape \(2, 2\)"),
        (pd.DataFrame(PLAIN).iloc[:0], "the table has no rows"),
        ([{"id": 1, "age": 2}], "the table lacks column 'flat'"),
    ],
)  # fmt: skip
def test_what_is_no_such_table_is_refused_in_a_line(priced, table, text):
    with pytest.raises(DataError, match=text):
        priced.predict(table)


def test_what_was_exported_before_it_said_how_cells_are_read_is_asked_still():
    known = {"columns": [{"name": "x", "categories": None, "onehot": False}], "shape": [1]}
    known |= dict.fromkeys(("fill", "shift", "scale"))
    assert encode(known, {"x": ["1.5", 2, " -3e2 "]}).tolist() == [[1.5], [2.0], [-300.0]]
    for cell in ("1,5", "1_0", "x"):
        with pytest.raises(ValueError, match="is not a number"):
            encode(known, {"x": [cell]})
    for cell in (None, "", "NaN", pd.NA, float("nan")):
        with pytest.raises(ValueError, match="is missing or infinite"):
            encode(known, {"x": [cell]})


def test_an_array_of_another_shape_is_no_sample_of_an_image(tmp_path, monkeypatch):
    """Once folded to as many samples as its numbers made."""
    monkeypatch.chdir(tmp_path)
    line = ["run", "dataset=digits", "study=s", "trainer=adam", "trainer.steps=3", "lift=2", "seeds=1"]
    assert main([*line, "executor=local"]) == 0
    network, image = load_study("results/s").network(2, 0), np.arange(64.0)
    assert network.predict(image) == network.predict(image.reshape(8, 8)) == network.predict(image.reshape(1, 8, 8))
    assert len(network.predict(np.zeros((3, 64)))) == 3
    with pytest.raises(DataError, match=r"row 2, input \[3, 8\] is missing"):
        network.predict(np.where(np.arange(128) == 64 + 23, np.nan, 0.0).reshape(2, 64))
    for shape in ((2, 32), (4, 4, 4), (64, 1)):
        with pytest.raises(DataError, match=r"got an array of shape .*; wanted \(N, 8, 8\), .* \.\.\.\]$"):
            network.predict(np.zeros(shape))


MINE = """
import numpy as np
import pandas as pd
import pyarrow as pa


def load():
    draws = np.random.default_rng(0)
    x = pd.DataFrame({"a": draws.normal(size=40), "b": draws.normal(size=40), "c": [True, False] * 20})
    y = pd.Series(np.where(x["a"] > 0, "high", "low"))
    return x[:30], y[:30], x[30:], y[30:]
"""


def test_a_function_of_ones_own_is_asked_by_its_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "frames_of_mine.py").write_text(MINE)
    line = ["run", "dataset=target", "dataset.target=frames_of_mine.load", "study=s", "trainer=adam", "lift=2"]
    assert main([*line, "trainer.steps=5", "seeds=1", "executor=local", "trainer.dtype=float64"]) == 0
    network, frame = load_study("results/s").network(2, 0), __import__("frames_of_mine").load()[2]
    got = network.predict(frame[["c", "b", "a"]])
    outputs = network(torch.as_tensor(frame.to_numpy(float))).argmax(1).tolist()
    assert got == [["high", "low"][index] for index in outputs] == network.predict(frame.to_numpy())
    with pytest.raises(DataError, match="the table lacks column 'b'"):
        network.predict(frame[["a", "c"]])


def test_the_raw_table_can_be_asked_again(tmp_path, monkeypatch):
    """Missing cells, decimal commas, thousands, blanks and truth as the file has them, here and beside the export."""
    monkeypatch.chdir(tmp_path)
    cities, draws = [" Rome ", "Bonn"], np.random.default_rng(5)
    clean = pd.DataFrame(
        {
            "rooms": draws.integers(1, 9, 40).astype(float),
            "area": draws.normal(1500, 700, 40).round(2),
            "garden": draws.integers(0, 2, 40).astype(bool),
            "city": [cities[i % 2].strip() for i in range(40)],
        }
    )
    clean.loc[3, "rooms"] = clean.loc[8, "area"] = np.nan
    lines = [" rooms ; area;garden;city;price"]
    for i, row in enumerate(clean.itertuples()):
        area = "?" if i == 8 else f"{row.area:,.2f}".translate(str.maketrans(",.", ".,"))
        lines.append(f"{'-' if i == 3 else int(row.rooms)}; {area} ;{row.garden};{cities[i % 2]};{i},5")
    Path("a.csv").write_text("\n".join(lines))
    assert main(["run", *LINE, *KEYS[1:], "dataset.target=price", "study=s"]) == 0
    network = load_study("results/s").network(2, 0)
    wanted, raw = network.predict(clean), pd.read_csv("a.csv", sep=";", dtype=str, keep_default_na=False)
    data = load_dataset(
        {"name": "csv", "path": "a.csv", "target": "price", "categorical": "onehot", "missing": "median"}
    )
    assert data.reading is not None and data.reading.fill is not None
    filled = clean.fillna({"rooms": data.reading.fill[0], "area": data.reading.fill[1]})
    assert torch.equal(wanted, network.predict(filled)) and wanted.unique().numel() > 30
    assert torch.equal(network.predict(raw), wanted)
    with pytest.raises(DataError, match=r"column 'area', row 1: '40\.64' is not a number; .* have a decimal ','"):
        network.predict(raw.assign(**{" area": "40.64"}))
    assert main(["export", "s", "--to", "out"]) == 0
    script = (
        "import csv, json, sys\nfrom model import LiftedModel\n"
        "rows = list(csv.DictReader(open('../a.csv'), delimiter=';'))\n"
        "print(json.dumps(LiftedModel.load('.').predict(rows).tolist()))\n"
        "assert not [name for name in sys.modules if name.startswith(('rsl_cli', 'pandas'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd="out", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout), dtype=torch.float64), wanted, rtol=1e-12, atol=0)


def test_a_number_that_stands_for_no_value_does_so_as_a_number_too(tmp_path):
    rows = "".join(f"{-999.0 if i % 7 == 3 else i},{i * 2},{i / 3}\n" for i in range(40))
    (tmp_path / "a.csv").write_text("a,b,y\n" + rows)
    config = {"name": "csv", "path": str(tmp_path / "a.csv"), "target": "y", "na": [-999], "missing": "mean"}
    rules = load_dataset(config).reading.cells
    for cell in (-999, -999.0, np.float32(-999), "-999", "-999.00", "-9.99e2", None):
        assert math.isnan(model._number(cell, rules, "here"))
    assert model._number(-998, rules, "here") == -998
