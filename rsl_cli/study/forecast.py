"""How long a study will still take: its runs' relative costs, corrected by how long runs like them have taken."""

import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

import numpy as np

_ELASTICITY = (0.3, 1.5)
"""Powers of the cost by which times may go from lift to lift: a part is the same for all, costs are misjudged."""
_TOLD = 0.03
"""Share of an item's seconds from which its pace says anything."""


Profile = list[tuple[float, float]]
"""Of an item: shares of its way, and what it had spent by then of the seconds it took; from 0 to 1, ascending."""


@dataclass
class _Going:
    """An item under way: its runs, when its worker was free for it, shares of its way with the time of each.

    A worker starts, imports and compiles before its first item, whose begin is then known by its pace alone: None.
    """

    keys: tuple[Hashable, ...]
    free: float | None
    path: list[tuple[float, float]]

    def began(self, spent: Callable[[float], float]) -> float:
        """When it was begun, given the share of its seconds that is spent at a share of its way."""
        if self.free is not None:
            return self.free
        (first, heard), (last, now) = self.path[0], self.path[-1]
        before, passed = spent(first), spent(last) - spent(first)
        return heard - (now - heard) * before / passed if passed > 0 else heard

    @property
    def share(self) -> float:
        """Share of its way that it has come."""
        return self.path[-1][0]

    def profile(self, began: float, end: float) -> Profile:
        """How its seconds were spent, given when it began and ended."""
        spent = max(end - began, 1e-9)
        return [(0.0, 0.0), *((share, max(at - began, 0.0) / spent) for share, at in self.path), (1.0, 1.0)]


class Forecast:
    """Watches items of a study begin, go on and end.

    Args:
        costs: of every run to do, in any one unit.
        workers: how many items are trained at once.
        power: of the share of an item's way, gives the share of its seconds until one has ended to learn it from.
        before: seconds that a run took another time, by its cost.
        clock: seconds.
    """

    def __init__(
        self,
        costs: Mapping[Hashable, float],
        workers: int,
        power: float = 1.0,
        before: Mapping[float, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._costs, self._clock = {key: max(cost, 1e-300) for key, cost in costs.items()}, clock
        self._before = {max(cost, 1e-300): seconds for cost, seconds in (before or {}).items() if seconds > 0}
        self._waiting = dict.fromkeys(costs)
        self._made = clock()
        self._free: list[float | None] = [None] * max(1, workers)
        self._going: dict[tuple[Hashable, ...], _Going] = {}
        self._taken: dict[float, list[float]] = {}  # Seconds of a run, by its cost.
        self._profile: Profile = [(i / 32, (i / 32) ** power) for i in range(33)]

    @property
    def share(self) -> float:
        """Share of the work that is done, by cost."""
        done = sum(self._costs[key] for key in self._costs if key not in self._waiting)
        done -= sum((1 - going.share) * self._cost(going.keys) for going in self._going.values())
        return done / sum(self._costs.values()) if self._costs else 1.0

    def moved(self, keys: Sequence[Hashable], share: float) -> None:
        """An item is under way.

        Args:
            keys: its runs.
            share: of its way that it has come, 0 to 1.
        """
        going = self._begun(tuple(keys), share)
        if going is not None and share > going.share:
            going.path.append((share, self._clock()))

    def ended(self, keys: Sequence[Hashable]) -> None:
        """An item has ended; one of which nothing was heard before has begun when a worker was last free."""
        going = next((one for one in self._going.values() if {*keys} < {*one.keys}), None)
        if going is not None:  # Its worker died, and its runs were tried again one by one.
            del self._going[going.keys]
            going.keys = tuple(key for key in going.keys if key not in keys)
            self._going[going.keys] = going
            return
        going = self._begun(tuple(keys), 0.0)
        if going is None:
            return
        del self._going[going.keys]
        now = self._clock()
        self._free.append(now)
        began = self._began(going)
        if len(going.path) > 1:
            self._profile = going.profile(began, now)
        pace = (now - began) / self._cost(going.keys)
        for key in going.keys:
            self._taken.setdefault(self._costs[key], []).append(pace * self._costs[key])

    def remaining(self) -> float | None:
        """Seconds until the study is done; None while nothing tells."""
        known, now = self._known(), self._clock()
        if not known:
            return None
        free = [self._left(going, known, now) for going in self._going.values()]
        free += [0.0] * (len(self._free) if self._waiting else 0)
        for seconds in sorted((_predicted(self._costs[key], known) for key in self._waiting), reverse=True):
            first = min(range(len(free)), key=free.__getitem__)
            free[first] += seconds
        return max(free, default=0.0)

    def _begun(self, keys: tuple[Hashable, ...], share: float) -> _Going | None:
        if keys not in self._going:
            fresh = [key for key in keys if key in self._waiting]
            if len(fresh) < len(keys) or not keys:
                return None  # A run of a union that is tried again by itself.
            for key in keys:
                del self._waiting[key]
            self._free.sort(key=lambda at: -math.inf if at is None else at)
            self._going[keys] = _Going(keys, self._free.pop(0) if self._free else None, [(share, self._clock())])
        return self._going[keys]

    def _cost(self, keys: Sequence[Hashable]) -> float:
        return sum(self._costs[key] for key in keys)

    def _known(self) -> dict[float, float]:
        """Seconds of a run, by its cost: of those that ended; of others by another time's, or by their pace."""
        own = {cost: median(seconds) for cost, seconds in self._taken.items()}
        shared = own.keys() & self._before.keys()
        busier = median(own[cost] / self._before[cost] for cost in shared) if shared else 1.0
        known = {cost: busier * seconds for cost, seconds in self._before.items()} | own
        for going in self._going.values():
            if (spent := self._spent(going)) >= _TOLD:
                pace = (going.path[-1][1] - self._began(going)) / spent / self._cost(going.keys)
                for cost in {self._costs[key] for key in going.keys} - known.keys():
                    model = _predicted(cost, known) if known else pace * cost
                    trust = spent**0.5
                    known[cost] = (pace * cost) ** trust * model ** (1 - trust)
        return known

    def _spent(self, going: _Going) -> float:
        """The share of its seconds that an item has spent, by how others spent theirs; 0 where it has not moved."""
        return self._spent_at(going.share) if len(going.path) > 1 else 0.0

    def _spent_at(self, share: float) -> float:
        shares, spent = zip(*self._profile, strict=True)
        return float(np.interp(share, shares, spent))

    def _began(self, going: _Going) -> float:
        """When an item began; a worker's first of which nothing was heard before its end, when all did."""
        heard = going.free is not None or len(going.path) > 1
        return max(going.began(self._spent_at), self._made) if heard else self._made

    def _left(self, going: _Going, known: Mapping[float, float], now: float) -> float:
        """Seconds that an item still takes: the farther it has come, the more by its own pace."""
        began, moved = self._began(going), going.path[-1][1]
        model = max(sum(_predicted(self._costs[key], known) for key in going.keys) - (now - began), 0.0)
        spent = self._spent(going)
        if spent < _TOLD:
            return model
        own = max((moved - began) / spent - (now - began), 0.0)
        # One that stands still will do so for as long again, for all that is known.
        return max(spent * own + (1 - spent) * model, now - moved)


def _predicted(cost: float, known: Mapping[float, float]) -> float:
    """Seconds of a run of some cost, along the line through the nearest costs known, in logarithms.

    Beyond the largest of them the line is straight in seconds: a part is the same for all runs, and hides among small
    ones how fast the rest grows.

    Returns:
        Seconds above 0.
    """
    if cost in known:
        return known[cost]
    at, least, most = min(known, key=lambda other: abs(math.log(other / cost))), *_ELASTICITY
    ends = [pair for pair in pairwise(sorted(known)) if at in pair]
    if not ends:
        return known[at] * cost / at
    low, high = min(ends, key=lambda pair: abs(math.log(pair[0] * pair[1] / cost**2)))
    if cost > high:
        line = known[high] + (cost - high) * (known[high] - known[low]) / (high - low)
        return min(max(line, known[at] * (cost / at) ** least), known[at] * (cost / at) ** most)
    slope = math.log(known[high] / known[low]) / math.log(high / low)
    return known[at] * (cost / at) ** min(max(slope, least), most)
