"""A plot of losses in characters, for a terminal: a dot for every run, a line through the medians."""

import math
import sys
from collections.abc import Mapping, Sequence

import numpy as np

_BITS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Of the dots of a braille character, by row and column."""

_MOST = math.nextafter(math.log10(sys.float_info.max), 0)
"""Decimal logarithm of the largest loss that is written out."""


def loss_plot(losses: Mapping[int, Sequence[float]], *, width: int = 50, height: int = 9) -> str:
    """Draw losses against lift degrees, both logarithmic.

    Args:
        losses: of every run, by lift; what is not positive or not finite is left out.
        width: columns of the plot beside its labels.
        height: its lines.

    Returns:
        Lines without a final newline; none if there are fewer than two lifts to draw.
    """
    shown = {lift: [math.log10(y) for y in values if 0 < y < math.inf] for lift, values in sorted(losses.items())}
    shown = {lift: values for lift, values in shown.items() if values}
    if len(shown) < 2:
        return ""
    across, down = 2, 4  # Dots of a braille character.
    at = {lift: math.log2(lift / min(shown)) / math.log2(max(shown) / min(shown)) for lift in shown}
    every = [value for values in shown.values() for value in values]
    low, high = min(every), max(every)
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    cells = np.zeros((height * down, width * across), dtype=bool)

    def put(x: float, y: float) -> None:
        row = round((high - y) / (high - low) * (height * down - 1))
        cells[row, round(x * (width * across - 1))] = True

    for lift, values in shown.items():
        for value in values:
            put(at[lift], value)
    medians = [float(np.median(values)) for values in shown.values()]
    for x in np.linspace(0, 1, width * across):
        put(x, float(np.interp(x, list(at.values()), medians)))
    # The logarithm of the largest float is rounded up.
    labels = {row: f"{10 ** min(end, _MOST):.1e}" for row, end in ((0, high), (height - 1, low))}
    lines = []
    for row in range(height):
        block = cells[row * down : (row + 1) * down]
        lines.append(f"{labels.get(row, ''):>8} |{_characters(block)}".rstrip())
    ruler = [" "] * (width + 8)
    for lift, x in at.items():
        start = round(x * (width - 1))
        if all(sign == " " for sign in ruler[max(0, start - 1) : start + len(str(lift))]):
            ruler[start : start + len(str(lift))] = str(lift)
    return "\n".join([*lines, f"{'lift':>8}  {''.join(ruler).rstrip()}"])


def _characters(block: np.ndarray) -> str:
    weights = np.array(_BITS)
    parts = [int((block[:, column : column + 2] * weights).sum()) for column in range(0, block.shape[1], 2)]
    return "".join(chr(0x2800 + part) if part else " " for part in parts)
