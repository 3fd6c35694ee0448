"""What the charts of a page share: axes, colours as the page's variables, what is followed, what hovering shows.

A chart knows the state of its page by three parameters: the ``lift`` and the ``seed`` that are followed (-1: none) and
the position ``at`` of the time slider; and by three words that the page replaces: ``@loss`` is the column of the chosen
loss, ``@size`` that of the chosen size, ``@name`` the loss's name.
"""

import importlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

from rsl_cli.report.page_data import Data, ranges
from rsl_cli.report.runs import LOSS_NAMES, Which
from rsl_cli.report.words import short_ticks

if TYPE_CHECKING:
    import altair as alt
else:

    class _Late:
        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("altair"), name)

    alt = _Late()
    """Altair, imported when something of it is first used: to know which charts there are takes none of it."""

T = TypeVar("T")

OTHERS = "(lift >= 0 && datum.lift != lift) || (seed >= 0 && isDefined(datum.seed) && datum.seed != seed)"
"""True of what is not followed, while something is."""
SERIES = tuple(f"var(--s{i})" for i in range(6))
INK, FAINT, ACCENT, LIMIT, ALARM = (f"var(--{name})" for name in ("ink", "faint", "accent", "limit", "alarm"))
HEIGHT = 330
_MOST_TICKS = 8
_MOST_SERIES = 6


def log_axis(values: Iterable[float], title: str) -> dict[str, Any]:
    """Scale and axis of positive values: ticks at powers of ten, or closer over short ranges."""
    known = [value for value in values if 0 < value < math.inf] or [0.1, 1.0]
    low, high = math.log10(min(known)), math.log10(max(known))
    pad = max(0.06, 0.03 * (high - low))
    low, high = max(low - pad, -305.0), min(high + pad, 305.0)
    stride = max(1, math.ceil((high - low) / _MOST_TICKS))
    ticks = [10.0**k for k in range(math.ceil(low), math.floor(high) + 1) if k % stride == 0]
    if len(ticks) < 3:
        ticks = short_ticks(low, high)
    return {
        "scale": alt.Scale(type="log", domain=[10**low, 10**high], nice=False),
        "axis": alt.Axis(values=ticks, labelExpr="power(datum.value)"),
        "title": title,
    }


def axis_of(data: Data, *columns: tuple[str, str]) -> dict[str, Any]:
    """Scale and axis of the positive values in columns (table, name), as a page sets them in place of others."""
    made = log_axis(ranges(data, *columns), "")
    return {"scale": made["scale"].to_dict(), "axis": made["axis"].to_dict()}


@dataclass(frozen=True)
class LossAxis:
    """An axis of losses, which a page makes anew for the one loss that it shows.

    Args:
        table: of the page's.
        ends: how its columns end, after ``train`` and ``test``: ``_q1`` for ``train_q1``.
        limits: table and column of what is known of the limits of the loss that the verdict is about.
    """

    table: str
    ends: tuple[str, ...] = ("",)
    limits: tuple[tuple[str, str], ...] = ()

    def both(self, data: Data) -> dict[str, Any]:
        """Scale and axis for both losses."""
        columns = [column for view in LOSS_NAMES for column in self._columns(view)]
        return log_axis(ranges(data, *columns, *self.limits), "@name loss")

    def each(self, data: Data, headline: Which) -> dict[str, dict[str, Any]]:
        """Scale and axis by which loss is shown; the verdict is about that of the headline."""
        return {
            view: axis_of(data, *self._columns(view), *(self.limits if view == headline else ())) for view in LOSS_NAMES
        }

    def _columns(self, view: Which) -> list[tuple[str, str]]:
        return [(self.table, f"{view}{end}") for end in self.ends]


def lift_axis(lifts: Sequence[int], title: str = "lift degree n") -> dict[str, Any]:
    """Scale and axis of lift degrees."""
    ticks = list(lifts)[:: math.ceil(len(lifts) / 12)]
    domain = [min(lifts, default=1) / 1.15, max(lifts, default=2) * 1.15]
    return {
        "scale": alt.Scale(type="log", base=2, domain=domain, nice=False),
        "axis": alt.Axis(values=ticks, format="d"),
        "title": title,
    }


def share_axis() -> dict[str, Any]:
    """Scale and axis of shares from 0 to 1."""
    return {"scale": alt.Scale(domain=[-0.03, 1.03]), "axis": alt.Axis(values=[0, 0.25, 0.5, 0.75, 1], format="%")}


def fading(shown: float) -> Any:
    """The opacity of a mark that pales while another lift or seed is followed."""
    return alt.when(OTHERS).then(alt.value(0.06)).otherwise(alt.value(shown))


def tips(*fields: str) -> "list[alt.Tooltip]":
    """Fields to show on hovering: ``name:type=title``."""
    parted = [field.partition("=") for field in fields]
    return [
        alt.Tooltip(
            field, title=title or field.partition(":")[0], format=".4~g" if field.endswith(":Q") else alt.Undefined
        )
        for field, _, title in parted
    ]


def over(table: str) -> "alt.Chart":
    """A chart over one of the page's tables."""
    return alt.Chart(alt.NamedData(table))


def layered(*charts: Any) -> "alt.LayerChart":
    """Charts on the same axes."""
    return cast("alt.LayerChart", alt.layer(*charts))


def dodged(chart: "alt.Chart", field: str, names: Sequence[str]) -> "alt.Chart":
    """A chart whose series, by a field, stand a little beside each other: column ``place`` instead of ``lift``."""
    middle = (len(names) - 1) / 2
    return chart.transform_calculate(place=f"datum.lift * pow(1.022, indexof({list(names)}, datum.{field}) - {middle})")


def by_lift() -> "alt.Color":
    """The lift's own colour; the page's row of lifts is its legend."""
    return alt.Color("lift:O", legend=None, scale=alt.Scale(range="ordinal"))


def named(field: str, names: Sequence[str], title: str, columns: int | None = None) -> "alt.Color":
    """Colours of a few marked series, with a legend above."""
    legend = alt.Legend(
        orient="top",
        direction="horizontal",
        title=title or None,
        symbolType="circle",
        symbolOpacity=1,
        columns=columns or alt.Undefined,
    )
    return alt.Color(
        f"{field}:N",
        scale=alt.Scale(domain=list(names), range=[SERIES[i % 6] for i in range(len(names))]),
        legend=legend,
    )


def evenly(values: Sequence[T], most: int = _MOST_SERIES) -> list[T]:
    """At most so many of the values, with both ends."""
    count = min(most, len(values))
    return [values[round(i * (len(values) - 1) / max(1, count - 1))] for i in range(count)]


def whole(chart: Any, words: str) -> dict[str, Any]:
    """The specification of a chart that a page draws, described by the words."""
    spec = chart.to_dict(validate=False)
    # Altair would copy all of the chart for each of these.
    state = [{"name": key, "value": -1} for key in ("lift", "seed", "at")]
    more = {"description": words, "height": HEIGHT, "width": "container", "params": [*spec.get("params", []), *state]}
    return {**spec, **more}
