"""Packages that training and evaluation need and mapping does not."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from geomap.errors import DataError, InputError, install_hint
from geomap.text import one_line

PACKAGES: Final = {"sklearn": "scikit-learn"}
"""Name of the package to install, where it differs from the module's name."""


def require_packages(what: str, *modules: str) -> None:
    """Raises InputError, which says what to type, if a module is missing. `what` names the task in the message."""
    missing = [PACKAGES.get(name, name) for name in modules if find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {' and '.join(missing)}; type: {install_hint(*missing)}")


@contextmanager
def csv_errors(path: Path) -> Iterator[None]:
    """Raise DataError, which says what to do, where a CSV file is in another encoding than UTF-8, or is none."""
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as e:
        raise DataError(f"{path} is no table that can be read: {one_line(e)}; save it as CSV UTF-8") from e
