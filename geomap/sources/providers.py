"""The conventions of each Sentinel-2 L2A catalogue, as data; no other module names a catalogue.

A provider is one set of conventions: one collection of one catalogue. The order of PROVIDERS is the order of
preference between copies of one scene at the same processing baseline.

Sources: the items that the catalogues serve; Earth Search: https://github.com/Element84/earth-search (README, issues
9, 66, 71); Planetary Computer: its sentinel-2-l2a collection; CDSE: documentation.dataspace.copernicus.eu/APIs
(STAC.html, S3.html) and /Quotas.html.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from geomap.sentinel2 import BAND_TABLE, BANDS, SCL

OffsetTold = Literal["flag", "stated", "baseline"]
"""How a catalogue states whether the +1000 DN of baseline 04.00 is still in its pixels (see offset.decide_offset)."""

OFFSET_FLAG: Final = "earthsearch:boa_offset_applied"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """The conventions of one collection of one catalogue."""

    key: str
    title: str
    catalog: str  # the preset of `--stac` that searches this collection
    url: str  # landing page of its STAC API
    collection: str
    assets: Mapping[str, str]  # band name, SCL included -> asset key
    offset_told: OffsetTold
    marks: tuple[str, ...] = ()
    """Properties that identify the convention where a copy has another collection id. Empty: only the id is trusted,
    since nothing in the items says whether a copy still carries the offset."""
    baseline_property: str = "s2:processing_baseline"
    datatake_property: str = "s2:datatake_id"
    generated_property: str = "s2:generation_time"
    tile_properties: tuple[str, ...] = ("grid:code", "s2:mgrs_tile")
    hosts: frozenset[str] = frozenset()  # https hosts of its pixels
    buckets: frozenset[str] = frozenset()  # s3 buckets of its pixels
    gdal_options: Mapping[str, str] = field(default_factory=dict)
    """Options of GDAL for the provider's own hrefs only (see `owns`). Credentials come from the environment."""
    max_connections: int | None = None  # files open at once, over all workers; None: no stated limit

    def owns(self, href: str) -> bool:
        """Whether `href` lies on the provider's own storage, where `gdal_options` and `max_connections` apply."""
        parts = urlsplit(href)
        return (parts.hostname or "") in {"https": self.hosts, "s3": self.buckets}.get(parts.scheme, frozenset())

    def fits(self, item: Mapping[str, Any]) -> bool:
        """Whether a STAC item follows these conventions: its collection (or marks) and most of its asset keys."""
        collection, properties = item.get("collection"), item.get("properties")
        if not isinstance(properties, Mapping):
            return False
        known = any(collection == p.collection for p in _PROVIDERS)
        marked = bool(self.marks) and not known and all(mark in properties for mark in self.marks)
        return (collection == self.collection or marked) and 2 * self.held(item) > len(self.assets)

    def held(self, item: Mapping[str, Any]) -> int:
        """How many of the asset keys a STAC item has."""
        assets = item.get("assets")
        return sum(key in assets for key in self.assets.values()) if isinstance(assets, Mapping) else 0


_COMMON_NAMES: Final = dict(
    zip(
        (*BANDS, SCL),
        ("blue", "green", "red", "rededge1", "rededge2", "rededge3", "nir", "nir08", "swir16", "swir22", "scl"),
        strict=True,
    )
)
_ESA_NAMES: Final = {band: band for band in (*BANDS, SCL)}
_CDSE_NAMES: Final = {b.name: f"{b.name}_{b.resolution}m" for b in BAND_TABLE} | {SCL: f"{SCL}_20m"}

_PROVIDERS: Final = (
    Provider(
        key="earth-search-c1",
        title="Earth Search, Collection 1",
        catalog="earth-search",
        url="https://earth-search.aws.element84.com/v1",
        collection="sentinel-2-c1-l2a",
        assets=_COMMON_NAMES,
        offset_told="stated",
        hosts=frozenset({"e84-earth-search-sentinel-data.s3.us-west-2.amazonaws.com"}),
    ),
    Provider(
        key="earth-search-l2a",
        title="Earth Search, Level-2A",
        catalog="earth-search",
        url="https://earth-search.aws.element84.com/v1",
        collection="sentinel-2-l2a",
        assets=_COMMON_NAMES,
        offset_told="flag",
        marks=(OFFSET_FLAG,),
        hosts=frozenset({"sentinel-cogs.s3.us-west-2.amazonaws.com"}),
    ),
    Provider(
        key="cdse",
        title="Copernicus Data Space Ecosystem",
        catalog="cdse",
        url="https://stac.dataspace.copernicus.eu/v1",
        collection="sentinel-2-l2a",
        assets=_CDSE_NAMES,
        offset_told="stated",
        marks=("processing:version", "eopf:datatake_id"),
        baseline_property="processing:version",
        datatake_property="eopf:datatake_id",
        generated_property="processing:datetime",
        buckets=frozenset({"eodata"}),
        gdal_options={
            "AWS_S3_ENDPOINT": "eodata.dataspace.copernicus.eu",
            "AWS_VIRTUAL_HOSTING": "FALSE",
            "AWS_HTTPS": "YES",
        },
        max_connections=4,  # Quotas.html: concurrent S3 connections of a general user
    ),
    Provider(
        key="planetary-computer",
        title="Microsoft Planetary Computer",
        catalog="planetary-computer",
        url="https://planetarycomputer.microsoft.com/api/stac/v1",
        collection="sentinel-2-l2a",
        assets=_ESA_NAMES,
        offset_told="baseline",
        hosts=frozenset({"sentinel2l2a01.blob.core.windows.net"}),
        gdal_options={"VSICURL_PC_URL_SIGNING": "YES"},  # GDAL fetches and renews the token when it reads
    ),
)

SIGN_AGAIN: Final = "/vsicurl?pc_url_signing=yes&pc_collection=sentinel-2-l2a&url="
"""Prefix that opens an escaped address of the Planetary Computer with a token of its collection.

GDAL keeps an address's token until it expires and cannot be told to drop it (cpl_vsil_curl.cpp); it requests the
collection's token separately."""

PROVIDERS: Final[Mapping[str, Provider]] = {p.key: p for p in _PROVIDERS}
"""Conventions by key, preferred first."""

PRESETS: Final[Mapping[str, tuple[Provider, ...]]] = {
    name: tuple(p for p in _PROVIDERS if p.catalog == name) for name in dict.fromkeys(p.catalog for p in _PROVIDERS)
}
"""What `--stac NAME` searches.

`earth-search` searches both of its collections and keeps one copy of each scene: Collection 1 states its offset
reliably but lacks scenes of 2016 to 2019 and of 2022; sentinel-2-l2a has those, while some of its newer items state the
offset wrongly. So the second fills the gaps of the first.
"""


def recognise(item: Mapping[str, Any], among: Iterable[Provider]) -> Provider | None:
    """The first provider whose conventions a STAC item follows, or None."""
    return next((provider for provider in among if provider.fits(item)), None)


def of_collection(item: Mapping[str, Any], among: Iterable[Provider]) -> Provider | None:
    """The provider of a STAC item's collection of whose assets it has most, however few; None of other collections."""
    own = (provider for provider in among if provider.collection == item.get("collection"))
    return max(own, key=lambda provider: provider.held(item), default=None)


def describe(providers: Iterable[Provider]) -> str:
    """What `recognise` looks for, for a message."""
    return "; ".join(f"{p.title}: collection {p.collection}, assets {' '.join(p.assets.values())}" for p in providers)
