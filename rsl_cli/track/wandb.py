"""Weights & Biases: a project for each study, a run for each run, and one for the verdict and the page."""

import os
from pathlib import Path

from rsl_cli.track.tracker import TRACKERS, Ledger, Note, Tracker, library


@TRACKERS.add("wandb")
class Wandb(Tracker):
    """Written to disk, ``wandb sync`` uploads it; with WANDB_MODE=online it is sent at once."""

    module, extra = "wandb", "wandb"

    def __init__(self, study: str, place: str) -> None:
        super().__init__(study, place)
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_SILENT", "true")
        Path(place).mkdir(parents=True, exist_ok=True)
        self._ledger = Ledger(Path(place) / f"sent-{study}.json")

    def sent(self, key: str) -> tuple[str, int] | None:
        """See `Tracker`."""
        return self._ledger.sent(key)

    def send(self, note: Note, since: int) -> None:
        """See `Tracker`."""
        wandb = library("wandb")
        # Ids are a project's own, and the study is no run of it.
        run = wandb.init(
            project=self.study,
            id=note.key,
            name=note.name,
            dir=self.folder,
            config=dict(note.config),
            resume="allow",
            settings=wandb.Settings(console="off", disable_git=True, disable_code=True, silent=True),
        )
        # What is logged at one step is one entry, and a step of the flow may hold two samples.
        for at, row in enumerate(note.rows[since:], since):
            run.log({"training_step" if name == "step" else name: value for name, value in row.items()}, step=at)
        run.summary.update({**note.figures, **note.texts})
        for page in note.pages:
            run.log({"report": wandb.Html(page.read_text(encoding="utf-8"))})
        run.finish()
        self._ledger.put(note)
