"""Sen4Map's files: composites against plain loops, both layouts, and what breaks them."""

import logging
import shlex
import shutil
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from geomap.datasets import sen4map
from geomap.errors import BusyError, ConfigError, DataError, InputError
from tests.support import layouts
from tests.support.runner import geomap, refused, start, typed

POINTS = ["34622836", "55082360", "40683280"]
ATTRIBUTES = {"lc1": ["B11", "A22", ""], "lu1": ["U111", "U312", "U420"], "nuts0": ["FR", "BG", "NL"]}
CLEAR = {2, 4, 5, 6, 7}
DATES = [
    "20180103", "20180120", "20180214", "20180301", "20180306", "20180311", "20180316", "20180409", "20180501",
    "20180506", "20180601", "20180602", "20180603", "20180720", "20180820", "20180901", "20180911", "20181130",
    "20171230", "20190101",
]  # fmt: skip
"""Two acquisitions and four in January and March (even counts), none in October and December, two of other years."""


def world(seed: int, dates: int = len(DATES)) -> tuple[np.ndarray, np.ndarray]:
    """Random DNs (dates, 10, 64, 64), some 0, and SCL (dates, 64, 64) with every class in the middle."""
    rng = np.random.default_rng(seed)
    dn = rng.integers(1, 9000, (dates, 10, 64, 64)).astype(np.uint16)
    dn[rng.random(dn.shape) < 0.02] = 0
    scl = rng.integers(0, 12, (dates, 64, 64)).astype(np.uint8)
    return dn, scl


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three points; the second never has a clear look in April, the third has a datatake in two granules."""
    dn, scl = zip(*(world(s) for s in range(3)), strict=True)
    scl[1][DATES.index("20180409")] = 9
    scenes = [layouts.image_ids(DATES) for _ in POINTS]
    scenes[2][1] = scenes[2][0].replace("T31UFS", "T31UGS")  # the second of January is the first's other granule
    path = tmp_path_factory.mktemp("sen4map") / "train.h5"
    return layouts.write_original(path, POINTS, scenes, dn, scl, ATTRIBUTES)


def loop_months(path: Path, point: str, side: int, composite: str) -> np.ndarray:
    """(12, 10, side, side) by plain loops over months, bands and pixels, straight from the file."""
    out = np.zeros((12, 10, side, side), int)
    with h5py.File(path) as f:
        group = f[f"Lucas_Point_{point}"]
        layers = [group[b][()] for b in layouts.ORIGINAL_BANDS]
        scl, names = group["SCL"][()], [str(n) for n in group.attrs["Image_ID"]]
    start = 32 - side // 2
    for month in range(12):
        tag = f"2018{month + 1:02d}"
        scenes = [i for i, n in enumerate(names) if n.startswith(tag)]
        for b, layer in enumerate(layers):
            for y in range(side):
                for x in range(side):
                    at = (start + y, start + x)
                    if composite == "official":
                        use = scenes or [i for i, n in enumerate(names) if n.startswith("2018")]
                        values = sorted(int(layer[(i, *at)]) if scl[(i, *at)] < 9 else 0 for i in use)
                        out[month, b, y, x] = values[(len(values) - 1) // 2] + 1
                    else:
                        first: dict[str, int] = {}  # by pass, the first scene that has data there
                        for i in scenes:
                            if scl[(i, *at)] > 1:
                                first.setdefault(names[i][:15], i)
                        found = [int(layer[(i, *at)]) for i in first.values() if scl[(i, *at)] in CLEAR]
                        values = sorted(value for value in found if value)
                        n = len(values)
                        out[month, b, y, x] = (values[(n - 1) // 2] + values[n // 2]) // 2 if n else 0
    return out


def loop_tokens(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A masked image as tokens, by loops: pixels without all bands take the centre's values."""
    _, _, h, w = image.shape
    filled, valid = np.zeros_like(image), np.zeros(12, bool)
    for m in range(12):
        centre = image[m, :, h // 2, w // 2]
        valid[m] = centre.min() > 0
        for y in range(h):
            for x in range(w):
                if valid[m]:
                    filled[m, :, y, x] = image[m, :, y, x] if image[m, :, y, x].min() > 0 else centre
    return filled.reshape(12, -1), valid


@pytest.mark.parametrize("side", [1, 5, 9])
def test_masked_months_equal_plain_loops(original: Path, side: int) -> None:
    got = sen4map.read_original(original, side)
    assert got.dn.shape == (3, 12, 10 * side * side)
    rows = {i: k for k, i in enumerate(got.id.tolist())}
    for point in POINTS:
        dn, valid = loop_tokens(loop_months(original, point, side, "masked"))
        np.testing.assert_array_equal(got.dn[rows[point]], dn)
        np.testing.assert_array_equal(got.valid[rows[point]], valid)
    assert got.valid.any()
    assert not got.valid[:, [9, 11]].any()  # no acquisition in October and December
    assert not got.valid[rows["55082360"], 3]  # acquired in April, never clear
    assert not got.dn[~got.valid].any()


@pytest.mark.parametrize("side", [1, 5])
def test_official_months_equal_plain_loops(original: Path, side: int) -> None:
    got = sen4map.read_original(original, side, "official")
    rows = {i: k for k, i in enumerate(got.id.tolist())}
    for point in POINTS:
        want = loop_months(original, point, side, "official").reshape(12, -1)
        np.testing.assert_array_equal(got.dn[rows[point]], want)
    assert got.valid.all()
    assert (got.dn[rows["55082360"], 3] == 1).all()  # acquired but masked: 0, + 1
    np.testing.assert_array_equal(got.dn[:, 9], got.dn[:, 11])  # no acquisition: that of the year
    assert (got.dn[:, 9] > 1).any()


@pytest.mark.parametrize(
    ("scl", "clear", "kept"),
    [(c, c in CLEAR, c < 9) for c in range(12)],
)
def test_each_scl_class_counts_as_published_and_as_in_maps(tmp_path: Path, scl: int, clear: bool, kept: bool) -> None:
    dn = np.full((3, 10), 700)
    dn[2] = 3000  # the third, of class `scl`, decides the lower middle of three; of two it is the upper
    path = layouts.write_original(
        tmp_path / "a.h5", POINTS[:1], [layouts.image_ids(["20180501", "20180511", "20180521"])], [dn],
        [np.array([9, 4, scl])], {k: v[:1] for k, v in ATTRIBUTES.items()},
    )  # fmt: skip
    masked = sen4map.read_original(path)
    official = sen4map.read_original(path, composite="official")
    assert (masked.dn[0, 4] == (1850 if clear else 700)).all()
    assert (official.dn[0, 4] == (701 if kept else 1)).all()


def test_labels_and_places_of_an_original(original: Path) -> None:
    got = sen4map.read_original(original)
    by_id = {i: k for k, i in enumerate(got.id.tolist())}
    wheat, road, none = (by_id[i] for i in POINTS)
    assert got.labels["landcover"][[wheat, road, none]].tolist() == [2, 1, 0]
    assert got.labels["landuse"][[wheat, road, none]].tolist() == [1, 8, 16]
    assert got.labels["crops"][[wheat, road, none]].tolist() == [1, 0, 0]
    assert set(got.labels) == {"landcover", "landuse", "crops"}
    assert got.country is not None
    assert got.country[[wheat, road]].tolist() == ["FR", "BG"]
    assert got.lonlat is not None
    # coordinates that the published table gives for these points
    np.testing.assert_allclose(
        got.lonlat[[wheat, road]], [[-1.5657420, 48.0305604], [24.6946220, 43.2976973]], atol=1e-5
    )


def test_the_command_cuts_and_refuses_other_patches(original: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "c.h5"
    command = ["samples", "cut", str(original), "--out", str(out), "--composite", "official"]
    done = geomap(*command, "--patch", "9")
    assert done.exit_code == 0
    assert "3 points of 9 x 9 pixels" in done.output
    got = sen4map.read_cut(out)
    np.testing.assert_array_equal(got.dn, sen4map.read_original(original, 9, "official").dn)
    before = out.read_bytes()
    assert geomap(*command, "--patch", "3").exit_code == 2
    assert out.read_bytes() == before
    same = geomap("samples", "cut", original, "--out", original)
    assert same.exit_code == 2
    assert sen4map.read_original(original).id.tolist() == sorted(POINTS)


def test_one_process_at_a_time_cuts_into_a_file(original: Path, tmp_path: Path) -> None:
    def again(stage: str, done: int, total: int) -> None:
        if done == 2:
            second = typed("samples", "cut", original, "--out", "c.h5", cwd=tmp_path)
            refused(second, BusyError.exit_code, "another run is writing c.h5")

    assert sen4map.cut_file(original, tmp_path / "c.h5", progress=again) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["c.h5"]
    np.testing.assert_array_equal(sen4map.read_cut(tmp_path / "c.h5").dn, sen4map.read_original(original).dn)


def test_a_killed_cut_is_in_nobodys_way(original: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from geomap.datasets.sen4map import cut_file\n"
        "cut_file(Path(sys.argv[1]), Path(sys.argv[2]), progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))"
    )
    out = tmp_path / "c.h5"
    assert start(code, original, out).wait() == -signal.SIGKILL
    assert not out.exists()
    assert sen4map.cut_file(original, out) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["c.h5"]


@pytest.mark.parametrize("composite", ["masked", "official"])
def test_cut_and_read_gives_what_the_original_gives(original: Path, tmp_path: Path, composite: str) -> None:
    seen: list[tuple[str, int, int]] = []
    n = sen4map.cut_file(original, tmp_path / "c.h5", 5, composite, progress=lambda *step: seen.append(step))
    assert n == 3
    assert seen == [("points", k, 3) for k in (1, 2, 3)]
    assert [p.name for p in tmp_path.iterdir()] == ["c.h5"]
    with h5py.File(tmp_path / "c.h5") as f:
        assert f.attrs["composite"] == composite
        group = f["Lucas_Point_34622836"]
        assert group["image"].shape == (12, 10, 5, 5)
        assert group["image"].dtype == np.uint16
        assert dict(group.attrs) == {"lc1": "B11", "lu1": "U111", "nuts0": "FR"}
    for side in (None, 1):
        whole, again = sen4map.read_original(original, side or 5, composite), sen4map.read_cut(tmp_path / "c.h5", side)
        np.testing.assert_array_equal(whole.id, again.id)
        np.testing.assert_array_equal(whole.dn, again.dn)
        np.testing.assert_array_equal(whole.valid, again.valid)
        for name, ids in whole.labels.items():
            np.testing.assert_array_equal(ids, again.labels[name])
    with pytest.raises(InputError, match="5 x 5"):
        sen4map.read_cut(tmp_path / "c.h5", 9)


def test_published_cut_files_are_official_and_carry_habitat_and_bioregion(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 9000, (3, 12, 10)).astype(np.float32)
    image[0, 3] = 0
    attributes = ATTRIBUTES | {
        "lc1_label": ["Common wheat", "Non built-up linear features", ""],
        "Coordinates": [np.array([48.0, -1.5]), np.array([43.3, 24.7]), np.array([52.6, 6.3])],
        "EUNIS_L2": ["Arable land and market gardens", "Coastal shingle", "Dry grasslands"],
        "bioregion_class_code": ["Atlantic", "BlackSea", "Atlantic"],
    }
    path = layouts.write_cut(tmp_path / "test_with_eunis.h5", POINTS, image, attributes)
    got = sen4map.read_cut(path)
    order = np.argsort(np.argsort(POINTS))
    assert got.name == "test_with_eunis"
    assert got.valid.all()
    np.testing.assert_array_equal(got.dn[order], np.maximum(image, 1))
    assert got.labels["habitat"][order].tolist() == [1, 44, 11]
    assert got.labels["bioregion"][order].tolist() == [4, 5, 4]


def test_a_masked_cut_file_masks_its_missing_months(tmp_path: Path) -> None:
    image = np.full((1, 12, 10), 500, np.uint16)
    image[0, 5] = 0
    image[0, 7, 2] = 0  # one band is missing
    path = layouts.write_cut(tmp_path / "a.h5", POINTS[:1], image, composite="masked")
    assert np.flatnonzero(~sen4map.read_cut(path).valid[0]).tolist() == [5, 7]


def test_a_broken_point_stops_the_reader_unless_the_publication_excludes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    points = ["34622836", "45281654"]
    path = layouts.write_original(
        tmp_path / "a.h5", points, [layouts.image_ids(["20180501"])] * 2, [np.full((1, 10), 9)] * 2,
        [np.array([4])] * 2, {"lc1": ["B11", "B11"]},
    )  # fmt: skip
    with h5py.File(path, "a") as f:
        del f["Lucas_Point_45281654"]["B8A"]
    with caplog.at_level(logging.WARNING):
        assert sen4map.read_original(path).id.tolist() == ["34622836"]
    assert "45281654" in caplog.text
    with h5py.File(path, "a") as f:
        del f["Lucas_Point_34622836"]["SCL"]
    with pytest.raises(DataError, match=r"Lucas_Point_34622836.*SCL"):
        sen4map.read_original(path)
    with pytest.raises(DataError, match="Lucas_Point_34622836"):
        sen4map.cut_file(path, tmp_path / "c.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


def test_what_is_no_such_file_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.h5"):
        sen4map.read_original(tmp_path / "none.h5")
    (tmp_path / "torn.h5").write_bytes(b"\x89HDF\r\n\x1a\n torn")
    with pytest.raises(DataError, match=r"torn\.h5"):
        sen4map.read_cut(tmp_path / "torn.h5")
    refused(geomap("samples", "cut", tmp_path / "torn.h5", "--out", tmp_path / "c.h5"), 2, "is cut short")
    good = np.full((1, 12, 10), 500, np.uint16)
    scaled = layouts.write_cut(tmp_path / "s.h5", POINTS[:1], good / 10_000)
    with pytest.raises(DataError, match="no DNs"):
        sen4map.read_cut(scaled)
    gap = layouts.write_cut(tmp_path / "g.h5", POINTS[:1], np.where(good == 500, np.nan, good))
    with pytest.raises(DataError, match="no DNs"):
        sen4map.read_cut(gap)
    short = layouts.write_cut(tmp_path / "t.h5", POINTS[:1], good[:, :11])
    with pytest.raises(DataError, match="not \\(12, 10"):
        sen4map.read_cut(short)
    other_year = layouts.write_original(
        tmp_path / "y.h5", POINTS[:1], [layouts.image_ids(["20190501"])], [np.full((1, 10), 9)], [np.array([4])]
    )
    with pytest.raises(DataError, match="2018"):
        sen4map.read_original(other_year)
    assert sen4map.read_original(other_year, year=2019).valid[0, 4]
    with pytest.raises(InputError, match="3"):
        sen4map.read_original(other_year, patch=3)
    with pytest.raises(InputError, match="median"):
        sen4map.read_original(other_year, composite="median")


def test_a_scene_with_the_offset_of_its_baseline_is_composed_without_it(tmp_path: Path) -> None:
    dn = np.full((4, 10), 700)
    dn[1:3] = 2700  # 1700 without the offset
    dn[1:3, 0] = 400  # darker than the offset: 1, the least that is no nodata
    dn[3] = 0
    days = ["20180501", "20180511", "20180611", "20180701"]
    scenes = [
        f"S2A_MSIL2A_{day}T105429_{baseline}_R051_T31UES_{day}T150000"
        for day, baseline in zip(days, ("N0206", "N0500", "N0400", "N0500"), strict=True)
    ]
    path = layouts.write_original(tmp_path / "a.h5", POINTS[:1], [scenes], [dn], [np.full(4, 4)])
    for composite, middle, more in (("masked", 1200, 0), ("official", 700, 1)):  # of two values, and + 1 DN
        got = sen4map.read_original(path, composite=composite).dn[0]
        assert (got[4, 1:] == middle + more).all()
        assert (got[5, 1:] == 1700 + more).all()
        assert got[5, 0] == 1 + more
        assert (got[6] == 0 + more).all()


@pytest.mark.parametrize("layer", ["B5", "SCL"])
def test_layers_of_another_pixel_size_are_refused(tmp_path: Path, layer: str) -> None:
    dn, scl = world(0, 1)
    path = layouts.write_original(tmp_path / "a.h5", POINTS[:1], [layouts.image_ids(["20180501"])], [dn], [scl])
    with h5py.File(path, "a") as f:
        group = f[f"Lucas_Point_{POINTS[0]}"]
        coarse = group[layer][:, ::2, ::2]
        del group[layer]
        group[layer] = coarse
    done = geomap("samples", "cut", path, "--out", tmp_path / "c.h5")
    refused(done, 2, f"{layer} is (1, 32, 32), not (1, 64, 64)")


def test_a_file_with_a_point_twice_damage_or_no_point_is_refused(tmp_path: Path) -> None:
    dn, scl = world(0, 1)
    path = layouts.write_original(tmp_path / "a.h5", POINTS[:1], [layouts.image_ids(["20180501"])], [dn], [scl])
    twice, torn, empty = (tmp_path / f"{name}.h5" for name in ("twice", "torn", "empty"))
    shutil.copy(path, twice)
    with h5py.File(twice, "a") as f:
        f.copy(f"Lucas_Point_{POINTS[0]}", POINTS[0])
    whole = path.read_bytes()
    torn.write_bytes(whole.replace(b"SNOD", bytes(4), 1))  # the first node of symbols is that of the root group
    h5py.File(empty, "w").close()
    for file, said in (
        (twice, f"has the point {POINTS[0]} twice; delete one of its two groups"),
        (torn, "torn.h5 is damaged; fetch it again"),
        (empty, "empty.h5 holds no point"),
    ):
        refused(geomap("samples", "cut", file, "--out", tmp_path / "c.h5"), 2, said)
    assert not (tmp_path / "c.h5").exists()


def test_an_original_file_is_to_be_cut_before_it_is_evaluated(original: Path, untrained: str, tmp_path: Path) -> None:
    done = geomap("evaluate", untrained, "--data", original, "--out", tmp_path / "o")
    line = refused(done, 2, "is an original Sen4Map file; cut it first: geomap samples cut ")
    words = shlex.split(line.partition("first: ")[2])[1:]
    words[words.index("--out") + 1] = str(tmp_path / "c.h5")
    assert geomap(*words).exit_code == 0
    assert len(sen4map.read_cut(tmp_path / "c.h5")) == 3
