"""Typed classes take the colour of the built-in class whose words fit best; no two are the same."""

import colorsys
from itertools import pairwise

import pytest

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
    found = [hls(c.colour) for c in legends.typed("wheat, winter wheat, spring wheat, wheat stubble").classes]
    assert found[0] == hls(colour("crops", "Common wheat"))
    assert {round(hue, 1) for hue, _, _ in found} == {round(found[0][0], 1)}
    lightness = sorted(light for _, light, _ in found)
    assert min(b - a for a, b in pairwise(lightness)) > 0.05


def test_all_colours_differ_and_are_the_same_each_time() -> None:
    names = [f"wheat {n}" for n in range(200)] + [f"森林 {n}" for n in range(50)] + ["<b>", "=1+1", "%", "-"]
    one, two = (legends.typed(",".join(names)).classes for _ in range(2))
    assert one == two
    assert len({c.colour for c in one}) == len(names) == 254
