"""Accounts for the scenes of a run, each used or left out for a reason, and for the pixels of its area."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

from geomap.run.tile_file import About, Seen, Task
from geomap.types import LeftOut, Period, Scene, Searched

Use = Literal["used", "in part", "left out", "not known"]

LEAST_MAPPED: Final = 0.5
"""Below this share of mapped pixels a map has more holes than content, and a run says so.

Clouds and the edges of passes alone leave far less unmapped in a year. A single month of a cloudy place may fall below,
and then it is worth knowing."""

LEAST_MONTHS: Final = 0.5
"""Below this share of months with a clear observation a run says so: most of each pixel's series is missing."""

GAVE: Final = ("clear", "taken over")
"""What a scene gave a tile if it was used there; months taken over from an earlier run need no scene."""

FAULT: Final = ("contradiction", "damaged", "missing", "tile not made")
"""Why a scene that lies over a tile is missing in it."""

WHY: Final = {"unclear": "no clear pixel", "nothing": "no pixel"}
"""Why a scene that was read is not used: clouds; or its files hold no pixel there."""

NO_OVERLAP: Final = "no overlap"
"""Why a scene was not read: it touches the area, but none of its tiles."""


@dataclass(frozen=True, slots=True)
class Fate:
    """What a run made of a scene."""

    use: Use = "not known"
    why: str = ""  # what is missing, or why it is left out
    tiles: Mapping[str, int] = field(default_factory=dict)  # what it gave, or why it gave nothing -> number of tiles


@dataclass(frozen=True, slots=True)
class Account:
    """All items of a search by what became of them; the numbers add up to `items`."""

    items: int
    used: int
    in_part: int
    left_out: dict[str, int]  # reason -> items


@dataclass(frozen=True, slots=True)
class Mapped:
    """How much of the area is mapped."""

    pixels: int  # of the area
    mapped: int
    share: float  # 0..1
    months: tuple[str, ...]  # months with a clear observation, as 2023-04; empty if they are not known
    note: str = ""  # what is wrong with that, if something is
    sky: tuple[float, ...] = ()  # share of the area that was seen clear in each month, 0..1; none where it is not known

    @property
    def says(self) -> str:
        """How much of the area is mapped, in words."""
        return f"{self.mapped:,} of the area's {self.pixels:,} pixels are mapped ({self.share:.1%})"


def fates(
    scenes: Sequence[Scene], tasks: Iterable[Task], abouts: Mapping[str, About], period: Period
) -> dict[str, Fate]:
    """By scene id, what became of it in the tiles; `abouts` holds the finished tiles by name."""
    tiles: dict[str, Counter[str]] = {scene.id: Counter() for scene in scenes}
    for task in tasks:
        about = abouts.get(task.tile.name)
        for scene in task.scenes:
            tiles[scene.id][_in_tile(scene, about, period)] += 1
    return {name: _fate(count) for name, count in tiles.items()}


def _in_tile(scene: Scene, about: About | None, period: Period) -> str:
    if about is None:
        return "tile not made"
    if missed := [m.cause for m in about.missed if m.scene == scene.id]:
        return missed[0]
    if scene.id in about.gave:
        return about.gave[scene.id]
    step = period.step(scene.time)
    taken = step is not None and period.month_names[step] in about.reused.months
    return "taken over" if taken else "nothing"


def _fate(tiles: Counter[str]) -> Fate:
    faults = [cause for cause in FAULT if tiles[cause]]
    counts = dict(sorted(tiles.items()))
    if any(tiles[name] for name in GAVE):
        return Fate("in part" if faults else "used", ", ".join(faults), counts)
    why = faults[0] if faults else next((WHY[name] for name in WHY if tiles[name]), NO_OVERLAP)
    return Fate("left out", why, counts)


def account(searched: Searched, left_out: Iterable[LeftOut], by_scene: Mapping[str, Fate]) -> Account:
    """What became of all items of a search."""
    reasons = Counter(item.cause for item in left_out)
    reasons.update(fate.why for fate in by_scene.values() if fate.use == "left out")
    outside = {"elsewhere": searched.elsewhere, "of other days": searched.other_days}
    reasons.update(outside | {"repeated": searched.repeated})
    uses = Counter(fate.use for fate in by_scene.values())
    return Account(searched.items, uses["used"], uses["in part"], {k: n for k, n in sorted(reasons.items()) if n})


def mapped(tiles: Iterable[Seen], not_made: int, period: Period, least: int | None, found: Account | None) -> Mapped:
    """How much of the area is mapped.

    Args:
        tiles: of the finished tiles.
        not_made: pixels of the area in tiles that could not be made.
        period: the months asked for.
        least: clear months that a pixel needs; None if that was decided by an earlier run.
        found: what became of the scenes; None if none were searched.
    """
    parts = tuple(tiles)
    pixels = sum(part.pixels for part in parts) + not_made
    count = sum(part.mapped for part in parts)
    held = {month for part in parts for month in part.months}
    months = tuple(name for name in period.month_names if name in held)
    share = count / pixels if pixels else 0.0
    clear = [part.clear for part in parts if part.clear]
    known = pixels and len(clear) == len(parts)
    sky = tuple(round(sum(month) / pixels, 4) for month in zip(*clear, strict=True)) if known else ()
    return Mapped(pixels, count, round(share, 6), months, _note(count, share, months, period, least, found), sky)


def _note(
    count: int, share: float, months: Sequence[str], period: Period, least: int | None, found: Account | None
) -> str:
    if not count:
        return f"no pixel of the area is mapped: {_why(months, least, found)}"
    said = []
    if share < LEAST_MAPPED:
        said.append(f"only {100 * share:.1f} % of the area's pixels are mapped")
    if months and len(months) < LEAST_MONTHS * period.months:
        said.append(f"only {len(months)} of {period.months} months have a clear observation")
    return " and ".join(said)


def _why(months: Sequence[str], least: int | None, found: Account | None) -> str:
    if found is not None and not found.used + found.in_part:
        return f"no scene gave a clear pixel ({told(found.left_out)})"
    if months and least is not None:
        return (
            f"no pixel has {least} clear months (--min-clear-months), in {len(months)} months with a clear observation"
        )
    return "no pixel has enough clear months"


def told(reasons: Mapping[str, int]) -> str:
    """Reasons with their numbers in words, the most frequent first."""
    ordered = sorted(reasons.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{number} {reason}" for reason, number in ordered) or "none was found"


def summary(found: Account) -> str:
    """An account in one line."""
    parts = [f"{found.used} used", *([f"{found.in_part} in part"] if found.in_part else [])]
    lost = sum(found.left_out.values())
    parts.append(f"{lost} left out" + (f" ({told(found.left_out)})" if lost else ""))
    return f"{found.items} items of the search: {', '.join(parts)}"
