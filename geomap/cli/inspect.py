"""Commands that write nothing: plan, before a map is made; explain, what it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from geomap.cli import options
from geomap.cli.console import log_to_stderr, number, out_console, progress_bars, say, say_json, tell, warn
from geomap.cli.learned import print_learned
from geomap.cli.show import HECTARES_PER_PIXEL, duration, print_quality
from geomap.errors import InputError
from geomap.run.account import summary, told
from geomap.run.keys import RequestKeys
from geomap.run.request import Request, request_of
from geomap.run.totals import read_quality
from geomap.types import today

if TYPE_CHECKING:
    from geomap.run.plan import Plan
    from geomap.run.record import Inputs, MissedScene, OffsetGroup

MANY_ITEMS = 40
"""Most items left out that `explain` names; run.json has all."""


@options.asking(
    "period",
    "catalogue.stac",
    "catalogue.collection",
    "catalogue.max_cloud",
    "catalogue.offset",
    "catalogue.allow_hosts",
    "catalogue.exclude",
    "catalogue.max_missed",
    "weights",
    "masks",
    "resources.device",
)
def plan_command(
    area: Annotated[str, typer.Argument(metavar="AOI|JOB.yaml", help="As for `geomap map`; or a job file.")],
    *,
    keys: RequestKeys,
    as_json: options.AsJson = False,
    verbose: options.Verbose = False,
) -> None:
    """What a map would take, and how much clear sky it would find month by month.

    Writes no file. Takes the options of `geomap map` that decide what is read, or a job file instead of them. The clear
    share is measured on the scene classification of up to 60 scenes, read coarsely; for the others it is what their
    items say of clouds.

    Example: `geomap plan "4.40,50.85,4.45,50.88" --year 2023`
    """
    log_to_stderr(verbose)
    if area.endswith((".yaml", ".yml")):
        request = _of_job(keys, area)
    else:
        from geomap import aoi

        request = request_of(keys, aoi.parse_area(area), options.period_of(keys), ())
    from geomap.run.plan import plan_request as make_plan

    with progress_bars() as progress:
        made = make_plan(request, progress)
    if as_json:
        say_json(asdict(made))
    else:
        _print_plan(made)


def _of_job(keys: RequestKeys, path: str) -> Request:
    """What a job file asks for today; options beside it are refused."""
    from geomap.jobs.file import read_job

    if others := list(options.typed_options(keys)):
        raise InputError(f"{others[0]} goes with an area; {path} says what to map and how")
    job = read_job(Path(path))
    from geomap.jobs import due

    return due.request(job, job.keys.period.at(today()))


def explain_command(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Output directory of a run.")],
    as_json: options.AsJson = False,
) -> None:
    """Which scenes a run reads, why their DN offsets, what became of each, and what was learned from points.

    "By their pixels" counts scenes by what their darkest vegetation says about the decision: "not asked" if a scene
    has none there, or its products never carried the offset. Of a map that was assessed, its accuracy is told too.
    """
    from geomap.run import record

    found = record.inputs(directory)
    if as_json:
        say_json({"directory": str(directory)} | asdict(found))
    else:
        _print_inputs(directory, found)
        for line in found.elsewhere:
            say(line, style="yellow")
        print_learned(directory, found.request)
        print_quality(read_quality(directory))


def _print_plan(plan: Plan) -> None:
    table = Table(
        "month", number("scenes"), number("passes"), number("clear share"), number("clear observations expected"),
        title="Clear sky",
    )  # fmt: skip
    for m in plan.months:
        note = "" if m.measured == m.passes else f" ({m.measured} of {m.passes} passes measured)"
        share = "" if m.clear is None else f"{m.clear:.0%}{note}"
        name, style = f"{m.year:04d}-{m.month:02d}", "red" if m.empty else None
        unknown = m.passes > 0 and m.clear is None
        expected = "unknown" if unknown else f"{m.observations:.1f}"
        table.add_row(name, str(m.scenes), str(m.passes), share, expected, style=style)
    passes, observations = sum(m.passes for m in plan.months), sum(m.observations for m in plan.months)
    table.add_section()
    table.add_row("all", str(plan.scenes), str(passes), "", f"{observations:.1f}")
    out_console.print(table)
    _print_costs(plan)
    if empty := [m for m in plan.months if m.empty]:
        names = ", ".join(
            f"{m.year:04d}-{m.month:02d} ({m.scenes or 'no'} scene{'s' * (m.scenes != 1)})" for m in empty
        )
        warn(f"expected to be empty: {names}", style="red")
    if plan.failed:
        looked = plan.failed + plan.measured
        said = f"{plan.failed} of {looked} scenes looked at cannot be read, such as: {plan.failure}"
        warn(said, style="red")


def _print_costs(plan: Plan) -> None:
    reading = "unknown: no scene could be read for a trial"
    if plan.read_seconds is not None:
        reading = f"about {duration(plan.read_seconds)}, by a trial just made: a few scenes over one tile"
    square_km = plan.pixels * HECTARES_PER_PIXEL / 100
    requests = "all of local files"
    if plan.requests != 0:
        requests = "requests not known" if plan.requests is None else f"about {plan.requests:,} HTTP requests"
    size = "" if plan.download_bytes is None else f", about {decimal(plan.download_bytes)} of files"
    tiles = "1 tile" if plan.tiles == 1 else f"{plan.tiles} tiles"
    table = Table("", "", title="What the map takes", show_header=False)
    table.add_row("area", f"{square_km:,.2f} km2, {plan.pixels:,} pixels, {tiles}")
    table.add_row("left out", ", ".join(f"{n} {cause}" for cause, n in sorted(plan.left_out.items())) or "nothing")
    table.add_row("reads", f"{plan.reads:,} of a band over a tile, {requests}")
    table.add_row("bytes", f"up to {decimal(plan.read_bytes)} of pixels{size}")
    table.add_row("reading", reading)
    table.add_row("encoding", f"about {duration(plan.encode_seconds)} on this machine, while the next tile is read")
    out_console.print(table)


def _print_inputs(directory: Path, found: Inputs) -> None:
    if kept := _kept_by_another(found):
        tell(f"{directory}: made from {kept}; geomap explain with the directory of that run names the scenes")
        _print_account(directory, found)
        return
    count = sum(group.scenes for group in found.groups if "B02" in group.bands)
    state = "" if found.finished else ", not finished"
    tell(f"{directory}: {count} scenes{state}")
    table = Table(number("scenes"), "from, when, and their DN offset")
    for group in found.groups:
        table.add_row(str(group.scenes), escape(_group(group)), end_section=True)
    out_console.print(table)
    _print_missed(directory, found.missed)
    _print_account(directory, found)
    _print_left_out(directory, found)


def _kept_by_another(found: Inputs) -> str:
    """What a run that read no scene was made from, in words; empty if it read scenes."""
    asked = found.request
    kept = next((name for name in ("embeddings", "composites") if isinstance(asked.get(name), str)), "")
    if found.groups or not kept:
        return ""
    name = asked.get("made", {}).get("name")
    return f"the {kept} that another run kept ({f'{name}, ' if name else ''}{asked['period']})"


def _print_left_out(directory: Path, found: Inputs) -> None:
    """The items left out before their files were read: by name, or as a number where nobody asked for them."""
    if found.left_out:
        table = Table("why", "item", title=f"Found and left out: {len(found.left_out)} items")
        for item in found.left_out[:MANY_ITEMS]:
            table.add_row(escape(item.cause), _lines(item.id, item.detail))
        _print_some(directory, table, len(found.left_out))
    named = {item.cause for item in found.left_out} | {scene.fate.why for scene in found.odd}
    lost = found.account.left_out if found.account else {}
    if counted := {cause: number for cause, number in lost.items() if cause not in named}:
        say(f"left out by the search and not named: {told(counted)}")
    elif not found.left_out:
        say("no item was left out before its files were read")


def _print_account(directory: Path, found: Inputs) -> None:
    """What became of the scenes, and how much of the area is mapped."""
    if found.odd:
        table = Table("use", "scene, and why", "tiles", title=f"Not used, or in part: {len(found.odd)} scenes")
        for scene in found.odd[:MANY_ITEMS]:
            tiles = ", ".join(f"{n} {what}" for what, n in scene.fate.tiles.items()) or "none"
            table.add_row(escape(scene.fate.use), _lines(scene.id, scene.fate.why), escape(tiles))
        _print_some(directory, table, len(found.odd))
    if found.account is not None:
        tell(summary(found.account))
    if found.mapped is not None:
        m = found.mapped
        months = f", {len(m.months)} months with a clear observation" if m.months else ""
        tell(f"{m.says}{months}")
        if m.note:
            tell(f"WARNING: {m.note}")


def _print_missed(directory: Path, missed: Sequence[MissedScene]) -> None:
    if not missed:
        return
    count = len({m.scene for m in missed})
    title = f"Left out of tiles, missing or damaged: {count} scenes"
    table = Table("why", "scene", "band", number("tiles"), title=title)
    for m in missed[:MANY_ITEMS]:
        table.add_row(escape(m.cause), _lines(m.scene, m.detail), escape(m.band), str(len(m.tiles)))
    _print_some(directory, table, len(missed))


def _print_some(directory: Path, table: Table, count: int) -> None:
    """Print a table of at most MANY_ITEMS rows, and how many there are besides."""
    out_console.print(table)
    if count > MANY_ITEMS:
        say(f"and {count - MANY_ITEMS} more in {directory / 'run.json'}")


def _lines(*texts: str) -> str:
    """The texts that are not empty, below each other in a cell."""
    return escape("\n".join(text for text in texts if text))


def _group(group: OffsetGroup) -> str:
    from geomap.sentinel2 import BANDS

    bands = "" if group.bands == BANDS else f", of {', '.join(group.bands)}"
    dates = group.first if group.first == group.last else f"{group.first} .. {group.last}"
    says = ", ".join(f"{n} {what}" for what, n in group.pixels_say.items())
    baseline = f"baseline {group.baseline}" if group.baseline else "baseline not given"
    return (
        f"{group.platform} by {group.provider}, {dates}, {baseline}\n"
        f"offset {group.dn}{bands}: {group.reason}\nby their pixels: {says}"
    )
