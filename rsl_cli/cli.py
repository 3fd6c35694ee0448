"""The command line: the one place that knows argv. Heavy imports wait until a command needs them."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rsl_cli import commands
from rsl_cli.configuration import composed, config_directory, known_keys
from rsl_cli.errors import ConfigError, RslError

_DESCRIPTION = "Convergence studies of random sparse lifts: does the loss fall as the lift grows?"
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
        commands.complain(str(error))
        return error.exit_status
    except KeyboardInterrupt:
        commands.complain("stopped; finished runs are kept, run the same line again to go on")
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
        commands.complain(commands.keep_fault(error))
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


def _dispatch(arguments: list[str]) -> int:
    try:
        Path.cwd()
    except OSError as error:
        raise ConfigError(f"the current folder is not there ({error.strerror}); cd to one that is") from None
    command, *rest = arguments or [""]
    # Hydra reads the rest of a `run` line itself, --help and --cfg included.
    if command == "run":
        return commands.run(_placed(command, rest))
    parser, named = _parser()
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)
    if command not in named:
        parsed = parser.parse_args(arguments)
    else:
        # Flags may stand between words, which argparse grants to no command of commands.
        parsed = named[command].parse_intermixed_args(_placed(command, rest))
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
    named = parser.add_subparsers(metavar="COMMAND", required=True)
    run = named.add_parser(
        "run", help="train every lift of a study, then report; resumes what is there", add_help=False
    )
    _completing(run.add_argument("overrides", nargs="*"), _override_words)
    run.set_defaults(action=lambda parsed: commands.run(parsed.overrides))
    report = named.add_parser("report", help="tables, plots and verdict of studies", description="Report on studies.")
    _takes_studies(report, "name, folder or address; none: the latest", nargs="*")
    report.add_argument("--check", action="store_true", help="exit 1 unless every verdict is 'falls'")
    report.add_argument("--format", default="png,pdf", help="of the figures: png, pdf, svg, joined by commas")
    report.add_argument("--delta", type=float, default=0.1, help="accepted failure probability of the learning number")
    report.add_argument("--watch", action="store_true", help="write the page after every run, until none is missing")
    report.set_defaults(action=commands.report)
    show = named.add_parser("show", help="base graph, fibres, parameters and memory per degree; nothing is trained")
    _completing(show.add_argument("overrides", nargs="*", help="as for `rsl run`"), _override_words)
    show.add_argument("--save", type=Path, metavar="FILE", help="draw base and smallest lift: .png, .pdf, .svg, .dot")
    show.add_argument(
        "--engine", choices=["graphviz", "matplotlib"], help="what draws; Graphviz where it is installed, if left out"
    )
    show.add_argument("--config-dir", type=Path, help="folder with configuration of your own")
    show.set_defaults(action=commands.show)
    export = named.add_parser(
        "export",
        help="a trained lift as plain torch code, tensors and GraphML",
        description="Write a finished run as a folder that needs torch, numpy and safetensors, not rsl: model.py, "
        "graph.json, model.safetensors, data.json (how raw data are read), graph.graphml. Of the runs named, the one "
        "of least held-out loss.",
    )
    _takes_studies(export, "name, folder or address")
    export.add_argument("run", nargs="*", help="lift=64, seed=0, or the start of a run's folder; none: any")
    export.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to make")
    export.add_argument("--force", action="store_true", help="replace DIR if it is there")
    export.set_defaults(action=commands.export)
    verify = named.add_parser(
        "verify",
        help="damaged and foreign files by name; exit 1 if there are any",
        description="Compare every file of studies with its digest. Damaged runs are set aside, never deleted; they "
        "count as missing then.",
    )
    _takes_studies(verify, "name, folder or address; none: all", nargs="*")
    verify.set_defaults(action=commands.verify)
    tracking = named.add_parser(
        "track",
        help="send what is stored to a tracker of experiments; again, nothing is doubled",
        description="Send studies' configuration, runs, verdict and page to a tracker, on this machine unless --at "
        "says otherwise. A run is known by its id: it is sent once, and once more when it has been carried further.",
    )
    _takes_studies(tracking, "name, folder or address", nargs="+")
    tracking.add_argument("--to", required=True, metavar="TRACKER", help="mlflow, tensorboard, wandb or trackio")
    tracking.add_argument("--at", metavar="PLACE", help="a folder or an address; none: beside the studies")
    tracking.set_defaults(action=commands.track)
    working = named.add_parser(
        "work",
        help="train what a study lacks, as one of any number of workers on any machines",
        description="Take what a study lacks from its folder, the largest lifts first, until nothing is missing. Any "
        "number of workers may do so, on any machine that sees the folder, and come and go at any time. SIGTERM, "
        "SIGUSR1 and SIGUSR2 make one save what it trains, give it back and leave.",
    )
    _takes_studies(working, "name, folder or address")
    working.add_argument(
        "--until-idle",
        type=float,
        metavar="SECONDS",
        help="stay until there was nothing to train for so long; none: until nothing is missing",
    )
    working.add_argument("--threads", type=int, metavar="N", help="cores to use; none: all")
    working.set_defaults(action=commands.work)
    doctor = named.add_parser(
        "doctor",
        help="what a folder's file system gives that studies rely on; exit 1 if something is missing",
        description="Try in a folder what studies rely on, from two processes: files made once, whole replacements, "
        "clocks; and locks, on which nothing relies. Of an object store: conditional writes, listings, delays, clock.",
    )
    doctor.add_argument("folder", help="the folder, e.g. where studies lie, or s3://BUCKET/PREFIX")
    doctor.add_argument("other", nargs="?", help="the same folder, as the second process sees it")
    doctor.add_argument(
        "--through", default="", metavar="COMMAND", help="what starts the second process elsewhere, e.g. 'ssh node2'"
    )
    doctor.set_defaults(action=commands.doctor)
    listing = named.add_parser("list", help="studies, runs done / failed / missing, verdict")
    listing.add_argument(
        "--watch", nargs="?", type=float, const=5.0, metavar="SECONDS", help="again and again, until Ctrl-C"
    )
    listing.set_defaults(action=commands.listing)
    for command in named.choices.values():
        command.add_argument(
            "--results-dir",
            default="results",
            metavar="PATH",
            help="where studies lie, also results_dir=PATH; or s3://BUCKET/PREFIX",
        )
    return parser, dict(named.choices)


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib import metadata

        print(f"rsl {metadata.version('rsl-cli')}")
        parser.exit()


def compose(overrides: Sequence[str], config_dir: Path | None = None) -> dict[str, Any]:
    """The configuration that words of a command line make; see `rsl_cli.configuration.composed`."""
    return composed(overrides, config_dir).config


def _takes_studies(parser: argparse.ArgumentParser, help: str, nargs: str | None = None) -> None:
    _completing(parser.add_argument("study", nargs=nargs, help=help), _study_words)


def _completing(action: argparse.Action, words: Callable[..., Any]) -> None:
    action.completer = words  # pyright: ignore[reportAttributeAccessIssue]


def _override_words(**_: Any) -> list[str]:
    root = config_directory()
    groups = [f"{path.parent.name}={path.stem}" for path in root.glob("*/*.yaml")]
    return sorted({*groups, *(f"{key}=" for key in known_keys() if "." in key or not (root / key).is_dir())})


def _study_words(**_: Any) -> list[str]:
    from rsl_cli.study.studies import find_studies, reference_studies

    return [store.name for listed in (find_studies, reference_studies) for store in listed("results")]


if __name__ == "__main__":
    sys.exit(main())
