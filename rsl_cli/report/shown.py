"""A figure that a notebook shows where it is a cell's last value, whatever draws there."""

from matplotlib.figure import Figure

from rsl_cli.report.canvas import encode


class Shown(Figure):
    """As Matplotlib has it; equal data give equal bytes."""

    def _repr_png_(self) -> bytes:
        return encode(self, "png")
