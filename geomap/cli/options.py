"""Options of commands: those declared by a request's keys, and those that several commands share."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from geomap import config
from geomap.errors import InputError
from geomap.run.keys import NO_PERIOD, Declared, RequestKeys, declared, require_points, separated
from geomap.types import Period

if TYPE_CHECKING:
    from geomap.points.read import PointFiles

AreaText = Annotated[
    str,
    typer.Argument(
        metavar="AOI",
        help='"minx,miny,maxx,maxy" in degrees (longitude first), WKT, or a .geojson, .gpkg, .shp or .parquet file.',
    ),
]
MaybeArea = Annotated[str | None, *AreaText.__metadata__]
RetryQuarantined = Annotated[bool, typer.Option("--retry-quarantined", help="Try again the tiles that failed twice.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, and nothing else there.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what each stage decides.")]

FLAGS = {d.key: d.option.flag for d in declared()}
"""Keys of a request -> their options."""


def asking(*keys: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these keys and tables, or of all, in place of its parameter `keys`.

    The command gets the typed values in `keys`, checked and with the declared defaults.
    """
    chosen = [d for d in declared() if not keys or any(d.key == k or d.key.startswith(f"{k}.") for k in keys)]
    names = {d.option.flag.removeprefix("--").replace("-", "_"): d for d in chosen}

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = [_CONTEXT]
        for name, own in inspect.signature(command, eval_str=True).parameters.items():
            made = (_parameter(n, d) for n, d in names.items())
            parameters += made if name == "keys" else (own.replace(kind=_BY_NAME),)

        @functools.wraps(command)
        def wrapper(context: typer.Context, **values: Any) -> None:
            given = {d.key: _value(d, values[name]) for name, d in names.items() if _is_typed(context, name)}
            own = {name: value for name, value in values.items() if name not in names}
            command(keys=keys_of(given), **own)

        wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        wrapper.__annotations__ = {p.name: p.annotation for p in parameters}
        return wrapper

    return decorate


def keys_of(values: dict[str, Any]) -> RequestKeys:
    """Checked keys from values by dotted key. Raises InputError that names options."""
    tables: dict[str, Any] = {}
    for key, value in values.items():
        table, _, name = key.rpartition(".")
        (tables.setdefault(table, {}) if table else tables)[name] = value
    try:
        return RequestKeys.model_validate(tables)
    except ValidationError as e:
        raise InputError("; ".join(map(as_option, config.problems(e, RequestKeys)))) from e


def period_of(keys: RequestKeys) -> Period:
    """The months that --year, or --start and --months, name. Raises InputError if none is given."""
    if keys.period is None:
        raise InputError(NO_PERIOD)
    return keys.period.period


def checked_points(keys: RequestKeys) -> PointFiles | None:
    """The labelled points that were named, read once so that a bad file is told before torch is loaded.

    Raises InputError.
    """
    asked = keys.points
    try:
        require_points(asked.file, asked.column, asked.learned)
    except ValueError as e:
        raise InputError(str(e)) from e
    if not asked.file or asked.column is None:
        return None
    from geomap.points.read import PointFiles, read_files

    source = PointFiles(asked.file, asked.column, asked.crs, asked.date_column)
    read_files(source)
    return source


def as_option(problem: str) -> str:
    """Reword a problem of a key, "catalogue.max_cloud: must be ...", for its option; of a table, without its name."""
    key, _, what = problem.partition(": ")
    known = re.sub(r"\.\d+$", "", key)
    if known in FLAGS:
        return f"{FLAGS[known]}: {what}"
    return what if known in RequestKeys.model_fields else problem


@contextmanager
def in_options() -> Iterator[None]:
    """Reword errors that begin with the name of a key, so that they name the option."""
    try:
        yield
    except InputError as e:
        e.args = (as_option(str(e)),)
        raise


def typed_options(keys: BaseModel, prefix: str = "") -> Iterator[str]:
    """The options that were typed."""
    for name in sorted(keys.model_fields_set):
        value = getattr(keys, name)
        if isinstance(value, BaseModel):
            yield from typed_options(value, f"{prefix}{name}.")
        elif (key := prefix + name) in FLAGS:
            yield FLAGS[key]


_BY_NAME = inspect.Parameter.KEYWORD_ONLY
_CONTEXT = inspect.Parameter("context", _BY_NAME, annotation=typer.Context)


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _value(d: Declared, value: Any) -> Any:
    """A typed value in the form that the key takes. Raises InputError."""
    if d.field.default is True:  # a flag that takes away
        return not value
    if not d.option.separated:
        return value
    parts = separated(value)
    if _item(d.field) is not int:
        return parts
    try:
        return [int(part) for part in parts]
    except ValueError as e:
        example = ",".join(map(str, d.field.default))
        raise InputError(f"cannot read {d.option.flag} {value!r}; write numbers, for example {example}") from e


def _parameter(name: str, d: Declared) -> inspect.Parameter:
    """The parameter of a command for a key: typer makes the option and its help from it."""
    field = _present(d.field)
    default: Any = d.field.default
    kind: Any = field.annotation
    if default is True:  # a flag that takes away
        default = False
    if get_origin(kind) is tuple:
        kind, default = (str, ",".join(map(str, default)) or None) if d.option.separated else (list[str], None)
    limits = {"min": _limit(field, "ge"), "max": _limit(field, "le")} if kind in (int, float) else {}
    made = typer.Option(d.option.flag, metavar=d.option.metavar, help=d.option.help, **limits)
    annotation = kind | None if default is None and get_origin(kind) is not Literal else kind
    return inspect.Parameter(name, _BY_NAME, default=default, annotation=Annotated[annotation, made])


def _present(field: FieldInfo) -> FieldInfo:
    """A field of type `X | None` as one of type X."""
    found = [a for a in get_args(field.annotation) if a is not type(None)]
    optional = len(found) < len(get_args(field.annotation))
    return FieldInfo.from_annotation(found[0]) if optional else field


def _item(field: FieldInfo) -> Any:
    return FieldInfo.from_annotation(get_args(field.annotation)[0]).annotation


def _limit(field: FieldInfo, name: str) -> Any:
    """The bound `ge` or `le` of a key, where it has one."""
    return next((getattr(m, name) for m in field.metadata if hasattr(m, name)), None)
