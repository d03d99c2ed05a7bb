"""Legends, read from TOML: id, name, prompts and colour of every class of a map.

There are two kinds. A `classes` legend labels each pixel with the class whose prompts are nearest. A `score` legend
gives each pixel a number: the ratings of its prompts, weighted by how near they are (scenicness, paper section 5).
docs/legends.md says how to write a legend.
"""

from __future__ import annotations

import colorsys
import hashlib
import json
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, lru_cache
from importlib import resources
from itertools import islice
from math import cbrt, dist
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from geomap.config import Strict, problems, refusal
from geomap.errors import LegendError
from geomap.paths import own, there

NODATA_ID = 0
"""Class id of pixels that are not mapped."""
UNCLASSIFIED_ID = 255
"""Class id of pixels whose confidence is below the requested minimum."""
MAX_CLASSES = 254
"""Most classes of a legend: ids 1..254 of a uint8 map."""

LONGEST: Final = 300
"""Most characters of the name of a class, and of a prompt."""

MAX_BYTES: Final = 4_000_000
"""Most bytes of a legend file."""

OTHERS_ID = 254
"""Class id of pixels that are none of a legend's own classes, if that is asked for."""

TYPED: Final = "classes"
"""Name of the legend of typed classes."""
TYPED_TEMPLATES = ("{}", "land covered by {}", "a place with {}", "{} seen from above", "{} in the countryside")
"""Prompts made for each class that the user types; the class vector is their mean."""
LONGEST_TYPED: Final = LONGEST - max(len(template.format("")) for template in TYPED_TEMPLATES)
"""Most characters of a typed name, so that its prompts are no longer than prompts may be."""


_EMPTY: Final = frozenset([
    "a", "an", "and", "area", "at", "covered", "field", "from", "in", "land", "of", "on", "or", "other", "place",
    "seen", "the", "to", "with", "countryside", "above",
])  # fmt: skip
"""Words that tell no class from another."""
_STEPS: Final = (0.14, -0.14, 0.26, -0.24, 0.07, -0.07, 0.2, -0.19)
"""Changes of lightness, 0..1, for a colour that is taken: far from it first."""
_APART: Final = 10
"""Least distance of the colours of typed classes in CIELAB, where a lightness gives it: that of the crops."""


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Unicode's category Cc."""


def _one_line(text: str) -> str:
    if _CONTROL.search(text):  # they would break the XML beside the maps
        raise ValueError("must be one line without control characters")
    return text


_Line = Annotated[str, AfterValidator(_one_line)]
_Text = Annotated[str, Field(min_length=1, max_length=LONGEST), AfterValidator(_one_line)]
_Colour = Annotated[str, Field(pattern=r"^#[0-9a-fA-F]{6}$")]
_Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
_Latitude = Annotated[float, Field(ge=-90, le=90)]


def name_key(name: str) -> str:
    """A name as names are compared: without case, blanks for its underscores and hyphens, accents in their letters."""
    return " ".join(re.sub(r"[_\-\s]+", " ", unicodedata.normalize("NFC", name)).split()).casefold()


def restriction(text: str) -> tuple[str, str]:
    """(legend, class) of "landcover=Cropland". Raises ValueError."""
    legend, _, name = (part.strip() for part in text.partition("="))
    if not (legend and name):
        raise ValueError("must be LEGEND=CLASS, for example landcover=Cropland")
    return legend, name


def _restriction(text: str) -> str:
    restriction(text)
    return text


class LegendClass(Strict):
    """One class of a map."""

    id: Annotated[int, Field(strict=True, ge=1, le=MAX_CLASSES)]
    name: _Text
    colour: _Colour
    prompts: Annotated[tuple[_Text, ...], Field(min_length=1)]
    code: _Line | None = None  # the source nomenclature's code, for example LUCAS B11 or EUNIS G1
    synonyms: tuple[_Text, ...] = ()  # other names by which labelled points may call it
    latitudes: tuple[_Latitude, _Latitude] | None = None  # degrees, south and north; surely nowhere else

    @model_validator(mode="after")
    def _south_first(self) -> LegendClass:
        if self.latitudes is not None and self.latitudes[0] >= self.latitudes[1]:
            raise ValueError("latitudes must go from south to north, for example [-90, 47]")
        return self


class RatedPrompt(Strict):
    """A scene in words and its rating on the legend's scale."""

    text: _Text
    rating: float
    voter: _Name | None = None  # who rated it: a person, or a list made with one interest


class Legend(Strict):
    """The classes (or the rated prompts) of one map. Raises LegendError when it is made of anything else."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as e:
            raise LegendError(refusal("the legend", e, Legend)) from e

    name: _Name  # also the file stem of the maps
    title: _Text
    kind: Literal["classes", "score"] = "classes"
    source: _Line = ""  # source of the names and codes
    classes: tuple[LegendClass, ...] = ()
    prompts: tuple[RatedPrompt, ...] = ()
    range: tuple[float, float] | None = None  # range of a score
    ensembling: Literal["early", "late"] = "early"  # for scores: one softmax over all prompts, or one per voter
    min_prompts: Annotated[int, Field(ge=1)] = 2  # late: voters with fewer prompts do not count (paper A.1.3)
    within: Annotated[_Text, AfterValidator(_restriction)] | None = None
    # ^ LEGEND=CLASS: mapped only there, unless the request says otherwise

    @model_validator(mode="after")
    def _consistent(self) -> Legend:
        if self.kind == "classes":
            if len(self.classes) < 2 or self.prompts or self.range or self.ensembling != "early":
                raise ValueError(
                    "a legend of classes needs two or more [[classes]] and neither prompts nor range nor ensembling"
                )
            for what, values in (
                ("id", [c.id for c in self.classes]),
                ("name", [name_key(c.name) for c in self.classes]),
            ):
                if len(set(values)) < len(values):
                    raise ValueError(f"each class needs its own {what}")
            self._require_own_words()
        else:
            if self.classes or len(self.prompts) < 2 or self.range is None:
                raise ValueError("a score legend needs two or more rated [[prompts]] and a range, and no classes")
            low, high = self.range
            if low >= high:
                raise ValueError(f"range must go from low to high, not from {low:g} to {high:g}")
            if not all(low <= p.rating <= high for p in self.prompts):
                raise ValueError(f"every rating must lie in {low:g}..{high:g}")
            if self.ensembling == "late" and not (all(p.voter for p in self.prompts) and self.ballots):
                raise ValueError(
                    "late ensembling needs a voter for every prompt, and a voter with "
                    f"{self.min_prompts} prompts or more (min_prompts)"
                )
        return self

    def _require_own_words(self) -> None:
        """Raise ValueError for a code or synonym by which another class goes too: points would teach one of the two."""
        known = {str(c.id): ("the id", c) for c in self.classes} | {
            name_key(c.name): ("a name", c) for c in self.classes
        }
        for c in self.classes:
            for what, text in (("a code", c.code), *(("a synonym", text) for text in c.synonyms)):
                its, other = known.setdefault(name_key(text), (what, c)) if text else (what, c)
                if other is not c:
                    raise ValueError(f"{text!r} is {what} of {c.name} and {its} of {other.name}; keep it in one")

    @property
    def ballots(self) -> tuple[tuple[int, ...], ...]:
        """Indices of the rated prompts that are weighed together; the score is the mean over these groups.

        Early: one group of all prompts. Late: one group per voter with at least `min_prompts`, in order of appearance.
        """
        if self.ensembling == "early":
            return (tuple(range(len(self.prompts))),)
        voters = dict.fromkeys(p.voter for p in self.prompts)
        groups = (tuple(i for i, p in enumerate(self.prompts) if p.voter == voter) for voter in voters)
        return tuple(group for group in groups if len(group) >= self.min_prompts)

    @property
    def has_others(self) -> bool:
        """Whether the last class is "None of these" (`with_others`)."""
        return bool(self.classes) and self.classes[-1] == others()

    @property
    def digest(self) -> str:
        """sha256 of everything that decides the class vectors: ids and prompts (or ratings and prompts), in order.

        Voters and ensembling change the map but not the vectors; a run's identity covers the whole legend.
        """
        content: list[tuple[float, tuple[str, ...]]] = [(c.id, c.prompts) for c in self.classes]
        content += [(p.rating, (p.text,)) for p in self.prompts]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()

    def ids_called(self, name: str) -> frozenset[int]:
        """The ids of the classes with this name or code (case does not matter); at most one has the name."""
        wanted = name_key(name)
        return frozenset(c.id for c in self.classes if wanted in (name_key(c.name), name_key(c.code or c.name)))

    def without(self, ids: frozenset[int]) -> Legend:
        """The legend without these classes. Raises LegendError if fewer than two are left."""
        left = tuple(c for c in self.classes if c.id not in ids)
        if len(left) < 2 and ids:
            raise LegendError(f"--without leaves fewer than two classes of legend {self.name}; leave out fewer")
        return self.model_copy(update={"classes": left}) if ids else self

    def id_of(self, name: str) -> int:
        """The id of the class called `name` (case does not matter). Raises LegendError."""
        for c in self.classes:
            if name_key(c.name) == name_key(name):
                return c.id
        known = ", ".join(c.name for c in self.classes)
        raise LegendError(f"legend {self.name} has no class {name!r}; its classes are: {known}")


def builtin_names() -> tuple[str, ...]:
    """Names of the legends that come with the package."""
    return tuple(sorted(Path(f.name).stem for f in _home().iterdir() if f.name.endswith(".toml")))


def source(name_or_file: str) -> str:
    """The TOML of a legend that `load` accepts. Raises LegendError."""
    load(name_or_file)  # raises if something is wrong
    path = own(name_or_file) if name_or_file.endswith(".toml") else _home() / f"{name_or_file}.toml"
    return path.read_text("utf-8")


def load(name_or_file: str) -> Legend:
    """A built-in legend by name, or a legend file by path (.toml). Raises LegendError."""
    if name_or_file.endswith(".toml"):
        path = own(name_or_file)
        if not there(path) or not path.is_file():
            raise LegendError(f"no legend file {name_or_file}; built-in legends are: {', '.join(builtin_names())}")
        try:
            with path.open("rb") as f:
                content = f.read(MAX_BYTES + 1)
        except OSError as e:
            raise LegendError(f"legend file {name_or_file} cannot be read: {e.strerror}") from e
        return parse(content, name_or_file)
    if name_or_file not in builtin_names():
        raise LegendError(
            f"unknown legend {name_or_file!r}; use one of {', '.join(builtin_names())}, a .toml file, "
            'or --classes "first class, second class"'
        )
    return parse((_home() / f"{name_or_file}.toml").read_bytes(), name_or_file)


@lru_cache(maxsize=64)
def parse(content: bytes, where: str) -> Legend:
    """A legend from TOML; `where` names it in error messages. Raises LegendError."""
    if len(content) > MAX_BYTES:
        raise LegendError(f"legend {where} is larger than {MAX_BYTES:,} bytes; no legend of {MAX_CLASSES} classes is")
    try:
        return Legend(**tomllib.loads(content.decode("utf-8-sig")))
    except LegendError as e:
        if not isinstance(e.__cause__, ValidationError):
            raise
        raise LegendError(refusal(f"legend {where}", e.__cause__, Legend)) from e.__cause__
    except RecursionError as e:
        raise LegendError(f"legend {where} is not valid TOML: brackets inside brackets without end") from e
    except ValueError as e:  # TOMLDecodeError, not UTF-8, or a number or date that Python refuses
        known = isinstance(e, tomllib.TOMLDecodeError | UnicodeDecodeError)
        cause = e if known else "a value is not text, number or date"
        raise LegendError(f"legend {where} is not valid TOML: {cause}") from e


def typed(classes: str, name: str = TYPED) -> Legend:
    """A legend of typed classes, such as "vineyard, olive grove, maize field", with ids from 1 in that order.

    Each takes the colour of the built-in class whose words fit best.
    """
    names = [re.sub(r"\s+", " ", part).strip() for part in classes.split(",")]
    names = [part for part in names if part]
    if len(names) < 2:
        raise LegendError('--classes needs two or more names, separated by commas: --classes "vineyard, olive grove"')
    if len(names) > MAX_CLASSES:
        raise LegendError(f"--classes takes at most {MAX_CLASSES} names, not {len(names)}")
    if long := next((n for n in names if len(n) > LONGEST_TYPED), None):
        raise LegendError(
            f"--classes: the name {long[:40]!r}... has {len(long)} characters, at most {LONGEST_TYPED} are taken; "
            "type a shorter one, such as 'vineyard'"
        )
    if joined := next((n for n in names if ";" in n), None):
        raise LegendError(f"--classes: {joined!r} is one name; separate names by commas, not by semicolons")
    repeated = sorted({n for n in names if [name_key(m) for m in names].count(name_key(n)) > 1})
    if repeated:
        raise LegendError(f"--classes names {repeated[0]!r} twice")
    try:
        return Legend(
            name=name,
            title="Classes typed by the user",
            classes=tuple(
                LegendClass(id=i, name=n, colour=colour, prompts=tuple(t.format(n) for t in TYPED_TEMPLATES))
                for i, (n, colour) in enumerate(zip(names, _colours(names, _known()), strict=True), start=1)
            ),
        )
    except (ValidationError, LegendError) as e:
        cause = e.__cause__ if isinstance(e, LegendError) else e
        said = problems(cause, Legend)[0] if isinstance(cause, ValidationError) else str(e)
        raise LegendError(f"--classes: {said}") from e


def added(legend: Legend, names: Sequence[str]) -> Legend:
    """A legend with more classes: free ids from the highest on, colours of their own, the prompts of typed classes.

    Raises LegendError if there is no room for them.
    """
    used = {c.id for c in legend.classes}
    highest = max(used)
    words = {text for c in legend.classes for text in (c.code, *c.synonyms)}  # such as 45, by which a class goes
    free = [
        i
        for i in (*range(highest + 1, MAX_CLASSES + 1), *range(1, highest))
        if i not in used and i != OTHERS_ID and str(i) not in words
    ]
    if len(free) < len(names):
        raise LegendError(f"legend {legend.name} has no room for {len(names)} more classes: ids end at {MAX_CLASSES}")
    colours = _colours(names, _known(), [c.colour.lower() for c in legend.classes])
    made = [
        {"id": i, "name": name, "colour": colour, "prompts": tuple(t.format(name) for t in TYPED_TEMPLATES)}
        for i, name, colour in zip(free, names, colours, strict=False)
    ]
    return Legend(**{**legend.model_dump(), "classes": [*legend.model_dump()["classes"], *made]})


@cache
def others() -> LegendClass:
    """The class "None of these". Its prompts name the classes of land cover, which stand for all other land."""
    names = tuple(c.name for c in load("landcover").classes)
    return LegendClass(id=OTHERS_ID, name="None of these", colour="#d9d9d9", prompts=names)


def with_others(asked: Sequence[Legend]) -> tuple[Legend, ...]:
    """The legends, those of the user with one more class, "None of these". Raises LegendError if it fits none."""
    known = {load(name).digest for name in builtin_names()}
    own = [legend for legend in asked if legend.digest not in known]
    if not own:
        raise LegendError("--others goes with --classes or a legend of your own: built-in legends cover all land")
    return tuple(_with_others(legend) if legend in own else legend for legend in asked)


def _with_others(legend: Legend) -> Legend:
    if legend.kind == "score":
        raise LegendError(f"legend {legend.name} gives scores; --others needs a legend of classes")
    new = others()
    if any(c.id == new.id or name_key(c.name) == name_key(new.name) for c in legend.classes):
        raise LegendError(f"--others adds class {new.id}, {new.name}; legend {legend.name} has that id or name already")
    return legend.model_copy(update={"classes": (*legend.classes, new)})


# --- colours of typed classes: that of the known class whose words fit best, doubles varied in lightness


@cache
def _known() -> tuple[LegendClass, ...]:
    """The classes of the built-in legends, those of land cover first: what typed classes take their colours from."""
    return tuple(c for name in ("landcover", "crops", "landuse", "habitat") for c in load(name).classes)


def _colours(names: Sequence[str], known: Sequence[LegendClass], used: Sequence[str] = ()) -> tuple[str, ...]:
    """A colour for each name, all different: of the best match in `known`, else one of a series of distinct colours.

    One that is too like an earlier one is made lighter or darker.

    None of those `used` (#rrggbb) is given.

    A name matches by words, without regard to case and plural: the name of a known class, then words of its prompts.
    """
    words = [(telling_words(k.name), [telling_words(p) for p in k.prompts], k.colour.lower()) for k in known]
    taken = [*used]
    for number, name in enumerate(names, start=1):
        base = _best(_ordered(name), words) or _series(number)
        near = list(islice(_variants(base), 1 + len(_STEPS)))
        free = (c for c in _variants(base) if c not in taken)
        taken.append(
            next((c for c in near if all(dist(_lab(c), _lab(t)) >= _APART for t in taken)), None) or next(free)
        )
    return tuple(taken[len(used) :])


def _best(typed: list[str], known: Iterable[tuple[frozenset[str], list[frozenset[str]], str]]) -> str | None:
    """The colour of the class that fits best, the first of several; None if none does."""
    if not typed:
        return None
    ranked = [(rank, colour) for name, prompts, colour in known if (rank := _rank(typed, name, prompts)) is not None]
    return min(ranked, key=lambda entry: entry[0])[1] if ranked else None


def _rank(typed: list[str], name: frozenset[str], prompts: list[frozenset[str]]) -> tuple[int, int] | None:
    """How well typed words fit a class, lower is better; None if not: (kind of match, words that do not match)."""
    asked, head = frozenset(typed), typed[-1]
    apart = len(asked ^ name)
    if asked == name:
        return 0, 0
    if name and (asked < name or name < asked):
        return 1, apart
    if said := [len(p - asked) for p in prompts if asked <= p]:
        return 2, min(said)
    if head in name:
        return 3, apart
    return (4, apart) if any(head in p for p in prompts) else None


def telling_words(text: str) -> frozenset[str]:
    """The words of a name that tell classes apart, in the singular: without "field", "land", "of" and the like."""
    return frozenset(_ordered(text))


def _ordered(text: str) -> list[str]:
    """The words of a text that tell classes apart, in the singular, in order."""
    found = (_singular(word) for word in re.findall(r"[^\W\d_]+", text.casefold()))
    return [word for word in found if word not in _EMPTY]


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("ches", "shes", "sses", "xes")):
        return word[:-2]
    if len(word) > 6 and word.endswith("oes"):  # potatoes, mangoes; not sloes, aloes, canoes
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def _variants(colour: str) -> Iterator[str]:
    """A colour, and then the same hue lighter and darker; at last any others, without end."""
    yield colour
    r, g, b = (channel / 255 for channel in bytes.fromhex(colour[1:]))
    hue, light, strength = colorsys.rgb_to_hls(r, g, b)
    for step in _STEPS:
        if 0.12 <= light + step <= 0.92:
            yield _hex(hue, light + step, strength)
    number = 1000
    while True:
        number += 1
        yield _series(number)


@cache
def _lab(colour: str) -> tuple[float, float, float]:
    """CIELAB (CIE 1976, D65) of an sRGB colour (IEC 61966-2-1)."""
    rgb = [channel / 255 for channel in bytes.fromhex(colour[1:])]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    x = cbrt((0.4124564 * r + 0.3575761 * g + 0.1804375 * b) / 0.95047)
    y = cbrt(0.2126729 * r + 0.7151522 * g + 0.0721750 * b)
    z = cbrt((0.0193339 * r + 0.1191920 * g + 0.9503041 * b) / 1.08883)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


def _series(i: int) -> str:
    """The i-th of a series of distinct colours: hues a golden ratio apart, with three lightnesses in turn."""
    return _hex((0.13 + i * 0.618034) % 1, (0.45, 0.62, 0.32)[i % 3], 0.65)


def _hex(hue: float, light: float, strength: float) -> str:
    r, g, b = colorsys.hls_to_rgb(hue, light, strength)
    return f"#{round(r * 255):02x}{round(g * 255):02x}{round(b * 255):02x}"


def _home() -> Path:
    return Path(str(resources.files("geomap") / "legends"))
