"""What a running study shows: the plan, then two bars on a terminal, or one line per finished batch in a file."""

import math
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from tqdm import auto, autonotebook, std, tqdm

from rsl_cli.diagnostics.probes import PROBES, Limit
from rsl_cli.lift import is_dense
from rsl_cli.study.costs import effort
from rsl_cli.study.forecast import Forecast
from rsl_cli.study.plan import RunBatch, StudyPlan
from rsl_cli.study.spec import StudySpec
from rsl_cli.train.trajectory import FINAL
from rsl_cli.waiting import Waiting

_ENDS = {
    "stationary": "at rest",
    "target": "at the loss it was asked for",
    "time": "when the flow time was over",
    "budget": "when the steps ran out",
    "stalled": "where float64 resolves no step",
    "diverged": "when it diverged",
}
"""How a run ended, by its record's stop reason."""
_PAUSE = 10.0
"""Seconds between two lines on a running batch."""


def say(text: str, *, error: bool = False) -> None:
    """Print lines; where nobody reads any more, go on in silence: runs matter more than words about them.

    Args:
        text: the lines.
        error: to standard error instead of standard output.
    """
    stream = sys.stderr if error else sys.stdout
    try:
        print(text, file=stream, flush=True)
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Display:
    """Shows a study's progress on standard error, its plan on standard output; use as a context manager.

    On a terminal, and in a notebook that has widgets, two bars: the study, by cost, and the running batch; else lines.
    """

    def __init__(self) -> None:
        # In a notebook that has widgets another class.
        self._live = sys.stderr.isatty() or autonotebook.tqdm is not std.tqdm
        self._study: tqdm[Any] | None = None
        self._item: tqdm[Any] | None = None
        self._total = self._done = 0
        self._last: tuple[StudySpec, StudyPlan] | None = None
        self._forecast = Forecast({}, 1)
        self._started = self._said = time.monotonic()
        self._waiting: Waiting | None = None

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *_: object) -> None:
        self._heard()
        for bar in (self._item, self._study):
            if bar is not None:
                bar.close()

    def say(self, text: str) -> None:
        """Print a line between rounds, and end the bars of the one before."""
        self.__exit__()
        self._study = self._item = None
        print(f"-- {text}", flush=True)

    def plan(self, spec: StudySpec, plan: StudyPlan) -> None:
        """Print what will be done and what is done already."""
        data, base = spec.data, spec.base
        limit = data.samples * data.outputs
        done = {
            lift: sum(k.lift == lift for k in plan.keys) - sum(k.lift == lift for k in plan.missing)
            for lift in spec.lifts
        }
        degree = f", in-degree {spec.lifting.in_degree:g}" if spec.lifting.in_degree is not None else ""
        sizes = f"{data.samples} training samples, {len(data.x_test)} held out"
        manner = ", by autograd, a run at a time" if spec.trainer.alone else ""
        lines = [
            f"study {spec.name} in {spec.store.address}",
            f"  base {base.name} ({', '.join(edge.name for edge in base.edges)}), lifting {spec.lifting.kind}{degree}",
            f"  data {data.name}: {sizes}; loss {spec.loss.name}",
            f"  trainer {spec.trainer.label}{manner}, parametrization {spec.config['parametrization']}, "
            f"device {spec.device}",
            *(f"  {note}" for note in (*spec.notes, *data.notes)),
            f"  {'lift':>8} {'P':>10} {'P/(N outputs)':>14} {'seeds':>6} {'done':>6}",
        ]
        for lift in spec.lifts:
            parameters = plan.parameters[lift]
            marks = ["overparametrised"] * (parameters >= limit)
            marks += ["dense, not sparse"] * is_dense(base, lift, spec.lifting)
            share = parameters / limit
            line = f"  {lift:>8} {parameters:>10} {share:>14.4f} {len(spec.seeds):>6} {done[lift]:>6}"
            lines.append(f"{line}  {', '.join(marks)}".rstrip())
        lines += [*_unmeasured(spec, plan), *_way(spec, plan)]
        if not plan.missing:
            say("\n".join([*lines, f"nothing to do: all {len(plan.keys)} runs are done"]))
            return
        self._last = (spec, plan)
        say("\n".join([*lines, f"{len(plan.to_do)} of {len(plan.keys)} runs to do"]))
        self._total, self._done = len(plan.to_do), 0
        costs = {lift: effort(spec, lift) for lift in spec.lifts}
        # What is carried further takes another time than what was carried there.
        anew = not any(key in plan.stands for key in plan.to_do)
        before = {costs[lift]: seconds for lift, seconds in plan.took.items() if anew}
        self._forecast = Forecast(
            {key: costs[key.lift] for key in plan.to_do}, spec.executor.workers, spec.trainer.pace, before
        )
        if self._live:
            form = "{desc} {percentage:3.0f}%|{bar}| {postfix} [{elapsed}]"
            self._study = auto.tqdm(total=1.0, desc="study", position=0, bar_format=form)
            self._item = auto.tqdm(total=1, desc="starting", unit="step", position=1, leave=False)
        else:
            self._waiting = Waiting(spec.executor.beginning(self._total))

    def progress(self, batch: RunBatch, step: int, steps: int, loss: float) -> None:
        """Move the running batch's bar; in a file, say once in ten seconds where it is."""
        label = f"lift {batch.lifts} x {len(batch.keys)}"
        self._heard()
        self._forecast.moved(batch.keys, step / steps if steps else 1.0)
        if self._item is not None:
            self._item.set_description(label, refresh=False)
            self._item.total = steps
            self._item.set_postfix_str(f"loss {loss:.2e}", refresh=False)
            self._item.n = step
            self._item.refresh()
            self._move()
        elif time.monotonic() - self._said > _PAUSE:
            self._said = time.monotonic()
            self._say(f"{label}: step {step} of {steps}, loss {loss:.2e}")

    def finished(self, batch: RunBatch, outcome: Mapping[str, str]) -> None:
        """Count a batch's runs."""
        self._heard()
        self._done += len(outcome)
        self._forecast.ended(batch.keys)
        if self._study is not None:
            self._move()
        else:
            failed = sum(state == "failed" for state in outcome.values())
            self._say(f"lift {batch.lifts}: {len(outcome) - failed} done" + (f", {failed} failed" if failed else ""))

    def first(self) -> str:
        """What the first run of a study tells of the rest; nothing if there was none, or it failed."""
        spec, plan = self._last or (None, None)
        record = spec.store.record(plan.to_do[0]) if spec and plan else None
        if spec is None or plan is None or record is None or not record.done:
            return ""
        key, loss = plan.to_do[0], record.test_loss
        loss = record.train_loss if loss is None else loss
        end, left = _ENDS[record.stop_reason or "time"], len(plan.missing) - 1
        return (
            f"lift {key.lift}, seed {key.seed}: ended after {record.wall_seconds or 0.0:.1f} s, {end}, at loss "
            f"{math.nan if loss is None else loss:.3g}; {left} runs are left for the same line without --first"
        )

    def _heard(self) -> None:
        if self._waiting is not None:
            self._waiting.over()

    def _move(self) -> None:
        assert self._study is not None
        left = _left(self._forecast.remaining())
        self._study.set_postfix_str(f"{self._done}/{self._total} runs{left}", refresh=False)
        self._study.n = self._forecast.share
        self._study.refresh()

    def _say(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        left = _left(self._forecast.remaining())
        of = f"/{self._total}" if self._total else ""  # A pilot does not know how many it will find.
        say(f"[{self._done}{of} runs, {seconds:.0f} s{left}] {text}", error=True)


def _left(seconds: float | None) -> str:
    """How long a study will still take, in two figures at most; nothing where that is not known, or no time."""
    if seconds is None or seconds < 1:
        return ""
    for unit, size in (("h", 3600), ("min", 60), ("s", 1)):
        if seconds >= 2 * size or size == 1:
            return f", about {float(f'{seconds / size:.2g}'):g} {unit} left"
    raise AssertionError


def _unmeasured(spec: StudySpec, plan: StudyPlan) -> Iterator[str]:
    """Which lifts kappa and the tangent kernel are not measured at, and what has them measured."""
    tangent, limits = spec.diagnostics.tangent, []
    if tangent is not None:
        limits.append(("kappa", tangent.largest, "theory.tangent.largest=null"))
    for probe in spec.diagnostics.probes:
        limit = getattr(PROBES.find(probe.target), "limit", None)
        if isinstance(limit, Limit):
            remedy = f"'theory.probes=[{{target:{probe.target},arguments:{{largest:null}}}}]'"
            limits.append((limit.what, probe.origin.arguments.get("largest", limit.largest), remedy))
    for what, largest, remedy in limits:
        large = [lift for lift in spec.lifts if largest is not None and plan.parameters[lift] > largest]
        if large:
            first = f"from lift {large[0]} on" if large[0] < large[-1] else f"at lift {large[0]}"
            yield (
                f"{what} is not measured {first}, P being more than {largest:,}; {remedy} measures it, at a cost "
                "like P^3"
            )


def _way(spec: StudySpec, plan: StudyPlan) -> Iterator[str]:
    """What is carried on, from where to where, and what stands elsewhere than it is asked for."""
    if not spec.trainer.horizon:
        return
    name = spec.trainer.horizon[0]
    clock = "t" if spec.trainer.facts.clock == "time" else "step"
    ends = {lift: getattr(spec.trainer_of(lift), name) for lift in spec.lifts}
    for end in sorted(set(ends.values())):
        keys = [key for key in plan.stands if ends[key.lift] == end]
        at = {key: plan.stands[key].time if clock == "t" else plan.stands[key].step for key in keys}
        going = [key for key in keys if key in plan.missing]
        if going:
            first, last = (_short(pick(at[key] for key in going)) for pick in (min, max))
            begin = first if first == last else f"{first}..{last}"
            yield f"continue {len(going)} runs from {clock} = {begin} to {_short(end)}"
        anew = [key for key in going if clock == "t" and not spec.store.can_resume(key)]
        if anew:
            yield f"  {len(anew)} of them have no saved state: their integrator begins anew where they stand"
        beyond = [key for key in keys if at[key] > end * (1 + 1e-9)]
        if beyond:
            yield f"{len(beyond)} runs stand beyond {clock} = {_short(end)}, up to {_short(max(at[k] for k in beyond))}"
        early = [key for key in keys if plan.stands[key].reason in FINAL and at[key] < end]
        if early:
            yield f"{len(early)} runs ended before {clock} = {_short(end)} for good: stationary, stalled or diverged"


def _short(number: float) -> str:
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{number:.3g}")
