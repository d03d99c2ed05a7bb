"""Packages that training and evaluation need beside those of maps."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from geomap.errors import InputError, install_hint

PACKAGES: Final = {"sklearn": "scikit-learn"}
"""Name to install by, where a module has another."""


def require_packages(what: str, *modules: str) -> None:
    """Raises InputError, which says what to type, where a module is not installed. `what` needs them, for messages."""
    missing = [PACKAGES.get(name, name) for name in modules if find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {' and '.join(missing)}; type: {install_hint(*missing)}")
