"""The rules of docs/architecture.md that code can break without failing: who imports whom, and how light."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY

PACKAGE = REPOSITORY / "geomap"
STAGES = ("catalog", "read", "composite", "encode", "label", "write", "store", "assess")
"""Folders of the stages: they import the vocabulary and `sources`, and nothing else of geomap."""
VOCABULARY = {
    "errors", "types", "sentinel2", "legends", "aoi", "grid", "lonlat", "files", "config", "rowwise", "process",
    "paths", "waypoints", "_door",
}  # fmt: skip
MODULES = sorted(
    p.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".") for p in PACKAGE.rglob("*.py")
)


def imported(path: Path) -> set[str]:
    """Second parts of `geomap.x` that a file imports anywhere, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("geomap.")}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "geomap":
            parts = node.module.split(".")
            names |= {parts[1]} if len(parts) > 1 else {a.name for a in node.names}
    return names


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_the_vocabulary_and_sources_and_nothing_else(stage):
    for path in (PACKAGE / stage).glob("*.py"):
        assert imported(path) <= VOCABULARY | {"sources", stage}, path


def test_sources_import_the_vocabulary_alone():
    for path in (PACKAGE / "sources").glob("*.py"):
        assert imported(path) <= VOCABULARY | {"sources"}, path


def test_the_vocabulary_imports_itself_alone():
    for name in VOCABULARY:
        if (path := PACKAGE / f"{name}.py").exists():
            assert imported(path) <= VOCABULARY, path


def test_nothing_below_imports_run_jobs_or_cli():
    above = {
        "run": {"run", "jobs", "cli", "demo", "api", "__init__"},
        "jobs": {"jobs", "cli"},
        "cli": {"cli", "__main__"},
    }
    for path in PACKAGE.rglob("*.py"):
        top = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for name, users in above.items():
            assert top in users or name not in imported(path), path


def test_labelled_series_are_a_floor_below_training_and_evaluation():
    above = {"simulate": {"datasets", "train", "evaluate"}, "datasets": {"train", "evaluate"}, "evaluate": {"train"}}
    for folder, forbidden in above.items():
        for path in (PACKAGE / folder).rglob("*.py"):
            assert not imported(path) & forbidden, path


def test_at_most_twenty_modules_lie_flat():
    assert len(list(PACKAGE.glob("*.py"))) <= 20


def test_types_import_errors_and_bands_alone_and_these_nothing():
    for name in ("types", "errors", "sentinel2"):
        assert imported(PACKAGE / f"{name}.py") <= ({"errors", "sentinel2"} if name == "types" else set())


def test_model_is_one_liftable_file():
    tree = ast.parse((PACKAGE / "encode/model.py").read_text())
    modules = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    modules |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {m.split(".")[0] for m in modules} == {"__future__", "dataclasses", "torch"}


@pytest.mark.parametrize("module", ["geomap", "geomap.cli", "geomap.types", "geomap.errors"])
def test_light_modules_stay_light(module):
    heavy = ["torch", "dask", "rasterio", "stackstac", "geopandas", "xarray"]
    code = f"import sys, {module}; print(*sorted(set(sys.modules) & set({heavy})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_every_module_imports():
    names = [m.removesuffix(".__init__") for m in MODULES if "build_" not in m]
    code = f"import importlib\nfor m in {names!r}: importlib.import_module(m)"
    subprocess.run([sys.executable, "-W", "error::SyntaxWarning", "-c", code], check=True)


def test_benchmarks_and_contributions_import_what_the_package_has():
    """Nothing else runs them, so a name that moved would be found by whoever wants to measure again."""
    missing = []
    for path in [*REPOSITORY.glob("benchmarks/*.py"), *REPOSITORY.glob("contrib/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "geomap":
                module = importlib.import_module(node.module)
                for name in (a.name for a in node.names if not hasattr(module, a.name)):
                    try:
                        importlib.import_module(f"{node.module}.{name}")
                    except ImportError:
                        missing.append(f"{path.name}: {node.module}.{name}")
    assert not missing


def test_only_the_command_line_prints():
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name != "cli":
            calls = (n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call))
            assert not any(isinstance(c.func, ast.Name) and c.func.id == "print" for c in calls), path


def documented() -> dict[str, str]:
    """Path -> description of every line below "## Layout" in docs/architecture.md."""
    block = (PACKAGE.parent / "docs/architecture.md").read_text().partition("## Layout")[2].split("\n\n")[1]
    found: dict[str, str] = {}
    folders: list[str] = []
    for line in block.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2 - 2
        name, _, text = line.strip().partition(" ")
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
            found["".join(folders)] = text.strip()
        else:
            found["".join(folders) + name] = text.strip()
    return found


def test_the_documented_layout_is_the_tree_and_what_its_files_say():
    """Every module by the first line of its docstring, every folder by that of its `__init__`."""
    said = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0].removesuffix(".")
        inner = path.parent.relative_to(PACKAGE.parent).as_posix() + "/"
        if path.name != "__init__.py":
            said[inner + path.name] = first
        else:
            said[inner] = first
    assert documented() == said
