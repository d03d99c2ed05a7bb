"""Loads and saves weights: a folder with the card, the tensors and the class vectors.

    weights/<name>/{card.json, model.safetensors, class_vectors.safetensors}

The card describes the tensors: architecture, band order, normalisation, the text tower whose space the embeddings
share, training data, licence, metrics, limits and the sha256 of every file. Loading checks all of it. Only safetensors
and JSON are read, never pickled code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from geomap.encode.card import CARD_FILE, MODEL_FILE, VECTORS_FILE, Card, _parse_card, _read, _sha256, locate
from geomap.encode.model import EncoderConfig, PixelEncoder
from geomap.errors import WeightsError
from geomap.sentinel2 import BANDS


@dataclass(frozen=True, slots=True)
class Weights:
    """Loaded weights: card, encoder in eval mode on the CPU, stored class vectors, and the sha256 of the card."""

    card: Card
    encoder: PixelEncoder
    class_vectors: Mapping[str, Tensor]  # legend digest -> (K, D) float32 unit vectors, in the legend's order
    digest: str


def load_weights(name_or_dir: str) -> Weights:
    """Load and verify weights.

    Raises:
        WeightsError: the name is unknown, the card is broken, a file's sha256 differs from the card's, the bands are
            not those of this version, or the tensors do not fit the architecture.
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
        (folder / file).chmod(0o644)  # safetensors makes the file readable only by its owner
        hashes[file] = _sha256((folder / file).read_bytes())
    card = card.model_copy(update={"files": hashes})
    (folder / CARD_FILE).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    return card


def card_fields(cfg: EncoderConfig) -> dict[str, Any]:
    """An EncoderConfig in the form that the card stores."""
    return dataclasses.asdict(cfg)


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
            # ^ shapes come from the header, so nothing is allocated before they are known to fit
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
