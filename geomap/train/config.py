"""What a training run reads from its YAML file; unknown keys and values out of range are errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geomap.errors import ConfigError
from geomap.validation import first_problem

_STRICT = ConfigDict(extra="forbid", frozen=True)
Share = Annotated[float, Field(ge=0, le=1)]
MAX_BYTES = 100_000


class Augment(BaseModel):
    """Changes made to every series of a batch (fractions and DN)."""

    model_config = _STRICT
    some_months: Share = 0.35  # chance to keep a random subset of 3..11 months (paper, section 3)
    window: Share = 0.15  # chance to keep 3..11 months in a row
    gain: Annotated[float, Field(ge=0, le=0.3)] = 0.03  # standard deviation, one per series
    band_gain: Annotated[float, Field(ge=0, le=0.3)] = 0.015  # one per series and band
    offset: Annotated[float, Field(ge=0, le=500)] = 25.0  # DN, one per series and band
    shift: Share = 0.5  # chance that a real series moves by up to half a month


class Levels(BaseModel):
    """Weight of each level's softmax in the loss."""

    model_config = _STRICT
    cover: float = 1.0
    landcover: float = 1.0
    crops: float = 0.7
    landuse: float = 0.3
    habitat: float = 0.3
    bioregion: float = 0.2


class Evaluation(BaseModel):
    """Runs that leave each real set out in turn, for the card."""

    model_config = _STRICT
    steps: Annotated[int, Field(ge=1)] = 600


class TrainConfig(BaseModel):
    """A training run."""

    model_config = _STRICT
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$")]
    title: str
    version: str = "1"
    licence: str
    encoder: Literal["small", "timesenclip"] = "small"
    dropout: Share = 0.0  # of the encoder; augmentation does the work, and dropout doubles the time on a CPU
    text_space: str = "sentence-transformers/all-MiniLM-L6-v2"
    seed: int = 0
    threads: Annotated[int, Field(ge=1, le=256)] = 1  # results repeat to the bit for the same number
    simulated: Annotated[int, Field(ge=100, le=10_000_000)] = 60_000  # series, drawn once
    real: dict[Literal["flanders", "corsica", "east_africa"], str] = {}  # paths, relative to the file's folder
    real_share: Share = 0.3  # of every batch, where there are real sets
    steps: Annotated[int, Field(ge=1, le=10_000_000)] = 1500
    batch: Annotated[int, Field(ge=8, le=65_536)] = 512
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 60  # steps
    augment: Augment = Augment()
    levels: Levels = Levels()
    held_out: Annotated[int, Field(ge=10, le=1_000_000)] = 4000  # simulated series, of another seed, for a first score
    evaluation: Evaluation | None = None
    recipe: str = ""  # for the card: how to make these weights again
    limits: tuple[str, ...] = ()  # for the card: where they fail


def read(path: Path) -> TrainConfig:
    """The run that a YAML file describes, its paths made absolute. Raises ConfigError."""
    if not path.is_file():
        raise ConfigError(f"no training configuration {path}; pipelines/train_default.yaml is an example")
    if path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes, which is no training configuration")
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(e).split())}") from e
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: the file must hold keys with values, as pipelines/train_default.yaml does")
    try:
        config = TrainConfig.model_validate(raw)
    except ValidationError as e:
        raise ConfigError(f"{path}: {first_problem(e, TrainConfig)}") from e
    folder = path.resolve().parent
    return config.model_copy(update={"real": {k: str((folder / v).resolve()) for k, v in config.real.items()}})
