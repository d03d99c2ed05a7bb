"""Captions of every class at several levels, as text vectors for training.

A level is a set of classes that compete in one softmax: the covers of the simulation, or the classes of a built-in
legend that the simulation knows. In each training step a class vector is the mean of a few random captions, so that the
encoder meets single names, sentences and means like those of a legend's prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from geomap import legends
from geomap.datasets import kinds
from geomap.label.towers import TextTower
from geomap.simulate.covers import table
from geomap.train.captions.words import CROP_WORDS, LANDCOVER_WORDS

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
    by: Literal["kind", "climate"]  # what determines the class of a series
    allowed: Tensor  # (kinds + 1, K) or (climates + 1, K) bool: classes that a series may have; last row: unknown, none

    def draw(self, rng: np.random.Generator) -> Tensor:
        """(K, D) unit vectors: for each class the mean of 1..CAPTIONS_A_STEP captions."""
        k, m, _ = self.vectors.shape
        picked = torch.from_numpy(rng.integers(0, m, (k, CAPTIONS_A_STEP)))
        used = torch.from_numpy(np.arange(CAPTIONS_A_STEP) < rng.integers(1, CAPTIONS_A_STEP + 1, (k, 1)))
        chosen = torch.take_along_dim(self.vectors, picked[..., None], dim=1) * used[..., None]
        return F.normalize(chosen.sum(1), dim=-1)

    def shares(
        self, of: NDArray[np.intp], chance: NDArray[np.float64], usual: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """(K,) chance of each class among series of these kinds or climates and chances (n,); sums to 1, or 0.

        A series of several possible classes counts for each by the `usual` shares (K,) of these, or alike.
        """
        split = self.allowed.numpy()[of] * (np.ones(len(self.vectors)) if usual is None else usual)
        total = split.sum(1)
        known = total > 0
        count: NDArray[np.float64] = (chance[known, None] * split[known] / total[known, None]).sum(0)
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
        out.append(captions + list(CROP_WORDS.get(cover.crop, ())))
    return out


def make_levels(tower: TextTower) -> tuple[Level, ...]:
    """The covers, then the legends landcover, crops, landuse, habitat and bioregion."""
    covers = table().cover
    return (
        _level("cover", cover_captions(), _by_kind(list(range(len(covers)))), tower),
        _legend_level("landcover", [c.landcover for c in covers], tower, LANDCOVER_WORDS, names=True),
        _legend_level("crops", [c.crop for c in covers], tower, CROP_WORDS),
        _legend_level("landuse", [c.landuse for c in covers], tower),
        _legend_level("habitat", [c.habitat for c in covers], tower),
        _bioregions(tower),
    )


def _legend_level(
    name: str,
    ids: Sequence[int],
    tower: TextTower,
    words: Mapping[int, Sequence[str]] | None = None,
    names: bool = False,
) -> Level:
    """The classes of a legend that covers have.

    `ids` are the covers' class ids, `words` more words of classes by their id; `names` adds the covers' names.
    """
    classes = [c for c in legends.load(name).classes if c.id in ids]  # a class never seen would only be pushed away
    captions = [[c.name, *c.prompts, *(words or {}).get(c.id, ())] for c in classes]
    if names:
        for caption, known in zip(captions, classes, strict=True):
            caption += [n for i, c in zip(ids, table().cover, strict=True) if i == known.id for n in c.names]
    position = {c.id: i for i, c in enumerate(classes)}
    return _level(name, captions, _by_kind([position.get(i, -1) for i in ids]), tower)


def _bioregions(tower: TextTower) -> Level:
    """The climates, with their own captions and the prompts of their bioregion, if the legend has it."""
    known = {c.id: [c.name, *c.prompts] for c in legends.load("bioregion").classes if c.name != "Outside"}
    climates = table().climate.values()
    captions = [[f"a place in {w}" for w in c.words] + known.get(c.bioregion, []) for c in climates]
    own = torch.eye(len(captions) + 1, len(captions), dtype=torch.bool)  # the last row, unknown, has no class
    return _level("bioregion", captions, own, tower, by="climate")


def _by_kind(index: Sequence[int]) -> Tensor:
    """(kinds + 1, K) classes of each kind's covers, from the class `index` of every cover; -1: none."""
    of_cover = np.zeros((len(index), max(index) + 1), bool)
    for cover, i in enumerate(index):
        of_cover[cover, i] = i >= 0
    of_kind = np.asarray((kinds.members()[:, :, None] & of_cover).any(1))
    return torch.from_numpy(np.concatenate([of_kind, np.zeros_like(of_kind[:1])]))


def _level(
    name: str,
    captions: Sequence[Sequence[str]],
    allowed: Tensor,
    tower: TextTower,
    by: Literal["kind", "climate"] = "kind",
) -> Level:
    flat = tower.encode([c for group in captions for c in group])
    groups = flat.split([len(g) for g in captions])
    width = max(len(g) for g in captions)
    padded = torch.stack([g[torch.arange(width) % len(g)] for g in groups])
    return Level(name, padded, by, allowed)
