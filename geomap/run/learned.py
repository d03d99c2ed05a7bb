"""What a run learned from points, as files: learned.json tells of it, learned.safetensors holds its numbers.

Other runs take both with --learned, for other areas and years. `geomap explain` reads the JSON alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import TypeAdapter

from geomap import files
from geomap.errors import InputError, LegendError
from geomap.legends import Legend
from geomap.paths import own, there
from geomap.text import plural

if TYPE_CHECKING:  # numpy and torch: `geomap explain` reads the JSON alone
    import numpy as np
    from numpy.typing import NDArray

    from geomap.label.head import Head

FILE: Final = "learned.json"
TENSORS: Final = "learned.safetensors"
TAUGHT: Final = "learned_from.safetensors"
"""Beside the maps of a run that took what another one learned: the pixels that this one learned from (PIXELS)."""
PLACES: Final = "places"
"""Stem of the files with the places where more points would help most: .gpkg and .gpx."""
DOUBTFUL: Final = "doubtful"
"""Stem of the file with the points that the others contradict: .gpkg."""
FORMAT: Final = 1
"""Version of the two files; another one is refused."""
PIXELS: Final = "pixels"
"""Tensor (n, 3): EPSG code, column and row (points.pixels) of every pixel that was learned from."""
PLAIN: Final = "embeddings."
FULL: Final = "series."
"""Prefixes of the tensors of the head for embeddings alone, and of that for embeddings and series."""
MOST_BYTES: Final = 2**26


@dataclass(frozen=True, slots=True)
class Taught:
    """The points."""

    sha256: str  # points.Points.digest
    pixels: int  # that were learned from
    classes: Mapping[str, int]  # class name -> pixels
    lines: tuple[str, ...]  # what matched how, and what was left out


@dataclass(frozen=True, slots=True)
class ClassScore:
    """How a class did in cross-validation."""

    name: str
    pixels: int  # that the points say are so
    users: float | None  # share of what was called so that is so, 0..1; None: nothing was called so
    producers: float | None  # share of what is so that was called so
    f1: float | None


@dataclass(frozen=True, slots=True)
class Trust:
    """Pixels of similar confidence in cross-validation: how sure, and how often right."""

    pixels: int
    confidence: float  # mean, 0..1
    right: float  # share of the pixels


@dataclass(frozen=True, slots=True)
class Scores:
    """How the classes did in cross-validation, whose folds never part a field or cell.

    All but `accuracy` and `macro_f1` is of the answers that the map is made by: the words, where these are kept.
    """

    folds: int
    classes: tuple[ClassScore, ...]
    confusion: tuple[tuple[int, ...], ...]  # by class of the legend; rows: the points say; columns: predicted
    accuracy: Mapping[str, float]  # method -> share of pixels, 0..1: learned (if rejected too), zero-shot, forest
    macro_f1: Mapping[str, float]  # method -> mean F1 of the classes that have points
    calibration: float | None  # expected calibration error, 0..1
    reliability: tuple[Trust, ...] = ()  # by confidence, low to high: metrics.reliability without its empty bins


@dataclass(frozen=True, slots=True)
class LearnedRecord:
    """learned.json."""

    geomap: str
    legend: dict[str, Any]  # the whole legend
    weights: dict[str, str]  # name, sha256 of the card
    points: Taught
    area: str  # sha256 of the area, as run.json has it
    period: str
    months: tuple[int, ...]  # calendar month 0..11 of each step
    series: bool  # whether the monthly series are used beside the embeddings
    helps: bool  # whether cross-validation finds it better than the prompts alone
    says: str  # sentences about that
    scores: Scores | None  # None: too few points for folds
    tensors: str = ""  # sha256 of learned.safetensors
    settings: dict[str, float] = field(default_factory=dict)  # strengths chosen by cross-validation
    places: int = 0  # in places.gpkg; 0 also from versions that did not tell
    added: tuple[int, ...] | None = None  # ids of classes that the points added to the legend; None: not told either
    format: int = FORMAT

    @property
    def moved(self) -> bool:
        """Whether the points moved the classes; else the settings have no penalty, and the words alone are kept."""
        return "penalty" in self.settings

    @property
    def verdict(self) -> str:
        """Whether something was learned, and why: as `verdict` says."""
        return verdict(self.moved, self.points.pixels, self.says)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What another run learned, read and checked."""

    record: LearnedRecord
    legend: Legend
    plain: Head  # for embeddings alone
    full: Head | None  # for embeddings and series; None: the series did not help
    digest: str  # sha256 of learned.json, which holds that of the tensors
    pixels: NDArray[np.int32]  # (n, 3) that it learned from (PIXELS)

    def beside(self) -> dict[str, bytes]:
        """What lies beside the maps of a run that takes it, by name; equal input gives equal bytes."""
        if not self.record.moved:
            return {}
        import numpy as np
        from safetensors.numpy import save

        return {TAUGHT: save({PIXELS: np.ascontiguousarray(self.pixels)})}

    def head(self, series: bool) -> Head:
        """The head to use, where the series are at hand or not."""
        return self.full if series and self.full is not None else self.plain

    def told(self, area: str, period: str) -> dict[str, Any]:
        """What run.json says about it: transferred, unless it was learned on the same area and period.

        If the points moved nothing there, so that the words alone map, it says that as well.
        """
        transferred = (self.record.area, self.record.period) != (area, period)
        told = {"sha256": self.digest, "points": self.record.points.sha256, "transferred": transferred}
        return told if self.record.moved else {**told, "moved": False}


def verdict(moved: bool, pixels: int, says: str) -> str:
    """Whether something was learned from so many pixels, and what that does for the map, in sentences."""
    return f"learned from {plural(pixels, 'pixel')} with points: {says}" if moved else f"not learned: {says}"


_record: Final = TypeAdapter(LearnedRecord)


def read_learned(directory: Path) -> LearnedRecord | None:
    """What the run in a directory learned; None if nothing. Raises InputError if the file is damaged."""
    path = directory / FILE
    return _read(path)[0] if path.is_file() else None


def transferred(request: Mapping[str, Any]) -> bool | None:
    """Whether a run's maps are by what was learned elsewhere or in other years; None if no learned file was taken.

    `request` is that of its run.json.
    """
    taken = request.get("learned")
    return bool(taken.get("transferred")) if isinstance(taken, Mapping) else None


def _read(path: Path) -> tuple[LearnedRecord, bytes]:
    try:
        with path.open("rb") as f:
            content = f.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise ValueError("too large")
        record = _record.validate_json(content)
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror}") from e
    except ValueError as e:
        raise InputError(f"{path} is damaged or of another version of geomap; learn from the points again") from e
    if record.format != FORMAT:
        raise InputError(f"{path} has format {record.format}, this version reads {FORMAT}; learn from the points again")
    return record, content


def contents(
    record: LearnedRecord, plain: Head, full: Head | None, pixels: NDArray[np.int64]
) -> tuple[LearnedRecord, dict[str, bytes]]:
    """The record with the sha256 of its tensors, and both files by name; equal input gives equal bytes."""
    import hashlib

    import numpy as np
    from safetensors.numpy import save

    arrays = {**_arrays(plain, PLAIN), **(_arrays(full, FULL) if full else {}), PIXELS: pixels.astype(np.int32)}
    tensors = save({name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)})
    whole = dataclasses.replace(record, tensors=hashlib.sha256(tensors).hexdigest())
    return whole, {TENSORS: tensors, FILE: files.json_bytes(_record.dump_python(whole, mode="json"))}


def load(name: str, weights: Mapping[str, str], size: int) -> Loaded:
    """What another run learned, from its directory or its learned.json.

    Args:
        name: as the user typed it.
        weights: name and sha256 of the weights that will be used.
        size: dimensions of their embeddings.

    Raises:
        InputError: no such file, a damaged one, or one of other weights.
    """
    import hashlib

    path = _located(name)
    record, content = _read(path)
    arrays = _tensors(path.parent / TENSORS, record.tensors)
    if record.weights["sha256"] != weights["sha256"]:
        raise InputError(
            f"{path} was learned with weights {record.weights['name']} {record.weights['sha256'][:12]}, not with "
            f"{weights['name']} {weights['sha256'][:12]}; give those as --weights, or learn from the points again"
        )
    try:
        legend, plain = Legend(**record.legend), _head(arrays, PLAIN, size)
        full = _head(arrays, FULL, size) if record.series else None
        if any(len(head.bias) != len(legend.classes) for head in (plain, full) if head is not None):
            raise ValueError("not one vector for each class")
    except LegendError as e:
        raise InputError(
            f"{path} is of a legend that is refused now, or damaged ({e}): mend the file of that legend, and learn "
            "from the points again"
        ) from e
    except (ValueError, KeyError, TypeError, InputError) as e:
        raise InputError(f"{path} is damaged ({e}); learn from the points again") from e
    return Loaded(record, legend, plain, full, hashlib.sha256(content).hexdigest(), arrays[PIXELS].astype("int32"))


def digest_of(name: str) -> str:
    """sha256 of what another run learned, as `Loaded.digest`. Raises InputError if it is not there."""
    return files.sha256(_located(name))


def _located(name: str) -> Path:
    path = own(name)
    path = path / FILE if there(path) and path.is_dir() else path
    if not there(path):
        raise InputError(f"{path} does not exist; give the directory of a run with --points, or its {FILE}")
    return path


def _arrays(head: Head, prefix: str) -> dict[str, NDArray[Any]]:
    return {f"{prefix}{name}": array for name, array in head.arrays().items()}


def _head(arrays: Mapping[str, NDArray[Any]], prefix: str, size: int) -> Head:
    """The head of a prefix, for embeddings of so many dimensions. Raises KeyError, ValueError."""
    from geomap.label.head import Head

    head = Head.of({n.removeprefix(prefix): array for n, array in arrays.items() if n.startswith(prefix)})
    if head.vectors.shape[1] != size:
        raise ValueError(f"vectors of {head.vectors.shape[1]} dimensions, not {size}")
    return head


def learned_pixels(directory: Path) -> NDArray[np.int64] | None:
    """(n, 3) pixels that the run in a directory, or that whose learned file it took, learned from (points.pixels).

    None if it learned nothing (kept the words), or if an older version of geomap took the learned file. Raises
    InputError if the files are damaged.
    """
    record = read_learned(directory)
    if record is not None:
        if not record.moved:
            return None
        arrays = _tensors(directory / TENSORS, record.tensors)
    elif (directory / TAUGHT).is_file():
        arrays = _tensors(directory / TAUGHT, files.sums(directory).get(TAUGHT, ""), files.SUMS)
    else:
        return None
    found: NDArray[np.int64] = arrays[PIXELS].astype("int64")
    return found


def _tensors(path: Path, digest: str, named_by: str = FILE) -> dict[str, NDArray[Any]]:
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import load as parse

    try:
        if path.stat().st_size > MOST_BYTES or files.sha256(path) != digest:
            raise InputError(
                f"{path} is not the file that {named_by} names; copy both again, or learn from the points again"
            )
        arrays: dict[str, NDArray[Any]] = parse(path.read_bytes())
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror}; it belongs beside {FILE}") from e
    except SafetensorError as e:
        raise InputError(f"{path} is damaged ({e}); learn from the points again") from e
    if PIXELS not in arrays or not all(np.isfinite(array).all() for array in arrays.values()):
        raise InputError(f"{path} is damaged; learn from the points again")
    return arrays
