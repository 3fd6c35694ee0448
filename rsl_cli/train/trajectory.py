"""What every trainer returns: a trajectory sampled at log-spaced steps, and why it ended."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from rsl_cli.train.checkpoint import Saved

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

STOP_REASONS = ("stationary", "target", "time", "budget", "stalled", "diverged")
"""Why training ended: nothing left to gain; the loss asked for reached; the flow time asked for reached; out of steps;
no step that float64 resolves, or no solvable one; a loss that is not finite."""

FINAL = ("stationary", "stalled", "diverged")
"""Those after which no further time or steps would change anything; all others end where they were asked to."""


class Row(NamedTuple):
    """One sample of a trajectory.

    Args:
        step: steps taken.
        time: flow time; NaN if the trainer is no flow.
        loss: on the training set.
        test_loss: on the held-out set.
        grad_norm: of the training loss's full gradient.
        distance: |theta - theta_0|.
        dissipation: |grad L|^2 / (-dL/dt), which is 1 on a gradient flow; NaN at the start, where the loss
            hardly falls any more, where rounding of the parameters hides the gradient, and if the trainer is no flow.
        least_curvature: the least eigenvalue of the loss's Hessian, times flow time: below 0 a flow that seems at rest
            is at a saddle, which it leaves. NaN where it was not taken: where the losses fall, or P is large.
    """

    step: int
    time: float
    loss: float
    test_loss: float
    grad_norm: float
    distance: float
    dissipation: float = math.nan
    least_curvature: float = math.nan


COLUMNS = Row._fields
"""Columns of a trajectory."""
LATER = tuple(Row._field_defaults)
"""Those that runs of earlier versions did not record: NaN there."""


@dataclass(frozen=True)
class Stand:
    """How far a run has come.

    Args:
        reason: why it ended there, one of `STOP_REASONS`.
        step: steps taken.
        time: flow time, NaN where there is none.
        loss: on the training set; NaN if it diverged.
    """

    reason: str
    step: int
    time: float
    loss: float

    def reaches(self, max_steps: int, epsilon: float | None) -> bool:
        """Whether it went as far as these bounds let it, or for good."""
        spent = self.step > max_steps or (self.reason == "budget" and self.step == max_steps)
        return self.reason in FINAL or spent or (epsilon is not None and self.loss <= epsilon)


@dataclass(frozen=True)
class Trajectory:
    """Samples of one replica's training, by increasing step."""

    rows: tuple[Row, ...]

    def to_frame(self) -> "pd.DataFrame":
        """The samples as a table with the columns of `COLUMNS`."""
        import pandas as pd

        return pd.DataFrame(list(self.rows), columns=pd.Index(COLUMNS))

    @property
    def last(self) -> dict[str, float]:
        """The final sample by column."""
        return self.rows[-1]._asdict()

    def log_slope(self) -> float:
        """Slope d log loss / d log t over the last halving of flow time, or of steps if there is none; or NaN."""
        end = self.rows[-1]
        clock = [row.time if math.isfinite(end.time) else row.step for row in self.rows]
        before = [(at, row.loss) for at, row in zip(clock, self.rows, strict=True) if 0 < at <= clock[-1] / 2]
        if not before or not (end.loss > 0 and before[-1][1] > 0 and math.isfinite(end.loss)):
            return math.nan
        return math.log(end.loss / before[-1][1]) / math.log(clock[-1] / before[-1][0])


@dataclass(frozen=True)
class TrainingResult:
    """How the training of one replica ended.

    Args:
        trajectory: its samples.
        stop_reason: one of `STOP_REASONS`.
        accuracy: share of held-out samples classified rightly; NaN for regression.
        relative_gradient: what share of the loss was left to gain, to first order: small at a stationary point, of
            order one where the trainer only stopped; see `rsl_cli.train.objective.relative_gradient`.
        state: final parameters by name, without the other replicas'.
        path: points on the way, where the trainer kept any.
        saved: what it can go on from; empty if it cannot.
        restarted_at: the flow time at which its integrator last began anew, for want of what it could go on from.
    """

    trajectory: Trajectory
    stop_reason: str
    accuracy: float
    relative_gradient: float
    state: "dict[str, Tensor]" = field(repr=False)
    path: "tuple[PathPoint, ...]" = field(default=(), repr=False)
    saved: Saved = field(default=({}, {}), repr=False)
    restarted_at: float | None = None


@dataclass(frozen=True)
class PathPoint:
    """Where training was: step, flow time (NaN if there is none), and the flat parameters (P,)."""

    step: int
    time: float
    parameters: "Tensor" = field(repr=False)


def log_spaced_steps(total: int, per_decade: int) -> list[int]:
    """0, then whole numbers about evenly spaced in the logarithm, then ``total``."""
    if total <= 0:
        return [0]
    count = max(2, round(per_decade * math.log10(total)) + 1)
    spaced: Iterable[float] = (total ** (i / (count - 1)) for i in range(count))
    return sorted({0, total, *(round(step) for step in spaced)})


def log_grid_steps(total: int, per_decade: int) -> list[int]:
    """0 and the whole numbers nearest to 10^(i / per_decade), up to ``total``: a larger total adds to them."""
    spaced = (round(10 ** (i / per_decade)) for i in range(math.ceil(per_decade * math.log10(max(total, 1))) + 1))
    return sorted({0, *(step for step in spaced if step <= total)})
