"""The change matrix beside the change maps of an update: hectares from each class to each class, as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from geomap import files
from geomap.legends import NODATA_ID, UNCLASSIFIED_ID
from geomap.write.areas import HECTARES, as_csv
from geomap.write.layer import Layer

COLUMNS: Final = ("from_id", "from", "to_id", "to", "pixels", "ha")


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

    Args:
        path: the file.
        layer: the class map.
        pixels: (256, 256) pixels by class before and class after.

    Raises DiskFullError, OutputError.
    """
    names = {entry.value: entry.name for entry in layer.classes}
    rows = [
        (old, names.get(old, ""), new, names.get(new, ""), int(pixels[old, new]), f"{pixels[old, new] * HECTARES:.2f}")
        for old, new in np.argwhere(pixels).tolist()
    ]
    files.write_bytes(path, as_csv(COLUMNS, (dict(zip(COLUMNS, row, strict=True)) for row in rows)))
