from typing import Any

import pytest

from geomap.catalog.offset import decide_offset, parse_baseline, stated_offset
from geomap.errors import OffsetError
from geomap.sentinel2 import SCL


@pytest.mark.parametrize(
    ("told", "baseline", "flag", "stated", "offset"),
    [
        ("flag", "02.14", False, 0, 0),
        ("flag", "05.09", True, -1000, 0),  # the flag wins over the stated offset
        ("flag", "05.09", True, 0, 0),
        ("flag", None, True, None, 0),
        ("flag", "05.09", False, -1000, -1000),
        ("flag", "04.00", False, None, -1000),
        ("flag", "03.01", None, None, 0),
        ("flag", "05.09", False, 0, None),
        ("flag", "05.09", None, -1000, None),
        ("flag", None, False, -1000, None),
        ("stated", "05.10", None, -1000, -1000),
        ("stated", "02.12", None, 0, 0),
        ("stated", "02.12", None, None, 0),
        ("stated", "05.10", None, 0, None),
        ("stated", "02.12", None, -1000, None),
        ("stated", "05.10", None, None, None),
        ("stated", "05.10", None, -100, None),
        ("stated", None, None, -1000, None),
        ("baseline", "03.99", None, None, 0),
        ("baseline", "04.00", None, None, -1000),
        ("baseline", "05.10", None, -1000, -1000),
        ("baseline", "05.10", None, 0, None),
        ("baseline", "02.12", None, -1000, None),
        ("baseline", None, None, None, None),
        ("baseline", "unknown", None, None, None),
    ],
)
def test_offset_decision(told: Any, baseline: str | None, flag: bool | None, stated: int | None, offset: Any) -> None:
    facts: dict[str, Any] = {"item": "S2X", "baseline": baseline, "flag": flag, "stated": stated}
    if offset is None:
        with pytest.raises(OffsetError, match=r"S2X .*--offset applied .*--offset unapplied") as error:
            decide_offset("B04", told, **facts)
        assert (baseline or "not given") in str(error.value)
        assert "not given DN" not in str(error.value)
        for policy, forced in (("applied", 0), ("unapplied", -1000)):
            dn, reason = decide_offset("B04", told, **facts, policy=policy)  # type: ignore[arg-type]
            assert dn == forced
            assert f"--offset {policy}" in reason
    else:
        assert decide_offset("B04", told, **facts)[0] == offset
    assert decide_offset(SCL, told, **facts)[0] == 0


def test_a_policy_leaves_decided_scenes_alone_but_overrides_a_false_flag() -> None:
    def decide(told: Any, baseline: str, flag: bool | None, stated: int, policy: Any) -> int:
        return decide_offset("B04", told, item="S2X", baseline=baseline, flag=flag, stated=stated, policy=policy)[0]

    assert decide("flag", "05.09", True, -1000, "unapplied") == 0
    assert decide("flag", "02.14", False, 0, "unapplied") == 0
    assert decide("stated", "05.10", None, -1000, "applied") == -1000
    # Element84/earth-search issue 71: False, although the offset is off
    assert decide("flag", "05.11", False, -1000, "applied") == 0


def test_stated_offset_in_every_place() -> None:
    assert stated_offset({"raster:bands": [{"scale": 0.0001, "offset": -0.1}]}) == -1000
    assert stated_offset({"raster:scale": 0.0001, "raster:offset": -0.1}) == -1000
    assert stated_offset({"bands": [{"name": "B04", "raster:scale": 0.0001, "raster:offset": -0.1}]}) == -1000
    assert stated_offset({"raster:bands": [{"offset": -0.1}]}) == -1000
    assert stated_offset({"raster:offset": 0}) == 0
    assert stated_offset({"raster:bands": [{"nodata": 0}], "bands": []}) is None


def test_baselines_compare_as_numbers() -> None:
    assert parse_baseline("05.10") == (5, 10)
    assert parse_baseline("05.10") > parse_baseline("05.09") > parse_baseline("N04.00")  # type: ignore[operator]
    assert parse_baseline("N0510") == parse_baseline("0510") == (5, 10)  # as in names of products
    assert parse_baseline(None) is parse_baseline("5") is parse_baseline("510") is parse_baseline("N05100") is None
