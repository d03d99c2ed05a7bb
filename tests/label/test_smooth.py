"""Means over windows against loops written out, and tiles mended to what one tile gives."""

from pathlib import Path

import numpy as np
import pytest
import torch

from geomap import legends
from geomap.label.classify import Question, TileLabels
from geomap.label.smooth import smooth_np
from geomap.run.directory import RunDirectory
from geomap.run.edges import mend
from geomap.run.tile_file import Finished, Task, pack
from geomap.types import Grid, Tile, silent

WITHIN = {"crops": ("landcover", 2), "scenicness": ("landcover", 2)}


def written_out(values: np.ndarray, size: int) -> np.ndarray:
    """Means over windows by loops, in float64."""
    means, r = np.full(values.shape, np.nan), size // 2
    for y, x in np.argwhere(~np.isnan(values[0])):
        part = values[:, max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1]
        means[:, y, x] = np.nanmean(part.reshape(len(values), -1), axis=1)
    return means


def holed(rng: np.random.Generator, classes: int, shape: tuple[int, int]) -> np.ndarray:
    """(K, y, x) random values with a quarter of the pixels missing."""
    values = rng.normal(size=(classes, *shape)).astype(np.float32)
    values[:, rng.random(shape) < 0.25] = np.nan
    return values


@pytest.mark.parametrize("size", [1, 3, 5, 15])
def test_means_leave_nodata_out(size: int) -> None:
    values = holed(np.random.default_rng(size), 3, (23, 17))
    np.testing.assert_allclose(smooth_np(values, size), written_out(values, size), atol=1e-5)


def test_mean_log_probabilities_decide_and_mean_logits_are_enough() -> None:
    """The class and the confidence of a window are those of the mean of log-softmax, computed in float64."""
    rng = np.random.default_rng(3)
    legend = legends.load("landcover")
    question = Question(
        legend, torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(8, 16))), dim=1).float(), 20
    )
    pixels = torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(12 * 9, 16))), dim=1).float()
    labels = TileLabels([question], (12, 9), 3)
    labels.fill(np.arange(12 * 9), pixels)
    made = labels.layers({}, np.zeros((12, 9), np.uint8))
    log_p = torch.log_softmax(20 * (pixels.double() @ question.vectors.double().T), dim=1).numpy()
    means = written_out(log_p.T.reshape(8, 12, 9), 3)
    np.testing.assert_array_equal(made["landcover"], means.argmax(axis=0) + 1)
    share = np.exp(means) / np.exp(means).sum(axis=0)
    np.testing.assert_allclose(made["landcover_confidence"], 100 * share.max(axis=0), atol=0.51)


def cut(rng: np.random.Generator, side: int) -> list[slice]:
    """A side in a piece of 1 pixel and two larger ones."""
    first = int(rng.integers(3, side // 2))
    return [slice(0, first), slice(first, first + 1), slice(first + 1, side)]


@pytest.mark.parametrize("window", [5])
def test_tiles_of_any_size_are_mended_to_what_one_tile_gives(tmp_path: Path, window: int) -> None:
    rng, shape = np.random.default_rng(window), (21, 16)
    extras = ("second", "margin", "probabilities")
    questions = [
        Question(legends.load(n), torch.zeros(1, 4), 1.0, 0.3, extras) for n in ("landcover", "crops", "scenicness")
    ]
    valid = rng.random(shape) > 0.2
    held = {q.legend.name: 3 * rng.normal(size=(len(q.legend.classes) or 1, *shape)) for q in questions}
    values = {name: np.where(valid, of, np.nan).astype(np.float32) for name, of in held.items()}

    def labelled(part: tuple[slice, slice]) -> dict[str, np.ndarray]:
        months = np.zeros(shape, np.uint8)[part]
        labels = TileLabels(questions, months.shape, window)
        for name, of in values.items():
            labels.hold(name, of[(..., *part)])
        return dict(labels.layers(WITHIN, months))

    whole = labelled((slice(None), slice(None)))
    run, tiles = RunDirectory(tmp_path, ()), {}
    (tmp_path / "tiles").mkdir()
    for i, rows in enumerate(cut(rng, shape[0])):
        for j, columns in enumerate(cut(np.random.default_rng(9), shape[1])):
            size = columns.stop - columns.start, rows.stop - rows.start
            tile = Tile(f"t_{i}_{j}", Grid(32631, 500_000 + 10 * columns.start, 5_000_000 - 10 * rows.start, *size))
            tiles[tile] = rows, columns
            run.save(Task(tile), Finished(pack(labelled((rows, columns)))))
    for _ in range(2):  # a second time nothing changes
        mend(run, list(tiles), questions, WITHIN, window, silent)
    for tile, part in tiles.items():
        for name, pixels in whole.items():
            if not name.startswith("edge/"):
                np.testing.assert_array_equal(run.load(tile, name), pixels[(..., *part)], err_msg=name)
