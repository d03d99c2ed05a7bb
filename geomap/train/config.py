"""The config of a training run, read from YAML; unknown keys and bad values are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from geomap import config as yamlfile
from geomap.config import Strict, refusal
from geomap.datasets.measured import READERS
from geomap.datasets.table import SUFFIXES
from geomap.errors import ConfigError, to_type

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=100)]


class Augment(Strict):
    """Random changes to every series of a batch (fractions and DN)."""

    some_months: Fraction = 0.35  # chance to keep a random subset of 3..11 months (paper, section 3)
    window: Fraction = 0.15  # chance to keep 3..11 months in a row
    gain: Annotated[float, Field(ge=0, le=0.3)] = 0.03  # standard deviation, one per series
    band_gain: Annotated[float, Field(ge=0, le=0.3)] = 0.015  # one per series and band
    offset: Annotated[float, Field(ge=0, le=500)] = 25.0  # DN, one per series and band
    shift: Fraction = 0.5  # chance that a measured series moves by up to half a month
    spans: Fraction = 0.0  # chance that a series is shortened to quarters, half-years or a year


class Levels(Strict):
    """Weight of each level's softmax in the loss."""

    cover: Weight = 1.0
    landcover: Weight = 1.0
    crops: Weight = 0.7
    landuse: Weight = 0.3
    habitat: Weight = 0.3
    bioregion: Weight = 0.2

    @model_validator(mode="after")
    def _some(self) -> Levels:
        if not any(self.model_dump().values()):
            raise ValueError("one level needs a weight above 0")
        return self


class Evaluation(Strict):
    """Extra runs for the card, each with one measured set left out."""

    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 600


MOST_TEACHERS = 10
"""The teachers' seeds begin with that of a run; the encoder that learns from them has this one more than the run."""


class Teachers(Strict):
    """Encoders of other seeds, trained first, for as many steps; their mean embedding is learned beside the labels."""

    count: Annotated[int, Field(ge=1, le=MOST_TEACHERS)] = 3
    weight: Weight = 30.0  # of the distance 1 - cosine from their mean, beside the loss of the labels


def _sets(paths: dict[str, str]) -> dict[str, str]:
    """Check the measured sets: names of worldcereal mean its sets, any other name means a user's table."""
    for name, path in paths.items():
        if name not in READERS and Path(path).suffix.casefold() not in SUFFIXES:
            raise ValueError(f"{name} is none of {', '.join(READERS)}, and its file is no {' or '.join(SUFFIXES)}")
    return paths


def _real(paths: dict[str, str]) -> dict[str, str]:
    """Check the sets that are trained on: the card names the figures of all of them together `all`."""
    if "all" in paths:
        raise ValueError("the card calls all sets together `all`; give this one another name")
    return _sets(paths)


class TrainConfig(Strict):
    """A training run of method `captions`."""

    method: Literal["captions"] = "captions"
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$")]
    title: str
    version: str = "1"
    licence: str
    encoder: Literal["small", "timesenclip"] = "small"
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0  # augmentation regularises; dropout doubles the time on a CPU
    text_space: str = "sentence-transformers/all-MiniLM-L6-v2"
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    threads: Annotated[int, Field(ge=1, le=256)] = 1  # results repeat to the bit for the same number
    simulated: Annotated[int, Field(ge=100, le=10_000_000)] = 60_000  # series, drawn once
    real: Annotated[dict[str, str], AfterValidator(_real)] = Field(
        default_factory=dict
    )  # measured sets: name -> path relative to the YAML file's folder
    test: Annotated[dict[str, str], AfterValidator(_sets)] = Field(
        default_factory=dict
    )  # measured sets that are scored for the card and never trained on: name -> path, as in `real`
    real_share: Fraction = 0.3  # of every batch, if there are measured sets
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1500
    batch: Annotated[int, Field(ge=8, le=65_536)] = 512
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    warmup: Annotated[int, Field(ge=0, le=10_000_000)] = 60  # steps
    augment: Augment = Augment()
    teachers: Teachers | None = None
    levels: Levels = Levels()
    held_out: Annotated[int, Field(ge=10, le=1_000_000)] = 4000  # simulated series from another seed, for a first score
    evaluation: Evaluation | None = None
    recipe: str = ""  # for the card: how to make these weights again
    limits: tuple[str, ...] = ()  # for the card: where they fail


PATHS = ("train", "validation", "photos")
"""Keys of CrossViewData that hold paths."""


class CrossViewData(Strict):
    """Published files of series and photos; paths are relative to the config's folder."""

    name: str  # for the card
    kind: Literal["measured", "simulated"] = "measured"
    licence: str
    note: str = ""
    train: str  # cut HDF5 file (sen4map.read_cut)
    validation: str  # cut HDF5 file that decides which epoch is kept
    photos: str  # CLIP vectors of the ground photos (lucas.read_photos)


class MaskingChances(Strict):
    """How often training leaves out months and bands (paper, section 3.2)."""

    temporal: Fraction = 0.5  # of batches: annual median, three months in a row or a random subset, equally likely
    spectral: bool = False  # zero each band but B02, B03, B04 with chance 1/2; off in the paper's best runs (table 7)


class CrossViewConfig(Strict):
    """A run of the paper's method: contrast of pixel series with ground photos. Defaults are the paper's (section 5.1).

    `docs/training.md` lists what the paper leaves open and where the published code differs.
    """

    method: Literal["crossview"]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$")]
    title: str
    version: str = "1"
    licence: str
    data: CrossViewData
    encoder: Literal["timesenclip", "small"] = "timesenclip"
    patch: Literal[1, 5, 9] = 1  # pixels per side
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    device: str = "auto"
    threads: Annotated[int, Field(ge=1, le=256)] = 1  # on a CPU, results repeat to the bit for the same number
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # auto: bf16 autocast on CUDA devices that support it
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 200
    warmup: Annotated[int, Field(ge=0, le=100_000)] = 10  # epochs
    batch: Annotated[int, Field(ge=2, le=1_048_576)] = 1024  # of all processes together
    queue: Annotated[int, Field(ge=1, le=10_000_000)] = 2048  # number of past ground vectors
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-6
    masking: MaskingChances = MaskingChances()
    recipe: str = ""  # for the card: how to make these weights again
    limits: tuple[str, ...] = ()  # for the card: where they fail


def read_captions(path: Path) -> TrainConfig:
    """Read a run of method `captions` from a YAML file and make its paths absolute. Raises ConfigError."""
    config = read_config(path)
    if isinstance(config, CrossViewConfig):
        raise ConfigError(f"{path} is of method crossview; run it with: {to_type('train', path)}")
    return config


def read_config(path: Path) -> TrainConfig | CrossViewConfig:
    """Read a run of either `method` from a YAML file and make its paths absolute. Raises ConfigError."""
    raw = yamlfile.read_yaml(path, "training configuration", "pipelines/train_default.yaml")
    if raw.get("method", "captions") not in ("captions", "crossview"):
        raise ConfigError(f"{path}: method: must be captions or crossview, not {raw['method']!r}")
    model = CrossViewConfig if raw.get("method") == "crossview" else TrainConfig
    try:
        config = model.model_validate(raw)
    except ValidationError as e:
        raise ConfigError(refusal(path, e, model)) from e
    folder = path.resolve().parent
    if isinstance(config, CrossViewConfig):
        files = {k: str((folder / getattr(config.data, k)).resolve()) for k in PATHS}
        return config.model_copy(update={"data": config.data.model_copy(update=files)})
    sets = {key: {k: str((folder / v).resolve()) for k, v in getattr(config, key).items()} for key in ("real", "test")}
    return config.model_copy(update=sets)
