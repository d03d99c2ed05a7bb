"""The command line: parsing and printing only."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from geomap import __version__, process
from geomap.cli import data, evaluation, inspect, jobs, legends, maps, state, stored, training, weights
from geomap.cli.console import fail, say
from geomap.errors import GeomapError, InputError

STOPPED = 130
"""Exit code after Ctrl-C, as in shells."""


class Commands(TyperGroup):
    """The commands; each expected error becomes one line on stderr and an exit code."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> NoReturn:
        """Run a command, and leave with its exit code."""
        given = _negative_numbers(sys.argv[1:] if args is None else args)
        try:
            code = super().main(given, *more, **{**options, "standalone_mode": False})
            if code == STOPPED:
                fail("stopped; the same command resumes")
        except GeomapError as e:
            fail(str(e))
            code = e.exit_code
        except typer.TyperException as e:  # a misspelt option, a missing argument, a value out of range
            code = _refuse(e)
        except typer.Abort:
            fail("stopped")
            code = STOPPED
        except OSError as e:
            fail(f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}")
            code = GeomapError.exit_code
        sys.exit(code or 0)


app = typer.Typer(
    name="geomap",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From an area of interest to labelled Sentinel-2 maps.\n\n"
    "Try `geomap demo` first: it needs no network. Then map a place of your own:\n\n"
    '`geomap map "4.40,50.85,4.45,50.88" --year 2023 --stac earth-search --out brussels`',
)
app.command("map")(maps.map_command)
app.command("label")(stored.label_command)
app.command("similar")(stored.similar_command)
app.command()(jobs.run)
app.command()(jobs.schedule)
app.command("plan")(inspect.plan_command)
app.command("explain")(inspect.explain_command)
app.command()(maps.demo)
app.command("status")(state.status_command)
app.command("verify")(state.verify_command)
app.command()(training.train)
app.command()(evaluation.evaluate)
app.add_typer(legends.legends_app, name="legends")
app.add_typer(weights.weights_app, name="weights")
app.add_typer(data.photos, name="photos")
app.add_typer(data.samples, name="samples")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options of geomap itself."""
    if version:
        say(f"geomap {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point."""
    process.keep_freed()
    try:
        app()
    except SystemExit as e:
        sys.stdout.flush()
        sys.stderr.flush()
        if e.code:
            os._exit(int(e.code))  # reads that wait for a server must not delay the exit; files on disk are whole


def _negative_numbers(args: Sequence[str]) -> list[str]:
    """Let an area in the west, "-3.70,40.40,-3.69,40.41", be an argument, not an option called -3."""
    return [f" {arg}" if re.match(r"-[\d.]", arg) else arg for arg in args]


def _refuse(error: typer.TyperException) -> int:
    """Say what is wrong with a command's words; say nothing if none was typed, since its help has been printed."""
    context = getattr(error, "ctx", None)
    if message := error.format_message().rstrip("."):
        fail(f"{message}; see {context.command_path if context else 'geomap'} --help")
    return InputError.exit_code
