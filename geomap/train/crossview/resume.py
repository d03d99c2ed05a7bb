"""Writes a cross-view run's state after each epoch, and resumes from it.

The state is one safetensors file with plain values as JSON in its header. One file, renamed into place, cannot be half
old and half new. Nothing is pickled. No random state is stored: every epoch seeds from the run's seed and its number.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from geomap import files
from geomap.errors import OutputError
from geomap.train import checkpoints
from geomap.train.crossview.contrast import CrossView, Queue
from geomap.train.crossview.curves import Epoch

LAST: Final = "last.safetensors"
BEST: Final = "best.safetensors"


@dataclass
class TrainingState:
    """All that changes while training."""

    model: CrossView
    optimiser: torch.optim.AdamW
    queue: Queue
    history: list[Epoch] = field(default_factory=list)

    @property
    def best(self) -> Epoch:
        """The epoch with the lowest validation loss; ties go to the first."""
        return min(self.history, key=lambda e: e.val_loss)


def write_state(out: Path, state: TrainingState, identity: dict[str, Any]) -> None:
    """Write the state, and the model if this epoch is the best so far; `identity` must match on resume."""
    folder = out / checkpoints.FOLDER
    model = {f"model.{k}": v for k, v in state.model.state_dict().items()}
    if state.best is state.history[-1]:  # first: a crash in between repeats this epoch and rewrites it
        _save(folder / BEST, model, {"identity": identity, "epoch": state.best.epoch})
    moments = {f"adam.{i}.{k}": v for i, s in state.optimiser.state_dict()["state"].items() for k, v in s.items()}
    queue = {"queue.vectors": state.queue.vectors, "queue.samples": state.queue.samples}
    values = {
        "identity": identity,
        "history": [asdict(e) for e in state.history],
        "queue": {"next": state.queue.next, "filled": state.queue.filled},
    }
    _save(folder / LAST, model | moments | queue, values)


def resume(out: Path, state: TrainingState, identity: dict[str, Any]) -> None:
    """Resume from the state in `out`, if there is one. Raises OutputError if it is another run's or unreadable."""
    path = out / checkpoints.FOLDER / LAST
    if not path.is_file():
        return
    tensors, values = _load(path)
    _require(out, values["identity"], identity)
    state.model.load_state_dict(_part(tensors, "model."))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _part(tensors, "adam.").items():
        number, name = key.split(".")
        moments.setdefault(int(number), {})[name] = tensor
    groups = state.optimiser.state_dict()["param_groups"]
    state.optimiser.load_state_dict({"state": moments, "param_groups": groups})
    state.queue.vectors.copy_(tensors["queue.vectors"])
    state.queue.samples.copy_(tensors["queue.samples"])
    state.queue.next, state.queue.filled = values["queue"]["next"], values["queue"]["filled"]
    state.history[:] = [Epoch(**e) for e in values["history"]]


def load_best(out: Path, state: TrainingState, identity: dict[str, Any]) -> None:
    """Load the parameters of the best epoch into the model.

    Raises OutputError, also if they are another run's, or of another epoch: one that was stopped and went otherwise
    when it was trained again.
    """
    tensors, values = _load(out / checkpoints.FOLDER / BEST)
    _require(out, values.get("identity", identity), identity)  # files of earlier versions have none
    if (found := values["epoch"]) != state.best.epoch:
        raise OutputError(
            f"{out / checkpoints.FOLDER / BEST} is of epoch {found}, and epoch {state.best.epoch} was the best; remove "
            f"{out / checkpoints.FOLDER} to start again"
        )
    state.model.load_state_dict(_part(tensors, "model."))


def _require(out: Path, found: dict[str, Any], identity: dict[str, Any]) -> None:
    """Raise OutputError if a checkpoint is another run's."""
    if odd := sorted(k for k in identity.keys() | found.keys() if identity.get(k) != found.get(k)):
        raise OutputError(
            f"{out} holds a run with another configuration or data ({', '.join(odd)}); choose another --out, or remove "
            f"{out / checkpoints.FOLDER} to start again"
        )


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _save(path: Path, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
    content = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    files.write_bytes(path, save(content, {"state": json.dumps(values)}))


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, json.loads(f.metadata()["state"])  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as e:
        raise OutputError(f"cannot read the checkpoint {path}: {e}; remove {path.parent} to start again") from e
