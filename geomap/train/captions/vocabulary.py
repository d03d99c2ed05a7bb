"""The vectors of words that weights are saved with: of built-in legends' classes, and the anchors of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from geomap.label import towers
from geomap.label.anchors import placed
from geomap.legends import Legend
from geomap.train.captions.levels import Level


@dataclass(frozen=True)
class Vocabulary:
    """The text tower, and the vectors that weights are saved with."""

    tower: towers.TextTower
    stored: Mapping[str, Tensor]  # digest of a built-in legend -> (K, D)
    anchors: Tensor  # (A, D) each class's mean over its captions; without climates, which say where land lies

    @classmethod
    def of(cls, levels: Sequence[Level], tower: towers.TextTower) -> Vocabulary:
        """The vectors of a run's levels and tower."""
        means = [F.normalize(v.vectors.mean(1), dim=-1) for v in levels if v.by == "kind"]
        return cls(tower, towers.builtin_vectors(tower), torch.cat(means))

    def vectors(self, legend: Legend) -> Tensor:
        """(K, D) class vectors of a legend, as maps take them."""
        if legend.digest in self.stored:
            return self.stored[legend.digest]
        return placed(legend, towers.class_vectors(legend, self.tower), self.stored, self.anchors)
