"""Makes `import geomap` light: attributes load on first use, and two stage folders can be called."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import inspect

HOMES: Final = {
    "Area": "geomap.aoi",
    "Legend": "geomap.legends",
    "Period": "geomap.types",
    "Request": "geomap.run.request",
    "embed": "geomap.api",
    "load_weights": "geomap.api",
    "map_area": "geomap.api",
    "open_store": "geomap.api",
    "search": "geomap.api",
}
"""Names that `geomap` offers -> the modules that define them."""

STAGES: Final = ("composite", "label")
"""Names of both an API function and a stage folder: the folder can be called."""


class CallablePackage(ModuleType):
    """A package that forwards a call to the function of the same name in geomap.api."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._function(*args, **options)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return import_module, (self.__name__,)  # by its name, as functions are pickled

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]  # so `help` tells of the function, above the files
        doc: str | None = self._function.__doc__
        return doc

    @property
    def __signature__(self) -> inspect.Signature:
        import inspect  # takes as long to load as all else that `import geomap` loads

        return inspect.signature(self._function)

    @property
    def _function(self) -> Any:
        return getattr(import_module("geomap.api"), self.__name__.rpartition(".")[2])


def callable_package(name: str) -> None:
    """Let an imported package be called. Python sets `geomap.composite` to the folder as soon as a file of it loads."""
    sys.modules[name].__class__ = CallablePackage


def lookup(name: str) -> Any:
    """The attribute of `geomap` of that name, loaded on first use. Raises AttributeError."""
    if name in STAGES:
        return import_module(f"geomap.{name}")
    if name not in HOMES:
        raise AttributeError(f"module 'geomap' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)
