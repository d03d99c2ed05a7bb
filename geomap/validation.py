"""One clear line from pydantic's findings, for every file that users write: legends, cards, training configurations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """What to mend first: the key ("classes.2.colour" is the second class's) and what it must be.

    An unknown key comes before all else, since a misspelt key also leaves the right one missing.
    """
    problems = error.errors()
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where = problem["loc"]
    key = ".".join(str(part + 1) if isinstance(part, int) else part for part in where)
    what = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        what = f"unknown key; the keys here are {', '.join(_table_at(model, where[:-1]).model_fields)}"
    return f"{key}: {what}" if key else what


def _table_at(model: type[BaseModel], where: Sequence[int | str]) -> type[BaseModel]:
    """The model that holds the keys at a place."""
    for part in where:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The first model inside an annotation such as tuple[LegendClass, ...]."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
