"""Errors that geomap raises on purpose: one base, one class per cause, each with an exit code.

A message is one line that says what is wrong, where, and what to type instead. Any other exception is a bug.
"""

import shlex
import sys
from typing import ClassVar, Literal


def install_hint(*packages: str) -> str:
    """The command that installs packages for this Python, whichever `pip` comes first on the PATH."""
    return f"{shlex.quote(sys.executable)} -m pip install {' '.join(packages)}"


def to_type(*words: object) -> str:
    """The command of geomap that a message tells to type: each word, such as a path, quoted for the shell."""
    return shlex.join(["geomap", *map(str, words)])


class GeomapError(Exception):
    """Base of every error raised on purpose."""

    exit_code: ClassVar[int] = 1


class InputError(GeomapError):
    """The request cannot be met as typed (exit code 2)."""

    exit_code = 2


class AoiError(InputError):
    """The area of interest cannot be read, is empty, crosses itself, or is too large."""


class LegendError(InputError):
    """An unknown legend, or a legend file that breaks the format."""


class WeightsError(InputError):
    """Weights are missing, changed, or do not fit the request."""


class ConfigError(InputError):
    """A configuration file with an unknown key or a value out of range."""


class DataError(InputError):
    """A file of labelled series, labels or photos is damaged, or breaks its layout."""


class PeriodError(InputError, ValueError):
    """Months that are no period: a month beyond 1..12, or more than twelve of them."""


class NoScenesError(InputError):
    """The catalogue has no scene for this area and period."""


class OffsetError(InputError):
    """A scene's metadata do not say whether its pixels carry the radiometric offset, or its pixels contradict them."""


class HrefError(InputError):
    """An asset address that geomap refuses to open."""


class OutputError(InputError):
    """The output directory belongs to another request or cannot be used."""


class ReadError(GeomapError):
    """Pixels of scenes cannot be read: access is denied, or more scenes are missing than allowed."""


class DamagedError(ReadError):
    """A scene file is missing, truncated, corrupt, or not what its item says; the scene is left out."""

    def __init__(
        self, message: str, cause: Literal["missing", "damaged", "contradiction"] = "damaged", detail: str = ""
    ) -> None:
        super().__init__(message)
        self.cause: Literal["missing", "damaged", "contradiction"] = cause
        self.detail = detail  # a few words, without the address


class NetworkError(GeomapError):
    """A certificate or a proxy lets nothing through; only another setting helps, not another try."""


class WorkerLostError(GeomapError):
    """Workers die on a tile, from too little memory or a crash in a library."""


class UpdateError(InputError):
    """The earlier run cannot be used for this update."""


class QuarantineError(GeomapError):
    """The maps are complete except for tiles that failed twice (exit code 3)."""

    exit_code = 3


class NothingMappedError(GeomapError):
    """The maps are written, but hold no mapped pixel (exit code 3)."""

    exit_code = 3


class TemporaryError(GeomapError):
    """Trying again later may help (exit code 75, EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


class BusyError(TemporaryError):
    """Another run holds the output directory."""


class RenewedError(TemporaryError):
    """A finished run was made anew while it was read."""


class CatalogUnavailableError(TemporaryError):
    """The catalogue does not answer, or answers with a server error."""


class SourceUnavailableError(TemporaryError):
    """The pixel server still refuses or times out after the retries."""


class ClusterError(TemporaryError):
    """The dask scheduler or its workers cannot be reached, or do not fit this version."""


class DiskFullError(TemporaryError):
    """No space left to write the output."""
