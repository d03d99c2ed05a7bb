"""The change matrix beside the change maps of an update: hectares from each class to each class, as CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geomap import files
from geomap.legends import NODATA_ID, UNCLASSIFIED_ID
from geomap.write.layer import Layer

COLUMNS: Final = ("from_id", "from", "to_id", "to", "pixels", "ha")
HECTARES: Final = 0.01
"""Of a pixel of 10 m."""
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""First characters of cells that a spreadsheet runs (OWASP, CSV injection)."""


def matrix_path(directory: Path, layer: Layer) -> Path:
    """Where the change matrix of a class map lies: one for all zones."""
    return directory / f"{layer.name}_changes.csv"


def transitions_np(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Class ids before and after, both (y, x) -> (256, 256) pixels by class before and class after.

    Pixels that are nodata or "unclassified" on either side count nowhere: one of the two classes is not known.
    """
    pairs = np.bincount(before.ravel().astype(np.intp) * 256 + after.ravel(), minlength=65536).reshape(256, 256)
    for unknown in (NODATA_ID, UNCLASSIFIED_ID):
        pairs[unknown] = pairs[:, unknown] = 0
    return pairs


def write_matrix(path: Path, layer: Layer, pixels: NDArray[np.int64]) -> None:
    """Write the pairs of classes that occur, in the order of their ids; rows of one class twice did not change.

    A name that a spreadsheet would run as a formula begins with an apostrophe.

    Args:
        path: the file.
        layer: the class map.
        pixels: (256, 256) pixels by class before and class after.

    Raises DiskFullError, OutputError.
    """
    names = {entry.value: entry.name for entry in layer.classes}
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for old, new in np.argwhere(pixels).tolist():
        count = int(pixels[old, new])
        area = f"{count * HECTARES:.2f}"
        writer.writerow((old, _inert(names.get(old, "")), new, _inert(names.get(new, "")), count, area))
    files.write_bytes(path, text.getvalue().encode())


def _inert(name: str) -> str:
    return f"'{name}" if name.startswith(_FORMULA) else name
