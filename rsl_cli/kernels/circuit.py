"""A whole network of scalars as one strictly triangular sparse matrix, and its passes over strips of samples.

Row 0 is the constant 1, then come the inputs, then every number that the network computes, in an order in which each
depends on earlier ones only; the outputs are last. A row is a function of a weighted sum of earlier rows, a bias being
the weight of row 0. A strip of samples goes through the whole network, forward and back, before the next
one starts, so that activations stay in a core's cache, and a step costs no more calls than one.

How samples are shared out among groups, and so how sums are rounded, depends on nothing but their number: neither on
the threads nor on what else is training.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rsl_cli.kernels.elementary import apply_tanh, exponential, tanh
from rsl_cli.kernels.heads import attend, attend_backward
from rsl_cli.kernels.jit import jit
from rsl_cli.kernels.strip import add_dots, backward_sum, backward_sum_tanh, lanes, weighted_sum

_MOST_GROUPS = 16
_LINE = 64
_STRIPS_OF_GROUP = 2
"""Below two strips, adding up the groups' gradients would cost more than a further thread saves."""

FUNCTIONS: Mapping[str, int] = {
    name: code
    for code, name in enumerate(
        (
            "identity",
            "product",
            "tanh",
            "relu",
            "leaky_relu",
            "silu",
            "softplus",
            "sin",
            "gelu",
            "attention",
            "argument",
        )
    )
}
"""What a row makes of its sum, by name; a ``product`` multiplies its entries' rows instead, each of which is an
identity that nothing else reads. Rows of ``attention`` have no entries: a head reads its ``argument`` rows, which
nothing else does, and are identities."""
ACTIVATION_CODES = FUNCTIONS.keys() - {"product", "attention", "argument"}
"""Names of those that an activation may have."""
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Of Adam (Kingma and Ba, 2015), as in torch."""
_IDENTITY, _PRODUCT, _TANH, _RELU, _LEAKY, _SILU, _SOFTPLUS, _SIN, _GELU, _ATTENTION, _ARGUMENT = FUNCTIONS.values()


class Circuit(NamedTuple):
    """Rows and entries; ``first`` = 1 + inputs is the first computed row.

    Args:
        inputs: numbers of one sample.
        outputs: how many rows at the end are outputs.
        function: uint8 (rows,), from `FUNCTIONS`.
        indptr: int64 (rows - first + 1,), where the entries of each computed row start.
        columns: int32 (entries,), the row each entry reads; a bias, which reads row 0, is the last of its row.
        places: int32 (entries,), its weight, among P weights and a last that is 1.
        column_indptr: int64 (rows + 1,), the same by columns.
        readers: int32 (entries,).
        column_places: int32 (entries,).
        heads: int64 (heads, 9), of attention, in the order of their results; see `rsl_cli.kernels.heads.FIELDS`.
    """

    inputs: int
    outputs: int
    function: np.ndarray
    indptr: np.ndarray
    columns: np.ndarray
    places: np.ndarray
    column_indptr: np.ndarray
    readers: np.ndarray
    column_places: np.ndarray
    heads: np.ndarray


class Samples(NamedTuple):
    """Data of one objective.

    Args:
        x: (N, inputs).
        targets: (N, outputs) of the same type; (0, 0) for cross-entropy.
        labels: int64 (N,), classes; (0,) where there are none.
    """

    x: np.ndarray
    targets: np.ndarray
    labels: np.ndarray


@jit(nogil=True, error_model="numpy")
def group_bounds(samples, weight, group):
    """First and last + 1 sample of a group, and how many groups there are, given an array of the weights' type."""
    strip = lanes(weight)
    strips = -(-samples // strip)
    groups = max(1, min(_MOST_GROUPS, strips // _STRIPS_OF_GROUP))
    return (strips * group // groups) * strip, min(samples, (strips * (group + 1) // groups) * strip), groups


@jit(nogil=True, error_model="numpy")
def activate(function, y, d, row, differentiate):
    """Put sigma(z) in place of z, and sigma'(z) into the row of d; not for tanh, whose slope y itself tells."""
    strip = lanes(y)
    real = y.dtype.type
    one = real(1)
    y, d = y[row * strip : row * strip + strip], d[row * strip : row * strip + strip]
    if function in (_RELU, _LEAKY):
        below = real(0.01) if function == _LEAKY else real(0)
        for m in range(strip):
            d[m] = one if y[m] > 0 else below
            y[m] *= d[m]
    elif function == _SILU:
        for m in range(strip):
            z = y[m]
            gate = (one + tanh(z / 2)) / 2
            y[m] = z * gate
            d[m] = gate * (one + z * (one - gate))
    elif function == _SOFTPLUS:
        for m in range(strip):
            z = y[m]
            scale, less_one = exponential(-abs(z))
            y[m] = max(z, real(0)) + math.log1p(scale + scale * less_one)
            d[m] = (one + tanh(z / 2)) / 2
    elif function == _SIN:
        for m in range(strip):
            z = y[m]
            y[m] = math.sin(z)
            d[m] = math.cos(z)
    elif function == _GELU:
        for m in range(strip):
            z = y[m]
            below = (one + math.erf(z * real(math.sqrt(0.5)))) / 2
            density = real(1 / math.sqrt(2 * math.pi)) * math.exp(-z * z / 2)
            y[m] = z * below
            d[m] = below + z * density
    elif differentiate:
        for m in range(strip):
            d[m] = one


@jit(nogil=True, error_model="numpy")
def multiply(columns, begin, end, y, d, row):
    """A product row; each factor's derivative, the product of the others, goes to its own row of d."""
    strip = lanes(y)
    one = y.dtype.type(1)
    for m in range(strip):
        y[row * strip + m] = one
        d[row * strip + m] = one
    for k in range(begin, end):
        for m in range(strip):
            y[row * strip + m] *= y[columns[k] * strip + m]
            d[columns[k] * strip + m] = one
        for other in range(begin, end):
            if other != k:
                for m in range(strip):
                    d[columns[k] * strip + m] *= y[columns[other] * strip + m]


@jit(nogil=True, error_model="numpy")
def forward(circuit, weight, y, d, differentiate):
    """Fill a strip's values y from its inputs, and its slopes d if it is to be differentiated."""
    first, head = circuit.inputs + 1, 0
    for row in range(first, len(circuit.function)):
        begin, end = circuit.indptr[row - first], circuit.indptr[row - first + 1]
        if circuit.function[row] == _PRODUCT:
            multiply(circuit.columns, begin, end, y, d, row)
        elif circuit.function[row] == _ATTENTION:
            if head < len(circuit.heads) and circuit.heads[head, 0] == row:
                attend(circuit.heads[head], y)
                head += 1
        else:
            weighted_sum(y, circuit.columns, lanes(y), 0, circuit.places, weight, begin, end, y, row * lanes(y))
            if circuit.function[row] == _TANH:
                apply_tanh(y, row * lanes(y))
            else:
                activate(circuit.function[row], y, d, row, differentiate)


@jit(nogil=True, error_model="numpy")
def backward(circuit, weight, y, d, gradient):
    """Turn every row of y, from those of the outputs, into derivatives by its sum; add up the weights' gradient.

    Whatever reads a row comes after it, and its derivative serves the row's own and the weight's between the two, so
    that an entry is read once. The constant is the exception: its readers' derivatives would have left the cache.
    """
    first, rows, strip = circuit.inputs + 1, len(circuit.function), lanes(y)
    readers, places, head = circuit.readers, circuit.column_places, len(circuit.heads) - 1
    for row in range(rows - 1, first - 1, -1):
        at = row * strip
        if row < rows - circuit.outputs:
            begin, end = circuit.column_indptr[row], circuit.column_indptr[row + 1]
            if circuit.function[row] == _TANH:
                backward_sum_tanh(y, readers, places, weight, begin, end, at, gradient)
            elif circuit.function[row] == _ARGUMENT:
                for m in range(at, at + strip):
                    y[m] = d[m]
            else:
                backward_sum(y, readers, places, weight, begin, end, at, gradient)
                if circuit.function[row] != _ATTENTION:
                    _scale(y, d, at)
                elif circuit.heads[head, 0] == row:
                    attend_backward(circuit.heads[head], y, d)
                    head -= 1
        begin, end = circuit.indptr[row - first], circuit.indptr[row - first + 1]
        if end > begin and circuit.columns[end - 1] == 0:
            add_dots(y, circuit.columns, strip, 0, circuit.places, end - 1, end, y, at, gradient)
    for row in range(1, first):
        begin, end = circuit.column_indptr[row], circuit.column_indptr[row + 1]
        add_dots(y, readers, strip, 0, places, begin, end, y, row * strip, gradient)


@jit(nogil=True, error_model="numpy")
def _scale(y, d, at):
    """Multiply a strip of y by that of d."""
    y, d = y[at : at + lanes(y)], d[at : at + lanes(y)]
    for m in range(len(y)):
        y[m] *= d[m]


@jit(nogil=True, error_model="numpy")
def load(x, chosen, start, valid, y):
    """The inputs of a strip; where samples end, the last one again, which then counts for nothing."""
    strip = lanes(y)
    for m in range(strip):
        sample = chosen[start + min(m, valid - 1)]
        for i in range(x.shape[1]):
            y[(1 + i) * strip + m] = x[sample, i]


@jit(nogil=True, error_model="numpy")
def slope(function, y, d, at):
    """The derivative of a row's function by its sum, at a place of y."""
    return y.dtype.type(1) - y[at] * y[at] if function[at // lanes(y)] == _TANH else d[at]


@jit(nogil=True, error_model="numpy")
def _losses(circuit, samples, chosen, start, valid, norm, y, d):
    """Sum of the losses of a strip, and how many classes are right; outputs turn into derivatives by their sums."""
    strip, real, k = lanes(y), y.dtype.type, circuit.outputs
    base = (len(circuit.function) - k) * strip
    loss, right = 0.0, 0
    for m in range(strip):
        sample = chosen[start + min(m, valid - 1)]
        best = 0
        for o in range(1, k):
            best = o if y[base + o * strip + m] > y[base + best * strip + m] else best
        weight = real(norm) if m < valid else real(0)
        one_loss = 0.0
        if len(samples.targets) > 0:
            aim = 0
            for o in range(k):
                at = base + o * strip + m
                residual = y[at] - samples.targets[sample, o]
                one_loss += 0.5 * np.float64(residual) * np.float64(residual)
                y[at] = residual * weight * slope(circuit.function, y, d, at)
                aim = o if samples.targets[sample, o] > samples.targets[sample, aim] else aim
        else:
            aim = samples.labels[sample]
            largest, total = np.float64(y[base + best * strip + m]), 0.0
            for o in range(k):
                total += math.exp(np.float64(y[base + o * strip + m]) - largest)
            one_loss = math.log(total) - (np.float64(y[base + aim * strip + m]) - largest)
            for o in range(k):
                at = base + o * strip + m
                share = math.exp(np.float64(y[at]) - largest) / total
                y[at] = real(share - (1.0 if o == aim else 0.0)) * weight * slope(circuit.function, y, d, at)
        if m < valid:
            loss += one_loss
            right += best == aim
    return loss, right


@jit(nogil=True, error_model="numpy")
def scratch(circuit, weight):
    """Memory for `add_gradient` to use again and again, from the start of a line of cache: no register needs two.

    Returns:
        (2, rows * lanes): a strip of each row's values, then derivatives; and of slopes.
    """
    length, size = len(circuit.function) * lanes(weight), weight.itemsize
    memory = np.empty(2 * length + _LINE // size, weight.dtype)
    start = (-memory.ctypes.data % _LINE) // size
    return memory[start : start + 2 * length].reshape(2, length)


@jit(nogil=True, error_model="numpy")
def add_gradient(circuit, weight, samples, chosen, start, stop, norm, gradient, work):
    """Losses of some samples, and their gradient.

    Args:
        circuit: what to compute.
        weight: (P + 1,), the last being 1.
        samples: data.
        chosen: int64, numbers of samples; those from ``start`` to ``stop`` - 1 of them are taken.
        start: first.
        stop: last + 1.
        norm: factor of each sample's loss in the gradient.
        gradient: (P + 1,), to which it is added; of length 0: none is taken.
        work: from `scratch`.

    Returns:
        The sum of the losses, and how many samples the largest output classifies rightly.
    """
    strip, differentiate = lanes(weight), len(gradient) > 0
    y, d = work[0], work[1]
    y[:strip] = 1
    total, right = 0.0, 0
    for at in range(start, stop, strip):
        valid = min(strip, stop - at)
        load(samples.x, chosen, at, valid, y)
        forward(circuit, weight, y, d, differentiate)
        loss, hits = _losses(circuit, samples, chosen, at, valid, norm, y, d)
        total += loss
        right += hits
        if differentiate:
            backward(circuit, weight, y, d, gradient)
    return total, right


@jit(nogil=True, error_model="numpy")
def mean_gradient(circuit, theta, factor, samples, chosen, gradient, work):
    """The mean loss over chosen samples, and its gradient, by one thread.

    Args:
        circuit: what to compute.
        theta: (P,).
        factor: (P,), by which a parameter is multiplied to give its weight.
        samples: data.
        chosen: int64 (B,), numbers of samples.
        gradient: (P,), overwritten.
        work: from `scratch`.

    Returns:
        The loss.
    """
    weight = np.ones(len(theta) + 1, theta.dtype)
    for p in range(len(theta)):
        weight[p] = theta[p] * factor[p]
    count = len(chosen)
    gradient[:] = 0
    loss, groups, group = 0.0, 1, 0
    part = np.empty_like(weight)
    while group < groups:
        start, stop, groups = group_bounds(count, theta, group)
        part[:] = 0
        loss += add_gradient(circuit, weight, samples, chosen, start, stop, 1 / count, part, work)[0]
        gradient += part[:-1]
        group += 1
    gradient *= factor
    return loss / count


@jit(nogil=True, error_model="numpy")
def adam_step(theta, gradient, rate, first, second, step):
    """One step of Adam in place; ``rate`` (P,) is each parameter's, ``step`` counts from 1."""
    real = theta.dtype.type
    b1, b2, rest1, rest2 = real(BETA1), real(BETA2), real(1 - BETA1), real(1 - BETA2)
    c1, c2, epsilon = real(1 - BETA1**step), real(math.sqrt(1 - BETA2**step)), real(EPSILON)
    for p in range(len(theta)):
        first[p] = b1 * first[p] + rest1 * gradient[p]
        second[p] = b2 * second[p] + rest2 * gradient[p] * gradient[p]
        theta[p] -= rate[p] / c1 * first[p] / (np.sqrt(second[p]) / c2 + epsilon)


@jit(nogil=True, error_model="numpy")
def momentum_step(theta, gradient, rate, velocity, momentum):
    """One step of gradient descent with momentum in place."""
    real = theta.dtype.type
    for p in range(len(theta)):
        velocity[p] = real(momentum) * velocity[p] + gradient[p]
        theta[p] -= rate[p] * velocity[p]


@jit(nogil=True, error_model="numpy")
def update(theta, gradient, rate, states, step, momentum):
    """One step in place: of Adam if there are two states (2, P), of gradient descent if there is one."""
    if len(states) == 2:
        adam_step(theta, gradient, rate, states[0], states[1], step)
    else:
        momentum_step(theta, gradient, rate, states[0], momentum)


@jit(nogil=True, error_model="numpy")
def advance(circuit, theta, factor, samples, batches, rates, scale, states, step, momentum):
    """Take steps of a first-order trainer in place, by one thread.

    Args:
        circuit: what to compute.
        theta: (P,).
        factor: (P,), by which a parameter is multiplied to give its weight.
        samples: data.
        batches: int64 (K, B), or (1, B) for all steps the same.
        rates: float64 (K,), the learning rate of each step.
        scale: (P,), factors of the learning rate.
        states: (2, P) for Adam, (1, P) for gradient descent.
        step: steps taken before.
        momentum: of gradient descent.

    Returns:
        How many steps were taken: fewer than K if a loss was not finite, before which it stops.
    """
    gradient, work = np.empty_like(theta), scratch(circuit, theta)
    for k in range(len(rates)):
        chosen = batches[min(k, len(batches) - 1)]
        if not np.isfinite(mean_gradient(circuit, theta, factor, samples, chosen, gradient, work)):
            return k
        rate = scale * theta.dtype.type(rates[k])
        update(theta, gradient, rate, states, step + k + 1, momentum)
    return len(rates)
