"""Reads the YAML files that users write, as plain data of limited size, and words their errors.

Tags, repeated keys and aliases are refused. Nine lines of aliases can stand for gigabytes ("billion laughs"), and no
file of geomap needs one.
Nothing is interpolated: a file means the same on every machine, and secrets stay out of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from geomap.errors import ConfigError

MAX_BYTES: Final = 1_000_000
"""Enough for the outline of a country as text; a finer one belongs in an area file."""
MAX_NODES: Final = 10_000
MAX_DEPTH: Final = 20
LONGEST: Final = 500
"""Most characters of what is said of a value, which may be as long as the file."""
_WORDS: Final = {
    "must be a valid tuple": "must be a list: [one, two]",
    "String should have at least 1 character": "must not be empty",
}
MAX_PROBLEMS: Final = 20
"""Most problems of a file that are listed, one line each; the rest is counted."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, where PyYAML was built with it


class _Loader(_Base):  # type: ignore[misc]
    """PyYAML's safe loader, which otherwise lets the last of two equal keys win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.MarkedYAMLError(problem=f"the key {key!a} is there twice", problem_mark=node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(path: Path, what: str, example: str) -> dict[str, Any]:
    """The keys of a YAML file. `what` and `example` ("job file", "pipelines/a.yaml") go into messages.

    Raises:
        ConfigError: no such file, too large, not YAML, or not keys with values. The message quotes only keys of the
            file, since its values may be secrets.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"no {what} {path}; {example} is an example")
        with path.open("rb") as f:
            content = f.read(MAX_BYTES + 1)
    except OSError as e:
        raise ConfigError(f"cannot read the {what} {path}: {e.strerror}") from e
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_BYTES} bytes, which is no {what}")
    try:
        text = content.decode("utf-8-sig")
        _check(text)
        loaded = yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        quote = '; quote a value with braces: "maps/{period}"' if re.search(r"[^\s\"']\{", text) else ""
        raise ConfigError(f"{path}{line} is not valid YAML: {e.problem or e.context}{quote}") from e
    except (yaml.YAMLError, ValueError) as e:  # ValueError: not UTF-8, or a number or date that Python refuses
        cause = e if isinstance(e, yaml.YAMLError) else "a value is not text, number or date"
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(cause).split())}") from e
    if not isinstance(loaded, dict) or not all(isinstance(key, str) for key in loaded):
        raise ConfigError(f"{path}: the file must hold keys with values, as {example} does")
    return loaded


def _check(text: str) -> None:
    """Refuse text that could grow or nest without end: checked event by event, before anything is built."""
    depth = nodes = 0
    for event in yaml.parse(text, Loader=_Base):
        opens = isinstance(event, yaml.CollectionStartEvent)
        depth += opens - isinstance(event, yaml.CollectionEndEvent)
        nodes += isinstance(event, yaml.NodeEvent)
        problem = None
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            problem = "anchors and aliases (& and *) are not allowed; write the value out, or quote it"
        elif getattr(event, "tag", None):
            problem = "tags (!) are not allowed; quote the value if it is text"
        elif depth > MAX_DEPTH or nodes > MAX_NODES:
            problem = f"more than {MAX_DEPTH} levels or {MAX_NODES} values"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=cast(yaml.Mark, event.start_mark))


class Strict(BaseModel):
    """A table in a file that users write: no unknown keys, no NaN, and blanks around strings are cut off."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True, allow_inf_nan=False)


def refusal(where: object, error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with a file: one line, or a line with the number of problems and one line for each."""
    return listed(where, problems(error, model))


def listed(where: object, found: Sequence[str]) -> str:
    """Problems of a file as `refusal` writes them."""
    if len(found) == 1:
        return f"{where}: {found[0]}"
    shown = [f"    {line}" for line in found[:MAX_PROBLEMS]]
    more = [f"    and {len(found) - MAX_PROBLEMS} more"] if len(found) > MAX_PROBLEMS else []
    return "\n".join((f"{where}: {len(found)} problems", *shown, *more))


def problems(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """What to correct, one line each: the key ("classes.2.colour" is the second class's) and what it must be.

    Unknown keys come first. A key that is missing because it is misspelt is not reported again, nor is a list that
    is too short because an entry is wrong.
    """
    found = sorted(error.errors(), key=lambda p: p["type"] != "extra_forbidden")
    meant: set[tuple[int | str, ...]] = set()
    lines = []
    for problem in found:
        where = problem["loc"]
        if problem["type"] == "missing" and where in meant:
            continue
        if any(len(p["loc"]) > len(where) > 0 and p["loc"][: len(where)] == where for p in found):
            continue
        what = said(problem["msg"])
        if problem["type"] == "extra_forbidden":
            known = _table_at(model, where[:-1]).model_fields
            close = get_close_matches(str(where[-1]), known, 1)
            meant |= {(*where[:-1], *close)} if close else set()
            hint = f"did you mean {close[0]}? The" if close else "the"
            what = f"unknown key; {hint} keys here are {', '.join(known)}"
        if problem["type"].endswith("_type"):
            what += f", not {_given(problem['input'])}"
        if problem["type"] == "string_type" and isinstance(problem["input"], int | float | date):
            what += "; put it in quotes"
        key = ".".join(str(part + 1) if isinstance(part, int) else _printable(part) for part in where)
        lines.append(" ".join((f"{key}: {what}" if key else what).split()))
    return lines


def _given(value: object) -> str:
    """A value of a wrong type, for a message: a number as it is, all else by its type."""
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"


def _printable(key: str) -> str:
    return key if key.isprintable() else ascii(key)


def said(message: str) -> str:
    """A message of pydantic, in the words of geomap."""
    text = message.removeprefix("Value error, ").replace("Input should be", "must be", 1)
    for pydantic, ours in _WORDS.items():
        text = text.replace(pydantic, ours)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _table_at(model: type[BaseModel], where: Sequence[int | str]) -> type[BaseModel]:
    """The model of the keys at a place in the file."""
    for part in where:
        if isinstance(part, str) and part in model.model_fields:
            model = model_in(model.model_fields[part].annotation) or model
    return model


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model inside an annotation such as tuple[LegendClass, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := model_in(arg))), None)
