"""The studies of a results folder: by path or name, the latest first; and what their reports found."""

from pathlib import Path

from rsl_cli.errors import StoreError
from rsl_cli.study.files import read_json
from rsl_cli.study.store import StudyStore


def open_study(path: str | Path) -> StudyStore:
    """Return the store of a study that is there.

    Args:
        path: its folder, or its name below ``results``.

    Raises:
        StoreError: there is none, or its ``study.json`` cannot be read.
    """
    folder = Path(path)
    if not (folder / "study.json").is_file() and len(folder.parts) == 1:
        folder = Path("results") / folder
    store = StudyStore(folder)
    store.read_study()
    return store


def find_studies(results_dir: Path) -> list[StudyStore]:
    """The studies in a results folder, the most recently changed first."""
    files = sorted(results_dir.glob("*/study.json"), key=lambda path: -path.stat().st_mtime)
    return [StudyStore(path.parent) for path in files]


def reference_studies(results_dir: Path) -> list[StudyStore]:
    """The studies below ``reference`` in a results folder: they came with a clone, and go by name, but are nobody's."""
    return find_studies(results_dir / "reference")


def read_verdict(path: Path) -> str:
    """The verdict in a report's ``verdict.json``.

    Returns:
        One of the words that `rsl_cli.report.judge` gives.

    Raises:
        StoreError: the file is damaged, or holds none.
    """
    verdict = read_json(path).get("verdict")
    if not isinstance(verdict, str):
        raise StoreError(f"cannot read {path}: its verdict is {verdict!r}; `rsl report` writes it anew")
    return verdict
