"""What was trained, as networks that can be asked: which run, and its network from what is stored."""

from collections.abc import Mapping
from typing import Any

import torch

from rsl_cli.errors import DataError, StoreError, first_line
from rsl_cli.graph import BaseGraph, edge_lifting
from rsl_cli.lift import sample_lift
from rsl_cli.network import LiftedNetwork
from rsl_cli.portable.model import predict
from rsl_cli.registry import load_plugins
from rsl_cli.study.identity import refuse_edited
from rsl_cli.study.store import RunKey, StudyStore


class TrainedNetwork(LiftedNetwork):
    """A lift's network that knows the data it was trained on."""

    data: Mapping[str, Any] | None = None
    """How raw inputs became the network's; see `rsl_cli.data.dataset.Reading`."""

    def predict(self, table: Any) -> Any:
        """Values in the target's units, or labels of classes, from raw inputs.

        Args:
            table: columns by name, such as a pandas DataFrame, columns that are no features being ignored; or, where no
                feature is text, an array of samples.

        Returns:
            Numbers: a float64 tensor (N, outputs). Classes: a list of N labels.

        Raises:
            DataError: a column or a value is missing, or a category is new; or the study is of an older version, which
                kept nothing about its data: running its line again mends that.
        """
        try:
            return predict(self, dict(self.data) if self.data is not None else None, table)
        except ValueError as error:
            raise DataError(f"predict: {first_line(error)}") from error


def choose_run(store: StudyStore, words: tuple[str, ...] | list[str] = ()) -> RunKey:
    """The finished run that words name; of several, the one of least held-out loss.

    Args:
        store: a study.
        words: ``lift=64``, ``seed=0``, or the start of a run's folder, each narrowing the choice.

    Returns:
        The run.

    Raises:
        StoreError: a word that is none of these, or no finished run is left.
    """
    keys = {key: record for key in store.planned() if (record := store.record(key)) and record.done}
    for word in words:
        name, equals, value = word.partition("=")
        if equals and (name not in ("lift", "seed") or not value.isdigit()):
            raise StoreError(f"run {word!r}; accepted: lift=64, seed=0, or the start of a run's folder")
        chosen = {
            key: record
            for key, record in keys.items()
            if (getattr(key, name) == int(value) if equals else key.directory.startswith(word))
        }
        if not chosen:
            listed = f"; finished runs: {', '.join(key.directory for key in list(keys)[:4])}, ..." if keys else ""
            raise StoreError(f"study '{store.name}' has no finished run {word}{listed}")
        keys = chosen
    if not keys:
        raise StoreError(f"study '{store.name}' has no finished run; `rsl list` counts them")
    # A run that diverged has no loss.
    return min(keys, key=lambda key: (keys[key].test_loss is None, keys[key].test_loss or 0.0))


def run_network(store: StudyStore, key: RunKey) -> TrainedNetwork:
    """The network of a finished run, as trained; of a user's own, its parts are asked for and no data.

    Returns:
        On the CPU, in the dtype it was trained in, with what is known of its data.

    Raises:
        StoreError: the study is damaged, a part of the user's own is not what it was, or another version of rsl draws
            its lifts otherwise.
    """
    study = store.read_study()
    load_plugins(study["config"].get("plugins"))
    identity = study["identity"]
    base = BaseGraph.from_config(
        study["config"]["base"],
        input_shape=identity["base"]["input_shape"],
        output_size=identity["base"]["output_size"],
    )
    lifting = edge_lifting(study["config"]["lifting"])
    refuse_edited(store, base, lifting)
    lift = sample_lift(base, key.lift, key.seed, lifting)
    state = {name: torch.as_tensor(array) for name, array in store.state(key).items()}
    dtype = next(iter(state.values())).dtype if state else torch.float32
    network = TrainedNetwork(lift, None, dtype, identity["parametrization"])
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        raise StoreError(
            f"run {key.directory} does not fit its lift: {first_line(error)}; it was made by another version of rsl"
        ) from error
    network.data = study.get("data")
    return network
