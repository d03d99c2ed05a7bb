"""The Request: what to map, where, when, from which scenes, with which classes; from Python values, text, or keys."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from operator import index
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    SupportsIndex,
    TypeVar,
    cast,
    get_origin,
    get_type_hints,
)

from pydantic import TypeAdapter, ValidationError

from geomap import config, legends
from geomap.catalog.offset import OffsetPolicy
from geomap.composite.mask import DEFAULT_MASK, Mask
from geomap.errors import GeomapError, InputError
from geomap.legends import Legend
from geomap.run.keys import (
    CLEAREST,
    DEFAULT_LEGEND,
    MIN_CLEAR_MONTHS,
    NONE,
    CatalogueKeys,
    FinishKeys,
    Flag,
    GridKeys,
    Line,
    MaskKeys,
    Percent,
    Place,
    RequestKeys,
    ResourceKeys,
    Restriction,
    Seconds,
    Share,
    Shown,
    WeightsKeys,
    checked_year,
    require_points,
    several,
)
from geomap.text import shown
from geomap.types import Finish, OwnGrid, Period

if TYPE_CHECKING:
    from geomap.aoi import Area  # shapely and pyproj: loaded where an area is made
    from geomap.points.read import PointFiles


@dataclass(frozen=True, slots=True)
class Earlier:
    """A finished run of the same request over other months, with its composites."""

    directory: Path
    period: Period
    rolling: bool = False  # it is the one before in a rolling job, whose user knows the months


Given = TypeVar("Given", contravariant=True)
Kept = TypeVar("Kept", covariant=True)


class Converted(Generic[Given, Kept]):
    """The descriptor of a dataclass field that also takes other forms of its value, such as text."""

    def __init__(self, convert: Callable[[Any, Given], Kept], *default: Given) -> None:
        self._convert, self._default = convert, default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Kept:
        if instance is not None:
            kept: Kept = instance.__dict__[self._name]
            return kept
        if not self._default:
            raise AttributeError(self._name)  # so that the dataclass treats it as required
        return cast(Kept, self._default[0])

    def __set__(self, instance: object, value: Given) -> None:
        """Raises InputError that begins with the field's name."""
        try:
            instance.__dict__[self._name] = self._convert(instance, value)
        except (GeomapError, ValueError, TypeError) as e:
            raise InputError(f"{self._name}: {e}") from e


def _area(_: Request, value: Area | str | Path) -> Area:
    from geomap.aoi import Area

    return value if isinstance(value, Area) else Area(value)


def _period(_: Request, value: Period | str) -> Period:
    period = value if isinstance(value, Period) else Period.parse(str(value))
    checked_year(period.year)
    return period


def _legends(_: Request, value: Legend | str | Path | Iterable[Legend | str | Path]) -> tuple[Legend, ...]:
    alone = isinstance(value, Legend | str) or not isinstance(value, Iterable)
    named = (value,) if alone else tuple(cast("Iterable[Legend | str | Path]", value))
    if odd := [one for one in named if not isinstance(one, Legend | str | Path)]:
        raise ValueError(f"must be names, .toml files or Legends, not {shown(repr(odd[0]))}")
    return tuple(one if isinstance(one, Legend) else legends.load(str(one)) for one in named)


def _min_clear_months(request: Request, value: SupportsIndex | None) -> int:
    most = request.period.months
    if value is None:
        return min(MIN_CLEAR_MONTHS, most)
    if isinstance(value, bool) or not isinstance(value, SupportsIndex) or not 1 <= index(value) <= most:
        raise ValueError(f"must be 1..{most}, the months of the period")
    return index(value)


def _within(_: Request, value: str | Restriction) -> Restriction:
    return restriction_of(value)


def restriction_of(value: object) -> Restriction:
    """(legend, class), as such or as "landcover=Cropland"; () of "none" and of (); None of None. Raises ValueError."""
    if value is None:
        return None
    if isinstance(value, str):
        return class_of(value)
    parts = tuple(value) if isinstance(value, tuple | list) else (value,)
    if len(parts) in (0, 2) and all(isinstance(part, str) for part in parts):
        return cast(Restriction, parts)
    raise ValueError(f'must be (legend, class), such as ("landcover", "Cropland"), not {shown(repr(value))}')


def class_of(text: str) -> Restriction:
    """(legend, class) of "landcover=Cropland"; () of "none". Raises ValueError."""
    return () if text.strip() == NONE else legends.restriction(text)


def _points(_: Request, value: str | Path | Iterable[str | Path] | None) -> tuple[str, ...]:
    files: tuple[object, ...] = tuple(several(value))
    if odd := [file for file in files if not isinstance(file, str | Path)]:
        raise ValueError(f'must be the path of a file, or several, not {odd[0]!r}; write one: .to_file("points.gpkg")')
    return TypeAdapter(tuple[Line, ...]).validate_python(tuple(map(str, files)))


def _mask(_: Request, value: Mask | Mapping[str, Any]) -> Mask:
    if isinstance(value, Mask):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(
            f'must be a Mask, or such as {{"classes": [3, 8, 9], "dilation": 2}}, not {shown(repr(value))}'
        )
    try:
        return MaskKeys.model_validate(value).mask
    except ValidationError as e:
        raise ValueError("; ".join(config.problems(e, MaskKeys))) from e


def _finish(_: Request, value: Finish | Mapping[str, Any]) -> Finish:
    given = asdict(value) if isinstance(value, Finish) else value
    try:
        return FinishKeys.model_validate(given).finish
    except ValidationError as e:
        raise ValueError("; ".join(config.problems(e, FinishKeys))) from e


def _grid(_: Request, value: OwnGrid | Mapping[str, Any] | None) -> OwnGrid | None:
    if value is None or isinstance(value, OwnGrid):
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f'must be such as {{"crs": "EPSG:3035", "resolution": 100}}, not {value!r}')
    if value.keys() >= {"step_x", "step_y"}:
        return OwnGrid(**value)
    try:
        return GridKeys.model_validate(value).grid()
    except ValidationError as e:
        raise ValueError("; ".join(config.problems(e, GridKeys))) from e


@dataclass(frozen=True)
class Request:
    """What to map: where, when, from which scenes, with which classes, and what is kept beside the maps.

    `Request(area="4.40,50.85,4.45,50.88", period="2023")` asks for the same as `geomap map` with these words. Text may
    give areas (as `aoi.Area`), periods (as `types.Period.parse`), legends (names, .toml files) and "LEGEND=CLASS".

    Raises:
        InputError: the command line would not take a value; the message begins with the field's name.
    """

    area: Converted[Area | str | Path, Area] = Converted(_area)
    period: Converted[Period | str, Period] = Converted(_period)
    stac: Line = CatalogueKeys().stac  # preset, URL or item file
    legends: Converted[Legend | str | Path | Iterable[Legend | str | Path], tuple[Legend, ...]] = Converted(
        _legends, DEFAULT_LEGEND
    )
    weights: Line = WeightsKeys().name  # name or folder
    collection: Line | None = None
    max_cloud: Percent = CatalogueKeys().max_cloud  # percent of a scene
    offset: OffsetPolicy = CatalogueKeys().offset
    allow_hosts: tuple[Line, ...] = ()
    min_clear_months: Converted[SupportsIndex | None, int] = Converted(_min_clear_months, None)
    min_confidence: Share = RequestKeys().min_confidence / 100  # 0..1
    within: Converted[str | Restriction, Restriction] = Converted(_within, None)
    # ^ (legend, class): the other maps cover only this class; () or "none": all pixels; None: as each legend says
    without: tuple[Line, ...] = ()  # names or codes of classes that are left out, or LEGEND=CLASS
    everywhere: Flag = False  # keep classes that do not occur at these latitudes
    finish: Converted[Finish | Mapping[str, Any], Finish] = Converted(_finish, Finish())
    device: Line = ResourceKeys().device
    mask: Converted[Mask | Mapping[str, Any], Mask] = Converted(_mask, DEFAULT_MASK)
    max_missed: Share = CatalogueKeys().max_missed / 100  # share of the scenes, of the search and of each tile
    deadline: Seconds = CatalogueKeys().deadline  # how long a server may refuse a file
    save_composites: Flag = False  # keep the monthly composites beside the maps, in composites.zarr
    save_embeddings: Flag = False  # keep the embeddings, in embeddings.zarr
    composites: Path | None = None  # composites.zarr of an earlier run, read instead of scenes: `stac` is ignored
    update: Earlier | None = None  # copy what has not changed since this run, and map the rest
    exclude: tuple[Line, ...] = ()  # ids of scenes to leave out
    others: Flag = False  # legends of the user get one more class, "None of these"
    points: Converted[str | Path | Iterable[str | Path] | None, tuple[str, ...]] = Converted(_points, ())
    # ^ file or files of labelled points, which teach a legend
    column: Line | None = None  # its column with the classes
    points_crs: Line | None = None  # its coordinate system, where it names none
    date_column: Line | None = None  # its column with days or years
    learned: Line | None = None  # run directory or learned.json: what another run learned from points
    name: Place | None = None  # the files are called name_period_landcover.tif; None: landcover.tif
    report: Flag = True  # write index.html, the page with the maps, and their pictures
    grid: Converted[OwnGrid | Mapping[str, Any] | None, OwnGrid | None] = Converted(_grid, None)
    # ^ write the maps once more: {"crs": "EPSG:3035", "resolution": 100}, {"like": "other.tif"}
    true_colour: Shown | None = None  # a map in true colour: "2023-07" or "clearest", of summer
    ndvi: Flag = False  # a map of NDVI, a band for each month

    def __post_init__(self) -> None:
        """Raises InputError that begins with the field's name."""
        for name in ("stac", "weights", "learned", "points_crs"):
            object.__setattr__(self, name, _as_text(getattr(self, name)))
        for name, check in _checks().items():
            try:
                object.__setattr__(self, name, check.validate_python(getattr(self, name)))
            except ValidationError as e:
                raise InputError(f"{name}: {config.said(e.errors()[0]['msg'])}") from e
        try:
            if not self.points and (self.points_crs or self.date_column):
                raise ValueError(f"{'points_crs' if self.points_crs else 'date_column'}: it goes with points")
            require_points(self.points, self.column, self.learned, self.others)
        except ValueError as e:
            raise InputError(str(e)) from e
        if self.true_colour not in (None, CLEAREST, *self.period.month_names):
            first, last = self.period.month_names[0], self.period.month_names[-1]
            raise InputError(f"true_colour: {self.true_colour} is not mapped; give a month of {first} to {last}")


def _as_text(value: Any) -> Any:
    """A path or a coordinate system as text; anything else as it is."""
    return str(value) if isinstance(value, Path) or hasattr(value, "to_wkt") else value


def point_files(request: Request) -> PointFiles | None:
    """The labelled points of a request; None if it has none."""
    from geomap.points.read import PointFiles

    if not request.points:
        return None
    return PointFiles(request.points, str(request.column), request.points_crs, request.date_column)


@cache
def _checks() -> Mapping[str, TypeAdapter[Any]]:
    """By field that is not converted, the adapter that checks its type and bounds."""
    from geomap.aoi import Area

    hints = get_type_hints(Request, localns={"Area": Area}, include_extras=True)
    plain = {name: hint for name, hint in hints.items() if get_origin(hint) is not Converted}
    return {name: TypeAdapter(hint) for name, hint in plain.items()}


def request_of(
    keys: RequestKeys,
    area: Area,
    period: Period,
    asked: Sequence[Legend],
    composites: Path | None = None,
    folder: Path = Path(),
) -> Request:
    """The Request of these keys, with an area and a period that the caller read from them in its own way.

    `folder` is where the raster of `grid.like` is looked for.
    """
    return Request(
        area=area,
        period=period,
        stac=keys.catalogue.stac,
        legends=asked,
        others=keys.others,
        weights=keys.weights.name,
        collection=keys.catalogue.collection,
        max_cloud=keys.catalogue.max_cloud,
        offset=keys.catalogue.offset,
        allow_hosts=keys.catalogue.allow_hosts,
        exclude=keys.catalogue.exclude,
        min_clear_months=keys.min_clear_months,
        min_confidence=keys.min_confidence / 100,
        within=keys.within,
        without=keys.without,
        everywhere=keys.everywhere,
        finish=keys.finish.finish,
        device=keys.resources.device,
        mask=keys.masks.mask,
        max_missed=keys.catalogue.max_missed / 100,
        deadline=keys.catalogue.deadline,
        save_composites=keys.outputs.save_composites,
        save_embeddings=keys.outputs.save_embeddings,
        report=keys.outputs.report,
        composites=composites,
        points=keys.points.file,
        column=keys.points.column,
        points_crs=keys.points.crs,
        date_column=keys.points.date_column,
        learned=keys.points.learned,
        name=keys.outputs.name,
        grid=keys.grid.grid(folder),
        true_colour=keys.outputs.true_colour,
        ndvi=keys.outputs.ndvi,
    )
