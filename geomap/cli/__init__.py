"""The command line: parsing and printing only."""

from __future__ import annotations

import os
import re
import sys
from typing import Annotated

import typer

from geomap import __version__, process
from geomap.cli import data, evaluation, inspect, jobs, legends, maps, state, stored, training, weights
from geomap.cli.console import out_console, say
from geomap.errors import InputError

app = typer.Typer(
    name="geomap",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From an area of interest to labelled Sentinel-2 maps.\n\n"
    "Try `geomap demo` first: it needs no network. Then map a place of your own:\n\n"
    '`geomap map "4.40,50.85,4.45,50.88" --year 2023 --stac earth-search --out brussels`',
)
app.command("map")(maps.map_command)
app.command()(stored.label)
app.command()(stored.similar)
app.command()(jobs.run)
app.command()(jobs.schedule)
app.command()(inspect.plan)
app.command()(inspect.explain)
app.command()(maps.demo)
app.command()(state.status)
app.command()(state.verify)
app.command()(training.train)
app.command()(evaluation.evaluate)
app.add_typer(legends.app, name="legends")
app.add_typer(weights.app, name="weights")
app.add_typer(data.photos, name="photos")
app.add_typer(data.samples, name="samples")

_UsageError: type[Exception] = typer.BadParameter.__mro__[1]
# ^ click's UsageError: typer carries its own copy of click, which it does not export


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options of geomap itself."""
    if version:
        out_console.print(f"geomap {__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Entry point: every foreseen error is one line on stderr and its exit code."""
    process.keep_freed()
    code: int | None
    try:
        code = app(_negative_numbers(sys.argv[1:]), standalone_mode=False)
    except _UsageError as e:
        context = getattr(e, "ctx", None)
        if _usage(e):  # none where no command was given: its help has been printed
            say(f"{_usage(e)}; see {context.command_path if context else 'geomap'} --help")
        code = InputError.exit_code
    except typer.Abort:
        say("stopped")
        code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        os._exit(code)  # reads that still wait for a server must not hold the exit; what is on disk is whole


def _negative_numbers(args: list[str]) -> list[str]:
    """Let an area in the west, "-3.70,40.40,-3.69,40.41", pass for an argument, not for an option called -3."""
    return [f" {arg}" if re.match(r"-[\d.]", arg) else arg for arg in args]


def _usage(error: Exception) -> str:
    """Click's own words for a misspelt option, a missing argument or a value out of range, without the full stop."""
    message: str = getattr(error, "format_message", error.__str__)()
    return message.rstrip(".")
