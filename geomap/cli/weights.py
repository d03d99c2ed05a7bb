"""Commands about weights."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from geomap.cli.console import errors_to_exit_code, out_console

app = typer.Typer(no_args_is_help=True, help="Weights that come with geomap: what they are and how good.")


@app.command("list")
def weights_list() -> None:
    """Name and title of the weights that come with geomap."""
    from geomap import weights as store

    table = Table("weights", "title", "text tower")
    for name in store.names():
        card = store.read_card(store.locate(name))
        table.add_row(name, escape(card.title), card.text_space)
    out_console.print(table)


@app.command("show")
def weights_show(name: Annotated[str, typer.Argument(help="Name or folder of weights.")] = "default") -> None:
    """The card of some weights: training data, measured quality, and where they fail."""
    with errors_to_exit_code():
        from geomap import weights as store

        out_console.print_json(store.read_card(store.locate(name)).model_dump_json())
