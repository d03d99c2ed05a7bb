"""Legends: the built-in ones against their sources, the file format, and classes typed by the user."""

import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from geomap import legends
from geomap.errors import LegendError
from geomap.legends import Legend
from tests.support import REPOSITORY

CLASS_COUNTS = {"landcover": 8, "landuse": 16, "habitat": 44, "crops": 40, "bioregion": 12}
LANDCOVER = {
    "A": "Artificial land",
    "B": "Cropland",
    "C": "Woodland",
    "D": "Shrubland",
    "E": "Grassland",
    "F": "Bare land",
    "G": "Water",
    "H": "Wetlands",
}
TWO_CLASSES = """
name = "wine"
title = "Wine or not"

[[classes]]
id = 7
name = "Vineyard"
colour = "#5a2590"
prompts = ["a vineyard", "vines on wires"]

[[classes]]
id = 3
name = "Olive grove"
colour = "#6d7a3c"
prompts = ["an olive grove"]
"""
SCORE = """
name = "calm"
title = "Calm"
kind = "score"
range = [0, 5]

[[prompts]]
text = "a silent lake"
rating = 5

[[prompts]]
text = "a motorway"
rating = 0.5
"""


def parse(text: str) -> Legend:
    return legends.parse(text.encode(), "test.toml")


@pytest.fixture(scope="module")
def labels(shared: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((shared / "reference" / "labels.json").read_text())
    return content


# The built-in legends


def test_builtin_legends_are_complete() -> None:
    assert set(legends.builtin_names()) == {*CLASS_COUNTS, "scenicness"}
    for name, count in CLASS_COUNTS.items():
        loaded = legends.load(name)
        assert (loaded.name, loaded.kind) == (name, "classes")
        assert [c.id for c in loaded.classes] == list(range(1, count + 1))


def test_landcover_classes_are_those_of_lucas() -> None:
    assert {c.code: c.name for c in legends.load("landcover").classes} == LANDCOVER


@pytest.mark.parametrize(
    ("name", "key", "code_key"),
    [
        ("landuse", "land_use", None),
        ("habitat", "habitat_eunis_l2", "eunis_code_UNVERIFIED"),
        ("crops", "crops", "lucas_code"),
        ("bioregion", "bioregions", None),
    ],
)
def test_names_and_codes_are_the_source_s(labels: dict[str, Any], name: str, key: str, code_key: str | None) -> None:
    classes, source = legends.load(name).classes, labels[key]["classes"]
    assert [(c.id, c.name) for c in classes] == [(s["index"] + 1, s["name"]) for s in source]
    if code_key:
        assert [c.code for c in classes] == [s[code_key] for s in source]


def test_landcover_and_landuse_codes_head_the_source_s_codes(labels: dict[str, Any]) -> None:
    for name, key in (("landcover", "land_cover"), ("landuse", "land_use")):
        for c, source in zip(legends.load(name).classes, labels[key]["classes"], strict=True):
            assert c.code is not None
            assert all(code.startswith(c.code.rstrip("0")) for code in source["lucas_codes"])


@pytest.mark.parametrize("name", CLASS_COUNTS)
def test_every_class_has_its_own_five_prompts(name: str) -> None:
    classes = legends.load(name).classes
    assert all(5 <= len(c.prompts) <= 7 for c in classes)
    uses = Counter(prompt.casefold() for c in classes for prompt in c.prompts)
    assert [prompt for prompt, count in uses.items() if count > 1] == []
    assert [prompt for prompt in uses if not 3 <= len(prompt.split()) <= 14] == []


@pytest.mark.parametrize("name", CLASS_COUNTS)
def test_colours_are_told_apart(name: str) -> None:
    near = [
        (a.name, b.name)
        for a, b in itertools.combinations(legends.load(name).classes, 2)
        if math.dist(_lab(a.colour), _lab(b.colour)) < 8
    ]
    assert near == []


def test_lab_of_known_colours() -> None:
    """Reference values of sRGB under D65: keeps the test of the colours honest."""
    assert _lab("#ffffff") == pytest.approx((100, 0, 0), abs=0.02)
    assert _lab("#ff0000") == pytest.approx((53.24, 80.09, 67.20), abs=0.02)
    assert _lab("#0000ff") == pytest.approx((32.30, 79.19, -107.86), abs=0.02)


def test_scenicness_prompts_are_spread_over_the_scale() -> None:
    loaded = legends.load("scenicness")
    assert (loaded.kind, loaded.range) == ("score", (1, 10))
    assert len({p.text.casefold() for p in loaded.prompts}) == len(loaded.prompts) >= 40
    per_rating = Counter(round(p.rating) for p in loaded.prompts)
    assert set(per_rating) == set(range(1, 11))
    assert min(per_rating.values()) >= 4


def test_every_voter_of_scenicness_spans_the_scale() -> None:
    """Each list could judge alone: late ensembling asks every voter about every pixel."""
    by_voter: dict[str | None, list[float]] = {}
    for p in legends.load("scenicness").prompts:
        by_voter.setdefault(p.voter, []).append(p.rating)
    assert None not in by_voter
    assert len(by_voter) >= 6
    for voter, ratings in by_voter.items():
        assert len(ratings) >= 5, voter
        assert min(ratings) == 1, voter
        assert max(ratings) >= 9, voter
        assert any(4 <= r <= 7 for r in ratings), voter


# Files


def test_a_legend_file(tmp_path: Path) -> None:
    file = tmp_path / "wine.toml"
    file.write_text("\ufeff" + TWO_CLASSES.replace("\n", "\r\n"), encoding="utf-8", newline="")  # as Windows editors do
    loaded = legends.load(str(file))
    assert [(c.id, c.name, c.code) for c in loaded.classes] == [(7, "Vineyard", None), (3, "Olive grove", None)]
    assert loaded.classes[0].prompts == ("a vineyard", "vines on wires")


def test_the_legend_in_the_docs_shows_every_key_of_a_class() -> None:
    page = (REPOSITORY / "docs/legends.md").read_text()
    example = re.findall(r"^```toml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)[0]
    shown = parse(re.sub(r"^# (?=[a-z]+ = )", "", example, flags=re.MULTILINE))
    assert shown.classes[0].model_fields_set == legends.LegendClass.model_fields.keys()


def test_a_score_legend_file() -> None:
    loaded = parse(SCORE)
    assert [(p.text, p.rating) for p in loaded.prompts] == [("a silent lake", 5), ("a motorway", 0.5)]
    assert loaded.range == (0, 5)


def test_unknown_names_are_answered_with_the_known_ones(tmp_path: Path) -> None:
    for wanted in ("landcove", str(tmp_path / "absent.toml"), str(tmp_path)):
        with pytest.raises(LegendError) as error:
            legends.load(wanted)
        assert wanted in str(error.value)
        assert all(name in str(error.value) for name in legends.builtin_names())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('colour = "#6d7a3c"', 'color = "#6d7a3c"', r"classes\.2\.(colour|color): "),
        (
            "id = 3",
            "id = 3\ncolor = 1",
            r"classes\.2\.color: unknown key; did you mean colour\? The keys here are id, name, colour",
        ),
        ("title", 'licence = "mine"\ntitle', r"licence: unknown key; the keys here are name, title, kind"),
        ("id = 3", "id = 7", "its own id"),
        ("Olive grove", "VINEYARD", "its own name"),
        (
            "id = 3",
            'id = 3\nsynonyms = ["olives", "vineyard"]',
            "'vineyard' is a synonym of Olive grove and a name of Vineyard; keep it in one",
        ),
        ("id = 3", "id = 0", r"classes\.2\.id: .*greater than or equal to 1"),
        ("id = 3", "id = 255", r"classes\.2\.id: .*less than or equal to 254"),
        ("#6d7a3c", "olive", r"classes\.2\.colour: "),
        ('["an olive grove"]', "[]", r"classes\.2\.prompts: "),
        ("an olive grove", "   ", r"classes\.2\.prompts\.1: "),
        ("Olive grove", "Olive\\ngrove", r"classes\.2\.name: must be one line"),
        ('"wine"', '"../wine"', "name: "),
        ("title", "range = [1, 10]\ntitle", "neither prompts nor range"),
        ("title", 'ensembling = "late"\ntitle', "nor ensembling"),
        ("title", 'kind = "score"\ntitle', "rated"),
        ("id = 3", "id = = 3", "not valid TOML: .*at line 12"),
    ],
)
def test_a_broken_class_legend_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(LegendError, match=rf"^legend test\.toml.*{message}") as error:
        parse(TWO_CLASSES.replace(old, new, 1))
    assert "\n" not in str(error.value)


def test_a_synonym_is_of_one_class() -> None:
    """Points of that name would teach the first of several, silently."""
    text = TWO_CLASSES.replace("id = 7", 'id = 7\nsynonyms = ["Vineyard", "grapes"]')
    assert parse(text.replace("id = 3", 'id = 3\nsynonyms = ["olives"]')).classes[0].synonyms == ("Vineyard", "grapes")
    with pytest.raises(LegendError, match="'Grapes' is a synonym of Olive grove and a synonym of Vineyard; keep it in"):
        parse(text.replace("id = 3", 'id = 3\nsynonyms = ["olives", "Grapes"]'))


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ('code = "B8"', 'code = "b8"', "'b8' is a code of Olive grove and a code of Vineyard; keep it in one"),
        ('code = "3"', "", "'3' is a code of Vineyard and the id of Olive grove"),
        ("", 'code = "vineyard"', "'vineyard' is a code of Olive grove and a name of Vineyard"),
        ('synonyms = ["B8"]', 'code = "B8"', "'B8' is a code of Olive grove and a synonym of Vineyard"),
        ('synonyms = ["Olive-grove"]', "", "'Olive-grove' is a synonym of Vineyard and a name of Olive grove"),
        ('synonyms = ["rain-fed"]', 'synonyms = ["Rain fed"]', "'Rain fed' is a synonym of Olive grove and a synonym"),
        ("", 'synonyms = ["7"]', "'7' is a synonym of Olive grove and the id of Vineyard"),
    ],
)
def test_a_word_by_which_points_are_matched_is_of_one_class(first: str, second: str, said: str) -> None:
    with pytest.raises(LegendError, match=re.escape(said)):
        parse(TWO_CLASSES.replace("id = 7", f"id = 7\n{first}").replace("id = 3", f"id = 3\n{second}"))


def test_names_are_the_same_as_points_match_them() -> None:
    with pytest.raises(LegendError, match="each class needs its own name"):
        parse(TWO_CLASSES.replace("Olive grove", "vine_yard").replace("Vineyard", "Vine yard"))
    own = parse(TWO_CLASSES.replace("id = 7", 'id = 7\ncode = "7"\nsynonyms = ["vineyard"]'))
    assert own.id_of("olive_grove") == 3


def test_added_classes_take_no_id_that_is_a_code() -> None:
    coded = parse(TWO_CLASSES.replace("id = 7", 'id = 7\ncode = "8"'))
    assert [c.id for c in legends.added(coded, ["lake"]).classes] == [7, 3, 9]


def test_all_problems_of_a_legend_are_told() -> None:
    with pytest.raises(LegendError) as error:
        parse("")
    first, *lines = str(error.value).splitlines()
    assert first == "legend test.toml: 2 problems"
    assert [line.strip() for line in lines] == ["name: Field required", "title: Field required"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rating = 5", "rating = 5.1", r"must lie in 0\.\.5"),
        ("rating = 5", "rating = nan", r"prompts\.1\.rating: "),
        ("rating = 5", "stars = 5\nrating = 5", r"prompts\.1\.stars: unknown key; the keys here are text, rating"),
        ("range = [0, 5]", "range = [5, 0]", "from low to high"),
        ("range = [0, 5]", "range = [0, inf]", r"range\.2: "),
        ("range = [0, 5]", "", "and a range"),
        ("range = [0, 5]", 'range = [0, 5]\nensembling = "mean"', r"ensembling: .*'early' or 'late'"),
        ("range = [0, 5]", 'range = [0, 5]\nensembling = "late"', "a voter for every prompt"),
        ("range = [0, 5]", "range = [0, 5]\nmin_prompts = 0", "min_prompts: "),
        ("rating = 5", 'rating = 5\nvoter = "Jo Ann"', r"prompts\.1\.voter: "),
    ],
)
def test_a_broken_score_legend_is_refused(old: str, new: str, message: str) -> None:
    with pytest.raises(LegendError, match=rf"^legend test\.toml: .*{message}"):
        parse(SCORE.replace(old, new, 1))


def test_ballots_are_all_prompts_or_those_of_each_voter() -> None:
    def with_voters(*voters: str, head: str = 'ensembling = "late"\n') -> Legend:
        prompts = (f'[[prompts]]\ntext = "t{i}"\nrating = 1\nvoter = "{v}"\n' for i, v in enumerate(voters))
        return parse(SCORE[: SCORE.index("[[prompts]]")] + head + "".join(prompts))

    assert with_voters("a", "b", "a", "c", "b").ballots == ((0, 2), (1, 4))
    assert with_voters("a", "b", "a", "c", head="").ballots == ((0, 1, 2, 3),)
    assert with_voters("a", "b", "a", head='ensembling = "late"\nmin_prompts = 1\n').ballots == ((0, 2), (1,))
    with pytest.raises(LegendError, match="a voter with 2 prompts or more"):
        with_voters("a", "b", "c")


def test_a_single_class_or_a_single_prompt_is_refused() -> None:
    with pytest.raises(LegendError, match="two or more"):
        parse(TWO_CLASSES[: TWO_CLASSES.rindex("[[classes]]")])
    with pytest.raises(LegendError, match="two or more"):
        parse(SCORE[: SCORE.rindex("[[prompts]]")])


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(LegendError, match="not valid TOML"):
        legends.parse(TWO_CLASSES.replace("Olive", "Öl").encode("latin-1"), "test.toml")


def test_a_legend_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        legends.load("crops").classes[0].name = "Weeds"


# What the other stages ask of a legend


@pytest.mark.parametrize(
    ("old", "new"),
    [("vines on wires", "vines on poles"), ("id = 3", "id = 4"), ('"a vineyard", ', "")],
)
def test_digest_follows_ids_and_prompts(old: str, new: str) -> None:
    assert parse(TWO_CLASSES.replace(old, new)).digest != parse(TWO_CLASSES).digest


@pytest.mark.parametrize(("old", "new"), [("#6d7a3c", "#000001"), ("Olive grove", "Olives"), ("Wine or not", "Wine?")])
def test_digest_ignores_colours_and_names(old: str, new: str) -> None:
    assert parse(TWO_CLASSES.replace(old, new)).digest == parse(TWO_CLASSES).digest


def test_digest_follows_ratings() -> None:
    assert parse(SCORE.replace("0.5", "0.6")).digest != parse(SCORE).digest
    assert parse(SCORE.replace("Calm", "Quiet")).digest == parse(SCORE).digest


def test_digest_ignores_what_does_not_change_the_vectors() -> None:
    voters = SCORE.replace("rating =", 'voter = "me"\nrating =')
    late = voters.replace("range", 'ensembling = "late"\nrange')
    assert parse(late).ensembling == "late"
    assert parse(SCORE).digest == parse(voters).digest == parse(late).digest


def test_builtin_digests_differ() -> None:
    names = legends.builtin_names()
    assert len({legends.load(name).digest for name in names}) == len(names)


def test_id_of() -> None:
    landcover = legends.load("landcover")
    assert [landcover.id_of(name) for name in LANDCOVER.values()] == list(range(1, 9))
    assert landcover.id_of(" bare LAND ") == 6
    with pytest.raises(LegendError, match=r"no class 'Sea'.*Artificial land, Cropland"):
        landcover.id_of("Sea")


def test_a_name_is_the_same_with_its_accents_as_characters_of_their_own() -> None:
    typed = legends.typed("\u00e9tang, for\u00eat")
    assert typed.id_of("E\u0301TANG") == 1
    assert typed.ids_called("fore\u0302t") == {2}
    classes = [
        c.model_copy(update={"name": name}) for c, name in zip(typed.classes, ("\u00e9", "e\u0301"), strict=True)
    ]
    with pytest.raises(LegendError, match="each class needs its own name"):
        Legend(name="ponds", title="Ponds", classes=[c.model_dump() for c in classes])


# Classes typed by the user


def test_typed_classes_keep_their_order() -> None:
    typed = legends.typed("  vineyard,olive\t grove ,,\n maize field ,", name="farm")
    assert typed.name == "farm"
    assert [(c.id, c.name) for c in typed.classes] == [(1, "vineyard"), (2, "olive grove"), (3, "maize field")]
    assert all(c.name in prompt for c in typed.classes for prompt in c.prompts)
    assert all(c.prompts[0] == c.name and len(set(c.prompts)) >= 5 for c in typed.classes)


def test_typed_classes_may_hold_braces_and_any_script() -> None:
    typed = legends.typed("vigne {0}, ブドウ畑, čokot")
    assert [c.prompts[0] for c in typed.classes] == ["vigne {0}", "ブドウ畑", "čokot"]


def test_typed_classes_get_different_colours() -> None:
    full = legends.typed(", ".join(f"class {i}" for i in range(legends.MAX_CLASSES)))
    assert full.classes[-1].id == 254
    assert len({c.colour for c in full.classes}) == 254
    few = [_lab(c.colour) for c in full.classes[:20]]
    assert min(math.dist(a, b) for a, b in itertools.combinations(few, 2)) > 8


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "two or more"),
        (" , ,", "two or more"),
        ("vineyard", "two or more"),
        ("vineyard, olive grove, Vineyard", "'[vV]ineyard' twice"),
        ("\u00e9tang, maize, E\u0301tang", "tang' twice"),
        (", ".join(f"class {i}" for i in range(300)), "at most 254 names, not 300"),
        ("vineyard, " + "very " * 60 + "long", "at most 281"),
        ("vineyard, bell\a", "control characters"),
        (
            "wood, grass; maize, potato field",
            ": 'grass; maize' is one name; separate names by commas, not by semicolons",
        ),
    ],
)
def test_typed_classes_that_make_no_legend(classes: str, message: str) -> None:
    with pytest.raises(LegendError, match=f"^--classes.*{message}"):
        legends.typed(classes)


def _lab(colour: str) -> tuple[float, float, float]:
    """CIE L*a*b* (D65) of "#rrggbb": sRGB per IEC 61966-2-1, L*a*b* per CIE 15."""
    srgb = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in srgb)
    xyz = (
        (0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047,
        0.2126729 * r + 0.7151522 * g + 0.0721750 * b,
        (0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883,
    )
    x, y, z = (v ** (1 / 3) if v > (6 / 29) ** 3 else v / (3 * (6 / 29) ** 2) + 4 / 29 for v in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)
