"""Captions of every class at several levels, as text vectors for training.

A level is a set of classes that compete in one softmax: the covers of the simulation, or the classes of a built-in
legend that the simulation knows. In each training step a class vector is the mean of a few random captions, so that the
encoder meets single names, sentences and means like those of a legend's prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from geomap import legends
from geomap.label.towers import TextTower
from geomap.simulate.covers import table

TEMPLATES: Final = (
    "{}",
    "a field or area of {}",
    "satellite image of {}",
    "{} in a rural landscape",
    "this land is {}",
    "{} in summer",
    "an aerial photograph of {}",
    "{} at the edge of a village",
    "large patches of {}",
    "ground view of {}",
    "{}, seen through the year",
    "a hectare of {}",
    "the colour of {} in spring",
    "typical {}",
    "a pixel of {}",
    "{} on a plain",
)
"""Templates for names in training; those of typed classes (legend.TYPED_TEMPLATES) differ, except for the bare name."""

CROP_TEMPLATES: Final = ("{} crop", "{} growing", "{} plants", "a field of {}")
"""More templates for crops: some covers' names have these forms, and a form must not tell covers apart."""

TEMPLATES_A_NAME: Final = 5
"""Templates used for each name besides the bare one, in turn."""

CAPTIONS_A_STEP: Final = 5
"""Most captions averaged for one vector: the least number of prompts that a class of a legend has."""


@dataclass(frozen=True)
class Level:
    """K classes that compete in one softmax, with their caption vectors."""

    name: str
    vectors: Tensor  # (K, M, D) unit vectors; short lists of captions are repeated
    by: Literal["cover", "climate"]  # what determines the class of a series
    index: Tensor  # (covers,) or (climates,) class; -1: no class at this level

    def draw(self, rng: np.random.Generator) -> Tensor:
        """(K, D) unit vectors: for each class the mean of 1..CAPTIONS_A_STEP captions."""
        k, m, _ = self.vectors.shape
        picked = torch.from_numpy(rng.integers(0, m, (k, CAPTIONS_A_STEP)))
        used = torch.from_numpy(np.arange(CAPTIONS_A_STEP) < rng.integers(1, CAPTIONS_A_STEP + 1, (k, 1)))
        chosen = torch.take_along_dim(self.vectors, picked[..., None], dim=1) * used[..., None]
        return F.normalize(chosen.sum(1), dim=-1)

    def shares(
        self, cover: NDArray[np.intp], climate: NDArray[np.intp], chance: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(K,) chance of each class among series of these covers, climates and chances (n,); sums to 1, or 0."""
        known = self.index.numpy()[cover if self.by == "cover" else climate]
        count = np.bincount(known[known >= 0], chance[known >= 0], minlength=len(self.vectors))
        share: NDArray[np.float64] = count / max(count.sum(), 1e-9)
        return share


def cover_captions() -> list[list[str]]:
    """Captions of every cover, in the table's order."""
    out = []
    for cover in table().cover:
        captions = list(cover.names)
        for i, name in enumerate(cover.names):
            picked = [1 + (i * TEMPLATES_A_NAME + k) % (len(TEMPLATES) - 1) for k in range(TEMPLATES_A_NAME)]
            captions += [TEMPLATES[k].format(name) for k in picked]
            if cover.crop:
                captions.append(CROP_TEMPLATES[i % len(CROP_TEMPLATES)].format(name))
        out.append(captions)
    return out


def make_levels(tower: TextTower) -> tuple[Level, ...]:
    """The covers, then the legends landcover, crops, landuse, habitat and bioregion."""
    covers = table().cover
    return (
        _level("cover", cover_captions(), list(range(len(covers))), tower),
        _legend_level("landcover", [c.landcover for c in covers], tower, names=True),
        _legend_level("crops", [c.crop for c in covers], tower),
        _legend_level("landuse", [c.landuse for c in covers], tower),
        _legend_level("habitat", [c.habitat for c in covers], tower),
        _bioregions(tower),
    )


def _legend_level(name: str, ids: Sequence[int], tower: TextTower, names: bool = False) -> Level:
    """The classes of a legend that covers have; `ids` are the covers' class ids, `names` adds the covers' names."""
    classes = [c for c in legends.load(name).classes if c.id in ids]  # a class never seen would only be pushed away
    captions = [[c.name, *c.prompts] for c in classes]
    if names:
        for caption, known in zip(captions, classes, strict=True):
            caption += [n for i, c in zip(ids, table().cover, strict=True) if i == known.id for n in c.names]
    position = {c.id: i for i, c in enumerate(classes)}
    return _level(name, captions, [position.get(i, -1) for i in ids], tower)


def _bioregions(tower: TextTower) -> Level:
    """The climates, with their own captions and the prompts of their bioregion, if the legend has it."""
    known = {c.id: [c.name, *c.prompts] for c in legends.load("bioregion").classes if c.name != "Outside"}
    climates = table().climate.values()
    captions = [[f"a place in {w}" for w in c.words] + known.get(c.bioregion, []) for c in climates]
    return _level("bioregion", captions, list(range(len(captions))), tower, by="climate")


def _level(
    name: str,
    captions: Sequence[Sequence[str]],
    index: Sequence[int],
    tower: TextTower,
    by: Literal["cover", "climate"] = "cover",
) -> Level:
    flat = tower.encode([c for group in captions for c in group])
    groups = flat.split([len(g) for g in captions])
    width = max(len(g) for g in captions)
    padded = torch.stack([g[torch.arange(width) % len(g)] for g in groups])
    return Level(name, padded, by, torch.tensor(list(index)))
