"""The curvature that a circuit's own bending gives a loss: E[sum_o a_o grad^2 z_o], a_o the loss's slope by output o.

With the Gauss-Newton matrix it makes up the Hessian. A weight moves the network through the sum of its row alone, so
one tangent for each row, not for each weight, tells how every derivative changes: forward from the row to the outputs,
and back to the row, over those rows only that it reaches. What is left is a sum over samples for each pair of weights.
"""

import math

import numpy as np

from rsl_cli.kernels.circuit import FUNCTIONS, activate, load, multiply
from rsl_cli.kernels.elementary import apply_tanh, tanh
from rsl_cli.kernels.jit import jit
from rsl_cli.kernels.strip import add_dots, lanes, weighted_sum

_IDENTITY, _PRODUCT, _TANH, _RELU, _LEAKY, _SILU, _SOFTPLUS, _SIN, _GELU, *_ = FUNCTIONS.values()


@jit(nogil=True, error_model="numpy")
def _bend(function, y, e, at):
    """sigma''(z) into e, of a z that stands in y."""
    strip, real = lanes(y), y.dtype.type
    one, two = real(1), real(2)
    y, e = y[at : at + strip], e[at : at + strip]
    if function in (_IDENTITY, _PRODUCT, _RELU, _LEAKY):
        for m in range(strip):
            e[m] = 0
    elif function == _TANH:
        for m in range(strip):
            value = tanh(y[m])
            e[m] = -two * value * (one - value * value)
    elif function == _SILU:
        for m in range(strip):
            gate = (one + tanh(y[m] / 2)) / 2
            e[m] = gate * (one - gate) * (two + y[m] * (one - two * gate))
    elif function == _SOFTPLUS:
        for m in range(strip):
            gate = (one + tanh(y[m] / 2)) / 2
            e[m] = gate * (one - gate)
    elif function == _SIN:
        for m in range(strip):
            e[m] = -math.sin(y[m])
    elif function == _GELU:
        for m in range(strip):
            e[m] = real(1 / math.sqrt(2 * math.pi)) * math.exp(-y[m] * y[m] / 2) * (two - y[m] * y[m])


@jit(nogil=True, error_model="numpy")
def _values(circuit, weight, y, d, e):
    """Every row's value, slope and bend."""
    first, strip = circuit.inputs + 1, lanes(y)
    one = y.dtype.type(1)
    for row in range(first, len(circuit.function)):
        begin, end, at = circuit.indptr[row - first], circuit.indptr[row - first + 1], row * strip
        if circuit.function[row] == _PRODUCT:
            multiply(circuit.columns, begin, end, y, d, row)
            e[at : at + strip] = 0
            continue
        weighted_sum(y, circuit.columns, strip, 0, circuit.places, weight, begin, end, y, at)
        _bend(circuit.function[row], y, e, at)
        if circuit.function[row] == _TANH:
            apply_tanh(y, at)
            for m in range(at, at + strip):
                d[m] = one - y[m] * y[m]
        else:
            activate(circuit.function[row], y, d, row, np.bool_(True))


@jit(nogil=True, error_model="numpy")
def _output_slopes(circuit, samples, chosen, start, valid, norm, y, a):
    """The loss's slope by each output, into a."""
    strip, k = lanes(y), circuit.outputs
    base = (len(circuit.function) - k) * strip
    for m in range(strip):
        sample = chosen[start + min(m, valid - 1)]
        weight = norm if m < valid else 0.0
        if len(samples.targets) > 0:
            for o in range(k):
                a[base + o * strip + m] = weight * (y[base + o * strip + m] - samples.targets[sample, o])
        else:
            largest, total = y[base + m], 0.0
            for o in range(1, k):
                largest = max(largest, y[base + o * strip + m])
            for o in range(k):
                total += math.exp(y[base + o * strip + m] - largest)
            for o in range(k):
                share = math.exp(y[base + o * strip + m] - largest) / total
                a[base + o * strip + m] = weight * (share - (1.0 if o == samples.labels[sample] else 0.0))


@jit(nogil=True, error_model="numpy")
def _is_factor(circuit, row):
    """Whether a row is a product's: then its slope is the product of the others."""
    begin, end = circuit.column_indptr[row], circuit.column_indptr[row + 1]
    return end > begin and circuit.function[circuit.readers[begin]] == _PRODUCT


@jit(nogil=True, error_model="numpy")
def _forward(circuit, weight, moved, y, d, e, t, f, reached):
    """How every row's value (t) and slope (f) change with the sum of one row, and which rows' values do."""
    first, strip = circuit.inputs + 1, lanes(y)
    for row in range(moved, len(circuit.function)):
        begin, end, at = circuit.indptr[row - first], circuit.indptr[row - first + 1], row * strip
        reached[row] = row == moved
        for k in range(begin, end):
            reached[row] |= reached[circuit.columns[k]]
        if not reached[row]:
            t[at : at + strip] = 0
            f[at : at + strip] = 0
        elif circuit.function[row] == _PRODUCT:
            _product(circuit.columns, begin, end, y, d, t, f, at)
        else:
            if row == moved:
                t[at : at + strip] = 1
            else:
                weighted_sum(t, circuit.columns, strip, 0, circuit.places, weight, begin, end, t, at)
            if not _is_factor(circuit, row):
                for m in range(at, at + strip):
                    f[m] = e[m] * t[m]
                    t[m] *= d[m]


@jit(nogil=True, error_model="numpy")
def _product(columns, begin, end, y, d, t, f, at):
    """The same of a product and of its factors' slopes."""
    strip = lanes(y)
    t[at : at + strip] = 0
    f[at : at + strip] = 0
    for k in range(begin, end):
        own = columns[k] * strip
        f[own : own + strip] = 0
        for m in range(strip):
            t[at + m] += d[own + m] * t[own + m]
        for other in range(begin, end):
            if other != k:
                for m in range(strip):
                    change = t[columns[other] * strip + m]
                    for third in range(begin, end):
                        if third not in (k, other):
                            change *= y[columns[third] * strip + m]
                    f[own + m] += change


@jit(nogil=True, error_model="numpy")
def _backward(circuit, weight, moved, a, d, f, g, turned, reached):
    """How the loss's derivative by the sum of every row from ``moved`` on changes (g), and which do."""
    strip = lanes(a)
    for row in range(len(circuit.function) - 1, moved - 1, -1):
        begin, end, at = circuit.column_indptr[row], circuit.column_indptr[row + 1], row * strip
        turned[row] = reached[row] and circuit.function[row] != _IDENTITY
        if _is_factor(circuit, row):
            turned[row] = reached[circuit.readers[begin]]
        behind = False
        for k in range(begin, end):
            behind |= turned[circuit.readers[k]]
        g[at : at + strip] = 0
        if behind:
            weighted_sum(g, circuit.readers, strip, 0, circuit.column_places, weight, begin, end, g, at)
            for m in range(at, at + strip):
                g[m] *= d[m]
        if turned[row]:
            for m in range(at, at + strip):
                g[m] += f[m] * a[m]
        turned[row] |= behind


@jit(nogil=True, error_model="numpy")
def add_curvature(circuit, weight, samples, chosen, norm, into):
    """Add the curvature of some samples' outputs, weighted by the slope of the loss.

    Args:
        circuit: what is computed, without attention.
        weight: (P + 1,), the last being 1.
        samples: data.
        chosen: int64, numbers of samples.
        norm: factor of each sample's loss.
        into: (P + 1, P + 1), to which X is added, X + X^T being the matrix by weights; the last row and column mean
            nothing.
    """
    rows, strip, first, last = len(circuit.function), lanes(weight), circuit.inputs + 1, len(weight) - 1
    work = np.zeros((9, rows * strip), weight.dtype)
    # Row by row: to Numba what it unpacks by itself need not be contiguous, and all would be compiled once more for it.
    y, d, e, a, slope = work[0], work[1], work[2], work[3], work[4]
    t, f, g, one = work[5], work[6], work[7], work[8]
    reached, turned = np.zeros(rows, np.bool_), np.zeros(rows, np.bool_)
    y[:strip] = 1
    for start in range(0, len(chosen), strip):
        valid = min(strip, len(chosen) - start)
        load(samples.x, chosen, start, valid, y)
        _values(circuit, weight, y, d, e)
        _output_slopes(circuit, samples, chosen, start, valid, norm, y, a)
        for row in range(rows - 1, first - 1, -1):
            begin, end, at = circuit.column_indptr[row], circuit.column_indptr[row + 1], row * strip
            if row < rows - circuit.outputs:
                weighted_sum(slope, circuit.readers, strip, 0, circuit.column_places, weight, begin, end, a, at)
            for m in range(at, at + strip):
                slope[m] = d[m] * a[m]
        t[:] = 0
        for moved in range(first, rows):
            begin, end = circuit.indptr[moved - first], circuit.indptr[moved - first + 1]
            t[(moved - 1) * strip : moved * strip] = 0
            reached[moved - 1] = False
            if np.all(circuit.places[begin:end] == last):
                continue
            _forward(circuit, weight, moved, y, d, e, t, f, reached)
            _backward(circuit, weight, moved, a, d, f, g, turned, reached)
            for row in range(moved, rows):
                half = weight.dtype.type(0.5 if row == moved else 1.0)
                for k in range(circuit.indptr[row - first], circuit.indptr[row - first + 1]):
                    source = circuit.columns[k]
                    if circuit.places[k] == last or not (turned[row] or reached[source]):
                        continue
                    for m in range(strip):
                        own, at = row * strip + m, source * strip + m
                        one[m] = half * (g[own] * y[at] + slope[own] * t[at])
                    add_dots(y, circuit.columns, strip, 0, circuit.places, begin, end, one, 0, into[circuit.places[k]])
