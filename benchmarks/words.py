"""How well the warning about typed words tells land in English from other words, and what a close pair of names means.

    python benchmarks/words.py [--held-out] [--json FILE]

Two sets of 100 words, half of them land in English (none of them a name or prompt that geomap knows), half not: other
languages, Latin names, codes, nonsense, things indoors. TUNING chose the margin of label/words.py; HELD_OUT was written
at the same time, before the words of other_words.toml, and is for the figure that is reported: do not tune by it.

    false alarms   share of land in English that is warned of
    missed         share of the other words that is not

Close pairs: all pairs of different names in the table of simulated covers whose class vectors are closer than
label/check.py allows; how many of them name one cover, and how many of all pairs do.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from itertools import combinations
from pathlib import Path

import torch.nn.functional as F

from geomap import legends
from geomap.encode.card import locate, read_card
from geomap.label import towers
from geomap.label.check import CLEAR
from geomap.label.words import check_words
from geomap.run.wording import land_names
from geomap.simulate.covers import table

Words = dict[str, str]
SENSE = "land in English"

TUNING = {
    "land in English": (
        "suburban gardens; tea estate; pineapple field; salt pan; cricket ground; brick kilns; mown lawn; coconut "
        "palms; cashew trees; date palm oasis; airport; container terminal; hop garden; christmas tree farm; "
        "brackish lagoon; mangrove swamp; alpine meadow; lavender field; strawberry field; pine plantation; burnt "
        "forest; clear cut; solar farm; car park; open cast mine; rushes along a ditch; sphagnum bog; flooded "
        "rice; cut hay; overgrazed land; railway yard; allotments; hazel coppice; almond trees; wattle trees; "
        "bamboo thicket; cactus scrub; shifting desert sands; volcanic ash; glacier tongue; snow patch; fish "
        "pond; dammed lake; jute; sugar cane stubble; sisal; oil palm; teak; wildflower strip; abandoned farmland"
    ),
    "german": "Weinberg; Maisfeld; Laubwald; Zuckerrüben; Streuobstwiese; Gewässer",
    "french": "vignoble; forêt de feuillus; champ de blé; prairie permanente; plan d'eau",
    "spanish": "viñedo; olivar; campo de maíz; pastizal; bosque de pinos",
    "russian": "виноградник; пшеница; лиственный лес; пастбище",
    "other language": "vigneto; bosco di latifoglie; lasy liściaste; 森林; vinha; maïsakker",
    "code": "4010; 6510; B11; G1.2; CT 1110; 311; LC_20",
    "latin": "Quercus robur; Fagus sylvatica; Zea mays; Vitis vinifera; Pinus sylvestris; Olea europaea",
    "nonsense": "unicorn; dragon; spaceship; asdf; happiness; democracy",
    "indoor": "kitchen table; sofa; laptop; toothbrush; office chair",
}
"""Words by kind, for choosing the margin."""
HELD_OUT = {
    "land in English": (
        "golf course; limestone quarry face; tulip field; blueberry farm; avocado orchard; rubber plantation; "
        "cocoa trees; yam field; buckwheat; teff; cordgrass marsh; oyster beds; coral sand beach; boulder field; "
        "gorse scrub; bracken; heather moor; larch forest; oak savanna; umbrella thorn trees; juniper bushes; "
        "river gravel bar; flood plain; irrigated alfalfa; spelt; ploughed soil; stubble field; onion beds; "
        "polytunnels; glasshouse; football pitch; cemetery; city park; warehouse roofs; road junction; harbour; "
        "housing estate; shanty town; landfill; power station; sewage ponds; shrimp farm; lily pond; dry lake "
        "bed; lava field; ice cap; arctic heath; dead trees; young plantation; goat grazing"
    ),
    "german": "Nadelwald; Winterweizen; Grünland; Siedlung; Rapsfeld; Sumpf",
    "french": "verger de pommiers; zone urbaine; tournesol; landes; oliveraie",
    "spanish": "trigo; arrozal; ciudad; huerta; encinar",
    "russian": "кукуруза; хвойный лес; озеро; болото",
    "other language": "oliveto; pszenica ozima; 水稲; eucalipto; grasland; tarwe",
    "code": "9130; 2330; E2.1; A11; SNAR 1200; 41; class 7",
    "latin": ("Picea abies; Triticum aestivum; Betula pendula; Phragmites australis; Brassica napus; Calluna vulgaris"),
    "nonsense": "wizard; vampire; starship; qwertz; jealousy; capitalism",
    "indoor": "bookshelf; bathtub; keyboard; wine glass; carpet",
}
"""Words by kind, for the figure that is reported."""


def warned_of(words: Words) -> dict[str, dict[str, str]]:
    """By kind, each word that is warned of, and what it is said to look like ("" if it is not warned of)."""
    found = {}
    for kind, text in words.items():
        names = [word.strip() for word in text.split(";")]
        asked = legends.typed(",".join([*names, "vineyard"]))
        doubts = {doubt.name: doubt.reads for doubt in check_words(asked, land_names(), towers.MINILM_SPACE)}
        found[kind] = {name: str(doubts.get(name, "")) for name in names}
    return found


def rates(found: dict[str, dict[str, str]]) -> dict[str, object]:
    """The two error rates, and the words that went wrong."""
    alarms = [name for name, reads in found[SENSE].items() if reads]
    other = {name: reads for kind, of in found.items() if kind != SENSE for name, reads in of.items()}
    missed = [name for name, reads in other.items() if not reads]
    return {
        "false_alarms": len(alarms) / len(found[SENSE]),
        "missed": len(missed) / len(other),
        "falsely_warned": alarms,
        "passed": missed,
    }


def close_pairs() -> dict[str, float]:
    """Among pairs of names of covers: how many are close, and how many of those, and of all, name one cover."""
    scale = read_card(locate("default")).logit_scale
    covers: dict[str, set[int]] = {}
    for i, cover in enumerate(table().cover):
        for name in cover.names:
            covers.setdefault(name, set()).add(i)
    names = sorted(covers)
    texts = [template.format(name) for name in names for template in legends.TYPED_TEMPLATES]
    prompts = towers.cached_texts(texts, towers.MINILM_SPACE).reshape(len(names), len(legends.TYPED_TEMPLATES), -1)
    vectors = F.normalize(prompts.mean(dim=1), dim=-1)
    cosines = (vectors @ vectors.T).tolist()
    least = 1 - math.log(CLEAR / (1 - CLEAR)) / scale
    pairs = [(bool(covers[names[a]] & covers[names[b]]), cosines[a][b]) for a, b in combinations(range(len(names)), 2)]
    close = [same for same, cosine in pairs if cosine > least]
    return {
        "logit_scale": scale,
        "least_cosine": least,
        "close": len(close),
        "close_of_one_cover": sum(close) / len(close),
        "all_of_one_cover": sum(same for same, _ in pairs) / len(pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--held-out", action="store_true", help="Also the words that the margin was not chosen by.")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    result: dict[str, object] = {"tuning": rates(warned_of(TUNING))}
    if args.held_out:
        result["held_out"] = rates(found := warned_of(HELD_OUT))
        result["held_out_words"] = found
    start = time.perf_counter()
    warned_of({SENSE: "olive grove; maize field"})
    result["seconds_of_a_check"] = time.perf_counter() - start
    result["pairs"] = close_pairs()
    print(json.dumps(result, indent=2, ensure_ascii=False))
    if args.json:
        args.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
