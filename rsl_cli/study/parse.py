"""The first of a study's steps from its configuration: all that can be read without its data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from rsl_cli.errors import ConfigError
from rsl_cli.graph import EdgeLifting, edge_lifting
from rsl_cli.keys import read_keys, shorten
from rsl_cli.registry import load_plugins
from rsl_cli.study.executor import read_executor
from rsl_cli.study.keys import GROUPS, STUDY
from rsl_cli.study.sweep import lift_degrees, seed_list


@dataclass(frozen=True)
class Asked:
    """What a study asks for, its data not yet read.

    Args:
        config: the plain configuration, every key there.
        lifts: degrees, ascending.
        seeds: ascending.
        lifting: for edges that name none.
        device: ``cpu`` or ``cuda``.
    """

    config: Mapping[str, Any]
    lifts: tuple[int, ...]
    seeds: tuple[int, ...]
    lifting: EdgeLifting
    device: str


def parse(config: Mapping[str, Any]) -> Asked:
    """Read a configuration as far as it needs no data; a user's plug-ins are imported.

    Returns:
        The configuration, every key settled but for what depends on the data.

    Raises:
        ConfigError: an unknown key, or a value that is not accepted.
        GraphError: so of the lifting.
    """
    full = {**read_keys("", STUDY, config, also=GROUPS), **{key: config.get(key, GROUPS[key]) for key in GROUPS}}
    for key in GROUPS:
        if not isinstance(full[key], Mapping):
            got = f"{key}={shorten(full[key])}" if key in config else f"{key} is not set"
            raise ConfigError(
                f"{got}; a group is needed: {key}=NAME on a command line and in rsl_cli.study, which know the defaults "
                "of what is left out, a mapping in rsl_cli.run_study"
            )
    load_plugins(full["plugins"])
    full["executor"] = read_executor(full["executor"])
    lifting = edge_lifting(full["lifting"])
    return Asked(full, lift_degrees(full["lift"]), seed_list(full["seeds"]), lifting, _device(full["device"]))


def _device(wanted: str) -> str:
    found = torch.cuda.is_available()
    if wanted == "cuda" and not found:
        raise ConfigError("device=cuda, but torch finds no CUDA device here; use device=cpu or device=auto")
    return "cuda" if found and wanted != "cpu" else "cpu"
