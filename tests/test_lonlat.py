"""Boxes and polygons around the antimeridian, against whole degrees counted one by one."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from shapely.geometry import MultiPolygon, Polygon, box

from geomap.lonlat import Box, continuous, cut, grown, meet, sides, unwrapped, wrapped

LONGITUDES = st.integers(-180, 180)


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    """Boxes with edges on whole degrees, across the antimeridian or not, lines, points and the whole globe included."""
    south, north = sorted((draw(st.integers(-90, 90)), draw(st.integers(-90, 90))))
    return Box(draw(LONGITUDES), south, draw(LONGITUDES), north)


def meridians(a: Box) -> set[int]:
    """Whole degrees of longitude in a box, as -180..179; closed boxes with whole edges meet where they share one."""
    if a.west <= a.east:
        found = {lon for lon in range(-180, 181) if a.west <= lon <= a.east}
    else:
        found = {lon for lon in range(-180, 181) if lon >= a.west or lon <= a.east}
    return {-180 if lon == 180 else lon for lon in found}


@given(boxes(), boxes())
def test_boxes_touch_where_they_share_a_place(one, other):
    across = bool(meridians(one) & meridians(other))
    up = any(one.south <= lat <= one.north and other.south <= lat <= other.north for lat in range(-90, 91))
    assert one.touches(other) == other.touches(one) == (across and up)


@given(boxes())
def test_a_box_holds_the_places_between_its_edges_whatever_turn_they_are_on(a):
    lon, lat = (v.ravel() for v in np.meshgrid(np.arange(-180, 180), np.arange(-90, 91)))
    wanted = np.isin(lon, list(meridians(a))) & (lat >= a.south) & (lat <= a.north)
    for turn in (-360, 0, 360):
        np.testing.assert_array_equal(a.holds(lon + turn, lat), wanted)


@given(boxes())
def test_parts_and_bounds_are_the_box(a):
    assert set().union(*(meridians(part) for part in a.parts)) == meridians(a)
    assert all(part.west <= part.east for part in a.parts)
    west, south, east, north = a.bounds
    assert {(lon + 180) % 360 - 180 for lon in range(west, east + 1)} == meridians(a)
    assert (south, north) == (a.south, a.north)
    assert east - west == a.width
    assert a.polygons.area == a.width * (north - south)


@given(st.integers(-180, 179), st.lists(st.tuples(st.integers(0, 80), st.integers(0, 80)), min_size=1, max_size=5))
def test_the_union_of_near_boxes_is_the_smallest_around_them(start, spans):
    def at(lon: int) -> int:
        return (lon + 180) % 360 - 180

    near = [Box(at(start + min(a, b)), min(a, b), at(start + max(a, b)), max(a, b)) for a, b in spans]
    around = Box.union(near)
    held = set().union(*(meridians(a) for a in near))
    assert held <= meridians(around)
    assert {at(round(around.west)), at(round(around.east))} <= held  # no edge could move inward
    assert around.width == max(map(max, spans)) - min(map(min, spans))
    assert (around.south, around.north) == (min(map(min, spans)), max(map(max, spans)))


def test_numbers_come_through_a_union_as_they_were():
    one, other = Box(179.4058973, 0.9, 179.9, 1.8), Box(-179.95, 0.5, -179.6953565, 1.2)
    assert astuple(Box.union([one, other])) == (179.4058973, 0.5, -179.6953565, 1.8)
    assert astuple(Box.union([other, one])) == (179.4058973, 0.5, -179.6953565, 1.8)


@given(boxes())
def test_the_box_around_what_a_box_covers_is_that_box(a):
    assume(0 < a.width < 180 and abs(a.west) < 180 and abs(a.east) < 180)
    assert Box.around(a.polygons) == a  # cut at the antimeridian
    assert Box.around(box(*a.bounds)) == a  # beyond 180


@given(st.floats(-539, 539))
def test_a_wrapped_longitude_is_the_same_place(lon):
    turned = wrapped(lon)
    assert -180 <= turned <= 180
    assert (turned - lon) / 360 == pytest.approx(round((turned - lon) / 360), abs=1e-12)
    assert turned == lon or abs(lon) > 180


@given(st.integers(-180, 180), st.lists(st.integers(-89, 89), min_size=1))
def test_points_near_each_other_become_continuous(first, steps):
    straight = np.array([first, *(first + step for step in steps)], float)
    ring = (straight + 180) % 360 - 180
    np.testing.assert_array_equal(continuous(ring) - continuous(ring)[0], straight - straight[0])


def test_shapes_around_the_antimeridian():
    drawn = Polygon([(179, 67), (-179, 67), (-179, 68), (179, 68)])  # goes around the globe, as it stands
    beyond = unwrapped(drawn)
    assert beyond.equals(box(179, 67, 181, 68))
    west, east = cut(beyond)
    assert west.equals(box(-180, 67, -179, 68))
    assert east.equals(box(179, 67, 180, 68))
    assert unwrapped(box(-60, 0, 60, 1)).equals(box(-60, 0, 60, 1))
    assert [part.bounds for part in cut(box(-181, 0, -180, 1))] == [(179, 0, 180, 1)]
    assert Box.around(beyond) == Box(179, 67, -179, 68)
    both = MultiPolygon([west, east])
    assert sides(both) == [[east], [west]]
    assert sides(MultiPolygon([box(1, 1, 2, 2), box(-4, 1, -3, 2)])) == [[box(1, 1, 2, 2), box(-4, 1, -3, 2)]]
    assert Box.around(MultiPolygon([box(1, 1, 2, 2), box(-170, 1, -169, 2)])) == Box(-170, 1, 2, 2)  # not cut there


@given(boxes(), boxes())
def test_shapes_beyond_180_meet_areas_where_their_boxes_touch(a, b):
    for edges in (a, b):
        assume(edges.width and edges.south < edges.north)  # polygons with an inside
        assume(max(abs(edges.west), abs(edges.east)) < 180)  # 180 and -180 are one place, and two for polygons
    assert meet(a.polygons, box(*b.bounds)) == a.touches(b)


@pytest.mark.parametrize("latitude", [0.0, 50.7, -70.0, 82.0])
def test_an_area_grows_by_metres_on_every_side(latitude):
    area = box(179.9, latitude, 180, latitude + 0.1)
    wide = grown(area, 50)
    assert wide.is_valid
    assert len(sides(wide)) == 2  # beyond the antimeridian too
    up, aside = 50 / 111_694, 50 / 111_320 / np.cos(np.radians(latitude))
    assert wide.covers(box(179.9 - aside, latitude - up, 180, latitude + 0.1 + up))
    assert wide.covers(box(-180, latitude, -180 + aside, latitude + 0.1))
    assert wide.area < area.area + 0.5 * 12 * aside
