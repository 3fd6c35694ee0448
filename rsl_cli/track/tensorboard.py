"""TensorBoard: a folder of event files for each run, below one for the study."""

import json
import shutil
from pathlib import Path

from rsl_cli.track.tracker import TRACKERS, Ledger, Note, Tracker, library


@TRACKERS.add("tensorboard")
class TensorBoard(Tracker):
    """``tensorboard --logdir results/tensorboard`` shows it."""

    module, extra = "tensorboard", "tensorboard"

    def __init__(self, study: str, place: str) -> None:
        super().__init__(study, place)
        self._root = Path(place) / study
        self._ledger = Ledger(self._root / "sent.json")

    def sent(self, key: str) -> tuple[str, int] | None:
        """See `Tracker`."""
        return self._ledger.sent(key)

    def send(self, note: Note, since: int) -> None:
        """See `Tracker`; what a send that was cut off has left is replaced."""
        folder = self._root / note.name
        if since == 0:
            shutil.rmtree(folder, ignore_errors=True)
        with library("torch.utils.tensorboard").SummaryWriter(str(folder)) as writer:
            for row in note.rows[since:]:
                for name, value in row.items():
                    writer.add_scalar(name, value, int(row["step"]))
            for name, value in note.figures.items():
                writer.add_scalar(name, value, note.last_step)
            for name, value in note.texts.items():
                writer.add_text(name, value, note.last_step)
            if since == 0:
                writer.add_text("config", f"```json\n{json.dumps(dict(note.config), indent=1, default=str)}\n```")
        self._ledger.put(note)
