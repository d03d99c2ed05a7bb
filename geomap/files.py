"""Writes a run's files whole or not at all, and lists them with their sha256 when it is complete.

A file is first written beside its place under a temporary name, `.<name>.part`, flushed to the disk, and then renamed.
Whatever stops the program, no half-written file has a final name; `SHA256SUMS`, written last, marks a finished run.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

from rich.filesize import decimal

from geomap.errors import BusyError, DiskFullError, OutputError
from geomap.paths import real

SUMS: Final = "SHA256SUMS"
"""The list of a finished run's files, in the format of sha256sum (GNU coreutils)."""
RUN: Final = "run.json"
"""The record of a run."""
PAGE: Final = "index.html"
"""The report page of a run."""
STATE: Final = "tiles"
"""The directory of the state from which a run resumes; not part of the result."""

BEFORE: Final = f"{STATE}/{SUMS}.before"
"""While a run is not finished: the files that it or an earlier run of the directory may have put there."""

ADDED: Final = ".added.part"
"""The folder of files that are being added to a finished run: complete once SHA256SUMS, written last, is in it."""

RECORDS: Final = "composites_from"
"""The folder that records what stored composites were made from: a file for each tile."""

LOCK_FILE: Final = "lock"
"""The file by which a run holds a folder: see `hold`."""

LOCK_S: Final = 0.25
"""Seconds to wait for a lock: `geomap status` holds that of a run for a moment."""

_LINE: Final = re.compile(r"([0-9a-f]{64}) [ *](.+)")
_PROBE: Final = 1 << 20
"""Bytes written to find out why a library could not write: more than its buffers hold (64 KiB in libtiff)."""

MAX_DEPTH: Final = 64
"""Most levels of JSON from elsewhere: a STAC item has about ten."""

_MAX_DIGITS: Final = 400
"""Most digits of a whole number that is kept as it is; a float has at most 309."""

_NESTS: Final = frozenset({dict, list})

log = logging.getLogger(__name__)


def temporary(path: Path, step: str = "") -> Path:
    """Where a file lies until it is complete: `.<name>.part`, or `.<name>.<step>.part`, in the same directory."""
    return path.with_name(f".{path.name}.{step}.part" if step else f".{path.name}.part")


def parts(path: Path) -> Path:
    """The folder of what is finished of a file until it is complete, `.<name>.parts` beside it: see `hold`."""
    return path.with_name(f".{path.name}.parts")


def clean_temporary(directory: Path) -> None:
    """Remove what an interrupted run left under temporary names, GDAL's `.<name>.part.ovr.tmp` included.

    Files that were written whole to be added are moved to their place instead: some may be there already.
    """
    finish_added(directory)
    with disk_errors(directory):
        for path in (*directory.rglob(".*.part"), *directory.rglob(".*.part.*")):
            log.info("removing %s, left by an interrupted run", path)
            remove(path)


def remove(path: Path) -> None:
    """Remove a file, a link (never what it points to) or a folder, which loses its name first. Raises OSError.

    So a folder that is half removed when the program is killed has a temporary name, which `clean_temporary` knows.
    """
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
        return
    going = path if path.name.endswith(".part") else temporary(path, "old")
    if going != path:
        remove(going)
        os.replace(path, going)
    shutil.rmtree(going)


def links(directory: Path) -> Iterator[Path]:
    """The symbolic links in a directory and below it; none is followed. Raises OSError."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_symlink():
                yield Path(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                yield from links(Path(entry.path))


def flush(path: Path) -> None:
    """Flush a file or directory to the disk, so that it survives a power cut. Raises OSError."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def commit(part: Path, path: Path) -> None:
    """Give the complete file `part` its final name; both survive a power cut from here on. Raises OSError."""
    flush(part)
    os.replace(part, path)
    flush(path.parent)


def write_all(contents: Mapping[str, bytes], directory: Path) -> None:
    """Write files by name into a directory, as write_bytes does."""
    for name, content in contents.items():
        write_bytes(directory / name, content)


def write_bytes(path: Path, data: bytes, private: bool = False) -> None:
    """Write a file whole or not at all; missing directories are made. Raises DiskFullError, OutputError.

    A `private` file can be read by its owner alone, from its first byte on.
    """
    write_together({path.name: data}, path.parent, private)


def write_together(contents: Mapping[str, bytes], directory: Path, private: bool = False) -> None:
    """Write files as write_bytes does, all of them whole before the first takes its place, in their order."""
    parts = {directory / name: temporary(directory / name) for name in contents}
    with disk_errors(directory, sum(map(len, contents.values()))):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for part, data in zip(parts.values(), contents.values(), strict=True):
                part.unlink(missing_ok=True)
                with open(part, "xb", opener=_private if private else None) as f:  # x: never through a link put there
                    f.write(data)
            for path, part in parts.items():
                commit(part, path)
        finally:
            for part in parts.values():
                part.unlink(missing_ok=True)


def _private(name: str, flags: int) -> int:
    """Open a new file of mode 0600, whatever the umask."""
    fd = os.open(name, flags, 0o600)
    os.fchmod(fd, 0o600)
    return fd


def write_json(path: Path, value: Any, private: bool = False) -> None:
    """Write `json_bytes`. Raises ValueError for NaN; as write_bytes."""
    write_bytes(path, json_bytes(value), private)


def json_bytes(value: Any) -> bytes:
    """JSON whose bytes depend on `value` alone: sorted keys, UTF-8. Raises ValueError for NaN."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    # ^ a lone surrogate, from a file name that is not UTF-8, becomes the JSON escape \udcXX
    return text.encode("utf-8", "backslashreplace") + b"\n"


@contextmanager
def disk_errors(directory: Path, needed: int = 0) -> Iterator[None]:
    """Raise DiskFullError for a full disk, OutputError for a place that cannot be written; `needed` in bytes."""
    try:
        yield
    except OSError as e:
        if e.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(directory, needed) from e
        reason = f"{directory}: {e.strerror or e}"
        raise OutputError(f"cannot write to {reason}; make it writable or choose another output directory") from e


def lock(fd: int, directory: Path, doing: str) -> None:
    """Lock an open file of a directory, or beside a file, until it is closed. `doing`: what another run does there.

    Raises BusyError if another one holds it, OutputError if the disk has no locks.
    """
    end = time.monotonic() + LOCK_S
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                raise BusyError(f"another run is {doing} {directory}; wait for it or choose another --out") from None
            time.sleep(0.02)
        except OSError as e:
            raise OutputError(f"the disk of {directory} cannot lock files ({e.strerror}); choose another --out") from e


@contextmanager
def hold(folder: Path, out: Path, doing: str) -> Iterator[None]:
    """Hold the folder of what is not yet finished of `out`, so that one run at a time works there; it is made.

    At the end the folder is removed if nothing was left in it. `doing`: what another run that holds it does to, or in,
    `out`. Raises BusyError, OutputError, DiskFullError.
    """
    fd = _held(folder, out, doing)
    try:
        yield
    finally:
        with suppress(OSError):
            if os.listdir(folder) == [LOCK_FILE]:
                (folder / LOCK_FILE).unlink()
                folder.rmdir()
        os.close(fd)  # releases the lock


def _held(folder: Path, out: Path, doing: str) -> int:
    """The locked file of a folder; again if another run, as it ended, removed either before it was locked."""
    path = folder / LOCK_FILE
    while True:
        with disk_errors(folder.parent):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                folder.mkdir()
            try:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            except FileNotFoundError:
                if folder.is_symlink():  # to nothing
                    raise
                continue
        try:
            lock(fd, out, doing)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), path.stat()):
                    return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def require_space(directory: Path, needed: int) -> None:
    """Raise DiskFullError unless the disk that holds (or will hold) `directory` has `needed` bytes free."""
    if _free(directory) < needed:
        raise _full(directory, needed)


def probe(directory: Path, needed: int) -> None:
    """Find out why a library failed to write: raises DiskFullError or OutputError; returns if the disk is fine."""
    part = temporary(directory / "probe")
    with disk_errors(directory, needed):
        try:
            part.unlink(missing_ok=True)
            with part.open("xb") as f:
                f.write(bytes(_PROBE))
            flush(part)
        finally:
            part.unlink(missing_ok=True)
    require_space(directory, needed)


def sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def digests(directory: Path) -> dict[str, str]:
    """By name, the sha256 of every file of a run: all but hidden files and the state in `tiles/`.

    Raises OutputError, DiskFullError.
    """
    with disk_errors(directory):
        names = _listed(directory)
        for name in names:
            if not _inside(directory, name) or re.search(r"[\\\n\r]", name):
                raise OutputError(f"{directory} holds {name!r}, which is not part of a run; move it elsewhere")
        return {name: sha256(directory / name) for name in names}


def write_sums(directory: Path, known: Mapping[str, str] | None = None) -> None:
    """List every file of the run in SHA256SUMS, which marks the run as finished: call it last.

    `known`: their sha256, where they have been computed. Raises OutputError, DiskFullError.
    """
    sums = digests(directory) if known is None else known
    write_bytes(directory / SUMS, _lines(sums))


def seal(sums: Mapping[str, str]) -> str:
    """One sha256 over the names and sha256 of files: it changes if a line of a list is lost, added or changed."""
    return hashlib.sha256(_lines(sums)).hexdigest()


def _lines(sums: Mapping[str, str]) -> bytes:
    """The content of SHA256SUMS."""
    return "".join(f"{sums[name]}  {name}\n" for name in sorted(sums)).encode()


def publish(staging: Path, directory: Path) -> None:
    """Move a finished run's files, SHA256SUMS last, from a staging directory to `directory` on the same disk.

    Files of an earlier run that this one does not have are removed, and their folders if these are empty then. Raises
    OutputError, DiskFullError.
    """
    with disk_errors(directory):
        names = _listed(staging)
        before = _lines_of(directory / (SUMS if (directory / SUMS).is_file() else BEFORE))
        write_bytes(directory / BEFORE, _lines({**before, **_lines_of(staging / SUMS)}))
        (directory / SUMS).unlink(missing_ok=True)  # until the new list is there, this is no finished run
        for name in before.keys() - set(names):
            if _inside(directory, name):
                _remove_with_folders(directory, name)
        folders = {(directory / name).parent for name in names}
        for folder in sorted(folders):
            _real(directory, folder)
            folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            os.replace(staging / name, directory / name)
        for folder in folders:
            flush(folder)
        commit(staging / SUMS, directory / SUMS)
        (directory / BEFORE).unlink(missing_ok=True)


def add(directory: Path, contents: Mapping[str, bytes], sums: Mapping[str, str]) -> None:
    """Put files into a finished run, all or none, whenever the program is killed: see `finish_added`.

    `sums`: the sha256 of every file of the run from then on, by name. Raises OutputError, DiskFullError.
    """
    with disk_errors(directory):
        remove(directory / ADDED)
    for name, content in (*contents.items(), (SUMS, _lines(sums))):
        write_bytes(directory / ADDED / name, content)
    finish_added(directory)


def finish_added(directory: Path) -> None:
    """Move to their place the files that a killed program had written whole to be added; drop those that it had not.

    Raises OutputError, DiskFullError.
    """
    staged = directory / ADDED
    with disk_errors(directory):
        if (staged / SUMS).is_file() and not staged.is_symlink():
            for path in sorted(staged.iterdir()):
                if path.name != SUMS:
                    os.replace(path, directory / path.name)
            flush(directory)
            commit(staged / SUMS, directory / SUMS)
        remove(staged)


def unmark(directory: Path) -> None:
    """Make a finished run unfinished: `publish` then finds its list in the state. Raises OutputError, DiskFullError."""
    with disk_errors(directory):
        os.replace(directory / SUMS, directory / BEFORE)


def _lines_of(path: Path) -> dict[str, str]:
    """By name, the sha256 in a list such as SHA256SUMS, without broken lines; empty without a list. Raises OSError."""
    return {name: digest for name, digest in _read_sums(path) if digest} if path.is_file() else {}


def _remove_with_folders(directory: Path, name: str) -> None:
    """Remove a file of a run, and the folders above it that are then empty. Raises OSError."""
    (directory / name).unlink(missing_ok=True)
    for folder in PurePosixPath(name).parents[:-1]:
        try:
            (directory / folder).rmdir()
        except OSError:  # not empty, or gone
            return


def _real(directory: Path, folder: Path) -> None:
    """Raise OutputError if a folder of the run, or one above it inside the run, is a link: files would go elsewhere."""
    for path in (folder, *folder.parents):
        if path == directory:
            return
        if path.is_symlink():
            raise OutputError(f"{path} is a link, and the run writes there; remove the link or choose another --out")


def sums(directory: Path) -> dict[str, str]:
    """By name, the sha256 that SHA256SUMS lists; a broken line is a name without one. Empty without a list."""
    return dict(_sums(directory)) if (directory / SUMS).is_file() else {}


def sums_before(directory: Path) -> dict[str, str]:
    """By name, the sha256 of the files of a run that was finished and is not now: damaged, or half replaced."""
    return _lines_of(directory / BEFORE)


def unfinished(directory: Path) -> str:
    """What to say of the directory of a run that was stopped, and what to type."""
    return f"{directory} is not finished; type the run's command again, which resumes it"


def lacks(directory: Path, what: str) -> str:
    """What to say of a directory without something that finished runs have, and what to type."""
    if (directory / STATE).is_dir() and not (directory / SUMS).is_file():
        return unfinished(directory)
    return f"{directory} holds no {what}; type the directory given to --out"


def listed_sums(directory: Path, folder: str) -> dict[str, str]:
    """By name, the sha256 that SHA256SUMS lists for the files in a folder; empty if there is no list."""
    if not (directory / SUMS).is_file():
        return {}
    return {name: digest for name, digest in _sums(directory) if name.startswith(f"{folder}/")}


def _sums(directory: Path) -> Iterator[tuple[str, str]]:
    """(name, sha256) of each line of SHA256SUMS; a broken line yields a file that cannot match."""
    return _read_sums(directory / SUMS)


def _read_sums(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1):
        match = _LINE.fullmatch(line)
        yield (match[2], match[1]) if match else (f"line {number}", "")


def problem(directory: Path, name: str, digest: str) -> list[str]:
    """What is wrong with a listed file: a line, or none."""
    path = directory / name
    if not digest:
        return [f"{SUMS}: {name} is not a sha256 and a name"]
    if not _inside(directory, name):
        return [f"{name}: outside the directory, not read"]
    if not path.is_file():
        return [f"{name}: missing"]
    try:
        return [] if sha256(path) == digest else [f"{name}: changed"]
    except OSError as e:
        return [f"{name}: cannot be read: {e.strerror}"]


def _listed(directory: Path) -> list[str]:
    """Relative POSIX paths of a run's files, sorted."""
    paths = (p.relative_to(directory) for p in directory.rglob("*") if p.is_file() or p.is_symlink())
    kept = (p for p in paths if p.parts[0] not in (STATE, SUMS) and not any(part.startswith(".") for part in p.parts))
    return sorted(p.as_posix() for p in kept)


def present(directory: Path) -> list[str]:
    """Names that `_listed` gives, and the hidden files in stores, where Zarr might read them."""
    hidden = (p for p in directory.glob("*.zarr/**/.*") if p.is_file() or p.is_symlink())
    return sorted({*_listed(directory), *(p.relative_to(directory).as_posix() for p in hidden)})


def _inside(directory: Path, name: str) -> bool:
    """Whether a listed name stays in the directory when links are followed."""
    if "\0" in name or PurePosixPath(name).is_absolute():
        return False
    return real(directory / name).is_relative_to(real(directory))


def _free(directory: Path) -> int:
    place = directory.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    return shutil.disk_usage(place).free


def _full(directory: Path, needed: int) -> DiskFullError:
    free = _free(directory)
    need = (
        f"up to {decimal(needed)} needed, {decimal(free)} free"
        if needed > free
        else f"{decimal(free)} free, or a quota is met"
    )
    return DiskFullError(f"no space left in {directory} ({need}); free space and run the same command again")


# --- JSON from elsewhere


def parse_json(content: bytes | str) -> Any:
    """JSON of at most MAX_DEPTH levels, as plain data. Raises ValueError, in a few words.

    A whole number of more digits than Python takes becomes infinite: it spoils what it stands in, not all the rest.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError(f"more than {MAX_DEPTH} levels") from None
    except json.JSONDecodeError:
        raise
    except UnicodeDecodeError:
        raise ValueError("not text in UTF-8") from None
    except ValueError:  # Python's limit on the digits of a number
        value = json.loads(content, parse_int=_whole)
    if _deeper(value, MAX_DEPTH):
        raise ValueError(f"more than {MAX_DEPTH} levels")
    return value


def read_json(path: Path, most: int) -> Any:
    """The JSON in a file of at most `most` bytes, as `parse_json` reads it. Raises OSError, ValueError."""
    with path.open("rb") as f:
        if os.fstat(f.fileno()).st_size > most:
            raise ValueError(f"more than {decimal(most)}")
        return parse_json(f.read())  # not read(most), which would make room for all of it


def _whole(digits: str) -> int | float:
    return int(digits) if len(digits) < _MAX_DIGITS else math.copysign(math.inf, -(digits[0] == "-") or 1)


def _deeper(value: Any, most: int) -> bool:
    """Whether lists and objects lie deeper in each other than `most` levels."""
    level = [value] if type(value) in _NESTS else []
    for _ in range(most):
        level = [v for outer in level for v in (outer.values() if type(outer) is dict else outer) if type(v) in _NESTS]
        if not level:
            return False
    return True
