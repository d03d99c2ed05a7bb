"""Decides whether a scene's pixels carry the offset of processing baseline 04.00, and says why.

Since baseline 04.00 (25 January 2022, and every older scene reprocessed since) ESA adds 1000 to all DNs, so that
reflectance = (DN + BOA_ADD_OFFSET) / 10000 with BOA_ADD_OFFSET = -1000 (Sentinel-2 Products Specification Document).
The acquisition date does not decide. Some catalogues remove the offset again, some do not, and some state it wrongly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, Literal

from geomap.errors import OffsetError
from geomap.sentinel2 import BOA_OFFSET_DN, OFFSET_BASELINE, REFLECTANCE_SCALE, SCL
from geomap.sources.providers import OFFSET_FLAG, OffsetTold

OffsetPolicy = Literal["auto", "applied", "unapplied"]
"""`--offset`: what to assume where a scene's metadata do not decide; "applied" = the catalogue removed the offset."""

MOST_REFLECTANCE: Final = 1e6
"""Scales and offsets from here on are no reflectances."""

_BASELINE: Final = re.compile(r"N?(\d{1,2})\.(\d{1,2})|N(\d{2})(\d{2})")

_FLAG_FALSE: Final = f"{OFFSET_FLAG} is false"
_TYPED: Final = "--offset "
_BEFORE: Final = "is before 04.00: never added"


def parse_baseline(text: object) -> tuple[int, int] | None:
    """'05.10', or 'N0510' as in product names, -> (5, 10); None for anything that is not a processing baseline."""
    match = _BASELINE.fullmatch(str(text).strip())
    return (int(match[1] or match[3]), int(match[2] or match[4])) if match else None


def stated_offset(asset: Mapping[str, Any]) -> int | None:
    """The offset in DN that an asset states, or None where it states none.

    Read from `raster:bands[0]` (raster extension 1) or from `raster:offset` on the asset or on `bands[0]` (raster
    extension 2, STAC 1.1); offset / scale is in DN, scale by default 1 / 10000.
    """
    bands = asset.get("bands") or [{}]
    old = (asset.get("raster:bands") or [{}])[0]
    for offset, scale in (
        (old.get("offset"), old.get("scale")),
        (asset.get("raster:offset"), asset.get("raster:scale")),
        (bands[0].get("raster:offset"), bands[0].get("raster:scale")),
    ):
        if offset is not None:
            per_dn = 1 / REFLECTANCE_SCALE if scale is None else float(scale)
            if not (0 < per_dn < MOST_REFLECTANCE and abs(float(offset)) < MOST_REFLECTANCE):
                raise ValueError(f"raster:bands with scale {scale} and offset {offset} are no reflectances")
            return round(float(offset) / per_dn)
    return None


def decide_offset(
    band: str,
    told: OffsetTold,
    *,
    item: str,
    baseline: str | None,
    flag: bool | None = None,
    stated: int | None = None,
    policy: OffsetPolicy = "auto",
) -> tuple[int, str]:
    """DN to add to every valid pixel of one asset (0 or -1000), and why.

    Args:
        band: band name; SCL holds classes and never carries the offset.
        told: "flag": `earthsearch:boa_offset_applied` decides and the stated offset is known to be wrong;
            "stated": the stated offset must agree with the baseline; "baseline": only the baseline counts.
        item: item id, for the message.
        baseline: processing baseline, such as "05.10".
        flag: the catalogue says that it removed the offset.
        stated: offset in DN that the asset states.
        policy: decides where the metadata do not. It also overrides a flag of False from baseline 04.00 on, since
            Earth Search is known to say False for shifted pixels (Element84/earth-search issues 66 and 71).

    Raises:
        OffsetError: the metadata are missing or contradict each other, and `policy` is "auto".
    """
    if band == SCL:
        return 0, "classes carry no offset"
    number = parse_baseline(baseline)
    before = number is not None and number < OFFSET_BASELINE
    after = number is not None and not before
    if told == "flag":
        if flag is True:
            return 0, f"{OFFSET_FLAG} is true: already taken off"
        if before:
            return 0, f"baseline {baseline} {_BEFORE}"
        if after and flag is False and stated != 0 and policy == "auto":
            return BOA_OFFSET_DN, f"baseline {baseline}, {_FLAG_FALSE}: still in the data"
    elif before and stated in (None, 0):
        return 0, f"baseline {baseline} {_BEFORE}"
    elif after and stated == BOA_OFFSET_DN:
        return BOA_OFFSET_DN, f"baseline {baseline} and the stated offset of {stated} DN agree: in the data"
    elif after and stated is None and told == "baseline":
        return BOA_OFFSET_DN, f"baseline {baseline} is from 04.00 on: in the data"
    facts = {"baseline": baseline, OFFSET_FLAG: flag, "stated offset": stated if stated is None else f"{stated} DN"}
    said = ", ".join(f"{name} {'not given' if value is None else value}" for name, value in facts.items())
    if policy != "auto":
        return (0 if policy == "applied" else BOA_OFFSET_DN), f"{_TYPED}{policy} (metadata: {said})"
    raise OffsetError(
        f"item {item} does not tell whether {band} carries the offset of {BOA_OFFSET_DN} DN ({said}): "
        "type --offset applied if its catalogue has taken it off, --offset unapplied if it is still in the pixels"
    )


def remedy(reason: str, offset: int) -> str:
    """What to type so that an asset gets `offset` instead of the one that was decided for `reason`.

    Where the metadata are clear, no policy changes the decision: then the scene has to be left out.
    """
    without = "map from an item file without this scene"
    if reason.startswith(_TYPED) or (_FLAG_FALSE in reason and offset == 0):
        return f"type --offset {'unapplied' if offset else 'applied'}, or {without}"
    if _BEFORE in reason:
        return f"its item may name an old baseline: correct that in an item file, or {without}"
    return without
