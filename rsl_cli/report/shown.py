"""A figure as bytes; and one that a notebook shows where it is a cell's last value, whatever draws there."""

import io

from matplotlib.figure import Figure


class Shown(Figure):
    """As Matplotlib has it; equal data give equal bytes."""

    def _repr_png_(self) -> bytes:
        return encode(self, "png")


def encode(figure: Figure, form: str) -> bytes:
    """Return a figure's bytes, without the date at which they were made."""
    buffer = io.BytesIO()
    # A creation date would make equal reports differ.
    metadata = {"CreationDate": None} if form == "pdf" else {"Date": None} if form == "svg" else None
    figure.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()
