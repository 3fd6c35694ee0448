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

SCHEMA = 1
"""Version of what ``study.json`` and a run's identity mean."""

_RUN_ID = re.compile(r"[0-9a-f]{16}").fullmatch
_SEAL = re.compile(rb'(  "digest": "sha256:)([0-9a-f]{64})("\n}\n)\Z')


class DamageError(ValueError):
    """A file that is not what was written; its text says how that shows."""


def seal(content: Mapping[str, Any]) -> bytes:
    """A mapping as strict JSON (numbers that are not finite become null), ending in a digest of all its bytes."""
    plain = {key: value for key, value in _finite(content).items() if key != "digest"}
    text = (json.dumps({**plain, "digest": "sha256:"}, indent=2, allow_nan=False) + "\n").encode()
    return text[:-4] + digest(text).encode() + text[-4:]


def unseal(text: bytes) -> dict[str, Any]:
    """Read what `seal` made; JSON without a digest, as earlier versions wrote it, is taken as it is.

    Returns:
        The mapping, without its digest.

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


def check_study(study: Mapping[str, Any]) -> None:
    """Check the content of ``study.json``.

    Raises:
        DamageError: another schema, or no identity or plan of the due shape.
    """
    if study.get("schema", SCHEMA) != SCHEMA:
        raise DamageError(f"written by another version of rsl; accepted: schema {SCHEMA}")
    for key in ("identity", "config", "plan"):
        if key in study and not isinstance(study[key], dict):
            raise DamageError(f"{key} is no mapping")
    runs = study.get("plan", {}).get("runs")
    if not isinstance(runs, list):
        raise DamageError("plan.runs is no list")
    for run in runs:
        name = run.get("run_id") if isinstance(run, dict) else None
        if not (isinstance(name, str) and _RUN_ID(name) and type(run.get("lift")) is type(run.get("seed")) is int):
            raise DamageError(f"plan.runs holds {str(run)[:60]}; due: lift, seed and run_id of 16 hex digits")


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
