"""Commands that prepare published training data: photos -> vectors, Sen4Map -> cut files."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from geomap.cli import options
from geomap.cli.console import log_to_stderr, progress_bars, say, warn
from geomap.run.keys import RequestKeys

NAMED_UNREADABLE = 10
"""Most photos that could not be decoded to name at the end; the log has all."""

photos = typer.Typer(no_args_is_help=True, help="Ground photos for training.")
samples = typer.Typer(no_args_is_help=True, help="Satellite series for training.")


class MonthlyWay(StrEnum):
    """Ways to make monthly values from dates."""

    masked = "masked"
    official = "official"


@photos.command("embed")
@options.asking("resources.device")
def photos_embed(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="LUCAS photos, such as FR/346/283/34622836N.jpg.")],
    out: Annotated[Path, typer.Option(help="File of the vectors (safetensors).")] = Path("photos.safetensors"),
    batch: Annotated[int, typer.Option(min=1, max=65_536, help="Photos per step; a stop loses at most one.")] = 64,
    *,
    keys: RequestKeys,
) -> None:
    """CLIP ViT-B/32 vectors of LUCAS ground photos, for training. A stopped run resumes with the same command.

    CLIP comes from open_clip's hub, or from the file that GEOMAP_CLIP_FILE names.
    """
    log_to_stderr(False)
    from geomap.datasets.photos import embed_photos

    with progress_bars() as progress:
        done = embed_photos(folder, out, batch, keys.resources.device, progress)
    say(f"{done.photos:,} photos of {done.points:,} points in {out}")
    if done.unreadable:
        named = ", ".join(done.unreadable[:NAMED_UNREADABLE])
        more = "" if len(done.unreadable) <= NAMED_UNREADABLE else ", ..."
        warn(f"{len(done.unreadable):,} photos cannot be decoded and are left out: {named}{more}")


@samples.command("cut")
def samples_cut(
    original: Annotated[Path, typer.Argument(metavar="SEN4MAP.h5", help="An original Sen4Map file.")],
    out: Annotated[Path, typer.Option(help="File of the monthly composites (HDF5).")],
    patch: Annotated[int, typer.Option(help="Side of the crop in pixels: 1, 5 or 9.")] = 1,
    composite: Annotated[
        MonthlyWay, typer.Option(help="masked: as geomap maps; official: as the published input.")
    ] = MonthlyWay.masked,
) -> None:
    """Monthly composites of the centre of every Sen4Map point, a few gigabytes instead of terabytes."""
    log_to_stderr(False)
    from geomap.datasets import sen4map

    with progress_bars() as progress:
        n = sen4map.cut_file(original, out, patch, composite.value, progress=progress)
    say(f"{n:,} points of {patch} x {patch} pixels in {out}")
