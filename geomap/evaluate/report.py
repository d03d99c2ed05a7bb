"""Writes an evaluation's results.md, results.json, confusion matrices (CSV) and figures (PNG)."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geomap import files, legends
from geomap.encode.weights import Weights
from geomap.evaluate import metrics, plots, tables
from geomap.evaluate.prompt_kinds import GENERIC, KINDS
from geomap.evaluate.results import Score, SetResult


def write_report(out: Path, weights: Weights, results: Sequence[SetResult]) -> list[Path]:
    """Write the report into a folder, created if it does not exist; files of the same names are replaced.

    Returns the paths of the written files. Raises DiskFullError, OutputError.
    """
    text, values = out / "results.md", out / "results.json"
    files.write_bytes(text, markdown(weights, results).encode())
    values_text = json.dumps(as_json(weights, results), indent=1, allow_nan=False) + "\n"
    files.write_bytes(values, values_text.encode())
    paths = [text, values]
    for result in results:
        paths += [_write_confusion(out, result, name) for name in dict.fromkeys(s.legend for s in result.scores)]
        paths += plots.plot_all(result, out)
    return paths


def markdown(weights: Weights, results: Sequence[SetResult]) -> str:
    """The whole report as Markdown."""
    parts = [f"# Evaluation of {weights.card.name}, version {weights.card.version}\n", notes(weights)]
    for r in results:
        parts += [f"## {r.name}\n", f"{remarks(r)}\n", *(t.markdown() for t in tables.tables(r))]
    return "\n".join(parts)


def remarks(result: SetResult) -> str:
    """What the reader must know about a set: its size, whether the weights have seen it, what was left out."""
    said = [f"{result.samples:,} samples."]
    if result.without_months:
        said.append(f"{result.without_months:,} without a valid month are left out.")
    if result.trained_on:
        said.append(
            "The weights were trained on this set or on series of it: its figures, the linear probe's too, are no test "
            "of them."
        )
    listed = "".join(f"\n- {note}" for note in result.notes)
    return " ".join(said) + (f"\n{listed}" if listed else "")


def notes(weights: Weights) -> str:
    """What the figures mean, in a few lines of Markdown."""
    paper = tables.paper()
    kinds = "; ".join(f"{k}: {v}" for k, v in KINDS.items())
    generic = ", ".join(f'"{t}"' for t in GENERIC)
    return (
        f"- Prompts: {kinds}. G averages {generic}.\n"
        "- Zero-shot: the highest cosine among all classes of a legend; nothing is fitted to the test set.\n"
        "- F1 (macro) and bal. (balanced accuracy) are means over the classes that occur. ECE: expected calibration "
        "error in "
        f"{metrics.BINS} bins of confidence, at the card's logit scale {weights.card.logit_scale:g}.\n"
        f"- Paper: {paper['source']}, {paper['licence']}, tables {paper['zero_shot']['table']}, "
        f"{paper['supervised']['table']}, {paper['retrieval']['table']} and {paper['scenicness']['table']}; "
        f"{paper['data']}. The figures compare on those points alone. Mended: {paper['zero_shot']['note']}.\n"
    )


def as_json(weights: Weights, results: Sequence[SetResult]) -> dict[str, Any]:
    """All figures as JSON values: shares of 1, null where a figure does not exist."""
    return {
        "weights": {
            "name": weights.card.name,
            "version": weights.card.version,
            "card_sha256": weights.digest,
            "text_space": weights.card.text_space,
            "logit_scale": weights.card.logit_scale,
        },
        "prompts": {**KINDS, "templates": list(GENERIC)},
        "paper": tables.paper(),
        "sets": [_plain(dataclasses.asdict(r) | {"scores": [_score(s) for s in r.scores]}) for r in results],
    }


def _score(s: Score) -> dict[str, Any]:
    """A score with the F1 of the classes that occur, without its matrix (the main score's goes into a CSV file)."""
    f1 = metrics.class_f1(s.confusion)
    names = [c.name for c in legends.load(s.legend).classes]
    whole = {f.name: getattr(s, f.name) for f in dataclasses.fields(s) if f.name not in ("confusion", "reliability")}
    whole["class_f1"] = {n: v for n, v in zip(names, f1.tolist(), strict=True) if not math.isnan(v)}
    if s.reliability is not None:
        whole |= {"ece": s.reliability.error, "reliability": dataclasses.asdict(s.reliability)}
    return whole


def _plain(value: Any) -> Any:
    """Arrays as lists, NaN as None."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and math.isnan(value) else value


def _write_confusion(out: Path, result: SetResult, legend: str) -> Path:
    """Write the main score's counts: one line per true class, one column per predicted class."""
    path = out / f"{result.name}_confusion_{legend}.csv"
    names = [c.name for c in legends.load(legend).classes]
    table = io.StringIO(newline="")
    lines = csv.writer(table, lineterminator="\n")
    lines.writerow(["truth", *names])
    lines.writerows(
        [n, *row] for n, row in zip(names, tables.main_score(result, legend).confusion.tolist(), strict=True)
    )
    files.write_bytes(path, table.getvalue().encode())
    return path
