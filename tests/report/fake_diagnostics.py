"""Tables of a run whose laws are known: a flow with L' = -(2 c L)^2 / kappa0, every slack of which is c = 1.3."""

import math

import numpy as np
import pandas as pd

from rsl_cli.study.record import Record

SLACK = 1.3
EPSILONS = tuple(10.0**-k for k in range(1, 7))
RADIUS = 2.0
PROBES = 4
LOSS0 = 0.5
END = 1e6


def kappa0(lift: int, seed: int) -> float:
    """kappa(theta, 0), the same along the whole path."""
    return 4000 / lift * math.exp(0.3 * math.sin(1.7 * seed + lift))


def reachable(lift: int) -> float:
    """The least epsilon that some step reaches."""
    return 30.0 / lift**3


def kappa(lift: int, seed: int, loss: float, epsilon: float) -> float:
    if epsilon >= loss:
        return 0.0
    if epsilon < reachable(lift):
        return math.inf
    return kappa0(lift, seed) * (1 - math.sqrt(epsilon / loss)) ** 2


def tables_of(record: Record) -> dict[str, pd.DataFrame]:
    lift, seed = record.lift, record.seed
    return {
        "trajectory": trajectory(lift, seed),
        "tangent": tangent(lift, seed),
        "coverage": coverage(lift, seed),
        "drift": drift(lift, seed),
        "coordinates": coordinates(lift, seed),
        "ntk": ntk(lift, seed),
    }


def loss_at(lift: int, seed: int, time: np.ndarray) -> np.ndarray:
    return 1 / (1 / LOSS0 + 4 * SLACK**2 * time / kappa0(lift, seed))


def distance_at(lift: int, seed: int, loss: np.ndarray) -> np.ndarray:
    """Half of the path's length: paths are bent."""
    return 0.5 * math.sqrt(kappa0(lift, seed)) / SLACK * np.log(LOSS0 / loss) / 2


def trajectory(lift: int, seed: int) -> pd.DataFrame:
    time = np.concatenate([[0.0], np.geomspace(1e-3, END, 60)])
    loss = loss_at(lift, seed, time)
    return pd.DataFrame(
        {
            "step": np.arange(time.size),
            "time": time,
            "loss": loss,
            "test_loss": 1.2 * loss,
            "grad_norm": SLACK * 2 * loss / math.sqrt(kappa0(lift, seed)),
            "distance": distance_at(lift, seed, loss),
        }
    )


def tangent(lift: int, seed: int) -> pd.DataFrame:
    random = np.random.default_rng([lift, seed])
    times = [0.0, *np.geomspace(1, END, 5)]
    losses = loss_at(lift, seed, np.array(times))
    distances = distance_at(lift, seed, losses)
    points: list[tuple[str, int, float, float, float, float]] = [("start", 0, 0.0, 0.0, losses[0], 1.0)]
    points += [("path", i, times[i], distances[i], losses[i], 1.0) for i in range(1, len(times))]
    for probe in range(PROBES):
        factor = 1 + 40 / lift * abs(random.standard_normal())
        points.append(("ball", probe, math.nan, RADIUS, LOSS0 * factor, factor))
    rows = []
    for place, probe, time, distance, loss, factor in points:
        gradient = SLACK * 2 * loss / math.sqrt(kappa0(lift, seed) * factor)
        for epsilon in EPSILONS:
            value = kappa(lift, seed, loss, epsilon / factor) * factor
            rows.append((place, probe, time, probe, distance, loss, gradient, epsilon, value))
    names = ("place", "probe", "time", "step", "distance", "loss", "grad_norm", "epsilon", "kappa")
    return pd.DataFrame(rows, columns=pd.Index(names))


def coverage(lift: int, seed: int) -> pd.DataFrame:
    rows = []
    for depth, vertex in enumerate(("h1", "h2")):
        for eta in (0.25, 0.5, 1.0):
            chance = 0.8 * eta ** (2 + 2 * depth)
            covering = int(np.random.default_rng([lift, seed, depth, int(100 * eta)]).binomial(lift, chance))
            rows.append((vertex, eta, lift, covering, covering / lift, covering // 5, 4))
    names = ("vertex", "eta", "copies", "covering", "share", "least", "witness_copies")
    return pd.DataFrame(rows, columns=pd.Index(names))


def drift(lift: int, seed: int) -> pd.DataFrame:
    wobble = math.exp(0.2 * math.sin(3.1 * seed + lift))
    rows = [
        ("x->h1", 2 * lift, 1.0, 1.1, 0.3, 0.9 * lift**-0.5 * wobble, 1.0, 0.9, 0.91),
        ("h1->h2", 8 * lift, 0.35, 0.4, 0.2, 0.5 * lift**-0.7 * wobble, 0.7, 0.95, 0.96),
        ("h2->y", lift, 0.0, 0.2, min(1.0, 8 * wobble / lift), 0.2, 1.0, 0.1, 0.02),
    ]
    names = ("group", "count", "std_start", "std_end", "ks", "wasserstein", "moved", "occupied", "expected_occupied")
    return pd.DataFrame(rows, columns=pd.Index(names))


EXPONENTS = {("h1", "size"): 0.0, ("h1", "change"): -0.5, ("y", "change"): 1.0}
"""Of n, for sizes at the start and changes after 4 steps; what y is at the start is 0."""


def coordinates(lift: int, seed: int) -> pd.DataFrame:
    wobble = math.exp(0.05 * math.sin(2.3 * seed + lift))
    rows = [("h1", 0, 1.1 * wobble, 0.0), ("y", 0, 0.0, 0.0)]
    for step in (1, 4):
        rows += [
            ("h1", step, 1.2, 0.01 * step * lift ** EXPONENTS["h1", "change"] * wobble),
            ("y", step, 0.3, 0.02 * step * lift ** EXPONENTS["y", "change"] * wobble),
        ]
    return pd.DataFrame(rows, columns=pd.Index(("vertex", "step", "size", "change")))


def ntk(lift: int, seed: int) -> pd.DataFrame:
    """Eigenvalues n / rank^2; runs end at another last rank each, and have turned towards the targets."""
    rows = []
    for place, step, time, loss, alignment in (("start", 0, 0.0, LOSS0, 0.01), ("path", 9, 1e3, 1e-3 / lift, 0.2)):
        values = lift / np.arange(1, 4 * lift + 1 + seed) ** 2.0
        trace, effective = values.sum(), values.sum() ** 2 / (values @ values)
        last = len(values)
        for rank in [*(2**k for k in range(last.bit_length()) if 2**k < last), last]:
            rows.append((place, time, step, loss, trace, effective, alignment, rank, values[rank - 1], rank / last))
    names = ("place", "time", "step", "loss", "trace", "effective_rank", "alignment", "rank", "eigenvalue", "target")
    return pd.DataFrame(rows, columns=pd.Index(names))
