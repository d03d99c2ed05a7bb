"""Real STAC items, and changed copies of them, for the tests of the catalogue modules."""

import copy
import json
from datetime import datetime
from pathlib import Path
from typing import Any

from shapely.geometry import box

from geomap.types import Period

Item = dict[str, Any]
WORLD = box(-180, -80, 180, 84)


def real_items(shared: Path, name: str) -> list[Item]:
    content = json.loads((shared / "data/stac" / f"{name}.json").read_text())
    return list(content.get("features", [content]))


def month_of(item: Item) -> Period:
    time = datetime.fromisoformat(item["properties"]["datetime"])
    return Period(time.year, time.month, 1)


def changed(item: Item, properties: dict[str, Any] | None = None, **fields: Any) -> Item:
    other = copy.deepcopy(item) | fields
    other["properties"] |= properties or {}
    return other
