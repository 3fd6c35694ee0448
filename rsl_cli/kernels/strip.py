"""Vector code for a strip of samples: as many as four of the machine's widest registers hold, 256 bytes.

A strip is short enough to be summed in registers from the first in-edge to the last, and long enough that an edge's
index and weight are read for many samples. LLVM does not find this by itself from loops over arrays, so the two inner
loops are written out in its own language; everything around them is ordinary Numba.

Nothing here leaves LLVM a choice of rounding: sums are taken in one order, and where a product and a sum are to be one
operation it is asked for by name. With Numba's ``fastmath`` the copies of a function that several callers hold would
round as each caller's compilation liked, and a process that compiles would not repeat one that reads the cache.
"""

from itertools import zip_longest
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import get_or_insert_function, pointer_add, unpack_tuple
from numba.extending import intrinsic

_REGISTERS = 4
_REGISTER_BYTES = 64
BYTES = _REGISTERS * _REGISTER_BYTES
"""Of one strip."""
_INDEX = ir.IntType(64)
_intrinsic: Any = intrinsic
"""What it makes is called without the context it is written with."""


@_intrinsic
def lanes(context, array):
    """Samples of a strip of an array's type, known when the code is compiled."""
    count = BYTES * 8 // array.dtype.bitwidth

    def generate(context, builder, signature, arguments):
        return _INDEX(count)

    return types.int64(array), generate


class Strip:
    """Reads and writes strips of one array of floats, or of one row of a matrix of floats."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any, row: Any = None) -> None:
        self._builder = builder
        self.number = ir.FloatType() if kind.dtype.bitwidth == 32 else ir.DoubleType()
        self._align = kind.dtype.bitwidth // 8
        self._count = 8 * _REGISTER_BYTES // kind.dtype.bitwidth
        self.register = ir.VectorType(self.number, self._count)
        made = context.make_array(kind)(context, builder, array)
        self._data = made.data
        if row is not None:
            start = builder.mul(row, unpack_tuple(builder, made.strides)[0])
            self._data = pointer_add(builder, made.data, start)

    def _at(self, start: Any) -> Any:
        return self._builder.bitcast(self._builder.gep(self._data, [start]), self.register.as_pointer())

    def load(self, start: Any) -> list[Any]:
        """The registers of the strip that starts there."""
        first = self._at(start)
        parts = [self._builder.load(self._builder.gep(first, [_INDEX(i)])) for i in range(_REGISTERS)]
        for part in parts:
            part.align = self._align
        return parts

    def store(self, start: Any, parts: list[Any]) -> None:
        """Overwrite the strip that starts there."""
        first = self._at(start)
        for i, part in enumerate(parts):
            self._builder.store(part, self._builder.gep(first, [_INDEX(i)])).align = self._align

    def spread(self, number: Any) -> Any:
        """A register full of one number."""
        undefined = ir.Constant(self.register, ir.Undefined)
        one = self._builder.insert_element(undefined, number, ir.IntType(32)(0))
        mask = ir.Constant(ir.VectorType(ir.IntType(32), self._count), [0] * self._count)
        return self._builder.shuffle_vector(one, undefined, mask)

    def totals(self, registers: list[Any]) -> list[Any]:
        """The sums of one, two or four registers' numbers; halves are added up side by side in one register."""
        groups, total = 1, len(registers)
        while (length := registers[0].type.count // groups) > 1:
            pairs = list(zip_longest(registers[::2], registers[1::2]))
            half = [group * length + i for group in range(groups) for i in range(length // 2)]
            registers = [self._halves(one, other, half, length // 2) for one, other in pairs]
            groups = min(2 * groups, total)
        return [self._builder.extract_element(registers[0], ir.IntType(32)(i)) for i in range(total)]

    def _halves(self, one: Any, other: Any | None, half: list[int], shift: int) -> Any:
        """Halves of the groups of one register, then of the other, plus the halves ``shift`` further on."""
        places = half if other is None else half + [one.type.count + i for i in half]
        second = ir.Constant(one.type, ir.Undefined) if other is None else other
        masks = [[i + by for i in places] for by in (0, shift)]
        kind = ir.VectorType(ir.IntType(32), len(places))
        low, high = (self._builder.shuffle_vector(one, second, ir.Constant(kind, mask)) for mask in masks)
        return self._builder.fadd(low, high)

    @property
    def zero(self) -> Any:
        """A register of zeros."""
        return ir.Constant(self.register, [0.0] * self._count)


def _element(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """Where an element of an array lies."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [place])


def _index(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """An element of an int32 or int64 array, as a 64-bit number."""
    element = builder.load(_element(context, builder, kind, array, place))
    return element if kind.dtype.bitwidth == 64 else builder.sext(element, _INDEX)


def call(builder: Any, function: str, *arguments: Any) -> Any:
    """What one of LLVM's own functions makes of numbers, or of registers, all of one type."""
    kind = arguments[0].type
    name = f"v{kind.count}{kind.element.intrinsic_name}" if isinstance(kind, ir.VectorType) else kind.intrinsic_name
    signature = ir.FunctionType(kind, [kind] * len(arguments))
    return builder.call(get_or_insert_function(builder.module, signature, f"llvm.{function}.{name}"), arguments)


@_intrinsic
def multiply_add(context, a, b, c):
    """One operation, rounded once where the machine can, for a * b + c of three floats of one type."""

    def generate(context, builder, signature, arguments):
        return call(builder, "fmuladd", *arguments)

    return a(a, a, a), generate


def _edges(builder: Any, begin: Any, end: Any, step: int, carried: list[Any], body: Any) -> list[Any]:
    """A loop for k = begin, begin + step, ... below end that hands on values: body(k, values) gives the next ones."""
    before = builder.block
    loop, after = builder.append_basic_block("edge"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed("<", begin, end), loop, after)
    builder.position_at_end(loop)
    k = builder.phi(_INDEX)
    values = [builder.phi(value.type) for value in carried]
    changed = body(k, values)
    following = builder.add(k, _INDEX(step))
    for phi, first, new in zip([k, *values], [begin, *carried], [following, *changed], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(new, loop)
    builder.cbranch(builder.icmp_signed("<", following, end), loop, after)
    builder.position_at_end(after)
    results = [builder.phi(value.type) for value in carried]
    for phi, first, new in zip(results, carried, changed, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(new, loop)
    return results


@_intrinsic
def weighted_sum(context, x, starts, factor, shift, places, weight, begin, end, into, at):
    """Sum over begin <= k < end of weight[places[k]] times the strip of x from starts[k] * factor + shift.

    It goes to the strip of ``into`` from ``at``. Without places (None) it is weight[k]. Integers are int64, arrays of
    them int32 or int64.

    Returns:
        Nothing.
    """
    signature = types.void(x, starts, factor, shift, places, weight, begin, end, into, at)

    def generate(context, builder, signature, arguments):
        x, starts, factor, shift, places, weight, begin, end, into, at = arguments
        of_x, of_starts, _, _, of_places, of_weight, _, _, of_into, _ = signature.args
        source, target = Strip(context, builder, of_x, x), Strip(context, builder, of_into, into)

        def add(k: Any, sums: list[Any]) -> list[Any]:
            place = k if of_places == types.none else _index(context, builder, of_places, places, k)
            number = source.spread(builder.load(_element(context, builder, of_weight, weight, place)))
            start = builder.mul(_index(context, builder, of_starts, starts, k), factor)
            return _add_products(builder, [number] * _REGISTERS, source.load(builder.add(start, shift)), sums)

        target.store(at, _edges(builder, begin, end, 1, [source.zero] * _REGISTERS, add))
        return context.get_dummy_value()

    return signature, generate


def _backward_sum(*, tanh: bool) -> Any:
    @_intrinsic
    def backward_sum(context, y, readers, places, weight, begin, end, at, gradient):
        signature = types.void(y, readers, places, weight, begin, end, at, gradient)

        def generate(context, builder, signature, arguments):
            y, readers, places, weight, begin, end, at, gradient = arguments
            of_y, of_readers, of_places, of_weight, _, _, _, of_gradient = signature.args
            strip = Strip(context, builder, of_y, y)
            values, lanes = strip.load(at), _INDEX(_REGISTERS * strip.register.count)

            def add(k: Any, sums: list[Any], count: int) -> list[Any]:
                edges = [builder.add(k, _INDEX(i)) for i in range(count)]
                found = [_index(context, builder, of_places, places, edge) for edge in edges]
                slopes = []
                for edge, place in zip(edges, found, strict=True):
                    number = strip.spread(builder.load(_element(context, builder, of_weight, weight, place)))
                    slopes.append(strip.load(builder.mul(_index(context, builder, of_readers, readers, edge), lanes)))
                    sums = _add_products(builder, [number] * _REGISTERS, slopes[-1], sums)
                _increase(context, builder, of_gradient, gradient, found, slopes, values)
                return sums

            middle = builder.add(begin, builder.and_(builder.sub(end, begin), _INDEX(-4)))
            sums = [strip.zero] * _REGISTERS
            sums = _edges(builder, begin, middle, 4, sums, lambda k, sums: add(k, sums, 4))
            sums = _edges(builder, middle, end, 1, sums, lambda k, sums: add(k, sums, 1))
            if tanh:
                one = ir.Constant(strip.register, [1.0] * strip.register.count)
                bends = [call(builder, "fmuladd", builder.fneg(value), value, one) for value in values]
                sums = [builder.fmul(*pair) for pair in zip(sums, bends, strict=True)]
            strip.store(at, sums)
            return context.get_dummy_value()

        return signature, generate

    return backward_sum


backward_sum = _backward_sum(tanh=False)
"""backward_sum(y, readers, places, weight, begin, end, at, gradient): where the strips of y of ``readers`` hold the
derivatives by their sums, and the strip from ``at`` a value v that they read: gradient[places[k]] += <v, that of
readers[k]>, and the strip from ``at`` becomes the derivative by v, the sum of weight[places[k]] times that of
readers[k]. Each is read once for both. Of a matrix (P, lanes) the product of each sample is added to its row's."""
backward_sum_tanh = _backward_sum(tanh=True)
"""The same, times 1 - v^2: the derivative by the sum of which v is the tanh."""


def _add_products(builder: Any, a: list[Any], b: list[Any], sums: list[Any]) -> list[Any]:
    """Registers of sums plus those of a times those of b."""
    return [call(builder, "fmuladd", *parts) for parts in zip(a, b, sums, strict=True)]


def _increase(
    context: Any, builder: Any, kind: Any, array: Any, places: list[Any], strips: list[list[Any]], by: list[Any]
) -> None:
    """Add products of one strip with several: their sums to elements of a vector, themselves to rows of a matrix."""
    if kind.ndim == 2:
        for place, strip in zip(places, strips, strict=True):
            row = Strip(context, builder, kind, array, place)
            row.store(_INDEX(0), _add_products(builder, strip, by, row.load(_INDEX(0))))
        return
    vector, dots = Strip(context, builder, kind, array), []
    for strip in strips:
        total = vector.zero
        for part, other in zip(strip, by, strict=True):
            total = call(builder, "fmuladd", part, other, total)
        dots.append(total)
    for place, total in zip(places, vector.totals(dots), strict=True):
        cell = _element(context, builder, kind, array, place)
        builder.store(builder.fadd(builder.load(cell), total), cell)


@_intrinsic
def add_dots(context, x, starts, factor, shift, places, begin, end, g, at, into):
    """into[places[k]] += <strip of x from starts[k] * factor + shift, strip of g from at>, for begin <= k < end.

    If ``into`` is a matrix, the product of each sample is added to its row's.

    Returns:
        Nothing.
    """
    signature = types.void(x, starts, factor, shift, places, begin, end, g, at, into)

    def generate(context, builder, signature, arguments):
        x, starts, factor, shift, places, begin, end, g, at, into = arguments
        of_x, of_starts, _, _, of_places, _, _, of_g, _, of_into = signature.args
        source, fixed = Strip(context, builder, of_x, x), Strip(context, builder, of_g, g).load(at)

        def operand(k: Any) -> list[Any]:
            start = builder.mul(_index(context, builder, of_starts, starts, k), factor)
            return source.load(builder.add(start, shift))

        def add(k: Any, count: int) -> list[Any]:
            edges = [builder.add(k, _INDEX(i)) for i in range(count)]
            found = edges
            if of_places != types.none:
                found = [_index(context, builder, of_places, places, edge) for edge in edges]
            _increase(context, builder, of_into, into, found, [operand(edge) for edge in edges], fixed)
            return []

        fours = builder.and_(builder.sub(end, begin), _INDEX(-4))
        middle = builder.add(begin, fours)
        _edges(builder, begin, middle, 4, [], lambda k, _: add(k, 4))
        _edges(builder, middle, end, 1, [], lambda k, _: add(k, 1))
        return context.get_dummy_value()

    return signature, generate
