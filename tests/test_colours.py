"""Typed classes take the colour of the built-in class whose words fit best; no two are the same."""

import colorsys
from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from geomap import legends


def colour(legend: str, name: str) -> str:
    return next(c.colour.lower() for c in legends.load(legend).classes if c.name == name)


def hls(text: str) -> tuple[float, float, float]:
    r, g, b = (channel / 255 for channel in bytes.fromhex(text[1:]))
    return colorsys.rgb_to_hls(r, g, b)


@pytest.mark.parametrize(
    ("typed", "legend", "name"),
    [
        ("vineyard", "crops", "Vineyards"),
        ("Olive Grove", "crops", "Olive groves"),
        ("maize field", "crops", "Maize"),
        ("wheat", "crops", "Common wheat"),
        ("water", "landcover", "Water"),
        ("forest", "landcover", "Woodland"),
        ("coniferous woodlands", "habitat", "Coniferous woodland"),
        ("potato", "crops", "Potatoes"),
    ],
)
def test_a_typed_class_takes_the_colour_of_its_match(typed: str, legend: str, name: str) -> None:
    assert legends.typed(f"{typed}, something else entirely").classes[0].colour == colour(legend, name)


def test_doubles_keep_the_hue_and_differ_in_lightness() -> None:
    found = [hls(c.colour) for c in legends.typed("wheat, winter wheat, spring wheat, soft wheat").classes]
    assert found[0] == hls(colour("crops", "Common wheat"))
    assert {round(hue, 1) for hue, _, _ in found} == {round(found[0][0], 1)}
    lightness = sorted(light for _, light, _ in found)
    assert min(b - a for a, b in pairwise(lightness)) > 0.05


def test_all_colours_differ_and_are_the_same_each_time() -> None:
    names = [f"wheat {n}" for n in range(200)] + [f"森林 {n}" for n in range(50)] + ["<b>", "=1+1", "%", "-"]
    one, two = (legends.typed(",".join(names)).classes for _ in range(2))
    assert one == two
    assert len({c.colour for c in one}) == len(names) == 254


def test_colours_of_different_legends_are_not_too_alike() -> None:
    """Cropland and wheat, water and rivers, woodland and forestry: in each pair the later one gives way."""
    names = "wheat, wheat stubble, cropland, water, surface running waters, woodland, coniferous woodland, forestry"
    found = {c.name: seen(c.colour, BLIND["none"]) for c in legends.typed(names).classes}
    assert min(float(np.linalg.norm(found[a] - found[b])) for a, b in combinations(found, 2)) >= 10


# Machado, Oliveira and Fernandes 2009 (doi:10.1109/TVCG.2009.113), severity 1.0: matrices on linear RGB.
BLIND = {
    "none": np.eye(3).tolist(),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]])
"""Linear sRGB (IEC 61966-2-1) to XYZ of D65."""


def seen(colour: str, matrix: list[list[float]]) -> NDArray[np.float64]:
    """CIELAB (CIE 1976) of a colour as somebody who is colour-blind sees it."""
    rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = np.cbrt(XYZ @ np.clip(np.array(matrix) @ linear, 0, 1) / [0.95047, 1, 1.08883])
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("kind", BLIND)
@pytest.mark.parametrize(
    ("legend", "least"), [("landcover", 15), ("landuse", 15), ("bioregion", 15), ("crops", 10), ("habitat", 10)]
)
def test_classes_are_told_apart_without_red_or_green(legend: str, least: float, kind: str) -> None:
    """Units of CIELAB: about 2 can just be told apart side by side, small patches need more."""
    found = {c.name: seen(c.colour, BLIND[kind]) for c in legends.load(legend).classes}
    apart = {(a, b): float(np.linalg.norm(found[a] - found[b])) for a, b in combinations(found, 2)}
    assert {pair: d for pair, d in apart.items() if d < least} == {}
