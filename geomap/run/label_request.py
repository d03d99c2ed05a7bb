"""A request to map legends from stored embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from geomap.errors import InputError
from geomap.legends import Legend
from geomap.points.read import PointFiles
from geomap.run.keys import Restriction, require_points
from geomap.types import PLAIN, Finish, OwnGrid


@dataclass(frozen=True, slots=True)
class LabelRequest:
    """A request to map legends from a store."""

    store: Path  # embeddings.zarr, or the directory of the run that made it
    legends: tuple[Legend, ...]
    weights: str | None = None  # name or folder; None: the weights named by the store
    min_confidence: float = 0.0  # 0..1
    within: Restriction = None  # (legend, class): other maps cover this class alone; (): all pixels; None: as they say
    others: bool = False  # legends of the user get one more class, "None of these"
    without: tuple[str, ...] = ()  # names or codes of classes that are left out, or LEGEND=CLASS
    everywhere: bool = False  # keep classes that do not occur at these latitudes
    finish: Finish = PLAIN
    points: PointFiles | None = None  # labelled points, which teach a legend
    learned: str | None = None  # what another run learned: its directory or learned.json
    report: bool = True  # write index.html, the page with the maps, and their pictures
    name: str | None = None  # the files are called name_period_landcover.tif; None: landcover.tif
    grid: OwnGrid | None = None  # the maps are written once more on it

    def __post_init__(self) -> None:
        """Raises InputError for points together with what does not go with them."""
        try:
            require_points(self.points, self.points.column if self.points else None, self.learned, self.others)
        except ValueError as e:
            raise InputError(str(e)) from e
