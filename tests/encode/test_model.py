"""The encoder against a slow reference of the published forward."""

import numpy as np
import pytest
import torch
from torch import nn

from geomap.encode.card import Q_HIGH, Q_LOW
from geomap.encode.model import CONFIGS, EncoderConfig, PixelEncoder

TINY = EncoderConfig(dim=32, depth=2, heads=4, mlp=16, out=24)
ALL_MONTHS = torch.arange(12)


def make(cfg: EncoderConfig, seed: int = 0) -> PixelEncoder:
    torch.manual_seed(seed)
    encoder = PixelEncoder(cfg, torch.tensor(Q_LOW), torch.tensor(Q_HIGH)).eval()
    for p in encoder.parameters():
        if p.ndim == 1 or p is encoder.position:
            nn.init.normal_(p, std=0.2)  # biases, norms, tokens: zeros would hide mistakes
    return encoder


def series(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(1, 7000, (n, 12, 10)).astype(np.uint16))


def reference(encoder: PixelEncoder, dn: np.ndarray, valid: np.ndarray, months: list[int]) -> np.ndarray:
    """The published forward, one pixel and one step at a time, in float64: paper section 3 and its code's layout."""
    p = {k: v.detach().double().numpy() for k, v in encoder.state_dict().items()}
    cfg = encoder.cfg
    size = cfg.dim // cfg.heads

    def linear(x, w, b):
        return w @ x + b

    def norm(x, w, b):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * w + b

    out = []
    for pixel, ok in zip(dn.astype(np.float64), valid, strict=True):
        tokens = [p["cls"]]
        for step, month in enumerate(months):
            if ok[step]:  # a missing month is no token at all
                x = np.clip((pixel[step] - np.array(Q_LOW)) / np.array(Q_HIGH), 0, 1)
                tokens.append(linear(x, p["embed.weight"], p["embed.bias"]) + p["position"][month])
        for i in range(cfg.depth):
            layer = f"layers.{i}."
            qkv = [
                linear(t, p[layer + "self_attn.in_proj_weight"], p[layer + "self_attn.in_proj_bias"]) for t in tokens
            ]
            mixed = []
            for a in qkv:
                heads = []
                for h in range(cfg.heads):
                    at = slice(h * size, (h + 1) * size)
                    scores = np.array([a[: cfg.dim][at] @ b[cfg.dim : 2 * cfg.dim][at] for b in qkv]) / np.sqrt(size)
                    weight = np.exp(scores - scores.max())
                    weight /= weight.sum()
                    heads.append(sum(w * b[2 * cfg.dim :][at] for w, b in zip(weight, qkv, strict=True)))
                mixed.append(
                    linear(
                        np.concatenate(heads),
                        p[layer + "self_attn.out_proj.weight"],
                        p[layer + "self_attn.out_proj.bias"],
                    )
                )
            tokens = [
                norm(t + m, p[layer + "norm1.weight"], p[layer + "norm1.bias"])
                for t, m in zip(tokens, mixed, strict=True)
            ]
            hidden = [np.maximum(linear(t, p[layer + "linear1.weight"], p[layer + "linear1.bias"]), 0) for t in tokens]
            tokens = [
                norm(
                    t + linear(h, p[layer + "linear2.weight"], p[layer + "linear2.bias"]),
                    p[layer + "norm2.weight"],
                    p[layer + "norm2.bias"],
                )
                for t, h in zip(tokens, hidden, strict=True)
            ]
        z = linear(norm(tokens[0], p["head.0.weight"], p["head.0.bias"]), p["head.1.weight"], p["head.1.bias"])
        out.append(z / np.linalg.norm(z))
    return np.stack(out)


@pytest.mark.parametrize(("patch", "millions"), [(1, 8.169472), (5, 8.292352), (9, 8.579072)])
def test_parameter_counts_are_the_papers(patch, millions):
    cfg = EncoderConfig(patch=patch)
    encoder = PixelEncoder(cfg, torch.tensor(Q_LOW), torch.tensor(Q_HIGH))
    assert sum(p.numel() for p in encoder.parameters()) == round(millions * 1e6)
    assert CONFIGS["timesenclip"] == EncoderConfig()


@pytest.mark.parametrize("cfg", [TINY, EncoderConfig()], ids=["tiny", "timesenclip"])
def test_equals_the_slow_reference(cfg):
    encoder = make(cfg)
    n = 5 if cfg is TINY else 2
    dn = series(n)
    valid = torch.ones(n, 12, dtype=torch.bool)
    valid[0, [1, 5, 11]] = False
    valid[1] = False
    valid[1, 6] = True
    with torch.inference_mode():
        fast = encoder(dn, valid, ALL_MONTHS).numpy()
    slow = reference(encoder, dn.numpy(), valid.numpy(), list(range(12)))
    np.testing.assert_allclose(fast, slow, atol=1e-5)


def test_equals_torch_transformer_encoder():
    """The published code uses torch's own layers: the same tensors, by name, give the same output."""
    cfg = EncoderConfig(dropout=0.0)
    encoder = make(cfg, seed=3)
    layer = nn.TransformerEncoderLayer(cfg.dim, cfg.heads, cfg.mlp, dropout=0.0, batch_first=True)
    published = nn.TransformerEncoder(layer, cfg.depth, enable_nested_tensor=False).eval()
    published.load_state_dict({k: v for k, v in encoder.state_dict().items() if k.startswith("layers.")})
    dn = series(33)  # a ragged size
    valid = torch.rand(33, 12, generator=torch.Generator().manual_seed(1)) < 0.7
    valid[:, 3] = True
    with torch.inference_mode():
        x = encoder.embed(encoder.normalise(dn)) + encoder.position
        x = torch.cat([encoder.cls.expand(33, 1, -1), x], dim=1)
        hidden = published(x, src_key_padding_mask=torch.cat([torch.zeros(33, 1, dtype=torch.bool), ~valid], dim=1))
        expected = nn.functional.normalize(encoder.head(hidden[:, 0]), dim=-1)
        np.testing.assert_allclose(encoder(dn, valid, ALL_MONTHS), expected, atol=1e-5)


def test_values_of_missing_months_do_not_matter():
    encoder, dn = make(TINY), series(7)
    valid = torch.ones(7, 12, dtype=torch.bool)
    valid[:, 4] = False
    other = dn.clone()
    other[:, 4] = 0
    with torch.inference_mode():
        torch.testing.assert_close(encoder(dn, valid, ALL_MONTHS), encoder(other, valid, ALL_MONTHS), rtol=0, atol=0)
        assert not torch.equal(encoder(dn, valid, ALL_MONTHS), encoder(dn, torch.ones_like(valid), ALL_MONTHS))


def test_positions_belong_to_calendar_months():
    """December to November gives what January to December gives when the same months hold the same values."""
    encoder, dn = make(TINY), series(6)
    shifted = [11, *range(11)]
    with torch.inference_mode():
        plain = encoder(dn, torch.ones(6, 12, dtype=torch.bool), ALL_MONTHS)
        turned = encoder(dn[:, shifted], torch.ones(6, 12, dtype=torch.bool), torch.tensor(shifted))
    torch.testing.assert_close(plain, turned, atol=1e-5, rtol=0)


def test_dropout_acts_in_training_only():
    encoder, dn = make(TINY), series(4)
    valid = torch.ones(4, 12, dtype=torch.bool)
    assert torch.equal(encoder(dn, valid, ALL_MONTHS), encoder(dn, valid, ALL_MONTHS))
    encoder.train()
    assert not torch.equal(encoder(dn, valid, ALL_MONTHS), encoder(dn, valid, ALL_MONTHS))


def test_patches_are_normalised_band_by_band():
    cfg = EncoderConfig(patch=3, dim=16, depth=1, heads=2, mlp=8, out=8)
    encoder = make(cfg)
    dn = torch.from_numpy(np.random.default_rng(0).integers(1, 9000, (2, 12, 10, 3, 3)).astype(np.int32))
    flat = encoder.normalise(dn.reshape(2, 12, 90)).reshape(2, 12, 10, 3, 3)
    for band in range(10):
        expected = ((dn[:, :, band].float() - Q_LOW[band]) / Q_HIGH[band]).clamp(0, 1)
        torch.testing.assert_close(flat[:, :, band], expected)


def test_a_step_that_spans_months_has_the_mean_of_their_positions():
    encoder = make(CONFIGS["small"])
    dn, valid = torch.full((1, 1, 10), 800.0), torch.ones(1, 1, dtype=torch.bool)
    with torch.inference_mode():
        one = encoder(dn, valid, torch.eye(12)[3:4])
        assert torch.equal(one, encoder(dn, valid, torch.tensor([3])))
        year = encoder(dn, valid, torch.full((1, 12), 1 / 12))
        encoder.position[:] = encoder.position.mean(0)
        assert torch.allclose(year, encoder(dn, valid, torch.tensor([7])), atol=1e-5)
