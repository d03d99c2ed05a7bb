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
from typing import Any, Final

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors
from torch import Tensor

from geomap import files
from geomap.encode.card import CARD_FILE, MODEL_FILE, VECTORS_FILE, Card, _parse_card, _read, _sha256, locate, read_card
from geomap.encode.model import EncoderConfig, PixelEncoder
from geomap.errors import OutputError, WeightsError
from geomap.sentinel2 import BANDS, MONTHS


@dataclass(frozen=True, slots=True)
class Weights:
    """Loaded weights: card, encoder in eval mode on the CPU, stored class vectors, and the sha256 of the card."""

    card: Card
    encoder: PixelEncoder
    class_vectors: Mapping[str, Tensor]  # legend digest -> (K, D) float32 unit vectors, in the legend's order
    digest: str
    anchors: Tensor | None = None  # (A, D) unit vectors of the words of its training, if it was trained with words
    scatter: tuple[Tensor, Tensor] | None = None  # (D, D) of embeddings and (120, 120) of log DN (label/scatter.py)

    def stored(self, legend_digest: str, rows: int) -> Tensor | None:
        """The stored class vectors of a legend, (rows, D); None if there are none. Raises WeightsError."""
        vectors = self.class_vectors.get(legend_digest)
        if vectors is not None and len(vectors) != rows:
            raise WeightsError(
                f"weights {self.card.name}: {VECTORS_FILE} holds {len(vectors)} class vectors for a legend of {rows}; "
                "make the weights again or choose other --weights"
            )
        return vectors


ANCHORS: Final = "anchors"
"""Name of the anchors in VECTORS_FILE, where all others are digests of legends."""

SCATTER: Final = ("scatter.embeddings", "scatter.series")
"""Names of the two matrices of scatter there."""

_UNIT: Final = 1e-3
"""By how much the length of a class vector or an embedding may differ from 1."""


def load_weights(name_or_dir: str) -> Weights:
    """Load and verify weights.

    Raises:
        WeightsError: the name is unknown, the card is broken, a file's sha256 differs from the card's, the bands are
            not those of this version, or the tensors do not fit the architecture or are not finite float32.
    """
    folder = locate(name_or_dir)
    card_bytes = _read(folder / CARD_FILE)
    card = _parse_card(card_bytes, folder)
    if card.bands != BANDS:
        raise WeightsError(f"weights {card.name} expect bands {' '.join(card.bands)}; geomap reads {' '.join(BANDS)}")
    for file in (MODEL_FILE, VECTORS_FILE):
        _check_file(folder / file, card)
    cfg = card.config()
    tensors = _tensors(folder / MODEL_FILE, _shapes(cfg), "do not fit the card's architecture")
    encoder = PixelEncoder(cfg, torch.tensor(card.low), torch.tensor(card.high))
    encoder.load_state_dict(tensors)
    _try(encoder.eval(), folder / MODEL_FILE)
    vectors, scatter = _load_vectors(folder / VECTORS_FILE, cfg.out)
    anchors = vectors.pop(ANCHORS, None)
    return Weights(card, encoder, vectors, _sha256(card_bytes), anchors, scatter)


def save(
    folder: Path,
    encoder: PixelEncoder,
    card: Card,
    class_vectors: Mapping[str, Tensor],
    anchors: Tensor | None = None,
    scatter: tuple[Tensor, Tensor] | None = None,
) -> Card:
    """Write weights; `class_vectors` maps legend digests to (K, D) vectors. Returns the card with its file hashes.

    Older weights of the same name are replaced, once all files are written. Raises OutputError if the folder holds
    weights of another name or cannot be written, DiskFullError, WeightsError for a card there that cannot be read.
    """
    if card.config() != encoder.cfg:
        raise ValueError(f"the card describes {card.config()}, the encoder is {encoder.cfg}")
    state = {k: v.detach().cpu().contiguous() for k, v in encoder.state_dict().items()}
    vectors = {**class_vectors, **({} if anchors is None else {ANCHORS: anchors})}
    vectors |= {} if scatter is None else dict(zip(SCATTER, scatter, strict=True))
    contents = {
        MODEL_FILE: safetensors(state),
        VECTORS_FILE: safetensors({k: v.float().cpu().contiguous() for k, v in vectors.items()}),
    }
    card = card.model_copy(update={"files": {name: _sha256(content) for name, content in contents.items()}})
    contents[CARD_FILE] = (card.model_dump_json(indent=2) + "\n").encode()
    _refuse_others(folder, card.name)
    files.write_together(contents, folder)  # the last, the card, describes the others
    return card


def prepare(folder: Path, name: str) -> None:
    """Make a folder for weights, and try to write there. Raises OutputError, DiskFullError; as `save`."""
    _refuse_others(folder, name)
    with files.disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    files.probe(folder, 0)


def _refuse_others(folder: Path, name: str) -> None:
    """Raise OutputError if a folder holds weights of another name."""
    path = folder / CARD_FILE
    if path.is_file() and (held := read_card(folder).name) != name:
        raise OutputError(f"{folder} holds the weights {held}, not {name}; choose another --out, or remove {path}")


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


def _shapes(cfg: EncoderConfig) -> dict[str, list[int]]:
    """Shapes of an encoder's tensors, by name; nothing is allocated."""
    with torch.device("meta"):
        like = PixelEncoder(cfg, torch.zeros(cfg.bands), torch.zeros(cfg.bands))
    return {name: list(tensor.shape) for name, tensor in like.state_dict().items()}


def _tensors(path: Path, wanted: Mapping[str, list[int]] | None, misfit: str = "") -> dict[str, Tensor]:
    """The tensors of a file, all float32 and finite, of the `wanted` names and shapes if given. Raises WeightsError."""
    try:
        with safe_open(path, framework="pt") as f:
            slices = {name: f.get_slice(name) for name in f.keys()}  # noqa: SIM118
            # ^ shapes and types come from the header, so nothing is allocated before they are known to fit
            found = {name: part.get_shape() for name, part in slices.items()}
            if wanted is not None and found != wanted:
                odd = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
                raise WeightsError(f"{path}: tensors {misfit}, first {odd[0]}")
            for name, part in slices.items():
                if part.get_dtype() != "F32":
                    raise WeightsError(f"{path}: {name} is {part.get_dtype()}, not F32; save the weights as float32")
            tensors = {name: f.get_tensor(name) for name in found}
    except SafetensorError as e:
        raise WeightsError(f"{path} is not a safetensors file: {e}; choose other --weights") from e
    for name, tensor in tensors.items():
        if not np.isfinite(tensor.numpy()).all():  # torch would wake all its threads for it
            raise WeightsError(f"{path}: {name} holds NaN or infinite values; choose other --weights")
    return tensors


def _try(encoder: PixelEncoder, path: Path) -> None:
    """Embed one month: values that are finite but absurd give no unit vector. Raises WeightsError."""
    cfg = encoder.cfg
    middle = (encoder.low + encoder.high / 2).expand(cfg.bands, cfg.patch**2).reshape(1, 1, cfg.features)
    with torch.inference_mode():
        made = encoder(middle, torch.ones(1, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.long))
    if not _unit(made):
        raise WeightsError(f"{path}: the encoder gives no unit vector for a plain series; choose other --weights")


def _unit(vectors: Tensor) -> bool:
    """Whether all rows have length 1 (no NaN), to the precision of any sensible writer."""
    return bool((np.abs(np.linalg.norm(vectors.double().numpy(), axis=1) - 1) < _UNIT).all())


def _load_vectors(path: Path, out: int) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor] | None]:
    """The vectors of legends and words, and the scatter if there is one. Raises WeightsError."""
    vectors = _tensors(path, None)
    scatter = _scatter(path, [vectors.pop(name, None) for name in SCATTER], out)
    for v in vectors.values():
        if v.ndim != 2 or v.shape[1] != out:
            raise WeightsError(f"{path}: class vectors {tuple(v.shape)} do not fit embeddings of {out}")
        if not len(v) or not _unit(v):
            raise WeightsError(f"{path}: class vectors are not of length 1; make them again")
    return vectors, scatter


def _scatter(path: Path, found: list[Tensor | None], out: int) -> tuple[Tensor, Tensor] | None:
    embeddings, series = found
    if embeddings is None and series is None:
        return None
    size = MONTHS * len(BANDS)
    if embeddings is None or series is None or (embeddings.shape, series.shape) != ((out, out), (size, size)):
        raise WeightsError(f"{path}: the matrices of scatter do not fit embeddings of {out}; make them again")
    return embeddings, series
