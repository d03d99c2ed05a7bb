"""The measured sets by the name that a training configuration and `geomap evaluate` use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from geomap.datasets.places import read_africa, read_rondonia
from geomap.datasets.samples import Samples
from geomap.datasets.worldcereal import read_corsica, read_east_africa, read_flanders

READERS: Final[dict[str, Callable[[Path], Samples]]] = {
    "flanders": read_flanders, "corsica": read_corsica, "east_africa": read_east_africa,
    "rondonia": read_rondonia, "africa": read_africa,
}  # fmt: skip

_WORLDCEREAL: Final = "MIT (WorldCereal repository); contains modified Copernicus Sentinel-2 data"
LICENCES: Final = {
    "flanders": _WORLDCEREAL, "corsica": _WORLDCEREAL, "east_africa": _WORLDCEREAL,
    "rondonia": "MIT (openeocraft repository); contains modified Copernicus Sentinel-2 data",
    "africa": "Apache-2.0 (Digital Earth Africa, crop-mask repository); contains modified Copernicus Sentinel-2 data",
}  # fmt: skip
"""Licence of each measured set, for cards."""
