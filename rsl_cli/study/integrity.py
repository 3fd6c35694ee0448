"""Whether a file is what was written: JSON sealed by its own digest, digests of other files, shapes of what is read.

It knows no folders. Whatever is wrong is said in half a line, for an error that names the file.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rsl_cli.study.record import RECORD_TYPES

SCHEMA = 1
"""Version of what a record means; part of every run's identity."""

_SEAL = re.compile(rb'(  "digest": "sha256:)([0-9a-f]{64})("\n}\n)\Z')
_SCHEMA_FAULT = f"written by another version of rsl; accepted: schema {SCHEMA}"


class DamageError(ValueError):
    """A file that is not what was written; its text says how that shows."""


def seal(content: Mapping[str, Any]) -> bytes:
    """A mapping as strict JSON (numbers that are not finite become null), ending in a digest of all its bytes."""
    plain = {key: value for key, value in _finite(content).items() if key != "digest"}
    text = (json.dumps({**plain, "digest": "sha256:"}, indent=2, allow_nan=False) + "\n").encode()
    return text[:-4] + digest(text).encode() + text[-4:]


def unseal(text: bytes) -> dict[str, Any]:
    """Read what `seal` made; JSON without a digest, as earlier versions wrote it, is taken as it is.

    Raises:
        DamageError: a byte of it is another, or it is no mapping.
    """
    sealed = _SEAL.search(text)
    if sealed and digest(_SEAL.sub(rb"\1\3", text)) != sealed[2].decode():
        raise DamageError("its content does not fit its digest")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DamageError(f"not JSON: {str(error).splitlines()[0]}") from error
    if not isinstance(content, dict):
        raise DamageError(f"{type(content).__name__} where a mapping is due")
    if not sealed and ("digest" in content or any(str(value).startswith("sha256:") for value in content.values())):
        raise DamageError("its digest is damaged")
    content.pop("digest", None)
    return content


def is_sealed(text: bytes) -> bool:
    """Whether JSON carries a digest."""
    return _SEAL.search(text) is not None


def digest(content: bytes) -> str:
    """SHA-256, as 64 hex digits."""
    return hashlib.sha256(content).hexdigest()


def digest_of_arrays(arrays: Mapping[str, np.ndarray], text: Mapping[str, str]) -> str:
    """SHA-256 of named arrays and text, whatever order they are stored in."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        found.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    found.update(json.dumps(sorted(text.items())).encode())
    return found.hexdigest()


def check_record(record: Mapping[str, Any], lift: int, seed: int, run_id: str) -> None:
    """Check a run's record.

    Raises:
        DamageError: no status, the record of another run, or a value of another type than `RECORD_TYPES` says.
    """
    if record.get("status") not in ("done", "failed"):
        raise DamageError(f"status is {record.get('status')!r}; accepted: done or failed")
    _check_schema(record)
    for key, due in (("lift", lift), ("seed", seed), ("run_id", run_id)):
        if record.get(key, due) != due:
            raise DamageError(f"{key} is {record[key]!r}, its folder's is {due!r}")
    for key, value in record.items():
        accepted = RECORD_TYPES.get(key)
        if accepted and value is not None and (not isinstance(value, accepted) or isinstance(value, bool)):
            raise DamageError(f"{key} is {value!r}, a {type(value).__name__}")
    files = record.get("files", {})
    if not all(isinstance(one, dict) and {"bytes", "sha256"} <= one.keys() for one in files.values()):
        raise DamageError("files is no mapping of names to sizes and digests")


def check_study(study: Mapping[str, Any]) -> None:
    """Check the content of ``study.json``.

    Raises:
        DamageError: another schema, or no identity or plan of the due shape.
    """
    _check_schema(study)
    for key in ("identity", "config", "plan"):
        if key in study and not isinstance(study[key], dict):
            raise DamageError(f"{key} is no mapping")
    runs = study.get("plan", {}).get("runs")
    if not isinstance(runs, list):
        raise DamageError("plan.runs is no list")
    for run in runs:
        lift, seed, run_id = map(run.get, ("lift", "seed", "run_id")) if isinstance(run, dict) else (None, None, None)
        if not (type(lift) is type(seed) is int and isinstance(run_id, str) and re.fullmatch(r"[0-9a-f]{16}", run_id)):
            raise DamageError(f"plan.runs holds {str(run)[:60]}; due: lift, seed and run_id of 16 hex digits")


def _check_schema(content: Mapping[str, Any]) -> None:
    if content.get("schema", SCHEMA) != SCHEMA:
        raise DamageError(_SCHEMA_FAULT)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
