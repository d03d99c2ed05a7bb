"""Wrong offsets are told by the pixels: no false alarm and no miss on the real scenes."""

import itertools
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from geomap.catalog import offset_check
from geomap.catalog.offset import OffsetPolicy, decide_offset
from geomap.catalog.offset_check import ENOUGH, FEW, GUARD_BANDS, VEGETATION, DarkCount, check, dark_np, judge
from geomap.errors import OffsetError
from geomap.sentinel2 import BANDS
from geomap.types import Dark, Scene, SceneAsset

Date = tuple[NDArray[np.uint8], dict[str, NDArray[np.uint16]]]


@pytest.fixture(scope="module")
def dates(shared: Path) -> list[Date]:
    """Of the 72 real dates, SCL at 20 m and the DNs of GUARD_BANDS without an offset."""
    with np.load(shared / "data/patch_belgium_2019/series.npz") as f:
        scl = f["SCL"].astype(np.uint8)
        bands = {band: f[band].astype(np.uint16) for band in GUARD_BANDS}
    return [(scl[t], {band: values[t] for band, values in bands.items()}) for t in range(len(scl))]


def counted(date: Date, added: int) -> Dark:
    """One date's vegetation, with DNs added to every valid value."""
    scl, bands = date
    counts = DarkCount({"S2X": scl == VEGETATION})
    for dn in bands.values():
        counts.see("S2X", slice(None), slice(None), np.where(dn > 0, dn + added, 0).astype(np.uint16))
    return counts.counts().get("S2X", Dark())


def scene(offset: int, baseline: str | None = "05.10", reason: str = "because") -> Scene:
    assets = {band: SceneAsset(band, f"/{band}.tif", offset, reason) for band in BANDS}
    when = datetime(2019, 6, 1, tzinfo=UTC)
    return Scene("S2X", "c", "earth-search-l2a", when, "sentinel-2a", "a", 32631, (4, 50, 5, 51), assets, baseline)


def test_a_right_decision_raises_no_alarm_on_any_real_date(dates: list[Date]) -> None:
    for date in dates:
        for right, added in ((0, 0), (-1000, 1000)):
            count = counted(date, added)
            assert judge(scene(right), count) == ("agrees" if count.values >= FEW else "not asked")
            assert check([scene(right)], {"S2X": count}) == {}


def test_a_wrong_decision_is_an_error_on_every_real_date_with_enough_vegetation(dates: list[Date]) -> None:
    strong = 0
    for date in dates:
        for wrong, added in ((-1000, 0), (0, 1000)):
            count = counted(date, added)
            if count.values < FEW:
                continue
            assert judge(scene(wrong), count) == "contradicts"
            if count.values >= ENOUGH:
                strong += 1
                with pytest.raises(OffsetError, match=rf"item S2X, B02: offset {wrong} DN decided \(because\)"):
                    check([scene(wrong)], {"S2X": count})
            else:
                assert "S2X" in check([scene(wrong)], {"S2X": count})
    assert strong == 2 * 40  # of 72 dates; the others are overcast or bare


@pytest.mark.parametrize("side", [6, 8, 12, 16, 24])
def test_no_window_of_a_real_date_raises_a_false_alarm(dates: list[Date], side: int) -> None:
    """Shreds of vegetation between clouds included."""
    shares = []
    for (scl, bands), row, col in itertools.product(dates, *2 * [range(0, 33 - side, side // 2)]):
        vegetation = scl[row : row + side, col : col + side] == VEGETATION
        counts = []
        for dn in bands.values():
            scale = len(dn) // 32
            counts.append(dark_np(dn[scale * row :, scale * col :][: scale * side, : scale * side], vegetation))
        count = sum(counts, Dark())
        assert judge(scene(0), count) in ("agrees", "not asked")
        shares += [(count.values, count.share)] if count.values >= FEW else []
    assert min(share for _, share in shares) > 0.29 > offset_check.PLAIN_AT_LEAST > offset_check.SHIFTED_AT_MOST
    assert min((share for values, share in shares if values >= ENOUGH), default=1) > 0.57


def test_the_offset_leaves_hardly_a_dark_value(dates: list[Date]) -> None:
    """Products before 04.00 hold DN 1 for negative reflectances: with the offset these would be dark."""
    for scl, bands in dates:
        masks = {band: dn[:: len(dn) // 32, :: len(dn) // 32][scl == VEGETATION] for band, dn in bands.items()}
        values = np.concatenate([m[m > 0] for m in masks.values()])
        assert not len(values) or (values == 1).mean() < 0.006 < offset_check.SHIFTED_AT_MOST


def test_counts_are_of_valid_vegetation_on_the_grid_of_20_m() -> None:
    vegetation = np.array([[True, True], [True, False]])
    coarse = np.array([[1000, 1001], [0, 5]], np.uint16)
    assert dark_np(coarse, vegetation) == Dark(values=2, dark=1)
    fine = np.full((4, 4), 7, np.uint16)
    fine[::2, ::2] = coarse
    assert dark_np(fine, vegetation) == Dark(2, 1)
    assert dark_np(np.array([[1, 65535]], np.uint16), np.ones((1, 2), bool)) == Dark(2, 1)


def test_blocks_and_tiles_add_up(dates: list[Date]) -> None:
    scl, bands = dates[0]
    whole, parts = DarkCount({"S2X": scl == VEGETATION}), DarkCount({"S2X": scl == VEGETATION})
    for band, dn in bands.items():
        whole.see("S2X", slice(None), slice(None), dn)
        scale = len(dn) // 32
        for rows, cols in itertools.product((slice(0, 12), slice(12, 32)), repeat=2):
            block = dn[scale * rows.start : scale * rows.stop, scale * cols.start : scale * cols.stop]
            parts.see("S2X", rows, cols, block)
        assert dn.shape == ((32, 32) if band == "B12" else (64, 64))
    assert parts.counts() == whole.counts()
    assert offset_check.total([whole.counts(), {"S2Y": Dark(1, 1)}, parts.counts()]) == {
        "S2X": whole.counts()["S2X"] + whole.counts()["S2X"],
        "S2Y": Dark(1, 1),
    }


def test_who_is_not_asked() -> None:
    bright = {"S2X": Dark(9000, 0)}
    assert judge(scene(-1000), Dark()) == "not asked"
    with pytest.raises(OffsetError):
        check([scene(0, None)], bright)  # a policy decided, the baseline is not known


def test_an_item_may_name_the_baseline_of_before_its_product_was_made_again() -> None:
    offset, reason = decide_offset("B02", "flag", item="S2X", baseline="02.14", flag=False)
    old = scene(offset, "02.14", reason)
    assert check([old], {"S2X": Dark(9000, 4000)}) == {}
    with pytest.raises(OffsetError, match="its item may name an old baseline: correct that"):
        check([old], {"S2X": Dark(9000, 0)})


def test_what_is_between_the_thresholds_is_a_doubt() -> None:
    for offset in (0, -1000):
        assert judge(scene(offset), Dark(1000, 100)) == "unclear"
        assert "10.0% of 1,000 values" in check([scene(offset)], {"S2X": Dark(1000, 100)})["S2X"]
        assert check([scene(offset)], {"S2X": Dark(100, 10)}) == {}


@pytest.mark.parametrize(
    ("facts", "policy", "dark", "says"),
    [
        ({"told": "flag", "flag": False, "stated": -1000}, "auto", 900, "type --offset applied, or map from an item"),
        (
            {"told": "flag", "flag": False, "stated": -1000},
            "applied",
            0,
            "type --offset unapplied, or map from an item",
        ),
        ({"told": "stated", "stated": None}, "unapplied", 900, "type --offset applied, or map from an item"),
        ({"told": "flag", "flag": True}, "auto", 0, "already taken off.*: map from an item file without"),
        ({"told": "stated", "stated": -1000}, "auto", 900, "agree.*: map from an item file without this scene"),
    ],
)
def test_the_error_names_what_helps(facts: dict[str, object], policy: OffsetPolicy, dark: int, says: str) -> None:
    """Where the metadata are plain, no policy changes the decision: then none is advised."""
    dn, reason = decide_offset("B02", item="S2X", baseline="05.11", policy=policy, **facts)  # type: ignore[arg-type]
    with pytest.raises(OffsetError, match=says) as error:
        check([scene(dn, "05.11", reason)], {"S2X": Dark(1000, dark)})
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
