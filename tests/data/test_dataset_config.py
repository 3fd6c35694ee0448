"""Keys, defaults and identities of every dataset, and the configuration files that ship with them."""

import hashlib
from collections import UserDict
from pathlib import Path

import numpy as np
import pytest
import yaml

from rsl_cli.data import Dataset, accepted_datasets, content_identity, load_dataset
from rsl_cli.data.target import DATASETS
from rsl_cli.errors import ConfigError, DataError

CONF = Path(__file__).parents[2] / "conf" / "dataset"
CSV = {"name": "csv", "path": "a.csv", "target": "y"}
ELSEWHERE = ("csv", "parquet", "npz", "text", "mnist", "fashion_mnist", "cifar10", "target")
"""Sets that lie in files or beyond a network."""


def test_every_dataset_has_its_file_and_every_file_its_dataset():
    assert sorted(accepted_datasets()) == sorted(file.stem for file in CONF.glob("*.yaml"))
    assert len(set(accepted_datasets())) == len(accepted_datasets())


@pytest.mark.parametrize("name", accepted_datasets())
def test_files_spell_out_the_defaults_in_order_under_a_header(name: str):
    text = (CONF / f"{name}.yaml").read_text(encoding="utf-8")
    written = yaml.safe_load(text)
    declared = {"name": name, **{key: spec.default for key, spec in DATASETS[name].keys.items()}}
    assert written == declared
    assert {key: type(value) for key, value in written.items()} == {key: type(value) for key, value in declared.items()}
    assert sorted(written) == sorted(declared)
    assert text.startswith("# ")


@pytest.mark.parametrize("name", [name for name in accepted_datasets() if name not in ELSEWHERE])
def test_files_load_as_they_stand(name: str):
    config = yaml.safe_load((CONF / f"{name}.yaml").read_text(encoding="utf-8"))
    data = load_dataset(config, teacher=lambda settings: lambda x: x[:, :1])
    assert data.name == name
    assert content_identity(config) == content_identity({"name": name})
    assert content_identity(config, flat=True) == config | ({"shape": "flat"} if "shape" in config else {})
    assert data.outputs > 0 and data.samples > 300


@pytest.mark.parametrize("name", accepted_datasets())
def test_examples_in_messages_are_accepted(name: str):
    for spec in DATASETS[name].keys.values():
        if spec.example:
            spec.read(yaml.safe_load(spec.example))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("sine2d", r"dataset is 'sine2d' \(str\); accepted: a mapping with a name"),
        ({}, r"dataset\.name None is not known; accepted: sine2d, "),
        ({"name": "sine2"}, r"dataset\.name 'sine2' is not known; accepted: .*; did you mean 'sine2d'\?"),
        ({"name": ["sine2d"]}, r"dataset\.name \['sine2d'\] is not known"),
        (
            {"name": "sine2d", "sampels": 5},
            r"dataset key 'sampels' is not known; accepted: name, samples, test_samples, seed; "
            r"did you mean 'samples'\?",
        ),
        ({"name": "sine2d", "noise": 0.1}, r"dataset key 'noise' is not known; accepted: name, samples"),
        (
            {"name": "sine2d", "samples": "many"},
            r"dataset\.samples='many'; accepted: a whole number from 2 to 1000000000$",
        ),
        ({"name": "sine2d", "samples": 1}, r"dataset\.samples=1"),
        ({"name": "sine2d", "samples": 10**12}, r"dataset\.samples=1000000000000"),
        ({"name": "sine2d", "samples": 100.5}, r"dataset\.samples=100\.5"),
        ({"name": "sine2d", "samples": True}, r"dataset\.samples=True"),
        ({"name": "sine2d", "samples": None}, r"dataset\.samples is not set; accepted: a whole number"),
        ({"name": "sine2d", "test_samples": 0}, r"dataset\.test_samples=0; accepted: a whole number from 1"),
        ({"name": "sine2d", "seed": -1}, r"dataset\.seed=-1; accepted: a whole number from 0$"),
        ({"name": "sine2d", "seed": "0"}, r"dataset\.seed='0'"),
        ({"name": "teacher", "degree": 0}, r"dataset\.degree=0; accepted"),
        ({"name": "teacher", "inputs": 0}, r"dataset\.inputs=0; accepted"),
        ({"name": "teacher", "outputs": 0}, r"dataset\.outputs=0; accepted"),
        ({"name": "spirals", "noise": -0.1}, r"dataset\.noise=-0\.1; accepted: a number from 0$"),
        ({"name": "spirals", "noise": float("nan")}, r"dataset\.noise=nan"),
        ({"name": "spirals", "noise": float("inf")}, r"dataset\.noise=inf"),
        ({"name": "spirals", "noise": 10**400}, r"dataset\.noise=1\d*\.\.\.\d*"),
        ({"name": "spirals", "noise": False}, r"dataset\.noise=False"),
        ({"name": "spirals", "turns": 101}, r"dataset\.turns=101; accepted: a number from 0 to 100"),
        ({"name": "parity", "bits": 3, "k": 4}, r"dataset\.k is 4"),
        ({"name": "digits", "shape": "imge"}, r"dataset\.shape='imge'; .*auto, flat or image;.* mean 'image'\?"),
        ({"name": "digits", "shape": (8, 8)}, r"dataset\.shape=\(8, 8\)"),
        ({"name": "digits", "standardize": "yes"}, r"dataset\.standardize='yes'; accepted: true or false"),
        ({"name": "digits", "standardize": 1}, r"dataset\.standardize=1"),
        ({"name": "diabetes", "test_fraction": 0}, r"dataset\.test_fraction=0; .*above 0 to below 1"),
        ({"name": "diabetes", "test_fraction": 1.0}, r"dataset\.test_fraction=1\.0; "),
        ({"name": "diabetes", "test_fraction": np.ones(3)}, r"dataset\.test_fraction=array\(\[1\., 1\., 1\.\]\)"),
        ({"name": "csv"}, r"dataset\.path is not set; accepted: the path of a file; .*path=data/houses\.csv"),
        ({"name": "npz"}, r"dataset\.path is not set; .*images\.npz"),
        ({"name": "text"}, r"dataset\.path is not set; accepted: the path of a file; .*book\.txt"),
        ({"name": "mnist", "path": 3}, r"dataset\.path=3; accepted: null for a copy from OpenML, or the "),
        ({"name": "tokens", "task": "copi"}, r"dataset\.task=.*recall, copy or reverse; .* mean 'copy'\?"),
        ({"name": "csv", "path": ""}, r"dataset\.path=''"),
        ({"name": "csv", "path": 3}, r"dataset\.path=3"),
        ({"name": "csv", "path": "a.csv"}, r"dataset\.target is not set; .* name of a column; .*target=price"),
        ({**CSV, "target": True}, r"dataset\.target=True"),
        ({**CSV, "features": "x"}, r"dataset\.features='x'.*\[rooms,age\]"),
        ({**CSV, "features": []}, r"dataset\.features=\[\]"),
        ({**CSV, "features": ["x", None]}, r"dataset\.features=\['x', None\]"),
        ({**CSV, "features": ["x", "y"]}, r"dataset\.features holds the target 'y'"),
        ({**CSV, "target": 1, "features": ["0", 1]}, r"dataset\.features holds the target '1'"),
        ({**CSV, "features": ["x", "x"]}, r"dataset\.features names 'x' twice"),
        ({**CSV, "task": "regresion"}, r"dataset\.task=.*did you mean 'regression'\?"),
        ({"name": "npz", "path": "a.npz", "features": None}, r"dataset key 'features' is not known"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_one_line_that_names_the_key(config, message: str):
    for refuse in (load_dataset, content_identity):
        with pytest.raises(ConfigError, match=message) as caught:
            refuse(config)
        assert "\n" not in str(caught.value)


def test_a_shape_is_settled_by_what_reads_the_inputs_unless_it_is_given():
    for flat, given, shape in [
        (True, "auto", (64,)),
        (False, "auto", (8, 8)),
        (True, "image", (8, 8)),
        (False, "flat", (64,)),
    ]:
        config = {"name": "digits", "shape": given}
        assert load_dataset(config, flat=flat).input_shape == shape
        assert content_identity(config, flat=flat)["shape"] == ("flat" if len(shape) == 1 else "image")


def test_a_long_value_is_cut():
    with pytest.raises(ConfigError) as caught:
        load_dataset({"name": "sine2d", "samples": "line\n" * 1000})
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_any_mapping_and_numpy_numbers_will_do():
    config = UserDict(name="spirals", samples=np.int32(40), noise=np.float32(0.25), seed=np.uint8(0))
    identity = content_identity(config)
    assert identity == {"name": "spirals", "noise": 0.25, "turns": 1.5, "samples": 40, "test_samples": 4096, "seed": 0}
    assert all(type(value) in (str, int, float) for value in identity.values())
    assert load_dataset(config).samples == 40


def test_identity_is_the_same_for_all_ways_to_write_one_configuration():
    assert repr(content_identity({"name": "spirals", "noise": 0})) == repr(
        content_identity({"seed": 0, "noise": 0.0, "name": "spirals"})
    )
    assert content_identity({"name": "spirals", "seed": 1}) != content_identity({"name": "spirals"})


def test_identity_of_a_file_is_its_content_and_not_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "deep").mkdir()
    first, moved = tmp_path / "a.csv", tmp_path / "deep" / "b.csv"
    content = b"x,y\n1,2\n" + b"".join(b"%d,%d.5\n" % (i, i * i) for i in range(12))
    first.write_bytes(content)
    moved.write_bytes(content)
    config = {"name": "csv", "target": "y"}
    identity = content_identity({**config, "path": str(first)})
    assert identity["path"] == hashlib.sha256(content).hexdigest()
    assert identity == content_identity({**config, "path": moved})
    monkeypatch.chdir(tmp_path)
    assert identity == content_identity({**config, "path": "a.csv"})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert identity == content_identity({**config, "path": "~/a.csv"})
    moved.write_bytes(content.replace(b"1,2", b"1,3"))
    assert identity != content_identity({**config, "path": moved})
    assert str(tmp_path) not in repr(identity)
    with pytest.raises(DataError, match=r"'c\.csv' is not there"):
        content_identity({**config, "path": "c.csv"})


X, Y = np.zeros((4, 2)), np.zeros((4, 1))


@pytest.mark.parametrize(
    ("task", "arrays", "outputs", "message"),
    [
        ("regression", (X[:, 0], Y, X, Y), 1, r"training inputs are float64 \(4,\)"),
        ("regression", (X, Y, X[:, :1], Y), 1, r"held-out inputs are float64 \(4, 1\); expected float64 \(N, 2\)"),
        ("regression", (X.astype("f4"), Y, X, Y), 1, r"training inputs are float32"),
        ("regression", (X, Y[:3], X, Y), 1, r"targets are float64 \(3, 1\); regression needs float64 \(4, 1\)"),
        ("regression", (X, Y, X, Y), 2, r"needs float64 \(4, 2\)"),
        ("classification", (X, Y, X, Y), 2, r"classification needs int64 \(4,\)"),
    ],
)  # fmt: skip
def test_arrays_that_contradict_each_other_are_refused(task, arrays, outputs: int, message: str):
    with pytest.raises(DataError, match=message):
        Dataset("mine", task, *arrays, outputs=outputs)
