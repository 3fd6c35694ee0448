"""What the coordinate check and the tangent kernel's spectra say of a study: slopes in n, medians over seeds."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from rsl_cli.report.diagnostics import Rows
from rsl_cli.stats import quantile

STEADY = 0.25
"""The exponent of n up to which a size counts as steady: what goes wrong goes like the root of n, or faster."""
_LEVEL = 0.95


@dataclass(frozen=True)
class Slope:
    """How a size goes with the lift degree, as a power of it.

    Args:
        vertex: whose sums.
        measure: ``size`` at the start or ``change`` by the steps.
        exponent: mean over seeds of each seed's slope of log size in log n.
        low, high: its 95 % interval over seeds; infinite for a single seed.
        says: ``steady``, ``grows``, ``shrinks`` or ``undecided``.
    """

    vertex: str
    measure: str
    exponent: float
    low: float
    high: float
    says: str


def coordinate_slopes(rows: Rows) -> list[Slope]:
    """Of every vertex, how its size at the start and its change after the last steps go with n.

    What is 0 at some lift, as a readout that starts at nothing, has no slope, nor has a study of one lift.

    Returns:
        One for each vertex and quantity that has a slope, in the order of the graph.
    """
    found = []
    if len(rows):
        last = rows["step"].max()
        for vertex, part in rows.by("vertex").items():
            for measure, step in (("size", 0.0), ("change", last)):
                slope = _slope(part.where(part["step"] == step), vertex, measure)
                found += [] if slope is None else [slope]
    return found


def passes(slopes: list[Slope]) -> str:
    """``pass`` if all are steady, ``fail`` if one surely is not, else ``undecided``."""
    said = {slope.says for slope in slopes}
    return "fail" if said & {"grows", "shrinks"} else "pass" if said == {"steady"} else "undecided"


def _slope(rows: Rows, vertex: str, measure: str) -> Slope | None:
    slopes = []
    for part in rows.by("seed").values():
        lifts, sizes = part["lift"].astype(float), part[measure]
        if len(set(lifts)) < 2 or not (np.isfinite(sizes) & (sizes > 0)).all():
            return None
        slopes.append(float(np.polyfit(np.log(lifts), np.log(sizes), 1)[0]))
    middle, half = float(np.mean(slopes)), math.inf
    if len(slopes) > 1:
        spread = float(np.std(slopes, ddof=1)) / math.sqrt(len(slopes))
        half = float(stdtrit(len(slopes) - 1, (1 + _LEVEL) / 2)) * spread
    low, high = middle - half, middle + half
    says = "grows" if low > STEADY else "shrinks" if high < -STEADY else "undecided"
    return Slope(vertex, measure, middle, low, high, "steady" if max(-low, high) <= STEADY else says)


@dataclass(frozen=True)
class Kernel:
    """Medians over the seeds of one lift, at one end of training.

    Args:
        lift: its degree.
        place: ``start`` or ``end``.
        loss: half the mean squared distance from the targets.
        trace: sum of the kernel's eigenvalues.
        effective_rank: how many directions it has, in effect.
        alignment: with the targets, at most 1.
    """

    lift: int
    place: str
    loss: float
    trace: float
    effective_rank: float
    alignment: float


def kernels(rows: Rows) -> list[Kernel]:
    """Of every lift, at the start and at the last point of each run."""
    found = []
    for lift, part in rows.by("lift").items() if len(rows) else ():
        for place, chosen in (("start", part.where(part["place"] == "start")), ("end", ends_of(part))):
            first = chosen.where(chosen["rank"] == 1)
            if len(first):
                names = ("loss", "trace", "effective_rank", "alignment")
                found.append(Kernel(int(lift), place, *(quantile(first[name], 0.5) for name in names)))
    return found


def spectra_of(rows: Rows) -> dict[str, Rows]:
    """The rows at both ends of training, of ranks that every run of a lift has, ``start`` first."""
    found = {"start": rows.where(rows["place"] == "start"), "end": ends_of(rows)} if len(rows) else {}
    for end, chosen in found.items():
        shared = np.zeros(len(chosen), dtype=bool)
        for lift, part in chosen.by("lift").items():
            runs = len(part.by("run"))
            common = [rank for rank, group in part.by("rank").items() if len(group) == runs]
            shared |= (chosen["lift"] == lift) & np.isin(chosen["rank"], common)
        found[end] = chosen.where(shared)
    return found


def ends_of(rows: Rows) -> Rows:
    """The rows of each run's last point."""
    last = {run: part["step"].max() for run, part in rows.by("run").items()}
    return rows.where(rows["step"] == np.array([last[run] for run in rows["run"].tolist()]))


def check_content(coordinates: Rows, ntk: Rows) -> dict[str, Any]:
    """What ``verdict.json`` says of both, each if it was measured."""
    content: dict[str, Any] = {}
    slopes, spectra = coordinate_slopes(coordinates), kernels(ntk)
    if slopes:
        content["coordinates"] = {
            "says": passes(slopes),
            "slopes": {
                f"{slope.vertex} {slope.measure}": [slope.exponent, slope.low, slope.high, slope.says]
                for slope in slopes
            },
        }
    if spectra:
        content["ntk"] = {
            f"{one.lift} {one.place}": {
                "loss": one.loss,
                "trace": one.trace,
                "effective_rank": one.effective_rank,
                "alignment": one.alignment,
            }
            for one in spectra
        }
    return content


def check_reasons(coordinates: Rows, ntk: Rows) -> list[str]:
    """A sentence on each, if it was measured."""
    reasons = []
    slopes, spectra = coordinate_slopes(coordinates), kernels(ntk)
    if slopes:
        moved = [slope for slope in slopes if slope.says in ("grows", "shrinks")] or slopes
        told = ", ".join(
            f"{one.measure} at {one.vertex} n^{one.exponent:.2f} [{one.low:.2f}, {one.high:.2f}]" for one in moved
        )
        said = {"pass": "passes", "fail": "fails", "undecided": "is undecided"}[passes(slopes)]
        reasons.append(f"The coordinate check {said} (steady: exponents within {STEADY:g} of 0): {told}.")
    if spectra:
        small, large = (
            {one.place: one for one in spectra if one.lift == lift} for lift in (spectra[0].lift, spectra[-1].lift)
        )
        told = "; ".join(
            f"n = {start.lift}: effective rank {start.effective_rank:.3g} to {end.effective_rank:.3g}, alignment "
            f"{start.alignment:.2g} to {end.alignment:.2g}, loss {start.loss:.2g} to {end.loss:.2g}"
            for start, end in (
                (pair["start"], pair["end"]) for pair in ((small, large) if small != large else (small,))
            )
        )
        reasons.append(f"The tangent kernel from the start of training to its end, medians: {told}.")
    return reasons
