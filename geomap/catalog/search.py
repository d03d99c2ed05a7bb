"""Finds Scenes in a STAC API or item file: one per granule, each asset's DN offset decided.

    items (stac) -> convention (providers) -> within area, period and cloud limit -> duplicates dropped (granules)
    -> hrefs checked (hrefs) and offsets decided (offset) -> Scenes in order of time and id

All filters are applied again here, since servers differ in which ones they honour. An item with a mistake is left out
by name; where more than a share of the scenes would be lost in this way, the search is refused.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import shapely
from shapely.geometry.base import BaseGeometry

from geomap.catalog.items import Granule, in_passes, place_and_time, read_granule, unique
from geomap.catalog.offset import OffsetPolicy, decide_offset
from geomap.catalog.stac import landing_page, read_items, search_items
from geomap.errors import HrefError, InputError, NoScenesError, OffsetError
from geomap.lonlat import Box, meet
from geomap.paths import own
from geomap.sources.hrefs import HrefPolicy, check_href, named, public_link, without_secrets
from geomap.sources.providers import PRESETS, PROVIDERS, Provider, describe, of_collection, recognise
from geomap.types import FAULTS, MAX_MISSED, LeftOut, Period, Scene, SceneAsset, Searched, may_miss

log = logging.getLogger(__name__)

MANY: Final = 5
"""Most items named in an error."""

MAX_TEXT: Final = 200
"""Most characters kept of what a catalogue says about an item left out."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a search found for a request: the scenes to read, and the items that are not used."""

    scenes: tuple[Scene, ...]  # in order of time and id, each acquisition once
    left_out: tuple[LeftOut, ...]  # in order of cause and id
    period: Period  # the months searched
    searched: Searched = field(default_factory=Searched)
    area: BaseGeometry | None = None  # that was searched, in degrees, cut at the antimeridian; None: no search was made

    def __repr__(self) -> str:
        return f"Found({len(self.scenes)} scenes of {self.period}, {len(self.left_out)} items left out)"


def search(
    area: BaseGeometry,
    period: Period,
    stac: str,
    *,
    collection: str | None = None,
    max_cloud: float = 100,
    offset_policy: OffsetPolicy = "auto",
    allow_hosts: Collection[str] = (),
    exclude: Collection[str] = (),
    max_missed: float = MAX_MISSED,
) -> Found:
    """Scenes over `area` in `period`, each acquisition once, and the items left out.

    Args:
        area: polygons in EPSG:4326 (longitude, latitude), cut at the antimeridian.
        period: the months asked for.
        stac: a name in PRESETS, the URL of a STAC API, or the path of a local ItemCollection or Item.
        collection: STAC collection; by default every one whose conventions are known.
        max_cloud: percent of an item's `eo:cloud_cover`; items that do not state it are kept.
        offset_policy: decides for scenes whose metadata do not (see offset.decide_offset).
        allow_hosts: hosts and s3 buckets to read from besides those of hrefs.HrefPolicy.
        exclude: ids of items to leave out.
        max_missed: share of the scenes that may be left out for a mistake in their items; if above 0, at least one may.

    Raises:
        NoScenesError: nothing there.
        InputError: no such catalogue, collection or file, none of its items follows a known convention, or too many
            have a mistake.
        CatalogUnavailableError: the catalogue does not answer.
        OffsetError, HrefError: too many scenes whose offset cannot be decided, or whose pixels geomap refuses to open.
    """
    source = _source(stac, collection, tuple(allow_hosts))
    sieve = _Sieve(area, period, max_cloud, frozenset(exclude))
    granules: list[Granule] = []
    items = 0
    unlike: Counter[str] = Counter()  # items of each collection that follow no convention
    for item in source.items(area, period, max_cloud):
        items += 1
        name = str(item.get("collection"))
        among = source.providers if collection in (None, item.get("collection")) else ()
        provider = recognise(item, among)
        if provider is None:
            unlike[name] += 1
            provider = of_collection(item, among)
        if provider is None:
            sieve.leave_out(item.get("id"), "foreign", f"collection {name}: not Sentinel-2 L2A")
            sieve.strangers[name] += 1
        elif granule := sieve.take(item, provider):
            granules.append(granule)
    for name, count in sieve.strangers.items():
        log.warning("ignored %d items of collection %s of %s: not Sentinel-2 L2A", count, name, source.name)
    if items and unlike.total() == items:
        where = f"{source.name}{f' in collection {collection}' if collection else ''}"
        raise InputError(
            f"no item of {where} follows conventions that geomap knows (collections found: "
            f"{', '.join(sorted(unlike))}); looked for {describe(source.providers)}"
        )
    sieve.tell_unknown()
    granules = sieve.in_passes(granules)
    if not granules:
        raise NoScenesError(_nothing(source.name, sieve))
    scenes = _usable(granules, source, offset_policy, sieve, max_missed)
    left_out = sorted(set(sieve.left_out), key=lambda item: (item.cause, item.id, item.detail))
    days = sum(day is not None for day in sieve.outside)
    repeated = items - len(sieve.outside) - len(scenes) - len(left_out)
    told = Searched(items, len(sieve.outside) - days, days, repeated)
    return Found(scenes, tuple(left_out), period, told, area)


def _usable(
    granules: Sequence[Granule], source: _Source, offset_policy: OffsetPolicy, sieve: _Sieve, max_missed: float
) -> tuple[Scene, ...]:
    """One scene of each granule, in order of time and id; where the best copy has a mistake, the next one.

    Raises HrefError, OffsetError, InputError if more scenes have a mistake than allowed.
    """
    refused: dict[int, HrefError | OffsetError] = {}
    while True:
        kept, dropped = unique(g for g in granules if id(g) not in refused)
        scenes: list[Scene] = []
        before = len(refused)
        for granule in kept:
            try:
                scenes.append(_scene(granule, source.policy(granule.provider), offset_policy))
            except (HrefError, OffsetError) as error:
                refused[id(granule)] = error
                cause = "unopenable" if isinstance(error, HrefError) else "undecided"
                sieve.at_fault(granule, cause, str(error))
        if len(refused) == before:
            break
    found = _distinct(zip(scenes, kept, strict=True), sieve)
    for copy, better in dropped:
        if (copy.collection, copy.rank) == (better.collection, better.rank):  # of the same id and time
            sieve.at_fault(copy, "contradiction", f"it comes again with other files, such as {copy.files[0]}")
        else:
            sieve.leave_out(copy.id, "copy", f"baseline {copy.baseline}, of {better.id}, baseline {better.baseline}")
    sieve.check_faults([granule for _, granule in found], next(iter(refused.values()), None), max_missed)
    log.info("%s: %d scenes, %d copies dropped", source.name, len(found), len(dropped))
    copies = {id(better): copy.id for copy, better in reversed(dropped) if copy.id != better.id}  # the best of each
    return tuple(replace(scene, copy=copies.get(id(granule))) for scene, granule in found)


@dataclass(frozen=True, slots=True)
class _Source:
    """Where items come from, which conventions they may follow and where their pixels may lie."""

    name: str
    place: str | Path  # URL of a STAC API, or path of an item file
    providers: tuple[Provider, ...]
    collection: str | None
    allow_hosts: tuple[str, ...]
    preset: bool = False

    def items(self, area: BaseGeometry, period: Period, max_cloud: float) -> Iterable[dict[str, Any]]:
        if isinstance(self.place, Path):
            return read_items(self.place)
        return search_items(
            self.place,
            area,
            period,
            collections=[self.collection] if self.collection else list({p.collection: p for p in self.providers}),
            required=self.preset or self.collection is not None,
            max_cloud=max_cloud,
            allow_hosts=self.allow_hosts,
        )

    def policy(self, provider: Provider) -> HrefPolicy:
        """Where pixels may lie: a preset's on its storage, others on any public host; all on hosts the user named."""
        trusted = named(self.allow_hosts)
        if self.preset:
            return HrefPolicy(trusted, provider.hosts, provider.buckets)
        if isinstance(self.place, Path):
            return HrefPolicy(trusted | named(["localhost"]), None, provider.buckets, self.place.parent)
        schemes = ("https", "http") if self.place.startswith("http:") else ("https",)
        return HrefPolicy(trusted | named([self.place], schemes), None, provider.buckets)


def _source(stac: str, collection: str | None, allow_hosts: tuple[str, ...]) -> _Source:
    if stac in PRESETS:
        providers = PRESETS[stac]
        return _Source(f"{stac} ({providers[0].url})", providers[0].url, providers, collection, allow_hosts, True)
    everyone = tuple(PROVIDERS.values())
    if stac.lower().startswith(("http://", "https://")):
        url = landing_page(stac)
        return _Source(without_secrets(url), url, everyone, collection, allow_hosts)
    path = own(stac)
    try:
        found = path.exists()
    except (OSError, ValueError) as error:  # a folder that may not be read, a name too long, a NUL
        why = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the item file {without_secrets(stac)!r}: {why}") from None
    if not found:
        raise InputError(
            f"no catalogue or file {without_secrets(stac)!r}: type {', '.join(PRESETS)}, the http(s) URL of a STAC "
            "API, or the path of a STAC item file"
        )
    return _Source(stac, path, everyone, collection, allow_hosts)


@dataclass(frozen=True, slots=True)
class _Sieve:
    """Lets through the granules that were asked for, and records why the others are left out."""

    area: BaseGeometry
    period: Period
    max_cloud: float
    exclude: frozenset[str] = frozenset()
    left_out: list[LeftOut] = field(default_factory=list)
    outside: list[date | None] = field(default_factory=list)  # of items not asked for: the day; None: another place
    strangers: Counter[str] = field(default_factory=Counter)  # items of each unknown collection
    lost: list[Granule] = field(default_factory=list)  # with a mistake
    unread: list[str] = field(default_factory=list)  # ids of items of which a field cannot be read

    def __post_init__(self) -> None:
        shapely.prepare(self.area)

    def leave_out(self, name: object, cause: str, detail: str) -> None:
        """Record why an item is not used; `name` and `detail` may hold whatever a catalogue wrote."""
        shown = name if isinstance(name, str) and name.isprintable() else repr(name)
        self.left_out.append(LeftOut(shown[:MAX_TEXT], cause, " ".join(detail.split())[:MAX_TEXT]))

    def at_fault(self, granule: Granule, cause: str, detail: str) -> None:
        """Leave out an item for a mistake that is one of FAULTS."""
        log.warning("left out scene %s: %s", granule.id, detail)
        self.leave_out(granule.id, cause, detail)
        self.lost.append(granule)

    def take(self, item: dict[str, Any], provider: Provider) -> Granule | None:
        if str(item.get("id")) in self.exclude:
            self.leave_out(item["id"], "excluded", "--exclude")
            return None
        try:
            granule = read_granule(item, provider)
        except ValueError as error:
            if self._passes_by(*place_and_time(item)):
                return None
            log.warning("left out item %r: not a valid STAC item (%s)", item.get("id"), error)
            self.leave_out(item.get("id"), "invalid", str(error))
            self.unread.append(str(item.get("id")))
            return None
        if self._passes_by(granule, granule.time):
            return None
        if granule.cloud_cover is not None and granule.cloud_cover > self.max_cloud:
            self.leave_out(granule.id, "cloudy", f"{granule.cloud_cover:.0f} % cloud")
            return None
        if granule.missing:
            self.at_fault(granule, "incomplete", f"no asset for {', '.join(granule.missing)}")
            return None
        if granule.contradiction:
            self.at_fault(granule, "contradiction", granule.contradiction)
            return None
        return granule

    def _passes_by(self, where: Granule | BaseGeometry | None, when: datetime | None) -> bool:
        """Whether an item is of another place or another time than asked for, which is counted; None is not known."""
        touches = where.touches(self.area) if isinstance(where, Granule) else where is None or meet(self.area, where)
        if touches and (when is None or self.period.step(when) is not None):
            return False
        self.outside.append(when.date() if touches and when else None)
        return True

    def tell_unknown(self) -> None:
        """Warn about ids to exclude that are none of the items: they may be misspelt."""
        if unknown := self.exclude - {item.id for item in self.left_out if item.cause == "excluded"}:
            log.warning("--exclude: no item has the id %s", ", ".join(sorted(unknown)))

    def in_passes(self, granules: Sequence[Granule]) -> list[Granule]:
        """The granules with their passes; so are those with a mistake, which may have a good copy."""
        known = in_passes([*granules, *self.lost])
        self.lost[:] = [granule for granule in known if granule.missing or granule.contradiction]
        return [granule for granule in known if not (granule.missing or granule.contradiction)]

    def check_faults(self, used: Sequence[Granule], refused: HrefError | OffsetError | None, limit: float) -> None:
        """Raise the first error, or InputError, if more scenes are lost than allowed; not those with a good copy."""
        have = {(granule.acquisition, granule.tile) for granule in used}
        gone = {(granule.id, granule.acquisition, granule.tile) for granule in self.lost}
        lost = sorted([*{*self.unread}, *(name for name, *shown in gone if tuple(shown) not in have)])
        whole = len(used) + len(lost)
        allowed = may_miss(whole, limit)
        if not lost or (len(lost) <= allowed and len(lost) < whole):
            return
        said = (
            f"{len(lost)} of {whole} scenes have a mistake in their items, {allowed} may have one (--max-missed "
            f"{100 * limit:g}): {', '.join(lost[:MANY])}{', ...' if len(lost) > MANY else ''}"
        )
        if refused is not None:
            raise type(refused)(f"{refused}; {said}" if len(lost) > 1 else str(refused))
        first = next(item for item in self.left_out if item.cause in FAULTS)
        raise InputError(
            f"{said}; the first: {first.id}: {first.cause}, {first.detail}; type --exclude ID for each to leave them "
            "out, or correct the items"
        )


def _distinct(found: Iterable[tuple[Scene, Granule]], sieve: _Sieve) -> list[tuple[Scene, Granule]]:
    """The scenes in order of time and id, without those with the id of another or a file of another pass.

    Runs know scenes by their ids, and one observation must not count twice.
    """
    owner: dict[str, Scene] = {}
    kept: dict[str, tuple[Scene, Granule]] = {}
    for scene, granule in sorted(found, key=_order):
        hrefs = [asset.href for asset in scene.assets.values()]
        taken = next((h for h in hrefs if h in owner and owner[h].acquisition != scene.acquisition), None)
        if taken and all(owner.get(h) is owner[taken] for h in hrefs) and _same_day(scene, owner[taken]):
            sieve.leave_out(scene.id, "copy", f"its files are those of {owner[taken].id}")
        elif taken:
            sieve.at_fault(granule, "contradiction", f"its file {taken} is also that of {owner[taken].id}")
        elif scene.id in kept:
            same = f"it is of {_told(scene)} and has the id of an item of {_told(kept[scene.id][0])}"
            sieve.at_fault(granule, "contradiction", f"{same}: give each item an id of its own")
        else:
            owner |= dict.fromkeys(hrefs, scene)
            kept[scene.id] = scene, granule
    return [*kept.values()]


def _order(found: tuple[Scene, Granule]) -> tuple[Any, ...]:
    scene, granule = found
    return scene.time, scene.id, granule.collection, granule.tile, sorted(a.href for a in scene.assets.values())


def _told(scene: Scene) -> str:
    return f"{scene.time:%Y-%m-%d %H:%M:%S} in {scene.collection}"


def _same_day(one: Scene, other: Scene) -> bool:
    return one.time.date() == other.time.date()


def _scene(granule: Granule, policy: HrefPolicy, offset_policy: OffsetPolicy) -> Scene:
    return Scene(
        id=granule.id,
        collection=granule.collection,
        provider=granule.provider.key,
        time=granule.time,
        platform=granule.platform,
        acquisition=granule.acquisition,
        epsg=granule.epsg,
        bbox=astuple(granule.box),
        assets={band: _asset(band, granule, policy, offset_policy) for band in granule.provider.assets},
        baseline=granule.baseline,
        cloud_cover=granule.cloud_cover,
        link=public_link(granule.link),
        generated=granule.generated.isoformat() if granule.generated else None,
    )


def _asset(band: str, granule: Granule, policy: HrefPolicy, offset_policy: OffsetPolicy) -> SceneAsset:
    asset = granule.assets[band]
    try:
        href = check_href(asset.href, policy, base=granule.link)
    except HrefError as error:
        raise HrefError(f"item {granule.id}, {band}: {error}") from None
    if granule.provider.owns(href):
        href = href.partition("?")[0]  # an old signature, and a secret
    offset, reason = decide_offset(
        band,
        granule.provider.offset_told,
        item=granule.id,
        baseline=granule.baseline,
        flag=granule.offset_flag,
        stated=asset.stated,
        policy=offset_policy,
    )
    return SceneAsset(band, href, offset, reason, asset.transform, asset.shape, asset.content)


def _nothing(source: str, sieve: _Sieve) -> str:
    """Why a search found nothing, how the request was understood, and what to type instead."""
    west, south, east, north = (f"{v:.6g}" for v in astuple(Box.around(sieve.area)))
    last = sieve.period.end - timedelta(days=1)
    text = (
        f"no Sentinel-2 scene over longitude {west} to {east}, latitude {south} to {north}, "
        f"{sieve.period.start:%Y-%m-%d} to {last:%Y-%m-%d} in {source}"
    )
    if sieve.max_cloud < 100:
        text += f" with at most {sieve.max_cloud:g} % cloud: type a higher --max-cloud"
    causes = Counter(item.cause for item in sieve.left_out)
    if cloudy := causes["cloudy"]:
        text += f" ({cloudy} are cloudier)"
    if excluded := causes["excluded"]:
        text += f"; left out by --exclude: {excluded}"
    faults = [item for item in sieve.left_out if item.cause in FAULTS]
    if faults:
        first = f"{faults[0].id}: {faults[0].cause}, {faults[0].detail}"
        text += f"; {len(faults)} lack a band or valid metadata, the first: {first}"
    if days := [day for day in sieve.outside if day is not None]:
        text += f"; it has {len(days)} of {min(days)} to {max(days)} there: ask for another period"
    elif not sieve.left_out and max(abs(float(west)), abs(float(east))) <= 90:
        text += f"; if longitude and latitude were swapped, type {south},{west},{north},{east}"
    return text
