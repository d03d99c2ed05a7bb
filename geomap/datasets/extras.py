"""Packages that training and evaluation need and mapping does not."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from geomap.errors import InputError, install_hint

PACKAGES: Final = {"sklearn": "scikit-learn"}
"""Name of the package to install, where it differs from the module's name."""


def require_packages(what: str, *modules: str) -> None:
    """Raises InputError, which says what to type, if a module is missing. `what` names the task in the message."""
    missing = [PACKAGES.get(name, name) for name in modules if find_spec(name) is None]
    if missing:
        raise InputError(f"{what} needs {' and '.join(missing)}; type: {install_hint(*missing)}")
