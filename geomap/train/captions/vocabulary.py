"""The vectors of words that weights are saved with: of built-in legends' classes, and the anchors of all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from geomap import legends
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
        """Class vectors of built-in legends: half their prompts, half the captions that training has for the class.

        Both are unit vectors. The captions alone are worse, and so are the prompts (benchmarks/RESULTS.md).
        """
        stored = towers.builtin_vectors(tower)
        means = {v.name: F.normalize(v.vectors.mean(1), dim=-1) for v in levels if v.by == "kind"}
        for level in (v for v in levels if v.name in means and v.ids):
            legend = legends.load(level.name)
            rows = [[c.id for c in legend.classes].index(number) for number in level.ids]
            mixed = stored[legend.digest].clone()
            mixed[rows] = F.normalize(mixed[rows] + means[level.name], dim=-1)
            stored[legend.digest] = mixed
        return cls(tower, stored, torch.cat([*means.values()]))

    def vectors(self, legend: Legend) -> Tensor:
        """(K, D) class vectors of a legend, as maps take them."""
        if legend.digest in self.stored:
            return self.stored[legend.digest]
        return placed(legend, towers.class_vectors(legend, self.tower), self.stored, self.anchors)
