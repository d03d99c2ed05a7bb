"""Maps made readable: smoothed without seams, small patches merged, polygons, more layers, areas."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from geomap import files, legends
from geomap.encode.weights import load_weights
from geomap.run.map import map_area
from geomap.run.relabel import LabelRequest, label_store
from geomap.types import Finish, Period
from tests.support.requests import request_for, tiles_of

LEGENDS = ("landcover", "crops", "scenicness")


@pytest.fixture(scope="module")
def mapped(archive, tmp_path_factory) -> Callable[..., Path]:
    """Runs over the patch by the default weights, two months, in tiles of so many pixels; each is made once."""
    home, made = tmp_path_factory.mktemp("readable"), {}
    stac = archive() / "items.json"

    def run(side: int, **asked: object) -> Path:
        key = repr((side, sorted(asked.items())))
        if key not in made:
            made[key] = home / str(len(made))
            with tiles_of(side):
                map_area(request_for(stac, "default", **({"legends": LEGENDS} | asked)), made[key])
        return made[key]

    return run


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as m:
        return m.read() if m.count > 1 else m.read(1)


@pytest.mark.parametrize("window", [5])
def test_a_smoothed_map_has_the_same_bytes_however_the_area_is_cut(mapped, window: int) -> None:
    finish = Finish(smooth=window, layers=("second", "margin", "probabilities"))
    whole, cut = mapped(1024, finish=finish), mapped(40, finish=finish)
    names = sorted(p.name for p in whole.glob("*.tif"))
    assert len(names) == 12
    for name in names:
        np.testing.assert_array_equal(pixels(whole / name), pixels(cut / name), err_msg=name)
    assert pixels(whole / "crops.tif").any()
    assert (pixels(whole / "landcover.tif") != pixels(mapped(1024) / "landcover.tif")).mean() > 0.01
