"""A sample of a finished map's pixels, to visit or to interpret: its size, its shares and its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np

from geomap import legends
from geomap.assess.allocation import (
    LEAST,
    Allocation,
    allocate,
    expected_error,
    fewest,
    points_at_random,
    points_needed,
)
from geomap.assess.class_map import ClassMap, blocks, find_map
from geomap.assess.draw import Drawn, count, draw
from geomap.assess.sample_file import require_new, write_sample
from geomap.errors import InputError
from geomap.legends import name_key
from geomap.run.steady import steady
from geomap.types import Progress, silent

EXPECTED = 0.8
"""User's accuracy expected of a class if none is given: S_h is then 0.4, near its greatest value of 0.5."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """How to draw a sample."""

    n: int | None = None  # points; None: as many as the standard error needs
    standard_error: float = 0.02  # wanted of overall accuracy, 0..0.5
    legend: str | None = None  # stem of the map; None: the only one
    design: Literal["stratified", "random"] = "stratified"
    allocation: Allocation = "olofsson"
    least: int = 30  # points of a stratum, where there are enough
    spread: bool = False
    seed: int = 1
    expected: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))  # class -> user's accuracy
    expected_else: float = EXPECTED
    show_mapped: bool = False


@dataclass(frozen=True, slots=True)
class Made:
    """A sample that was written."""

    of: ClassMap
    pixels: Mapping[int, int]  # class id -> pixels of the map
    points: Mapping[int, int]  # class id -> points
    drawn: Drawn
    least: int | None  # fewest points of a class, lower than asked since n is small; None: as asked
    standard_error: float | None  # of overall accuracy, if accuracies are as expected; None: not by class
    paths: tuple[Path, ...]


def sample_map(directory: Path, out: Sequence[Path], asked: SampleRequest, progress: Progress = silent) -> Made:
    """Draw a probability sample of a run's map, and write it into files; the same request gives the same bytes.

    The map is read twice, block by block: memory does not grow with it. The strata are numbered at random, so that a
    number does not tell the mapped class to whoever interprets the points.

    Args:
        directory: output directory of a finished run.
        out: files to write, by suffix: .gpkg, .csv, .gpx.
        asked: how to draw.
        progress: callback for the passes.

    Raises:
        InputError: no such map, a file that is there, or numbers that do not fit.
        RenewedError: the run was made anew meanwhile.
        ReadError, DiskFullError, OutputError: the map cannot be read, or the files cannot be written.
    """
    require_new([*out])
    with steady(directory) as reading:
        of = find_map(directory, asked.legend)
        progress("sample", 0, 2)
        pixels = count(blocks(of))
        progress("sample", 1, 2)
        if not pixels:
            raise InputError(f"{of.stem} holds no mapped pixel; there is nothing to sample")
        expected = _expected(of, pixels, asked)
        needed = points_at_random if asked.design == "random" else points_needed
        n = asked.n if asked.n is not None else needed(pixels, expected, asked.standard_error)
        if asked.n is None and asked.design == "stratified":
            n = max(n, LEAST * len(pixels))
        rng = np.random.default_rng(asked.seed)
        if asked.design == "random":
            stratum_of, shares = dict.fromkeys(pixels, 1), {1: min(n, sum(pixels.values()))}
        else:
            shares_of = allocate(pixels, n, asked.allocation, asked.least, expected)
            numbers = rng.permutation(len(pixels)) + 1
            stratum_of = dict(zip(pixels, map(int, numbers), strict=True))
            shares = {stratum_of[c]: points for c, points in shares_of.items()}
        sizes = dict.fromkeys(stratum_of.values(), 0)
        for c, size in pixels.items():
            sizes[stratum_of[c]] += size
        drawn = draw(blocks(of), stratum_of, sizes, shares, rng, asked.spread)
        reading.require()
    for path in out:
        write_sample(path, drawn, of.names if asked.show_mapped else None)
    progress("sample", 2, 2)
    points = {c: int((drawn.mapped == c).sum()) for c in pixels}
    by_least = asked.design == "stratified" and asked.allocation in ("olofsson", "neyman")
    least = fewest(n, len(pixels), asked.least) if by_least else asked.least
    error = expected_error(pixels, points, expected) if asked.design == "stratified" else None
    return Made(of, pixels, points, drawn, least if least < asked.least else None, error, tuple(out))


def _expected(of: ClassMap, pixels: Mapping[int, int], asked: SampleRequest) -> dict[int, float]:
    """Class id -> expected user's accuracy. Raises InputError for a class that the map lacks."""
    by_name = {name_key(name): c for c, name in of.names.items()}
    given = {}
    for name, value in asked.expected.items():
        if name_key(name) not in by_name:
            raise InputError(f"--expected: {of.stem} has no class {name!r}; choose from {', '.join(of.names.values())}")
        given[by_name[name_key(name)]] = value
    wrong = {legends.UNCLASSIFIED_ID: 0.0}  # as `assess` counts these pixels
    return {c: given.get(c, wrong.get(c, asked.expected_else)) for c in pixels}
