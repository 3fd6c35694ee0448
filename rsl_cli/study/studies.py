"""The studies of a results folder: by address or name, the latest first; and what their reports found."""

from pathlib import Path

from rsl_cli.errors import StoreError
from rsl_cli.study.files import read_json
from rsl_cli.study.objects import Objects, is_address
from rsl_cli.study.store import StudyStore


def study_at(address: str | Path) -> StudyStore:
    """The store at an address, whether or not there is a study.

    Args:
        address: a folder, or ``s3://bucket/prefix/study`` or the like.

    Returns:
        One that nothing has been read of.

    Raises:
        ConfigError: an address that is none, or needs what is not installed.
    """
    if is_address(str(address)):
        from rsl_cli.study.mirror import MirroredStore

        return MirroredStore.at(str(address))
    return StudyStore(Path(address))


def study_in(results_dir: str | Path, name: str) -> StudyStore:
    """The store of that name in a results folder; see `study_at`."""
    within = is_address(str(results_dir))
    return study_at(f"{str(results_dir).rstrip('/')}/{name}" if within else Path(results_dir) / name)


def open_study(path: str | Path) -> StudyStore:
    """Return the store of a study that is there.

    Args:
        path: its folder or address, or its name below ``results``.

    Raises:
        StoreError: there is none, or its ``study.json`` cannot be read.
    """
    store = study_at(path)
    if not store.exists() and len(Path(path).parts) == 1:
        store = study_in("results", str(path))
    store.read_study()
    return store


def find_studies(results_dir: str | Path) -> list[StudyStore]:
    """The studies in a results folder, the most recently changed first."""
    if is_address(str(results_dir)):
        objects = Objects(str(results_dir))
        made = {name: objects.entry(f"{name}/study.json") for name in objects.folders()}
        times = {name: entry.modified for name, entry in made.items() if entry is not None}
        return [study_in(objects.address, name) for name in sorted(times, key=lambda name: -times[name])]
    files = sorted(Path(results_dir).glob("*/study.json"), key=lambda path: -path.stat().st_mtime)
    return [StudyStore(path.parent) for path in files]


def reference_studies(results_dir: str | Path) -> list[StudyStore]:
    """The studies below ``reference`` in a results folder: they came with a clone, and go by name, but are nobody's."""
    within = is_address(str(results_dir))
    return [] if within else find_studies(Path(results_dir) / "reference")


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
