"""What masks do to a real, cloudy series: noise of the monthly NDVI curve of fields, and months lost.

    python benchmarks/masks.py [--data ../shared/data] [--json FILE]

The series: 72 dates of 2018-08 .. 2019-11 over 64 x 64 pixels in Flanders, with the crop of each pixel. A field is a
connected piece of one crop of at least 20 pixels. Its curve is the mean NDVI of its pixels' monthly medians.

    noise          of a month: its NDVI less the mean of the months before and after; root mean square over fields and
                   months that no mask loses. Growth adds to it, alike for every mask
    against        noise over the default's, percent, and its 95 % interval when fields are drawn again (1000 times)
    jumps          share of those months that differ from their neighbours' mean by more than 0.15
    lost           pixels and months without a clear observation, percent of all
    clear          clear observations of a pixel in a month
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from geomap.composite.mask import Mask, clear_np
from geomap.composite.median import month_median_np
from geomap.sentinel2 import SCL_NOT_CLEAR

FIELD_PX = 20
JUMP = 0.15
CLOUDS = (0, 1, 3, 8, 9, 10)
MASKS = {
    "default: 0 1 3 8 9 10 11": Mask(),
    "dilation 1": Mask(dilation=1),
    "dilation 2": Mask(dilation=2),
    "dilation 3": Mask(dilation=3),
    "opening 1": Mask(opening=1),
    "opening 2, dilation 3": Mask(opening=2, dilation=3),
    "opening 2, dilation 6": Mask(opening=2, dilation=6),
    "with 2": Mask((*SCL_NOT_CLEAR, 2)),
    "with 7": Mask((*SCL_NOT_CLEAR, 7)),
    "with 2 and 7": Mask((*SCL_NOT_CLEAR, 2, 7)),
    "with 2 and 7, dilation 1": Mask((*SCL_NOT_CLEAR, 2, 7), dilation=1),
    "without 10 (cirrus)": Mask(tuple(c for c in SCL_NOT_CLEAR if c != 10)),
    "without 11 (snow)": Mask(CLOUDS),
    "no mask": Mask((0,)),
}


@dataclass(frozen=True, slots=True)
class Curves:
    """The series under one mask."""

    ndvi: NDArray[np.float64]  # (field, month), NaN where a field has no clear pixel
    lost: float  # share of pixels and months
    clear: float  # observations of a pixel in a month


def curves(bands: dict[str, NDArray[np.uint16]], scl: NDArray[np.uint8], month: NDArray[np.int64],
           fields: NDArray[np.int32], mask: Mask) -> Curves:  # fmt: skip
    """Monthly medians by geomap's kernels, then the mean NDVI of each field."""
    clear = clear_np(scl, mask)
    red, nir = (np.stack([_median(bands[b], clear, np.flatnonzero(month == m)) for m in np.unique(month)])
                for b in ("B04", "B08"))  # fmt: skip
    with np.errstate(invalid="ignore"):
        ndvi = np.where((red > 0) & (nir > 0), (nir - red) / (nir + red), np.nan)
    names = range(1, fields.max() + 1)
    curve = np.array([[_mean(layer[fields == name]) for layer in ndvi] for name in names])
    return Curves(curve, float(np.isnan(ndvi).mean()), float(clear.sum() / clear[0].size / len(np.unique(month))))


def _median(dn: NDArray[np.uint16], clear: NDArray[np.bool_], dates: NDArray[np.int64]) -> NDArray[np.float64]:
    chosen = [int(d) for d in dates]
    median = month_median_np([dn[d] for d in chosen], [clear[d] for d in chosen], [0] * len(chosen), chosen)
    return median.astype(float)


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def residuals(ndvi: NDArray[np.float64]) -> NDArray[np.float64]:
    """(field, month) -> (field, month - 2): each month less the mean of its neighbours."""
    middle: NDArray[np.float64] = ndvi[:, 1:-1] - (ndvi[:, :-2] + ndvi[:, 2:]) / 2
    return middle


def field_map(crop: NDArray[np.integer]) -> NDArray[np.int32]:
    """(y, x) crop codes -> number of the field, 0 none."""
    fields = np.zeros(crop.shape, np.int32)
    for code in np.unique(crop[crop > 0]):
        pieces, count = ndimage.label(crop == code)
        for piece in range(1, count + 1):
            if (pieces == piece).sum() >= FIELD_PX:
                fields[pieces == piece] = fields.max() + 1
    return fields


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with np.load(args.data / "patch_belgium_2019/series.npz") as f:
        bands, scl = {b: f[b] for b in ("B04", "B08")}, f["SCL"]
        month = f["time"].astype("datetime64[s]").astype("datetime64[M]").astype(int)
        fields = field_map(f["CT"])
    made = {name: curves(bands, scl, month, fields, mask) for name, mask in MASKS.items()}
    compared = [name for name in made if name != "no mask"]
    common = np.logical_and.reduce([~np.isnan(residuals(made[name].ndvi)) for name in compared])
    squares = {name: np.where(common, residuals(c.ndvi) ** 2, 0).sum(axis=1) for name, c in made.items()}
    default = next(iter(squares.values()))
    draws = np.random.default_rng(0).integers(0, len(default), (1000, len(default)))
    rows = {}
    for name, c in made.items():
        same = residuals(c.ndvi)[common]
        ratio = 100 * (np.sqrt(squares[name][draws].sum(axis=1) / default[draws].sum(axis=1)) - 1)
        low, high = np.percentile(ratio, [2.5, 97.5])
        rows[name] = {
            "noise": float(np.sqrt(np.mean(same**2))),
            "against": float(100 * (np.sqrt(squares[name].sum() / default.sum()) - 1)),
            "low": float(low),
            "high": float(high),
            "jumps": float(100 * np.mean(np.abs(same) > JUMP)),
            "lost": 100 * c.lost,
            "clear": c.clear,
        }
    print(f"{fields.max()} fields, {len(np.unique(month))} months, {common.sum()} field months that every mask keeps\n")
    print("| mask | noise | against the default, % | jumps, % | lost, % | clear a month |")
    print("|---|---|---|---|---|---|")
    for name, r in rows.items():
        against = f"{r['against']:+.0f} ({r['low']:+.0f} .. {r['high']:+.0f})"
        print(f"| {name} | {r['noise']:.3f} | {against} | {r['jumps']:.0f} | {r['lost']:.1f} | {r['clear']:.2f} |")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
