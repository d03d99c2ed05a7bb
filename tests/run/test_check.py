"""What a finished run must hold: lists with gaps, planted files, side files of other programs, stores by hash."""

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import geomap as api
from geomap import files
from geomap.errors import GeomapError, InputError, ReadError
from geomap.run import check, stores
from geomap.run.assess import assess_map
from geomap.run.design import AssessRequest
from geomap.run.map import map_area
from geomap.run.relabel import LabelRequest, label_store, map_similar
from geomap.run.request import Request
from geomap.run.sample import SampleRequest, sample_map
from geomap.run.status import verified
from geomap.store import store
from geomap.types import Period
from tests.support.requests import request_for, tiles_of
from tests.support.runner import geomap


@pytest.fixture(scope="module")
def asked(archive: Callable[..., Path], untrained: str) -> Iterator[Request]:
    with tiles_of(64):
        yield request_for(
            archive(dates=9) / "items.json",
            untrained,
            period=Period(2018, 9, 1),
            save_composites=True,
            save_embeddings=True,
        )


@pytest.fixture(scope="module")
def finished(asked: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("check") / "run"
    map_area(asked, out)
    assert verified(out) == check.Checked(())
    return out


@pytest.fixture(scope="module")
def stopped(asked: Request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose tiles are made, and nothing is published."""
    out = tmp_path_factory.mktemp("check") / "stopped"

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_area(asked, out, stop)
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run with both stores."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def names(lines: tuple[str, ...]) -> list[str]:
    return [line.partition(":")[0] for line in lines]


def without(run: Path, *gone: str) -> None:
    """Take lines out of SHA256SUMS, by a part of them."""
    lines = (run / files.SUMS).read_text().splitlines(keepends=True)
    (run / files.SUMS).write_text("".join(line for line in lines if not any(part in line for part in gone)))


def shard(folder: Path, kind: str, array: str) -> Path:
    return max((p for p in (folder / kind / array / "c").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


# --- the list


@pytest.mark.parametrize("part", ["landcover.tif", "run.json", "stac/", "composites.zarr/composite/c", "\n", "qml"])
def test_a_list_that_lost_lines_is_found_and_by_a_rerun_too(run: Path, asked: Request, part: str) -> None:
    without(run, part) if part != "\n" else (run / files.SUMS).write_text("")
    found = verified(run).problems
    assert found
    assert check.damaged(run)
    assert all("\n" not in line for line in found)


def test_a_map_deleted_with_its_line_is_named_and_made_again(run: Path, asked: Request) -> None:
    before = (run / "landcover.tif").read_bytes()
    (run / "landcover.tif").unlink()
    (run / files.SUMS).write_text("")
    assert "landcover.tif: missing" in [line.partition(";")[0] for line in verified(run).problems]
    assert geomap("verify", run).exit_code == 1
    map_area(asked, run)
    assert (run / "landcover.tif").read_bytes() == before
    assert verified(run) == check.Checked(())


def test_a_run_of_before_is_compared_as_far_as_it_can_be(run: Path) -> None:
    """Its run.json holds no seal."""
    recorded = json.loads((run / "run.json").read_text())
    assert len(recorded.pop("seal")) == 64
    del recorded["files"]
    files.write_json(run / "run.json", recorded)
    without(run, "  run.json")
    with (run / files.SUMS).open("a") as f:
        f.write(f"{files.sha256(run / 'run.json')}  run.json\n")
    assert verified(run) == check.Checked(())
    without(run, "landcover.tif")
    assert "landcover.tif: not listed in SHA256SUMS" in [x.partition(";")[0] for x in verified(run).problems]


def test_an_assessed_run_verifies_and_its_command_leaves_it(run: Path, asked: Request, tmp_path: Path) -> None:
    sample_map(run, [tmp_path / "points.csv"], SampleRequest(n=60, show_mapped=True))
    assess_map(run, AssessRequest(tmp_path / "points.csv", "mapped"))
    assert verified(run) == check.Checked(())
    before = {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}
    assert {"assessment.json", "assessment.csv"} <= before.keys()
    assert map_area(asked, run).seconds == {}
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before


# --- what belongs in the folder


@pytest.mark.parametrize(
    "name",
    [
        "landcover.tif.ovr", "landcover.tif.msk", "landcover.tiff", "extra.vrt", "landcover.tfw", "other.tif.aux.xml",
        "LANDCOVER.TIF.OVR", "landcover.wld", "x.tif", "stac/more.json", "composites_from/x.json", "link.tif",
        "embeddings.zarr/embedding/c/0/9/9", "embeddings.zarr/.zattrs", "composites.zarr/clear/c/0/7/7", "deep/a.ovr",
    ],
)  # fmt: skip
def test_a_planted_file_is_told(run: Path, name: str) -> None:
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to("/etc/hostname") if "link" in name else (run / name).write_bytes(b"<PAMDataset/>")
    assert names(verified(run).problems) == [name]
    assert name in geomap("verify", run).output


def test_the_users_own_files_are_named_but_are_no_problem(run: Path) -> None:
    (run / "notes.txt").write_text("mine")
    (run / "project.qgz").write_bytes(b"mine")
    assert verified(run) == check.Checked((), ("notes.txt: no part of the run", "project.qgz: no part of the run"))
    assert geomap("verify", run).exit_code == 0


def test_statistics_of_gdal_and_a_saved_style_are_no_damage(run: Path) -> None:
    before = (run / "clear_months.tif.aux.xml").read_bytes()
    code = "import rasterio, sys; rasterio.open(sys.argv[1]).statistics(1, clear_cache=True)"  # as QGIS and gdalinfo do
    subprocess.run([sys.executable, "-c", code, run / "clear_months.tif"], check=True)
    assert (run / "clear_months.tif.aux.xml").read_bytes() != before
    (run / "landcover.qml").write_text("<qgis/>")
    (run / "landcover_confidence.qmd").write_text("<qgis/>")
    side = run / "landcover.tif.aux.xml"
    mean = '<Metadata><MDI key="STATISTICS_MEAN">3</MDI></Metadata>'
    side.write_text(side.read_text().replace("<PAMRasterBand", f"{mean}<PAMRasterBand", 1))
    found = verified(run)
    assert found.problems == ()
    known = ["clear_months.tif.aux.xml", "landcover.qml", "landcover.tif.aux.xml", "landcover_confidence.qmd"]
    assert sorted(names(found.side)) == known
    shown = geomap("verify", run)
    assert shown.exit_code == 0
    assert "landcover.qml: changed by another program" in " ".join(shown.output.split())


@pytest.mark.parametrize(
    "inner",
    [
        '<Metadata domain="OVERVIEWS"><MDI key="OVERVIEW_FILE">/etc/passwd</MDI></Metadata>',
        "<GeoTransform>0,1,0,0,0,-1</GeoTransform>",
        '<PAMRasterBand band="1"><NoDataValue>3</NoDataValue></PAMRasterBand>',
        '<PAMRasterBand band="1"><Scale>2</Scale></PAMRasterBand>',
        "<SRS>EPSG:4326</SRS>",
    ],
)
def test_a_side_file_that_says_more_than_statistics_is_a_problem(run: Path, inner: str) -> None:
    (run / "landcover.tif.aux.xml").write_text(f"<PAMDataset>{inner}</PAMDataset>")
    assert names(verified(run).problems) == ["landcover.tif.aux.xml"]


def test_a_side_file_that_names_other_classes_is_a_problem(run: Path) -> None:
    side = run / "landcover.tif.aux.xml"
    of = side.read_text()
    for one, other in (("<Category>Cropland", "<Category>Woodland"), ("<F>Cropland", "<F>Woodland")):
        side.write_text(of.replace(one, other))
        assert side.read_text() != of
        assert names(verified(run).problems) == ["landcover.tif.aux.xml"]


def test_verify_names_the_tile(run: Path) -> None:
    kept = store.open_store(run, store.COMPOSITES)
    for tile in kept.tiles:
        file = run / store.COMPOSITES / kept.places(tile)[1]
        content = file.read_bytes()
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        (line,) = verified(run).problems
        assert f"changed (tile {tile.name})" in line
        file.write_bytes(content)


# --- stores


def changed(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def gone(path: Path) -> None:
    path.unlink()


def exchanged(path: Path) -> None:
    """With another tile's, which Zarr's own checksums cannot tell."""
    others = (p for p in path.parents[1].rglob("*") if p.is_file() and p.read_bytes() != path.read_bytes())
    path.write_bytes(next(others).read_bytes())


DAMAGE = pytest.mark.parametrize("damage", [changed, gone, exchanged])
ARRAYS = pytest.mark.parametrize(
    ("kind", "array"),
    [(store.COMPOSITES, "composite"), (store.COMPOSITES, "clear"), (store.EMBEDDINGS, "embedding")],
)


@pytest.mark.parametrize(
    ("kind", "array", "damage"),
    [
        (store.COMPOSITES, "composite", changed),
        (store.EMBEDDINGS, "embedding", gone),
        (store.COMPOSITES, "clear", exchanged),
    ],
)
def test_a_shard_damaged_before_the_resume_is_made_again(
    asked: Request,
    finished: Path,
    stopped: Path,
    tmp_path: Path,
    kind: str,
    array: str,
    damage: Callable[[Path], None],
) -> None:
    out = Path(shutil.copytree(stopped, tmp_path / "out"))
    count = len(list(out.glob("tiles/*.npz")))
    damage(shard(out / "tiles", kind, array))
    (out / "tiles" / kind / "planted").write_bytes(b"x")
    changed(out / "tiles" / kind / "x/c/0")
    assert map_area(asked, out).resumed == count - 1
    assert (out / files.SUMS).read_bytes() == (finished / files.SUMS).read_bytes()
    assert verified(out) == check.Checked(())


def test_a_shard_damaged_before_it_is_published_is_not(
    asked: Request, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, link = tmp_path / "out", stores.link

    def damage_first(*args: object) -> None:
        changed(shard(out / "tiles", store.EMBEDDINGS, "embedding"))
        link(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(stores, "link", damage_first)
        with pytest.raises(ReadError, match=r"changed after tile .* was written; type the run's command again"):
            map_area(asked, out)
    assert not (out / files.SUMS).exists()
    map_area(asked, out)
    assert verified(out) == check.Checked(())


def read_all(kept: store.Store) -> None:
    """As a map from stored composites does."""
    for tile in kept.tiles:
        stores.composite_over(kept, tile)


@ARRAYS
@DAMAGE
def test_a_damaged_shard_of_a_finished_run_is_not_read(
    asked: Request, run: Path, tmp_path: Path, kind: str, array: str, damage: Callable[[Path], None]
) -> None:
    damage(shard(run, kind, array))
    if kind == store.EMBEDDINGS:
        asks = functools.partial(label_store, LabelRequest(run, asked.legends, asked.weights), tmp_path / "labels")
    else:
        kept = store.open_store(run, kind)
        asks = functools.partial(read_all, kept)
    with pytest.raises(GeomapError, match=r"\.zarr (is damaged|lacks)|lacks the tile"):
        asks()
    assert not (tmp_path / "labels" / files.SUMS).exists()


def test_similar_checks_what_it_reads(run: Path, tmp_path: Path) -> None:
    exchanged(shard(run, store.EMBEDDINGS, "embedding"))
    with pytest.raises(ReadError, match="is not the file that SHA256SUMS lists"):
        map_similar(run, 4.0630, 50.7460, tmp_path / "out")


@pytest.mark.parametrize("file", ["zarr.json", "x/c/0", "embedding/zarr.json", "basis/c/0/0"])
def test_a_store_whose_metadata_or_coordinates_changed_is_not_opened(run: Path, file: str) -> None:
    changed(run / store.EMBEDDINGS / file)
    with pytest.raises(InputError, match="is damaged"):
        store.open_store(run, store.EMBEDDINGS)


def test_the_python_api_refuses_a_store_without_all_its_files(run: Path) -> None:
    gone(shard(run, store.COMPOSITES, "composite"))
    with pytest.raises(InputError, match="lacks composite/c"):
        api.open_store(run)


def test_a_store_that_lies_alone_is_read_and_one_missing_from_its_list_is_not(run: Path, tmp_path: Path) -> None:
    alone = shutil.copytree(run / store.EMBEDDINGS, tmp_path / "alone" / store.EMBEDDINGS)
    assert store.open_store(alone).listed == {}
    without(run, store.EMBEDDINGS)
    with pytest.raises(InputError, match="not listed in the SHA256SUMS beside it"):
        store.open_store(run, store.EMBEDDINGS)


def test_a_copy_of_a_run_that_is_half_replaced_is_no_store(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns(files.STATE, files.SUMS))
    with pytest.raises(InputError, match=r"holds the run\.json of a run without its SHA256SUMS.*copy the finished run"):
        store.open_store(copy, store.EMBEDDINGS)
