"""geomap: from an area of interest to labelled Sentinel-2 maps.

    scenes = geomap.search("4.42,50.88,4.46,50.91", "2023")
    series = geomap.composite(scenes, "4.42,50.88,4.46,50.91")
    maps = geomap.label(geomap.embed(series), "water, forest, maize field")

docs/python.md tells more. Importing this package is light: it loads neither torch nor dask nor GDAL.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from geomap import _door, process

if TYPE_CHECKING:
    from geomap.aoi import Area as Area
    from geomap.api import composite as composite
    from geomap.api import embed as embed
    from geomap.api import label as label
    from geomap.api import open_store as open_store
    from geomap.api import search as search
    from geomap.encode.weights import load_weights as load_weights
    from geomap.legends import Legend as Legend
    from geomap.run.map import map_area as map_area
    from geomap.run.request import Request as Request
    from geomap.types import Period as Period

__version__ = "0.2.0"

__all__ = [
    "Area", "Legend", "Period", "Request",
    "composite", "embed", "label", "load_weights", "map_area", "open_store", "search",
]  # fmt: skip

process.settle()
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
# ^ MKL's "conditional numerical reproducibility": without it, a row of a float32 product depends on where the row lies
#   in memory on some processors (measured on an AMD EPYC), and maps on how an area is cut. Read at MKL's first product.


def __getattr__(name: str) -> Any:
    return _door.lookup(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
