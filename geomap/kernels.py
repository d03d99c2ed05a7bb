"""What the encoder does between its products, on a CPU, compiled by numba: each step reads and writes its rows once.

Rows are contiguous float32, or bfloat16 as the uint16 of its bits; whatever they are, arithmetic is float32. A row's
result depends on no other pixel. Torch's own operators take 1.3 to 5 times as long for the sizes of this encoder
(docs/engine.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

EPSILON = np.float32(1e-5)
"""Of LayerNorm; torch's default, with which the encoder is trained."""
LANES = 8
"""Keys are padded to a multiple of this, with no weight: loops over them then need no remainder."""
LOG2_E = np.float32(1 / math.log(2))
MIN_EXPONENT = np.float32(-126)
"""Smaller powers of two are not normal float32; weights of 1e-38 are as good as none."""
C1, C2, C3, C4, C5, C6 = (np.float32(math.log(2) ** k / math.factorial(k)) for k in range(1, 7))
"""Taylor series of 2**x; the seventh term is below 2e-7 where abs(x) <= 1 / 2."""


def norm_(rows: Tensor, residual: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm of rows + residual, written to both: (R, D) of any two dtypes. Weight and bias (D,) are float32."""
    _norm(_array(rows), _array(residual), weight.numpy(), bias.numpy())
    return rows


def relu_(rows: Tensor, bias: Tensor) -> Tensor:
    """max(rows + bias, 0) in place: (R, D) and float32 (D,)."""
    _relu(_array(rows), bias.numpy())
    return rows


def attend_(
    q: Tensor, k: Tensor, v: Tensor, heads: int, tokens: int, q_bias: Tensor, v_bias: Tensor | None = None
) -> Tensor:
    """Attention within groups of `tokens` successive rows, written over the queries.

    Args:
        q: (R, heads * E) queries, already scaled.
        k: (R, heads * E) keys, or (R, E) where the heads share them.
        v: values, like the keys.
        q_bias: (heads * E,) float32, added to the queries.
        v_bias: the same for the values; none where the heads share them.
    """
    v_bias = torch.zeros_like(q_bias) if v_bias is None else v_bias
    biases = (bias.view(heads, -1).numpy() for bias in (q_bias, v_bias))
    _attend(_array(q), _array(k), _array(v), *biases, tokens)
    return q


def _array(rows: Tensor) -> Any:
    return (rows.view(torch.uint16) if rows.dtype == torch.bfloat16 else rows).numpy()


_OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",  # no check of divisors
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},  # sums in lanes
}
_inlined: Callable[[Callable[..., Any]], Callable[..., Any]] = njit(inline="always", **_OPTIONS)


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compiled at the first call, and kept on disk where there is a folder to write to (numba's NUMBA_CACHE_DIR)."""
    try:
        compiled: Callable[..., None] = njit(cache=True, **_OPTIONS)(function)
    except RuntimeError:  # no such folder
        compiled = njit(**_OPTIONS)(function)
    return compiled


def _float_of_bits(_: Any, bits: Any) -> Any:
    return types.float32(types.uint32), lambda _c, builder, _s, args: builder.bitcast(args[0], ir.FloatType())


def _bits_of_float(_: Any, value: Any) -> Any:
    return types.uint32(types.float32), lambda _c, builder, _s, args: builder.bitcast(args[0], ir.IntType(32))


_as_float: Any = intrinsic(_float_of_bits)  # uint32 -> the float32 of these bits
_as_bits: Any = intrinsic(_bits_of_float)  # and back


def _read(value: Any) -> Any:
    """A float32 or the bits of a bfloat16 -> float32."""
    raise NotImplementedError("compiled only")


@overload(_read, inline="always", strict=False)
def _read_compiled(value: Any) -> Any:
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: _as_float(np.uint32(np.uint32(value) << np.uint32(16)))


def _write(row: Any, i: int, value: Any) -> None:
    """A float32 into a row of float32, or, rounded to the nearest, ties to even, of bfloat16."""
    raise NotImplementedError("compiled only")


@overload(_write, inline="always", strict=False)
def _write_compiled(row: Any, i: Any, value: Any) -> Any:
    if isinstance(row.dtype, types.Float):

        def write(row: Any, i: Any, value: Any) -> None:
            row[i] = value
    else:

        def write(row: Any, i: Any, value: Any) -> None:
            bits = _as_bits(value)
            odd = np.uint32(np.uint32(bits >> np.uint32(16)) & np.uint32(1))
            row[i] = np.uint16(np.uint32(np.uint32(bits + np.uint32(0x7FFF)) + odd) >> np.uint32(16))

    return write


@_compiled
def _norm(rows: Any, residual: Any, weight: Any, bias: Any) -> None:
    d = rows.shape[1]
    z = np.empty(d, np.float32)
    share = np.float32(1 / d)
    for r in range(len(rows)):
        row, rest = rows[r], residual[r]
        total = np.float32(0)
        for i in range(d):
            z[i] = _read(row[i]) + _read(rest[i])
            total += z[i]
        mean = total * share
        squares = np.float32(0)
        for i in range(d):
            squares += (z[i] - mean) * (z[i] - mean)
        scale = np.float32(1) / np.sqrt(squares * share + EPSILON)
        for i in range(d):
            value = (z[i] - mean) * scale * weight[i] + bias[i]
            _write(row, i, value)
            _write(rest, i, value)


@_compiled
def _relu(rows: Any, bias: Any) -> None:
    for r in range(len(rows)):
        row = rows[r]
        for i in range(len(bias)):
            _write(row, i, max(_read(row[i]) + bias[i], np.float32(0)))


@_inlined
def _exp(x: Any) -> Any:
    """e**x for x <= 0, without a branch: 2**n times 2**f, abs(f) <= 1 / 2."""
    power = max(x * LOG2_E, MIN_EXPONENT)
    n = np.int32(power - np.float32(0.5))  # towards zero: the nearest integer
    f = power - np.float32(n)
    series = np.float32(1) + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
    return series * _as_float(np.uint32(np.int32(np.int32(n + np.int32(127)) << np.int32(23))))


@_inlined
def _weigh(query: Any, keys: Any, tokens: int, weights: Any) -> Any:
    """Exponentials of the products of a query with the keys, 0 for what fills the block; returns 1 / their sum."""
    top = np.float32(-np.inf)
    for j in range(tokens):
        score = np.float32(0)
        for t in range(len(query)):
            score += query[t] * keys[j, t]
        weights[j] = score
        top = max(top, score)
    weights[tokens:] = -np.inf
    for j in range(len(weights)):
        weights[j] = _exp(weights[j] - top)
    total = np.float32(0)
    for j in range(len(weights)):
        total += weights[j]
    return np.float32(1) / total


@_compiled
def _attend(q: Any, k: Any, v: Any, q_bias: Any, v_bias: Any, tokens: int) -> None:
    heads, size = q_bias.shape
    block = -(-tokens // LANES) * LANES
    shared = k.shape[1] == size
    keys, values = np.zeros((block, size), np.float32), np.zeros((block, size), np.float32)
    query, w = np.empty(size, np.float32), np.empty(block, np.float32)
    for first in range(0, len(q), tokens):
        for head in range(heads):
            at = head * size
            left = 0 if shared else at
            if head == 0 or not shared:
                for j in range(tokens):
                    key, value = k[first + j, left : left + size], v[first + j, left : left + size]
                    for t in range(size):
                        keys[j, t] = _read(key[t])
                    for t in range(size):
                        values[j, t] = _read(value[t])
            bias, shift = q_bias[head], v_bias[head]
            for i in range(tokens):
                row = q[first + i, at : at + size]
                for t in range(size):
                    query[t] = _read(row[t]) + bias[t]
                share = _weigh(query, keys, tokens, w)
                query[:] = 0
                for j in range(0, block, LANES):
                    a, b, c, d, e, f, g, h = w[j], w[j + 1], w[j + 2], w[j + 3], w[j + 4], w[j + 5], w[j + 6], w[j + 7]
                    for t in range(size):
                        low = a * values[j, t] + b * values[j + 1, t] + c * values[j + 2, t] + d * values[j + 3, t]
                        high = e * values[j + 4, t] + f * values[j + 5, t] + g * values[j + 6, t] + h * values[j + 7, t]
                        query[t] += low + high
                for t in range(size):
                    _write(row, t, query[t] * share + shift[t])
