"""Requests for the patch of the archives, and tiles small enough that it is several."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from geomap import aoi, grid, legends
from geomap.run.request import Request
from geomap.types import Period
from tests.support.archive import PATCH


def request_for(stac: str | Path, weights: str, **changes: Any) -> Request:
    """Land cover of the patch in August and September 2018, unless changes to the Request's fields say otherwise.

    An area may be text, and legends may be names.
    """
    fields: dict[str, Any] = {
        "area": PATCH,
        "period": Period(2018, 8, 2),
        "legends": ("landcover",),
        "min_clear_months": 1,
        "device": "cpu",
    } | changes
    if isinstance(fields["area"], str):
        fields["area"] = aoi.parse_area(fields["area"])
    named = tuple(legends.load(legend) if isinstance(legend, str) else legend for legend in fields.pop("legends"))
    return replace(Request(fields.pop("area"), fields.pop("period"), str(stac), named, weights), **fields)


@contextmanager
def tiles_of(side: int) -> Iterator[None]:
    """Tiles of so many pixels a side."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "TILE_PX", side)
        yield
