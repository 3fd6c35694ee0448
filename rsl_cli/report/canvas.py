"""What all figures share: one style, axes for lifts and losses, edges for values that have no place, bytes out.

Figures are made without pyplot, so that a report needs no display and leaves no global state. Matplotlib is imported
where it draws: to know which figures there are takes none of it.
"""

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from rsl_cli.report.words import figure_of, short_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"),
    "#666666",
)
"""The colours of Okabe and Ito, told apart under all common colour blindness."""

SERIES = ((BLUE, "o"), (VERMILLION, "s"), (GREEN, "^"), (PURPLE, "D"), (ORANGE, "v"), (SKY, "P"))
"""Colour and marker of the series of one plot, at most so many."""
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
"""Line styles to go with them."""
WIDE = (8.4, 4.6)
"""Inches of a figure with one panel, or two side by side."""

STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 12.5,
    "axes.titlelocation": "left",
    "figure.titlesize": 12.5,
    "axes.labelsize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
    "pdf.fonttype": 42,
    "svg.hashsalt": "rsl",
}
_DPI = 160
_MOST_TICKS = 11
_LONGEST_NAME = 36
_FAR_LIMIT = 3.0
_FAR_POWER = 305.0
"""How far an axis goes; what lies farther out is drawn beyond its edge."""
_OWN_TICKS = 200.0
"""Matplotlib looks for ticks some decades beyond an axis, where there may be no number any more."""


Drawing = tuple[Callable[["Figure"], None], tuple[float, float]]
"""What fills a figure, and the figure's size in inches."""


def drawn(drawing: "Drawing | Figure") -> "Figure":
    """Draw a figure that one can go on editing; one that is drawn already stays as it is."""
    if not isinstance(drawing, tuple):
        return drawing
    from matplotlib import style

    from rsl_cli.report.shown import Shown

    draw, size = drawing
    with style.context(["default", STYLE]):
        figure = Shown(figsize=size, dpi=_DPI, layout="constrained")
        draw(figure)
        return figure


def render(drawing: "Drawing | Figure", formats: Sequence[str]) -> dict[str, bytes]:
    """Draw a figure once, if in any format, and return its bytes per format, the same for the same data."""
    if not formats:
        return {}
    from matplotlib import style

    from rsl_cli.report.shown import Shown

    figure = drawn(drawing)
    # A figure that was drawn elsewhere is in whatever style holds there.
    with style.context(["default", STYLE]) if isinstance(figure, Shown) else nullcontext():
        return encoded(figure, formats)


def encoded(figure: "Figure", formats: Sequence[str]) -> dict[str, bytes]:
    """Return a figure's bytes per format, without the date at which they were made; its layout is then settled."""
    engine = figure.get_layout_engine()
    if engine is not None:
        # Once for all formats: each would find its own, and draw the figure twice for that ("none" is still an engine).
        engine.execute(figure)
        figure.set_layout_engine(None)
    from rsl_cli.report.shown import encode

    return {form: encode(figure, form) for form in formats}


def loss_axis(axes: "Axes", losses: Iterable[float], label: str) -> tuple[float, float]:
    """Give the y axis a logarithmic scale around the positive finite losses, and room at both edges.

    Returns:
        Where to mark values beyond the axis: below it (zero) and above it (diverged).
    """
    known = [loss for loss in losses if math.isfinite(loss) and loss > 0] or [0.1, 1.0]
    low, high = (min(max(math.log10(end), 1 - _FAR_POWER), _FAR_POWER - 1) for end in (min(known), max(known)))
    pad = max(0.3, 0.08 * (high - low))
    axes.set_yscale("log")
    axes.set_ylim(power_of_ten(low - pad), power_of_ten(high + pad))
    axes.set_ylabel(label)
    _label_apart(axes.yaxis, low - pad, high + pad)
    return power_of_ten(low - 0.65 * pad), power_of_ten(high + 0.65 * pad)


def power_of_ten(exponent: float) -> float:
    """Ten to a power, as far as ticks around it are numbers that float64 can hold."""
    return 10.0 ** min(max(exponent, -_FAR_POWER), _FAR_POWER)


def lift_axis(axes: "Axes", lifts: Sequence[int], *, vertical: bool = False) -> None:
    """Give an axis the scale of lift degrees: base 2, labelled at powers of two or else at the lifts themselves."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    degrees = list(lifts) or [1]
    low, high = min(degrees), max(degrees)
    powers = [2**k for k in range(64) if low <= 2**k <= high]
    ticks = powers if len(powers) >= 3 else degrees
    ticks = ticks[:: math.ceil(len(ticks) / _MOST_TICKS)]
    axis = axes.yaxis if vertical else axes.xaxis
    (axes.set_yscale if vertical else axes.set_xscale)("log", base=2)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    limits = low / 2**0.35, high * 2**0.35
    (axes.set_ylim if vertical else axes.set_xlim)(*limits)
    (axes.set_ylabel if vertical else axes.set_xlabel)("lift degree n")


def log_axis(axes: "Axes", values: Iterable[float], label: str) -> None:
    """Give the x axis a logarithmic scale around positive values, with ticks that stay apart."""
    known = [value for value in values if math.isfinite(value) and value > 0] or [1.0, 10.0]
    low, high = (min(max(math.log10(end), 1 - _FAR_POWER), _FAR_POWER - 1) for end in (min(known), max(known)))
    pad = max(0.06, 0.04 * (high - low))
    axes.set_xscale("log")
    axes.set_xlim(power_of_ten(low - pad), power_of_ten(high + pad))
    axes.set_xlabel(label)
    _label_apart(axes.xaxis, low - pad, high + pad)


def params_axis(axes: "Axes", params: Sequence[float], limit: float | None) -> None:
    """Give the x axis the scale of parameter counts, and shade those from the limit P = N k on."""
    near = limit is not None and bool(params) and min(params) / _FAR_LIMIT <= limit <= max(params) * _FAR_LIMIT
    log_axis(axes, [*params, *([limit, limit * 1.15] if near and limit is not None else [])], "parameters P")
    if limit is None or not params:
        return
    if near:
        right = axes.get_xlim()[1]
        axes.axvline(limit, color=GREY, linestyle=(0, (6, 3)), linewidth=1.2, label=f"P = N k = {limit:,.0f}")
        axes.axvspan(limit, right, color=GREY, alpha=0.12, linewidth=0, label="overparametrised, P ≥ N k")
        axes.set_xlim(right=right)
    else:
        side = "all" if limit > max(params) else "none"
        axes.set_xlabel(f"parameters P  ({side} below N k = {limit:,.0f}, samples × outputs)")


def shade_dense(axes: "Axes", end: float) -> None:
    """Hatch what lies left of a place on the x axis: lifts that are dense, not sparse."""
    left, right = axes.get_xlim()
    if end <= left:
        return
    style = {"facecolor": "none", "edgecolor": GREY, "hatch": "//", "alpha": 0.25, "linewidth": 0}
    axes.axvspan(left, min(end, right), label="dense, not sparse", zorder=0, **style)
    axes.set_xlim(left, right)


def lift_colours(lifts: Sequence[int]) -> dict[int, Any]:
    """Return a colour for every lift, dark for small and bright for large ones, none too pale for white paper."""
    from matplotlib import colormaps

    return dict(zip(lifts, colormaps["viridis"](np.linspace(0, 0.82, max(1, len(lifts)))), strict=False))


def lift_bar(figure: "Figure", panels: Any, lifts: Sequence[int]) -> None:
    """Say beside the panels which colour stands for which lift."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    if not lifts:
        return
    norm = BoundaryNorm(np.arange(len(lifts) + 1) - 0.5, len(lifts))
    ticks = range(0, len(lifts), math.ceil(len(lifts) / 14))
    colours = ListedColormap(list(lift_colours(lifts).values()))
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=panels, ticks=list(ticks), pad=0.02)
    bar.ax.set_yticklabels([str(lifts[i]) for i in ticks])
    bar.ax.minorticks_off()
    bar.set_label("lift degree n")


def plain(text: str, most: int = _LONGEST_NAME) -> str:
    """Return a name as a title may hold it: dollar signs are no mathematics, and a long name is shortened."""
    short = text if len(text) <= most else f"{text[: most - 3]}..."
    return short.replace("$", r"\$")


def legend(figure: "Figure", *panels: "Axes", below: bool = False, columns: int = 1) -> None:
    """Put one legend of some axes to the right of all, or below them, where it hides nothing."""
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    if handles:
        place = "outside right center" if figure.get_suptitle() else "outside right upper"
        place = "outside lower center" if below else place
        figure.legend(list(handles.values()), list(handles), loc=place, ncols=columns)


def wrapped(text: str, width: int = 58) -> str:
    """Break a sentence into lines that fit a wide figure's title."""
    return "\n".join(textwrap.wrap(plain(text, most=10 * width), width, break_on_hyphens=False))


def note(axes: "Axes", text: str) -> None:
    """Say in the middle of an empty plot why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def _label_apart(axis: "Axis", low: float, high: float) -> None:
    """Label a logarithmic axis: short ranges hold too few powers of ten, and the labels between them collide."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    axis.set_minor_formatter(NullFormatter())
    axis.set_tick_params(which="minor", label1On=False)  # They say nothing, and would be measured for the layout.
    if max(abs(low), abs(high)) > _OWN_TICKS:
        first, last = (max(-_FAR_POWER, min(_FAR_POWER, end)) for end in (low, high))
        step = max(1, math.ceil((last - first) / _MOST_TICKS))
        axis.set_major_locator(FixedLocator([10.0**k for k in range(math.ceil(first), math.floor(last) + 1, step)]))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
        return
    axis.set_major_formatter(FuncFormatter(lambda value, _: figure_of(value, tex=True)))
    if high - low < 2:
        axis.set_major_locator(FixedLocator(short_ticks(low, high)))


def drawable(value: float) -> float:
    """The value, if it has a place on a logarithmic axis, or else NaN."""
    return value if 0 < value < math.inf else math.nan
