"""Job files: what they may say, what is refused and how, and whole runs of them over real scenes."""

import contextlib
import datetime
import json
import logging
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from geomap import aoi, files
from geomap.catalog import stac
from geomap.catalog.search import search
from geomap.cli import command
from geomap.errors import AoiError, ConfigError, GeomapError, InputError, WeightsError
from geomap.jobs.file import KEYS, JobKeys, JobPeriod, JobResources, read_job
from geomap.types import Period
from tests.support import REPOSITORY
from tests.support.archive import PATCH, items_of, write_items
from tests.support.outputs import digests
from tests.support.runner import geomap, refused
from tests.support.stac_items import WORLD, month_of

SHIPPED = sorted(p for p in (REPOSITORY / "pipelines").glob("*.yaml") if not p.name.startswith("train_"))
MINIMAL: dict[str, Any] = {
    "name": "patch",
    "area": [float(v) for v in PATCH.split(",")],
    "period": {"year": 2019},
    "legends": ["landcover"],
    "outputs": {"directory": "maps"},
}


def write(folder: Path, content: dict[str, Any] | str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


# --- what a job file may say


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_shipped_job_is_valid(path: Path) -> None:
    job = read_job(path)
    assert job.legends
    assert job.area.square_km > 100
    assert job.directory(job.keys.period.at(datetime.date(2024, 3, 1))).is_relative_to(REPOSITORY / "maps")


def test_there_is_a_job_for_a_country_for_a_protected_area_and_for_every_month() -> None:
    jobs = [read_job(path) for path in SHIPPED]
    asked = [({legend.name for legend in job.legends}, job.area.square_km) for job in jobs]
    assert any(names >= {"landcover", "crops"} and size > 2_586 for names, size in asked)  # km2 of Luxembourg
    assert any(names >= {"habitat", "scenicness"} for names, _ in asked)
    assert [job.keys.period.last for job in jobs].count(12) == 1


def test_weights_pinned_by_shipped_jobs_are_those_that_come_with_geomap() -> None:
    from geomap.jobs import due as jobs

    pinned = [job for job in map(read_job, SHIPPED) if job.keys.weights.sha256]
    assert pinned
    for job in pinned:
        assert jobs.request(job, job.keys.period.at(datetime.date(2024, 3, 1))).weights == "default"


@pytest.mark.parametrize(
    ("keys", "today", "period"),
    [
        ({"year": 2023}, "2025-06-30", Period(2023, 1, 12)),
        ({"start": "2022-10"}, "2025-06-30", Period(2022, 10, 12)),
        ({"start": "2022-10", "months": 3}, "2025-06-30", Period(2022, 10, 3)),
        ({"last": 12}, "2024-03-01", Period(2023, 3, 12)),
        ({"last": 12}, "2024-03-31", Period(2023, 3, 12)),
        ({"last": 12}, "2024-01-01", Period(2023, 1, 12)),
        ({"last": 12}, "2023-12-31", Period(2022, 12, 12)),
        ({"last": 1}, "2024-01-31", Period(2023, 12, 1)),
        ({"last": 3}, "2024-02-29", Period(2023, 11, 3)),
    ],
)
def test_a_period_is_whole_months_before_the_day(keys: dict[str, Any], today: str, period: Period) -> None:
    assert JobPeriod.model_validate(keys).at(datetime.date.fromisoformat(today)) == period


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outline = {"type": "Polygon", "coordinates": [[[4, 50], [4.1, 50], [4.1, 50.1], [4, 50]]]}
    (tmp_path / "in here").mkdir()
    (tmp_path / "in here/outline.geojson").write_text(json.dumps(outline))
    legend = (REPOSITORY / "geomap/legends/landcover.toml").read_text().replace('"landcover"', '"mine"', 1)
    (tmp_path / "in here/mine.toml").write_text(legend)
    files = {"area": "outline.geojson", "legends": ["mine.toml"], "outputs": {"directory": "../{period}/maps"}}
    write(tmp_path / "in here", MINIMAL | files)
    monkeypatch.chdir(tmp_path)
    job = read_job(Path("in here/job.yaml"))
    assert job.area == aoi.parse_area(json.dumps(outline))
    assert job.legends[0].name == "mine"
    assert job.directory(Period(2019, 1)) == tmp_path / "2019-01_2019-12/maps"
    (tmp_path / "outline.geojson").write_bytes((tmp_path / "in here/outline.geojson").read_bytes())
    (tmp_path / "in here/outline.geojson").unlink()
    with pytest.raises(ConfigError, match=r"area: .*outline\.geojson"):  # one in the working directory is another
        read_job(Path("in here/job.yaml"))


def test_classes_and_areas_as_text(tmp_path: Path) -> None:
    square = "POLYGON ((4 50, 4.1 50, 4.1 50.1, 4 50.1, 4 50))"
    changes = {"area": square, "classes": ["olive grove", "maize"], "within": "landcover = Cropland"}
    job = read_job(write(tmp_path, {k: v for k, v in MINIMAL.items() if k != "legends"} | changes))
    assert [c.name for c in job.legends[0].classes] == ["olive grove", "maize"]
    assert job.keys.within == "landcover = Cropland"
    assert job.area.geometry.equals(aoi.parse_area("4,50,4.1,50.1").geometry)


NO_OUTPUTS = {k: v for k, v in MINIMAL.items() if k != "outputs"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (MINIMAL | {"legnds": ["crops"]}, ["legnds: unknown key", "legends"]),
        (MINIMAL | {"catalogue": {"token": "x"}}, ["catalogue.token: unknown key", "stac"]),
        (MINIMAL | {"password": "x"}, ["password: unknown key"]),
        (MINIMAL | {"name": "My job"}, ["name"]),
        (MINIMAL | {"area": [4, 50, 5]}, ["area", "four numbers"]),
        (MINIMAL | {"area": [4, 50, 5, True]}, ["area", "four numbers"]),
        (MINIMAL | {"area": 4}, ["area", "WKT"]),
        (MINIMAL | {"area": [50.7, 104.1, 50.8, 104.2]}, ["longitude first"]),
        (MINIMAL | {"area": "nowhere.gpkg"}, ["nowhere.gpkg", "job.yaml"]),
        (MINIMAL | {"period": {}}, ["period", "year", "last"]),
        (MINIMAL | {"period": {"year": 2023, "last": 12}}, ["period", "one of"]),
        (MINIMAL | {"period": {"year": 2023, "months": 3}}, ["period", "months goes with start"]),
        (MINIMAL | {"period": {"year": "2023"}}, ["period.year", "integer"]),
        (MINIMAL | {"period": {"year": 1999}}, ["period.year", "2015"]),
        (MINIMAL | {"period": {"start": "2023-13"}}, ["period.start"]),
        (MINIMAL | {"period": {"start": datetime.date(2023, 1, 1)}}, ["period.start", "string"]),
        (MINIMAL | {"period": {"last": 13}}, ["period.last", "12"]),
        (MINIMAL | {"period": {"last": True}}, ["period.last", "integer"]),
        (MINIMAL | {"period": {"last": 12}}, ["outputs.directory", "{period}"]),
        (MINIMAL | {"legends": "landcover"}, ["legends"]),
        (MINIMAL | {"legends": []}, ["nothing to map"]),
        (MINIMAL | {"legends": ["landcvoer"]}, ["landcvoer", "landcover", "job.yaml"]),
        (MINIMAL | {"legends": ["mine.toml"]}, ["mine.toml"]),
        (MINIMAL | {"classes": ["a, b", "c"]}, ["classes.1"]),
        (MINIMAL | {"classes": ["vineyard"]}, ["classes needs two or more"]),
        (MINIMAL | {"catalogue": {"max_cloud": 101}}, ["catalogue.max_cloud", "100"]),
        (MINIMAL | {"catalogue": {"max_cloud": float("nan")}}, ["catalogue.max_cloud"]),
        (MINIMAL | {"catalogue": {"offset": "maybe"}}, ["catalogue.offset", "unapplied"]),
        (MINIMAL | {"catalogue": None}, ["catalogue"]),
        (MINIMAL | {"weights": {"sha256": "8E1B"}}, ["weights.sha256"]),
        (MINIMAL | {"min_clear_months": 0}, ["min_clear_months", "1"]),
        (MINIMAL | {"min_confidence": "40"}, ["min_confidence", "number"]),
        (MINIMAL | {"within": "landcover"}, ["within", "landcover=Cropland"]),
        (NO_OUTPUTS, ["outputs"]),
        (MINIMAL | {"outputs": {"directory": "{month}"}}, ["outputs", "{period}"]),
        (MINIMAL | {"outputs": {"directory": "${HOME}/maps"}}, ["outputs", "{period}"]),
        (MINIMAL | {"outputs": {"directory": "~/maps"}}, ["outputs", "~"]),
        (MINIMAL | {"outputs": {"directory": "a\x00b"}}, ["outputs.directory", "control"]),
        (MINIMAL | {"outputs": {"directory": "maps", "save_composites": "maybe"}}, ["outputs.save_composites"]),
        (MINIMAL | {"resources": {"workers": -1}}, ["resources.workers", "0"]),
        (MINIMAL | {"resources": {"memory": "much"}}, ["resources.memory"]),
        (MINIMAL | {"resources": {"scheduler": "http://a:1"}}, ["resources.scheduler"]),
        (MINIMAL | {"resources": {"scheduler": "tcp://a:1", "workers": 2}}, ["resources.scheduler", "not both"]),
        (MINIMAL | {"resources": {"scheduler": "tcp://a:1", "memory": "4 GB"}}, ["resources", "alone"]),
        ("- a\n- b\n", ["keys with values"]),
        ("1: a\n", ["keys with values"]),
        ("", ["keys with values"]),
        ("name: [a\n", ["line 2", "not valid YAML"]),
        ("outputs: {directory: maps/{period}}\n", ["line 1", "not valid YAML", 'quote a value with braces: "maps/']),
        ("name: a\nname: b\n", ["'name' is there twice"]),
        ("a: 1\n---\nb: 1\n", ["not valid YAML", "document"]),
        ("name: !!python/object/apply:os.system [id]\n", ["line 1", "tags"]),
        ("name: !include /etc/passwd\n", ["line 1", "tags"]),
        ("name: &a x\ntitle: *a\n", ["line 1", "aliases"]),
        ("name: " + "[" * 100_000, ["levels"]),
        ("name: [" + "1, " * 100_000 + "]", ["10000 values"]),
        ("name: " + "9" * 100_000, ["not valid YAML"]),
        ("name: 2019-99-99\n", ["not valid YAML"]),
        ("name: '" + "x" * 1_000_000 + "'", ["larger than 1000000 bytes"]),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_key(
    tmp_path: Path, content: dict[str, Any] | str, says: list[str]
) -> None:
    path = write(tmp_path, content)
    with pytest.raises(InputError) as error:
        read_job(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    for text in says:
        assert text in message


def test_all_problems_are_told_at_once_one_line_each(tmp_path: Path) -> None:
    content = MINIMAL | {
        "catalgue": {"stac": "cdse"},
        "area": "nowhere.gpkg",
        "period": {"yaer": 2019},
        "legends": ["landcvoer", "crops", "mine.toml"],
        "masks": {"opening": 99},
        "min_confidence": 101,
        "outputs": {"directry": "maps"},
    }
    path = write(tmp_path, content)
    with pytest.raises(ConfigError) as error:
        read_job(path)
    first, *lines = str(error.value).splitlines()
    assert first == f"{path}: {len(lines)} problems"
    said = dict(line.strip().split(": ", 1) for line in lines)
    assert len(said) == len(lines)
    unknown, others = {"catalgue", "period.yaer", "outputs.directry"}, {"area", "masks.opening", "min_confidence"}
    assert set(said) == unknown | others | {"legends.1", "legends.3"}
    assert said["catalgue"].startswith("unknown key; did you mean catalogue? The keys here are period, legends, ")
    assert "did you mean directory?" in said["outputs.directry"]  # and not: directory is missing
    assert said["min_confidence"] == "must be less than or equal to 100"
    assert "'landcvoer'; use one of bioregion, crops" in said["legends.1"]
    shown = geomap("run", path)
    assert shown.exit_code == 2
    assert shown.stderr.splitlines() == [f"geomap: {first}", *lines]


def test_only_the_first_problems_are_told_and_the_rest_is_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read_job(write(tmp_path, MINIMAL | {f"key{i}": 1 for i in range(30)}))
    first, *lines, last = str(error.value).splitlines()
    assert first.endswith("30 problems")
    assert (len(lines), last.strip()) == (20, "and 10 more")


@pytest.mark.parametrize(
    "changes",
    [
        {"catalogue": {"stac": "https://me:SECRET@stac.example.org"}},
        {"catalogue": {"stac": "https://stac.example.org/v1?token=SECRET"}},
        {"catalogue": {"stac": "https://stac.example.org/v1#SECRET"}},
        {"catalogue": {"allow_hosts": ["me:SECRET@example.org"]}},
        {"resources": {"scheduler": "tcp://me:SECRET@a:8786"}},
        {"catalogue": {"access_key": "SECRET"}},
        "name: a: SECRET\n",
        "name: [SECRET, }\n",
        "name: *SECRET\n",
    ],
)
def test_secrets_are_refused_and_not_repeated(tmp_path: Path, changes: dict[str, Any] | str) -> None:
    path = write(tmp_path, changes if isinstance(changes, str) else MINIMAL | changes)
    with pytest.raises(ConfigError) as error:
        read_job(path)
    assert "SECRET" not in str(error.value)


def test_the_billion_laughs_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    with pytest.raises(ConfigError, match="aliases"):
        read_job(write(tmp_path, "\n".join(lines)))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.yaml", tmp_path, Path("/dev/zero")):
        with pytest.raises(ConfigError, match=re.escape(str(path))):
            read_job(path)
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml"):
        read_job(tmp_path / "latin.yaml")


def test_memory_is_for_the_whole_run() -> None:
    def memory(**keys: Any) -> int | None:
        return JobResources.model_validate(keys).memory_bytes

    assert memory() is None
    assert memory(memory="4 GB") == 4_000_000_000
    assert memory(memory="1.5GiB") == 1_610_612_736
    assert memory(memory="4GiB", workers=3) == 14 * 2**30  # 2 GiB for the process that leads them


# --- any input at all: a value or an error of geomap's own, quickly

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20), st.dates(), st.sampled_from(PATCH)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(string.ascii_lowercase, max_size=8), inner),
    max_leaves=12,
)
FULL: dict[str, Any] = MINIMAL | {
    "catalogue": {"stac": "earth-search", "max_cloud": 80, "allow_hosts": ["example.org"]},
    "classes": ["a", "b"],
    "weights": {"name": "default"},
    "within": "landcover=Cropland",
    "resources": {"workers": 2, "memory": "4 GB"},
}
PLACES = [(k,) for k in FULL] + [(k, inner) for k, v in FULL.items() if isinstance(v, dict) for inner in v]
QUICK = settings(max_examples=130, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(st.sampled_from(PLACES), VALUES)
def test_any_value_anywhere_is_a_job_or_an_input_error(tmp_path: Path, place: tuple[str, ...], value: Any) -> None:
    content = json.loads(json.dumps(FULL))
    within = content
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = value
    with contextlib.suppress(InputError):
        assert read_job(write(tmp_path, yaml.safe_dump(content, allow_unicode=True))).area.square_km > 0
    assert [p.name for p in tmp_path.iterdir()] == ["job.yaml"]


@QUICK
@given(st.binary(max_size=200) | st.text("a:-[]{}&*!|>%@`'\"#,? \n\t0129.eE~<=", max_size=60).map(str.encode))
def test_any_bytes_are_refused_as_a_job(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "job.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as error:
        read_job(tmp_path / "job.yaml")
    lines = str(error.value).splitlines()
    assert lines[0].startswith(str(tmp_path / "job.yaml"))
    assert len(lines) <= 22
    assert all(line.isprintable() for line in lines)


NUMBERS = st.one_of(st.floats(), st.floats(-200, 200), st.integers(-(10**400), 10**400), st.sampled_from(PATCH))
RINGS = st.lists(st.tuples(NUMBERS, NUMBERS), max_size=6)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of GEOS and GDAL, before they refuse
@QUICK
@given(
    st.one_of(
        st.lists(NUMBERS, min_size=4, max_size=4).map(lambda v: ",".join(map(str, v))),
        RINGS.map(lambda ring: f"POLYGON (({', '.join(f'{x} {y}' for x, y in [*ring, *ring[:1]])}))"),
        RINGS.map(lambda ring: json.dumps({"type": "Polygon", "coordinates": [[*ring, *ring[:1]]]})),
        VALUES.map(lambda v: json.dumps({"type": "Feature", "geometry": v}, default=str)),
        VALUES.map(lambda v: json.dumps({"type": "Polygon", "coordinates": v}, default=str)),
    )
)
def test_any_shape_is_an_area_or_an_aoi_error(text: str) -> None:
    with contextlib.suppress(AoiError):
        assert 0 < aoi.parse_area(text).square_km <= aoi.MAX_AREA_KM2


@pytest.mark.parametrize(
    "text", ["{0},{0},{0},.", "POLYGON(({0} {0}, {0} .", "SRID={0};POLYGON", "{0}", '{{"a": {0}}}']
)
def test_a_long_wrong_area_is_refused_without_trying_every_split_of_its_digits(text: str) -> None:
    with pytest.raises(AoiError):
        aoi.parse_area(text.format("1" * 100_000))


def places(value: Any, where: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [where, *(p for k, v in inner for p in places(v, (*where, k)))]


@QUICK
@given(st.data())
def test_any_change_of_a_stac_item_is_scenes_or_an_error(
    tmp_path: Path, pc: dict[str, Any], data: st.DataObject
) -> None:
    item = json.loads(json.dumps(pc))
    place = data.draw(st.sampled_from([p for p in places(item) if p]))
    within = item
    for key in place[:-1]:
        within = within[key]
    within[place[-1]] = json.loads(json.dumps(data.draw(VALUES), default=str))
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    with contextlib.suppress(GeomapError):
        search(WORLD, month_of(pc), str(tmp_path / "items.json"))


# --- drift: the job file, the request, the command line and the reference say the same


def keys_of(model: type[BaseModel], prefix: str = "") -> dict[str, Any]:
    """Dotted keys of a model -> their defaults."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= keys_of(inner, f"{prefix}{name}.")
        else:
            found[prefix + name] = "required" if field.is_required() else field.default
    return found


def test_the_reference_names_every_key_and_its_default() -> None:
    rows = re.findall(r"^\| `([a-z_.0-9]+)` \| (.*?) \|", (REPOSITORY / "docs/jobs.md").read_text(), re.MULTILINE)
    said = {key: default.strip("`") for key, default in rows}
    assert len(said) == len(rows)
    spoken = {None: "", "required": "required", (): ""}
    for key, default in keys_of(JobKeys).items():
        text = spoken.get(default, str(default).lower() if isinstance(default, bool) else str(default))
        if isinstance(default, tuple) and default:
            text = f"[{', '.join(map(str, default))}]"
        assert said.pop(key) == text, key
    assert not said


def test_messages_name_keys_that_exist_for_options_that_exist() -> None:
    options = {o for name in ("map", "run") for p in command(name).params for o in p.opts}
    assert set(KEYS) <= options
    assert set(KEYS.values()) <= keys_of(JobKeys).keys()


def test_a_minimal_job_asks_what_the_command_line_asks(tmp_path: Path) -> None:
    from geomap.jobs import due as jobs
    from geomap.legends import load
    from geomap.run.request import Request

    job = read_job(write(tmp_path, MINIMAL))
    period = Period(2019, 1)
    assert jobs.request(job, period) == Request(job.area, period, "earth-search", (load("landcover"),))
    short = read_job(write(tmp_path, MINIMAL | {"period": {"start": "2019-04", "months": 2}}))
    assert jobs.request(short, Period(2019, 4, 2)).min_clear_months == 2


def test_all_of_a_job_reaches_the_request(tmp_path: Path, untrained: str) -> None:
    from geomap.composite.mask import Mask
    from geomap.jobs import due as jobs
    from geomap.run.workers import Resources

    content = MINIMAL | {
        "catalogue": {
            "stac": "items.json",
            "collection": "c",
            "max_cloud": 60,
            "offset": "applied",
            "allow_hosts": ["a.example"],
            "max_missed": 25,
            "deadline": 30,
        },
        "weights": {"name": untrained},
        "masks": {"classes": [0, 3, 8, 9], "opening": 1, "dilation": 2},
        "min_clear_months": 4,
        "min_confidence": 40,
        "within": "landcover=Cropland",
        "outputs": {"directory": "maps", "save_composites": True, "save_embeddings": True},
        "resources": {"device": "cpu", "workers": 2, "threads": 3, "memory": "4 GB"},
    }
    job = read_job(write(tmp_path, content))
    asked = jobs.request(job, Period(2019, 1))
    assert asked.stac == str(tmp_path / "items.json")
    assert (asked.collection, asked.max_cloud, asked.offset, asked.allow_hosts) == ("c", 60, "applied", ("a.example",))
    assert (asked.weights, asked.min_clear_months, asked.min_confidence) == (untrained, 4, 0.4)
    assert (asked.mask, asked.max_missed, asked.deadline) == (Mask((0, 3, 8, 9), 1, 2), 0.25, 30)
    assert (asked.within, asked.device) == (("landcover", "Cropland"), "cpu")
    assert (asked.save_composites, asked.save_embeddings) == (True, True)
    assert jobs._resources(job.keys.resources) == Resources(None, 2, 3, "4 GB")


def test_points_of_a_job_lie_beside_it(tmp_path: Path) -> None:
    from geomap.jobs import due as jobs

    told = read_job(write(tmp_path, MINIMAL | {"points": {"file": "visited.gpkg:fields", "column": "crop"}}))
    asked = jobs.request(told, Period(2019, 1))
    assert (asked.points, asked.column) == ((str(tmp_path / "visited.gpkg:fields"),), "crop")
    told = read_job(write(tmp_path, MINIMAL | {"points": {"file": ["a.gpkg", "b.csv"], "column": "crop"}}))
    assert jobs.request(told, Period(2019, 1)).points == (str(tmp_path / "a.gpkg"), str(tmp_path / "b.csv"))
    taking = read_job(write(tmp_path, MINIMAL | {"points": {"learned": "../farm"}}))
    assert jobs.request(taking, Period(2019, 1)).learned == str(tmp_path.parent / "farm")
    with pytest.raises(ConfigError, match=r"points\.file needs points\.column"):
        read_job(write(tmp_path, MINIMAL | {"points": {"file": "visited.gpkg"}}))
    rolling = {"period": {"last": 12}, "outputs": {"directory": "maps/{period}", "update": True}}
    typed = "learn once, by `geomap label DIR --points FILE --column NAME --out learned`, and write points: {learned: "
    with pytest.raises(ConfigError, match=rf"outputs\.update does not go with points\.file: {re.escape(typed)}"):
        read_job(write(tmp_path, MINIMAL | rolling | {"points": {"file": "visited.gpkg", "column": "crop"}}))
    assert read_job(write(tmp_path, MINIMAL | rolling | {"points": {"learned": "../farm"}})).keys.outputs.update


# --- whole runs


@pytest.fixture
def real_job(archive: Callable[..., Path], untrained: str, tmp_path: Path) -> Callable[..., Path]:
    """Writes a job over 20 real scenes, August to November 2018: real_job(period=..., ...) -> its path."""

    def make(**changes: Any) -> Path:
        content: dict[str, Any] = {
            "name": "patch",
            "area": [float(v) for v in PATCH.split(",")],
            "period": {"start": "2018-09", "months": 3},
            "catalogue": {"stac": str(archive(dates=20) / "items.json")},
            "legends": ["landcover"],
            "weights": {"name": untrained},
            "min_clear_months": 1,
            "outputs": {"directory": "out/{period}"},
        }
        return write(tmp_path, content | changes)

    return make


def test_a_job_runs_to_maps_and_a_second_run_changes_nothing(real_job: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out/2018-09_2018-11"
    done = geomap("run", real_job())
    assert done.exit_code == 0, done.stderr
    assert str(out / "landcover.tif") in done.stdout
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in out.rglob("*") if p.is_file() and p.suffix != ""}
    assert {p.name for p in before} >= {"landcover.tif", "landcover_confidence.tif", "clear_months.tif", "run.json"}
    again = geomap("run", real_job())
    assert again.exit_code == 0, again.stderr
    assert "complete already" in again.stderr
    assert geomap("run", "--quiet", real_job()).output == ""
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == before
    changed = refused(geomap("run", real_job(legends=["crops"])), 2)
    assert "job.yaml" in changed
    assert "differs in: legends" in changed
    assert "outputs.directory" in changed
    assert "--out" not in changed
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in before} == before
    assert geomap("verify", out).exit_code == 0


@pytest.mark.parametrize("option", [(), ("--quiet",), ("--json",), ("--json", "--quiet")])
def test_a_scene_that_could_not_be_read_is_told_once_also_to_cron(
    option: tuple[str, ...], real_job: Callable[..., Path], archive: Callable[..., Path], tmp_path: Path
) -> None:
    items = items_of(archive(dates=20))
    bad = next(item for item in items if "201809" in item["id"])
    bad["assets"]["scl"]["href"] = str(tmp_path / "gone.tif")
    job = real_job(catalogue={"stac": str(write_items(items, tmp_path / "items.json"))})
    done = geomap("run", *option, job)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("1 scene is left out of some tile, missing or damaged") == 1
    assert ("--json" in option) == done.stdout.startswith("{")
    again = geomap("run", *option, job)
    assert (again.exit_code, "warning" in again.stderr) == (0, False)
    left = "left as it is, without 1 scene that could not be read; for new scenes, and to try those again, choose"
    assert again.stderr.count(left) == (0 if option else 1)


def test_commands_that_a_run_tells_to_type_are_quoted(
    archive: Callable[..., Path], real_job: Callable[..., Path], tmp_path: Path
) -> None:
    def told(text: str) -> list[str]:
        """The words of a command at the end of a line, after `geomap`."""
        return shlex.split(text[text.rindex("geomap ") :])[1:]

    content = yaml.safe_load(real_job(outputs={"directory": "it's & {period}"}).read_text())
    folder = tmp_path / "My Maps"
    folder.mkdir()
    job, out = write(folder, content), folder / "it's & 2018-09_2018-11"
    make = told(refused(geomap("areas", job), 2, "no finished map yet"))
    assert make == ["run", str(job)]
    done = geomap(*make)
    assert done.exit_code == 0, done.stderr
    (view,) = (line for line in done.stdout.splitlines() if "geomap view" in line)
    assert told(view) == ["view", str(out)]
    (explain,) = re.findall("geomap explain (.*) names those", done.stdout)
    assert shlex.split(explain) == [str(out)]
    write(folder, content | {"legends": ["crops"]})
    again = told(refused(geomap("run", job), 2, "differs in: legends"))
    assert again == ["run", str(job), "--refresh"]
    assert geomap(*again).exit_code == 0


def test_a_refusal_names_the_keys_of_the_job_and_a_refresh_takes_them_away(
    real_job: Callable[..., Path], tmp_path: Path
) -> None:
    more = {"directory": "out/{period}", "name": "here", "ndvi": True, "save_embeddings": True}
    out = tmp_path / "out/2018-09_2018-11"
    assert geomap("run", real_job(outputs=more, finish={"smooth": 3}, masks={"dilation": 1})).exit_code == 0
    said = refused(geomap("run", real_job()), 2)
    keys = ("outputs.true_colour or ndvi", "masks", "outputs.name", "outputs.save_composites or save_embeddings")
    assert f"(differs in: {', '.join(keys)}, finish.smooth); choose another outputs.directory" in said
    assert said.endswith(f"or make this one again in place: geomap run {tmp_path / 'job.yaml'} --refresh")
    assert geomap("run", real_job(), "--refresh").exit_code == 0
    assert not (out / "embeddings.zarr").exists()
    fresh = {"outputs": {"directory": "fresh/{period}"}}
    assert geomap("run", real_job(**fresh)).exit_code == 0
    assert digests(out) == digests(tmp_path / "fresh/2018-09_2018-11")
    said = refused(geomap("run", real_job(area=[4.0600, 50.7440, 4.0630, 50.7460])), 2, "(differs in: area)")
    assert "--refresh" not in said  # which does not take another area either


def test_months_that_are_not_over_are_told_and_a_refresh_adds_them(
    real_job: Callable[..., Path], archive: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from geomap.jobs import due as jobs

    whole = items_of(archive(dates=20))
    out, items = tmp_path / "out/2018-09_2018-11", tmp_path / "items.json"
    early = [item for item in whole if item["properties"]["datetime"] < "2018-10-10"]
    write_items(early, items)
    job = read_job(real_job(catalogue={"stac": "items.json"}))
    (made,) = jobs.run_job(job, datetime.date(2018, 10, 10))
    (said,) = [record.getMessage() for record in caplog.records if "not over" in record.getMessage()]
    assert said.startswith("2018-10, 2018-11 are not over: ")
    command = said[said.index("geomap run") :]
    assert command == f"geomap run {job.path} --refresh"
    caplog.clear()
    write_items(whole, items)
    assert not next(jobs.run_job(job, datetime.date(2018, 12, 5))).seconds  # finished, and left as it is
    assert geomap(*shlex.split(command)[1:]).exit_code == 0
    assert "not over" not in caplog.text
    fresh = read_job(real_job(catalogue={"stac": "items.json"}, outputs={"directory": "fresh"}))
    (again,) = jobs.run_job(fresh, datetime.date(2018, 12, 5))
    assert len(again.scenes) > len(made.scenes)
    assert digests(out) == digests(tmp_path / "fresh")
    assert "not over" not in caplog.text


def test_an_item_file_that_was_rewritten_changes_no_finished_map_and_no_begun_one(
    real_job: Callable[..., Path], archive: Callable[..., Path], tmp_path: Path
) -> None:
    from geomap.jobs import due as jobs

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "write":
            raise KeyboardInterrupt

    whole = items_of(archive(dates=20))
    items, out = tmp_path / "items.json", tmp_path / "out/2018-09_2018-11"
    (made,) = jobs.run_job(read_job(real_job()), datetime.date(2018, 12, 5))
    before = digests(made.directory)
    shutil.rmtree(tmp_path / "out")

    write_items(whole, items)
    read = files.sha256(items)
    job = read_job(real_job(catalogue={"stac": "items.json"}))
    with pytest.raises(KeyboardInterrupt):
        list(jobs.run_job(job, datetime.date(2018, 12, 5), stop))
    write_items([item for item in whole if "201810" not in item["id"]], items)
    (made,) = jobs.run_job(job, datetime.date(2018, 12, 6))
    assert len(made.scenes) > 0
    named = {"run.json", files.PAGE, files.SUMS}  # they name the item file by its sha256
    after = digests(out)
    assert {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)} <= named
    told = json.loads((out / "run.json").read_text())
    assert told["request"]["stac"] == told["asked"]["stac"] == f"items.json sha256:{read}"
    done = geomap("run", tmp_path / "job.yaml")
    assert (done.exit_code, "complete already" in done.stderr) == (0, True)
    assert digests(out) == after
    (made,) = jobs.run_job(job, datetime.date(2018, 12, 6), refresh=True)
    assert json.loads((out / "run.json").read_text())["request"]["stac"] == f"items.json sha256:{files.sha256(items)}"
    assert not any("201810" in scene.id for scene in made.scenes)


def test_the_page_compares_maps_of_as_many_months(tmp_path: Path) -> None:
    from geomap.jobs import due as jobs

    for period in ("2018-07_2018-08", "2018-08", "2018-09", "2018-10"):
        folder = tmp_path / "out" / period
        (folder / "stac").mkdir(parents=True)
        for name in ("stac/collection.json", files.SUMS):
            (folder / name).write_text("{}")
    job = read_job(write(tmp_path, MINIMAL | {"period": {"last": 1}, "outputs": {"directory": "out/{period}"}}))
    assert [d.name for d in jobs._maps_before(job, Period(2018, 10, 1))] == ["2018-08", "2018-09"]


def test_a_map_that_was_begun_keeps_its_months(real_job: Callable[..., Path], tmp_path: Path) -> None:
    """StoppedError in one month and started in the next: the old map first, then the new one."""
    from geomap.jobs import due as jobs

    class StoppedError(Exception):
        pass

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "composite":
            raise StoppedError

    job = read_job(real_job(period={"last": 2}))
    october, november = datetime.date(2018, 10, 31), datetime.date(2018, 11, 1)
    with pytest.raises(StoppedError):
        list(jobs.run_job(job, october, stop))
    assert not (tmp_path / "out/2018-08_2018-09/SHA256SUMS").exists()
    assert [str(p) for p in jobs.periods(job, november)] == ["2018-08_2018-09", "2018-09_2018-10"]
    results = list(jobs.run_job(job, november))
    assert [r.directory.name for r in results] == ["2018-08_2018-09", "2018-09_2018-10"]
    assert [str(p) for p in jobs.periods(job, november)] == ["2018-09_2018-10"]
    assert all((r.directory / "SHA256SUMS").is_file() for r in results)


def test_the_season_is_no_news_to_who_asked_for_a_rolling_update_of_some_months(
    real_job: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    from geomap.jobs import due as jobs

    job = read_job(real_job(period={"last": 1}, outputs={"directory": "out/{period}", "update": True}))
    with caplog.at_level(logging.INFO, "geomap"):
        (_,) = jobs.run_job(job, datetime.date(2018, 10, 5))
        (second,) = jobs.run_job(job, datetime.date(2018, 11, 5))
    assert second.update is not None
    season = {
        record.levelname for record in caplog.records if "part of what changes is the season" in record.getMessage()
    }
    assert season == {"INFO"}


def test_an_old_map_that_cannot_be_finished_does_not_hold_up_the_new_one(
    real_job: Callable[..., Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from geomap.jobs import due as jobs

    job = read_job(real_job(period={"last": 1}))
    (tmp_path / "out/2018-09/tiles").mkdir(parents=True)
    (tmp_path / "out/2018-09/tiles/request.json").write_text("damaged")
    (tmp_path / "out/2018-09/run.json").write_text("{}")
    made = jobs.run_job(job, datetime.date(2018, 11, 5))
    assert next(made).directory.name == "2018-10"
    with pytest.raises(InputError, match="2018-09"):
        next(made)
    assert "going on with a newer period" in caplog.text


def test_other_weights_than_the_job_pins_are_refused(real_job: Callable[..., Path], untrained: str) -> None:
    from geomap.jobs import due as jobs

    job = read_job(real_job(weights={"name": untrained, "sha256": "0" * 64}))
    with pytest.raises(WeightsError, match=r"weights\.sha256 is 000000000000"):
        jobs.request(job, Period(2018, 9, 3))


def test_plan_takes_a_job(real_job: Callable[..., Path], tmp_path: Path) -> None:
    done = geomap("plan", real_job())
    assert done.exit_code == 0, done.stderr
    assert "2018-09" in done.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["job.yaml"]
    assert "--year goes with an area" in refused(geomap("plan", real_job(), "--year", "2019"), 2)
    assert "legnds: unknown key" in refused(geomap("plan", real_job(legnds=["crops"])), 2)


def test_a_bad_job_is_one_line_exit_code_2_and_no_file(tmp_path: Path) -> None:
    """As a user meets it, in a process of its own, before torch is loaded."""
    write(tmp_path, "name: &a [x]\ntitle: [*a, *a]\n")
    program = Path(sys.executable).with_name("geomap")
    done = subprocess.run([program, "run", "job.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("geomap: job.yaml, line 1 is not valid YAML: anchors")
    assert "Traceback" not in done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["job.yaml"]


def test_no_answer_is_a_temporary_failure(
    real_job: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stac, "PATIENCE", 0.1)
    path = real_job(catalogue={"stac": "http://127.0.0.1:9", "allow_hosts": ["127.0.0.1"]})
    assert "does not answer" in refused(geomap("run", path), 75)
    assert [p.name for p in tmp_path.iterdir()] == ["job.yaml"]
