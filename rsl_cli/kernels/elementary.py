"""tanh and the exponential function as vector code, rounded alike wherever they stand.

Written in LLVM's language, like the strips: one formulation serves single numbers, in loops that LLVM makes vector code
of, and whole registers, of which two then share every constant that is read. No calls, no branches.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.polynomial import chebyshev

from rsl_cli.kernels.strip import Strip, call

_intrinsic: Any = intrinsic
"""What it makes is called without the context it is written with."""
_LOG2_E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693145751953125, 1.42860682030941723e-06
"""ln 2 in two parts; multiples of the first by small whole numbers are exact in float32."""
_TERMS = {32: 5, 64: 10}
"""Of the Chebyshev series of (e^r - 1 - r) / r^2, |r| < ln(2) / 2, that a type of so many bits can tell from all."""
_LARGEST = {32: 40.0, 64: 80.0}
"""A range of exponents inside which e^x and e^2x are numbers; tanh is 1 long before."""
_MANTISSA, _BIAS = {32: 23, 64: 52}, {32: 127, 64: 1023}


@_intrinsic
def exponential(context, x):
    """(2^k, e^r - 1) with e^x = 2^k e^r, of a float."""

    def generate(context, builder, signature, arguments):
        return context.make_tuple(builder, signature.return_type, _exponential(builder, arguments[0]))

    return types.UniTuple(x, 2)(x), generate


@_intrinsic
def tanh(context, x):
    """Tanh of a float, to two units of the last place."""

    def generate(context, builder, signature, arguments):
        return _tanh(builder, arguments[0])

    return x(x), generate


@_intrinsic
def apply_tanh(context, y, at):
    """Put tanh in place of the strip of y from ``at``."""

    def generate(context, builder, signature, arguments):
        strip = Strip(context, builder, signature.args[0], arguments[0])
        strip.store(arguments[1], [_tanh(builder, part) for part in strip.load(arguments[1])])
        return context.get_dummy_value()

    return types.void(y, at), generate


def _tanh(builder: Any, x: Any) -> Any:
    """With e^2x - 1 = 2^k (e^r - 1) + (2^k - 1) nothing cancels anywhere: tanh = (e^2x - 1) / (e^2x + 1)."""
    one, two = _constant(x.type, 1.0), _constant(x.type, 2.0)
    scale, less_one = _exponential(builder, builder.fadd(x, x))
    rest = call(builder, "fmuladd", scale, less_one, builder.fsub(scale, one))
    return builder.fdiv(rest, builder.fadd(rest, two))


def _exponential(builder: Any, x: Any) -> tuple[Any, Any]:
    kind, bits = x.type, _bits(x.type)
    for sign, is_beyond in ((1.0, ">"), (-1.0, "<")):  # What is not a number stays so.
        most = _constant(kind, sign * _LARGEST[bits])
        x = builder.select(builder.fcmp_ordered(is_beyond, x, most), most, x)
    k = call(builder, "rint", builder.fmul(x, _constant(kind, _LOG2_E)))
    r = x
    for part in (_LN2_HIGH, _LN2_LOW):
        r = call(builder, "fmuladd", k, _constant(kind, -part), r)
    square = builder.fmul(r, r)
    # Even and odd powers apart: half the length of a chain of operations each waiting for the one before.
    even, odd = (_polynomial(builder, part, square) for part in (_series(bits)[::2], _series(bits)[1::2]))
    return _power_of_two(builder, k), call(builder, "fmuladd", square, call(builder, "fmuladd", odd, r, even), r)


def _polynomial(builder: Any, coefficients: Sequence[float], x: Any) -> Any:
    total, *rest = (_constant(x.type, c) for c in reversed(coefficients))
    for c in rest:
        total = call(builder, "fmuladd", total, x, c)
    return total


def _series(bits: int) -> list[float]:
    """(e^r - 1 - r) / r^2 for |r| < ln(2) / 2: its Chebyshev series cut off, as a polynomial, lowest power first."""
    most, terms = Fraction(math.log(2) / 2), _TERMS[bits]
    powers = [most**k / math.factorial(k + 2) for k in range(2 * terms)]
    kept: Any = chebyshev.cheb2poly(chebyshev.poly2cheb(np.array(powers, dtype=object))[:terms])
    return [float(c / most**k) for k, c in enumerate(kept)]


def _power_of_two(builder: Any, k: Any) -> Any:
    """2^k for a whole number k in a float, by writing its exponent bits.

    Far larger than k, the number it is added to leaves k + bias in the lowest bits: AVX2 cannot turn a double into a
    whole number otherwise.

    Returns:
        A value of LLVM, a double.
    """
    bits = _bits(k.type)
    integer = ir.IntType(bits)
    whole = ir.VectorType(integer, k.type.count) if isinstance(k.type, ir.VectorType) else integer
    shifted = builder.fadd(k, _constant(k.type, 1.5 * 2.0 ** _MANTISSA[bits] + _BIAS[bits]))
    return builder.bitcast(builder.shl(builder.bitcast(shifted, whole), _constant(whole, _MANTISSA[bits])), k.type)


def _bits(kind: Any) -> int:
    return 32 if (kind.element if isinstance(kind, ir.VectorType) else kind) == ir.FloatType() else 64


def _constant(kind: Any, number: float) -> Any:
    return ir.Constant(kind, [number] * kind.count if isinstance(kind, ir.VectorType) else number)
