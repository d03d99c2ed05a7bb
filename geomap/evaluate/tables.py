"""Lays results out as text tables, beside the paper's figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import numpy as np

from geomap import legends
from geomap.evaluate import metrics
from geomap.evaluate.prompt_kinds import KINDS
from geomap.evaluate.results import Score, SetResult

OVERALL: Final = "overall"
"""The mean over the five legends, as in the paper; only for sets with labels of all five."""
_FIVE, _SIX = 5, 6  # number of legends; of legends and the country
FITTED: Final = ("random forest", "linear probe")


@dataclass(frozen=True)
class TextTable:
    """A table ready to be written: cells as text, "" for empty cells."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    printed: bool = True  # also on the terminal; the longest tables are only in the files

    def markdown(self) -> str:
        """The title and the table in Markdown."""
        lines = [self.columns, tuple("---" for _ in self.columns), *self.rows]
        body = "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in line) + " |" for line in lines)
        return f"### {self.title}\n\n{body}\n"


@cache
def paper() -> dict[str, Any]:
    """The paper's figures to show beside ours (paper.json)."""
    found: dict[str, Any] = json.loads((resources.files("geomap.evaluate") / "paper.json").read_text("utf-8"))
    return found


def tables(result: SetResult) -> list[TextTable]:
    """The tables of a set, empty ones left out."""
    found = [
        accuracy_table(result),
        class_table(result),
        retrieval_table(result),
        scenicness_table(result),
        months_table(result),
    ]
    return [t for t in found if t.rows]


def accuracy_table(result: SetResult) -> TextTable:
    """Accuracies of every legend: the encoder by length and prompts, the baselines, the paper's supervised model."""
    columns = ("legend", "method", "prompts", "n", "top-1", "top-5", "F1", "bal.", "ECE", "paper")
    supervised = paper()["supervised"]["values"]
    rows = []
    for name in dict.fromkeys(s.legend for s in result.scores):
        rows += [_accuracy_row(s) for s in result.scores if s.legend == name]
        rows.append(_paper_row(name, supervised[name]))
    overall = list(_overall(result.scores))
    rows += [*overall, _paper_row(OVERALL, supervised[OVERALL])] if overall else []
    return TextTable(f"Accuracy, percent (baselines: {result.baselines})", columns, tuple(rows))


def class_table(result: SetResult) -> TextTable:
    """F1 of every class that occurs: zero-shot on monthly series, and the fitted baselines."""
    rows = []
    for name in dict.fromkeys(s.legend for s in result.scores):
        own = main_score(result, name)
        compared = [own, *(s for s in result.scores if s.legend == name and s.method in FITTED)]
        f1 = {s.method: metrics.class_f1(s.confusion) for s in compared}
        for i, c in enumerate(legends.load(name).classes):
            if count := int(own.confusion[i].sum()):
                cells = (_percent(f1[m][i]) if m in f1 else "" for m in ("encoder", *FITTED))
                rows.append((name, c.name, f"{count}", *cells))
    columns = ("legend", "class", "n", "encoder", *FITTED)
    return TextTable("F1 of the classes that occur, percent (monthly series)", columns, tuple(rows), printed=False)


def retrieval_table(result: SetResult) -> TextTable:
    """Recall between pixels and ground photos."""
    known = paper()["retrieval"]["values"]
    rows = []
    for r in result.retrieval:
        beside = known.get(r.length, {}).get(r.classes, {}).get(r.query)
        recalls = [_percent(v) for v in r.recall.values()]
        rows.append((r.classes, r.query, r.length, f"{r.n}", *recalls, _percent(beside)))
    for length, query in dict.fromkeys((r.length, r.query) for r in result.retrieval):
        of = [r for r in result.retrieval if (r.length, r.query) == (length, query)]
        if len(of) == _SIX:
            means = [_percent(float(np.mean([r.recall[k] for r in of]))) for k in of[0].recall]
            beside = known.get(length, {}).get(OVERALL, {}).get(query)
            rows.append((OVERALL, query, length, "", *means, _percent(beside)))
    columns = ("classes", "query", "series", "n", "R@1", "R@5", "R@10", "paper R@1")
    return TextTable("Retrieval between pixels and ground photos, recall in percent", columns, tuple(rows))


def scenicness_table(result: SetResult) -> TextTable:
    """Correlation of the encoder's scores with people's."""
    known = paper()["scenicness"]["values"]
    rows = []
    for s in result.scenicness:
        beside = known.get(s.length, {}).get(s.ensembling, {})
        paper_cells = (_number(beside.get("pearson")), _number(beside.get("kendall")))
        rows.append((s.ensembling, s.length, f"{s.n}", _number(s.pearson), _number(s.kendall), *paper_cells))
    columns = ("ensembling", "series", "n", "Pearson R", "Kendall tau", "paper R", "paper tau")
    return TextTable("Scenicness", columns, tuple(rows))


def months_table(result: SetResult) -> TextTable:
    """Accuracy by the number of months kept."""
    rows = [
        (
            m.legend,
            f"{m.months}",
            f"{m.kept:.1f}",
            f"{m.n}",
            _percent(m.mean),
            "" if math.isnan(m.sd) else f"{100 * m.sd:.2f}",
        )
        for m in sorted(result.months, key=lambda m: m.legend)
    ]
    columns = ("legend", "months at most", "mean months", "n", "top-1", "sd")
    return TextTable("Accuracy by clear months, percent (random ones of those that are valid)", columns, tuple(rows))


def main_score(result: SetResult, legend: str) -> Score:
    """The encoder's score on monthly series, for the most descriptive kind of prompts measured."""
    own = [s for s in result.scores if (s.legend, s.method, s.length) == (legend, "encoder", "monthly")]
    return max(own, key=lambda s: list(KINDS).index(s.prompts))


def _accuracy_row(s: Score) -> tuple[str, ...]:
    beside = paper()["zero_shot"]["values"].get(s.length, {}).get(s.legend, {}).get(s.prompts)
    return (
        s.legend,
        _method(s),
        s.prompts,
        f"{s.n}",
        _percent(s.top1),
        _percent(s.top5),
        _percent(s.macro_f1),
        _percent(s.balanced_accuracy),
        _percent(s.reliability.error if s.reliability else None),
        _beside(beside),
    )


def _paper_row(legend: str, percent: float) -> tuple[str, ...]:
    return (legend, "supervised (paper)", "", "", "", "", "", "", "", f"{percent:.2f}")


def _method(s: Score) -> str:
    return f"encoder, {s.length}" if s.method == "encoder" else s.method


def _overall(scores: Sequence[Score]) -> Iterator[tuple[str, ...]]:
    """Mean top-1 over the five legends, for every way of labelling that covers all five."""
    ways = [(_method(s), s.length, s.prompts) for s in scores]
    for way in dict.fromkeys(ways):
        of = [s.top1 for s, w in zip(scores, ways, strict=True) if w == way]
        if len(of) == _FIVE:
            method, length, kind = way
            beside = paper()["zero_shot"]["values"].get(length, {}).get(OVERALL, {}).get(kind)
            yield (OVERALL, method, kind, "", _percent(float(np.mean(of))), "", "", "", "", _beside(beside))


def _beside(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.2f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def join(found: Iterable[TextTable]) -> str:
    """Several tables as one Markdown text."""
    return "\n".join(t.markdown() for t in found)
