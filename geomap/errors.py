"""Errors that geomap raises on purpose: one base, one class per cause, each with the exit code of the command line.

A message says what is wrong, where, and what to type instead, in one line. Anything else that escapes is a bug.
"""

from typing import ClassVar


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
    """Weights that are missing, altered, or do not fit the request."""


class ConfigError(InputError):
    """A configuration file with an unknown key or a value out of range."""


class NoScenesError(InputError):
    """The catalogue has no scene for this area and period."""


class OffsetError(InputError):
    """A scene's metadata do not tell whether its pixels carry the radiometric offset, or the pixels contradict them."""


class HrefError(InputError):
    """An asset address that geomap refuses to open."""


class OutputError(InputError):
    """The output directory belongs to another request or cannot be used."""


class ReadError(GeomapError):
    """A scene's pixels cannot be read: missing, truncated or corrupt."""


class TemporaryError(GeomapError):
    """Trying again later may help (exit code 75, EX_TEMPFAIL of sysexits.h)."""

    exit_code = 75


class BusyError(TemporaryError):
    """Another run holds the output directory."""


class CatalogUnavailableError(TemporaryError):
    """The catalogue does not answer, or answers with a server error."""


class SourceUnavailableError(TemporaryError):
    """The server that holds the pixels refuses or times out beyond the retries."""


class DiskFullError(TemporaryError):
    """No space left to write the output."""
