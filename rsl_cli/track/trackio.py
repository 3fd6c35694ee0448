"""Trackio: a project for each study, a run for each run, and one for the verdict."""

import contextlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

from rsl_cli.errors import ConfigError
from rsl_cli.track.tracker import TRACKERS, Ledger, Note, Tracker, library


@TRACKERS.add("trackio")
class Trackio(Tracker):
    """``TRACKIO_DIR=results/trackio trackio show`` shows it; nothing leaves the machine."""

    module, extra = "trackio", "trackio"

    def __init__(self, study: str, place: str) -> None:
        super().__init__(study, place)
        Path(place).mkdir(parents=True, exist_ok=True)
        os.environ["TRACKIO_DIR"] = place  # Read once, when it is imported.
        there = Path(library("trackio.utils").TRACKIO_DIR)
        if there.resolve() != Path(place).resolve():
            raise ConfigError(f"tracker=trackio at {place}: this process has one in {there}; accepted: that")
        self._ledger = Ledger(Path(place) / f"sent-{study}.json")

    def sent(self, key: str) -> tuple[str, int] | None:
        """See `Tracker`."""
        return self._ledger.sent(key)

    def send(self, note: Note, since: int) -> None:
        """See `Tracker`."""
        trackio = library("trackio")
        with contextlib.redirect_stdout(io.StringIO()):  # It prints how to look at each run.
            run = trackio.init(
                project=self.study,
                name=note.name,
                config=dict(note.config),
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
            # Of two entries at one step it keeps one, and a step of the flow may hold two samples.
            for at, row in enumerate(note.rows[since:], since):
                run.log(_told(row), step=at)
            run.log({**note.figures, **note.texts}, step=len(note.rows))
            trackio.finish()
        self._ledger.put(note)


def _told(row: Mapping[str, float]) -> dict[str, float]:
    """A sample's numbers; ``step`` is its own word."""
    return {"training_step" if name == "step" else name: value for name, value in row.items()}
