"""MLflow: an experiment for each study, a run for each run, and one for the verdict and the page."""

import os
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rsl_cli.track.tracker import TRACKERS, Note, Tracker, library

_MOST_METRICS, _MOST_OTHERS, _LONGEST = 1000, 100, 5000
"""What MLflow takes in one call, and in one text."""


@TRACKERS.add("mlflow")
class MLflow(Tracker):
    """``mlflow ui --backend-store-uri sqlite:///results/mlflow.db`` shows it; of local stores it takes SQLite alone."""

    module, extra = "mlflow", "mlflow"

    def __init__(self, study: str, place: str) -> None:
        super().__init__(study, place)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        file = Path(place.removeprefix("sqlite:///"))
        local = place.startswith("sqlite:///")
        if local:
            file.parent.mkdir(parents=True, exist_ok=True)
        self._client = library("mlflow").MlflowClient(tracking_uri=place)
        found = self._client.get_experiment_by_name(study)
        artifacts = (file.with_suffix("") / study).as_uri() if local else None
        self._experiment = found.experiment_id if found else self._client.create_experiment(study, artifacts)
        self._runs = {run.data.tags["rsl.key"]: run for run in self._all() if "rsl.key" in run.data.tags}

    @classmethod
    def place(cls, results: Path) -> str:
        """See `Tracker`."""
        return f"sqlite:///{results / 'mlflow.db'}"

    def sent(self, key: str) -> tuple[str, int] | None:
        """See `Tracker`; what was not sent to its end has no mark, and is deleted."""
        run = self._runs.get(key)
        if run is None:
            return None
        if "rsl.mark" not in run.data.tags:
            self._client.delete_run(self._runs.pop(key).info.run_id)
            return None
        return run.data.tags["rsl.mark"], int(run.data.tags["rsl.rows"])

    def send(self, note: Note, since: int) -> None:
        """See `Tracker`."""
        entities = library("mlflow.entities")
        run = self._runs.get(note.key)
        if run is None:
            tags = {"rsl.key": note.key, "rsl.study": self.study}
            run = self._client.create_run(self._experiment, run_name=note.name, tags=tags)
            self._runs[note.key] = run
            for part in _parts(note.config.items(), _MOST_OTHERS):
                params = [entities.Param(key, str(value)[:_LONGEST]) for key, value in part]
                self._client.log_batch(run.info.run_id, params=params)
        else:
            # Cut off here, it has no mark, and is made anew.
            self._client.delete_tag(run.info.run_id, "rsl.mark")
        now = round(time.time() * 1000)
        over_time = [
            entities.Metric(name, value, now, int(row["step"]))
            for row in note.rows[since:]
            for name, value in row.items()
            if name != "step"
        ]
        final = [entities.Metric(name, value, now, note.last_step) for name, value in note.figures.items()]
        for part in _parts([*over_time, *final], _MOST_METRICS):
            self._client.log_batch(run.info.run_id, metrics=part)
        for page in note.pages:
            self._client.log_artifact(run.info.run_id, str(page))
        for part in _parts(note.texts.items(), _MOST_OTHERS):
            self._client.log_batch(
                run.info.run_id, tags=[entities.RunTag(key, value[:_LONGEST]) for key, value in part]
            )
        self._client.set_terminated(run.info.run_id)
        marks = [entities.RunTag("rsl.rows", str(len(note.rows))), entities.RunTag("rsl.mark", note.mark)]
        self._client.log_batch(run.info.run_id, tags=marks)

    def _all(self) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs([self._experiment], max_results=1000, page_token=token)
            yield from page
            token = page.token
            if not token:
                return


def _parts(values: Iterable[Any], size: int) -> Iterator[list[Any]]:
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part
