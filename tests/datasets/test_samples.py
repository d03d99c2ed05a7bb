"""Users' tables of labelled series, samples and their groups, and what is said where a package is missing."""

import gzip
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from geomap import legends
from geomap.datasets.extras import require_packages
from geomap.datasets.places import read_africa
from geomap.datasets.samples import Samples
from geomap.datasets.sets import read_set
from geomap.datasets.simulated import cover_labels
from geomap.encode import weights
from geomap.errors import DataError, GeomapError, InputError
from geomap.label import towers
from geomap.sentinel2 import BANDS
from geomap.simulate.covers import table
from tests.support import REPOSITORY
from tests.support.runner import geomap, refused

JULY = [f"{b}_07" for b in BANDS]


@pytest.fixture
def frame() -> pd.DataFrame:
    """40 samples of March to October in fields of four, some cells of the series empty."""
    rng = np.random.default_rng(2)
    columns = {f"{b}_{m:02d}": rng.integers(1, 6000, 40).astype(float) for m in range(3, 11) for b in BANDS}
    series = pd.DataFrame(columns)
    series.loc[rng.random(40) < 0.3, "B11_05"] = np.nan
    known = legends.load("landcover").classes
    chosen = rng.integers(0, len(known), 40)
    labels = {"landcover": [known[k].name.upper() for k in chosen], "crops": ["", "B11", "Common wheat", "1"] * 10}
    head = {"id": [f"p{i:02d}" for i in range(40)], "group": [f"field {i // 4}" for i in range(40)], **labels}
    return pd.concat([pd.DataFrame(head), series], axis=1)


def written(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_a_table_becomes_samples(tmp_path: Path, frame: pd.DataFrame, name: str) -> None:
    samples = read_set(str(written(frame, tmp_path / name)), 1)
    assert (samples.name, len(samples), samples.labelled) == ("mine", 40, ("landcover", "crops"))
    dn = np.zeros((40, 12, 10))
    for m in range(3, 11):
        dn[:, m - 1] = frame[[f"{b}_{m:02d}" for b in BANDS]].fillna(0)
    valid = (dn > 0).all(-1)
    assert valid[:, 2:10].sum(1).min() == 7  # May lacks a band here and there
    np.testing.assert_array_equal(samples.valid, valid)
    np.testing.assert_array_equal(samples.dn, np.where(valid[..., None], dn, 0))
    of = {c.name.upper(): c.id for c in legends.load("landcover").classes}
    assert samples.labels["landcover"].tolist() == [of[v] for v in frame["landcover"]]
    assert samples.labels["crops"].tolist() == [0, 1, 1, 1] * 10  # none, code, name and id of common wheat
    groups, grouped_by = samples.folds()
    assert grouped_by == "the column group"
    assert len(np.unique(groups)) == 10
    assert (groups.reshape(10, 4) == groups.reshape(10, 4)[:, :1]).all()


def test_the_table_of_the_documentation_is_one(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "training-data.md").read_text()
    lines = [line.strip() for line in text.splitlines() if line.startswith(("    id,group", "    p1,"))]
    (tmp_path / "mine.csv").write_text("\n".join(lines))
    samples = read_set(str(tmp_path / "mine.csv"), 1)
    assert samples.valid.tolist() == [[m == 3 for m in range(12)]]
    assert samples.dn[0, 3].tolist() == [742, 930, 1104, 1390, 1670, 1785, 1856, 1990, 2405, 1932]
    named = {k: legends.load(k).classes[v[0] - 1].name for k, v in samples.labels.items()}
    assert named == {"landcover": "Cropland", "crops": "Maize"}


def test_places_make_groups_where_a_table_has_none(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame = frame.drop(columns=["group", "id"]).assign(lon=[4.2, 4.8, 5.1, 4.3] * 10, lat=50.5)
    samples = read_set(str(written(frame, tmp_path / "mine.csv")), 1)
    groups, grouped_by = samples.folds()
    assert grouped_by == "cells of one degree"
    assert groups.tolist() == [0, 0, 1, 0] * 10
    assert samples.id[39] == "mine/39"


def test_only_samples_without_a_place_are_groups_of_their_own(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame = frame.drop(columns="group").assign(lon=[4.2, 4.8, np.nan, 5.1] * 10, lat=[50.5, 50.5, 50.5, np.nan] * 10)
    groups, grouped_by = read_set(str(written(frame, tmp_path / "mine.csv")), 1).folds()
    assert grouped_by == "cells of one degree"
    assert len(set(groups[0::4].tolist()) | set(groups[1::4].tolist())) == 1
    assert len(np.unique(groups)) == 1 + 20
    nowhere = written(frame.assign(lon=np.nan), tmp_path / "nowhere.csv")
    assert read_set(str(nowhere), 1).folds()[1] == "sample (their places are unknown)"


def assert_same(a: Samples, b: Samples) -> None:
    assert a.id.tolist() == b.id.tolist()
    np.testing.assert_array_equal(a.dn, b.dn)
    assert {k: v.tolist() for k, v in a.labels.items()} == {k: v.tolist() for k, v in b.labels.items()}


def test_empty_cells_beyond_the_first_line_move_no_column(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame = frame[[*frame.columns[4:], "id", "group", "landcover", "crops"]].fillna(7)
    head, *rows = written(frame, tmp_path / "mine.csv").read_text().splitlines()
    (tmp_path / "ends.csv").write_text("\n".join([head, *(f"{row}, ," for row in rows)]))
    assert_same(read_set(str(tmp_path / "ends.csv"), 1), read_set(str(tmp_path / "mine.csv"), 1))
    for k, more in ((0, "9"), (30, "9")):
        cells = [f"{row},{more if i == k else ''}" for i, row in enumerate(rows)]
        (tmp_path / "more.csv").write_text("\n".join([head, *cells]))
        with pytest.raises(DataError, match="more cells than its first line"):
            read_set(str(tmp_path / "more.csv"), 1)


@pytest.mark.parametrize("column", ["landcover", "B08_04", "lon"])
def test_a_column_that_is_read_may_be_there_once(tmp_path: Path, frame: pd.DataFrame, column: str) -> None:
    frame = frame.assign(lon=4.2, lat=50.5, note=1)
    twice = pd.concat([frame, frame[[column, "note"]]], axis=1)
    with pytest.raises(DataError, match=f"has the column {column} twice"):
        read_set(str(written(twice, tmp_path / "mine.csv")), 1)
    assert len(read_set(str(written(pd.concat([frame, frame[["note"]]], axis=1), tmp_path / "mine.csv")), 1)) == 40


@pytest.mark.parametrize(("separator", "decimal"), [(";", ","), (";", "."), ("\t", ".")])
def test_columns_may_be_separated_otherwise(tmp_path: Path, frame: pd.DataFrame, separator: str, decimal: str) -> None:
    frame = frame.assign(lon=[4.25, np.nan] * 20, lat=-50.5)
    path = tmp_path / "other.csv"
    frame.to_csv(path, index=False, sep=separator, decimal=decimal)
    plain, other = read_set(str(written(frame, tmp_path / "mine.csv")), 1), read_set(str(path), 1)
    assert_same(plain, other)
    np.testing.assert_array_equal(other.lonlat, frame[["lon", "lat"]])


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_samples_without_a_group_are_groups_of_their_own(tmp_path: Path, frame: pd.DataFrame, name: str) -> None:
    frame = frame.assign(group=["A", "a", None, None] * 10, lon=4.2, lat=50.5)
    groups, grouped_by = read_set(str(written(frame, tmp_path / name)), 1).folds()
    assert grouped_by == "the column group"
    assert len(np.unique(groups)) == 2 + 20
    assert len(set(groups[0::4].tolist())) == len(set(groups[1::4].tolist())) == 1
    path = written(frame.assign(group=None), tmp_path / f"all_{name}")
    assert read_set(str(path), 1).folds()[1] == "cells of one degree"


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_ids_beside_empty_cells_are_whole_numbers(tmp_path: Path, frame: pd.DataFrame, name: str) -> None:
    frame = frame.assign(landcover=[2.0, np.nan, 3.0, 1.0] * 10, crops=["2.0", None, "B11", "1"] * 10)
    labels = read_set(str(written(frame, tmp_path / name)), 1).labels
    assert labels["landcover"].tolist() == [2, 0, 3, 1] * 10
    assert labels["crops"].tolist() == [2, 0, 1, 1] * 10
    if name == "mine.parquet":
        frame = frame.assign(landcover=frame["landcover"].astype("Int64"), crops=frame["crops"].astype("string"))
        again = read_set(str(written(frame, tmp_path / name)), 1).labels
        assert {k: v.tolist() for k, v in again.items()} == {k: v.tolist() for k, v in labels.items()}


def test_a_cover_gives_the_classes_that_a_table_does_not_name(tmp_path: Path, frame: pd.DataFrame) -> None:
    covers = [c for c in table().cover if c.crop][:2]
    frame = frame.drop(columns=["landcover"]).assign(cover=[covers[0].key, covers[1].key, "", covers[0].key] * 10)
    samples = read_set(str(written(frame, tmp_path / "mine.csv")), 1)
    a, b = (c.landcover for c in covers)
    assert samples.labels["landcover"].tolist() == [a, b, 0, a] * 10
    assert samples.labels["crops"].tolist() == [0, 1, 1, 1] * 10  # its own column goes first
    assert samples.labelled == ("landcover", "crops")
    assert samples.labels["cover"][2] == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f.drop(columns=["landcover", "crops"]), "no column of labels"),
        (lambda f: f.drop(columns=["B8A_06"]), "no column B8A_06"),
        (lambda f: f[["id", "landcover"]], "no column of series"),
        (lambda f: f.assign(B04_07=0.13), "row 1: B04_07 = 0.13 is no DN"),
        (lambda f: f.assign(B04_07=-4), "B04_07 = -4 is no DN"),
        (
            lambda f: f.assign(B04_07="high"),
            "row 1: B04_07 = 'high' is no number; leave it empty where a value",
        ),
        (lambda f: f.assign(B04_07=[1, "NA"] * 20), "row 2: B04_07 = 'NA' is no number; leave it empty"),
        (lambda f: f.assign(lon="4,25", lat=["50,5", "?"] * 20), r"row 2: lat = '\?' is no number; leave it empty"),
        (lambda f: f.assign(lon="4,25", lat=50), "row 1: lon = '4,25' is no number; write 4.25"),
        (lambda f: f.assign(landcover="Lawn"), "row 1: landcover has no 'lawn'"),
        (
            lambda f: f.assign(landcover=["", "NA"] * 20),
            "row 2: landcover has no 'na'; .*; leave it empty where",
        ),
        (lambda f: f.rename(columns={"id": "ID"}), "column 'ID', which is not read; write id or leave it out"),
        (lambda f: f.rename(columns={"group": "Group "}), "column 'Group ', which is not read; write group"),
        (lambda f: f.assign(Landcover=1), "column 'Landcover', which is not read; write landcover or leave it out"),
        (lambda f: f.assign(id="same"), "the id same twice"),
        (lambda f: f[:0], "no rows"),
        (lambda f: f.rename(columns={"B02_03": "B02_3"}), "column 'B02_3', which is not read; write B02_03"),
        (lambda f: f.rename(columns={"B08_03": "B8_03"}), "write B08_03"),
        (lambda f: f.rename(columns={"B8A_03": "b08a-3"}), "write B8A_03"),
        (lambda f: f.rename(columns={"B11_10": "b11_10"}), "write B11_10"),
        (lambda f: f.assign(B02_00=1), "months count from B02_01, January"),
        (lambda f: f.assign(lon=4.0, lat=[50.0, 5645321.5] * 20), "row 2: lat = 5645321.5 is not in degrees"),
        (lambda f: f.assign(lon=-181, lat=90), "row 1: lon = -181 is not in degrees"),
    ],
)
def test_broken_tables_are_refused_by_column_and_row(
    tmp_path: Path, frame: pd.DataFrame, change: Any, said: str
) -> None:
    path = written(change(frame), tmp_path / "mine.csv")
    with pytest.raises(DataError, match=said) as e:
        read_set(str(path), 1)
    assert "\n" not in str(e.value)


def test_the_value_that_is_no_number_is_told_where_semicolons_separate(tmp_path: Path, frame: pd.DataFrame) -> None:
    lon = ["4,25", "4,5", "NA", "4,75"] * 10
    frame.assign(lon=lon, lat=50.5).to_csv(tmp_path / "mine.csv", index=False, sep=";", decimal=",")
    with pytest.raises(DataError, match="row 3: lon = 'NA' is no number; leave it empty"):
        read_set(str(tmp_path / "mine.csv"), 1)


def test_text_of_numbers_beside_empty_cells_is_read(tmp_path: Path, frame: pd.DataFrame) -> None:
    plain = read_set(str(written(frame, tmp_path / "a.parquet")), 1)
    stored = frame.assign(B11_05=frame["B11_05"].astype("string"))
    assert_same(plain, read_set(str(written(stored, tmp_path / "b.parquet")), 1))


def test_columns_that_are_not_read_are_counted(
    tmp_path: Path, frame: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    read_set(str(written(frame.assign(**{f"note{i}": 1 for i in range(13)}), tmp_path / "mine.csv")), 1)
    assert "columns that are not read: note0, note1, " in caplog.text
    assert "note9 and 3 more" in caplog.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: b"sep=,\n" + text, "begins with 'sep=,'; remove that line: the first one names"),
        (lambda text: b"# by me\n" + text, "begins with '# by me'; remove that line"),
        (lambda text: text.replace(b",", b"|"), r"one column, 'id\|group.*separate columns by commas, semicolons or"),
        (
            lambda text: text.replace(b",", b" "),
            "one column, 'id group.*separate columns by commas",
        ),
        (gzip.compress, r"mine\.csv is compressed \(gzip\); unpack it"),
    ],
)
def test_a_file_that_is_nearly_a_table_is_told_what_it_lacks(
    tmp_path: Path, frame: pd.DataFrame, change: Any, said: str
) -> None:
    path = written(frame, tmp_path / "mine.csv")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=said) as e:
        read_set(str(path), 1)
    assert "\n" not in str(e.value)


def test_a_packed_table_is_to_be_unpacked(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame.to_csv(tmp_path / "mine.csv.gz", index=False)
    with pytest.raises(InputError, match=r"mine\.csv\.gz is compressed; unpack it, and give the file that is in it"):
        read_set(str(tmp_path / "mine.csv.gz"), 1)


def test_empty_lines_before_the_names_of_columns_are_skipped(tmp_path: Path, frame: pd.DataFrame) -> None:
    plain = written(frame, tmp_path / "mine.csv")
    frame.to_csv(tmp_path / "late.csv", index=False, sep=";")
    (tmp_path / "late.csv").write_text("\n\n" + (tmp_path / "late.csv").read_text())
    assert_same(read_set(str(plain), 1), read_set(str(tmp_path / "late.csv"), 1))


def test_a_series_is_in_two_tables_whatever_its_id(tmp_path: Path, frame: pd.DataFrame) -> None:
    """Numbers of rows are no ids: tables of one name share nothing by them."""
    plain, paths = frame.drop(columns=["id", "group"]), {}
    for name, part in {
        "a": plain[:20], "b/a": plain[20:], "again": plain[12:30], "named": frame.drop(columns="group")[20:],
        "other/named": frame.drop(columns="group").assign(id=[f"p{39 - i:02d}" for i in range(40)])[:20],
    }.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        paths[name] = read_set(str(written(part, tmp_path / f"{name}.csv")), 1)
    for test, train, shared in (("a", "again", 8), ("again", "b/a", 10), ("again", "named", 10)):
        with pytest.raises(InputError, match=f"^{shared} samples of {test} are in the training set too"):
            paths[test].refuse_overlap(paths[train])
    paths["a"].refuse_overlap(paths["b/a"])
    paths["a"].refuse_overlap(paths["named"])
    with pytest.raises(
        InputError, match=r"^20 samples of named .* by their ids; leave --train out, or give .* ids$"
    ):  # other series, but both tables name their samples
        paths["named"].refuse_overlap(paths["other/named"])


def test_a_sample_without_a_month_is_in_no_other_table(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame = frame.drop(columns=["id", "group"])
    frame.loc[[3, 30], [c for c in frame if c.startswith("B")]] = np.nan
    a, b = (written(part, tmp_path / f"{n}.csv") for n, part in (("a", frame[:20]), ("b", frame[20:])))
    read_set(str(a), 1).refuse_overlap(read_set(str(b), 1))


def test_a_group_is_not_split_between_training_and_test(tmp_path: Path, frame: pd.DataFrame) -> None:
    frame = frame.drop(columns="id")
    frame.loc[[2, 22], "group"] = None  # groups of their own
    whole, cut = frame[20:], frame[20:].assign(group=["field 2", *frame["group"][21:]])
    a, b, c = (written(part, tmp_path / f"{n}.csv") for n, part in (("a", frame[:20]), ("b", whole), ("c", cut)))
    read_set(str(a), 1).refuse_overlap(read_set(str(b), 1))
    with pytest.raises(InputError, match=r"^1 group of a \(field 2\) may be in the training set too; leave --train"):
        read_set(str(a), 1).refuse_overlap(read_set(str(c), 1))


@pytest.mark.parametrize("index", ["id", "landcover", ["id", "landcover"]])
def test_columns_that_pandas_made_the_index_are_read(tmp_path: Path, frame: pd.DataFrame, index: Any) -> None:
    plain = read_set(str(written(frame, tmp_path / "a.parquet")), 1)
    assert_same(plain, read_set(str(written(frame.set_index(index), tmp_path / "b.parquet")), 1))


def test_labels_of_bytes_are_text(tmp_path: Path, frame: pd.DataFrame) -> None:
    stored = frame.assign(**{c: frame[c].str.encode("utf-8") for c in ("id", "landcover", "crops")})
    plain = read_set(str(written(frame, tmp_path / "a.parquet")), 1)
    assert_same(plain, read_set(str(written(stored, tmp_path / "b.parquet")), 1))


@pytest.mark.parametrize("name", ["mine.csv", "mine.parquet"])
def test_a_table_names_all_of_its_samples_or_none(tmp_path: Path, frame: pd.DataFrame, name: str) -> None:
    path = written(frame.assign(id=[None, *frame["id"][1:]]), tmp_path / name)
    with pytest.raises(DataError, match="row 1: the id is empty; give each sample its own, or none of them one"):
        read_set(str(path), 1)
    read = read_set(str(written(frame.assign(id=None), tmp_path / name)), 1)
    assert (read.id[39], read.own_ids) == ("mine/39", False)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_in_another_encoding_is_to_be_saved_anew(tmp_path: Path, frame: pd.DataFrame, encoding: str) -> None:
    frame.assign(group="champ d'été").to_csv(tmp_path / "mine.csv", index=False, encoding=encoding)
    scores = tmp_path / "scores.csv"
    scores.write_text("id,score,note\np01,5,été\n", encoding=encoding)
    good = str(written(frame, tmp_path / "good.csv"))
    for path, read in (
        (tmp_path / "mine.csv", lambda: read_set(str(tmp_path / "mine.csv"), 1)),
        (scores, lambda: read_set(good, 1, scenicness=scores)),
    ):
        with pytest.raises(DataError, match=f"{path.name} is no table .*; save it as CSV UTF-8") as e:
            read()
        assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("p01,5\np02,4\np01,1\n", "line 4: the id p01 has a score already"),
        ("p01,inf\n", "line 2: the score 'inf' is no number"),
        ("p01,nan\n", "line 2: the score 'nan' is no number"),
        ("p01\n", "line 2: the score None is no number"),
    ],
)
def test_scores_of_people_are_one_number_each(tmp_path: Path, frame: pd.DataFrame, lines: str, said: str) -> None:
    (tmp_path / "scores.csv").write_text(f"id,score\n{lines}")
    with pytest.raises(InputError, match=said):
        read_set(str(written(frame, tmp_path / "mine.csv")), 1, scenicness=tmp_path / "scores.csv")


def test_scores_of_other_places_are_told(tmp_path: Path, frame: pd.DataFrame, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "scores.csv").write_text("id,score\nx1,5\n")
    assert read_set(str(written(frame, tmp_path / "mine.csv")), 1, scenicness=tmp_path / "scores.csv").scores is None
    assert "no id of mine is among its 1; that set has ids such as p00" in caplog.text


def test_files_that_are_no_tables_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\x00\xff\xfe" * 40)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    for path in (tmp_path / "a.csv", tmp_path / "a.parquet", tmp_path / "none.csv"):
        with pytest.raises(GeomapError, match=path.name) as e:
            read_set(str(path), 1)
        assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="single pixels"):
        read_set(str(tmp_path / "a.csv"), 9)


@pytest.mark.parametrize("name", ["flanders", "corsica", "east_africa", "rondonia", "africa"])
def test_a_measured_set_in_another_file_is_refused(tmp_path: Path, frame: pd.DataFrame, name: str) -> None:
    paths = [written(frame, tmp_path / "a.csv"), written(frame, tmp_path / "a.parquet"), tmp_path / "a.npz"]
    np.savez(paths[2], a=np.arange(3))
    for path in (*paths, tmp_path / "cut.npz", tmp_path / "empty", tmp_path / "a.npy"):
        if path.stem == "cut":
            path.write_bytes(paths[2].read_bytes()[:100])
        elif path.stem == "empty":
            path.touch()
        elif path.suffix == ".npy":
            np.save(path, np.arange(3))
        with pytest.raises(DataError, match=rf"cannot read .*{path.name}: .*; it needs the (arrays|columns) ") as e:
            read_set(f"{name}={path}", 1)
        assert "\n" not in str(e.value)
        assert "pickle" not in str(e.value)
        own = f"{name} is the name of a known set: give a table of your own another name"
        assert str(e.value).endswith(own) == (path.suffix in (".csv", ".parquet"))


@pytest.fixture
def rondonia() -> dict[str, np.ndarray]:
    """Eight points in the layout of Rondonia, eleven steps each; February has none."""
    rng = np.random.default_rng(3)
    return {
        "x": rng.integers(1, 6000, (8, 11, 10)).astype(np.uint16),
        "month": np.tile(np.array([1, *range(3, 13)], np.int16), (8, 1)),
        "label": np.array(["Forest", "Water", "Wetland", "Clear_Cut_Bare_Soil"] * 2),
        "lon": np.full(8, -62.0),
        "lat": np.full(8, -10.0),
        "group": np.array(["a", "b"] * 4),
    }


def test_points_of_rondonia_have_their_steps_in_their_months(tmp_path: Path, rondonia: dict[str, np.ndarray]) -> None:
    rondonia["x"][0, 4] = 0  # the step of June is missing
    np.savez(tmp_path / "r.npz", **rondonia)
    samples = read_set(f"rondonia={tmp_path / 'r.npz'}", 1)
    kept = rondonia["label"] != "Clear_Cut_Bare_Soil"
    np.testing.assert_array_equal(samples.dn[:, rondonia["month"][0] - 1], rondonia["x"][kept])
    assert np.flatnonzero(~samples.valid[0]).tolist() == [1, 5]
    whole = rondonia | {"x": rondonia["x"].astype(float), "month": rondonia["month"].astype(float)}
    np.savez(tmp_path / "f.npz", **whole)
    assert_same(samples, read_set(f"rondonia={tmp_path / 'f.npz'}", 1))


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("x", lambda x: np.where(np.arange(11)[:, None] == 3, -9999, x.astype(np.int32)), "such as -9999 are no DNs"),
        ("x", lambda x: x / 10_000, "are no DNs (whole numbers of 0..65535, 0 for a missing one)"),
        ("x", lambda x: np.where(x > 5000, np.nan, x), "such as nan are no DNs"),
        ("x", lambda x: x.transpose(0, 2, 1), "x is (8, 10, 11) and month (8, 11), not (n, T, 10) and (n, T)"),
        ("x", lambda x: x[..., :4], "x is (8, 11, 4) and"),
        ("x", lambda x: x[:, :, 0], "x is (8, 11) and"),
        ("month", lambda month: month - 1, "month has 0; write whole months, 1 for January to 12 for December"),
        ("month", lambda month: month + 1, "month has 13; write"),
        ("month", lambda month: month + 0.5, "month has 1.5; write"),
        ("month", lambda month: month[0], "and month (11,), not"),
        ("label", lambda label: label[:5], "label is (5,) and x (8, 11, 10); each row of x has one label"),
        ("lat", lambda lat: lat[:, None], "lat is (8, 1) and x"),
        ("label", lambda label: label.astype("S"), "no label is known; labels are text such as Forest, "),
    ],
)
def test_points_of_rondonia_in_another_layout_are_refused(
    tmp_path: Path, rondonia: dict[str, np.ndarray], name: str, change: Any, said: str
) -> None:
    np.savez(tmp_path / "r.npz", **(rondonia | {name: change(rondonia[name])}))
    with pytest.raises(DataError, match=rf"r\.npz: .*{re.escape(said)}"):
        read_set(f"rondonia={tmp_path / 'r.npz'}", 1)


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("x", np.full((4, 3, 10), 500), "x is (4, 3, 10), not (n, 2, 10)"),
        ("x", np.full((4, 2, 10), -9999), "such as -9999 are no DNs"),
        ("crop", np.array([0, 1, 2, 1]), "crop has other values than 0 and 1"),
        ("region", np.array(["east"] * 3), "region is (3,) and x (4, 2, 10)"),
    ],
)
def test_a_crop_mask_in_another_layout_is_refused(tmp_path: Path, name: str, values: np.ndarray, said: str) -> None:
    made = {"x": np.full((4, 2, 10), 500), "crop": np.array([0, 1, 0, 1]), "region": np.array(["east", "west"] * 2)}
    np.savez(tmp_path / "ok.npz", **made)
    assert len(read_africa(tmp_path / "ok.npz")) == 4
    np.savez(tmp_path / "a.npz", **(made | {name: values}))
    with pytest.raises(DataError, match=re.escape(said)):
        read_africa(tmp_path / "a.npz")


def test_points_without_a_run_are_no_test_set(tmp_path: Path, untrained: str) -> None:
    for source in ("x.gpkg", "x.gpkg:fields", "x.GeoJSON", "x.shp"):
        done = geomap("evaluate", untrained, "--data", source, "--out", tmp_path / "o")
        refused(done, 2, source, "need --run DIR", "--column NAME")
    done = geomap("evaluate", untrained, "--data", "x.csv", "--points-crs", "EPSG:3035", "--out", tmp_path / "o")
    refused(done, 2, "--points-crs is for labelled points; give their --run DIR and --column NAME too, or leave it")


def test_the_command_measures_a_table(tmp_path: Path, frame: pd.DataFrame, untrained: str) -> None:
    path = written(frame, tmp_path / "mine.csv")
    arguments = ["evaluate", untrained, "--data", str(path), "--prompts", "D", "--draws", "0", "--out"]
    done = geomap(*arguments, tmp_path / "out")
    assert done.exit_code == 0, done.output
    (found,) = json.loads((tmp_path / "out" / "results.json").read_text())["sets"]
    (own,) = [
        s for s in found["scores"] if (s["legend"], s["method"], s["length"]) == ("landcover", "encoder", "monthly")
    ]
    loaded, samples = weights.load_weights(untrained), read_set(str(path), 1)
    with torch.inference_mode():
        dn = torch.from_numpy(samples.dn.astype(np.float32))
        embeddings = loaded.encoder(dn, torch.from_numpy(samples.valid), torch.arange(12))
    known = legends.load("landcover")
    nearest = (embeddings @ loaded.class_vectors[known.digest].T).argmax(1).numpy() + 1
    assert own["n"] == 40
    assert own["top1"] == pytest.approx((nearest == samples.labels["landcover"]).mean())
    assert "the column group" in found["baselines"]


def test_rows_take_every_array_along() -> None:
    n = 5
    labels = cover_labels(np.arange(n), np.zeros(n, np.intp))
    dn = np.arange(n * 120).reshape(n, 12, 10).astype(np.uint16)
    whole = Samples(
        "all", np.arange(n).astype(str), dn, np.ones((n, 12), bool), labels, np.arange(n), "field", np.arange(n) / 2,
        np.eye(n, dtype=np.float32), np.array(list("abcde")), np.zeros((n, 2)),
    )  # fmt: skip
    part = whole.rows(np.array([3, 1]))
    assert part.id.tolist() == ["3", "1"]
    for name, array in vars(whole).items():
        taken = getattr(part, name)
        if isinstance(array, np.ndarray):
            np.testing.assert_array_equal(taken, array[[3, 1]], name)
        elif name == "labels":
            assert {k: v.tolist() for k, v in taken.items()} == {k: v[[3, 1]].tolist() for k, v in array.items()}
        else:
            assert taken == array


def test_a_missing_package_is_named_with_this_pythons_own_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, untrained: str
) -> None:
    require_packages("evaluation", "numpy")
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setattr(sys, "executable", "/my venv/bin/python")
    with pytest.raises(InputError) as e:
        require_packages("evaluation", "sklearn", "no_such_package")
    assert str(e.value) == (
        "evaluation needs scikit-learn and no_such_package; "
        "type: '/my venv/bin/python' -m pip install scikit-learn no_such_package"
    )
    done = geomap("evaluate", untrained, "--data", "x.csv", "--out", tmp_path / "o")
    refused(done, 2, "-m pip install scikit-learn")
    assert not (tmp_path / "o").exists()


def test_builtin_vectors_are_those_of_each_legend() -> None:
    class Lengths:
        space, dim = towers.MINILM_SPACE, 3

        def encode(self, prompts: list[str]) -> torch.Tensor:
            rows = torch.tensor([[len(p), p.count("a"), p.count("e")] for p in prompts], dtype=torch.float32)
            return torch.nn.functional.normalize(rows, dim=-1)

    found = towers.builtin_vectors(Lengths())
    assert set(found) == {legends.load(name).digest for name in legends.builtin_names()}
    crops = legends.load("crops")
    torch.testing.assert_close(found[crops.digest], towers.class_vectors(crops, Lengths()))
