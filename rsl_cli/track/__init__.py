"""What is stored of a study, sent to a tracker of experiments; sent again, nothing is doubled.

Trackers read the store, after a run has ended or any time later. Training knows nothing of them.
"""

import hashlib
import inspect
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from rsl_cli.claims import check_answer, check_claims
from rsl_cli.errors import RAISED, ConfigError, StoreError, first_line
from rsl_cli.report import judge
from rsl_cli.study.objects import is_address
from rsl_cli.study.store import RunKey, StudyStore
from rsl_cli.track import mlflow, tensorboard, trackio, wandb
from rsl_cli.track.tracker import TRACKERS, Note, Tracker

__all__ = ["TRACKERS", "Note", "Sent", "Tracker", "check_tracker", "track"]

_SHIPPED = (mlflow, tensorboard, trackio, wandb)


@dataclass(frozen=True)
class Sent:
    """What one call of `track` did.

    Args:
        place: where the tracker keeps it.
        fresh: runs sent for the first time.
        changed: runs that had been sent and have come further since.
        known: runs of which there was nothing new.
    """

    place: str
    fresh: int = 0
    changed: int = 0
    known: int = 0

    def text(self) -> str:
        """One line for people."""
        return f"{self.fresh} runs sent, {self.changed} brought up to date, {self.known} known already: {self.place}"


def check_tracker(name: object) -> None:
    """Find out whether a tracker can be used, before anything trains.

    Args:
        name: ``mlflow``, ``tensorboard``, ``wandb``, ``trackio`` or ``package.Class`` of one's own.

    Raises:
        ConfigError: there is no such tracker, or its package is not installed; in one line.
    """
    kind = TRACKERS.find(name, "tracker")
    if not (isinstance(kind, type) and issubclass(kind, Tracker)):
        raise ConfigError(f"tracker={name}: accepted: a subclass of rsl_cli.track.Tracker")
    check_claims(kind, Tracker, f"tracker={name}")
    if inspect.isabstract(kind):
        raise ConfigError(f"tracker={name}: lacks {', '.join(sorted(kind.__abstractmethods__))}; write them")
    kind.check(str(name))


def track(store: StudyStore, name: str, *, at: str | None = None, runs: Collection[RunKey] | None = None) -> Sent:
    """Send a study's configuration, runs and verdict to a tracker.

    Args:
        store: the study.
        name: of the tracker, see `check_tracker`.
        at: where the tracker keeps it, a folder or its address; None: beside the studies, on this machine, or in
            ``results`` where they lie in an object store.
        runs: those of the study's to send, and no verdict; None: all that are done.

    Returns:
        What was sent. A run is known by its id and what its record says: it is sent once, and once more when it has
        been carried further.

    Raises:
        ConfigError: see `check_tracker`.
        StoreError: no study is there, a file is damaged, or the tracker refuses.
    """
    check_tracker(name)
    kind = TRACKERS.find(name, "tracker")
    return send(store, kind, name, at, runs)


def send(
    store: StudyStore, kind: type[Tracker], name: str, at: str | None = None, runs: Collection[RunKey] | None = None
) -> Sent:
    """As `track`, to a tracker's class, which need not have a name elsewhere."""
    study = store.read_study()
    results = Path("results" if is_address(store.results_dir) else store.results_dir).resolve()
    place = kind.place(results) if at is None else at
    check_answer("place", place, Tracker.place, f"tracker {name}")
    counts = {"fresh": 0, "changed": 0, "known": 0}
    # Two processes would each find a run unsent.
    with FileLock(store.root / "locks" / f"track-{kind.__name__.lower()}.lock"):
        try:
            tracker = kind(store.name, place)
            for key in store.planned() if runs is None else runs:
                if store.is_done(key):
                    counts[_sent(tracker, _run_note(store, study, key))] += 1
            if runs is None:
                _sent(tracker, _study_note(store, study))
        except (ConfigError, StoreError):
            raise
        except RAISED as error:
            raise StoreError(f"tracker {name} at {place}: {type(error).__name__}: {first_line(error)}") from error
    return Sent(place, **counts)


def _sent(tracker: Tracker, note: Note) -> str:
    before = tracker.sent(note.key)
    check_answer("sent", before, Tracker.sent, f"tracker {type(tracker).__qualname__}")
    if before is not None and before[0] == note.mark:
        return "known"
    tracker.send(note, 0 if before is None else min(before[1], len(note.rows)))
    return "fresh" if before is None else "changed"


def _run_note(store: StudyStore, study: Mapping[str, Any], key: RunKey) -> Note:
    found = store.record(key)
    record = {} if found is None else {name: value for name, value in found.values().items() if value is not None}
    # Trackers have a time of their own.
    table = store.trajectory(key).rename(columns={"time": "flow_time"})
    rows = [{str(name): x for name, x in row.items() if math.isfinite(x)} for row in table.to_dict("records")]
    config = {**_flat(study["config"]), "lift": key.lift, "seed": key.seed}
    return Note(key.run_id, key.directory, config, rows, record, _mark(record))


def _study_note(store: StudyStore, study: Mapping[str, Any]) -> Note:
    verdict = judge(store.address)
    final = {"verdict": verdict.verdict, "headline": verdict.headline, "reasons": "\n".join(verdict.reasons)}
    page = store.report_dir / "index.html"
    pages = (page,) if page.is_file() else ()
    seen = {**final, "pages": [hashlib.sha256(one.read_bytes()).hexdigest() for one in pages]}
    return Note("study", store.name, _flat(study["config"]), [], final, _mark(seen), pages)


def _mark(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration as one level of keys with dots; lists as texts; nulls left out."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            flat[f"{prefix}{key}"] = json.dumps(value) if isinstance(value, list | tuple) else value
    return flat
