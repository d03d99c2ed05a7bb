"""Words that the text tower cannot read as land in English are found; names of land are not."""

import pytest

from geomap import legends
from geomap.errors import LegendError
from geomap.label import towers
from geomap.label.words import check_words, other_words
from geomap.legends import Legend
from geomap.run.wording import land_names

GERMAN = ("ein Weinberg mit Reben", "Reihen von Weinreben an Drähten", "gelbe Weinblätter im Oktober")
ENGLISH = ("a vineyard planted with grapevines", "rows of grapevines on trellis wires")


@pytest.fixture(scope="module")
def land() -> tuple[str, ...]:
    return land_names()


def doubtful(typed: str, land: tuple[str, ...], space: str = towers.MINILM_SPACE) -> dict[str, str]:
    return {doubt.name: doubt.reads for doubt in check_words(legends.typed(typed), land, space)}


@pytest.mark.parametrize(
    "typed",
    [
        "Weinberg, Maisfeld, Laubwald, Zuckerrüben",
        "vignoble, champ de blé, forêt de feuillus",
        "виноградник, пшеница, лиственный лес",
        "4010, 6510",
        "Quercus robur, Fagus sylvatica, Pinus sylvestris",
        "unicorn, dragon, spaceship",
        "kitchen table, laptop, happiness",
    ],
)
def test_words_that_are_no_land_in_english_are_doubtful(typed, land):
    assert list(doubtful(typed, land)) == [name.strip() for name in typed.split(",")]


def test_names_of_land_are_not_doubtful(land):
    typed = "vineyard, olive grove, maize field, golf course, mangrove swamp, solar farm, suburban gardens"
    assert doubtful(typed, land) == {}
    assert not {word.casefold() for words in other_words().values() for word in words} & {n.casefold() for n in land}


@pytest.mark.parametrize("name", ["landcover", "landuse"])
def test_built_in_classes_are_not_doubtful(name, land):
    assert check_words(legends.load(name), land, towers.MINILM_SPACE) == ()


def test_a_legend_is_judged_by_its_prompts(land):
    def of(**classes: tuple[str, ...]) -> Legend:
        made = [
            {"id": i, "name": name, "colour": "#102030", "prompts": prompts}
            for i, (name, prompts) in enumerate(classes.items(), 1)
        ]
        return Legend.model_validate({"name": "own", "title": "Own", "classes": made})

    english = of(Weinberg=ENGLISH, Wald=("a forest of beech and oak", "trees bare in winter"))
    assert check_words(english, land, towers.MINILM_SPACE) == ()
    (doubt,) = check_words(of(Vines=GERMAN, Wood=("a forest of beech",)), land, towers.MINILM_SPACE)
    assert (doubt.name, doubt.reads) == ("Vines", "language")


def test_scripts_and_codes_need_no_known_tower(land):
    found = doubtful("4010, B11, 森林, пшеница, vineyard, Weinberg", land, "elsewhere/model")
    assert found == {"4010": "code", "B11": "code", "森林": "language", "пшеница": "language"}


def test_others_fits_legends_of_the_user_alone():
    own = legends.typed("vineyard, olive grove")
    made, kept = legends.with_others((own, legends.load("crops")))
    assert [legend.has_others for legend in (made, kept, own)] == [True, False, False]
    assert (made.classes[-1].id, made.classes[-1].name) == (legends.OTHERS_ID, "None of these")
    with pytest.raises(LegendError, match="goes with --classes"):
        legends.with_others((legends.load("crops"),))
    with pytest.raises(LegendError, match="already"):
        legends.with_others((legends.typed("vineyard, none of these"),))
