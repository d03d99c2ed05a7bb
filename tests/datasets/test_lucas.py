"""LUCAS codes and names, the published label table, and vectors of ground photos."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from geomap import legends
from geomap.datasets import lucas
from geomap.datasets.samples import Samples
from geomap.errors import ConfigError, DataError, WeightsError
from tests.support import layouts


@pytest.fixture(scope="module")
def published_labels(shared: Path) -> dict:
    """The label sets of the paper and its code, collected from their sources."""
    return json.loads((shared / "reference" / "labels.json").read_text())


def one(name: str, value: object) -> int:
    return int(lucas.label_ids(name, [value, value], "a file")[0])


@pytest.mark.parametrize(("name", "key"), [("landcover", "land_cover"), ("landuse", "land_use")])
def test_every_published_code_and_texthas_its_class(published_labels: dict, name: str, key: str) -> None:
    for c in published_labels[key]["classes"]:
        for code in c["lucas_codes"]:
            assert one(name, code) == c["index"] + 1, code
        for spelling in {c["name"], c.get("textin_lucas_class_mapping", c["name"])}:
            assert one(name, spelling) == c["index"] + 1, spelling


def test_crops_habitats_and_bioregions_are_in_the_published_order(published_labels: dict) -> None:
    for c in published_labels["crops"]["classes"]:
        assert one("crops", c["lucas_code"]) == one("crops", c["name"]) == c["index"] + 1
    for code in published_labels["land_cover_level1"]["classes"]:
        if not code.startswith("B") or code.startswith("BX"):
            assert one("crops", code) == 0
    for name, key in (("habitat", "habitat_eunis_l2"), ("bioregion", "bioregions")):
        assert len(legends.load(name).classes) == published_labels[key]["n"]
        for c in published_labels[key]["classes"]:
            forms = [
                c["name"],
                c["name"].encode(),
                c["index"],
                float(c["index"]),
                str(c["index"]),
                np.int64(c["index"]),
            ]
            assert {one(name, f) for f in forms} == {c["index"] + 1}
    countries = published_labels["countries_nuts0"]["classes"]
    assert {code: country for country, code in lucas.COUNTRIES.items()} == countries


def test_land_cover_is_that_of_lucas_and_not_that_of_sen4map(published_labels: dict) -> None:
    """Sen4Map's own map has temporary grassland among grassland, and roads among bare land."""
    assert published_labels["land_cover_sen4map_original"]["note"].startswith("10 integer classes")
    got = lucas.label_ids("landcover", ["B55", "A22", "E20", "C10", "C21"], "a file")
    assert got.tolist() == [2, 1, 5, 3, 3]


def test_no_label_is_zero_and_the_unknown_is_told(caplog: pytest.LogCaptureFixture) -> None:
    none = ["", "NA", None, float("nan"), "8", b"", "B11"]
    assert lucas.label_ids("crops", none, "a file").tolist() == [0] * 6 + [1]
    assert lucas.label_ids("landcover", ["A10", "Z99", "Z99"], "a.h5").tolist() == [1, 0, 0]
    assert "'Z99' (2)" in caplog.text
    assert lucas.label_ids("bioregion", [-1, 0], "a.h5").tolist() == [0, 1]
    assert lucas.label_ids("habitat", [43, 44, "G1", "J2 "], "a.h5").tolist() == [44, 0, 4, 2]
    for name, values in (("landcover", ["8", "7"]), ("landuse", ["B11"]), ("habitat", ["Mars"])):
        with pytest.raises(DataError, match=f"known to the legend {name}"):
            lucas.label_ids(name, values, "a.h5")
    assert lucas.label_ids("landuse", ["", "NA"], "a.h5").tolist() == [0, 0]


# Rows of the published table, axes swapped as there: `lat` is 24.69 in Bulgaria.
SUNFLOWER = {
    "im_id": "Lucas_Point_55082360", "lat": "24.69462202971172", "lon": "43.297697324018394", "lc_label": "Cropland",
    "lu_label": "Agriculture", "crop_label": "Sunflower", "nuts_label": "Bulgaria", "bioregion_class": "Continental",
    "eunis_class": "Arable land and market gardens",
}  # fmt: skip
SHRUBS = {
    "im_id": "Lucas_Point_57641486", "lat": "25.780399758922627", "lon": "35.092416293551565",
    "lc_label": "Shrubland", "lu_label": "Semi-natural and natural areas not in use", "nuts_label": "Greece",
    "bioregion_class": "Mediterranean",
    "eunis_class": "Spiny Mediterranean heaths (phrygana, hedgehog-heaths and related coastal cliff vegetation)",
}  # fmt: skip
BARE = {
    "im_id": "Lucas_Point_31421816", "lat": "-3.5016517934520865", "lon": "38.48626040083449", "lc_label": "Bare Land",
    "lu_label": "Agriculture", "nuts_label": "Spain", "bioregion_class": "Mediterranean",
    "eunis_class": "Transport networks and other constructed hard-surfaced areas",
}  # fmt: skip
ROWS = [SUNFLOWER, SHRUBS, BARE]


def straight(row: dict) -> dict:
    return row | {"lat": row["lon"], "lon": row["lat"]}


@pytest.mark.parametrize("rows", [ROWS, [straight(r) for r in ROWS]])
def test_the_label_table_has_its_axes_set_right(tmp_path: Path, rows: list) -> None:
    table = lucas.read_label_csv(layouts.write_label_csv(tmp_path / "t.csv", rows))
    assert table.id.tolist() == ["55082360", "57641486", "31421816"]
    np.testing.assert_allclose(table.lonlat[0], [24.6946220, 43.2976973], atol=1e-6)
    np.testing.assert_allclose(
        table.lonlat, lucas.places(table.id.tolist()), atol=1e-5
    )  # a point's id says where it is
    assert {k: v.tolist() for k, v in table.labels.items()} == {
        "landcover": [2, 4, 6], "landuse": [1, 16, 1], "crops": [13, 0, 0], "habitat": [1, 22, 20],
        "bioregion": [7, 9, 9],
    }  # fmt: skip
    assert table.country.tolist() == ["BG", "EL", "ES"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([SUNFLOWER, straight(SHRUBS)], "neither order"),  # each row right in another order
        ([SUNFLOWER | {"lat": "124.7"}], "neither order"),
        ([SUNFLOWER | {"lat": "34.5", "lon": "34.6"}], "either order"),
        ([SUNFLOWER, SUNFLOWER], "55082360 twice"),
        ([SUNFLOWER | {"im_id": "Rome"}], "'Rome' is no LUCAS point"),
        ([SUNFLOWER | {"lat": "east"}], "east"),
        ([SUNFLOWER | {"lc_label": "Lava"}], "landcover"),
        ([], "no rows"),
    ],
)
def test_a_broken_label_table_is_refused(tmp_path: Path, rows: list, told: str) -> None:
    path = layouts.write_label_csv(tmp_path / "t.csv", rows)
    with pytest.raises(DataError, match=told):
        lucas.read_label_csv(path)


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("im_id,lat,lon,lc_label\nLucas_Point_55082360,24.7,43.3,Cropland\n")
    with pytest.raises(DataError, match="bioregion_class, crop_label"):
        lucas.read_label_csv(path)
    with pytest.raises(ConfigError, match=r"none\.csv"):
        lucas.read_label_csv(tmp_path / "none.csv")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_label_table_in_another_encoding_is_to_be_saved_anew(tmp_path: Path, encoding: str) -> None:
    path = layouts.write_label_csv(tmp_path / "t.csv", [ROWS[0] | {"nuts_label": "Österreich"}])
    path.write_bytes(path.read_text(encoding="utf-8").encode(encoding))
    with pytest.raises(DataError, match="save it as CSV UTF-8"):
        lucas.read_label_csv(path)


def samples(ids: list[str], **fields: object) -> Samples:
    n = len(ids)
    return Samples("s", np.array(ids), np.ones((n, 12, 10), np.uint16), np.ones((n, 12), bool), **fields)


def test_labels_join_by_point_and_fill_gaps_only(tmp_path: Path) -> None:
    table = lucas.read_label_csv(layouts.write_label_csv(tmp_path / "t.csv", ROWS))
    mine = samples(
        ["31421816", "40683280", "55082360"], labels={"landcover": np.array([7, 7, 0]), "crops": np.array([0, 5, 0])}
    )
    got = lucas.with_labels(mine, table)
    assert got.labels["landcover"].tolist() == [7, 7, 2]
    assert got.labels["crops"].tolist() == [0, 5, 13]
    assert got.labels["habitat"].tolist() == [20, 0, 1]
    assert got.country is not None
    assert got.country.tolist() == ["ES", "", "BG"]
    assert got.lonlat is not None
    np.testing.assert_allclose(got.lonlat[[0, 2]], table.lonlat[[2, 0]])
    assert np.isnan(got.lonlat[1]).all()
    assert mine.labels["landcover"].tolist() == [7, 7, 0]


def test_photos_of_a_point_are_averaged_raw_over_the_directions_there_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    keys = [f"FR_34622836{d}" for d in "WENS"] + ["BG_55082360N", "BG_55082360S", "ES_31421816E"]
    vectors = {k: rng.normal(0, 3, 512).astype(np.float32) for k in keys}
    path = layouts.write_photo_dictionary(tmp_path / "lucas.pt", vectors)
    got = lucas.with_photos(samples(["55082360", "40683280", "34622836"]), path).photos
    assert got is not None
    assert got.dtype == np.float32
    np.testing.assert_allclose(got[0], (vectors["BG_55082360N"] + vectors["BG_55082360S"]) / 2, rtol=1e-5, atol=1e-6)
    assert np.isnan(got[1]).all()
    np.testing.assert_allclose(got[2], np.mean([vectors[k] for k in keys[:4]], axis=0), rtol=1e-4, atol=1e-5)


def test_photos_come_from_safetensors_too(tmp_path: Path) -> None:
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    keys = np.frombuffer(b"ES_31421816ENL_40683280NNL_40683280W", np.uint8).reshape(3, 12)
    save_file({"keys": keys, "vectors": vectors}, tmp_path / "p.safetensors")
    got = lucas.read_photos(tmp_path / "p.safetensors", ["40683280", "31421816", "40683280"])
    np.testing.assert_array_equal(got, [[6, 7, 8, 9], [0, 1, 2, 3], [6, 7, 8, 9]])


def test_what_is_no_dictionary_of_photos_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one, two = np.ones((1, 4), np.float32), np.ones((1, 5), np.float32)
    cases = {
        "no photo": {"model.weight": one},
        "has 5 values": {"FR_34622836N": one, "FR_34622836S": two},
        "more than four": {f"{c}_34622836{d}": one for c in ("FR", "BE") for d in "NESW"},
    }
    for i, (told, vectors) in enumerate(cases.items()):
        save_file(vectors, tmp_path / f"{i}.safetensors")
        with pytest.raises(DataError, match=told):
            lucas.read_photos(tmp_path / f"{i}.safetensors", ["34622836"])
    with pytest.raises(WeightsError, match=r"none\.pt"):
        lucas.read_photos(tmp_path / "none.pt", ["34622836"])
    save_file({"FR_34622836N": one}, tmp_path / "other.safetensors")
    with caplog.at_level(logging.INFO, logger="geomap.datasets.lucas"):
        assert np.isnan(lucas.read_photos(tmp_path / "other.safetensors", ["40683280"])).all()
    assert "photos of 0 of 1 points" in caplog.text
