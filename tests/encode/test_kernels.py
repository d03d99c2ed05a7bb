"""Compiled loops between the encoder's products against torch in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from geomap.encode import kernels

CLOSE = {torch.float32: 2e-6, torch.bfloat16: 2.0**-8}  # relative: half a unit in the last place of what is written
DTYPES = pytest.mark.parametrize("dtype", CLOSE, ids=str)


def rows(n: int, width: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).to(dtype)


@DTYPES
@pytest.mark.parametrize("kept", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("width", [16, 48, 512])
def test_layer_norm_of_rows_and_residual(dtype, kept, width):
    x, residual, weight, bias = rows(33, width, dtype), 3 * rows(33, width, seed=1), *rows(2, width, seed=2)
    residual = residual.to(kept)
    wanted = F.layer_norm(x.double() + residual, (width,), weight.double(), bias.double())
    got = kernels.norm_(x, residual, weight, bias)
    assert got is x
    torch.testing.assert_close(residual.double(), wanted, atol=2e-6, rtol=0 if kept == torch.float32 else 2.0**-11)
    torch.testing.assert_close(x.double(), wanted, atol=2e-6, rtol=CLOSE[dtype])


@DTYPES
def test_relu_of_rows_and_bias(dtype):
    x, (bias,) = rows(7, 48, dtype), rows(1, 48, seed=1)
    wanted = torch.relu(x.double() + bias)
    torch.testing.assert_close(kernels.relu_(x, bias).double(), wanted, atol=1e-6, rtol=CLOSE[dtype])


def plain(q, k, v, heads, tokens, q_bias, v_bias):
    """Attention in float64; heads lie side by side."""
    k, v = (t.repeat_interleave(len(q_bias) // t.shape[1], dim=1) for t in (k, v))
    q, k, v = (t.double().view(-1, tokens, q.shape[1] // heads, heads) for t in (q.double() + q_bias, k, v + v_bias))
    weights = torch.softmax(torch.einsum("nieh,njeh->nhij", q, k), dim=-1)
    return torch.einsum("nhij,njeh->nieh", weights, v).reshape(-1, len(q_bias))


@DTYPES
@pytest.mark.parametrize("heads", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("tokens", [1, 2, 7, 8, 9, 13, 16, 17])
def test_attention_within_groups_of_tokens(dtype, tokens, heads):
    q, k, v = (rows(5 * tokens, 48, dtype, seed) for seed in range(3))
    biases = tuple(rows(2, 48, seed=3))
    wanted = plain(q, k, v, heads, tokens, *biases)
    got = kernels.attend_(q, k, v, heads, tokens, *biases)
    assert got is q
    torch.testing.assert_close(got.double(), wanted, atol=5e-6, rtol=CLOSE[dtype])


@DTYPES
@pytest.mark.parametrize(("heads", "size"), [(4, 24), (8, 22), (16, 5)])
def test_heads_may_share_keys_and_values(dtype, heads, size):
    q, shared, (bias,) = rows(26, heads * size, dtype), rows(26, size, dtype, 1), rows(1, heads * size, seed=2)
    wanted = plain(q, shared, shared, heads, 13, bias, torch.zeros_like(bias))
    got = kernels.attend_(q, shared, shared, heads, 13, bias)
    torch.testing.assert_close(got.double(), wanted, atol=5e-6, rtol=CLOSE[dtype])


@DTYPES
@pytest.mark.parametrize("queries", [1, 3, 8])
def test_a_group_may_have_any_number_of_queries(dtype, queries):
    q, k, v = (rows(5 * n, 48, dtype, seed) for seed, n in enumerate((queries, 13, 13)))
    scores = torch.einsum("nie,nje->nij", q.double().view(5, -1, 48), k.double().view(5, -1, 48))
    wanted = (torch.softmax(scores, dim=-1) @ v.double().view(5, -1, 48)).view(-1, 48)
    got = kernels.attend_(q, k, v, 1, 13)
    torch.testing.assert_close(got.double(), wanted, atol=5e-6, rtol=CLOSE[dtype])


def test_queries_keys_and_values_may_be_columns_of_one_matrix():
    together = rows(26, 3 * 64, torch.bfloat16)
    q, k, v = together.chunk(3, dim=1)
    biases = tuple(rows(2, 64, seed=3))
    wanted, (keys, values) = plain(q, k, v, 8, 13, *biases), (k.clone(), v.clone())
    torch.testing.assert_close(kernels.attend_(q, k, v, 8, 13, *biases).double(), wanted, atol=5e-6, rtol=2.0**-8)
    assert torch.equal(k, keys)
    assert torch.equal(v, values)


@pytest.mark.parametrize("scale", [0.0, 1e3, 1e15])
def test_scores_of_any_size_leave_finite_weights(scale):
    q, k, v = scale * rows(13, 16), rows(13, 16, seed=1), rows(13, 16, seed=2)
    none = torch.zeros(16)
    wanted = plain(q, k, v, 1, 13, none, none)
    torch.testing.assert_close(kernels.attend_(q, k, v, 1, 13).double(), wanted, atol=1e-4, rtol=0)


def test_what_fits():
    assert kernels.fits(8, 512, 256)
    assert kernels.fits(1, 16)
    assert not kernels.fits(3, 48)
    assert not kernels.fits(4, 64, 24)


def test_rounding_to_bfloat16_is_torchs_but_for_ties():
    bits = np.random.default_rng(0).integers(0, 2**31, 100_000, dtype=np.uint32)
    bits = bits[bits & 0xFFFF != 0x8000]
    exact = torch.from_numpy(bits[: len(bits) // kernels.LANES * kernels.LANES].view(np.float32))
    exact = torch.where(exact.isfinite(), exact, 1.0)
    zero = torch.zeros(1, len(exact), dtype=torch.bfloat16)
    assert torch.equal(kernels.relu_(zero, exact)[0], exact.bfloat16())
