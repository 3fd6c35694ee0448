"""The command line: the one place that knows argv. Heavy imports wait until a command needs them."""

import argparse
import errno
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from rsl_cli.configuration import Composed, compose_line, composed, config_directory, known_keys, split_flags
from rsl_cli.errors import ConfigError, RslError, StoreError, nearest

_DESCRIPTION = "Convergence studies of random sparse lifts: does the loss fall as the lift grows?"
_MOST_COMPARED = 6
_OVERRIDING = ("run", "show")
"""Commands whose words are overrides, hence results_dir among them."""
_FAULT = 70
"""EX_SOFTWARE of sysexits.h."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the console script's entry.

    Args:
        argv: without the program's name; None takes the process's.

    Returns:
        Exit status: 0 done; 1 a run or a report failed, or ``report --check`` found no falling loss; 2 usage or
        configuration; 70 a fault of rsl.

    Raises:
        RslError: with ``--debug``, where a line and a status would be given; so any other exception.
        OSError: the same.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments or os.environ.get("HYDRA_FULL_ERROR") == "1"
    arguments = [argument for argument in arguments if argument != "--debug"]
    if debug:
        os.environ["HYDRA_FULL_ERROR"] = "1"
    _open_streams()
    # What a notebook hands to `!rsl` names a module that need not be here; figures are drawn without any backend.
    os.environ["MPLBACKEND"] = "agg"
    try:
        status = _dispatch(arguments)
        sys.stdout.flush()
        return status
    except RslError as error:
        if debug:
            raise
        _complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        _complain("stopped; finished runs are kept, run the same line again to go on")
        return 130
    except BrokenPipeError:
        # The reader of a pipe has gone (`rsl list | head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        # A full device behind standard output, a name longer than the system takes.
        if debug:
            raise
        if error.errno == errno.ENOSPC and error.filename is None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        named = "" if error.filename is None else f": {str(error.filename)[:80]}"
        print(f"rsl: {error.strerror or error}{named}", file=sys.stderr)
        return 2 if error.errno == errno.ENAMETOOLONG else 1
    except Exception as error:
        if debug:
            raise
        _complain(_fault(error))
        return _FAULT


def _open_streams() -> None:
    """Give a process that was started without a standard stream an empty one: files would take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))


def _complain(text: str) -> None:
    with suppress(OSError):
        # A word of the user's may hold an end of line.
        print("rsl:", "\\n".join(text.splitlines()), file=sys.stderr)


def _fault(error: Exception) -> str:
    """Keep the traceback of an exception that no input should cause; say where."""
    what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="rsl-fault-", suffix=".txt", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        where = f"its traceback is in {file.name}"
    except OSError:
        where = "--debug shows its traceback"
    return f"{what}: a fault of rsl, not of your input; {where}, please report it"


def _dispatch(arguments: list[str]) -> int:
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError(f"the current folder is not there ({error.strerror}); cd to one that is") from None
    command, *rest = arguments or [""]
    # Hydra reads the rest of a `run` line itself, --help and --cfg included.
    if command == "run":
        return _run(_placed(command, rest))
    parser, commands = _parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    if command not in commands:
        parsed = parser.parse_args(arguments)
    else:
        # Flags may stand between words, which argparse grants to no command of commands.
        parsed = commands[command].parse_intermixed_args(_placed(command, rest))
    return parsed.action(parsed)


def _placed(command: str, words: list[str]) -> list[str]:
    """Write the results folder as the command takes it; users may write it as an override or as a flag."""
    placed, rest = [], iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if name == "--results-dir":
            value = value if equals else next(rest, "")
        elif name != "results_dir" or not equals:
            placed.append(word)
            continue
        placed.append(f"results_dir={value}" if command in _OVERRIDING else f"--results-dir={value}")
    return placed


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser, and those of the commands by name."""
    parser = argparse.ArgumentParser(
        prog="rsl",
        description=_DESCRIPTION,
        epilog="Exit status: 0 done; 1 a run or report failed, or `report --check` found no falling loss; 2 usage or "
        "config; 70 a fault of rsl. Every command takes results_dir=PATH and --results-dir PATH. "
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
    report.add_argument("--watch", action="store_true", help="write the page after every run, until none is missing")
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
    export.set_defaults(action=_export)
    verify = commands.add_parser(
        "verify",
        help="damaged and foreign files by name; exit 1 if there are any",
        description="Compare every file of studies with its digest. Damaged runs are set aside, never deleted; they "
        "count as missing then.",
    )
    _completing(verify.add_argument("study", nargs="*", help="name or folder; none: all"), _study_words)
    verify.set_defaults(action=_verify)
    tracking = commands.add_parser(
        "track",
        help="send what is stored to a tracker of experiments; again, nothing is doubled",
        description="Send studies' configuration, runs, verdict and page to a tracker, on this machine unless --at "
        "says otherwise. A run is known by its id: it is sent once, and once more when it has been carried further.",
    )
    _completing(tracking.add_argument("study", nargs="+", help="name or folder"), _study_words)
    tracking.add_argument("--to", required=True, metavar="TRACKER", help="mlflow, tensorboard, wandb or trackio")
    tracking.add_argument("--at", metavar="PLACE", help="a folder or an address; none: beside the studies")
    tracking.set_defaults(action=_track)
    working = commands.add_parser(
        "work",
        help="train what a study lacks, as one of any number of workers on any machines",
        description="Take what a study lacks from its folder, the largest lifts first, until nothing is missing. Any "
        "number of workers may do so, on any machine that sees the folder, and come and go at any time. SIGTERM, "
        "SIGUSR1 and SIGUSR2 make one save what it trains, give it back and leave.",
    )
    _completing(working.add_argument("study", help="name or folder"), _study_words)
    working.add_argument(
        "--until-idle",
        type=float,
        metavar="SECONDS",
        help="stay until there was nothing to train for so long; none: until nothing is missing",
    )
    working.add_argument("--threads", type=int, metavar="N", help="cores to use; none: all")
    working.set_defaults(action=_work)
    doctor = commands.add_parser(
        "doctor",
        help="what a folder's file system gives that studies rely on; exit 1 if something is missing",
        description="Try in a folder what studies rely on, from two processes: files made once, whole replacements, "
        "clocks; and locks, on which nothing relies.",
    )
    doctor.add_argument("folder", type=Path, help="the folder, e.g. where studies lie")
    doctor.add_argument("other", nargs="?", type=Path, help="the same folder, as the second process sees it")
    doctor.add_argument(
        "--through", default="", metavar="COMMAND", help="what starts the second process elsewhere, e.g. 'ssh node2'"
    )
    doctor.set_defaults(action=_doctor)
    listing = commands.add_parser("list", help="studies, runs done / failed / missing, verdict")
    listing.add_argument(
        "--watch", nargs="?", type=float, const=5.0, metavar="SECONDS", help="again and again, until Ctrl-C"
    )
    listing.set_defaults(action=_list)
    for command in commands.choices.values():
        command.add_argument(
            "--results-dir",
            default="results",
            type=Path,
            metavar="PATH",
            help="where studies lie, also results_dir=PATH",
        )
    return parser, dict(commands.choices)


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
    from rsl_cli.study.api import check_studies

    status, stores, first = 0, [], "--first" in arguments
    asked = compose_line([word for word in arguments if word != "--first"])
    if len(asked) > 1:
        # Nothing trains before all of a multirun has been found right.
        _explained(asked, lambda: check_studies([one.config for one in asked]))
    for one in asked:
        try:
            failed, store = _explained([one], lambda one=one: _study(one, first))
            status = max(status, failed)
            stores.append(store)
        except RslError as error:
            if len(asked) == 1 or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            _complain(str(error))
            status = max(status, error.exit_status)
    if not first:
        _compare(stores)
    return status


def _explained(asked: Sequence[Composed], act: Callable[[], Any]) -> Any:
    """Act, and say of a number that came as text how it comes as a number."""
    try:
        return act()
    except ConfigError as error:
        for one in asked:
            error = one.explained(error)
        raise error from None


def _compare(stores: Sequence[Any], formats: Sequence[str] = ("png", "pdf")) -> None:
    """Lay several studies of one command side by side, beside their folders."""
    from rsl_cli.report import comparison_file, write_comparison

    distinct = list({store.root: store for store in stores}.values())
    if len(distinct) > _MOST_COMPARED:
        print(f"no comparison: {len(distinct)} studies, and {_MOST_COMPARED} are told apart at most; name fewer")
    elif len(distinct) > 1:
        folder = distinct[0].root.parent
        before = comparison_file(distinct, folder).is_file()
        page = write_comparison(distinct, folder, formats=formats)
        print(f"comparison: {page}{', in place of the one that was there of the same studies' * before}")


def _study(asked: Composed, first: bool) -> tuple[int, Any]:
    """Train what a study lacks, or the first run of that alone; report. Returns exit status and the study's place."""
    from rsl_cli.waiting import Waiting

    with Waiting("importing torch and what computes with it"):
        from rsl_cli.notebook import Study
        from rsl_cli.progress import say
        from rsl_cli.report.figures import named_figures

    for note in asked.notes:
        say(note)
    # What is drawn at the end is known to be there before anything trains.
    named_figures(asked.config)
    study = Study.asked(asked, asked.words).run(first=first)
    store = study.store
    for name in study.failed:
        say(f"rsl: run {name} failed; see {store.folder_of(name) / 'error.txt'}", error=True)
    if first:
        return (1 if study.failed else 0), store
    try:
        from rsl_cli.report import summary_text, write_report

        verdict = write_report(store)
        say(f"{summary_text(store, verdict)}\nreport: {store.report_dir / 'index.html'}")
        for fault in verdict.get("damaged", ()):
            say(f"rsl: {fault}", error=True)
        study.tell()
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        reason = str(error) if isinstance(error, RslError) else _fault(error)
        say(f"rsl: the runs are kept, but not reported: {reason}; `rsl report {store.root}` reports again", error=True)
        return 1, store
    return (1 if study.failed else 0), store


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
        if parsed.watch:
            from rsl_cli.report.watch import watch

            print(f"watching {store.name}: {store.report_dir / 'index.html'}")
            watch(store, lambda line: print(line, flush=True), delta=parsed.delta)
        verdict = write_report(store, formats=tuple(parsed.format.split(",")), delta=parsed.delta)
        print(f"study {store.name}\n{summary_text(store, verdict)}\nreport: {store.report_dir / 'index.html'}")
        for fault in verdict.get("damaged", ()):
            print(f"rsl: {fault}", file=sys.stderr)
        if parsed.check and verdict["verdict"] != "falls":
            print(f"rsl: study {store.name}: the verdict is '{verdict['verdict']}', not 'falls'", file=sys.stderr)
            status = 1
    _compare(stores, tuple(parsed.format.split(",")))
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

    overrides, _ = split_flags(parsed.overrides)
    if len(overrides) < len(parsed.overrides):
        raise ConfigError(f"show {' '.join(parsed.overrides)}; accepted: overrides key=value, as for `rsl run`")
    asked = composed(overrides, parsed.config_dir)
    spec = _explained([asked], lambda: StudySpec.from_config(asked.config))
    print("\n".join([*asked.notes, describe(spec)]))
    if parsed.save:
        draw(spec, parsed.save, parsed.engine)
        print(f"drawn: {parsed.save}")
    return 0


def _export(parsed: argparse.Namespace) -> int:
    from rsl_cli.portable import export
    from rsl_cli.study.trained import choose_run, run_network

    store = _find(parsed.study, parsed.results_dir)
    key = choose_run(store, parsed.run)
    export(run_network(store, key), parsed.to, force=parsed.force)
    print(f"exported run {key.directory} of study {store.name}: {parsed.to}")
    return 0


def _track(parsed: argparse.Namespace) -> int:
    from rsl_cli.track import check_tracker, track

    check_tracker(parsed.to)
    for store in [_find(name, parsed.results_dir) for name in parsed.study]:
        print(f"study {store.name}: {track(store, parsed.to, at=parsed.at).text()}")
    return 0


def _work(parsed: argparse.Namespace) -> int:
    import signal
    import threading

    store, leave = _find(parsed.study, parsed.results_dir), threading.Event()
    if (parsed.threads is not None and parsed.threads < 1) or not (parsed.until_idle is None or parsed.until_idle >= 0):
        raise ConfigError(f"--threads={parsed.threads} --until-idle={parsed.until_idle}; accepted: from 1, from 0")
    for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2"):
        signal.signal(getattr(signal, name), lambda *_: leave.set())
    from rsl_cli.progress import Display
    from rsl_cli.study.pilots import pilot

    print(f"study {store.name} in {store.root}: taking what is missing", flush=True)
    with Display() as display:
        tally = pilot(
            store,
            threads=parsed.threads,
            idle=parsed.until_idle,
            leave=leave,
            progress=display.progress,
            finished=display.finished,
        )
    word = "told to leave; what was being trained is saved and given back" if leave.is_set() else "nothing is missing"
    word = word if parsed.until_idle is None or leave.is_set() else "nothing to train"
    print(f"study {store.name}: {len(tally.done)} runs done here, {len(tally.failed)} failed; {word}")
    return 1 if tally.failed else 0


def _doctor(parsed: argparse.Namespace) -> int:
    from rsl_cli.study.doctor import examine

    findings = examine(parsed.folder, parsed.other or parsed.folder, parsed.through)
    print("\n".join(one.text for one in findings))
    return int(any(one.harms for one in findings))


def _list(parsed: argparse.Namespace) -> int:
    if parsed.watch is None:
        return _listed(parsed)
    import time

    if not parsed.watch > 0:
        raise ConfigError(f"--watch {parsed.watch:g}; accepted: seconds above 0")
    while True:
        if sys.stdout.isatty():
            print("\033[H\033[2J", end="")
        _listed(parsed)
        sys.stdout.flush()
        time.sleep(parsed.watch)


def _listed(parsed: argparse.Namespace) -> int:
    from rsl_cli.study.leases import at_work
    from rsl_cli.study.store import find_studies, read_verdict

    studies = find_studies(parsed.results_dir)
    if not studies:
        print(f"no study in {parsed.results_dir}; make one with `rsl run`")
        return 0
    width = max(5, *(len(store.name) for store in studies))
    print(f"{'study':<{width}} {'done':>6} {'failed':>6} {'missing':>7}  verdict")
    status = 0
    for store in studies:
        file = store.report_dir / "verdict.json"
        try:
            done, failed, missing = store.counted()
            verdict = read_verdict(file) if file.is_file() else "no report yet"
        except StoreError as error:
            # One damaged study hides no other.
            print(f"{store.name:<{width}} {'?':>6} {'?':>6} {'?':>7}  damaged")
            print(f"rsl: {error}", file=sys.stderr)
            status = 1
            continue
        print(f"{store.name:<{width}} {done:>6} {failed:>6} {missing:>7}  {verdict}")
        if parsed.watch is not None:
            for line in at_work(store.lease_dir):
                print(f"  {line}")
    return status


def _verify(parsed: argparse.Namespace) -> int:
    from rsl_cli.study.store import find_studies
    from rsl_cli.study.verify import verify

    status = 0
    for store in [_find(name, parsed.results_dir) for name in parsed.study] or find_studies(parsed.results_dir):
        try:
            found = verify(store)
        except StoreError as error:
            print(f"rsl: {error}", file=sys.stderr)
            status = 1
            continue
        print(found.text(store.name))
        status = max(status, int(not found.clean))
    return status


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> dict[str, Any]:
    """The configuration that words of a command line make; see `rsl_cli.configuration.composed`."""
    return composed(overrides, config_dir).config


def _completing(action: argparse.Action, words: Callable[..., Any]) -> None:
    action.completer = words  # pyright: ignore[reportAttributeAccessIssue]


def _override_words(**_: Any) -> list[str]:
    root = config_directory()
    groups = [f"{path.parent.name}={path.stem}" for path in root.glob("*/*.yaml")]
    return sorted({*groups, *(f"{key}=" for key in known_keys() if "." in key or not (root / key).is_dir())})


def _study_words(**_: Any) -> list[str]:
    from rsl_cli.study.store import find_studies

    return [store.name for store in find_studies(Path("results"))]


if __name__ == "__main__":
    sys.exit(main())
