"""Requests for the patch of the archives, and tiles small enough that it is several."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from geomap import grid
from geomap.run.request import Request
from geomap.types import Period
from tests.support.archive import PATCH


def request_for(stac: str | Path, weights: str, **changes: Any) -> Request:
    """Land cover of the patch in August and September 2018, unless changes to the Request's fields say otherwise."""
    fields = {"area": PATCH, "period": Period(2018, 8, 2), "legends": "landcover", "min_clear_months": 1}
    return Request(**({"stac": str(stac), "weights": weights, "device": "cpu"} | fields | changes))


@contextmanager
def tiles_of(side: int) -> Iterator[None]:
    """Tiles of so many pixels a side."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "TILE_PX", side)
        yield
