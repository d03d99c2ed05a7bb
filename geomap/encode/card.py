"""The card of a set of weights: what they are, how good, where they fail; and where they lie.

The card describes the tensors: architecture, band order, normalisation, the text tower whose space the embeddings
share, training data, licence, metrics, limits and the sha256 of every file. Reading a card does not load torch.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer, model_validator

from geomap.config import Strict, problems
from geomap.errors import WeightsError
from geomap.paths import own
from geomap.sentinel2 import BANDS

if TYPE_CHECKING:
    from geomap.encode.model import EncoderConfig

MODEL_FILE = "model.safetensors"

VECTORS_FILE = "class_vectors.safetensors"

CARD_FILE = "card.json"


# Band constants of the published input normalisation, DN (paper.md section 3; Sen4Map's low and high quantiles).
Q_LOW = (67.0, 122.0, 93.27, 158.5, 160.77, 174.27, 162.27, 149.0, 84.5, 66.27)

Q_HIGH = (2089.0, 2598.45, 3214.5, 3620.45, 4033.61, 4613.0, 4825.45, 4945.72, 5140.84, 4414.45)

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Above0 = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_TEN: Any = Field(min_length=len(BANDS), max_length=len(BANDS))

MOST_BYTES: Final = 2**24
"""Most bytes of a card."""

SIZES: Final = {
    "bands": (len(BANDS), len(BANDS)), "patch": (1, 64), "dim": (1, 8192), "depth": (1, 96), "heads": (1, 512),
    "mlp": (1, 65_536), "out": (1, 65_536), "months": (12, 12),
}  # fmt: skip
"""Least and most of each whole number in a card's encoder."""


class TrainingSource(Strict):
    """One source of training samples."""

    name: str
    kind: str  # "simulated" or "measured"
    samples: int
    licence: str
    note: str = ""
    series: str = ""  # digests of some of its series (Samples.sketch): users may give a table another name

    @model_serializer(mode="wrap")
    def _without_empty_series(self, made: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in made(self).items() if name != "series" or value}


class Card(Strict):
    """The description of a set of weights. `files` is filled in by `save`."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$")]
    title: str
    version: str
    licence: str
    encoder: dict[str, Any]  # fields of EncoderConfig
    bands: tuple[str, ...] = BANDS
    low: Annotated[tuple[_Finite, ...], _TEN] = Q_LOW  # DN
    high: Annotated[tuple[_Above0, ...], _TEN] = Q_HIGH  # DN
    text_space: str  # id of the text tower whose space the embeddings share
    logit_scale: Annotated[float, Field(gt=0, le=1000)]  # cosine -> logit, calibrated; confidence = softmax
    training: tuple[TrainingSource, ...]
    recipe: str  # how to make them again
    metrics: dict[str, Any]
    limits: tuple[str, ...]  # where they fail, in plain words
    files: dict[str, str] = Field(default_factory=dict)  # file name -> sha256

    @model_validator(mode="after")
    def _low_below_high(self) -> Self:
        if not all(low < high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("low must be below high in every band")
        return self

    def config(self) -> EncoderConfig:
        """The architecture. Raises WeightsError for an unknown field or an absurd size."""
        from geomap.encode.model import EncoderConfig  # loads torch

        for name, (least, most) in SIZES.items():
            value = self.encoder.get(name, least)
            if type(value) is not int or not least <= value <= most:
                raise WeightsError(
                    f"weights {self.name}: the card's encoder has {name} {str(value)[:40]}; it must be "
                    + (f"{least}" if least == most else f"{least} to {most}")
                )
        try:
            cfg = EncoderConfig(**self.encoder)
        except TypeError as e:
            raise WeightsError(f"weights {self.name}: the card's encoder does not fit this version: {e}") from e
        if cfg.dim % cfg.heads or not isinstance(cfg.dropout, int | float) or not 0 <= cfg.dropout < 1:
            raise WeightsError(
                f"weights {self.name}: the card's encoder does not fit: dim must be a multiple of heads, dropout 0 to 1"
            )
        return cfg


def homes() -> tuple[Path, ...]:
    """Folders with named weights: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    checkout = (package.parent / "pyproject.toml").is_file()
    return tuple(
        p
        for p in (package / "_weights", package.parent / "weights")
        if p.is_dir() and (checkout or p.parent == package)
    )


def weight_names() -> tuple[str, ...]:
    """Names of the weights that come with the package."""
    return tuple(sorted({card.parent.name for home in homes() for card in home.glob(f"*/{CARD_FILE}")}))


def locate(name_or_dir: str) -> Path:
    """The folder of weights: by name for those that come with the package, or a folder. Raises WeightsError."""
    for folder in [*(home / name_or_dir for home in homes()), own(name_or_dir)]:
        try:
            if (folder / CARD_FILE).is_file():
                return folder
        except (OSError, ValueError) as e:
            raise WeightsError(f"cannot read weights {name_or_dir!r}: {getattr(e, 'strerror', None) or e}") from e
    known = ", ".join(weight_names()) or "none"
    raise WeightsError(f"no weights {name_or_dir!r}; use one of {known}, or a folder that holds {CARD_FILE}")


def read_card(folder: Path) -> Card:
    """The card alone, for listing. Raises WeightsError."""
    return _parse_card(_read(folder / CARD_FILE), folder)


def _parse_card(content: bytes, folder: Path) -> Card:
    try:
        return Card.model_validate_json(content)
    except ValidationError as e:
        raise WeightsError(f"{folder / CARD_FILE}: {problems(e, Card)[0]}") from e


def _read(path: Path) -> bytes:
    try:
        if path.name == CARD_FILE and path.stat().st_size > MOST_BYTES:
            raise WeightsError(f"{path} has over {MOST_BYTES >> 20} MB, which is no card of weights")
        return path.read_bytes()
    except OSError as e:
        raise WeightsError(f"cannot read {path}: {e.strerror}") from e


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
