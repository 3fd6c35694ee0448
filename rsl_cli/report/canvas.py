"""What all figures share: one style, axes for lifts and losses, edges for values that have no place, bytes out.

Figures are made without pyplot, so that a report needs no display and leaves no global state.
"""

import io
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, GREY = (
    *("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"),
    "#666666",
)
"""The colours of Okabe and Ito, told apart under all common colour blindness."""

STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 11,
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


def render(draw: Callable[[Figure], None], formats: Sequence[str], size: tuple[float, float]) -> dict[str, bytes]:
    """Draw a figure once and return its bytes per format, the same for the same data."""
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
        draw(figure)
        return {form: _encode(figure, form) for form in formats}


def loss_axis(axes: Axes, losses: Iterable[float], label: str) -> tuple[float, float]:
    """Give the y axis a logarithmic scale around the positive finite losses, and room at both edges.

    Returns:
        Where to mark values beyond the axis: below it (zero) and above it (diverged).
    """
    known = [loss for loss in losses if math.isfinite(loss) and loss > 0] or [0.1, 1.0]
    low, high = math.log10(min(known)), math.log10(max(known))
    pad = max(0.3, 0.08 * (high - low))
    axes.set_yscale("log")
    axes.set_ylim(10 ** (low - pad), 10 ** (high + pad))
    axes.set_ylabel(label)
    _label_apart(axes.yaxis, low - pad, high + pad)
    return 10 ** (low - 0.65 * pad), 10 ** (high + 0.65 * pad)


def lift_axis(axes: Axes, lifts: Sequence[int], *, vertical: bool = False) -> None:
    """Give an axis the scale of lift degrees: base 2, labelled at powers of two or else at the lifts themselves."""
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


def log_axis(axes: Axes, values: Iterable[float], label: str) -> None:
    """Give the x axis a logarithmic scale around positive values, with ticks that stay apart."""
    known = [value for value in values if math.isfinite(value) and value > 0] or [1.0, 10.0]
    low, high = math.log10(min(known)), math.log10(max(known))
    pad = max(0.06, 0.04 * (high - low))
    axes.set_xscale("log")
    axes.set_xlim(10 ** (low - pad), 10 ** (high + pad))
    axes.set_xlabel(label)
    _label_apart(axes.xaxis, low - pad, high + pad)


def plain(text: str) -> str:
    """Return a name as a title may hold it: dollar signs are no mathematics, and a long name is shortened."""
    short = text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 3]}..."
    return short.replace("$", r"\$")


def legend(figure: Figure, axes: Axes) -> None:
    """Put the legend to the right of the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper")


def note(axes: Axes, text: str) -> None:
    """Say in the middle of an empty plot why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def _label_apart(axis: Axis, low: float, high: float) -> None:
    """Label a logarithmic axis: short ranges hold too few powers of ten, and the labels between them collide."""
    axis.set_minor_formatter(NullFormatter())
    if high - low >= 2:
        return
    decades = range(math.floor(low), math.ceil(high) + 1)
    ticks = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= math.log10(tick) <= high]
    if len(ticks) < 2:
        ticks = sorted({float(f"{10 ** (low + share * (high - low)):.2g}") for share in (0.2, 0.5, 0.8)})
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _encode(figure: Figure, form: str) -> bytes:
    buffer = io.BytesIO()
    # A creation date would make equal reports differ.
    metadata = {"CreationDate": None} if form == "pdf" else {"Date": None} if form == "svg" else None
    figure.savefig(buffer, format=form, metadata=metadata)
    # The layout found for the first format serves the others; finding it takes as long as drawing.
    figure.set_layout_engine("none")
    return buffer.getvalue()
