"""Commands about legends."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from geomap.cli.console import errors_to_exit_code, out_console

app = typer.Typer(no_args_is_help=True, help="Legends that come with geomap, and how to write one.")


@app.command("list")
def legends_list() -> None:
    """Name, kind and size of each built-in legend."""
    from geomap import legend as legends

    table = Table("legend", "title", "classes")
    for name in legends.builtin_names():
        found = legends.load(name)
        size = f"{len(found.classes)}" if found.kind == "classes" else f"score from {len(found.prompts)} rated prompts"
        table.add_row(name, found.title, size)
    out_console.print(table)


@app.command("show")
def legends_show(
    name: Annotated[str, typer.Argument(help="Built-in legend or .toml file.")],
    toml: Annotated[bool, typer.Option(help="Print the file itself: the start of a legend of your own.")] = False,
) -> None:
    """Classes, colours and prompts of a legend.

    To make your own: `geomap legends show landcover --toml > mine.toml`, edit it, then `map AOI --legend mine.toml`.
    """
    with errors_to_exit_code():
        from geomap import legend as legends

        if toml:
            print(legends.source(name), end="")
            return
        found = legends.load(name)
        table = Table("id", "", "class", "prompts", title=escape(found.title))
        for c in found.classes:
            table.add_row(str(c.id), f"[on {c.colour}]  [/]", escape(c.name), escape("; ".join(c.prompts)))
        for p in found.prompts:
            table.add_row(f"{p.rating:g}", "", "", escape(p.text))
        out_console.print(table)
