"""What a study is called where its user gives no name: as what it computes, and apart from its neighbours."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rsl_cli.errors import ConfigError, StoreError
from rsl_cli.study.identity import differences, run_id
from rsl_cli.study.spec import StudySpec
from rsl_cli.study.studies import find_studies

_MOST_KEYS = 4
_LONGEST_VALUE = 16
_DIGITS = 8


def named(spec: StudySpec, asked: Mapping[str, Mapping[str, Any]] | None = None) -> StudySpec:
    """Name a study, so that equal lines go on with one study and different ones make different ones.

    A study without a name of its own is called ``<base>_<dataset>_<trainer>``, parts of the user's own by the last part
    of theirs. Where that computes something else, what differs is added (``mlp_sine2d_flow_samples4096``); a study
    named so earlier that computes the same is gone on with.

    Args:
        spec: the study.
        asked: identities, by name, of studies that are not written yet.

    Returns:
        The same study, with its name in its configuration too.

    Raises:
        ConfigError: a name of the user's own for two studies that compute different things.
        StoreError: a study in the way is damaged.
    """  # noqa: DOC501
    asked = asked or {}
    if spec.config["study"] is not None:
        if differ := differences(asked.get(spec.name, spec.identity), spec.identity):
            keys = ", ".join(list(differ)[:_MOST_KEYS])
            raise ConfigError(
                f"study={spec.name} is given to studies that differ in {keys}; leave it out, and each is named by what "
                "differs"
            )
        return spec
    default = spec.name
    # Parts of the user's own were all called target once.
    former = "_".join(str(spec.config[group].get("name", "unnamed")) for group in ("base", "dataset", "trainer"))

    def ours(name: str) -> bool:
        return name in (default, former) or name.startswith((f"{default}_", f"{former}_"))

    there = {name: dict(identity) for name, identity in asked.items()}
    for store in sorted(find_studies(spec.store.results_dir), key=lambda store: store.name):
        name = store.name
        if ours(name):
            try:
                there.setdefault(name, store.read_study()["identity"])
            except (StoreError, KeyError, TypeError):
                if name == default:
                    raise
    for name, identity in there.items():
        if ours(name) and not differences(identity, spec.identity):
            return _called(spec, name)
    if default not in there:
        return _called(spec, default)
    differ = differences(there[default], spec.identity)
    words = [_word(key, new) for key, (_, new) in differ.items()]
    name = "_".join([default, *words])
    if len(words) > _MOST_KEYS or name in there:
        name = f"{default}_{run_id(spec.identity, 0, 0)[:8]}"
    keys = ", ".join(list(differ)[:_MOST_KEYS]) + (", ..." if len(differ) > _MOST_KEYS else "")
    return _called(spec, name, f"named apart from study {default}, which differs in {keys}")


def _called(spec: StudySpec, name: str, *notes: str) -> StudySpec:
    return replace(spec, name=name, config={**spec.config, "study": name}, notes=(*spec.notes, *notes))


def _word(key: str, value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = text[:_DIGITS] if re.fullmatch(r"[0-9a-f]{16,}", text) else text  # Of a source or of arrays.
    return re.sub(r"[^A-Za-z0-9._+-]", "-", key.rpartition(".")[2] + text[:_LONGEST_VALUE])
