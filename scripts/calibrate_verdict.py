"""Studies whose truth is planted, judged by the code that judges real ones: how often is the verdict right, or false?

Each case draws limits of lifts by a law, noise between seeds, and training curves that approach the limits on a clock;
records and trajectories go through `rsl_cli.report.read.assemble` as files would. A verdict that says neither what is
true nor the contrary abstains. By hand: ``python scripts/calibrate_verdict.py --draws 1000``; beside it, what the
rules of an earlier version say of the same draws: ``git worktree add /tmp/before 93a0475``, then
``--before /tmp/before``.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rsl_cli.report.judgement import Judgement, judge_views
from rsl_cli.report.read import assemble
from rsl_cli.report.runs import StudyRuns
from rsl_cli.rng import generator
from rsl_cli.study.record import Record, RunKey

Array = np.ndarray
LIFTS = (8, 16, 32, 64, 128, 256)
LONG = (*LIFTS, 512)
T_END = 1e8
ABSTAIN = ("unfinished", "inconclusive")


@dataclass(frozen=True)
class Case:
    """A planted truth.

    Args:
        name: in words.
        law: P (lifts,) -> limits (lifts,).
        right: verdicts that are true of it; every other but the abstaining ones is false.
        noise: standard deviation of log loss between the seeds of a lift, or one for each lift.
        draw: shape of the noise.
        clock: (P, limit) -> size at t = 1 of what has still to fall, as a multiple of t^-p.
        p: exponent of the approach; 0: logarithmic.
        trainer: ``flow``, or ``adam`` without a clock.
        obvious: whether the right verdict is to be found at least 95 times in 100.
        held_out: law of the held-out limits, where it is another.
        change: what happens to each draw's limits (seeds, lifts), stuck seeds for instance.
        exponent: true exponent, where one law holds.
        floor: true floor.
        lose: shares of runs that are missing and diverged.
        lifts: degrees.
        epsilon: training loss at which a run ends.
    """

    name: str
    law: Callable[[Array], Array]
    right: tuple[str, ...]
    noise: float | Sequence[float] = 0.1
    draw: str = "normal"
    clock: Callable[[Array, Array], Array] = field(default=lambda params, limit: 1e2 * limit)
    p: float = 1.0
    trainer: str = "flow"
    obvious: bool = False
    held_out: Callable[[Array], Array] | None = None
    change: Callable[[np.random.Generator, Array], Array] | None = None
    exponent: float | None = None
    floor: float | None = None
    lose: tuple[float, float] = (0.0, 0.0)
    lifts: tuple[int, ...] = LIFTS
    epsilon: float | None = None


def power(b: float, size: float = 1e-2) -> Callable[[Array], Array]:
    """Limits size (P / 105)^-b."""
    return lambda params: size * (params / 105.0) ** -b


def floored(b: float, floor: float, size: float = 1e-2) -> Callable[[Array], Array]:
    """The same above a floor."""
    return lambda params: floor + size * (params / 105.0) ** -b


def _steeper(params: Array) -> Array:
    x = np.log(params / 105.0)
    return 1e-2 * np.exp(-0.5 * x - 0.4 * x**2)


def _broken(first: float, second: float, at: float = 800.0) -> Callable[[Array], Array]:
    return lambda params: (
        1e-2 * np.where(params < at, (params / 105.0) ** -first, (at / 105.0) ** -first * (params / at) ** -second)
    )


def _u_shape(params: Array) -> Array:
    return 1e-2 * np.array([1, 0.25, 0.063, 0.016, 0.032, 0.064])[: params.size]


def _threshold(params: Array) -> Array:
    return np.where(params < 300, 0.1, 1e-6)


def _stuck(shares: Sequence[float]) -> Callable[[np.random.Generator, Array], Array]:
    def change(random: np.random.Generator, limits: Array) -> Array:
        lost = random.random(limits.shape) < np.array(shares)[: limits.shape[1]]
        return np.where(lost, 0.1 * np.exp(0.1 * random.standard_normal(limits.shape)), limits)

    return change


def _zeros(random: np.random.Generator, limits: Array) -> Array:
    return np.where(np.arange(limits.shape[1]) >= limits.shape[1] - 3, 0.0, limits)


def clocked(kappa: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    """Loss kappa(P) / (4 t) above the limit."""
    return lambda params, limit: kappa(params) / 4


_constant, _falling, _rising = (clocked(lambda P, b=b: 40 * (P / 105.0) ** b) for b in (0.0, -0.5, 0.5))

CASES = (
    *(
        Case(f"power law, b = {b:g}", power(b), ("falls",), exponent=b, obvious=b >= 1)
        for b in (0.1, 0.3, 0.5, 1, 2, 4, 8)
    ),
    Case("power law, b = 1, noise 0.5", power(1), ("falls",), noise=0.5, exponent=1),
    Case("power law, b = 4, noise 1", power(4), ("falls",), noise=1.0, exponent=4),
    Case("steeper than a power law", _steeper, ("falls",), obvious=True),
    Case("broken law, 2 then 0.5", _broken(2, 0.5), ("falls",), obvious=True),
    Case("broken law, 0.5 then 3", _broken(0.5, 3), ("falls",), obvious=True),
    Case("two powers", lambda P: power(3)(P) + power(0.4, 1e-4)(P), ("falls",)),
    Case("1 / log(P)^2", lambda P: np.log(P) ** -2.0, ("falls",), noise=0.02),
    Case("early floor", floored(4, 2e-3), ("plateaus",), obvious=True, floor=2e-3, exponent=4, lifts=LONG),
    Case("early floor, noise 0.5", floored(3, 1e-3), ("plateaus",), noise=0.5, floor=1e-3, exponent=3, lifts=LONG),
    Case("slow approach to a floor", floored(1, 2e-3), ("plateaus", "falls"), floor=2e-3, exponent=1, lifts=LONG),
    Case("floor seen at three lifts", floored(3, 1e-4), ("plateaus",), noise=0.03, floor=1e-4, exponent=3),
    Case("level in the last two lifts", lambda P: np.maximum(power(1)(P), power(1)(1.0 * P[-2])), ()),
    Case("late floor, a fifth of the last loss", floored(1, 5e-5), ("falls",)),
    Case("flat", power(0), ("plateaus",), obvious=True),
    Case("flat, noise 0.5", power(0), ("plateaus",), noise=0.5),
    Case("rising, b = -0.5", power(-0.5), ("rises",), obvious=True),
    Case("U-shape", _u_shape, ("rises",), obvious=True),
    Case("U-shape, noise 0.4", _u_shape, ("rises",), noise=0.4),
    Case("threshold, then level", _threshold, ("plateaus",), obvious=True, lifts=LONG),
    Case("30 % of the seeds stuck", power(2), (), change=_stuck([0.3] * 6)),
    Case("stuck share falls to none", power(2), ("falls",), change=_stuck([0.8, 0.4, 0.2, 0.1, 0, 0])),
    Case(
        "stuck share falls, the rest level",
        power(0, 2e-6),
        ("falls", "plateaus"),
        change=_stuck([0.8, 0.4, 0.2, 0.1, 0, 0]),
    ),
    *(
        Case(f"clock: limits b = {b}, kappa {name}, p = {p:g}", power(b), ("falls",), clock=clock, p=p)
        for b in (2, 6)
        for name, clock in (("constant", _constant), ("falling", _falling), ("rising", _rising))
        for p in (1.0, 0.5, 0.0)
    ),
    Case("clock hides a floor, kappa falling", floored(6, 1e-9), ("plateaus",), clock=_falling),
    Case("clock hides a floor, kappa constant", floored(6, 1e-9), ("plateaus",), clock=_constant),
    Case("clock hides flat limits", power(0, 1e-9), ("plateaus",), clock=_falling),
    Case("the trainer's noise floor", lambda P: np.maximum(power(3)(P), 1e-4), ("falls",), trainer="adam"),
    Case(
        "held-out floor",
        power(2),
        ("plateaus",),
        held_out=floored(4, 2e-3),
        floor=2e-3,
        exponent=4,
        obvious=True,
        lifts=LONG,
    ),
    Case("heteroscedastic, b = 0.5", power(0.5), ("falls",), noise=(0.5, 0.4, 0.3, 0.2, 0.1, 0.05), exponent=0.5),
    Case(
        "heteroscedastic the other way, floor",
        floored(3, 1e-3),
        ("plateaus",),
        floor=1e-3,
        exponent=3,
        noise=(0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    ),
    Case("heavy tails, b = 1", power(1), ("falls",), draw="t3", noise=0.2, exponent=1),
    Case("heavy tails, floor", floored(3, 1e-3), ("plateaus",), floor=1e-3, exponent=3, draw="t3", noise=0.2),
    Case("missing and diverged runs", power(2), ("falls",), lose=(0.1, 0.03)),
    Case("missing and diverged runs, floor", floored(3, 1e-3), ("plateaus",), floor=1e-3, exponent=3, lose=(0.1, 0.03)),
    Case("zeros at the last lifts", power(2), ("falls",), change=_zeros),
    Case("a target is reached, b = 3", power(3), ("falls",), epsilon=1e-5, obvious=True),
    Case("a target is reached, kappa constant", power(6), ("falls",), epsilon=1e-6, clock=_constant),
    Case("a floor below the target", floored(4, 1e-6), ("falls",), epsilon=1e-5),
    Case("a floor above the target", floored(4, 2e-3), ("plateaus",), epsilon=1e-3, lifts=LONG, floor=2e-3, exponent=4),
    Case("every run stops at the target", power(2), ("falls",), epsilon=0.1),
    Case("flat, at the target", power(0, 1e-3), ("plateaus",), epsilon=1e-3),
    Case(
        "held-out floor above a target that is reached",
        power(3),
        ("plateaus",),
        epsilon=1e-5,
        held_out=floored(4, 2e-3),
        lifts=LONG,
        floor=2e-3,
        exponent=4,
    ),
)


def case_of(name: str) -> Case:
    """The case of a name."""
    return next(case for case in CASES if case.name == name)


def draw_study(case: Case, seeds: int, random: np.random.Generator) -> tuple[StudyRuns, Array]:
    """Draw one study of a case; also its true limits (seeds, lifts) on training data."""
    params = np.array([13.0 * lift + 1 for lift in case.lifts])
    shape = (seeds, len(case.lifts))
    deviate = random.standard_t(3, shape) if case.draw == "t3" else random.standard_normal(shape)
    factor = np.exp(np.broadcast_to(case.noise, shape) * deviate)
    limits = case.law(params) * factor
    held = (case.held_out or case.law)(params) * factor * 1.1
    if case.change is not None:
        before = limits
        limits = case.change(random, limits)
        held = np.where(limits == before, held, 1.1 * limits)
    times = np.concatenate([[0.0], 10.0 ** np.arange(-2, math.log10(T_END) + 0.01, 0.25)])
    pace = np.exp(0.1 * random.standard_normal(shape))
    laws = case.law, case.held_out or case.law
    sizes = [case.clock(params, law(params)) * pace for law in laws]
    lost, diverged = (random.random(shape) < share for share in case.lose)
    parts = []
    for seed in range(seeds):
        for i, lift in enumerate(case.lifts):
            key = RunKey(lift, seed, f"{lift:08x}{seed:08x}")
            if lost[seed, i]:
                parts.append((key, None, None))
                continue
            ends = zip((limits[seed, i], held[seed, i]), sizes, strict=True)
            curves = [_curve(times, value, size[seed, i], case.p, random) for value, size in ends]
            reached = np.flatnonzero(curves[0] <= (case.epsilon or -1.0))
            count = reached[0] + 1 if reached.size else times.size
            curves = [curve[:count] for curve in curves]
            record = _record(case, key, params[i], curves, bool(diverged[seed, i]), times[count - 1], reached.size > 0)
            parts.append((key, record, _frame(times[:count], curves)))
    config = {"trainer": {"name": case.trainer, "schedule": "cosine"}}
    return assemble("planted", {"config": config}, parts), limits


def _curve(times: Array, limit: float, size: float, p: float, random: np.random.Generator) -> Array:
    with np.errstate(divide="ignore"):
        rest = 0.01 * size / np.log(times + math.e) if p == 0 else size * (1 + times) ** -p
    smooth = np.exp(1e-4 * random.standard_normal(times.size))
    return np.minimum(limit + rest, 0.5) * smooth if limit > 0 else np.append(rest[:-1], 0.0)


def _record(
    case: Case, key: RunKey, params: float, curves: Sequence[Array], diverged: bool, end: float, target: bool
) -> Record:
    train, test = (None if diverged else float(curve[-1]) for curve in curves)
    flow = case.trainer == "flow"
    reason = "diverged" if diverged else "target" if target else "time" if flow else "budget"
    return Record(
        run_id=key.run_id, lift=key.lift, seed=key.seed, status="done", trainer=case.trainer, params=round(params),
        samples=16384, outputs=1, steps=1000, train_loss=train, test_loss=test, flow_time=end if flow else None,
        resolution=1e-30, stop_reason=reason, wall_seconds=1.0,
    )  # fmt: skip


def _frame(times: Array, curves: Sequence[Array]) -> dict[str, Array]:
    return {"step": np.arange(times.size), "time": times, "loss": curves[0], "test_loss": curves[1]}


@dataclass
class Tally:
    """What was said of one case."""

    verdicts: Counter[str] = field(default_factory=Counter)
    exponent: list[bool] = field(default_factory=list)
    floor: list[bool] = field(default_factory=list)
    limit: list[bool] = field(default_factory=list)

    def add(self, case: Case, judged: Judgement, runs: StudyRuns, limits: Array) -> None:
        """Count one draw."""
        self.verdicts[judged.verdict] += 1
        law = judged.law
        if law is not None and case.exponent is not None and (case.floor is None) == (law.floor is None):
            self.exponent.append(law.exponent_ci[0] <= case.exponent <= law.exponent_ci[1])
        if law is not None and law.floor_ci is not None:
            true = 1.1 * (case.floor or 0.0)
            self.floor.append(law.floor_ci[0] <= true <= law.floor_ci[1])
        for run in runs.done:
            if not run.diverged:
                place = run.key.seed, case.lifts.index(run.key.lift)
                # The curves carry a relative noise of 1e-4 of their own.
                low, high = run.train_limit.low * (1 - 1e-3), run.train_limit.high * (1 + 1e-3)
                self.limit.append(bool(low <= limits[place] <= high))


def calibrate(case: Case, seeds: int, draws: int, seed: int = 0) -> Tally:
    """Judge many draws of a case."""
    random, tally = generator(seed, f"calibrate/{case.name}/{seeds}"), Tally()
    for _ in range(draws):
        runs, limits = draw_study(case, seeds, random)
        tally.add(case, judge_views(runs).headline, runs, limits)
    return tally


_JUDGE_BEFORE = """
import sys
import numpy as np
from rsl_cli.report.judgement import judge
from rsl_cli.report.runs import Table
arrays = np.load(sys.argv[1])
for i in range(int(sys.argv[2])):
    names = "lifts", "seeds", "params", "losses", "resolution", "present"
    table = {name: arrays[f"{i}/{name}"] for name in names}
    table |= {name: tuple(table[name].tolist()) for name in ("lifts", "seeds")}
    print(judge(Table(**table)).verdict)
"""


def judge_before(checkout: str, studies: Sequence[StudyRuns]) -> Counter[str]:
    """Verdicts of the rules in a checkout that takes tables of losses (before runs had limits)."""
    arrays = {}
    for i, runs in enumerate(studies):
        table = runs.table(runs.headline)
        arrays |= {f"{i}/{name}": getattr(table, name) for name in ("lifts", "seeds", "params", "losses", "present")}
        arrays[f"{i}/resolution"] = np.full(table.losses.shape, 1e-30)
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, **arrays)
        file.flush()
        command = [sys.executable, "-W", "ignore", "-c", _JUDGE_BEFORE, file.name, str(len(studies))]
        return Counter(subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True).stdout.split())


def compare(checkout: str, seeds: int, draws: int, only: str) -> None:
    """Print right, abstaining and false shares of an earlier version's rules beside today's, over the same draws."""
    print("| case | seeds | before: right % | abstains % | false % | now: right % | abstains % | false % |")
    print("| --- " * 8 + "|")
    for case in (case for case in CASES if only in case.name):
        random = generator(0, f"calibrate/{case.name}/{seeds}")
        studies = [draw_study(case, seeds, random)[0] for _ in range(draws)]
        shares = []
        for verdicts in (judge_before(checkout, studies), Counter(judge_views(s).headline.verdict for s in studies)):
            right, abstains = (sum(verdicts[name] for name in names) for names in (case.right, ABSTAIN))
            shares += [f"{100 * count / draws:.0f}" for count in (right, abstains, draws - right - abstains)]
        print(f"| {case.name} | {seeds} | {' | '.join(shares)} |", flush=True)


def main() -> int:
    """Print the table; exit 1 if any case has more than one false verdict in a hundred."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="*", default=[3, 5, 10])
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--before", help="a checkout of an earlier version, whose rules judge the same draws")
    arguments = parser.parse_args()
    if arguments.before:
        for seeds in arguments.seeds:
            compare(arguments.before, seeds, arguments.draws, arguments.only)
        return 0
    print("| case | seeds | right % | abstains % | false % | exponent covered % | floor covered % | limits covered % |")
    print("| --- " * 8 + "|")
    worst, start = 0.0, time.monotonic()
    for case in (case for case in CASES if arguments.only in case.name):
        for seeds in arguments.seeds:
            tally = calibrate(case, seeds, arguments.draws)
            right = sum(tally.verdicts[verdict] for verdict in case.right)
            abstains = sum(tally.verdicts[verdict] for verdict in ABSTAIN)
            false = arguments.draws - right - abstains
            worst = max(worst, false / arguments.draws)
            covered = [f"{100 * np.mean(part):.1f}" if len(part) >= arguments.draws / 10 else ""
                       for part in (tally.exponent, tally.floor, tally.limit)]  # fmt: skip
            shares = [f"{100 * count / arguments.draws:.1f}" for count in (right, abstains, false)]
            weak = " (weak)" if case.obvious and right < 0.95 * arguments.draws and seeds >= 5 else ""
            print(f"| {case.name} | {seeds} | {shares[0]}{weak} | {' | '.join([*shares[1:], *covered])} |", flush=True)
    print(f"\nworst share of false verdicts: {100 * worst:.1f} %; {time.monotonic() - start:.0f} s")
    return int(worst > 0.01)


if __name__ == "__main__":
    sys.exit(main())
