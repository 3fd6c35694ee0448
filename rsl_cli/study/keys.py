"""Keys of a study itself. What is measured declares its own; so do executors, trainers, datasets, base graphs."""

from collections.abc import Mapping, Sequence

from rsl_cli.errors import ConfigError
from rsl_cli.keys import Keys, choice, flag, kept, nullable
from rsl_cli.readouts import PARAMETRIZATIONS
from rsl_cli.study.objects import ACCEPTED, is_address, parts_of
from rsl_cli.study.sweep import SWEEPS

GROUPS: Mapping[str, Mapping[str, str] | None] = {
    "base": None,
    "lifting": None,
    "dataset": None,
    "trainer": None,
    "executor": {"name": "process"},
    "theory": {},
}
"""Keys whose values are configurations of their own, and what they are where they are left out; None: they must not."""


def _figure_names(names: object) -> None:
    """Refuse what is no list of names; which there are, the report knows."""
    listed = [names] if isinstance(names, str) else names
    if listed is not None and not (
        isinstance(listed, Sequence) and all(isinstance(name, str) and name for name in listed)
    ):
        raise ConfigError(f"figures={names!r}; accepted: null or a list of names, e.g. figures=[mine.spread]")


def _check_folder(value: object) -> None:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise ValueError
    if is_address(value):
        parts_of(value)


STUDY: Keys = {
    "lift": kept("16..256", "lift degrees", "16..1024", SWEEPS["lift"])
    .written("sweep")
    .about("64 | 16..1024 (doubling) | 16..1024@2 (two per octave) | [16,48,256]"),
    "seeds": kept(5, "a count or a list", "5", SWEEPS["seeds"]).written("sweep").about("5 is 0..4; or [0,7]"),
    "loss": kept(None, "null, a loss's name, or target and arguments", "mse").about(
        "mse | cross_entropy | package.function of your own; null: mse for numbers, cross_entropy for classes"
    ),
    "parametrization": nullable(choice("standard", *PARAMETRIZATIONS)).about(
        "standard | ntk | mup: readout times 1, 1/sqrt(n), 1/n, learning rates to match; null: standard "
        "for flow and lm, as the theorem has it, mup for first-order trainers"
    ),
    "device": choice("auto", "auto", "cpu", "cuda").of("never").about("auto | cpu | cuda"),
    "results_dir": kept("results", f"the path of a folder, {ACCEPTED}", "results", _check_folder)
    .of("never")
    .written("text")
    .about(
        "where studies lie, each in a folder of its own; s3://BUCKET/PREFIX or gs://BUCKET/PREFIX: in an object store"
    ),
    "horizons": kept(None, "null, or horizons by lift", "{64: {t_end: 1e10}}")
    .of("horizon")
    .about("of single lifts, where they are to be carried further: {64: {t_end: 1e10}}"),
    "plugins": kept(None, "null or a list of modules", "[mine]")
    .of("never")
    .about("modules with parts of your own, e.g. [mine], imported here and in every worker"),
    "force": flag(False).of("never").about("begin though the study is expected to take too much time or memory"),
    "figures": kept(None, "null or a list of names", "[mine.spread]", _figure_names)
    .of("never")
    .about("figures of your own in the report, e.g. [mine.spread]: functions of a stored study"),
    "study": kept(None, "null or a name", "mine")
    .of("never")
    .written("text")
    .about("name of the study's folder; null: <base>_<dataset>_<trainer>"),
}
"""A study's own keys beside its groups."""

LINE: Keys = {
    "until": kept(None, "null or verdict", "verdict")
    .of("never")
    .about("verdict: go on (time, seeds, lifts) until the verdict is decided or the budget is spent"),
    "budget": kept(None, "null, none or a time", "15m").of("never").about("90s | 15m | 2h | none, for until=verdict"),
    "tracker": kept(None, "null or a tracker's name", "tensorboard")
    .of("never")
    .written("text")
    .about("mlflow | tensorboard | wandb | trackio: told of every run when it has ended, on this machine"),
}
"""Keys of a command line, which say what to do with a study."""
