"""Reports on a study that is running, a page at a time."""

import time
from collections.abc import Callable

from rsl_cli.report import write_report
from rsl_cli.study.store import StudyStore

SECONDS = 10
"""Between two looks at the study's folder; the page loads itself as often."""


def watch(
    store: StudyStore, say: Callable[[str], None], *, delta: float = 0.1, pause: Callable[[float], None] = time.sleep
) -> None:
    """Write a study's page whenever a run of it has ended, until no planned run is missing.

    PNG and PDF are left to the report that follows. A study that goes on by itself plans more runs some moments after
    its last one ended, so it must be found complete twice.

    Args:
        store: the study.
        say: takes a line for each page.
        delta: accepted probability that training misses a target loss.
        pause: waits so many seconds.

    Raises:
        StoreError: no study is there, or a file is damaged.
    """
    seen, complete = -1, 0
    while complete < 2:
        ended, planned = len(store.records()), len(store.planned())
        complete = complete + 1 if ended >= planned else 0
        if ended != seen:
            verdict = write_report(store, formats=(), delta=delta, refresh=SECONDS)
            say(f"{ended} of {planned} runs: {verdict['headline']}")
            seen = ended
        if complete < 2:
            pause(SECONDS)
