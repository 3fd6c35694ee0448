"""The command line: the one place that knows argv and Hydra. Heavy imports wait until a command needs them."""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rsl_cli.errors import ConfigError, RslError, StoreError, nearest

_DESCRIPTION = "Convergence studies of random sparse lifts: does the loss fall as the lift grows?"
_MOST_COMPARED = 6
_QUOTED = {"lift", "seeds", "study", "results_dir", "dataset.path", "dataset.target"}
"""Keys whose values Hydra's grammar would take apart: ranges, paths, names with spaces."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the console script's entry.

    Args:
        argv: without the program's name; None takes the process's.

    Returns:
        Exit status: 0 done; 1 a run failed, or ``report --check`` found no falling loss; 2 usage or configuration.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("HYDRA_FULL_ERROR") == "1"
    arguments = [argument for argument in arguments if argument != "--debug"]
    if debug:
        os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        return _dispatch(arguments)
    except RslError as error:
        if debug:
            raise
        print(f"rsl: {error}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        print("rsl: stopped; finished runs are kept, run the same line again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe has gone (`rsl list | head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def config_directory() -> Path:
    """Where the shipped configuration lies: in the wheel inside the package, in a checkout beside it."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def _dispatch(arguments: list[str]) -> int:
    # Hydra reads the rest of a `run` line itself, --help and --cfg included.
    if arguments[:1] == ["run"]:
        return _run(arguments[1:])
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    parsed = parser.parse_args(arguments)
    return parsed.action(parsed)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rsl",
        description=_DESCRIPTION,
        epilog="Exit status: 0 done; 1 a run failed, or `report --check` found no falling loss; 2 usage or config. "
        'Shell completion: eval "$(register-python-argcomplete rsl)".',
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    run = commands.add_parser(
        "run", help="train every lift of a study, then report; resumes what is there", add_help=False
    )
    _completing(run.add_argument("overrides", nargs="*"), _override_words)
    run.set_defaults(action=lambda parsed: _run(parsed.overrides))
    report = commands.add_parser(
        "report", help="tables, plots and verdict of studies", description="Report on studies."
    )
    _completing(report.add_argument("study", nargs="*", help="name or folder; none: the latest"), _study_words)
    report.add_argument("--check", action="store_true", help="exit 1 unless every verdict is 'falls'")
    report.add_argument("--format", default="png,pdf", help="of the figures: png, pdf, svg, joined by commas")
    report.add_argument("--delta", type=float, default=0.1, help="accepted failure probability of the learning number")
    report.add_argument("--results-dir", default="results", type=Path)
    report.set_defaults(action=_report)
    show = commands.add_parser("show", help="base graph, fibres, parameters and memory per degree; nothing is trained")
    _completing(show.add_argument("overrides", nargs="*", help="as for `rsl run`"), _override_words)
    show.add_argument("--save", type=Path, metavar="FILE", help="draw base and smallest lift: .png, .pdf, .svg, .dot")
    show.add_argument(
        "--engine", choices=["graphviz", "matplotlib"], help="what draws; Graphviz where it is installed, if left out"
    )
    show.add_argument("--config-dir", type=Path, help="folder with configuration of your own")
    show.set_defaults(action=_show)
    export = commands.add_parser(
        "export",
        help="a trained lift as plain torch code, tensors and GraphML",
        description="Write a finished run as a folder that needs torch alone: model.py, graph.json, model.safetensors, "
        "graph.graphml. Of the runs named, the one of least held-out loss.",
    )
    _completing(export.add_argument("study", help="name or folder"), _study_words)
    export.add_argument("run", nargs="*", help="lift=64, seed=0, or the start of a run's folder; none: any")
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to make")
    export.add_argument("--force", action="store_true", help="replace DIR if it is there")
    export.add_argument("--results-dir", default="results", type=Path)
    export.set_defaults(action=_export)
    listing = commands.add_parser("list", help="studies, runs done / failed / missing, verdict")
    listing.add_argument("--results-dir", default="results", type=Path)
    listing.set_defaults(action=_list)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib import metadata

        print(f"rsl {metadata.version('rsl-cli')}")
        parser.exit()


def _run(arguments: list[str]) -> int:
    if {"--help", "-h"} & {*arguments}:
        from rsl_cli.help import run_help

        own = [Path(b) for a, b in pairwise(arguments) if a in ("--config-dir", "-cd")]
        print(run_help(arguments, [*own, config_directory()]))
        return 0
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from rsl_cli.adaptive import until_of

    status, stores = 0, []
    typed = [word for word in arguments if "=" in word or word.startswith("~")]
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"

    def task(config: Any) -> None:
        # Hydra adds a line of its own to an exception that leaves the task, so one line is written here.
        nonlocal status
        try:
            seconds = until_of(config.until, config.budget)
            settled = HydraConfig.get()
            # Of a multirun each study has words of its own; else they are kept as they were typed.
            words = list(settled.overrides.task) if settled.mode == RunMode.MULTIRUN else typed
            outcome = _study(_plain(OmegaConf.to_container(config, resolve=True)), seconds, words)
            status = max(status, 1 if outcome.failed else 0)
            stores.append(outcome.store)
        except RslError as error:
            if full:
                raise
            print(f"rsl: {error}", file=sys.stderr)
            status = max(status, error.exit_status)

    # A multirun writes its own notes somewhere; study.json says all that they say.
    with TemporaryDirectory() as scratch, _given(_ordered([*arguments, f"hydra.sweep.dir={scratch}"])):
        application = hydra.main(version_base="1.3", config_path=str(config_directory()), config_name="config")
        try:
            application(task)()
        except (KeyboardInterrupt, RslError):
            raise
        except Exception as error:
            if full:
                raise
            raise ConfigError(_hydra_line(error)) from error
    _compare(stores)
    return status


def _compare(stores: Sequence[Any]) -> None:
    """Draw several studies of one command into one picture, beside their folders."""
    from rsl_cli.report import write_comparison

    distinct = list({store.root: store for store in stores}.values())
    if 2 <= len(distinct) <= _MOST_COMPARED:
        path = distinct[0].root.parent / "comparison.png"
        write_comparison(distinct, path)
        print(f"comparison: {path}")


def _study(config: dict[str, Any], seconds: float | None, line: Sequence[str]) -> Any:
    from rsl_cli.adaptive import run_until
    from rsl_cli.progress import Display
    from rsl_cli.report import summary_text, write_report
    from rsl_cli.study.session import run_study

    with Display() as display:
        hooks = {"planned": display.plan, "progress": display.progress, "finished": display.finished, "line": line}
        outcome = (
            run_study(config, **hooks) if seconds is None else run_until(config, seconds, say=display.say, **hooks)
        )
    verdict = write_report(outcome.store)
    print(summary_text(outcome.store, verdict))
    print(f"report: {outcome.store.report_dir / 'index.html'}")
    for name in outcome.failed:
        print(f"rsl: run {name} failed; see {outcome.store.root / 'runs' / name / 'error.txt'}", file=sys.stderr)
    return outcome


def _report(parsed: argparse.Namespace) -> int:
    from rsl_cli.report import summary_text, write_report
    from rsl_cli.study.store import StudyStore, find_studies

    stores = [_find(name, parsed.results_dir) for name in parsed.study]
    if not stores:
        found: list[StudyStore] = find_studies(parsed.results_dir)
        if not found:
            raise StoreError(f"no study in {parsed.results_dir}; make one with `rsl run`, or name its folder")
        stores = found[:1]
    status = 0
    for store in stores:
        verdict = write_report(store, formats=tuple(parsed.format.split(",")), delta=parsed.delta)
        print(f"study {store.name}\n{summary_text(store, verdict)}\nreport: {store.report_dir / 'index.html'}")
        if parsed.check and verdict["verdict"] != "falls":
            print(f"rsl: study {store.name}: the verdict is '{verdict['verdict']}', not 'falls'", file=sys.stderr)
            status = 1
    _compare(stores)
    return status


def _find(name: str, results_dir: Path) -> Any:
    from rsl_cli.study.store import StudyStore, find_studies

    known = {store.name: store for store in find_studies(results_dir)}
    if (Path(name) / "study.json").is_file():
        return StudyStore(Path(name))
    if name in known:
        return known[name]
    there = ", ".join(known) or "none"
    raise StoreError(f"no study '{name}' in {results_dir}; there are: {there}{nearest(name, known)}")


def _show(parsed: argparse.Namespace) -> int:
    from rsl_cli.show import describe, draw
    from rsl_cli.study.spec import StudySpec

    spec = StudySpec.from_config(compose(parsed.overrides, parsed.config_dir))
    print(describe(spec))
    if parsed.save:
        draw(spec, parsed.save, parsed.engine)
        print(f"drawn: {parsed.save}")
    return 0


def _export(parsed: argparse.Namespace) -> int:
    from rsl_cli.portable import choose_run, export, run_network

    store = _find(parsed.study, parsed.results_dir)
    key = choose_run(store, parsed.run)
    export(run_network(store, key), parsed.to, force=parsed.force)
    print(f"exported run {key.directory} of study {store.name}: {parsed.to}")
    return 0


def _list(parsed: argparse.Namespace) -> int:
    from rsl_cli.study.store import find_studies, read_json

    studies = find_studies(parsed.results_dir)
    if not studies:
        print(f"no study in {parsed.results_dir}; make one with `rsl run`")
        return 0
    width = max(5, *(len(store.name) for store in studies))
    print(f"{'study':<{width}} {'done':>6} {'failed':>6} {'missing':>7}  verdict")
    for store in studies:
        records, planned = store.records(), store.planned()
        done = sum(record["status"] == "done" for record in records)
        file = store.report_dir / "verdict.json"
        verdict = read_json(file)["verdict"] if file.is_file() else "no report yet"
        missing = len(planned) - len(records)
        print(f"{store.name:<{width}} {done:>6} {len(records) - done:>6} {missing:>7}  {verdict}")
    return 0


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> dict[str, Any]:
    """Compose a study's configuration without running it.

    Args:
        overrides: as on the command line, ``["base=mlp", "lift=16..64"]``.
        config_dir: a folder of configuration groups to search as well.

    Raises:
        ConfigError: what Hydra could not compose, in one line.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from omegaconf import OmegaConf

    extra = [] if config_dir is None else [f"hydra.searchpath=['file://{config_dir.resolve()}']"]
    try:
        with initialize_config_dir(str(config_directory()), version_base="1.3"):
            config = hydra_compose("config", [*map(_quote, overrides), *extra])
            return _plain(OmegaConf.to_container(config, resolve=True))
    except RslError:
        raise
    except Exception as error:
        raise ConfigError(_hydra_line(error)) from error


def _plain(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in ("experiment", "until", "budget")}


def _ordered(arguments: list[str]) -> list[str]:
    """Overrides before flags: Hydra takes them in one run only."""
    overrides = [word for word in arguments if not word.startswith("-") and ("=" in word or word.startswith("~"))]
    return [*map(_quote, overrides), *(word for word in arguments if word not in overrides)]


def _quote(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if not equals or key.lstrip("+") not in _QUOTED or re.fullmatch(r"[\w./-]+|[\[(\"'].*|null", value):
        return argument if value or key not in _QUOTED else f"{key}=''"
    if key in ("lift", "seeds") and "," in value:
        return f"{key}=[{','.join(repr(part) for part in value.split(','))}]"
    return f"{key}='{value}'"


@contextmanager
def _given(argv: list[str]) -> Iterator[None]:
    """Give Hydra, which reads sys.argv, the arguments of this call, and its exceptions to us."""
    before, flag = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv, os.environ["HYDRA_FULL_ERROR"] = ["rsl run", *argv], "1"
    try:
        yield
    finally:
        sys.argv = before
        if flag is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = flag


def _hydra_line(error: Exception) -> str:
    """Hydra's message as one line, with the nearest name that would have been accepted."""
    text = re.sub(r"\s*\n\s*", "; ", str(error).strip())
    text = re.sub(r";? ?(See https\S+.*|Config search path:.*|Set the environment variable.*)", "", text)
    options = getattr(error, "options", None)
    missing = getattr(error, "missing_cfg_file", None)
    if missing:
        name = str(missing).rpartition("/")[2]
        listed = f"; available: {', '.join(options)}" if options else ""
        return f"there is no {str(missing).replace('/', '=')}{listed}{nearest(name, options or [])}"
    key = re.search(r"Could not (?:override|append|delete)[^']*'([^']+)'", text)
    if not key:
        override = getattr(error, "override", None)
        return f"cannot read '{override}': {text}" if override else text
    prefix, _, name = key[1].rpartition(".")
    owners = [path.stem for path in sorted((config_directory() / prefix).glob("*.yaml")) if name in _content(path)]
    if prefix and owners:
        return f"key '{key[1]}' does not belong to the chosen {prefix}; it belongs to {prefix}={', '.join(owners)}"
    known = [full for full in _known_keys() if full.rpartition(".")[0] == prefix]
    if not known:
        return f"key '{key[1]}' is not known; `rsl run --cfg job` shows the keys there are"
    return f"key '{key[1]}' is not known; accepted: {', '.join(known)}{nearest(key[1], known)}"


def _content(path: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _known_keys() -> list[str]:
    root = config_directory()
    known = {"base", "lifting", "dataset", "trainer", "executor", "theory", "experiment"}
    for path in root.rglob("*.yaml"):
        prefix = "" if path.parent == root else f"{path.parent.name}."
        known |= {f"{prefix}{key}" for key in _content(path) if key not in ("defaults", "hydra")}
    return sorted(known)


def _completing(action: argparse.Action, words: Callable[..., Any]) -> None:
    action.completer = words  # pyright: ignore[reportAttributeAccessIssue]


def _override_words(**_: Any) -> list[str]:
    root = config_directory()
    groups = [f"{path.parent.name}={path.stem}" for path in root.glob("*/*.yaml")]
    return sorted({*groups, *(f"{key}=" for key in _known_keys() if "." in key or not (root / key).is_dir())})


def _study_words(**_: Any) -> list[str]:
    from rsl_cli.study.store import find_studies

    return [store.name for store in find_studies(Path("results"))]


if __name__ == "__main__":
    sys.exit(main())
