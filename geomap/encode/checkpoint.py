"""Tensors out of published checkpoint files, without running the code that such files can carry.

A torch.save file holds a pickle, and a pickle can call any function of any module while it is read. Here a process of
its own reads it (_checkpoint_child.py), with limits on memory and processor time and none of this process's
environment. Tensors come back as safetensors, never as a pickle.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from geomap.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

_CHILD: Final = Path(__file__).with_name("_checkpoint_child.py")
"""Run as the file that lies here: by its module's name, another installed copy of geomap might answer."""
KEPT_ENVIRONMENT: Final = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
"""What the reading process needs to start torch; secrets of the environment stay here."""

ZIP_MAGIC: Final = b"PK\x03\x04"


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a checkpoint file, in the file's order, on the CPU.

    Args:
        path: a file of torch.save (zip format, torch 1.6 or later), of any name, or a .safetensors file.

    Returns:
        name -> tensor of the stored shape and dtype. The names of nested dicts and lists are joined by ".":
        "state_dict.head.weight", "optimizer_states.0.state.3.exp_avg"; a flat dict keeps its keys.

    Raises:
        WeightsError: no such file, another format, a damaged file, a pickle that asks for anything but tensors and
            plain values, or one that asks for more memory or time than a file of its size can need.
    """
    if not path.is_file():
        raise WeightsError(f"no checkpoint file {path}")
    try:
        with path.open("rb") as f:
            magic = f.read(len(ZIP_MAGIC))
    except OSError as e:
        raise WeightsError(f"cannot read {path}: {e.strerror}") from e
    if magic == ZIP_MAGIC:
        return _read_apart(path.resolve())
    if path.suffix == ".safetensors":
        return _load_part(path)
    raise WeightsError(
        f"{path} is neither a .safetensors file nor a zip archive of torch.save (torch before 1.6 and tar files are not"
        " read); where you trust it, load it with torch and save its state dict again"
    )


def _read_apart(path: Path) -> dict[str, Tensor]:
    """`read_tensors` of a zip archive, through a process of its own."""
    environment = {k: os.environ[k] for k in KEPT_ENVIRONMENT if k in os.environ}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryDirectory(prefix="geomap-") as folder:
        done = subprocess.run(
            [sys.executable, "-I", "-W", "ignore", str(_CHILD), str(path), folder],
            env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True,
        )  # fmt: skip
        answer = Path(folder) / "answer.json"
        if not answer.is_file():
            log.debug("the reading process said: %s", done.stderr.decode(errors="replace"))
            raise WeightsError(
                f"{path} cannot be read: its reader stopped with code {done.returncode}, most likely because the file "
                "asks for more memory or time than a checkpoint of its size needs"
            )
        found = json.loads(answer.read_text("utf-8"))
        if "error" in found:
            raise WeightsError(f"{path} {found['error']}")
        names = found["names"]
        parts = (_load_part(Path(folder) / f"{i}.safetensors") for i in range(found["parts"]))
        return {names[int(key)]: tensor for part in parts for key, tensor in part.items()}


def _load_part(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as e:
        raise WeightsError(f"{path} is not a safetensors file: {e}") from e
