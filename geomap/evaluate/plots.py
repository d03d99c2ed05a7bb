"""Plots an evaluation as PNG: confusion matrices, reliability, accuracy by clear months."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from geomap import files, legends
from geomap.evaluate.results import Score, SetResult
from geomap.evaluate.tables import main_score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 110
INCHES_A_CLASS = 0.28
NUMBERED = 16  # most classes for which the cells show numbers


def plot_all(result: SetResult, out: Path) -> list[Path]:
    """Write a set's figures into a folder and return their paths; file names start with the set's name."""
    paths = []
    for stem, figure in _figures(result):
        paths.append(out / f"{result.name}_{stem}.png")
        picture = io.BytesIO()
        figure.savefig(picture, dpi=DPI, bbox_inches="tight")
        files.write_bytes(paths[-1], picture.getvalue())
    return paths


def _figures(result: SetResult) -> Iterator[tuple[str, Figure]]:
    known = [main_score(result, name) for name in dict.fromkeys(s.legend for s in result.scores)]
    for score in known:
        yield f"confusion_{score.legend}", plot_confusion(score)
    if known:
        yield "reliability", plot_reliability(known)
    if result.months:
        yield "months", plot_months(result)


def plot_confusion(score: Score) -> Figure:
    """Shares of each true class (rows) by predicted class, for classes that occur in either."""
    from matplotlib.figure import Figure

    matrix = score.confusion
    seen = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    matrix = matrix[np.ix_(seen, seen)]
    total = matrix.sum(1, keepdims=True)
    share = np.divide(matrix, total, out=np.zeros(matrix.shape), where=total > 0)
    classes = legends.load(score.legend).classes
    names = [classes[i].name for i in seen]
    side = max(3.0, INCHES_A_CLASS * len(seen) * (1.6 if len(seen) <= NUMBERED else 1))
    figure = Figure(figsize=(side, side))
    axes = figure.subplots()
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    axes.set_xticks(range(len(seen)), names, rotation=90, fontsize=8)
    axes.set_yticks(
        range(len(seen)), [f"{n} ({t:,})" for n, t in zip(names, total[:, 0].tolist(), strict=True)], fontsize=8
    )
    axes.set_xlabel(f"predicted (prompts {score.prompts}, {score.length} series)")
    axes.set_ylabel("truth (samples)")
    axes.set_title(f"{score.legend}: percent of each true class, top-1 {score.top1:.1%}", fontsize=10)
    if len(seen) <= NUMBERED:
        for i, j in zip(*np.nonzero(matrix), strict=True):
            colour = "white" if share[i, j] > 0.5 else "black"
            axes.text(j, i, f"{100 * share[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    return figure


def plot_reliability(scores: list[Score]) -> Figure:
    """One panel per legend: accuracy and number of samples by confidence."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(scores), 3.4), layout="constrained")
    for axes, score in zip(figure.subplots(1, len(scores), squeeze=False)[0], scores, strict=True):
        bins = score.reliability
        if bins is None:
            continue
        width = 1 / len(bins.count)
        middle = (np.arange(len(bins.count)) + 0.5) * width
        axes.bar(middle, np.nan_to_num(bins.accuracy), width * 0.92, color="#4a7fb5", label="accuracy")
        axes.plot(middle, bins.count / bins.count.sum(), "o-", color="#888888", ms=3, lw=1, label="share of samples")
        axes.plot([0, 1], [0, 1], "--", color="black", lw=1)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", title=f"{score.legend}: ECE {bins.error:.1%}")
        axes.legend(fontsize=7, loc="upper left")
    return figure


def plot_months(result: SetResult) -> Figure:
    """Accuracy by the number of months kept, one line per legend."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.8), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(m.legend for m in result.months):
        of = [m for m in result.months if m.legend == name]
        axes.errorbar(
            [m.months for m in of],
            [100 * m.mean for m in of],
            [100 * m.sd for m in of],
            fmt="o-",
            capsize=3,
            label=name,
        )
    axes.set_xticks(sorted({m.months for m in result.months}))
    axes.set(xlabel="clear months kept, at most", ylabel="top-1, percent", title=result.name, ylim=(0, 100))
    axes.legend(fontsize=8)
    return figure
