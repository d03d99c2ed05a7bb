"""Weights and their card: weights/<name>/{card.json, model.safetensors, class_vectors.safetensors}.

The card says what the tensors are: architecture, band order, normalisation, the text tower whose space the embeddings
share, training data, licence, metrics, limits and the sha256 of every file. Loading checks all of it; only
safetensors and JSON are read, never pickled code.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from geomap.errors import WeightsError
from geomap.model import EncoderConfig, PixelEncoder
from geomap.sentinel2 import BANDS
from geomap.validation import first_problem

MODEL_FILE = "model.safetensors"
VECTORS_FILE = "class_vectors.safetensors"
CARD_FILE = "card.json"

# Band constants of the published input normalisation, DN (paper.md section 3; Sen4Map's low and high quantiles).
Q_LOW = (67.0, 122.0, 93.27, 158.5, 160.77, 174.27, 162.27, 149.0, 84.5, 66.27)
Q_HIGH = (2089.0, 2598.45, 3214.5, 3620.45, 4033.61, 4613.0, 4825.45, 4945.72, 5140.84, 4414.45)

_STRICT = ConfigDict(extra="forbid", frozen=True)
_TenNumbers = Annotated[tuple[float, ...], Field(min_length=len(BANDS), max_length=len(BANDS))]


class TrainingSource(BaseModel):
    """One source of training samples."""

    model_config = _STRICT
    name: str
    kind: str  # "simulated" or "measured"
    samples: int
    licence: str
    note: str = ""


class Card(BaseModel):
    """What a set of weights is. `files` is filled in by `save`."""

    model_config = _STRICT
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$")]
    title: str
    version: str
    licence: str
    encoder: dict[str, Any]  # fields of EncoderConfig
    bands: tuple[str, ...] = BANDS
    low: _TenNumbers = Q_LOW  # DN
    high: _TenNumbers = Q_HIGH  # DN
    text_space: str  # id of the text tower whose space the embeddings share
    logit_scale: Annotated[float, Field(gt=0, le=1000)]  # cosine -> logit, calibrated; confidence = softmax
    training: tuple[TrainingSource, ...]
    recipe: str  # how to make them again
    metrics: dict[str, Any]
    limits: tuple[str, ...]  # where they fail, in plain words
    files: dict[str, str] = {}  # file name -> sha256

    def config(self) -> EncoderConfig:
        """The architecture. Raises WeightsError on an unknown field."""
        try:
            return EncoderConfig(**self.encoder)
        except TypeError as e:
            raise WeightsError(f"weights {self.name}: the card's encoder does not fit this version: {e}") from e


@dataclass(frozen=True, slots=True)
class Weights:
    """A loaded set: card, encoder in eval mode on the CPU, stored class vectors, and the card's own sha256."""

    card: Card
    encoder: PixelEncoder
    class_vectors: Mapping[str, Tensor]  # legend digest -> (K, D) float32 unit vectors, in the legend's order
    digest: str


def homes() -> tuple[Path, ...]:
    """Folders that hold named weights: inside an installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    checkout = (package.parent / "pyproject.toml").is_file()
    return tuple(
        p
        for p in (package / "_weights", package.parent / "weights")
        if p.is_dir() and (checkout or p.parent == package)
    )


def names() -> tuple[str, ...]:
    """Names of the weights that come with the package."""
    return tuple(sorted({card.parent.name for home in homes() for card in home.glob(f"*/{CARD_FILE}")}))


def locate(name_or_dir: str) -> Path:
    """The folder of weights that come with the package, by name, or the folder itself. Raises WeightsError."""
    for folder in [*(home / name_or_dir for home in homes()), Path(name_or_dir)]:
        try:
            if (folder / CARD_FILE).is_file():
                return folder
        except OSError as e:
            raise WeightsError(f"cannot read weights {name_or_dir!r}: {e.strerror}") from e
    known = ", ".join(names()) or "none"
    raise WeightsError(f"no weights {name_or_dir!r}; use one of {known}, or a folder that holds {CARD_FILE}")


def read_card(folder: Path) -> Card:
    """The card alone, for listing. Raises WeightsError."""
    return _parse_card(_read(folder / CARD_FILE), folder)


def load(name_or_dir: str) -> Weights:
    """Load and verify weights.

    Raises:
        WeightsError: unknown name, a broken card, a file whose sha256 differs from the card's, other bands than this
            version's, or tensors that do not fit the architecture.
    """
    folder = locate(name_or_dir)
    card_bytes = _read(folder / CARD_FILE)
    card = _parse_card(card_bytes, folder)
    if card.bands != BANDS:
        raise WeightsError(f"weights {card.name} expect bands {' '.join(card.bands)}; geomap reads {' '.join(BANDS)}")
    for file in (MODEL_FILE, VECTORS_FILE):
        _check_file(folder / file, card)
    encoder = PixelEncoder(card.config(), torch.tensor(card.low), torch.tensor(card.high))
    _load_tensors(folder / MODEL_FILE, encoder)
    return Weights(card, encoder.eval(), _load_vectors(folder / VECTORS_FILE, card), _sha256(card_bytes))


def save(folder: Path, encoder: PixelEncoder, card: Card, class_vectors: Mapping[str, Tensor]) -> Card:
    """Write weights; `class_vectors` maps legend digests to (K, D) vectors. Returns the card with its file hashes."""
    if card.config() != encoder.cfg:
        raise ValueError(f"the card describes {card.config()}, the encoder is {encoder.cfg}")
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    save_file(state, folder / MODEL_FILE)
    save_file({k: v.float().cpu().contiguous() for k, v in class_vectors.items()}, folder / VECTORS_FILE)
    hashes = {}
    for file in (MODEL_FILE, VECTORS_FILE):
        (folder / file).chmod(0o644)  # safetensors writes for the owner alone
        hashes[file] = _sha256((folder / file).read_bytes())
    card = card.model_copy(update={"files": hashes})
    (folder / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return card


def card_fields(cfg: EncoderConfig) -> dict[str, Any]:
    """An EncoderConfig as the card stores it."""
    return dataclasses.asdict(cfg)


def _parse_card(content: bytes, folder: Path) -> Card:
    try:
        return Card.model_validate_json(content)
    except ValidationError as e:
        raise WeightsError(f"{folder / CARD_FILE}: {first_problem(e, Card)}") from e


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise WeightsError(f"cannot read {path}: {e.strerror}") from e


def _check_file(path: Path, card: Card) -> None:
    if not path.is_file():
        raise WeightsError(f"weights {card.name}: {path.name} is missing from {path.parent}; install geomap again")
    if _sha256(_read(path)) != card.files.get(path.name):
        raise WeightsError(
            f"weights {card.name}: {path} is not the file that its card describes (sha256 differs); "
            "restore the file or choose other --weights"
        )


def _load_tensors(path: Path, encoder: PixelEncoder) -> None:
    wanted = {k: list(v.shape) for k, v in encoder.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as f:
            found = {k: f.get_slice(k).get_shape() for k in f.keys()}  # noqa: SIM118
            # ^ shapes come from the header: nothing is allocated before they are known to fit
            if found != wanted:
                odd = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
                raise WeightsError(f"{path}: tensors do not fit the card's architecture, first {odd[0]}")
            encoder.load_state_dict({k: f.get_tensor(k).float() for k in wanted})
    except SafetensorError as e:
        raise WeightsError(f"{path} is not a safetensors file: {e}") from e


def _load_vectors(path: Path, card: Card) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as f:
        vectors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    for v in vectors.values():
        if v.ndim != 2 or v.shape[1] != card.config().out:
            raise WeightsError(f"{path}: class vectors {tuple(v.shape)} do not fit embeddings of {card.config().out}")
    return vectors


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
