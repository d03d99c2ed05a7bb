"""Compiled loops between the encoder's products against torch in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from geomap import kernels

CLOSE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-8}  # relative: half a unit in the last place of what is written
DTYPES = pytest.mark.parametrize("dtype", CLOSE, ids=str)


def rows(n: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


@DTYPES
@pytest.mark.parametrize("width", [16, 20, 512])
def test_layer_norm_of_rows_and_residual(dtype, width):
    x, residual, weight, bias = rows(33, width, dtype), 3 * rows(33, width, seed=1), *rows(2, width, seed=2)
    wanted = F.layer_norm(x.double() + residual, (width,), weight.double(), bias.double())
    got = kernels.norm_(x, residual, weight, bias)
    assert got is x
    torch.testing.assert_close(residual.double(), wanted, atol=2e-6, rtol=0)
    torch.testing.assert_close(x.double(), wanted, atol=2e-6, rtol=CLOSE[dtype])


@DTYPES
def test_relu_of_rows_and_bias(dtype):
    x, (bias,) = rows(7, 40, dtype), rows(1, 40, seed=1)
    wanted = torch.relu(x.double() + bias)
    torch.testing.assert_close(kernels.relu_(x, bias).double(), wanted, atol=1e-6, rtol=CLOSE[dtype])


def plain(q, k, v, heads, tokens, q_bias, v_bias):
    """Attention in float64."""
    k, v = (t.repeat(1, len(q_bias) // t.shape[1]) for t in (k, v))
    shape = (-1, tokens, heads, q.shape[1] // heads)
    q, k, v = (t.double().view(shape).transpose(1, 2) for t in (q.double() + q_bias, k, v.double() + v_bias))
    return (torch.softmax(q @ k.transpose(-1, -2), dim=-1) @ v).transpose(1, 2).reshape(-1, q.shape[-1] * heads)


@DTYPES
@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 13, 16, 17])
def test_attention_within_groups_of_tokens(dtype, tokens):
    heads, width = 3, 16
    q, k, v = (rows(5 * tokens, heads * width, dtype, seed) for seed in range(3))
    biases = tuple(rows(2, heads * width, seed=3))
    wanted = plain(q, k, v, heads, tokens, *biases)
    got = kernels.attend_(q, k, v, heads, tokens, *biases)
    assert got is q
    torch.testing.assert_close(got.double(), wanted, atol=5e-6, rtol=CLOSE[dtype])


@DTYPES
def test_heads_may_share_keys_and_values(dtype):
    q, shared, (bias,) = rows(26, 4 * 22, dtype), rows(26, 22, dtype, 1), rows(1, 4 * 22, seed=2)
    wanted = plain(q, shared, shared, 4, 13, bias, torch.zeros_like(bias))
    got = kernels.attend_(q, shared, shared, 4, 13, bias)
    torch.testing.assert_close(got.double(), wanted, atol=5e-6, rtol=CLOSE[dtype])


@pytest.mark.parametrize("scale", [0.0, 1e3, 1e15])
def test_scores_of_any_size_leave_finite_weights(scale):
    q, k, v = scale * rows(13, 16), rows(13, 16, seed=1), rows(13, 16, seed=2)
    none = torch.zeros(16)
    wanted = plain(q, k, v, 1, 13, none, none)
    torch.testing.assert_close(kernels.attend_(q, k, v, 1, 13, none).double(), wanted, atol=1e-4, rtol=0)


def test_rounding_to_bfloat16_is_torchs():
    bits = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    exact = torch.from_numpy(bits.view(np.float32))
    exact = exact[exact.isfinite() & (exact > 0)]
    zero = torch.zeros(1, len(exact), dtype=torch.bfloat16)
    assert torch.equal(kernels.relu_(zero, exact)[0], exact.bfloat16())
