"""A finished run is repeated from its folder alone, to the same bytes; secrets are never written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import shapely

from geomap import files, legends
from geomap.aoi import Area
from geomap.encode import weights
from geomap.errors import InputError, LegendError
from geomap.run.again import compared, mapped_legends, read_again, words_of
from geomap.run.map import map_area
from geomap.run.request import Request
from geomap.types import Period
from tests.support.archive import PATCH
from tests.support.outputs import digests
from tests.support.runner import geomap, refused

TYPED = "wheat field, =cmd|' /C calc'!A0, <b>pond</b>"


@pytest.fixture(scope="module")
def first(archive: Callable[..., Path], untrained: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run by the command line with many options, its item file, and classes that are only text."""
    folder = tmp_path_factory.mktemp("first")
    words = ["map", PATCH, "--start", "2018-08", "--months", "2", "--stac", archive(dates=9) / "items.json"]
    words += ["--classes", TYPED, "--legend", "landcover", "--min-clear-months", "1", "--min-confidence", "5"]
    words += ["--mask-classes", "3,8,9,10", "--mask-dilate", "1", "--within", "landcover=Cropland", "--others"]
    done = geomap(*words, "--weights", untrained, "--device", "cpu", "--out", folder / "out")
    assert done.exit_code == 0, done.stderr
    return folder / "out"


def test_a_run_is_repeated_from_its_folder_to_the_same_bytes(
    first: Path, archive: Callable[..., Path], untrained: str, tmp_path: Path
) -> None:
    items = archive(dates=9) / "items.json"
    done = geomap("map", "--again", first, "--stac", items, "--weights", untrained, "--out", tmp_path / "again")
    assert done.exit_code == 0, done.stderr
    assert f"the maps are those of {first}, byte for byte" in done.stdout
    assert digests(tmp_path / "again") == digests(first)


def test_run_json_tells_the_request_in_words(first: Path) -> None:
    asked = json.loads((first / "run.json").read_text())["asked"]
    assert shapely.from_wkt(asked["area"]).equals(Area(PATCH).geometry)
    assert (asked["command"], asked["period"], asked["min_confidence"]) == ("map", "2018-08_2018-09", 0.05)
    typed = next(legend for legend in asked["legends"] if legend["name"] == "classes")
    assert [c["name"] for c in typed["classes"]] == TYPED.split(", ")
    assert "land covered by wheat field" in typed["classes"][0]["prompts"]
    assert asked["mask"] == {"classes": [0, 3, 8, 9, 10], "dilation": 1, "opening": 0}
    assert asked["within"] == ["landcover", "Cropland"]
    published = [p for p in first.rglob("*") if p.is_file() and files.STATE not in p.parts]
    assert not [p for p in published if str(first.parent).encode() in p.read_bytes()]  # no folder of this machine


def test_words_lead_back_to_the_request(tmp_path: Path) -> None:
    odd = shapely.Polygon([(4.1, 50.7), (4.1 + 1 / 3e3, 50.7), (4.1 + 1e-15, 50.7 + 1 / 7e2)])
    request = Request(
        area=Area(odd),
        period="2022-10/2023-09",
        legends=("scenicness", "habitat"),
        exclude=("S2A_x",),
        min_confidence=0.3,
        save_embeddings=True,
    )
    words = json.loads(json.dumps(words_of(request)))
    folder = _written(tmp_path / "run", words)
    again = read_again(folder)
    assert again == request
    assert again.area.geometry.wkb == request.area.geometry.wkb


def test_secrets_are_never_written(tmp_path: Path) -> None:
    secret = Request(area=PATCH, period="2023", stac="https://me:SECRET@stac.example/v1?token=SECRET")
    assert "SECRET" not in json.dumps(words_of(secret))
    assert words_of(secret)["stac"] == "https://stac.example/v1"
    folder = _written(tmp_path / "run", words_of(secret))
    assert read_again(folder, stac=secret.stac).stac == secret.stac


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["4,50,5,51"], "leave AOI out"),
        (["--year", "2023"], "leave --year out"),
        (["--classes", "a, b"], "leave --classes out"),
    ],
)
def test_what_does_not_go_with_again_is_refused(words: list[str], says: str, first: Path, tmp_path: Path) -> None:
    refused(geomap("map", *words, "--again", first, "--out", tmp_path / "new"), 2, says)
    assert not (tmp_path / "new").exists()


def test_what_cannot_be_repeated_is_one_line(first: Path, untrained: str, tmp_path: Path) -> None:
    refused(geomap("map", "--again", first, "--out", first), 2, "another folder as --out")
    refused(geomap("map", "--again", tmp_path, "--out", tmp_path / "new"), 2, "holds no finished run")
    refused(geomap("map", "--out", tmp_path / "new"), 2, "name an area")
    refused(geomap("map", "--again", first, "--out", tmp_path / "new"), 2, "where untrained lies", "--weights")
    items = tmp_path / "items.json"
    items.write_text("{}")
    words = ("--weights", untrained, "--out", tmp_path / "new")
    refused(geomap("map", "--again", first, "--stac", items, *words), 2, "is not the item file", "--stac")
    record = json.loads((first / "run.json").read_text())
    (tmp_path / files.SUMS).write_text("")
    for change in ({"asked": record["asked"] | {"command": "label"}}, {"software": {"geomap": "0.0.1"}}):
        (tmp_path / "run.json").write_text(json.dumps(record | change))
        with pytest.raises(InputError, match=r"type its command again|install that version"):
            read_again(tmp_path)


def test_a_legend_that_an_earlier_version_took_is_refused_by_name_and_none_takes_its_place(
    first: Path, tmp_path: Path
) -> None:
    shutil.copytree(first, tmp_path / "first")
    record = json.loads((first / "run.json").read_text())
    (tmp_path / "first/run.json").write_text(json.dumps(record).replace('"code": "B"', '"code": "A"'))
    again = geomap("map", "--again", tmp_path / "first", "--out", tmp_path / "new")
    refused(again, 2, "first was made with a legend that is refused now", "is a code of", "without --again")
    with pytest.raises(LegendError, match=r"first was made with .* is a code of .* mend its file, and give .* --leg"):
        mapped_legends(tmp_path / "first")
    assert len(mapped_legends(first)) == 2
    assert not (tmp_path / "new").exists()


def test_other_weights_of_the_same_name_are_refused_before_a_pixel_is_read(
    first: Path, archive: Callable[..., Path], untrained: str, tmp_path: Path
) -> None:
    known = weights.load_weights(untrained)
    known.encoder.position.data += 1
    weights.save(tmp_path / "untrained", known.encoder, known.card, known.class_vectors)
    words = ("--stac", archive(dates=9) / "items.json", "--weights", tmp_path / "untrained")
    done = geomap("map", "--again", first, *words, "--out", tmp_path / "new")
    refused(done, 2, f"{first} was made with untrained", "give those as --weights")
    assert not (tmp_path / "new").exists()


def test_an_unfinished_run_is_not_repeated(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "first")
    (tmp_path / "first" / files.SUMS).unlink()  # as in a run that was stopped while it was published
    done = geomap("map", "--again", tmp_path / "first", "--out", tmp_path / "new")
    refused(done, 2, "is not finished; type the run's command again, which resumes it")
    assert not (tmp_path / "new").exists()


def test_other_maps_are_told(archive: Callable[..., Path], asking: Callable[..., Request], tmp_path: Path) -> None:
    items = archive(dates=9) / "items.json"
    map_area(asking(items, period=Period(2018, 8, 1)), tmp_path / "one")
    map_area(asking(items, period=Period(2018, 9, 1), legends=legends.load("landuse")), tmp_path / "two")
    differ = compared(tmp_path / "one", tmp_path / "two")
    assert {"landcover.tif", "landuse.tif", "clear_months.tif"} <= {*differ}


def _written(folder: Path, words: dict[str, object]) -> Path:
    """A folder that holds the record of a run, and the list that marks it as finished."""
    from geomap.run.record import Record, write_record

    folder.mkdir()
    write_record(folder, Record({}, (), (), (), (), {}, {}, {"command": "map", **words}))
    files.write_sums(folder)
    return folder
