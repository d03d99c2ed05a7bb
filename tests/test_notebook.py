"""The notebook of docs/ runs as it is, in a real kernel, and its maps are those of the command line."""

from pathlib import Path

import nbformat
import numpy as np
import pytest
import rasterio
from nbclient import NotebookClient

from tests.support import REPOSITORY
from tests.support.runner import geomap

NOTEBOOK = REPOSITORY / "docs/quickstart.ipynb"


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the notebook ran, and what its cells printed."""
    folder = tmp_path_factory.mktemp("notebook")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    assert not [o for o in outputs if o.get("name") == "stderr"]
    return folder / "quickstart", "".join(o.text for o in outputs if o.get("name") == "stdout")


def test_the_notebooks_maps_are_those_of_the_command_line(ran: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = ran
    with rasterio.open(folder / "scenes/truth_landcover.tif") as source:
        box = rasterio.warp.transform_bounds(source.crs, 4326, *source.bounds)
    area = ",".join(str(round(v, 7)) for v in box)
    done = geomap("map", area, "--year", "2023", "--stac", folder / "scenes/items.json", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    with rasterio.open(tmp_path / "out/landcover.tif") as mapped:
        expected = mapped.read(1)
    for path in (folder / "landcover.tif", folder / "run/landcover.tif"):
        with rasterio.open(path) as found:
            assert (found.crs, found.transform) == (mapped.crs, mapped.transform)
            np.testing.assert_array_equal(found.read(1), expected)


def test_the_notebook_says_what_it_found(ran: tuple[Path, str]) -> None:
    folder, printed = ran
    assert "49 scenes; 0 left out" in printed
    assert "labels from the store equal those above on 100.0% of the pixels" in printed
    assert (folder / "points.parquet").is_file()


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
