"""Text for users: their names and values on one short line, numbers with what they count, errors of libraries."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from pathlib import PurePath
from typing import Final

SHOWN: Final = 12
"""Names in a message."""

LONGEST: Final = 80
"""Most characters of a user's text in a message."""


def shown(text: object) -> str:
    """Text of a user as one short line, with what does not print escaped; of a long path the end, which tells most."""
    plain = str(text).encode("utf-8", "backslashreplace").decode()
    plain = plain if plain.isprintable() else ascii(plain)[1:-1]
    if len(plain) <= LONGEST:
        return plain
    return f"...{plain[3 - LONGEST :]}" if isinstance(text, PurePath) else f"{plain[: LONGEST - 3]}..."


def plural(count: int, what: str) -> str:
    """A number and what it counts: 1 pixel, 2 pixels."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def listed(names: Iterable[Hashable], most: int = SHOWN) -> str:
    """Names of a user in a message: the first of them, and how many more there are."""
    found = [shown(name) for name in names]
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more if found else "none"


def plain(value: object) -> str:
    """A value of a table as text: 3 for 3.0, which is how a whole number looks beside an empty field."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def one_line(error: Exception) -> str:
    """What an error says, short and on one line."""
    return shown(" ".join(str(error).split()))
