"""Commands about legends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from geomap.cli.console import number, out_console, say
from geomap.errors import InputError

if TYPE_CHECKING:
    from geomap.label.check import ClassesCheck, RatingCheck
    from geomap.legends import Legend

WORST_RATINGS = 10
"""Most rated prompts that the check prints: those whose score by the others is furthest from their rating."""

DIFFERENCE = "what the other lacks: what grows or stands there, how it looks, when"

CAVEAT = (
    "The check knows words only: classes that the words tell apart can still look alike from above. Whether a map is "
    "right, only labels of your own place can say."
)

legends_app = typer.Typer(no_args_is_help=True, help="Legends that come with geomap, and how to write one.")


@legends_app.command("list")
def legends_list() -> None:
    """Name, kind and size of each built-in legend."""
    from geomap import legends

    table = Table("legend", "title", "classes")
    for name in legends.builtin_names():
        found = legends.load(name)
        size = f"{len(found.classes)}" if found.kind == "classes" else f"score from {len(found.prompts)} rated prompts"
        table.add_row(name, found.title, size)
    out_console.print(table)


@legends_app.command("show")
def legends_show(
    name: Annotated[str, typer.Argument(help="Built-in legend or .toml file.")],
    toml: Annotated[bool, typer.Option(help="Print the file itself: the start of a legend of your own.")] = False,
) -> None:
    """Classes, colours and prompts of a legend.

    To make your own: `geomap legends show landcover --toml > mine.toml`, edit it, look at
    `geomap legends check mine.toml`, then `map AOI --legend mine.toml`.
    """
    from geomap import legends

    if toml:
        print(legends.source(name), end="")
        return
    found = legends.load(name)
    if found.kind == "score":
        table = Table(
            number("rating"), "voter", "prompt", title=f"{escape(found.title)}, {found.ensembling} ensembling"
        )
        for p in found.prompts:
            table.add_row(f"{p.rating:g}", p.voter, escape(p.text))
    else:
        table = Table(number("id"), "", "class", "prompts", title=escape(found.title))
        for c in found.classes:
            table.add_row(str(c.id), f"[on {c.colour}]  [/]", escape(c.name), escape("; ".join(c.prompts)))
    out_console.print(table)


@legends_app.command("check")
def legends_check(
    name: Annotated[str | None, typer.Argument(help="Built-in legend or .toml file.")] = None,
    classes: Annotated[
        str | None, typer.Option(help='Typed classes instead, in English: "vineyard, olive grove".')
    ] = None,
    weights: Annotated[str, typer.Option(help="Name or folder of weights: their text tower reads the prompts.")] = (
        "default"
    ),
) -> None:
    """Find classes that the prompts hardly tell apart, and prompts that name another class.

    For each class: the nearest other class, and how many of its prompts, left out of it, are still nearest to it.
    For rated prompts: the score that the others give each. docs/legends.md explains the figures.
    """
    from geomap import legends

    if (name is None) == (classes is None):
        raise InputError('give a legend to check, or --classes "vineyard, olive grove, maize field"')
    found = legends.load(name) if name is not None else legends.typed(classes or "")
    _check_within(found)
    from geomap.encode.card import locate, read_card
    from geomap.label import towers
    from geomap.label.check import check_classes, check_ratings
    from geomap.run.wording import doubts

    card = read_card(locate(weights))
    tower = towers.tower(card.text_space)
    if found.kind == "score":
        _print_ratings(found, check_ratings(found, tower, card.logit_scale))
    else:
        _print_classes(found, check_classes(found, tower, card.logit_scale))
    for line in doubts(found, card.text_space):
        say(line)
    say(CAVEAT)


def _check_within(legend: Legend) -> None:
    """Raise LegendError if the class to which a legend is restricted is not there."""
    from geomap import legends
    from geomap.run.prepare import with_base

    if legend.within is None:
        return
    base, _ = legends.restriction(legend.within)
    if base in (*legends.builtin_names(), legend.name) or base.endswith(".toml"):
        with_base((legend,), None)
    else:
        give = "that class among those of --classes" if base == legends.TYPED else "its file as one more --legend"
        say(f"within {legend.within}: {base} is no built-in legend, so map with {give}")


def _print_classes(legend: Legend, check: ClassesCheck) -> None:
    table = Table(
        "class",
        "nearest other",
        number("cosine"),
        number("confidence"),
        number("own prompts"),
        title=escape(legend.title),
    )
    for c in sorted(check.classes, key=lambda c: -c.cosine):
        own = "" if c.kept is None else f"{c.kept} of {c.prompts}"
        table.add_row(escape(c.name), escape(c.nearest), f"{c.cosine:.2f}", f"{c.confidence:.1%}", own)
    out_console.print(table)
    for a, b, cosine in check.close:
        say(f"Close ({cosine:.2f}): {a} / {b}. Keep one if both are the same land; else say in each {DIFFERENCE}.")
    for s in check.strays:
        say(f"Astray: {s.prompt!r} ({s.name}) is nearer to {s.nearest} by {s.lead:.2f}. Name what only {s.name} has.")
    if not check.close and not check.strays:
        say("No two classes are close, and every prompt is nearest to its own class.")


def _print_ratings(legend: Legend, checks: Sequence[RatingCheck]) -> None:
    worst = sorted(checks, key=lambda c: -abs(c.rating - c.score))[:WORST_RATINGS]
    table = Table("rating", "score by the others", "prompt", title=f"{escape(legend.title)}: furthest from the others")
    for c in worst:
        table.add_row(f"{c.rating:g}", f"{c.score:.1f}", escape(c.prompt))
    out_console.print(table)
    apart = sum(abs(c.rating - c.score) for c in checks) / len(checks)
    say(f"{len(checks)} prompts; rating and score by the others are {apart:.1f} apart on average.")
    say("A prompt far from its score stands beside scenes rated otherwise: say what makes it better or worse.")
