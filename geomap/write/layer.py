"""The layers of a request, and what their values mean: kind, data type, nodata and classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal, NamedTuple

from geomap.errors import LegendError
from geomap.legends import NODATA_ID, UNCLASSIFIED_ID, Legend
from geomap.types import CLEAR_MONTHS, Grid, OwnGrid, Period

Kind = Literal["classes", "percent", "score", "count", "likeness", "colour", "ndvi"]

_DTYPES: Final[dict[Kind, str]] = {
    "classes": "uint8", "percent": "uint8", "score": "float32", "count": "uint8", "likeness": "float32",
    "colour": "uint8", "ndvi": "int16",
}  # fmt: skip
_NODATA: Final[dict[Kind, float]] = {
    "classes": NODATA_ID, "percent": 255, "score": float("nan"), "count": 255, "likeness": float("nan"),
    "colour": 0, "ndvi": -32768,
}  # fmt: skip
UNCLASSIFIED: Final = "Unclassified"
"""Name of the class of pixels that are too doubtful for one of the legend."""
_UNCLASSIFIED_COLOUR: Final = "#9b9b9b"

_NOT_XML: Final = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold (section 2.2, production Char)."""


class Entry(NamedTuple):
    """One value of a class map: id, name, colour (#rrggbb) and code of the nomenclature, where the legend has one."""

    value: int
    name: str
    colour: str
    code: str = ""

    @property
    def label(self) -> str:
        """The code, if there is one, and the name: "B11 Common wheat"."""
        return f"{self.code} {self.name}".strip()

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green, blue, 0..255."""
        r, g, b = bytes.fromhex(self.colour[1:])
        return r, g, b


@dataclass(frozen=True, slots=True)
class Layer:
    """One map to write.

    Kinds: `classes` (uint8 ids, 0 nodata), `percent` (uint8 0..100, 255 nodata), `score` (float32 in the legend's
    range, NaN nodata), `count` (uint8, clear months 0..12, 255 nodata) and `likeness` (float32, cosine, NaN nodata).
    """

    stem: str  # file name without suffix or zone, for example "landcover_confidence"
    description: str  # description of the band
    kind: Kind
    legend: Legend | None = None  # for a map of classes or scores
    unclassified: bool = False  # id 255 occurs, where the confidence is below the requested minimum
    bands: tuple[str, ...] = ()  # names of the bands, where there are several: pixels are (band, y, x)
    place: str = ""  # begins the file's name, for example "brussels_2023"
    band: int = 1  # the one that QGIS shows, where a colour ramp shows one of several
    tags: tuple[tuple[str, str], ...] = ()  # metadata of the file, besides those of all maps of the run

    def __post_init__(self) -> None:
        if self.kind in ("classes", "score") and (self.legend is None or self.legend.kind != self.kind):
            raise ValueError(f"layer {self.stem} of kind {self.kind} needs a legend of that kind")

    def shape(self, grid: Grid | OwnGrid) -> tuple[int, ...]:
        """Shape of the pixels over a grid: (y, x), or (band, y, x)."""
        return (len(self.bands), *grid.shape) if self.bands else grid.shape

    @property
    def name(self) -> str:
        """What the layer is called in QGIS, and its file without suffix or zone."""
        return file_stem(self.stem, self.place)

    @property
    def dtype(self) -> str:
        """Numpy name of the pixel type."""
        return _DTYPES[self.kind]

    @property
    def nodata(self) -> float:
        """Value of pixels that are not mapped."""
        return _NODATA[self.kind]

    @property
    def scale(self) -> float:
        """What a stored value is multiplied by; programs that know GDAL's band scale do it by themselves."""
        return 1e-4 if self.kind == "ndvi" else 1.0

    @property
    def classes(self) -> tuple[Entry, ...]:
        """The values of a class map without nodata, by id; empty for other kinds."""
        if self.kind != "classes" or self.legend is None:
            return ()
        found = self.legend.classes
        entries = sorted(Entry(c.id, plain(c.name), c.colour.lower(), plain(c.code or "")) for c in found)
        return (
            *entries,
            *([Entry(UNCLASSIFIED_ID, UNCLASSIFIED, _UNCLASSIFIED_COLOUR)] if self.unclassified else []),
        )

    @property
    def of_legend(self) -> bool:
        """Whether this is the class map of its legend, not one of the maps beside it."""
        return self.kind == "classes" and self.legend is not None and self.stem == self.legend.name

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value shown by the style, scaled, for all kinds except classes."""
        if self.legend is not None and self.legend.range is not None:
            return self.legend.range
        return {"count": (0, 12), "likeness": (0, 1), "ndvi": (-0.2, 0.9)}.get(self.kind, (0, 100))


@dataclass(frozen=True, slots=True)
class Statistics:
    """Statistics of a written map without nodata; minimum to std are None if every pixel is nodata."""

    valid: int  # pixels
    counts: Mapping[int, int] = field(default_factory=dict)  # value -> number of pixels, for integer maps
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None


def plain(text: str) -> str:
    """The text with characters that XML cannot hold (control characters, lone surrogates) replaced by U+FFFD."""
    return _NOT_XML.sub("�", text)


def place_of(name: str | None, period: Period) -> str:
    """How the names of a run's files begin: "brussels_2023", "brussels_2022-10_2023-09"; empty without a name."""
    return f"{name}_{months_of(period)}" if name else ""


def months_of(period: Period) -> str:
    """A period as names show it: "2023" for a calendar year, else "2023-04" or "2022-10_2023-09"."""
    return str(period.year) if (period.month, period.months) == (1, 12) else str(period)


def file_stem(stem: str, place: str = "", zone: int | str | None = None) -> str:
    """Name of a map's file without suffix: "landcover", "brussels_2023_landcover", "landcover_32631"."""
    return "_".join(str(part) for part in (place, stem, zone) if part)


def layers_of(
    asked: Sequence[Legend], min_confidence: float, extras: Sequence[str] = (), place: str = ""
) -> tuple[Layer, ...]:
    """The maps of some legends, with `extras` of label.classify.EXTRAS. Raises LegendError if two have one name."""
    layers = []
    for legend in asked:
        if legend.kind == "score":
            layers.append(Layer(legend.name, legend.title, "score", legend))
            continue
        layers.append(Layer(legend.name, legend.title, "classes", legend, unclassified=min_confidence > 0))
        layers.append(Layer(f"{legend.name}_confidence", f"{legend.title}: confidence, percent", "percent"))
        layers += (_extra(legend, name) for name in extras)
    layers.append(Layer(CLEAR_MONTHS, "Months with a clear observation", "count"))
    require_distinct(layers)
    return tuple(replace(layer, place=place) for layer in layers)


def _extra(legend: Legend, name: str) -> Layer:
    """One more layer of a legend of classes."""
    stem, title = f"{legend.name}_{name}", legend.title
    if name == "second":
        return Layer(stem, f"{title}: second class", "classes", legend)
    if name == "margin":
        return Layer(stem, f"{title}: confidence less that of the second class, percent", "percent")
    bands = tuple(plain(c.name) for c in legend.classes)
    return Layer(stem, f"{title}: probability of each class, percent", "percent", bands=bands)


def change_layers(layers: Sequence[Layer], since: Period) -> tuple[Layer, ...]:
    """For each class map: the class before and the class now, where it changed, and the confidence in percent."""
    changes = []
    for layer in layers:
        if layer.of_legend:
            legend, stem, title = layer.legend, layer.stem, layer.description
            changes += [
                Layer(f"{stem}_from", f"{title}: class in {since}, where it changed", "classes", legend),
                Layer(f"{stem}_to", f"{title}: class now, where it is not that of {since}", "classes", legend),
                Layer(f"{stem}_change_confidence", f"{title}: lower of both confidences, percent", "percent"),
            ]
    return tuple(replace(change, place=layers[0].place) for change in changes)


def require_distinct(layers: Sequence[Layer]) -> None:
    """Raise LegendError if two maps would have the same name."""
    stems = [layer.stem for layer in layers]
    if len(set(stems)) < len(stems):
        raise LegendError(f"two maps would be called {max(stems, key=stems.count)}.tif; rename one of the legends")
