"""Paths as users type them: a file of that very name first, then `file:` addresses and `~`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final
from urllib.parse import unquote

_FILE_URL: Final = re.compile(r"file:(?://(?:localhost)?(?=/))?(.+)", re.IGNORECASE | re.DOTALL)

LONGEST_PATH: Final = 4096
"""Most characters of the path of a file, as on Linux."""
PARQUET: Final = (".parquet", ".geoparquet")
"""Ends of GeoParquet files."""


def own(text: str, folder: Path = Path()) -> Path:
    """The path that a user means by `text`, relative to `folder`; nothing needs to be there.

    A file whose name looks like an address, or begins with ~, is taken as it is.
    """
    plain = folder / text
    if there(plain):
        return plain
    if match := _FILE_URL.fullmatch(text):
        raw = folder / match[1]
        return raw if there(raw) else folder / unquote(match[1], errors="surrogateescape")
    if text.startswith("~") and folder == Path():  # not in a job file, which means the same on every machine
        return folder / os.path.expanduser(text)  # unlike Path's, no error where the home is not known
    return plain


def there(path: Path) -> bool:
    """Whether something lies at a path; False for names that no file can have, and for a loop of links."""
    try:
        return path.exists()
    except (OSError, ValueError, RuntimeError):
        return False


def real(path: Path) -> Path:
    """The absolute path without links; a loop of links stays as it is (`Path.resolve` raises RuntimeError for one)."""
    return Path(os.path.realpath(path))


def file_and_layer(source: str, folder: Path = Path()) -> tuple[Path, str | None]:
    """FILE, or FILE:LAYER, whose layer may hold colons too; the file may not exist."""
    whole = own(source, folder)
    for end in () if there(whole) else [i for i, c in enumerate(source[:LONGEST_PATH]) if c == ":"]:
        file = own(source[:end], folder)
        if there(file) and file.is_file():
            return file, source[end + 1 :]
    return whole, None
