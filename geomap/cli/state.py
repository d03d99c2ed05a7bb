"""Commands that inspect the directory of a run: status, verify, view."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from geomap import files
from geomap.cli.console import out_console, say, say_json, warn
from geomap.cli.options import AsJson
from geomap.cli.show import duration
from geomap.errors import GeomapError, InputError
from geomap.text import plural

if TYPE_CHECKING:
    from geomap.run.status import Status

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="Output directory of a run.")]


def status_command(directory: Directory, as_json: AsJson = False) -> None:
    """How far a run is, and the time to go.

    Works while the run is going, after it has finished, and after it was killed. The time to go follows from the pixels
    left and the pace of this run (of the last one, if none is going); it is unknown until a tile is finished.
    """
    from geomap.run.status import status as look

    found = look(directory)
    if as_json:
        say_json(asdict(found))
    else:
        _print(found)


def verify_command(directory: Directory, as_json: AsJson = False) -> None:
    """Check every file of a run against its checksum.

    Maps and the files beside them against SHA256SUMS, tiles that are kept against their own checksums. Statistics and
    styles that other programs wrote beside the maps are named, but are no problem.
    """
    from geomap.run.status import verified

    if not directory.is_dir():
        raise InputError(f"no directory {directory}")
    found = verified(directory)
    if as_json:
        told = {"directory": str(directory), "whole": not found.problems}
        say_json(told | {"problems": found.problems, "side": found.side})
    for problem in found.problems:
        warn(problem, style="red")
    for line in () if as_json else found.side:
        say(line)
    if found.problems:
        raise GeomapError(f"{plural(len(found.problems), 'problem')} in {directory}")
    if not as_json:
        say(f"{directory}: every file of the run is as it was written")


def view_command(directory: Directory) -> None:
    """Look at the maps of a run in the browser.

    The report page, index.html, holds the maps and needs no network: copy the file, or send it, and it works elsewhere
    too.
    """
    import webbrowser

    page = directory / files.PAGE
    if not directory.is_dir():
        raise InputError(f"there is no directory {directory}; name the one that geomap map wrote")
    if not page.is_file():
        raise InputError(
            f"{directory} has no {files.PAGE}: it was made with --no-report or an earlier version, or is not finished; "
            "make the maps in another --out"
        )
    if not (directory / files.SUMS).is_file():
        warn(f"{directory} is not finished: the page may be of other maps than lie there; type its command again")
    address = page.resolve().as_uri()
    if webbrowser.open(address):
        say(f"opened {address}")
    else:
        warn("no browser was found here; open this address in one")
        say(address)


def _print(s: Status) -> None:
    left = "unknown" if s.seconds_left is None else duration(s.seconds_left)
    table = Table("", "", title=escape(f"{s.directory}: {s.state}"), show_header=False)
    table.add_row("tiles", f"{s.done} of {s.tiles} done, {len(s.running)} in hand, {s.pending} to come")
    if s.state != "finished":
        table.add_row("time to go", left if s.state == "running" else f"{left} once it is started again")
    table.add_row("scenes", f"{s.scenes:,}")
    table.add_row("on disk", decimal(s.bytes))
    for name, cause in s.failed.items():
        table.add_row("to be tried again", escape(f"{name}: {cause}"))
    for name, cause in s.quarantined.items():
        table.add_row("in quarantine", escape(f"{name}: {cause}"))
    out_console.print(table)
    if s.quarantined:
        say("to try the tiles in quarantine again, add --retry-quarantined to the run's command")
