"""Converts published TimeSenCLIP checkpoints into weights with a card.

Layouts (paper.md section 2): the encoder's tensors lie under `learner.ts_encoder.` or `learner.TS_ViT.` of a Lightning
state dict, with or without the `module.` of distributed training, or without prefix in a file of the encoder alone. The
class token is called `time_token` or `class_token`. Names inside the layers are torch's own, as in geomap.

Published code has used two band orders, and once swapped the constants of B02 and B04; a file does not say which way it
was trained. Labelled pixels can tell: the right way is the one that labels them best. The converted weights always take
B02 .. B12.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from pydantic import ValidationError
from torch import Tensor

from geomap import files, legends
from geomap.config import problems
from geomap.encode import weights
from geomap.encode.card import Q_HIGH, Q_LOW, Card
from geomap.encode.checkpoint import read_tensors
from geomap.encode.model import EncoderConfig, PixelEncoder
from geomap.errors import TemporaryError, WeightsError, to_type
from geomap.label import towers
from geomap.sentinel2 import BANDS, MONTHS
from geomap.sources import network
from geomap.sources.retry_after import TEMPORARY

if TYPE_CHECKING:
    from geomap.datasets.samples import Samples

log = logging.getLogger(__name__)

HEADS: Final = 8
"""Attention heads of the published model; their number leaves no trace in the tensors."""
CLIP_DIM: Final = 512
"""Size of the space of CLIP ViT-B/32."""
CLIP_SCALE: Final = 100.0
"""Logit scale where a checkpoint has none: CLIP's own, at its cap (Radford et al. 2021, section 2.5)."""
MIN_MONTHS: Final = 3
"""Labelled series with fewer clear months are left out, as maps leave them out."""

EMBEDDING: Final = "spectral_embedding.1.weight"  # (dim, 10 * patch^2); its name marks an encoder
NAMES: Final = {
    "spectral_embedding.1.": "embed.",
    "time_pos_encoding": "position",
    "time_token": "cls",
    "transformer.layers.": "layers.",
    "mlp_head.": "head.",
}
"""How published tensor names begin, and geomap's."""


@dataclass(frozen=True)
class BandOrder:
    """One way in which a checkpoint may have been trained, as positions 0..9 of the ten bands."""

    columns: tuple[int, ...]  # geomap's band i goes to the checkpoint's input columns[i]
    constants: tuple[int, ...]  # and geomap's band i is normalised with the constants of band constants[i]

    @property
    def low(self) -> tuple[float, ...]:
        """Constants (DN) in the order of geomap's bands."""
        return tuple(Q_LOW[i] for i in self.constants)

    @property
    def high(self) -> tuple[float, ...]:
        """Constants (DN) in the order of geomap's bands."""
        return tuple(Q_HIGH[i] for i in self.constants)


_AS_IS: Final = tuple(range(len(BANDS)))
_SWAPPED: Final = (2, 1, 0, *range(3, len(BANDS)))  # B02 and B04 swapped
BAND_ORDERS: Final = {
    "B02 first": BandOrder(_AS_IS, _AS_IS),
    "B02 first, constants of B02 and B04 swapped": BandOrder(_AS_IS, _SWAPPED),
    "B04 first": BandOrder(_SWAPPED, _AS_IS),
}
DEFAULT_ORDER: Final = "B02 first"
"""What is assumed where there are no labelled pixels."""


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder found in a checkpoint."""

    prefix: str  # of its tensors' names
    tensors: Mapping[str, Tensor]  # geomap's name -> float32 of geomap's shape
    config: EncoderConfig
    logit_scale: float
    scale_name: str | None  # the tensor that holds the scale's logarithm


def convert(
    path: Path,
    out: Path,
    licence: str,
    name: str | None = None,
    heads: int = HEADS,
    labelled: Samples | None = None,
) -> Card:
    """Convert a checkpoint into a folder of weights.

    Args:
        path: a published checkpoint or the encoder's state dict alone, as torch.save or .safetensors file.
        out: folder of the weights, created if it does not exist.
        licence: for the card.
        name: name of the weights; by default the file's.
        heads: attention heads.
        labelled: series whose land cover decides the band order.

    Returns:
        The card. `metrics["band_order"]` says which order was chosen, and how (`choose_order`).

    Raises:
        WeightsError: a file that cannot be read or holds another model, or `labelled` without CLIP's text tower.
    """
    found = find_encoder(read_tensors(path), path, heads)
    try:
        tower = towers.tower(towers.CLIP_SPACE)
    except WeightsError as e:
        if labelled is not None:
            raise
        log.info("no class vectors are stored: %s", e)
        tower = None
    tested = choose_order(found, labelled, tower) if labelled and tower else None
    order = BAND_ORDERS[tested["chosen"] if tested else DEFAULT_ORDER]
    digest = files.sha256(path)
    scale = f"exp({found.scale_name})" if found.scale_name else "CLIP's, as the file has none"
    typed = to_type("weights", "convert", path.name)
    recipe = f"{typed} (sha256 {digest}), tensors {found.prefix}*, logit scale {scale}"
    try:
        card = Card(
            name=name or re.sub(r"[^a-z0-9._-]+", "-", path.stem.lower()).strip("._-")[:60] or "converted",
            title=f"TimeSenCLIP encoder, converted from {path.name}",
            version=digest[:12], licence=licence, encoder=weights.card_fields(found.config),
            low=order.low, high=order.high, text_space=towers.CLIP_SPACE, logit_scale=found.logit_scale, training=(),
            recipe=recipe, limits=_limits(heads, tested, tower is not None),
            metrics={"band_order": tested or {"chosen": DEFAULT_ORDER, "tested_on": None}},
        )  # fmt: skip
    except ValidationError as e:
        raise WeightsError(f"weights of {path}: {problems(e, Card)[0]}") from e
    vectors = towers.builtin_vectors(tower) if tower else {}
    return weights.save(out, build(found, order), card, vectors)


def find_encoder(tensors: Mapping[str, Tensor], path: Path, heads: int = HEADS) -> FoundEncoder:
    """The encoder among a checkpoint's tensors (`checkpoint.read_tensors`); `path` names the file in errors.

    Raises WeightsError if there is none, if a tensor is missing, unknown, of another shape or not finite, and if the
    number of months, bands or outputs is not geomap's.
    """
    prefixes = [n.removesuffix(EMBEDDING) for n in tensors if n.endswith(EMBEDDING)]
    if len(prefixes) > 1:  # beside the learner's encoder lies a copy from the last validation, maybe older
        prefixes = [p for p in prefixes if "learner." in p] or prefixes
    if len(prefixes) != 1:
        raise WeightsError(f"{path} holds {len(prefixes)} TimeSenCLIP encoders (tensors ...{EMBEDDING}), not one")
    prefix = prefixes[0]
    names = NAMES if f"{prefix}time_token" in tensors else NAMES | {"class_token": "cls"}
    own = {n: t for n, t in tensors.items() if n.startswith(prefix)}
    if odd := next((n for n, t in own.items() if not t.is_floating_point()), None):
        kind = str(own[odd].dtype).removeprefix("torch.")
        raise WeightsError(f"{path}: tensor {odd} is of {kind}, not of floating-point numbers")
    found = {_renamed(n.removeprefix(prefix), names): t.float() for n, t in own.items()}
    # ^ unknown names stay as they are
    if "position" in found:
        found["position"] = found["position"].squeeze(0)  # (1, 12, dim)
    if "cls" in found:
        found["cls"] = found["cls"].flatten()  # (1, 1, dim)
    where = f"{path}: tensor {prefix}"
    config = _config(found, heads, path, where)
    with torch.device("meta"):  # shapes only
        blank = PixelEncoder(config, torch.empty(len(BANDS)), torch.empty(len(BANDS)))
    wanted = {k: v.shape for k, v in blank.state_dict().items()}
    for key in [*wanted, *found]:
        theirs = where + _theirs(key)
        if key not in found:
            raise WeightsError(f"{theirs} is missing")
        if key not in wanted:
            raise WeightsError(f"{theirs} is none of a TimeSenCLIP encoder's")
        if found[key].shape != wanted[key]:
            raise WeightsError(f"{theirs} has {found[key].numel()} values, not {wanted[key].numel()} as the others ask")
        if not found[key].isfinite().all():
            raise WeightsError(f"{theirs} holds values that are not finite")
    return FoundEncoder(prefix, found, config, *_logit_scale(tensors, path))


def build(found: FoundEncoder, order: BandOrder) -> PixelEncoder:
    """The encoder in eval mode, with input weights and constants reordered to B02 .. B12."""
    encoder = PixelEncoder(found.config, torch.tensor(order.low), torch.tensor(order.high))
    embed = found.tensors["embed.weight"]  # (dim, bands * patch^2), band-major
    by_band = embed.reshape(len(embed), len(BANDS), -1)[:, list(order.columns)]
    encoder.load_state_dict({**found.tensors, "embed.weight": by_band.reshape(embed.shape)})
    return encoder.eval()


def choose_order(found: FoundEncoder, labelled: Samples, tower: towers.TextTower) -> dict[str, Any]:
    """The band order whose zero-shot land cover of labelled pixels is right most often, over the whole legend.

    Encoders of patches get the pixel repeated over the patch. Returns what the card keeps: `chosen`; `tested_on`, the
    set; `samples`; `accuracy` of every order; `beyond_chance`, whether the best leads by more than two standard errors
    of the difference of two such shares.
    """
    from geomap.datasets.series import embed_samples
    from geomap.evaluate.zero_shot import nearest_class

    known = legends.load("landcover")
    vectors = towers.class_vectors(known, tower)
    samples = labelled.rows((labelled.labels["landcover"] > 0) & (labelled.valid.sum(1) >= MIN_MONTHS))
    n = len(samples)
    if not n:
        raise WeightsError(f"no pixel of {labelled.name} has a land cover and {MIN_MONTHS} clear months")
    patches = replace(samples, dn=samples.dn.repeat(found.config.patch**2, axis=-1))  # band-major
    accuracy = {}
    for name, order in BAND_ORDERS.items():
        embeddings = embed_samples(build(found, order), patches)
        right = nearest_class(embeddings, vectors, known) == samples.labels["landcover"]
        accuracy[name] = round(float(right.mean()), 4)
    chosen = max(accuracy, key=accuracy.__getitem__)  # ties: the first
    second, best = sorted(accuracy.values())[-2:]
    return {
        "chosen": chosen,
        "tested_on": labelled.name,
        "samples": n,
        "accuracy": accuracy,
        "beyond_chance": best - second > 2 * math.sqrt((best * (1 - best) + second * (1 - second)) / n),
    }


def read_labelled(setting: str) -> Samples:
    """Read labelled pixels from "flanders=PATH" (names: measured.READERS). Raises WeightsError, ConfigError."""
    from geomap.datasets.measured import READERS

    name, _, path = setting.partition("=")
    if name not in READERS or not path:
        raise WeightsError(f"--labelled takes NAME=PATH with NAME one of {', '.join(READERS)}, not {setting!r}")
    return READERS[name](Path(path))


def _renamed(name: str, names: Mapping[str, str]) -> str:
    """The name with its prefix replaced as `names` says."""
    return next((new + name.removeprefix(old) for old, new in names.items() if name.startswith(old)), name)


def _theirs(key: str) -> str:
    """The published name of a tensor of geomap's encoder."""
    return _renamed(key, {ours: theirs for theirs, ours in NAMES.items()})


def _config(found: Mapping[str, Tensor], heads: int, path: Path, where: str) -> EncoderConfig:
    """The architecture that follows from the shapes; the rest of `found` is not checked."""
    sizes = []
    for key in ("embed.weight", "position", "layers.0.linear1.weight", "head.1.weight"):
        if key not in found or found[key].ndim != 2:
            raise WeightsError(f"{where}{_theirs(key)} is missing or not of two dimensions")
        sizes.append(found[key].shape)
    (dim, features), (months, _), (mlp, _), (out, _) = sizes
    patch = math.isqrt(features // len(BANDS))
    if not patch or patch**2 * len(BANDS) != features:
        raise WeightsError(f"{path} takes {features} values a month: no square patch of {len(BANDS)} bands")
    if months != MONTHS:
        raise WeightsError(f"{path} has positions for {months} steps; geomap's series have {MONTHS} months")
    if out != CLIP_DIM:
        raise WeightsError(f"{path} gives vectors of {out} values; the space of CLIP ViT-B/32 has {CLIP_DIM}")
    if heads < 1 or dim % heads:
        raise WeightsError(f"{path}: {dim} values a token cannot be split among {heads} heads; give another --heads")
    depth = len({k.split(".")[1] for k in found if k.startswith("layers.")})
    return EncoderConfig(patch=patch, dim=dim, depth=depth, heads=heads, mlp=mlp, out=out)


def _logit_scale(tensors: Mapping[str, Tensor], path: Path) -> tuple[float, str | None]:
    """The learned logit scale and the name of its logarithm; a copy of CLIP in the file has its own, ignored here."""
    for name, tensor in tensors.items():
        *above, last = name.split(".")
        if last == "logit_scale" and "clip_model" not in above and tensor.numel() == 1:
            scale = round(math.exp(min(float(tensor), 100)), 4)
            if not 0 < scale <= 1000:
                raise WeightsError(f"{path}: tensor {name} = {float(tensor):g} is no logarithm of a logit scale")
            return scale, name
    return CLIP_SCALE, None


def _limits(heads: int, tested: Mapping[str, Any] | None, stored: bool) -> tuple[str, ...]:
    """Limits that the card lists beside the figures."""
    notes = [
        "Trained by others; the file does not say on what, and geomap has not measured its quality.",
        f"The tensors do not tell the number of attention heads; {heads} were assumed.",
    ]
    if tested is None:
        notes.append(f"The band order is untested: published code has used several, {DEFAULT_ORDER} is assumed.")
    elif not tested["beyond_chance"]:
        notes.append("The band orders do about equally well on the labelled pixels: the choice may be chance.")
    if not stored:
        notes.append("Class vectors are not stored: CLIP's text tower could not be loaded. They are made at first use.")
    return tuple(notes)


CHECKPOINTS: Final = {"timesenclip": ("pallavijainpj/TimeSenCLIP", "TimeSenCLIP_1x1.ckpt")}
"""Name -> repository and file on huggingface.co (paper.md section 7); whether they exist has not been verified."""


def model_page(name: str) -> str:
    """Where a checkpoint and its licence are described."""
    return f"huggingface.co/{CHECKPOINTS[name][0]}"


def fetch(name: str) -> Path:
    """Download a checkpoint into huggingface_hub's cache, unless it is there.

    Raises:
        WeightsError: a name that is not in CHECKPOINTS, or the hub refuses the file.
        TemporaryError: the hub does not answer, or the download breaks off.
        NetworkError: a certificate or a proxy lets nothing through.
    """
    if name not in CHECKPOINTS:
        raise WeightsError(f"no published weights {name!r}; known are {', '.join(CHECKPOINTS)}")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    repository, file = CHECKPOINTS[name]
    by_hand = f"get {file} of {model_page(name)} by hand, then: {to_type('weights', 'convert', file)} --out DIR"
    try:
        with _quiet(), network.shared_authorities():
            return Path(hf_hub_download(repository, file))
    except Exception as e:  # errors of the hub, its HTTP client or the disk
        refusals = [x for x in (e, e.__cause__) if isinstance(x, HfHubHTTPError)]  # the hub wraps some of its errors
        status = refusals[0].response.status_code if refusals else 0
        if status >= 400 and status not in TEMPORARY:  # gone, closed or renamed: a retry does not help
            raise WeightsError(f"the hub does not give {file} (HTTP {status}); {by_hand}") from e
        if lasting := network.lasting(network.texts(e), "https://huggingface.co"):
            raise lasting from e
        raise TemporaryError(f"{file} cannot be fetched ({type(e).__name__}); try again later, or {by_hand}") from e


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the hub's messages about its own retries; progress bars stay."""
    hub = logging.getLogger("huggingface_hub")
    level = hub.level
    hub.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        hub.setLevel(level)
