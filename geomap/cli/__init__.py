"""The command line: parsing and printing only."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any, Final, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from geomap import __version__, process
from geomap.cli.console import Lenient, fail, lenient_streams, say, warn
from geomap.errors import GeomapError, InputError

STOPPED = 130
"""Exit code after Ctrl-C, as in shells."""


COMMANDS: Final = {
    "map": ("maps.map_command", "Map an area: search, composite, encode, label and write."),
    "label": ("stored.label_command", "Map other legends, or classes of your own, from stored embeddings."),
    "similar": ("stored.similar_command", "Map how much every stored pixel's year looks like that of one place."),
    "sample": ("assess.sample_command", "Draw a probability sample of a map's pixels, to visit or to interpret."),
    "assess": ("assess.assess_command", "How often a map is right, and the area of each class, with 95 % intervals."),
    "run": ("jobs.run", "Map what a job file says."),
    "schedule": ("jobs.schedule", "Write a systemd service with its timer, and a cron line, that run a job."),
    "plan": ("inspect.plan_command", "What a map would take, and how much clear sky it would find month by month."),
    "explain": (
        "inspect.explain_command",
        "Which scenes a run reads, why their DN offsets, what became of each, and what was learned from points.",
    ),
    "demo": ("maps.demo", "Simulate a small landscape with known classes, map it, and compare."),
    "view": ("state.view_command", "Look at the maps of a run in the browser."),
    "status": ("state.status_command", "How far a run is, and the time to go."),
    "verify": ("state.verify_command", "Check every file of a run against its checksum."),
    "areas": (
        "areas.areas_command",
        "The area of each class: of whole maps, side by side if several, or in polygons of your own.",
    ),
    "train": ("training.train", "Train an encoder as a configuration says, and write its weights and card."),
    "evaluate": ("evaluation.evaluate", "Measure weights on labelled series, beside baselines and published figures."),
    "legends": ("legends.legends_app", "Legends that come with geomap, and how to write one."),
    "weights": ("weights.weights_app", "Weights that come with geomap or from elsewhere."),
    "photos": ("data.photos", "Ground photos for training."),
    "samples": ("data.samples", "Satellite series for training."),
}
"""Name -> (file in cli/ and function, its line in --help). A command's file is loaded when it is typed."""


TEXT: Final = {"status", "explain", "view", "verify", "plan", "areas", "legends", "list", "show"}
"""Commands, and commands of groups, that make nothing but text."""


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
        except Exception as e:  # of a library, or a fault of geomap
            fail(_unexpected(e))
            if {"-v", "--verbose"} & set(given):
                warn("".join(traceback.format_exception(e)))
            code = GeomapError.exit_code
        sys.exit(code or 0)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The typed command, loaded from its file; `commands` holds only what --help lists."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed and command(str(listed.name)), rest


class Once(TyperCommand):
    """A command that takes each option once, but for those that may be repeated: else the last would win unseen."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse what was typed after the command's name. Raises InputError for an option that is there twice."""
        _, _, order = self.make_parser(ctx).parse_args(args=[*args])
        for param in order:
            repeatable = param.multiple or getattr(param, "is_flag", False)
            single = param.param_type_name == "option" and not repeatable
            if single and order.count(param) > 1:
                raise InputError(f"{max(param.opts, key=len)} was given twice; give it once")
        return super().parse_args(ctx, args)


def command(name: str) -> Any:
    """The parser of a command or of a group of commands."""
    module, _, attribute = COMMANDS[name][0].partition(".")
    found = getattr(import_module(f"geomap.cli.{module}"), attribute)
    alone = typer.Typer(rich_markup_mode="markdown", add_completion=False)
    if isinstance(found, typer.Typer):
        alone.add_typer(found, name=name)
        return typer.main.get_group(alone).commands[name]
    alone.command(name, cls=Once)(found)
    return typer.main.get_command(alone)


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
for _name, (_, _line) in COMMANDS.items():
    app.command(_name, help=_line)(lambda: None)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show where an unexpected error arose.")] = False,
) -> None:
    """Options of geomap itself."""
    if version:
        say(f"geomap {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point."""
    process.keep_freed()
    stdout = lenient_streams()
    try:
        app()
    except SystemExit as e:
        sys.stdout.flush()
        sys.stderr.flush()
        code = int(e.code or 0) or _lost(stdout)
        if code:
            os._exit(code)  # reads that wait for a server must not delay the exit; files on disk are whole


def _negative_numbers(args: Sequence[str]) -> list[str]:
    """Let an area in the west, "-3.70,40.40,-3.69,40.41", be an argument, not an option called -3."""
    return [f" {arg}" if re.match(r"-[\d.]", arg) else arg for arg in args]


def _refuse(error: typer.TyperException) -> int:
    """Say what is wrong with a command's words; say nothing if none was typed, since its help has been printed."""
    context = getattr(error, "ctx", None)
    if message := error.format_message().rstrip("."):
        fail(f"{message}; see {context.command_path if context else 'geomap'} --help")
    return InputError.exit_code


def _unexpected(error: Exception) -> str:
    """One line for an error that no part of geomap expects."""
    if isinstance(error, MemoryError):
        return "there is not enough memory; close other programs, or map a smaller area"
    words = " ".join(str(error).split())[:300]
    said = f"unexpected {type(error).__name__}{f': {words}' if words else ''}"
    return f"{said}; for a report, type: geomap -v COMMAND ..."


def _lost(stdout: Lenient) -> int:
    """Say that stdout could not be written; an exit code other than 0 only for commands that make nothing else."""
    if stdout.lost is None:
        return 0
    if not isinstance(stdout.lost, BrokenPipeError):  # whoever closes a pipe, as `head` does, has read enough
        warn(f"geomap: cannot write to standard output: {stdout.lost.strerror}")
    return GeomapError.exit_code if TEXT & set(sys.argv[1:3]) else 0
