"""Identities of runs that exist: a change of any of these lets a study lose its results, and is refused here."""

import problems
import pytest
from problems import group

from rsl_cli.study.spec import StudySpec

SMALL = {"samples": 256, "test_samples": 64}
DIGITS = {"dataset": group("dataset", "digits")}
FLOW = {"trainer": group("trainer", "flow")}
KNOWN: dict[str, tuple[dict, str]] = {
    "mlp": ({"base": group("base", "mlp")}, "4fc9cfdbafe6671e"),
    "deep": ({"base": group("base", "deep")}, "2bc4463b9f8550d9"),
    "gated": ({"base": group("base", "gated")}, "fc160bfd1f956d6e"),
    "shallow": ({"base": group("base", "shallow")}, "892f974eaec26dcf"),
    "skip": ({"base": group("base", "skip")}, "3b8a4ca27dcdc4dd"),
    "attention": ({"base": group("base", "attention"), **DIGITS}, "f5c3df73644023be"),
    "cnn": ({"base": group("base", "cnn"), **DIGITS}, "e21cab769dc7daa6"),
    "densenet": ({"base": group("base", "densenet"), **DIGITS}, "9ba15b552751f2bf"),
    "mixer": ({"base": group("base", "mixer"), **DIGITS}, "0efc74c710288832"),
    "resnet": ({"base": group("base", "resnet"), **DIGITS}, "df13b3ad3571e232"),
    "resnet_random": ({"base": group("base", "resnet_random"), **DIGITS}, "03f8a1737fb56779"),
    "rnn": ({"base": group("base", "rnn"), **DIGITS}, "59834f6661429415"),
    "transformer": ({"base": group("base", "transformer"), **DIGITS}, "e0f0e0a1a7b50e2e"),
    "unet": ({"base": group("base", "unet"), **DIGITS}, "db0678c1eb819189"),
    "adam none": ({"trainer": group("trainer", "adam"), "theory": group("theory", "none")}, "3a3bff5a8193117d"),
    "adam path": ({"trainer": group("trainer", "adam"), "theory": group("theory", "path")}, "3a3bff5a8193117d"),
    "sgd none": ({"trainer": group("trainer", "sgd"), "theory": group("theory", "none")}, "878b08cbdc8481f2"),
    "sgd path": ({"trainer": group("trainer", "sgd"), "theory": group("theory", "path")}, "878b08cbdc8481f2"),
    "gd none": ({"trainer": group("trainer", "gd"), "theory": group("theory", "none")}, "fd1ef3b553f414d8"),
    "gd path": ({"trainer": group("trainer", "gd"), "theory": group("theory", "path")}, "fd1ef3b553f414d8"),
    "flow none": ({"trainer": group("trainer", "flow"), "theory": group("theory", "none")}, "a3da3585ef1e1042"),
    "flow path": ({"trainer": group("trainer", "flow"), "theory": group("theory", "path")}, "77ccd6b9c7ae487e"),
    "lm none": ({"trainer": group("trainer", "lm"), "theory": group("theory", "none")}, "a24c570f59f9f131"),
    "lm path": ({"trainer": group("trainer", "lm"), "theory": group("theory", "path")}, "a24c570f59f9f131"),
    "flow tangent": ({**FLOW, "theory": group("theory", "tangent")}, "2b241a44e091455d"),
    "coverage": (
        {**FLOW, "dataset": group("dataset", "teacher", **SMALL), "theory": group("theory", "coverage")},
        "c8eee58402935d7f",
    ),
    "spirals": ({"dataset": group("dataset", "spirals", **SMALL)}, "bf7d46068fd73b7c"),
    "parity": ({"dataset": group("dataset", "parity", **SMALL)}, "8b865b3946e3b277"),
    "lemniscate": ({"dataset": group("dataset", "lemniscate", **SMALL)}, "49f567e95e4168a4"),
    "tokens": (
        {"dataset": group("dataset", "tokens", **SMALL), "base": group("base", "transformer")},
        "50b5b48ec20a7280",
    ),
    "breast_cancer": ({"dataset": group("dataset", "breast_cancer")}, "95a57a93d7f87948"),
    "diabetes": ({"dataset": group("dataset", "diabetes")}, "2f7095872a6fef15"),
    "mse classes": ({"dataset": group("dataset", "spirals", **SMALL), "loss": "mse"}, "02d03b695cdfa4dd"),
    "dense": ({"lifting": group("lifting", "dense")}, "57f18ce1d1e50de5"),
    "regular": ({"lifting": group("lifting", "regular")}, "d9339a2bca067c1f"),
    "random": ({"lifting": group("lifting", "random")}, "eb705bba0d9583c7"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_runs_keep_their_names(name):
    changes, expected = KNOWN[name]
    (key,) = StudySpec.from_config(problems.study(lift=[4], seeds=[0], **changes)).run_keys()
    assert key.run_id == expected
