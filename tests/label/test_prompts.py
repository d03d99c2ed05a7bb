"""The check of prompts: figures against loops written out, the built-in legends, and what synonyms do to a map."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from geomap import legends
from geomap.cli.legends import CAVEAT
from geomap.datasets.series import embed_samples
from geomap.datasets.worldcereal import read_flanders
from geomap.encode import weights
from geomap.encode.card import locate, read_card
from geomap.evaluate.zero_shot import nearest_class
from geomap.label import check as prompts
from geomap.label import towers
from geomap.legends import Legend, LegendClass, RatedPrompt
from tests.support.runner import geomap, refused

SCALE = 19.0

SYNONYMS = {
    "wheat": "wheat crop",
    "barley": "barley grain",
    "maize": "corn field",
    "potatoes": "potato plants",
    "sugar beet": "beet for the sugar factory",
    "grassland": "pasture",
    "vineyard": "vines",
    "olive grove": "olive growing",
    "forest": "woodland",
    "town": "built-up land",
    "lake": "body of water",
}
"""Two ways of typing the classes of a map."""
AGREEMENT_MEASURED = 0.990
"""Share of 621 Flemish pixels that both name alike, with the default weights: measure again after training them."""
MARGIN = 0.044


class WordTower:
    """Sums of one random vector per word: no model to load, and prompts that share words are near."""

    space = towers.MINILM_SPACE
    dim = 24

    def encode(self, prompts: Sequence[str]) -> torch.Tensor:
        rows = [sum(np.random.default_rng(list(w.encode())).normal(size=self.dim) for w in p.split()) for p in prompts]
        return torch.nn.functional.normalize(torch.from_numpy(np.stack(rows)).float(), dim=-1)


@pytest.fixture(scope="module")
def minilm() -> towers.TextTower:
    return towers.tower(towers.MINILM_SPACE)


def legend_of(**classes: Sequence[str]) -> Legend:
    return Legend(
        name="mine",
        title="Mine",
        classes=tuple(
            LegendClass(id=i, name=name, colour="#000000", prompts=tuple(said))
            for i, (name, said) in enumerate(classes.items(), start=1)
        ),
    )


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x)


# The figures


def test_classes_are_compared_as_loops_would() -> None:
    words = list("abcdefgh")
    rng = np.random.default_rng(4)
    said = {f"C{k}": {" ".join(rng.choice(words, 3)) for _ in range(k + 1)} for k in range(6)}  # C0 has one prompt
    found = legend_of(**{name: sorted(group) for name, group in said.items()})
    tower = WordTower()
    check = prompts.check_classes(found, tower, SCALE)
    encoded = [tower.encode(c.prompts).numpy().astype(np.float64) for c in found.classes]
    means = [unit(e.mean(0)) for e in encoded]
    strays = set()
    for k, c in enumerate(check.classes):
        cosines = [means[k] @ m if j != k else -2 for j, m in enumerate(means)]
        nearest = int(np.argmax(cosines))
        assert (c.name, c.nearest) == (f"C{k}", f"C{nearest}")
        assert c.cosine == pytest.approx(cosines[nearest], abs=1e-5)
        two = np.exp(SCALE * np.array([1, cosines[nearest]]))
        assert c.confidence == pytest.approx(two[0] / two.sum(), abs=1e-5)
        kept = 0
        for j, prompt in enumerate(found.classes[k].prompts):
            if len(encoded[k]) == 1:
                continue
            without = [m if i != k else unit(np.delete(encoded[k], j, 0).mean(0)) for i, m in enumerate(means)]
            taken = int(np.argmax([encoded[k][j] @ m for m in without]))
            kept += taken == k
            if taken != k:
                strays.add((prompt, f"C{k}", f"C{taken}"))
        assert (c.kept, c.prompts) == (kept if len(encoded[k]) > 1 else None, len(encoded[k]))
    assert {(s.prompt, s.name, s.nearest) for s in check.strays} == strays != set()
    leads = [s.lead for s in check.strays]
    assert leads == sorted(leads, reverse=True)
    assert min(leads) >= 0
    expected = {
        (f"C{a}", f"C{b}")
        for a in range(6)
        for b in range(a + 1, 6)
        if 1 / (1 + np.exp(-SCALE * (1 - means[a] @ means[b]))) < prompts.CLEAR
    }
    assert {(a, b) for a, b, _ in check.close} == expected
    assert 0 < len(expected) < 15


def test_a_rated_prompt_is_scored_by_the_others() -> None:
    votes = [("sea cliff", 9.0), ("sea cove", 8.0), ("road lorry", 1.0), ("road dust", 2.0), ("sea cliff cove", 1.5)]
    found = Legend(
        name="view", title="View", kind="score", range=(1, 10), ensembling="late", min_prompts=2,
        prompts=tuple(RatedPrompt(text=t, rating=r, voter="me") for t, r in votes),
    )  # fmt: skip
    tower = WordTower()
    vectors = tower.encode([t for t, _ in votes]).numpy().astype(np.float64)
    for i, check in enumerate(prompts.check_ratings(found, tower, SCALE)):
        others = [k for k in range(len(votes)) if k != i]
        weight = np.exp(SCALE * vectors[others] @ vectors[i])
        assert (check.prompt, check.rating) == votes[i]
        assert check.score == pytest.approx(weight @ [votes[k][1] for k in others] / weight.sum(), abs=1e-4)


# With the real text tower


def test_typed_synonyms_are_close_and_other_classes_are_not(minilm: towers.TextTower) -> None:
    check = prompts.check_classes(legends.typed("maize, corn, lake, pine forest, town"), minilm, 19.09)
    assert [pair[:2] for pair in check.close] == [("maize", "corn")]
    assert all(c.kept == c.prompts for c in check.classes)


def test_a_prompt_of_another_class_is_found(minilm: towers.TextTower) -> None:
    water = ["a lake", "a wide river", "a pond of clear water", "waves on a reservoir", "a tidy row of grapevines"]
    vines = ["a vineyard", "grapevines on wires", "the grape harvest", "a wine grower's terraces"]
    (stray,) = prompts.check_classes(legend_of(Water=water, Vines=vines), minilm, 19.09).strays
    assert (stray.prompt, stray.name, stray.nearest) == ("a tidy row of grapevines", "Water", "Vines")


@pytest.mark.parametrize(
    ("name", "kept", "close"),
    [("landcover", 0.9, 0), ("crops", 0.9, 0), ("landuse", 0.9, 0), ("habitat", 0.8, 5), ("bioregion", 0.85, 0)],
)
def test_built_in_classes_are_told_apart_in_words(minilm: towers.TextTower, name: str, kept: float, close: int) -> None:
    """Most prompts, left out, still name their class. Habitat's close pairs are kinds of forest and of rock."""
    found = legends.load(name)
    check = prompts.check_classes(found, minilm, read_card(locate("default")).logit_scale)
    assert sum(c.kept or 0 for c in check.classes) >= kept * sum(c.prompts for c in check.classes)
    assert len(check.close) <= close
    assert not [s for s in check.strays if s.lead > 0.1]


def test_ratings_of_scenicness_follow_from_each_other(minilm: towers.TextTower) -> None:
    checks = prompts.check_ratings(legends.load("scenicness"), minilm, 19.09)
    ratings, scores = np.array([(c.rating, c.score) for c in checks]).T
    assert np.corrcoef(ratings, scores)[0, 1] > 0.75  # 0.84 when written; 0 for ratings without sense
    assert np.abs(ratings - scores).mean() < 2


# The command


@pytest.fixture
def loaded_once(minilm: towers.TextTower, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands use the tower that is loaded already: loading takes seconds."""
    monkeypatch.setattr(towers, "tower", lambda space: {towers.MINILM_SPACE: minilm}[space])


@pytest.mark.usefixtures("loaded_once")
def test_the_command_says_what_is_close() -> None:
    done = geomap("legends", "check", "--classes", "maize field, maize fields, a [red] lake", columns=80)
    assert done.exit_code == 0
    assert "): maize field / maize fields. Keep one" in done.stdout
    assert "a [red] lake" in done.stdout
    assert CAVEAT in done.stdout


@pytest.mark.usefixtures("loaded_once")
def test_the_command_checks_rated_prompts(tmp_path: Path) -> None:
    file = tmp_path / "view.toml"
    prompt = '\n[[prompts]]\nrating = {}\ntext = "{}"\n'
    scenes = prompt.format(9, "a mountain lake") + prompt.format(8, "an alpine lake") + prompt.format(1, "a car park")
    file.write_text('name = "view"\ntitle = "View"\nkind = "score"\nrange = [1, 10]\n' + scenes)
    done = geomap("legends", "check", file)
    assert done.exit_code == 0
    assert "3 prompts" in done.stdout
    assert done.stdout.index("a car park") < done.stdout.index("a mountain lake")  # the furthest from the others


@pytest.mark.usefixtures("loaded_once")
def test_the_command_refuses_a_restriction_to_what_is_not_there(tmp_path: Path) -> None:
    """As `map` does; another legend of one's own may come with it."""
    file, text = tmp_path / "mine.toml", legends.source("landuse")
    file.write_text(text.replace('name = "landuse"', 'name = "mine"\nwithin = "landcover=Crops"', 1))
    refused(geomap("legends", "check", file), 2, "legend landcover has no class 'Crops'; its classes are: Artificial")
    file.write_text(text.replace('name = "landuse"', 'name = "mine"\nwithin = "theirs=Crops"', 1))
    done = geomap("legends", "check", file)
    assert done.exit_code == 0
    assert "theirs is no built-in legend, so map with its file as one more --legend" in " ".join(done.stdout.split())
    file.write_text(text.replace('name = "landuse"', 'name = "mine"\nwithin = "classes=wheat field"', 1))
    said = "classes is no built-in legend, so map with that class among those of --classes"
    assert said in " ".join(geomap("legends", "check", file).stdout.split())


@pytest.mark.parametrize("args", [[], ["crops", "--classes", "a, b"], ["no-such"], ["crops", "--weights", "no-such"]])
def test_the_command_refuses_bad_input(args: list[str]) -> None:
    assert geomap("legends", "check", *args).exit_code == 2


# Synonyms


def test_synonyms_move_the_map_little(shared: Path, minilm: towers.TextTower) -> None:
    """Real pixels, which the default weights were trained on: for how wording matters, not for how good they are."""
    flanders = read_flanders(shared / "data" / "patch_belgium_2019" / "series.npz")
    loaded = weights.load_weights("default")
    embeddings = embed_samples(loaded.encoder, flanders.rows(np.arange(0, len(flanders), 6)))
    assert 600 < len(embeddings) < 700
    found = []
    for names in (SYNONYMS.keys(), SYNONYMS.values()):
        typed = legends.typed(", ".join(names))
        found.append(nearest_class(embeddings, towers.class_vectors(typed, minilm), typed))
    plain, other = found
    assert (np.bincount(plain) > 20).sum() >= 4  # several classes are met
    agreement = (plain == other).mean()
    assert agreement >= AGREEMENT_MEASURED - MARGIN, f"{agreement:.3f} was {AGREEMENT_MEASURED}"
