"""Writes a run's metrics, one line per epoch, and a plot of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from geomap import files

METRICS_FILE: Final = "metrics.csv"
PLOT_FILE: Final = "loss.png"


@dataclass(frozen=True, slots=True)
class Epoch:
    """Figures of one epoch; all but `samples_per_s` repeat to the bit on one thread of a CPU."""

    epoch: int  # from 1
    loss: float  # mean over the training samples, with their masking
    scale: float  # logit scale at the epoch's end
    learning_rate: float  # of the last step
    val_loss: float  # mean over the validation samples, against their batch only, without the queue
    val_recall_at_1: float  # share of validation series whose own photos are the nearest of all the set's
    samples_per_s: float


def write_metrics(out: Path, epochs: Sequence[Epoch]) -> None:
    """Write metrics.csv into `out`, whole or not at all."""
    text = io.StringIO()
    table = csv.DictWriter(text, [f.name for f in fields(Epoch)], lineterminator="\n")
    table.writeheader()
    table.writerows(asdict(e) for e in epochs)
    files.write_bytes(out / METRICS_FILE, text.getvalue().encode())


def write_plot(out: Path, epochs: Sequence[Epoch]) -> None:
    """Write loss.png into `out`: the two losses, and recall beneath."""
    from matplotlib.figure import Figure  # in the extra `train`; without pyplot it draws with Agg

    x = [e.epoch for e in epochs]
    figure = Figure(figsize=(6.4, 6.4), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True)
    top.plot(x, [e.loss for e in epochs], marker=".", label="training (batch and queue)")
    top.plot(x, [e.val_loss for e in epochs], marker=".", label="validation (batch alone)")
    top.set_ylabel("InfoNCE loss")
    top.legend()
    bottom.plot(x, [e.val_recall_at_1 for e in epochs], marker=".", color="tab:green")
    bottom.set_ylabel("validation recall@1")
    bottom.set_xlabel("epoch")
    bottom.set_ylim(bottom=0)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    files.write_bytes(out / PLOT_FILE, content.getvalue())
