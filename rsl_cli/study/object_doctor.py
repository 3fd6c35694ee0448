"""What an object store gives that studies rely on, tried from several connections at once."""

import statistics
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from rsl_cli.errors import StoreError
from rsl_cli.study.doctor import Finding
from rsl_cli.study.objects import Objects

_AT_ONCE, _TRIES = 8, 12
_SKEW = 5.0
"""Seconds by which a clock may be off before that is said."""


def examine(address: str) -> list[Finding]:
    """Try what studies rely on.

    Args:
        address: of a bucket, or of a folder there; what is made is removed.

    Returns:
        One finding for each thing tried, in the order tried.

    Raises:
        RslError: it cannot be reached, or not be written.
    """
    objects = Objects(address).at(f"rsl-doctor-{uuid.uuid4().hex}")
    objects.put("first", b"first")
    try:
        return [trial(objects) for trial in (_once, _listed, _known, _delays, _clock)]
    finally:
        with suppress(StoreError):
            objects.remove(list(objects.listed()))


def _once(objects: Objects) -> Finding:
    wrong = 0
    try:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for number in range(_TRIES):
                made = pool.map(
                    lambda who, number=number: objects.create(f"once{number}", str(who).encode()), range(_AT_ONCE)
                )
                wrong += sum(made) != 1
    except StoreError as error:
        return Finding(f"FAILS conditional writes: {error}", True)
    if not wrong:
        return Finding("ok    objects are made by one process only (conditional writes): no run is trained twice")
    return Finding(
        f"FAILS of {_TRIES} objects {wrong} were made by several processes at once (conditional writes are not "
        "honoured): runs may be trained twice, though never wrongly",
        True,
    )


def _listed(objects: Objects) -> Finding:
    names = {f"listed{number}" for number in range(_TRIES)}
    for name in names:
        objects.put(name, b"")
    missing = names - set(objects.listed("listed"))
    if not missing:
        return Finding("ok    what is written is listed at once")
    return Finding(f"FAILS of {_TRIES} objects {len(missing)} were not listed at once: runs may be trained twice", True)


def _known(objects: Objects) -> Finding:
    entry = objects.entry("first")
    if entry is not None and entry.is_of(b"first"):
        return Finding("ok    contents are known by their MD5: what is here already is not fetched")
    return Finding("no    contents are not known by their MD5 (encrypted?): what this machine wrote is fetched once")


def _delays(objects: Objects) -> Finding:
    trials: dict[str, Callable[[], object]] = {
        "written": lambda: objects.put("first", b"first"),
        "read": lambda: list(objects.get(["first"])),
        "listed": lambda: objects.listed("first"),
    }
    said = ", ".join(f"{word} in {1e3 * _median(trial):.3g} ms" for word, trial in trials.items())
    return Finding(f"ok    an object is {said} (medians of {_TRIES})")


def _median(trial: Callable[[], object]) -> float:
    taken = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        trial()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _clock(objects: Objects) -> Finding:
    skew = objects.skew()
    word = "ok   " if abs(skew) < _SKEW else "no   "
    return Finding(f"{word} the store's clock against this machine's: {skew:+.2g} s, which leases take into account")
