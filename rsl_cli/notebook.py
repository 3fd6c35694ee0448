"""A study in a Python session or a notebook: the command line's words and defaults, and what comes of them."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Number
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from rsl_cli.adaptive import run_until, until_of
from rsl_cli.configuration import TARGETS, Composed, composed, own_part, split_flags
from rsl_cli.errors import ConfigError, RslError, StoreError
from rsl_cli.keys import shorten
from rsl_cli.progress import Display, say
from rsl_cli.registry import qualified
from rsl_cli.report import Verdict, figure, figure_names, judge, tables, write_report
from rsl_cli.report.figures import named_figures
from rsl_cli.report.read import read_runs
from rsl_cli.study.api import Outcome, run_study
from rsl_cli.study.naming import named
from rsl_cli.study.plan import RunBatch
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.store import RunKey, StudyStore
from rsl_cli.study.studies import open_study
from rsl_cli.study.trained import TrainedNetwork, run_network
from rsl_cli.track import Sent, check_tracker, track

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def load_study(path: str | Path) -> "Study":
    """Open a stored study.

    Args:
        path: its folder, its address in an object store, or its name below ``results``.

    Returns:
        The study, to look into, plot, export or go on with.

    Raises:
        StoreError: there is none.
    """
    store = open_study(path)
    content = store.read_study()
    home = {"results_dir": store.results_dir, "study": store.name}
    return Study(store, {**content["config"], **home}, content.get("line"))


def check_orders(asked: Composed) -> None:
    """Find out before anything trains whether what is to be done with a study, beside training it, can be done.

    Args:
        asked: what a line asks for.

    Raises:
        ConfigError: its goal, its budget, its tracker or one of its figures is not known.
    """
    until_of(asked.until, asked.budget)
    if asked.tracker is not None:
        check_tracker(asked.tracker)
    named_figures(asked.config)


@dataclass
class Study:
    """A study: what is asked for, and what there is of it.

    Args:
        store: where it lies.
        config: plain, as for `rsl_cli.run_study`.
        line: the words of the command line that make it, if there are any.
        until: ``verdict``, or None; see ``rsl run until=verdict``.
        budget: of that.
        tracker: what is told of each run when it has ended, and of the verdict; see `rsl_cli.track`.
        failed: folders of the runs that failed in the last call of `run`.
    """

    store: StudyStore
    config: Mapping[str, Any] = field(repr=False)
    line: list[str] | None = None
    until: Any = None
    budget: Any = None
    tracker: str | None = None
    failed: list[str] = field(default_factory=list)
    _spec: StudySpec | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, *words: str, config_dir: str | Path | None = None, **keys: Any) -> "Study":
        """A study by the words of ``rsl run``, which is what ``rsl_cli.study`` calls; nothing is trained before `run`.

        Args:
            words: as on the command line, ``"trainer.t_end=1e6"``.
            config_dir: a folder of configuration groups that stand before the shipped ones.
            keys: the same by name, ``base="mlp"``, ``lift="16..256"``, ``seeds=5``. A mapping stands for a whole group,
                ``dataset={"name": "csv", "path": "houses.csv", "target": "price"}``; a function or a class of a module
                for a part of one's own, ``loss=mine.huber``, ``base=mine.Net``, ``figures=[mine.spread]``.

        Returns:
            The study. The command line goes on with it where its words are the same, and it with the command line's.

        Raises:
            ConfigError: words that make no study, in one line.
            DataError: data that cannot be read.
        """
        wholes = {key: value for key, value in keys.items() if isinstance(value, Mapping)}
        line = [*words, *(word for key, value in keys.items() if key not in wholes for word in _words(key, value))]
        overrides, flags = split_flags(line)
        if flags:
            raise ConfigError(f"study({', '.join(map(repr, flags))}); accepted: words key=value, as for `rsl run`")
        asked = composed(overrides, None if config_dir is None else Path(config_dir))
        asked.config.update(wholes)
        # What a mapping says no line can.
        return cls.asked(asked, None if wholes else overrides)

    @classmethod
    def asked(cls, asked: Composed, line: Sequence[str] | None) -> "Study":
        """The study that a composed line asks for.

        Args:
            asked: configuration and goal.
            line: its words, for the report to say what to paste; None where no line makes it.

        Returns:
            The study, with its name and its place.

        Raises:
            RslError: a study that cannot be run, in one line.
        """
        check_orders(asked)
        spec = named(StudySpec.from_config(asked.config))
        kept = None if line is None else list(line)
        study = cls(spec.store, asked.config, kept, asked.until, asked.budget, asked.tracker)
        study._spec = spec
        return study

    def run(self, *, first: bool = False) -> "Study":
        """Train what the study lacks, showing how far it is; what is done is never done again.

        Args:
            first: one run alone, to see that it works.

        Returns:
            The study itself. Failed runs are named in `failed` and do not raise.

        Raises:
            RslError: a study that cannot be run, in one line.
        """
        seconds = None if first else until_of(self.until, self.budget)
        # What was read to find the name serves once: data and parts may be others the next time.
        spec, self._spec = self._spec, None
        with Display() as display:

            def finished(batch: RunBatch, outcome: Mapping[str, str]) -> None:
                display.finished(batch, outcome)
                self.tell([key for key in batch.keys if outcome.get(key.directory) == "done"])

            hooks: dict[str, Any] = {
                "planned": display.plan,
                "progress": display.progress,
                "finished": finished,
                "line": self.line,
            }
            outcome: Outcome = (
                run_study(spec or self.config, first=first, **hooks)
                if seconds is None
                else run_until(self.config, seconds, say=display.say, **hooks)
            )
            if first and (told := display.first()):
                say(told)
        self.store, self.failed = outcome.store, outcome.failed
        return self

    def track(self, tracker: str, *, at: str | None = None) -> Sent:
        """Send what is stored to a tracker; again, nothing is doubled.

        Args:
            tracker: ``mlflow``, ``tensorboard``, ``wandb``, ``trackio``, or ``package.Class``.
            at: see `rsl_cli.track.track`.

        Returns:
            What was sent.

        Raises:
            ConfigError: no such tracker, or its package is not installed.
            StoreError: nothing has been run yet, a file is damaged, or the tracker refuses.
        """
        return track(self._made(), tracker, at=at)

    def tell(self, runs: Sequence[RunKey] | None = None) -> None:
        """Tell the study's tracker, if it has one; what that refuses is said, and stops nothing.

        Args:
            runs: of which; None: of all, of the verdict and of the page.
        """
        if self.tracker is None or (runs is not None and not runs):
            return
        try:
            track(self.store, self.tracker, runs=runs)
        except RslError as error:
            say(f"rsl: {error}; `rsl track {self.store.address} --to {self.tracker}` sends it later", error=True)

    @property
    def verdict(self) -> Verdict:
        """What the study says so far.

        Raises:
            StoreError: nothing has been run yet, or a file is damaged.
        """
        return judge(self._made().address)

    @property
    def runs(self) -> pd.DataFrame:
        """One row per run that has a record.

        Raises:
            StoreError: nothing has been run yet.
        """
        return pd.DataFrame([record.values() for record in self._made().records()])

    @property
    def plot(self) -> "Plots":
        """The report's figures, to be gone on with: ``study.plot.loss()``."""
        return Plots(self._made())

    def trajectory(self, lift: int, seed: int) -> pd.DataFrame:
        """One run's trajectory: step, time, loss, test_loss, grad_norm, distance, dissipation, least_curvature.

        Args:
            lift: its degree.
            seed: its seed.

        Returns:
            A row for each sample, times ascending.

        Raises:
            StoreError: no such run was planned, or it is not done.
        """
        return self.store.trajectory(self._key(lift, seed))

    def state(self, lift: int, seed: int) -> dict[str, Any]:
        """One run's final parameters by name, NumPy arrays.

        Args:
            lift: its degree.
            seed: its seed.

        Returns:
            Arrays by the names that ``network.named_parameters()`` has.

        Raises:
            StoreError: no such run was planned, or it is not done.
        """
        return self.store.state(self._key(lift, seed))

    def network(self, lift: int, seed: int) -> TrainedNetwork:
        """One run's network, as trained; its ``predict`` takes raw columns and gives values in the target's units.

        Args:
            lift: its degree.
            seed: its seed.

        Returns:
            On the CPU, in the dtype it was trained in.

        Raises:
            StoreError: no such run was planned, or it is not done; or a part of the user's own is not what it was.
        """
        return run_network(self.store, self._key(lift, seed))

    def report(self, **options: Any) -> Path:
        """Write the report, as ``rsl report`` does, and tell the tracker of it.

        Args:
            options: see `rsl_cli.report.write_report`.

        Returns:
            Its page.

        Raises:
            StoreError: nothing has been run yet, or a file is damaged or cannot be written.
        """
        write_report(self._made(), **options)
        self.tell()
        return self.store.report_dir / "index.html"

    def _made(self) -> StudyStore:
        if not self.store.exists():
            raise StoreError(f"study '{self.store.name}' has nothing yet; its run() trains it")
        return self.store

    def _key(self, lift: int, seed: int) -> RunKey:
        for key in self._made().planned():
            if (key.lift, key.seed) == (lift, seed):
                return key
        raise StoreError(f"study '{self.store.name}' has no run of lift {lift}, seed {seed}; Study.runs lists them")

    def _repr_html_(self) -> str:
        head = f"<p><b>study {html.escape(self.store.name)}</b> in {html.escape(self.store.address)}</p>"
        if not self.store.exists():
            return f"{head}<p>Nothing has been trained yet: <code>run()</code> does.</p>"
        headers, lines = tables.summary_cells(tables.summarise(read_runs(self.store)))
        table = pd.DataFrame(lines, columns=pd.Index(headers)).to_html(index=False, border=0)
        return f"{head}{table}{self.verdict._repr_html_()}"


class Plots:
    """The figures of a study's report by name, each a method; ``dir()`` lists them.

    Args:
        store: the study.
    """

    def __init__(self, store: StudyStore) -> None:
        self._store = store

    def loss(self, *, by: str = "params") -> "Figure":
        """Every run's loss, the medians and what is known of the limits.

        Args:
            by: ``params`` or ``lift``, the axis.

        Returns:
            A Matplotlib figure of its own, which one can go on editing.

        Raises:
            ConfigError: another axis.
        """
        if by not in ("params", "lift"):
            raise ConfigError(f"plot.loss(by={by!r}); accepted: params or lift")
        return figure(self._store, f"loss_vs_{by}")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self.__dir__():
            raise AttributeError(f"no figure {name!r}; there are {', '.join(self.__dir__())}")
        return lambda: figure(self._store, name)

    def __dir__(self) -> list[str]:
        return ["loss", *figure_names(self._store)]


def _words(key: str, value: Any) -> tuple[str, ...]:
    """What a command line has for a key's value."""
    written = _written(key, value)
    return own_part(key, written) if callable(value) and key in TARGETS else (f"{key}={written}",)


def _written(key: str, value: Any) -> str:
    """A value as the command line has it."""
    if callable(value):
        name = qualified(value)
        if name is None or name.startswith("__main__."):
            raise ConfigError(
                f"{key}={shorten(value)}: a part of your own is found by its name; put it into a module and write "
                f"{key}='module.name'"
            )
        return name
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(_written(key, item) for item in value)}]"
    if not isinstance(value, str | Number | PathLike | Mapping):
        accepted = "text, a number, a list, a mapping, or a function or class of a module"
        raise ConfigError(f"{key}={shorten(value)}: is a {type(value).__name__}; accepted: {accepted}")
    return str(value)
