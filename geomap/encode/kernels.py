"""The steps between the encoder's products on a CPU, compiled by numba.

Each step reads and writes its rows once. Rows are float32, bfloat16 as the uint16 of its bits, or float16 as the int16
of its bits. Arithmetic is float32, on LANES numbers at a time (LLVM maps them to what the processor has). A row's
result does not depend on other pixels. Torch's own operators take several times as long for the sizes of this encoder
(docs/engine.md).

In attention the heads lie along the lanes: number d * heads + h of a row is channel d of head h. Products of queries
and keys are then sums of whole vectors, which hold one score per head, and weights multiply values lane by lane.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, models, overload, register_model
from torch import Tensor

from geomap import process

LANES = 16
"""Numbers in one vector: 512 bits, two or four registers on processors with shorter ones."""
EPSILON = np.float32(1e-5)
"""Epsilon of LayerNorm; torch's default, with which the encoder is trained."""
LOG2_E = np.float32(1 / math.log(2))
MIN_EXPONENT = np.float32(-100)
"""Smallest exponent: weights of 1e-30 do not matter, and numbers made from them are still normal, so not slow."""
ROUNDS = np.float32(1.5 * 2**23)
"""Added to a number below 2**22, it leaves the nearest integer in the low bits."""
C1, C2, C3, C4, C5, C6 = (np.float32(math.log(2) ** k / math.factorial(k)) for k in range(1, 7))
"""Taylor series of 2**f, with an error of at most 1e-7 for abs(f) <= 1 / 2."""


def fits(heads: int, *widths: int) -> bool:
    """Whether rows of these widths can be computed here, with attention of this many heads."""
    return LANES % heads == 0 and not any(width % LANES for width in widths)


def norm_(rows: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm of rows + residual, written to both: (R, D) of any two dtypes. Weight and bias (D,) are float32."""
    _norm(_array(rows), _array(residual), weight.numpy(), bias.numpy())
    return rows


def relu_(rows: Tensor, bias: Tensor) -> Tensor:
    """max(rows + bias, 0) in place: (R, D) and float32 (D,)."""
    _relu(_array(rows), bias.numpy())
    return rows


def attend_(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    tokens: int,
    q_bias: Tensor | None = None,
    v_bias: Tensor | None = None,
) -> Tensor:
    """Attention within G groups of consecutive rows, written over the queries. Rows may be columns of wider rows.

    Args:
        q: (G * queries, E * heads), already scaled; the heads of a channel lie side by side.
        k: (G * tokens, E * heads) keys in the same order, or (G * tokens, E) if all heads share them.
        v: values, like the keys.
        q_bias: (E * heads,) float32, added to the queries.
        v_bias: the same, added to the values.
    """
    none = torch.zeros(q.shape[1])
    biases = ((none if bias is None else bias).numpy() for bias in (q_bias, v_bias))
    arrays, steps = zip(*((_array(rows), rows.stride(0)) for rows in (q, k, v)), strict=True)
    _attend(*arrays, steps, k.shape[1], *biases, heads, len(q) * tokens // len(k), tokens)
    return q


def _array(rows: Tensor) -> Any:
    """All numbers from the first to the last row, including those in between that belong to wider rows."""
    kind = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}.get(rows.dtype, rows.dtype)
    n, width = rows.shape
    return rows.view(kind).as_strided(((n - 1) * rows.stride(0) + width,), (1,)).numpy()


# Vectors for the compiled loops; in this file because numba recompiles its cache when this file changes --------------

_FLOATS = ir.VectorType(ir.FloatType(), LANES)
_INTS = ir.VectorType(ir.IntType(32), LANES)
_SHORTS = ir.VectorType(ir.IntType(16), LANES)
_HALVES = ir.VectorType(ir.HalfType(), LANES)

_operation: Callable[[Callable[..., Any]], Any] = intrinsic
"""Decorator for a function of types that returns a signature and a function that emits LLVM code."""


class _Vector(types.Type):
    """LANES float32 in registers."""

    def __init__(self) -> None:
        super().__init__("vector")


class _InRegisters(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)  # type: ignore[no-untyped-call]


register_model(_Vector)(_InRegisters)
_vector: Any = _Vector()


def _ints(value: int) -> ir.Constant:
    return ir.Constant(_INTS, [value] * LANES)


def _place(context: Any, builder: Any, kind: Any, rows: Any, at: Any) -> Any:
    """Pointer to element `at` of a one-dimensional array."""
    return builder.gep(context.make_array(kind)(context, builder, rows).data, [at])


def _kept(rows: Any) -> tuple[ir.VectorType, int]:
    """The type of LANES numbers in memory, and the bytes of one number, which is their alignment."""
    return {types.float32: (_FLOATS, 4), types.uint16: (_SHORTS, 2), types.int16: (_HALVES, 2)}[rows.dtype]


def _widened(builder: Any, bits: Any, wide: Any) -> Any:
    """The bits of bfloat16, moved to the upper half of float32."""
    return builder.shl(builder.zext(bits, wide), _ints(16) if wide is _INTS else ir.Constant(wide, 16))


@_operation
def _load(_: Any, rows: Any, at: Any) -> Any:
    """LANES numbers, starting at `at`."""
    kind, size = _kept(rows)

    def emit(context: Any, builder: Any, _: Any, values: Any) -> Any:
        place = _place(context, builder, rows, *values)
        value = builder.load(builder.bitcast(place, kind.as_pointer()), align=size)
        if kind is _SHORTS:
            return builder.bitcast(_widened(builder, value, _INTS), _FLOATS)
        return value if kind is _FLOATS else builder.fpext(value, _FLOATS)

    return _vector(rows, types.intp), emit


@_operation
def _store(_: Any, rows: Any, at: Any, vector: Any) -> Any:
    """Write a vector at `at`, rounded to nearest; ties in bfloat16 go away from zero."""
    kind, size = _kept(rows)

    def emit(context: Any, builder: Any, _: Any, values: Any) -> Any:
        place, value = _place(context, builder, rows, *values[:2]), values[2]
        if kind is _SHORTS:
            bits = builder.add(builder.bitcast(value, _INTS), _ints(0x8000))
            value = builder.trunc(builder.lshr(bits, _ints(16)), _SHORTS)
        elif kind is _HALVES:
            value = builder.fptrunc(value, _HALVES)
        builder.store(value, builder.bitcast(place, kind.as_pointer()), align=size)
        return context.get_dummy_value()

    return types.void(rows, types.intp, vector), emit


def _repeated(builder: Any, number: Any) -> Any:
    first = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(first, first, _ints(0))


@_operation
def _all(_: Any, number: Any) -> Any:
    """A float32 in all lanes."""
    return _vector(types.float32), lambda _c, builder, _s, values: _repeated(builder, values[0])


@_operation
def _load_one(_: Any, rows: Any, at: Any) -> Any:
    """The number at `at`, in all lanes."""

    def emit(context: Any, builder: Any, _: Any, values: Any) -> Any:
        number = builder.load(_place(context, builder, rows, *values))
        if not isinstance(rows.dtype, types.Float):
            number = builder.bitcast(_widened(builder, number, ir.IntType(32)), ir.FloatType())
        return _repeated(builder, number)

    return _vector(rows, types.intp), emit


def _called(builder: Any, name: str, values: Any) -> Any:
    """Call an intrinsic function of LLVM."""
    name = f"llvm.{name}.v{LANES}f32"
    known = builder.module.globals
    if name not in known:
        ir.Function(builder.module, ir.FunctionType(_FLOATS, [_FLOATS] * len(values)), name)
    return builder.call(known[name], values)


@_operation
def _fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    """The sum a * b + c, rounded once if the processor can."""
    return _vector(a, b, c), lambda _c, builder, _s, values: _called(builder, "fmuladd", values)


@_operation
def _root(_: Any, a: Any) -> Any:
    return _vector(a), lambda _c, builder, _s, values: _called(builder, "sqrt", values)


@_operation
def _larger(_: Any, a: Any, b: Any) -> Any:
    def emit(_c: Any, builder: Any, _s: Any, values: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", *values), *values)

    return _vector(a, b), emit


@_operation
def _times_power(_: Any, a: Any, shifted: Any) -> Any:
    """The product a * 2**n, where `shifted` is n + ROUNDS: n is taken from its low bits and added to the exponents."""

    def emit(_c: Any, builder: Any, _s: Any, values: Any) -> Any:
        bits, n = (builder.bitcast(value, _INTS) for value in values)
        return builder.bitcast(builder.add(bits, builder.shl(n, _ints(23))), _FLOATS)

    return _vector(a, shifted), emit


def _plus_turned(by: int) -> Any:
    """Adds to every lane the lane `by` positions further, cyclically."""

    def typed(_: Any, a: Any) -> Any:
        order = ir.Constant(_INTS, [(i + by) % LANES for i in range(LANES)])

        def emit(_c: Any, builder: Any, _s: Any, values: Any) -> Any:
            return builder.fadd(values[0], builder.shuffle_vector(values[0], values[0], order))

        return _vector(a), emit

    return _operation(typed)


_plus_8, _plus_4, _plus_2, _plus_1 = (_plus_turned(by) for by in (8, 4, 2, 1))


def _arithmetic(symbol: Callable[[Any, Any], Any], instruction: str) -> None:
    """Lets the loops write `symbol` between vectors."""

    def typed(_: Any, a: Any, b: Any) -> Any:
        return _vector(a, b), lambda _c, builder, _s, values: getattr(builder, instruction)(*values)

    compiled = _operation(typed)

    def chosen(a: Any, b: Any) -> Any:
        both = isinstance(a, _Vector) and isinstance(b, _Vector)
        return (lambda a, b: compiled(a, b)) if both else None

    overload(symbol, inline="always", strict=False)(chosen)


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")

# Loops ----------------------------------------------------------------------------------------------------------------

_OPTIONS: dict[str, Any] = {"error_model": "numpy"}  # no check for division by zero
_inlined: Callable[[Callable[..., Any]], Callable[..., Any]] = njit(inline="always", nogil=True, **_OPTIONS)


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    return process.compiled(function, **_OPTIONS)


@_inlined
def _room(n: int) -> Any:
    """(n,) float32, aligned to the size of a vector: a vector across two cache lines takes twice as long."""
    room = np.empty(n + LANES, np.float32)
    start = -(room.ctypes.data // 4) % LANES
    return room[start : start + n]


@_inlined
def _folded(a: Any, period: int) -> Any:
    """In each lane, the sum of the lanes `period` apart."""
    if period <= 8:
        a = _plus_8(a)
    if period <= 4:
        a = _plus_4(a)
    if period <= 2:
        a = _plus_2(a)
    if period <= 1:
        a = _plus_1(a)
    return a


@_compiled
def _norm(rows: Any, residual: Any, weight: Any, bias: Any) -> None:
    d = len(weight)
    z = _room(d)
    zero, one, share, epsilon = _all(np.float32(0)), _all(np.float32(1)), _all(np.float32(1 / d)), _all(EPSILON)
    for row in range(0, len(rows), d):
        mean = square = zero
        for i in range(0, d, LANES):
            value = _load(rows, row + i) + _load(residual, row + i)
            _store(z, i, value)
            mean, square = mean + value, _fma(value, value, square)
        mean, square = _folded(mean, 1) * share, _folded(square, 1) * share
        scale = one / _root(_larger(square - mean * mean, zero) + epsilon)
        for i in range(0, d, LANES):
            value = _fma((_load(z, i) - mean) * scale, _load(weight, i), _load(bias, i))
            _store(rows, row + i, value)
            _store(residual, row + i, value)


@_compiled
def _relu(rows: Any, bias: Any) -> None:
    zero = _all(np.float32(0))
    for row in range(0, len(rows), len(bias)):
        for i in range(0, len(bias), LANES):
            _store(rows, row + i, _larger(_load(rows, row + i) + _load(bias, i), zero))


@_inlined
def _exp(x: Any) -> Any:
    """e**x for x <= 0: 2**n times 2**f, abs(f) <= 1 / 2."""
    power = _larger(x * _all(LOG2_E), _all(MIN_EXPONENT))
    shifted = power + _all(ROUNDS)
    f = power - (shifted - _all(ROUNDS))
    series = _fma(f, _all(C6), _all(C5))
    series = _fma(f, series, _all(C4))
    series = _fma(f, series, _all(C3))
    series = _fma(f, series, _all(C2))
    series = _fma(f, series, _all(C1))
    return _times_power(_fma(f, series, _all(np.float32(1))), shifted)


@_inlined
def _spread(source: Any, at: int, step: int, tokens: int, size: int, heads: int, width: int, rows: Any) -> None:
    """Keys or values of one group as rows of `width` float32; shared ones are repeated for every head."""
    for j in range(tokens):
        if size < width:
            for i in range(size):  # numbers stored too far are overwritten by the next store
                _store(rows, j * width + i * heads, _load_one(source, at + j * step + i))
        else:
            for i in range(0, width, LANES):
                _store(rows, j * width + i, _load(source, at + j * step + i))


@_inlined
def _score(pair: Any, keys: Any, width: int, heads: int, tokens: int, first: Any, second: Any) -> None:
    """Products of two queries with all keys, four keys at a time, so that loads into registers serve several sums."""
    zero = _all(np.float32(0))
    whole = tokens - tokens % 4
    for j in range(0, whole, 4):
        a = b = c = d = e = f = g = h = zero
        one, two, three, four = j * width, (j + 1) * width, (j + 2) * width, (j + 3) * width
        for i in range(0, width, LANES):
            x, y = _load(pair, i), _load(pair, width + i)
            key = _load(keys, one + i)
            a, e = _fma(x, key, a), _fma(y, key, e)
            key = _load(keys, two + i)
            b, f = _fma(x, key, b), _fma(y, key, f)
            key = _load(keys, three + i)
            c, g = _fma(x, key, c), _fma(y, key, g)
            key = _load(keys, four + i)
            d, h = _fma(x, key, d), _fma(y, key, h)
        at = j * LANES
        _store(first, at, _folded(a, heads))
        _store(first, at + LANES, _folded(b, heads))
        _store(first, at + 2 * LANES, _folded(c, heads))
        _store(first, at + 3 * LANES, _folded(d, heads))
        _store(second, at, _folded(e, heads))
        _store(second, at + LANES, _folded(f, heads))
        _store(second, at + 2 * LANES, _folded(g, heads))
        _store(second, at + 3 * LANES, _folded(h, heads))
    for j in range(whole, tokens):
        a = b = zero
        for i in range(0, width, LANES):
            key = _load(keys, j * width + i)
            a, b = _fma(_load(pair, i), key, a), _fma(_load(pair, width + i), key, b)
        _store(first, j * LANES, _folded(a, heads))
        _store(second, j * LANES, _folded(b, heads))


@_inlined
def _weigh(scores: Any, tokens: int) -> None:
    """Softmax over the scores of one query, in place."""
    top = _load(scores, 0)
    for j in range(1, tokens):
        top = _larger(top, _load(scores, j * LANES))
    total = _all(np.float32(0))
    for j in range(tokens):
        weight = _exp(_load(scores, j * LANES) - top)
        _store(scores, j * LANES, weight)
        total = total + weight
    share = _all(np.float32(1)) / total
    for j in range(tokens):
        _store(scores, j * LANES, _load(scores, j * LANES) * share)


@_inlined
def _mix(pair: Any, values: Any, width: int, tokens: int, first: Any, second: Any) -> None:
    """Adds all weighted values to two rows, four values at a time."""
    whole = tokens - tokens % 4
    for j in range(0, whole, 4):
        at = j * LANES
        a, b = _load(first, at), _load(first, at + LANES)
        c, d = _load(first, at + 2 * LANES), _load(first, at + 3 * LANES)
        e, f = _load(second, at), _load(second, at + LANES)
        g, h = _load(second, at + 2 * LANES), _load(second, at + 3 * LANES)
        one, two, three, four = j * width, (j + 1) * width, (j + 2) * width, (j + 3) * width
        for i in range(0, width, LANES):
            x, y = _load(pair, i), _load(pair, width + i)
            value = _load(values, one + i)
            x, y = _fma(a, value, x), _fma(e, value, y)
            value = _load(values, two + i)
            x, y = _fma(b, value, x), _fma(f, value, y)
            value = _load(values, three + i)
            x, y = _fma(c, value, x), _fma(g, value, y)
            value = _load(values, four + i)
            _store(pair, i, _fma(d, value, x))
            _store(pair, width + i, _fma(h, value, y))
    for j in range(whole, tokens):
        a, b = _load(first, j * LANES), _load(second, j * LANES)
        for i in range(0, width, LANES):
            value = _load(values, j * width + i)
            _store(pair, i, _fma(a, value, _load(pair, i)))
            _store(pair, width + i, _fma(b, value, _load(pair, width + i)))


@_compiled
def _attend(
    q: Any, k: Any, v: Any, steps: Any, size: int, q_bias: Any, v_bias: Any, heads: int, queries: int, tokens: int
) -> None:  # `steps`: distance between rows of each array, `size`: of a key
    width = len(q_bias)
    step = steps[0]
    rows, pair = _room(tokens * width + LANES), _room(2 * width)
    scores = _room(queries * tokens * LANES)
    block = tokens * LANES  # scores of one query
    for group in range(((len(q) - width) // step + 1) // queries):
        start = group * queries * step
        _spread(k, group * tokens * steps[1], steps[1], tokens, size, heads, width, rows)
        for r in range(0, queries, 2):
            s = min(r + 1, queries - 1)  # an odd last query is computed twice
            for i in range(0, width, LANES):
                bias = _load(q_bias, i)
                _store(pair, i, _load(q, start + r * step + i) + bias)
                _store(pair, width + i, _load(q, start + s * step + i) + bias)
            _score(pair, rows, width, heads, tokens, scores[r * block :], scores[s * block :])
        for r in range(queries):
            _weigh(scores[r * block :], tokens)
        if v.ctypes.data != k.ctypes.data:  # otherwise the rows are already there
            _spread(v, group * tokens * steps[2], steps[2], tokens, size, heads, width, rows)
        for r in range(0, queries, 2):
            s = min(r + 1, queries - 1)
            for i in range(0, width, LANES):
                bias = _load(v_bias, i)
                _store(pair, i, bias)
                _store(pair, width + i, bias)
            _mix(pair, rows, width, tokens, scores[r * block :], scores[s * block :])
            for i in range(0, width, LANES):
                _store(q, start + r * step + i, _load(pair, i))
                _store(q, start + s * step + i, _load(pair, width + i))
