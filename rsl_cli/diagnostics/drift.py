"""How far training moves the weights' law from the one they were drawn from, group by group.

The theory starts from independent weights whose law has full support; whether trained weights still look like that is
an open question, and this measures it. How the weights were trained is not known here.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rsl_cli.errors import ConfigError
from rsl_cli.laws import Law
from rsl_cli.network import LiftedNetwork
from rsl_cli.parametrization import weight_std

if TYPE_CHECKING:
    import pandas

_BINS = 16


def weight_drift(start: LiftedNetwork, end: Mapping[str, ArrayLike | Tensor]) -> "pandas.DataFrame":
    """Compare trained weights with those that training started from, and with the law these were drawn from.

    Args:
        start: the network over one lift as it was drawn; one trained in place has to be drawn again.
        end: the trained parameters, named and shaped as in ``start.named_parameters()``.

    Returns:
        A row for each parameter, in the order of ``named_parameters``:

        - group: its name;
        - count: how many numbers it holds, all of which are one sample;
        - std_start: standard deviation of the law at the start, 0 for a point mass;
        - std_end: of the numbers at the end;
        - ks: Kolmogorov-Smirnov distance between the numbers at the start and at the end, 0 to 1;
        - wasserstein: first Wasserstein distance between them, in units of std_start;
        - moved: root mean square of end - start, in units of std_start;
        - occupied: share of 16 bins of equal probability under the law at the start that hold a number at the end;
        - expected_occupied: mean of that share for as many fresh draws from the law.

        NaN where there is nothing to measure: std_start is 0, no numbers, or a law whose probabilities are not known.

    Raises:
        ConfigError: a union of several lifts, or parameters of other names or shapes.
    """
    import pandas

    if start.replica_count != 1:
        raise ConfigError(f"start: a union of {start.replica_count} lifts; accepted: one lift, pass them singly")
    laws = _laws(start)
    for name in {**laws, **end}:
        if name not in laws or name not in end:
            where = "start lacks" if name not in laws else "end lacks"
            raise ConfigError(f"{where} parameter {name}; accepted: {', '.join(laws)}; pass the trained state of start")
    rows = []
    for name, before in start.named_parameters():
        after = _array(end[name])
        if after.shape != tuple(before.shape):
            raise ConfigError(
                f"parameter {name}: shape {after.shape} at the end; accepted: {tuple(before.shape)}, as at the start; "
                "pass the trained state of start"
            )
        rows.append({"group": name, **_drift(_array(before).ravel(), after.ravel(), *laws[name])})
    return pandas.DataFrame(rows, columns=pandas.Index(_COLUMNS))


_COLUMNS = ("group", "count", "std_start", "std_end", "ks", "wasserstein", "moved", "occupied", "expected_occupied")


def _drift(start: NDArray[np.float64], end: NDArray[np.float64], law: Law, std: float) -> dict[str, float]:
    row = {"count": len(start), "std_start": std}
    if not len(start):
        return row
    # A training that diverged leaves infinities, whose differences are NaN.
    with np.errstate(invalid="ignore", over="ignore"):
        row["std_end"] = float(end.std())
        row["ks"] = _kolmogorov_smirnov(start, end)
        if std > 0:
            # Between samples of one size, pairing them in order is the optimal transport.
            row["wasserstein"] = float(np.abs(np.sort(end) - np.sort(start)).mean()) / std
            row["moved"] = float(np.sqrt(np.square(end - start).mean())) / std
            probabilities = law.cdf(end / std)
            if probabilities is not None:
                row["occupied"] = _occupied(probabilities)
                row["expected_occupied"] = 1 - (1 - 1 / _BINS) ** len(end)
    return row


def _kolmogorov_smirnov(start: NDArray[np.float64], end: NDArray[np.float64]) -> float:
    """That of SciPy, whose statistics take half a second to import."""
    start, end = np.sort(start), np.sort(end)
    every = np.concatenate([start, end])
    if np.isnan(every).any():
        return np.nan
    below = [np.searchsorted(one, every, side="right") / len(one) for one in (start, end)]
    return float(np.abs(below[0] - below[1]).max())


def _occupied(probabilities: NDArray[np.float64]) -> float:
    inside = probabilities[(probabilities >= 0) & (probabilities <= 1)]
    return len(np.unique(np.minimum(inside * _BINS, _BINS - 1).astype(np.int64))) / _BINS


def _laws(network: LiftedNetwork) -> dict[str, tuple[Law, float]]:
    """The law of each parameter, by its name, and its standard deviation."""
    base, lift = network.lift.base, network.lift.replicas[0]
    # Told apart by identity: a parameter's name is made from its edge's or vertex's, but not part of any promise.
    by_parameter: dict[int, tuple[Law, float]] = {}
    for edge in base.edges:
        if base.weight_shape(edge) is not None:
            law, std = edge.init.law, weight_std(edge, lift, network.parametrization)
            by_parameter[id(network.weight(edge.source, edge.target, edge.slot))] = (law, law.variance**0.5 * std)
    for vertex in base.vertices:
        if vertex.bias:
            law = vertex.bias_init.law
            by_parameter[id(network.bias(vertex.name))] = (law, law.variance**0.5 * vertex.bias_init.gain)
    return {name: by_parameter[id(parameter)] for name, parameter in network.named_parameters()}


def _array(values: Any) -> NDArray[np.float64]:
    plain = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    return np.asarray(plain, dtype=np.float64)
