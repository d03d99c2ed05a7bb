"""Reads three small real sets of labelled monthly Sentinel-2 series into one layout.

The files come from the WorldCereal project's repository (MIT licence; Copernicus Sentinel-2 data): a raw series of a
Flemish landscape in 2019 with pixel labels, 500 parcels of Corsica in 2022, 500 points of East Africa in 2017.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from geomap.composite.mask import clear_np
from geomap.composite.median import median_np
from geomap.datasets.extras import require_packages
from geomap.datasets.samples import Samples
from geomap.datasets.simulated import cover_labels
from geomap.errors import ConfigError, DataError
from geomap.sentinel2 import BANDS, BANDS_10M, MONTHS, SCL
from geomap.simulate import covers
from geomap.text import listed, one_line

if TYPE_CHECKING:
    from pandas import DataFrame

NO_VALUE: Final = 65535
"""Nodata of the point files."""

B8A_FROM: Final = {"B05": -0.207, "B07": 0.972, "B08": 0.093, "B11": 0.134}
"""B8A from other bands where a set lacks it (Corsica, the crop mask of Africa): least squares of the relative error
over the series of Flanders, East Africa and Rondonia, which have it, in equal parts. Fitted on two of these, it misses
B8A of the third by 2 to 3 % (median); B08 times a constant missed it by 4 to 6 %."""

CROP_TYPE: Final = {
    1110: "winter_wheat", 1200: "maize", 1500: "spring_barley", 1510: "winter_barley", 5100: "potato",
    8100: "sugar_beet", 9120: "pasture",
}  # fmt: skip
"""Pixel labels `CT` of the Flemish series; 0 (no label) is left out. 1500 is barley that greens as spring barley."""

WORLDCEREAL: Final = {
    1101010021: "winter_wheat", 1101020011: "winter_barley", 1101020012: "spring_barley", 1101040011: "oats",
    1101040012: "oats", 1101060000: "maize", 1101070000: "sorghum", 1101120000: "sorghum", 1103000000: "vegetables",
    1103010010: "vegetables", 1103020030: "vegetables", 1103020040: "vegetables", 1103020050: "vegetables",
    1103020060: "vegetables", 1103040020: "vegetables", 1103080010: "sugar_beet", 1103090090: "vegetables",
    1105010010: "pulses", 1105010050: "pulses", 1106000010: "sunflower", 1106000050: "groundnut",
    1106000100: "groundnut", 1107000020: "cassava", 1107000040: "cassava", 1108000010: "cotton",
    1111010050: "lucerne", 1111020010: "fodder_mix", 1111040000: "temporary_grassland", 1115000000: "fallow",
    1201000000: "cherry_orchard", 1201000010: "vineyard", 1201030000: "citrus", 1201040020: "nut_trees",
    1201040050: "nut_trees", 1203000010: "olive_grove", 2000000000: "dry_grassland", 2001020000: "dry_grassland",
    2001020021: "dry_grassland", 2001020022: "dry_grassland", 2501000000: "wooded_pasture", 4000000000: "evergreen_oak",
    4102000040: "broadleaved_forest", 4300000000: "savanna_trees", 6000000000: "town",
}  # fmt: skip
"""Closest cover of the simulation for each label `ewoc_code` of the point files; other labels are left out."""


def read_flanders(path: Path) -> Samples:
    """The Flemish series (patch_belgium_2019/series.npz): medians of December 2018 .. November 2019, 3,725 pixels.

    Raises ConfigError (no such file), DataError.
    """
    made = arrays(path, "time", "CT", SCL, *BANDS)
    month = made["time"].astype("datetime64[s]").astype("datetime64[M]").astype(int)
    bands = [made[b] if b in BANDS_10M else made[b].repeat(2, 1).repeat(2, 2) for b in BANDS]
    clear = clear_np(made[SCL]).repeat(2, 1).repeat(2, 2)
    label = made["CT"]
    dn = np.zeros((MONTHS, len(BANDS), *label.shape), np.uint16)
    for m in range(np.datetime64("2018-12").astype(int), np.datetime64("2019-12").astype(int)):
        looks = np.flatnonzero(month == m)
        dn[m % MONTHS] = [
            median_np([np.where(clear[k], band[k], 0).astype(np.uint16) for k in looks]) for band in bands
        ]
    series = dn.transpose(2, 3, 0, 1).reshape(-1, MONTHS, len(BANDS))
    known = np.isin(label.ravel(), list(CROP_TYPE))
    series = series[known]
    cover = np.array([CROP_TYPE[c] for c in label.ravel()[known].tolist()])
    field = fields_np(label).ravel()[known]
    return _labelled("flanders_2019", series, np.asarray((series > 0).all(-1)), cover, field, "atlantic")


def fields_np(label: NDArray[np.integer[Any]]) -> NDArray[np.intp]:
    """Field number (h, w) of every pixel; a field is pixels of one label that touch by an edge."""
    from scipy import ndimage

    fields = np.zeros(label.shape, np.intp)
    for value in np.unique(label):
        part, _ = ndimage.label(label == value)
        fields = np.where(part > 0, part + fields.max(), fields)
    return fields


def read_corsica(path: Path) -> Samples:
    """Parcels of Corsica (points/corsica_2022.parquet), January to December 2022; B8A is filled from other bands.

    Raises ConfigError (no such file), DataError.
    """
    bands = [f"S2-L2A-{b}" for b in BANDS]
    table = _parquet(path, ["sample_id", "timestamp", "ewoc_code", *bands]).sort_values(["sample_id", "timestamp"])
    table = table[table["timestamp"].astype(str).str.startswith("2022-")]
    dn = table[bands].to_numpy().reshape(-1, MONTHS, len(BANDS)).astype(np.int64)
    seen = dn[..., BANDS.index("B08")] != NO_VALUE
    dn[..., BANDS.index("B8A")] = np.where(seen, np.round(fill_b8a_np(dn)[..., BANDS.index("B8A")]), NO_VALUE)
    code = table["ewoc_code"].to_numpy()[::MONTHS]
    return _points("corsica_2022", dn, code, "mediterranean")


def read_east_africa(path: Path) -> Samples:
    """Points of East Africa (points/east_africa_2017.parquet), December 2016 to November 2017.

    Raises ConfigError (no such file), DataError.
    """

    def column(band: str, month: int) -> str:  # step 0 is December
        return f"OPTICAL-{band}-ts{(month + 1) % MONTHS}-{10 if band in BANDS_10M else 20}m"

    months = [[column(b, m) for b in BANDS] for m in range(MONTHS)]
    table = _parquet(path, ["ewoc_code", *(name for month in months for name in month)])
    dn = np.stack([table[month].to_numpy() for month in months], axis=1).astype(np.int64)
    return _points("east_africa_2017", dn, table["ewoc_code"].to_numpy(), "tropical")


def fill_b8a_np(dn: NDArray[Any]) -> NDArray[np.float64]:
    """DNs (..., 10) with B8A as other bands say it (B8A_FROM)."""
    out = dn.astype(np.float64)
    out[..., BANDS.index("B8A")] = sum(share * out[..., BANDS.index(band)] for band, share in B8A_FROM.items())
    return out


def _points(name: str, dn: NDArray[np.int64], code: NDArray[np.int64], climate: str) -> Samples:
    """A set of points; points whose label has no cover are left out."""
    known = np.isin(code, list(WORLDCEREAL))
    valid = ((dn != NO_VALUE) & (dn > 0)).all(-1)
    dn = np.where(valid[..., None], np.minimum(dn, NO_VALUE - 1), 0)[known]
    cover = np.array([WORLDCEREAL[c] for c in code[known].tolist()])
    return _labelled(name, dn.astype(np.uint16), valid[known], cover, np.arange(len(cover)), climate)


def _labelled(
    name: str,
    dn: NDArray[np.uint16],
    valid: NDArray[np.bool_],
    cover: NDArray[np.str_],
    field: NDArray[np.intp],
    climate: str,
) -> Samples:
    """Samples (n,) of one climate, from the keys of their covers and the numbers of their fields."""
    ids = np.array([f"{name}/{i}" for i in range(len(dn))])
    climates = np.full(len(dn), list(covers.table().climate).index(climate))
    return Samples(
        name, ids, dn, valid, cover_labels(covers.cover_index(cover), climates), field, "field", own_ids=False
    )


def arrays(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """Arrays of an npz file. Raises ConfigError (no such file), DataError."""
    with _reading(existing(path), "arrays", names):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no npz file")
        with np.load(path, allow_pickle=False) as f:
            return {name: f[name] for name in names}


def _parquet(path: Path, columns: Sequence[str]) -> DataFrame:
    """Columns of a Parquet file. Raises ConfigError (no such file), InputError (no pyarrow), DataError."""
    require_packages("a Parquet file", "pyarrow")
    import pandas as pd

    with _reading(existing(path), "columns", columns):
        return pd.read_parquet(path, columns=list(columns))


@contextmanager
def _reading(path: Path, what: str, names: Sequence[str]) -> Iterator[None]:
    """Raise DataError, which names what is needed, where a file is another than it should be, or is cut short."""
    try:
        yield
    except (KeyError, TypeError, ValueError, OSError, EOFError, zipfile.BadZipFile) as e:  # of numpy, pandas, pyarrow
        raise DataError(f"cannot read {path}: {one_line(e)}; it needs the {what} {listed(names)}") from e


def existing(path: Path) -> Path:
    """The path of a measured set's file. Raises ConfigError if there is none."""
    if not path.is_file():
        raise ConfigError(
            f"no file {path}; docs/training-data.md says where the measured sets come from (training runs without them "
            "too: take the entry of `real` out of the configuration)"
        )
    return path
