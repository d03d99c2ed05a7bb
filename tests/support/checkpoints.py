"""Checkpoints in the published layout, by torch's own transformer, and a text tower in the place of CLIP's.

Published weights cannot be had here.
"""

import argparse
import hashlib
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geomap.label import towers


class Official(nn.Module):
    """The published architecture (paper.md section 2), of torch's own layers; input (N, 12, bands, y, x) in [0, 1]."""

    def __init__(self, patch: int = 1, dim: int = 32, depth: int = 2, heads: int = 8, mlp: int = 24) -> None:
        super().__init__()
        self.spectral_embedding = nn.Sequential(nn.Flatten(2), nn.Linear(10 * patch**2, dim))
        self.time_pos_encoding = nn.Parameter(torch.randn(1, 12, dim))
        self.time_token = nn.Parameter(torch.randn(1, 1, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, mlp, dropout=0.2, batch_first=True)
        self.transformer = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.mlp_head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 512))

    def forward(self, x: Tensor) -> Tensor:
        x = self.spectral_embedding(x) + self.time_pos_encoding
        x = self.transformer(torch.cat([self.time_token.expand(len(x), 1, -1), x], dim=1))
        return F.normalize(self.mlp_head(x[:, 0]), dim=-1)


def official(**sizes: int) -> Official:
    torch.manual_seed(1)
    module = Official(**sizes)
    for p in module.parameters():  # biases and norms too, so that none can be mistaken for another
        nn.init.normal_(p, std=0.3)
    return module.eval()


def lightning(module: Official, prefix: str = "learner.ts_encoder.", token: str = "time_token") -> dict[str, Any]:
    """What Lightning writes: the learner's state dict, and all that lies beside it."""
    moments = {
        i: {"step": torch.tensor(411.0), "exp_avg": torch.randn_like(p), "exp_avg_sq": torch.rand_like(p)}
        for i, p in enumerate(module.parameters())
    }
    group = {"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-4, "params": list(moments)}
    state = {prefix + n.replace("time_token", token): v.detach().clone() for n, v in module.state_dict().items()}
    return {
        "epoch": 3,
        "global_step": 411,
        "pytorch-lightning_version": "1.9.5",
        "state_dict": {
            "logit_scale": torch.tensor(3.2),
            **{f"ts_encoder.{n}": torch.zeros_like(v) for n, v in module.state_dict().items()},  # validation's copy
            **state,
            "learner.queue": torch.randn(512, 8),
            "learner.pooling_layer.score.weight": torch.randn(1, 512),
            "clip_model.logit_scale": torch.tensor(4.6052),
        },
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 4}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val_top1'}": {"best_model_score": torch.tensor(0.4), "path": "x.ckpt"}
        },
        "optimizer_states": [{"state": moments, "param_groups": [group]}],
        "lr_schedulers": [{"T_max": 10, "base_lrs": [1e-4], "last_epoch": 3, "_last_lr": [7e-5]}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"args": argparse.Namespace(LR=1e-4, ARCH="ViT-B/32"), "classes": ["Cropland"], "lr": 1e-4},
    }


class SeededTower:
    """Stands in for CLIP's text tower, whose weights cannot be had here: a random unit vector for each prompt."""

    space, dim = towers.CLIP_SPACE, 512

    def encode(self, prompts: list[str]) -> Tensor:
        seeds = [int(hashlib.sha256(p.encode()).hexdigest()[:12], 16) for p in prompts]
        return F.normalize(torch.stack([torch.randn(512, generator=torch.Generator().manual_seed(s)) for s in seeds]))
