"""What the tangent approximation numbers of a study say: kappa at the start, the inequality, the ball, the bounds.

It reads the rows of `DiagnosticTables.tangent`, in which every point of a run has one row per epsilon. kappa is
infinite where no step reaches epsilon, and 0 where the loss is below it already.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsl_cli.diagnostics.bound import kl_slack, length_bound, loss_bound
from rsl_cli.report.diagnostics import Rows
from rsl_cli.report.runs import StudyRuns
from rsl_cli.stats import Proportion, clopper_pearson
from rsl_cli.study.survey import Sampled

Array = NDArray[np.float64]

ROUNDING = 1e-6
"""Relative excess over a bound that is left to rounding, by trainers in single precision too."""
VIOLATION = 1 - ROUNDING
"""A slack below this violates the inequality."""


@dataclass(frozen=True)
class Inequality:
    """The Kurdyka-Lojasiewicz inequality over all points of training and all targets below their loss.

    ``checked`` and ``violations`` count pairs of a point and a target, ``points`` the points with at least one such
    pair, ``lifts`` theirs. ``worst`` is the run of the least slack.
    """

    checked: int
    points: int
    violations: int
    least_slack: float
    worst: str | None
    lifts: tuple[int, ...] = ()


@dataclass(frozen=True)
class Inside:
    """How much of the sphere around the start lies in A(kappa, eps) at one lift.

    ``seeds`` are those all of whose probes lie inside, with an exact interval: seeds are independent. ``probes`` is the
    share of all pairs (seed, probe), which are not.
    """

    seeds: Proportion
    probes: float


@dataclass(frozen=True)
class Curve:
    """A run's sampled flow beside its bounds, from time 0 exclusive to the last point at which kappa was measured.

    All arrays have shape (times,). The bounds use, for each epsilon, the largest kappa at the start and along the
    path, and are the least over all epsilon for which it is finite.
    """

    run: str
    lift: int
    time: Array
    loss: Array
    distance: Array
    loss_bound: Array
    length_bound: Array


def kappa_at_start(tangent: Rows) -> dict[float, dict[int, Array]]:
    """Return epsilon (descending) -> lift -> kappa(theta_0, epsilon) of the seeds; infinite where out of reach."""
    if not len(tangent):
        return {}
    start = tangent.where((tangent["place"] == "start") & ~np.isnan(tangent["kappa"]))
    return {
        epsilon: {lift: group["kappa"] for lift, group in rows.by("lift").items()}
        for epsilon, rows in _by_epsilon(start)
    }


def check_inequality(tangent: Rows) -> Inequality:
    """Check ``|grad L| sqrt(kappa) >= 2 s (s - se)`` at every start and path point for every epsilon below its loss."""
    names = ("loss", "grad_norm", "epsilon", "kappa")
    known = np.all([~np.isnan(tangent[name]) for name in names], axis=0)
    rows = tangent.where(known & (tangent["place"] != "ball"))
    slack = kl_slack(*(rows[name] for name in names))
    rows, slack = rows.where(~np.isnan(slack)), slack[~np.isnan(slack)]
    if not slack.size:
        return Inequality(0, 0, 0, math.nan, None)
    return Inequality(
        checked=slack.size,
        points=len(set(zip(rows["run"], rows["place"], rows["probe"], strict=True))),
        violations=int((slack < VIOLATION).sum()),
        least_slack=float(slack.min()),
        worst=str(rows["run"][slack.argmin()]),
        lifts=tuple(sorted({int(lift) for lift in rows["lift"]})),
    )


def inside_shares(tangent: Rows) -> dict[float, dict[float, dict[int, Inside]]]:
    """Return epsilon (descending) -> kappa (ascending) -> lift -> how much of the sphere lies in A(kappa, epsilon).

    The kappas are quartiles of the finite values at that epsilon, rounded to 1, 2 or 5 times a power of ten, and
    infinity where some probe is out of reach: a probe is inside A(inf, epsilon) if its kappa is finite. A kappa that
    is not known counts as outside.
    """
    if not len(tangent):
        return {}
    shares: dict[float, dict[float, dict[int, Inside]]] = {}
    for epsilon, rows in _by_epsilon(tangent.where(tangent["place"] == "ball")):
        found = rows["kappa"]
        levels = _levels(found[np.isfinite(found) & (found > 0)])
        if not np.isfinite(found).all() or not levels:
            levels.append(math.inf)
        shares[epsilon] = {level: _inside(rows, level) for level in levels}
    return shares


def telling_epsilon(shares: Mapping[float, Mapping[float, Mapping[int, Inside]]]) -> float:
    """Return the epsilon at which the shares change most over lifts and kappas; of equals the least one.

    Where no share changes with the lift, the nearest to one half tells most.
    """

    def change(epsilon: float) -> tuple[float, float]:
        rows = [[share.probes + _observed(share.seeds) for share in row.values()] for row in shares[epsilon].values()]
        return sum(max(row) - min(row) for row in rows), -abs(float(np.mean([np.mean(row) for row in rows])) - 1)

    return max(sorted(shares), key=change)


def flow_curves(runs: StudyRuns, trajectories: Mapping[str, Sampled], tangent: Rows) -> list[Curve]:
    """Return the bounded part of every run's flow, where it has a flow time and kappa was measured along its path.

    Args:
        runs: the study.
        trajectories: run name -> columns time, loss, distance.
        tangent: rows of all runs.
    """
    if not len(tangent):
        return []
    groups = tangent.where((tangent["place"] != "ball") & np.isfinite(tangent["time"])).by("run")
    curves = []
    for run in runs.shown:
        frame = trajectories.get(run.name)
        if run.name in groups and frame is not None and {"time", "loss", "distance"} <= frame.keys():
            curve = _curve(run.name, run.key.lift, frame, groups[run.name])
            curves += [] if curve is None else [curve]
    return curves


def epsilon_key(epsilon: float) -> str:
    """Return a target loss as it is written in ``verdict.json``: ``1e-03``, with more digits if it needs them."""
    short = f"{epsilon:.0e}"
    return short if float(short) == epsilon else f"{epsilon:.6g}"


def _curve(name: str, lift: int, frame: Sampled, rows: Rows) -> Curve | None:
    time, loss, distance = (np.asarray(frame[key], dtype=np.float64) for key in ("time", "loss", "distance"))
    known = np.isfinite(time) & np.isfinite(loss) & np.isfinite(distance) & (time >= 0)
    time, loss, distance = time[known], loss[known], distance[known]
    order = np.argsort(time, kind="stable")
    time, loss, distance = time[order], loss[order], distance[order]
    if not time.size or time[0] > 0:
        return None
    # Beyond the last measured point nobody knows kappa, so nothing is promised there.
    kept = (time > 0) & (time <= rows["time"].max() * (1 + 1e-9))
    if not kept.any():
        return None
    start = float(loss[0])
    bounds, lengths = np.full(kept.sum(), start), np.full(kept.sum(), np.inf)
    for epsilon, group in _by_epsilon(rows):
        # A kappa that is not known anywhere on the path is NaN here, and promises nothing.
        kappa = float(group["kappa"].max())
        if math.isfinite(kappa):
            bounds = np.minimum(bounds, loss_bound(start, epsilon, kappa, time[kept]))
            lengths = np.minimum(lengths, length_bound(start, epsilon, kappa, loss[kept]))
    return Curve(name, lift, time[kept], loss[kept], distance[kept], bounds, lengths)


def _by_epsilon(rows: Rows) -> list[tuple[float, Rows]]:
    # Powers of ten computed in two ways differ in their last bit, which would part one series into two.
    rounded = np.array([float(f"{value:.6g}") for value in rows["epsilon"]])
    return list(Rows({**rows.columns, "epsilon": rounded}).by("epsilon").items())[::-1]


def _levels(values: Array) -> list[float]:
    """The quartiles, each as the nearest of 1, 2, 5 times a power of ten in the logarithm."""
    if not values.size:
        return []
    levels = set()
    for value in np.quantile(values, [0.25, 0.5, 0.75]):
        decade = math.floor(math.log10(value))
        choices = [float(f"{digit}e{decade + shift}") for shift in (0, 1) for digit in (1, 2, 5)]
        levels.add(min(choices, key=lambda choice: abs(math.log(choice / value))))
    return sorted(levels)


def _inside(rows: Rows, kappa: float) -> dict[int, Inside]:
    shares = {}
    for lift, group in rows.by("lift").items():
        inside = np.isfinite(group["kappa"]) & (group["kappa"] <= kappa)
        whole = [inside[group["seed"] == seed].all() for seed in np.unique(group["seed"])]
        shares[lift] = Inside(clopper_pearson(int(sum(whole)), len(whole)), float(inside.mean()))
    return shares


def _observed(share: Proportion) -> float:
    return share.successes / share.runs
