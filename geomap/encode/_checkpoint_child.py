"""Reads one torch.save file and writes its tensors as safetensors, in a process of its own.

    python -I _checkpoint_child.py FILE FOLDER

checkpoint.py runs it; it imports nothing of geomap. torch.load(weights_only=True) takes tensors, numbers, text, None
and plain containers, nothing else. Two more names may occur, because Lightning writes them beside the state dict and
they hold values only: argparse.Namespace, and AttributeDict, read as a dict. If a file names anything else, even in
unused parts (optimiser states, callbacks), it is refused, and nothing of it is imported, called or constructed.

FOLDER gets answer.json, {"names": [...], "parts": N} or {"error": why}, and N files 0.safetensors ... whose keys are
positions in the list of names. If answer.json is missing, the process was stopped by its limits.
"""

from __future__ import annotations

import argparse
import json
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from torch import Tensor

ATTRIBUTE_DICTS: Final = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)
"""Names of Lightning's dict of hyperparameters in its versions."""

MEMORY_FLOOR: Final = 3 << 30  # bytes: torch itself takes about 1 GiB
MEMORY_PER_BYTE: Final = 4  # bytes of memory per byte of file
CPU_SECONDS: Final = 120
CPU_BYTES_PER_SECOND: Final = 250_000  # of file, in addition to CPU_SECONDS; a dict of 512-d vectors is read at 6 MB/s
MAX_GROWTH: Final = 4
"""All tensors are at most this many times the file: torch.save does not compress, but names may share a tensor."""
MAX_DEPTH: Final = 32  # of nested containers
PART_TENSORS: Final = 50_000  # in one file of the answer; the header of safetensors may have 100 MB
PART_BYTES: Final = 256 << 20


class _RefusedError(Exception):
    """Why a file is not read: words that follow the file's name in a sentence."""


def _main(path: Path, folder: Path) -> None:
    """Read `path`; write answer.json and the tensors in numbered files into `folder`."""
    try:
        answer = _write_parts(_flatten(_load(path), path.stat().st_size), folder, path.stat().st_size)
    except _RefusedError as e:
        answer = {"error": str(e)}
    except MemoryError:
        answer = {"error": "asks for more memory than a checkpoint of its size needs"}
    part = folder / "part.json"
    part.write_text(json.dumps(answer), encoding="utf-8")
    part.rename(folder / "answer.json")


def _limit(size: int) -> None:
    """Bound this process by the file's size: memory (bytes), processor time (s), size of each written file."""
    import resource

    for what, bound in (
        (resource.RLIMIT_DATA, MEMORY_FLOOR + MEMORY_PER_BYTE * size),
        (resource.RLIMIT_CPU, CPU_SECONDS + size // CPU_BYTES_PER_SECOND),
        (resource.RLIMIT_FSIZE, (1 << 30) + MAX_GROWTH * size),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(what, (bound, bound))


def _load(path: Path) -> Any:
    """The object in a zip archive of torch.save, tensors and plain values only."""
    _check_archive(path)
    import torch

    allowed: list[Any] = [argparse.Namespace, *((dict, name) for name in ATTRIBUTE_DICTS)]
    with torch.serialization.safe_globals(allowed):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as e:  # pickle, zip and torch each raise their own
            if "allocate memory" in str(e):
                raise MemoryError from e
            _refuse_by_name(path, e)


def _check_archive(path: Path) -> None:
    """Refuse compressed records, and records larger than the file: torch.save writes neither."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, EOFError) as e:
        raise _RefusedError(f"is damaged or cut short ({e}); fetch it again") from e
    if any(m.compress_type != zipfile.ZIP_STORED for m in members):
        raise _RefusedError("holds packed records, which torch.save does not write")
    if sum(m.file_size for m in members) > path.stat().st_size:
        raise _RefusedError("claims to hold more bytes than the file has")
    if not any(m.filename.endswith("/data.pkl") for m in members):
        raise _RefusedError("is a zip archive, but not one of torch.save")


def _refuse_by_name(path: Path, error: Exception) -> NoReturn:
    """Say which global a refused pickle asked for; names come from the file and are shown as plain ASCII."""
    import torch

    try:
        unsafe = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # not even its instructions can be listed
        unsafe = []
    if unsafe:
        raise _RefusedError(
            f"asks for {ascii(unsafe[0])[1:-1][:100]}; geomap reads tensors and plain containers only. Where you trust"
            " the file, save its tensors alone: torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW)"
        ) from error
    reason = ascii(" ".join(str(error).split()).split("WeightsUnpickler error: ")[-1])[1:-1]
    raise _RefusedError(f"is damaged or not written by torch.save ({type(error).__name__}: {reason[:120]})") from error


def _flatten(root: Any, size: int) -> Iterator[tuple[str, Tensor]]:
    """(joined name, tensor) of every tensor in nested dicts and lists.

    A pickle can nest a container in itself, or share one so often that its tree is endless. So depth is limited, and
    the number of values to what a file of `size` bytes can hold.
    """
    import torch

    waiting: list[tuple[tuple[str, ...], Any]] = [((), root)]
    seen = 0
    while waiting:
        name, value = waiting.pop()
        seen += 1
        if len(name) > MAX_DEPTH or seen > size:
            raise _RefusedError("holds containers within themselves, or more values than a file of its size can hold")
        if isinstance(value, torch.Tensor):
            yield ".".join(name), value
        elif isinstance(value, dict):
            waiting += [((*name, str(k)), v) for k, v in reversed(value.items())]
        elif isinstance(value, list | tuple):
            waiting += [((*name, str(i)), v) for i, v in reversed(list(enumerate(value)))]


def _write_parts(tensors: Iterator[tuple[str, Tensor]], folder: Path, size: int) -> dict[str, Any]:
    """Write tensors to safetensors files whose keys are positions in a list; returns the names and number of files."""
    import torch
    from safetensors.torch import save_file

    names: dict[str, None] = {}  # ordered, with fast look-up
    part: dict[str, Tensor] = {}
    parts, total, held = 0, 0, 0  # bytes so far, and in this part

    def close() -> None:
        nonlocal parts, held
        save_file(part, folder / f"{parts}.safetensors")
        parts, held = parts + 1, 0
        part.clear()

    for name, tensor in tensors:
        if tensor.device.type != "cpu" or tensor.layout != torch.strided or tensor.is_quantized:
            raise _RefusedError(f"holds {name!a}, which is not a plain tensor")
        if name in names:
            raise _RefusedError(f"holds two tensors called {name!a}")
        total += tensor.nbytes
        if total > MAX_GROWTH * size:
            raise _RefusedError("claims tensors larger than the file can hold")
        if part and (held + tensor.nbytes > PART_BYTES or len(part) >= PART_TENSORS):
            close()
        part[str(len(names))] = tensor.detach().clone(memory_format=torch.contiguous_format)
        names[name] = None
        held += tensor.nbytes
    if part:
        close()
    return {"names": list(names), "parts": parts}


if __name__ == "__main__":
    _limit(Path(sys.argv[1]).stat().st_size)
    _main(Path(sys.argv[1]), Path(sys.argv[2]))
