"""Commands about weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from geomap.cli.console import log_to_stderr, number, out_console, say, say_json
from geomap.cli.options import AsJson
from geomap.encode.card import locate, read_card, weight_names
from geomap.errors import to_type

if TYPE_CHECKING:
    from geomap.datasets.samples import Samples
    from geomap.encode.card import Card

weights_app = typer.Typer(no_args_is_help=True, help="Weights that come with geomap or from elsewhere.")

Out = Annotated[Path, typer.Option(help="Folder of the new weights.")]
LabelledOption = Annotated[
    str | None,
    typer.Option(
        metavar="SET=PATH",
        help="Labelled pixels that decide the band order: flanders, corsica or east_africa, and its file. Needs CLIP's"
        " text tower.",
    ),
]


@weights_app.command("list")
def weights_list() -> None:
    """Name and title of the weights that come with geomap."""
    table = Table("weights", "title", "text tower")
    for name in weight_names():
        card = _printable(read_card(locate(name)))
        table.add_row(name, escape(card.title), escape(card.text_space))
    out_console.print(table)


@weights_app.command("show")
def weights_show(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Names or folders of weights. [default: default]")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The card of some weights: training data, measured quality, and where they fail. Of several: side by side.

    Example: `geomap weights show default my-weights`
    """
    cards = {name: read_card(locate(name)) for name in names or ["default"]}
    if as_json:
        dumped = [card.model_dump(mode="json") for card in cards.values()]
        say_json(dumped[0] if len(dumped) == 1 else dict(zip(cards, dumped, strict=True)))
    elif len(cards) == 1:
        for name, card in cards.items():
            _print_card(_printable(card), name)
    else:
        _print_compared({name: _printable(card) for name, card in cards.items()})


def _printable(card: Card) -> Card:
    """A card from anywhere, with what does not print escaped: else it might steer the terminal."""
    return card.model_validate(_escaped(card.model_dump()))


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in value)
    if isinstance(value, dict):
        return {_escaped(key): _escaped(inner) for key, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, list | tuple) else value


def _print_compared(cards: Mapping[str, Card]) -> None:
    """What cards tell of the same sets, one column for each; nothing where a card does not have a set."""
    scores = {name: dict(_scores(card.metrics)) for name, card in cards.items()}
    title = "Measured quality, accuracy / macro F1: comparable only where the sets were left out of both trainings"
    table = Table("measured", number("samples"), *(number(escape(name)) for name in cards), title=title)
    sizes = (" x ".join(str(card.encoder.get(key, "?")) for key in ("dim", "depth")) for card in cards.values())
    table.add_row("encoder", "", *map(escape, sizes))
    table.add_row("version", "", *(escape(card.version) for card in cards.values()), end_section=True)
    for where in dict.fromkeys(where for known in scores.values() for where in known):
        found = [known.get(where) for known in scores.values()]
        samples = sorted({score["samples"] for score in found if score})
        table.add_row(escape(where), " or ".join(f"{n:,}" for n in samples), *map(_share, found))
    out_console.print(table)


def _share(score: dict[str, Any] | None) -> str:
    values = [] if score is None else [score["accuracy"], score.get("macro_f1")]
    return " / ".join(filter(None, map(_figure, values)))


def _figure(value: Any) -> str:
    """A share with three digits; "" for what is no number."""
    return f"{value:.3f}" if isinstance(value, int | float) else ""


def _print_card(card: Card, name: str) -> None:
    """Print a card; `name` is what the user typed for it."""
    head = Table(title=f"{card.name} {escape(card.version)}: {escape(card.title)}", show_header=False)
    sizes = ", ".join(f"{key} {value}" for key, value in card.encoder.items())
    for what, text in (("licence", card.licence), ("text tower", card.text_space), ("encoder", sizes)):
        head.add_row(what, escape(text))
    out_console.print(head)
    data = Table("trained on", "kind", number("series"), "licence and note", title="Training data")
    for source in card.training:
        note = "\n".join(text for text in (source.licence, source.note) if text)
        data.add_row(escape(source.name), escape(source.kind), f"{source.samples:,}", escape(note), end_section=True)
    if card.training:
        out_console.print(data)
    if scores := list(_scores(card.metrics)):
        table = Table(
            "measured", number("samples"), number("accuracy"), number("macro F1"), number("commonest class"),
            title="Measured quality: right share, beside that of always naming the commonest class",
        )  # fmt: skip
        for where, score in scores:
            share = (score.get("accuracy"), score.get("macro_f1"), _part(score, "majority").get("accuracy"))
            table.add_row(escape(where), f"{score['samples']:,}", *map(_figure, share))
        out_console.print(table)
        out_console.print("cropland: cropland or not; typed: in words that training did not use")
    if errors := _part(_part(card.metrics, "calibration"), "expected_calibration_error"):
        told = ", ".join(f"{name} {_figure(error)}" for name, error in errors.items())
        out_console.print(
            f"Expected calibration error of land cover where left out: {told}", highlight=False, soft_wrap=False
        )
    out_console.print("Where they fail", style="bold")
    for limit in card.limits:
        out_console.print(Padding(Text(f"- {limit}"), (0, 0, 0, 2)))
    out_console.print("How they were made", style="bold")
    out_console.print(Padding(Text(card.recipe), (0, 0, 0, 2)))
    say(f"All figures: {to_type('weights', 'show', name, '--json')}")


def _scores(metrics: dict[str, Any], where: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(place and legend, scores) of every score in a card's metrics."""
    for name, value in metrics.items():
        path = f"{where}, {name}" if where else name.replace("_", " ")
        if isinstance(value, dict) and {"samples", "accuracy"} <= value.keys():
            if isinstance(value["samples"], int) and isinstance(value["accuracy"], float):
                yield path, value
        elif isinstance(value, dict):
            yield from _scores(value, path)


def _part(score: dict[str, Any], name: str) -> dict[str, Any]:
    found = score.get(name)
    return found if isinstance(found, dict) else {}


@weights_app.command("convert")
def weights_convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A TimeSenCLIP checkpoint: .ckpt, .pt or .safetensors.")],
    out: Out,
    name: Annotated[str | None, typer.Option(help="Name on the card. [default: the file's]")] = None,
    licence: Annotated[str, typer.Option(help="Licence on the card.")] = "unknown: see where the file comes from",
    heads: Annotated[int, typer.Option(min=1, help="Attention heads, which the file does not tell.")] = 8,
    labelled: LabelledOption = None,
) -> None:
    """Convert a published TimeSenCLIP checkpoint, without running code that it may carry.

    The patch (1x1, 5x5, 9x9 pixels; all make maps) and the sizes follow from the tensors. Without --labelled, B02 is
    assumed to be the first band. That is a guess: published code has used other ways too. The card says what was
    decided, and by what.
    """
    log_to_stderr(False)
    from geomap import convert

    _report(convert.convert(file, out, licence, name, heads, _pixels(labelled)), out)


@weights_app.command("fetch")
def weights_fetch(
    name: Annotated[str, typer.Argument(help="timesenclip, the encoder of the paper for 1x1 pixel.")],
    out: Out = Path("timesenclip"),
    labelled: LabelledOption = None,
) -> None:
    """Download a published checkpoint from huggingface.co and convert it.

    `timesenclip` is TimeSenCLIP_1x1.ckpt of huggingface.co/pallavijainpj/TimeSenCLIP. We have not verified that it is
    there, nor its licence: read the model page first. For a file that you have, use `geomap weights convert`.
    """
    log_to_stderr(False)
    from geomap import convert

    pixels = _pixels(labelled)
    file = convert.fetch(name)
    licence = f"unverified: see the model page, {convert.model_page(name)}"
    _report(convert.convert(file, out, licence, name, labelled=pixels), out)


def _pixels(labelled: str | None) -> Samples | None:
    if labelled is None:
        return None
    from geomap import convert

    return convert.read_labelled(labelled)


def _report(card: Card, out: Path) -> None:
    """Print what was decided, and what to type next."""
    order = card.metrics["band_order"]
    for way, accuracy in order.get("accuracy", {}).items():
        line = f"{accuracy:6.1%} of {order['samples']} pixels of {order['tested_on']}: {way}"
        say(line)
    say(f"band order: {order['chosen']}")
    for note in card.limits:
        say(f"note: {note}")
    say(f"weights in {out}; use them with: {to_type('map', 'AOI', '--weights', out)}")
