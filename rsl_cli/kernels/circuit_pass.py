"""A circuit's outputs on samples, and the derivatives of a linear function of them: a forward and a backward pass.

Either takes some of the strips, so that threads can share them; the backward pass overwrites what forward left.
"""

import numpy as np

from rsl_cli.kernels.circuit import FUNCTIONS, Circuit, load, slope
from rsl_cli.kernels.circuit import backward as backward_strip
from rsl_cli.kernels.circuit import forward as forward_strip
from rsl_cli.kernels.jit import jit
from rsl_cli.kernels.strip import lanes, weighted_sum

_SLOPELESS = (FUNCTIONS["identity"], FUNCTIONS["tanh"])


def needs_slopes(circuit: Circuit) -> bool:
    """Whether values alone do not tell the derivatives of every row by its sum."""
    return not np.isin(circuit.function, _SLOPELESS).all()


@jit(nogil=True, error_model="numpy")
def forward(circuit, weight, x, start, stop, y, d, out):
    """Outputs of samples from ``start``, where a strip starts, to ``stop`` - 1.

    Args:
        circuit: what to compute.
        weight: (P + 1,), the last being 1.
        x: (N, inputs), of the weights' type as all arrays are.
        start: first.
        stop: last + 1.
        y: (strips of all samples, rows * lanes), values of all rows, kept strip by strip; or (1, rows * lanes).
        d: slopes, alike; (1, rows * lanes) where they need not be kept.
        out: (N, outputs), overwritten there.
    """
    strip, base, chosen = lanes(weight), (len(circuit.function) - circuit.outputs) * lanes(weight), np.arange(len(x))
    for at in range(start, stop, strip):
        valid, own = min(strip, stop - at), at // strip
        values, slopes = y[min(own, len(y) - 1)], d[min(own, len(d) - 1)]
        values[:strip] = 1
        load(x, chosen, at, valid, values)
        forward_strip(circuit, weight, values, slopes, np.bool_(True))
        for m in range(valid):
            for o in range(circuit.outputs):
                out[at + m, o] = values[base + o * strip + m]


@jit(nogil=True, error_model="numpy")
def backward(circuit, weight, start, stop, y, d, cotangent, gradient, of_x):
    """Derivatives of the sum over samples and outputs of cotangent times output, after `forward` of all samples.

    Args:
        circuit: what was computed.
        weight: (P + 1,), as then.
        start: first sample.
        stop: last + 1.
        y: (strips, rows * lanes), from `forward`; overwritten.
        d: slopes; ones (1, rows * lanes) where none were kept: see `needs_slopes`.
        cotangent: (N, outputs).
        gradient: (P + 1,), to which it is added; or (P + 1, strips, lanes), to which it is, sample by sample.
        of_x: (N, inputs), overwritten there; (0, inputs): not wanted.
    """
    strip, base = lanes(weight), (len(circuit.function) - circuit.outputs) * lanes(weight)
    zero = weight.dtype.type(0)
    for at in range(start, stop, strip):
        valid, own = min(strip, stop - at), at // strip
        values, slopes = y[own], d[min(own, len(d) - 1)]
        for o in range(circuit.outputs):
            for m in range(strip):
                place = base + o * strip + m
                incoming = cotangent[at + m, o] if m < valid else zero
                values[place] = incoming * slope(circuit.function, values, slopes, place)
        if gradient.ndim == 1:
            backward_strip(circuit, weight, values, slopes, gradient)
        else:
            backward_strip(circuit, weight, values, slopes, gradient[:, own])
        if len(of_x) > 0:
            for i in range(circuit.inputs):
                begin, end, row = circuit.column_indptr[1 + i], circuit.column_indptr[2 + i], (1 + i) * strip
                places = circuit.column_places
                weighted_sum(values, circuit.readers, strip, 0, places, weight, begin, end, values, row)
                for m in range(valid):
                    of_x[at + m, i] = values[row + m]
