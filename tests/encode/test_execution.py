"""The fast execution against the plain module in float64, and its operations counted."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from geomap.encode import folded
from geomap.encode.card import Q_HIGH, Q_LOW
from geomap.encode.folded import Execution, multiply_adds
from geomap.encode.model import EncoderConfig, PixelEncoder

CPU = torch.device("cpu")
CONFIGS = {
    "depth 1": EncoderConfig(dim=32, depth=1, heads=4, mlp=32, out=20),
    "depth 2": EncoderConfig(dim=32, depth=2, heads=1, mlp=48, out=7),
    "depth 4": EncoderConfig(dim=48, depth=4, heads=16, mlp=16, out=64),
    "sizes that the compiled loops do not take": EncoderConfig(dim=36, depth=3, heads=3, mlp=20, out=64),
    "three bands": EncoderConfig(bands=3, dim=16, depth=3, heads=2, mlp=16, out=8),
    "paper's layers": EncoderConfig(depth=3),
    "patches": EncoderConfig(dim=32, depth=3, heads=4, mlp=32, out=20, patch=3),
    "patches, depth 1": EncoderConfig(dim=36, depth=1, heads=3, mlp=20, out=20, patch=2),
}


def encoder_of(cfg: EncoderConfig) -> PixelEncoder:
    """Every weight is random, biases and LayerNorms too, so that none can be forgotten."""
    torch.manual_seed(3)
    encoder = PixelEncoder(cfg, torch.tensor(Q_LOW[: cfg.bands]), torch.tensor(Q_HIGH[: cfg.bands]))
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
        encoder.position.normal_()
        encoder.cls.normal_()
    return encoder.eval()


def series(cfg: EncoderConfig, n: int, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """DNs from below `low` to above `low + high`, as Execution takes them, and months of each pixel's own."""
    rng = np.random.default_rng(4)
    months = np.stack([np.sort(rng.permutation(12)[:steps]) for _ in range(n)])
    shape = (n, steps, *[cfg.patch**2] * (cfg.patch > 1), cfg.bands)
    return torch.from_numpy(rng.integers(1, 7000, shape)), torch.from_numpy(months)


@torch.inference_mode()
def exact(encoder: PixelEncoder, dn: torch.Tensor, months: torch.Tensor) -> torch.Tensor:
    valid = torch.ones(dn.shape[:2], dtype=torch.bool)
    by_band = dn.transpose(2, -1).flatten(2) if dn.ndim == 4 else dn
    return copy.deepcopy(encoder).double()(by_band, valid, months)


@pytest.mark.parametrize("steps", [1, 5, 12])
@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_the_fast_execution_is_the_same_function(cfg, steps):
    encoder = encoder_of(cfg)
    dn, months = series(cfg, 33, steps)
    wanted = exact(encoder, dn, months)
    full = Execution(encoder, CPU, torch.float32)(dn, months)
    assert full.dtype == torch.float32
    assert (full - wanted).norm(dim=1).max() < 5e-6
    narrow = Execution(encoder, CPU, torch.bfloat16)(dn, months)
    assert narrow.dtype == torch.float32
    assert (narrow - wanted).norm(dim=1).max() < 0.05
    torch.testing.assert_close(narrow.norm(dim=1), torch.ones(33), atol=1e-5, rtol=0)


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_what_other_devices_run_gives_the_same(cfg, monkeypatch):
    encoder = encoder_of(cfg)
    dn, months = series(cfg, 10, 7)
    here = Execution(encoder, CPU, torch.float32)(dn, months)
    monkeypatch.setattr(folded.kernels, "fits", lambda *_: False)
    torch.testing.assert_close(Execution(encoder, CPU, torch.float32)(dn, months), here, atol=2e-6, rtol=0)


def test_the_execution_keeps_its_own_weights():
    cfg = CONFIGS["depth 2"]
    encoder = encoder_of(cfg)
    fast, (dn, months) = Execution(encoder, CPU, torch.float32), series(cfg, 4, 3)
    before = fast(dn, months)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.zero_()
    torch.testing.assert_close(fast(dn, months), before, atol=0, rtol=0)


def test_bfloat16_does_not_round_the_dns():
    cfg = CONFIGS["depth 2"]
    fast = Execution(encoder_of(cfg), CPU, torch.bfloat16)
    dn = torch.arange(1, 12_001).view(100, 12, 10)
    features = fast.features(dn, torch.arange(12).expand(100, 12))
    assert features.dtype == torch.bfloat16
    value = features[:, 1:, :10].double() + features[:, 1:, 10:20].double()
    clamped = dn.clamp(fast.low.double(), fast.top.double())
    assert ((value - clamped).abs() <= clamped * 2.0**-16).all()


class Products(TorchDispatchMode):
    """Counts the multiply-adds of all matrix products; torch's own counter does not know addmm_."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in {"mm", "bmm", "addmm", "addmm_", "baddbmm"}:
            left, right = args[-2:]
            self.count += left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_multiply_adds_are_those_of_the_products(cfg, monkeypatch):
    def attend(q, k, v, scale):
        return torch.softmax(q @ k.transpose(-1, -2) * scale, dim=-1) @ v

    monkeypatch.setattr(folded.kernels, "fits", lambda *_: False)  # the kernels of a CPU are no products of torch
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    encoder = encoder_of(cfg)
    dn, months = series(cfg, 6, 9)
    fast = Execution(encoder, CPU, torch.float32)
    with Products() as products:
        fast(dn, months)
    assert products.count == 6 * multiply_adds(encoder, months=9)


def test_the_paper_size_needs_three_quarters_of_the_plain_products():
    encoder = PixelEncoder(EncoderConfig(), torch.tensor(Q_LOW), torch.tensor(Q_HIGH))
    plain = 12 * 10 * 512 + 6 * 13 * (4 * 512**2 + 2 * 512 * 256 + 2 * 13 * 512) + 512**2
    assert 0.70 < multiply_adds(encoder) / plain < 0.75
