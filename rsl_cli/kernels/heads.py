"""Attention among the rows of a circuit: softmax(q k^T / sqrt(d)) v of one head, on a strip of samples.

Its shares are made again on the way back, one token at a time, so that they never leave a core's cache.
"""

import math

import numpy as np

from rsl_cli.kernels.elementary import exponential
from rsl_cli.kernels.jit import jit
from rsl_cli.kernels.strip import lanes

FIELDS = ("out", "q", "k", "v", "tokens", "keys", "width", "values", "causal")
"""Of a head: the first rows of its result (T, d_v) and of its arguments (T, d), (S, d) and (S, d_v), then T, S, d, d_v,
and 1 if token t attends to tokens 1..t only."""


@jit(nogil=True, error_model="numpy")
def attend(head, y):
    """Fill the result's rows of y.

    Args:
        head: int64 (9,), see `FIELDS`.
        y: values of all rows, (rows * lanes,).
    """
    out, v, tokens, keys, values = head[0], head[3], head[4], head[5], head[7]
    shares = np.empty((keys + 2, lanes(y)), y.dtype)
    for t in range(tokens):
        seen = _shares(head, t, y, shares)
        for j in range(values):
            into = _row(y, out + t * values + j)
            into[:] = 0
            for s in range(seen):
                _add_product(shares[s], _row(y, v + s * values + j), into)


@jit(nogil=True, error_model="numpy")
def attend_backward(head, y, d):
    """Put derivatives by the arguments into their rows of d.

    Args:
        head: int64 (9,), see `FIELDS`.
        y: arguments' values, and in the result's rows derivatives by it.
        d: alike; overwritten in the arguments' rows.
    """
    out, q, k, v, tokens, keys, width, values = head[0], head[1], head[2], head[3], head[4], head[5], head[6], head[7]
    for first, count in ((q, tokens * width), (k, keys * width), (v, keys * values)):
        d[first * lanes(y) : (first + count) * lanes(y)] = 0
    shares, slopes = np.empty((keys + 2, lanes(y)), y.dtype), np.empty((keys + 1, lanes(y)), y.dtype)
    scale = y.dtype.type(1 / math.sqrt(width))
    for t in range(tokens):
        seen = _shares(head, t, y, shares)
        slopes[:] = 0
        mean = slopes[keys]
        for s in range(seen):
            for j in range(values):
                incoming = _row(y, out + t * values + j)
                _add_product(incoming, _row(y, v + s * values + j), slopes[s])
                _add_product(incoming, shares[s], _row(d, v + s * values + j))
            _add_product(shares[s], slopes[s], mean)
        for s in range(seen):
            slope, share = slopes[s], shares[s]
            for m in range(len(slope)):
                slope[m] = share[m] * (slope[m] - mean[m]) * scale
            for i in range(width):
                _add_product(slope, _row(y, k + s * width + i), _row(d, q + t * width + i))
                _add_product(slope, _row(y, q + t * width + i), _row(d, k + s * width + i))


@jit(nogil=True, error_model="numpy")
def _shares(head, t, y, shares):
    """The shares of a token's keys, and how many it sees; two more rows are for the largest score and the sum."""
    q, k, keys, width = head[1], head[2], head[5], head[6]
    seen = t + 1 if head[8] else keys
    most, total = shares[keys], shares[keys + 1]
    scale = y.dtype.type(1 / math.sqrt(width))
    for s in range(seen):
        score = shares[s]
        score[:] = 0
        for i in range(width):
            _add_product(_row(y, q + t * width + i), _row(y, k + s * width + i), score)
        for m in range(len(score)):
            score[m] *= scale
            most[m] = score[m] if s == 0 else max(most[m], score[m])
    total[:] = 0
    for s in range(seen):
        share = shares[s]
        for m in range(len(share)):
            power, less_one = exponential(share[m] - most[m])
            share[m] = power + power * less_one
            total[m] += share[m]
    for s in range(seen):
        share = shares[s]
        for m in range(len(share)):
            share[m] /= total[m]
    return seen


@jit(nogil=True, error_model="numpy")
def _row(y, row):
    return y[row * lanes(y) : row * lanes(y) + lanes(y)]


@jit(nogil=True, error_model="numpy")
def _add_product(a, b, into):
    strip = lanes(a)
    a, b, into = a[:strip], b[:strip], into[:strip]
    for m in range(strip):
        into[m] += a[m] * b[m]
