"""The report page in a real browser, from file://: every switch, and what it shows against the maps' own pixels.

Both browsers are asked for what they do by themselves: drawing, pointers and keys, the layout, numbers of a locale, and
markup. What the page's script counts and writes as text is the same in both, and Firefox is asked of it by `make soak`.
"""

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from defusedxml import ElementTree
from PIL import Image
from pyproj import Transformer

from geomap.write.report import Curves, Extras, Picture, assessed, write_report
from tests.support.browser import CHROMIUM, FIREFOX, PROGRAMS, Seen, shown, started
from tests.support.pages import FACTS, GRID, HOSTILE, MONTHS, known, layers_for, write_maps, write_page

NAMES = ("Artificial land", "Cropland", "Woodland", "Water")
IDS, CONFIDENCE = known()
COLOURS = {1: (242, 217, 78), 2: (27, 107, 47), 3: (42, 127, 212), 4: (165, 217, 106)}  # of tests.support.pages
FADED = (228, 230, 233)


@pytest.fixture(scope="module", params=PROGRAMS)
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    with started(request.param) as browser:
        yield browser


chromium_alone = pytest.mark.parametrize("browser", [CHROMIUM], indirect=True)
"""What only Chromium lets a test see."""

script = pytest.mark.parametrize("browser", [CHROMIUM, pytest.param(FIREFOX, marks=pytest.mark.soak)], indirect=True)
"""What only the page's script decides."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page over four classes, with a picture of August (left half red) and a curve for each pixel."""
    folder = tmp_path_factory.mktemp("plain")
    classes, sure = layers_for(NAMES)
    maps, statistics = write_maps(folder, {classes: IDS, sure: CONFIDENCE})
    colours = np.zeros((*GRID.shape, 3), np.uint8)
    colours[:, :60, 0] = 255
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "JPEG", quality=95)
    codes = np.broadcast_to(np.arange(12, dtype=np.uint8)[:, None, None] * 8 + 25, (12, *GRID.shape)).copy()
    codes[4] = 255
    extras = Extras(
        (Picture("true_colour_2023_08", "True colour", "2023-08", 32631, file.getvalue()),),
        (Curves(32631, 1, codes),),
        FACTS | {"limits": ["none"], "command": "geomap map 1,2,3,4"},
    )
    return write_report(folder, maps, statistics, "Land cover", MONTHS, extras)


@pytest.fixture
def seen(browser: Any, plain: Path) -> Iterator[Seen]:
    with shown(browser, plain) as seen:
        yield seen


def areas(page: Any) -> dict[str, tuple[str, str]]:
    """Class -> hectares and share, as the legend shows them."""
    rows = page.locator("#legend tbody tr").all()
    cells = ([row.locator(cell).inner_text() for cell in (".name", ".ha", ".share")] for row in rows)
    return {name: (ha, share) for name, ha, share in cells}


def wanted(least: int = 0, off: int = 0) -> dict[str, tuple[str, str]]:
    """The same, counted in the maps."""
    total = (IDS > 0).sum()
    counts = {i: int(((i == IDS) & (least <= CONFIDENCE)).sum()) * (i != off) for i in (1, 2, 3, 4)}
    return {NAMES[i - 1]: (f"{n / 100:,.2f}", f"{100 * n / total:.1f}\u00a0%") for i, n in counts.items()}


def place(page: Any, row: int, column: int) -> tuple[float, float]:
    """Where a pixel's centre lies in the window, while the whole map is shown."""
    box = page.locator("#map").bounding_box()
    scale = min(box["width"] / GRID.width, box["height"] / GRID.height) * 0.97
    x = box["x"] + box["width"] / 2 + (column + 0.5 - GRID.width / 2) * scale
    return x, box["y"] + box["height"] / 2 + (row + 0.5 - GRID.height / 2) * scale


def drawn(page: Any) -> None:
    """Wait until what was asked for is drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def colour(page: Any, row: int, column: int) -> tuple[int, ...]:
    """The colour on the screen at a pixel."""
    drawn(page)
    x, y = place(page, row, column)
    shot = page.screenshot(clip={"x": int(x), "y": int(y), "width": 1, "height": 1})
    return tuple(Image.open(io.BytesIO(shot)).convert("RGB").getpixel((0, 0)))


def slide(page: Any, name: str, value: int) -> None:
    page.locator(f"#{name}").fill(str(value))


def test_areas_are_those_of_the_map_to_the_last_digit(seen: Seen) -> None:
    assert areas(seen.page) == wanted()
    assert seen.page.locator("#shown-ha").inner_text() == f"{(IDS > 0).sum() / 100:,.2f}"
    assert seen.page.locator("#shown-share").inner_text() == "100.0\u00a0%"


def test_the_map_has_its_colours_where_they_belong(seen: Seen) -> None:
    for row, column in ((20, 30), (50, 70), (70, 115), (25, 2)):
        assert colour(seen.page, row, column) == COLOURS[int(IDS[row, column])], (row, column)


def test_the_least_confidence_takes_area_and_fades_pixels(seen: Seen) -> None:
    row, column = (int(v) for v in np.argwhere((CONFIDENCE == 40) & (IDS > 0))[0])
    slide(seen.page, "least", 40)
    assert colour(seen.page, row, column) == COLOURS[int(IDS[row, column])]
    slide(seen.page, "least", 41)
    assert colour(seen.page, row, column) == FADED
    assert areas(seen.page) == wanted(least=41)
    assert seen.page.locator("#least-value").inner_text() == "41 %"


def test_a_class_can_be_switched_off_and_is_found_by_its_row(seen: Seen) -> None:
    page = seen.page
    page.get_by_label("Show Woodland").uncheck()
    assert areas(page) == wanted(off=3)
    row, column = (int(v) for v in np.argwhere(IDS == 3)[200])
    page.mouse.move(5, 5)
    assert colour(page, row, column) == FADED
    page.get_by_label("Show Woodland").check()
    page.locator("#legend tr", has_text="Water").hover()  # others step back
    assert colour(page, row, column) == FADED
    other, there = (int(v) for v in np.argwhere(IDS == 4)[200])
    assert colour(page, other, there) == COLOURS[4]


def test_a_pixel_tells_its_class_confidence_place_and_curve(seen: Seen) -> None:
    page, (row, column) = seen.page, (47, 63)
    page.mouse.move(*place(page, row, column))
    name = NAMES[IDS[row, column] - 1]
    assert f"Land cover: {name}, confidence {CONFIDENCE[row, column]}\u00a0%" in page.locator("#here").inner_text()
    page.mouse.click(*place(page, row, column))
    kept = page.locator("#kept").inner_text()
    east, north = GRID.west + 10 * column + 5, GRID.north - 10 * row - 5
    assert f"EPSG:32631 {east} {north}" in kept
    lon, lat = Transformer.from_crs(32631, 4326, always_xy=True).transform(east, north)
    assert f"{lon:.5f}, {lat:.5f}" in kept
    dots = page.locator("#kept circle title").all_text_contents()
    assert [text.partition(": ")[2] for text in dots] == [f"{0.08 * i:.2f}" for i in range(12) if i != 4]
    page.get_by_label("Forget this pixel").click()
    assert page.locator("#kept").is_hidden()


@script
def test_a_pixel_tells_its_second_class(browser: Any, tmp_path: Path) -> None:
    classes, sure = layers_for(NAMES)
    second = replace(classes, stem="landcover_second", description="Land cover: second class")
    next_ids = np.where(IDS > 0, IDS % 4 + 1, 0).astype(np.uint8)
    maps, statistics = write_maps(tmp_path, {classes: IDS, sure: CONFIDENCE, second: next_ids})
    made = write_report(tmp_path, maps, statistics, "Land cover", MONTHS, Extras(facts=FACTS))
    with shown(browser, made) as seen:
        seen.page.mouse.click(*place(seen.page, 47, 63))
        told = seen.page.locator("#kept dl").inner_text().splitlines()
        assert told[told.index("Land cover: second class") + 1] == NAMES[next_ids[47, 63] - 1]


@script
@pytest.mark.parametrize("epsg", [32601, 32633, 32660, 32719])
def test_degrees_agree_with_proj_anywhere(browser: Any, tmp_path: Path, epsg: int) -> None:
    grid = replace(GRID, epsg=epsg, west=280_000, north=7_912_340)
    with shown(browser, write_page(tmp_path, NAMES, grid)) as seen:
        seen.page.locator("#map").focus()
        seen.page.keyboard.press("Enter")
        said = seen.page.locator("#kept").inner_text()
    east, north = re.findall(rf"EPSG:{epsg} (\d+) (\d+)", said)[0]
    lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(float(east), float(north))
    assert f"{lon:.5f}, {lat:.5f}" in said


def test_two_maps_are_compared_at_a_line(seen: Seen) -> None:
    page = seen.page
    assert page.locator("#swipe").is_hidden()
    page.select_option("#other", label="True colour, August 2023")
    assert colour(page, 45, 30) == COLOURS[int(IDS[45, 30])]
    assert max(colour(page, 45, 90)) < 12  # the right half of the picture is black
    slide(page, "swipe", 200)
    red = colour(page, 45, 50)
    assert red[0] > 240
    assert max(red[1:]) < 12
    page.select_option("#layer", label="Land cover: confidence, percent")
    assert page.locator("#least-box").is_hidden()
    page.select_option("#other", "")
    assert page.locator("#swipe").is_hidden()


def test_the_keyboard_moves_zooms_and_keeps(seen: Seen) -> None:
    page = seen.page
    page.locator("#map").focus()
    before = page.locator("#map").get_attribute("aria-label")
    for _ in range(6):
        page.keyboard.press("+")
    page.keyboard.press("Enter")
    first = page.locator("#kept").inner_text()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    assert page.locator("#kept").inner_text() != first
    assert page.locator("#map").get_attribute("aria-label") != before  # the scale bar is shorter
    page.keyboard.press("0")
    page.keyboard.press("Escape")
    assert page.locator("#kept").is_hidden()
    drawn(page)
    assert page.locator("#map").get_attribute("aria-label") == before


def test_the_wheel_keeps_the_place_under_it_and_the_mouse_drags(seen: Seen) -> None:
    page = seen.page
    x, y = place(page, 30, 40)
    page.mouse.move(x, y)
    before = page.locator("#here").inner_text()
    page.mouse.wheel(0, -600)
    page.mouse.move(x + 0.5, y)
    assert page.locator("#here").inner_text() == before
    page.mouse.down()
    page.mouse.move(x + 150, y + 80, steps=5)
    page.mouse.up()
    page.mouse.move(x + 150.5, y + 80)
    assert page.locator("#here").inner_text() == before
    assert page.locator("#kept").is_hidden()  # a drag is no click


def test_a_window_that_changes_keeps_the_whole_map_or_the_place(seen: Seen) -> None:
    page, (row, column) = seen.page, (70, 115)
    for width, height in ((700, 1200), (1500, 500), (1280, 900)):
        page.set_viewport_size({"width": width, "height": height})
        assert colour(page, row, column) == COLOURS[int(IDS[row, column])], (width, height)
    page.locator("#in").click()
    drawn(page)
    before = page.locator("#map").get_attribute("aria-label")
    page.set_viewport_size({"width": 1280, "height": 1100})
    page.set_viewport_size({"width": 1280, "height": 900})
    page.pdf()
    drawn(page)
    assert page.locator("#map").get_attribute("aria-label") == before


def downloaded(page: Any, selector: str) -> tuple[str, str]:
    with page.expect_download() as waiting:
        page.locator(selector).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_text("utf-8")


@chromium_alone  # Playwright hears of no download over WebDriver BiDi
def test_downloads_hold_what_is_shown_and_formulas_stay_text(browser: Any, tmp_path: Path) -> None:
    with shown(browser, write_page(tmp_path)) as seen:
        page = seen.page
        name, text = downloaded(page, "#areas-csv")
        assert name == "landcover_areas.csv"
        rows = list(csv.DictReader(io.StringIO(text)))
        assert {r["id"]: r["pixels"] for r in rows} == {str(i): str((i == IDS).sum()) for i in (1, 2, 3, 4)}
        assert {r["name"] for r in rows} == {f"'{n}" if n.startswith("=") else n for n in HOSTILE}
        assert all(r["ha"] == f"{int(r['pixels']) / 100:.2f}" for r in rows)
        _, text = downloaded(page, "#places-csv")
        places = list(csv.DictReader(io.StringIO(text)))
        _, gpx = downloaded(page, "#gpx")
        points = ElementTree.fromstring(gpx).findall("{http://www.topografix.com/GPX/1/1}wpt")
        assert [(p.get("lon"), p.get("lat")) for p in points] == [(r["lon"], r["lat"]) for r in places]
        page.locator("#places button.go").first.click()
        lon, lat = float(places[0]["lon"]), float(places[0]["lat"])
        assert f"{lon:.5f}, {lat:.5f}" in page.locator("#kept").inner_text()


def test_names_of_markup_are_shown_as_they_were_typed(browser: Any, tmp_path: Path) -> None:
    with shown(browser, write_page(tmp_path)) as seen:
        assert set(areas(seen.page)) == set(HOSTILE)
        seen.page.locator("details").evaluate_all("all => all.forEach((d) => { d.open = true; })")
        assert HOSTILE[0] in seen.page.locator("#command").inner_text()
        assert seen.page.locator("#facts a", has_text="a b#c.tif").get_attribute("href") == "a%20b%23c.tif"
        assert seen.page.locator("#facts tr", has_text="a b#c.tif").locator("td").all_inner_texts()[1:] == [
            "1.2 kB",
            "5e" * 32,
        ]


@pytest.mark.parametrize("width", [360, 800, 1440])
def test_nothing_is_cut_off_at_any_width(browser: Any, plain: Path, width: int) -> None:
    with shown(browser, plain, width=width) as seen:
        assert seen.page.evaluate("document.documentElement.scrollWidth") <= width


def test_numbers_are_those_of_the_reader(browser: Any, tmp_path: Path) -> None:
    grid = replace(GRID, width=1200, height=400)  # more than 1,000 ha of water
    made = write_page(tmp_path, NAMES, grid)
    ids, _ = known(grid)
    for locale, comma in (("de-DE", lambda t: t.translate(str.maketrans(",.", ".,"))), ("en-GB", str)):
        with shown(browser, made, locale=locale) as seen:
            assert areas(seen.page)["Water"][0] == comma(f"{(ids == 4).sum() / 100:,.2f}")
    assert (ids == 4).sum() > 100_000


@chromium_alone  # Firefox packs its pages into streams, which are not counted here
@pytest.mark.parametrize("classes", [4, 44])
def test_it_prints_on_one_a4(browser: Any, tmp_path: Path, classes: int) -> None:
    names = [f"A class of many words and the number {i}" for i in range(classes)]
    with shown(browser, write_page(tmp_path, names, replace(GRID, width=900))) as seen:
        assert len(areas(seen.page)) == classes
        pdf = seen.page.pdf(prefer_css_page_size=True, print_background=True)
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1
    (box,) = set(re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", pdf))
    assert [round(float(v)) for v in box] == [595, 842]


@script
def test_an_assessed_map_shows_its_estimates_and_confusion(browser: Any, plain: Path, tmp_path: Path) -> None:
    estimate = {"value": 0.5, "ci95": 0.125}
    classes = [
        {
            "id": i, "name": name, "area_ha": {"value": 10.5 * i, "ci95": None if i == 2 else 1.25},
            "users_accuracy": estimate, "producers_accuracy": None, "points_reference": 7,
        }
        for i, name in enumerate(NAMES, 1)
    ]  # fmt: skip
    bins = [
        {"points": 30, "confidence": 0.25, "right": {"value": 0.5, "ci95": 0.2}, "area_share": 0.4},
        {"points": 40, "confidence": 0.95, "right": {"value": 1.0, "ci95": None}, "area_share": 0.6},
    ]
    whole = {
        "points": 1234, "overall_accuracy": estimate, "classes": classes, "notes": [HOSTILE[0]],
        "reliability": bins, "calibration_error": 0.13,
    }  # fmt: skip
    made = tmp_path / "index.html"
    made.write_bytes(assessed(plain.read_bytes(), {"landcover": {**whole, "confusion_points": np.eye(4).tolist()}}))
    assert assessed(b"<html>", {}) == b"<html>"
    with shown(browser, made) as seen:
        page = seen.page
        rows = page.locator("#legend tbody tr").all()
        found = {row.locator(".name").inner_text(): row.locator(".estimate").inner_text() for row in rows}
        assert found == {n: f"{10.5 * i:.2f}" + (" ± 1.25" if i != 2 else " ± ?") for i, n in enumerate(NAMES, 1)}
        assert page.locator("#honest").inner_text() == "Estimates."
        assert (
            page.locator("#not li").first.inner_text()
            == "Never. This map was assessed with 1,234 points: overall accuracy 50.0 ± 12.5 %. More below."
        )
        page.get_by_text("Assessment: Land cover").click()
        text = page.locator("#facts").inner_text()
        assert "1,234 points: overall accuracy 50.0 ± 12.5 %" in text
        assert HOSTILE[0] in text
        assert "expected calibration error): 13.0\u00a0%" in text
        table = page.locator("#facts details", has_text="Assessment").locator("table").last
        cells = [[cell.inner_text() for cell in row.locator("td").all()] for row in table.locator("tbody tr").all()]
        assert cells == [["25.0", "50.0 ± 20.0", "30", "40.0"], ["95.0", "100.0 ± ?", "40", "60.0"]]
        dots = page.locator("#trust-landcover circle").all()
        assert [float(dot.get_attribute("r")) for dot in dots] == pytest.approx([2 + 6 * 0.75**0.5, 8])
    unknown = {**whole, "confusion_points": np.eye(4).tolist(), "probability_sample": False}
    made.write_bytes(assessed(plain.read_bytes(), {"landcover": unknown}))
    with shown(browser, made) as seen:
        assert seen.page.locator("#honest").inner_text() == "Of some points."
        seen.page.get_by_text("Assessment: Land cover").click()
        told = "1,234 points, which are not known to be drawn by chance: overall accuracy"
        assert seen.page.locator("#facts").inner_text().count(told) == 1
        assert told in seen.page.locator("#not li").first.inner_text()
    part = {**whole, "confusion_points": np.eye(4).tolist(), "area_ha": 40.0, "map_ha": 108.0, "polygons": 39}
    made.write_bytes(assessed(plain.read_bytes(), {"landcover": part}))
    with shown(browser, made) as seen:
        assert seen.page.locator("#honest").inner_text() == "Of a part."
        assert not seen.page.locator("#legend .estimate").count()
        told = "39 polygons (1,234 pixels): overall accuracy of 40.0 of its 108.0 ha 50.0 ± 12.5 %"
        assert told in seen.page.locator("#not li").first.inner_text()


@script
def test_what_was_learned_shows_how_far_its_confidence_can_be_trusted(browser: Any, tmp_path: Path) -> None:
    bins = [[10, 0.25, 0.5], [40, 0.9, 0.75]]
    facts = {"trust": {"title": HOSTILE[0], "folds": 5, "error": 0.17, "bins": bins}}
    with shown(browser, write_page(tmp_path, NAMES, **facts)) as seen:
        page = seen.page
        assert page.locator("#not > ul > li").all_inner_texts() == ["Never. Only a sample tells.", "Not likelihood."]
        page.get_by_text("How far its confidence can be trusted").click()
        text = page.locator("#facts").inner_text()
        assert HOSTILE[0] in text
        assert "17.0\u00a0%" in text
        dots = page.locator("#trust circle").all()
        assert [d.locator("title").text_content() for d in dots] == [
            "confidence 25.0\u00a0%: 50.0\u00a0% of 10 pixels right",
            "confidence 90.0\u00a0%: 75.0\u00a0% of 40 pixels right",
        ]
        low, high = ([float(d.get_attribute(name)) for name in ("cx", "cy", "r")] for d in dots)
        assert low[0] < high[0]
        assert low[1] > high[1]
        assert "in 5 parts, each judged by what was learned from the others" in text
    facts["trust"]["kept"] = True
    with shown(browser, write_page(tmp_path / "kept", NAMES, **facts)) as seen:
        seen.page.get_by_text("How far its confidence can be trusted").click()
        text = seen.page.locator("#facts").inner_text()
        assert "From the labelled points, by the words alone, which are kept." in text
        assert high[2] == 8  # the most pixels
        assert high[0] - low[0] == pytest.approx(0.65 * 232)


@script
def test_earlier_runs_show_their_areas(browser: Any, tmp_path: Path) -> None:
    before = [
        {
            "months": ["2021-03", "2022-02"],
            "pixels": {"landcover": {"1": 100, "2": 0, "3": 7, "4": 0}},
            "other": ["landcover"],
        },
        {"months": ["2022-01", "2022-12"], "pixels": {"landcover": {"1": 1234, "2": 0, "3": 0, "4": 5}}, "other": []},
        {"months": ["2022-06", "2022-06"], "pixels": {}, "other": []},
    ]
    names = (HOSTILE[2], *NAMES[1:])
    with shown(browser, write_page(tmp_path, names, before=before)) as seen:
        rows = seen.page.locator("#legend tbody tr").all()
        found = {row.locator(".name").inner_text(): row.locator(".before").inner_text() for row in rows}
        assert found == dict(zip(names, ("12.34", "0.00", "0.00", "0.05"), strict=True))
        assert "January 2022 to December 2022" in seen.page.locator("#legend caption").inner_text()
        cells = {len(row.locator("td, th").all()) for row in seen.page.locator("#legend tr").all()}
        assert cells == {5}
        folded = seen.page.locator("details", has_text="Areas over the runs: Land cover")
        folded.locator("summary").click()
        heads = [head.inner_text() for head in folded.locator("th").all()]
        assert heads[2:] == ["Mar 2021 – Feb 2022 *", "2022", "2023, this map"]
        assert folded.locator("svg").first.bounding_box()["width"] == 120
        table = [[cell.inner_text() for cell in row.locator("td").all()] for row in folded.locator("tbody tr").all()]
        assert {row[0]: row[2:4] for row in table} == dict(
            zip(names, (["1.00", "12.34"], ["0.00", "0.00"], ["0.07", "0.00"], ["0.00", "0.05"]), strict=True)
        )
        assert {row[0]: row[4] for row in table} == {name: ha for name, (ha, _) in areas(seen.page).items()}
        lines = folded.locator("svg path").all()
        assert len(lines) == 4
        drawn_at = lines[[row[0] for row in table].index(names[0])].get_attribute("d")
        heights = [float(y) for y in re.findall(r"[ML]\S+ (\S+?)(?=L|$)", drawn_at)]
        counts = np.array([100, 1234, (IDS == 1).sum()])
        assert heights == pytest.approx(4 + 18 * (1 - counts / counts.max()))
        assert "Made in another way" in folded.locator("p").inner_text()
