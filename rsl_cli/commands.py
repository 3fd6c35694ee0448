"""What each command of the line does: from its parsed words to what it prints and its exit status.

Heavy imports wait until a command needs them.
"""

import argparse
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

from rsl_cli.configuration import Composed, compose_line, composed, config_directory, split_flags
from rsl_cli.errors import ConfigError, RslError, StoreError, nearest
from rsl_cli.garbage import unswept
from rsl_cli.waiting import Waiting

_MOST_COMPARED = 6
_IMPORTING = "importing torch and what computes with it"
_REPORTING = "writing the report: tables, figures, the page"


def run(arguments: list[str]) -> int:
    """Train what studies lack, then report; several of a multirun side by side.

    Args:
        arguments: overrides and flags of Hydra, ``--first`` and ``--help``.

    Returns:
        Exit status: 0 done; 1 a run or a report failed; 2 a study of a multirun was refused.

    Raises:
        RslError: what the line asks for cannot be run.
    """
    if {"--help", "-h"} & {*arguments}:
        from rsl_cli.help import run_help

        own = [Path(b) for a, b in pairwise(arguments) if a in ("--config-dir", "-cd")]
        print(run_help(arguments, [*own, config_directory()]))
        return 0
    status, stores, first = 0, [], "--first" in arguments
    asked = compose_line([word for word in arguments if word != "--first"])
    if len(asked) > 1:
        with Waiting(_IMPORTING), unswept(for_good=True):
            from rsl_cli.notebook import check_orders
            from rsl_cli.study.api import check_studies

        # Nothing trains before all of a multirun has been found right.
        for one in asked:
            check_orders(one)
        _explained(asked, lambda: check_studies([one.config for one in asked]))
    for one in asked:
        try:
            failed, store = _explained([one], lambda one=one: _study(one, first))
            status = max(status, failed)
            stores.append(store)
        except RslError as error:
            if len(asked) == 1 or os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            complain(str(error))
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
    _before_importing(asked.config)
    with Waiting(_IMPORTING), unswept(for_good=True):
        from rsl_cli.notebook import Study
        from rsl_cli.progress import say

    for note in asked.notes:
        say(note)
    study = Study.asked(asked, asked.words).run(first=first)
    store = study.store
    for name in study.failed:
        say(f"rsl: run {name} failed; see {store.folder_of(name) / 'error.txt'}", error=True)
    if first:
        return (1 if study.failed else 0), store
    try:
        from rsl_cli.report import summary_text, write_report

        with Waiting(_REPORTING):
            verdict = write_report(store)
        say(f"{summary_text(store, verdict)}\nreport: {store.report_dir / 'index.html'}")
        for fault in (*verdict.get("damaged", ()), *verdict.get("undrawn", ())):
            say(f"rsl: {fault}", error=True)
        study.tell()
        if verdict.get("undrawn"):
            return 1, store
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        reason = str(error) if isinstance(error, RslError) else keep_fault(error)
        say(
            f"rsl: the runs are kept, but not reported: {reason}; `rsl report {store.address}` reports again",
            error=True,
        )
        return 1, store
    return (1 if study.failed else 0), store


def _before_importing(config: Mapping[str, Any]) -> None:
    """Refuse what can be refused without torch, which takes seconds to import; let workers' imports begin beside it."""
    from rsl_cli.study.executor import EXECUTORS
    from rsl_cli.study.processes import get_ready
    from rsl_cli.study.sweep import SWEEPS

    for key, read in SWEEPS.items():
        if key in config:
            read(config[key])
    executor = config.get("executor")
    if isinstance(executor, Mapping):
        kind = EXECUTORS.get(str(executor.get("name")))
        if kind is not None and kind.forks and executor.get("workers") != 1:
            get_ready()


def report(parsed: argparse.Namespace) -> int:
    """Report on stored studies; of several, compare them too."""
    from rsl_cli.report import summary_text, write_report
    from rsl_cli.study.store import StudyStore
    from rsl_cli.study.studies import find_studies

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
        with Waiting(_REPORTING):
            verdict = write_report(store, formats=tuple(parsed.format.split(",")), delta=parsed.delta)
        print(f"study {store.name}\n{summary_text(store, verdict)}\nreport: {store.report_dir / 'index.html'}")
        for fault in (*verdict.get("damaged", ()), *verdict.get("undrawn", ())):
            print(f"rsl: {fault}", file=sys.stderr)
        status = max(status, int("undrawn" in verdict))
        if parsed.check and verdict["verdict"] != "falls":
            print(f"rsl: study {store.name}: the verdict is '{verdict['verdict']}', not 'falls'", file=sys.stderr)
            status = 1
    _compare(stores, tuple(parsed.format.split(",")))
    return status


def _find(name: str, results_dir: str) -> Any:
    from rsl_cli.study.studies import find_studies, reference_studies, study_at

    store = study_at(name)
    if store.exists():
        return store
    known = {store.name: store for store in find_studies(results_dir)}
    known |= {store.name: store for store in reference_studies(results_dir) if store.name not in known}
    if name in known:
        return known[name]
    there = ", ".join(known) or "none"
    raise StoreError(f"no study '{name}' in {results_dir}; there are: {there}{nearest(name, known)}")


def show(parsed: argparse.Namespace) -> int:
    """Print what a line would train."""
    with Waiting(_IMPORTING), unswept(for_good=True):
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


def export(parsed: argparse.Namespace) -> int:
    """Write a finished run as plain torch."""
    from rsl_cli import portable
    from rsl_cli.study.trained import choose_run, run_network

    store = _find(parsed.study, parsed.results_dir)
    key = choose_run(store, parsed.run)
    portable.export(run_network(store, key), parsed.to, force=parsed.force)
    print(f"exported run {key.directory} of study {store.name}: {parsed.to}")
    return 0


def track(parsed: argparse.Namespace) -> int:
    """Send stored studies to a tracker."""
    from rsl_cli.track import check_tracker
    from rsl_cli.track import track as send

    check_tracker(parsed.to)
    for store in [_find(name, parsed.results_dir) for name in parsed.study]:
        print(f"study {store.name}: {send(store, parsed.to, at=parsed.at).text()}")
    return 0


def work(parsed: argparse.Namespace) -> int:
    """Train what a study lacks until nothing is missing, or until told to leave."""
    import signal
    import threading

    store, leave = _find(parsed.study, parsed.results_dir), threading.Event()
    if (parsed.threads is not None and parsed.threads < 1) or not (parsed.until_idle is None or parsed.until_idle >= 0):
        raise ConfigError(f"--threads={parsed.threads} --until-idle={parsed.until_idle}; accepted: from 1, from 0")
    # Windows has no SIGUSR1 and SIGUSR2.
    for number in (getattr(signal, name, None) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")):
        if number is not None:
            signal.signal(number, lambda *_: leave.set())
    from rsl_cli.progress import Display
    from rsl_cli.study.pilots import pilot

    print(f"study {store.name} in {store.address}: taking what is missing", flush=True)
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


def doctor(parsed: argparse.Namespace) -> int:
    """Print what a folder, or an object store, gives that studies rely on."""
    from rsl_cli.study import doctor, object_doctor
    from rsl_cli.study.objects import is_address

    if not is_address(parsed.folder):
        other = Path(parsed.other or parsed.folder)
        findings = doctor.examine(Path(parsed.folder), other, parsed.through)
    elif parsed.other or parsed.through:
        raise ConfigError(f"doctor {parsed.folder}; accepted with an address: neither a second folder nor --through")
    else:
        findings = object_doctor.examine(parsed.folder)
    print("\n".join(one.text for one in findings))
    return int(any(one.harms for one in findings))


def listing(parsed: argparse.Namespace) -> int:
    """Print the studies of a folder, again and again if asked to."""
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
    from rsl_cli.study.studies import find_studies, read_verdict, reference_studies

    studies = find_studies(parsed.results_dir)
    came = ", ".join(store.name for store in reference_studies(parsed.results_dir))
    folder = Path(parsed.results_dir) / "reference"
    also = f"for reference, in {folder}: {came} (`rsl list results_dir={folder}`)" if came else ""
    if not studies:
        print(f"no study in {parsed.results_dir}; make one with `rsl run`")
        if also:
            print(also)
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
            for line in at_work(store.leases):
                print(f"  {line}")
    if also:
        print(also)
    return status


def verify(parsed: argparse.Namespace) -> int:
    """Print which files of studies are not what was written."""
    from rsl_cli.study.studies import find_studies
    from rsl_cli.study.verify import verify as examined

    status = 0
    for store in [_find(name, parsed.results_dir) for name in parsed.study] or find_studies(parsed.results_dir):
        try:
            found = examined(store)
        except StoreError as error:
            print(f"rsl: {error}", file=sys.stderr)
            status = 1
            continue
        print(found.text(store.name))
        status = max(status, int(not found.clean))
    return status


def complain(text: str) -> None:
    """Print one line about what went wrong, to standard error."""
    with suppress(OSError):
        # A word of the user's may hold an end of line.
        print("rsl:", "\\n".join(text.splitlines()), file=sys.stderr)


def keep_fault(error: Exception) -> str:
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
