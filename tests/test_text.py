"""Words of users in messages."""

from pathlib import Path

from geomap.text import shown


def test_long_text_is_cut_at_its_end_and_a_long_path_at_its_beginning() -> None:
    long = "/a/long/way" * 10 + "/points.gpkg"
    assert shown(long) == long[:77] + "..."
    assert shown(Path(long)) == "..." + long[-77:]
    assert shown(Path("points.gpkg")) == shown("points.gpkg") == "points.gpkg"
    assert shown("one\ntwo") == "one\\ntwo"
