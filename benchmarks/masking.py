"""What temporal masking in training is worth: accuracy with 12, 6, 3 and 1 clear months, with and without it.

Two encoders are trained as pipelines/train_default.yaml says, for fewer steps and without the Flemish set; one of them
never has months left out. Both are asked for the land cover and crops of that set, which is in ../shared/data.

    python benchmarks/masking.py [--steps 600] [--simulated 50000] [--json FILE] [--plot FILE.png]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

HELD_OUT = "flanders"
PIPELINE = Path(__file__).parents[1] / "pipelines" / "train_default.yaml"


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--steps", type=int, default=600)
    p.add_argument("--simulated", type=int, default=50_000, help="series")
    p.add_argument("--json", type=Path)
    p.add_argument("--plot", type=Path)
    a = p.parse_args()
    rows = [r for masking in (True, False) for r in measure(masking, a.steps, a.simulated)]
    print(f"{'masking':>8} {'legend':>10} {'months':>7} {'accuracy':>9} {'sd':>6}")
    for r in rows:
        print(f"{r['masking']!s:>8} {r['legend']:>10} {r['months']:>7} {r['accuracy']:>9.3f} {r['sd']:>6.3f}")
    if a.json:
        a.json.write_text(json.dumps(rows, indent=2) + "\n")
    if a.plot:
        plot(rows, a.plot)


def measure(masking: bool, steps: int, simulated: int) -> list[dict[str, Any]]:
    """Accuracies of an encoder trained with or without temporal masking."""
    from geomap import legends as legend
    from geomap.datasets.series import embed_samples
    from geomap.datasets.sets import read_set
    from geomap.encode import weights
    from geomap.evaluate import protocol
    from geomap.train.captions.run import train_captions
    from geomap.train.config import Augment, read_captions

    config = read_captions(PIPELINE)
    flanders = config.real[HELD_OUT]
    change: dict[str, Any] = {"steps": steps, "simulated": simulated, "held_out": 500, "evaluation": None}
    change["real"] = {k: v for k, v in config.real.items() if k != HELD_OUT}
    if not masking:
        change["augment"] = Augment(**{**config.augment.model_dump(), "some_months": 0, "window": 0})
    with tempfile.TemporaryDirectory() as folder:
        train_captions(config.model_copy(update=change), Path(folder) / "weights")
        trained = weights.load_weights(str(Path(folder) / "weights"))
    test = read_set(f"{HELD_OUT}={flanders}", patch=1).usable()
    known = [legend.load(name) for name in test.labelled]
    monthly = embed_samples(trained.encoder, test)
    return [
        {"masking": masking, "legend": m.legend, "months": m.months, "accuracy": m.mean, "sd": m.sd}
        for m in protocol.months_left(trained, known, test, monthly, protocol.Options(device="cpu"))
    ]


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over clear months, one line for each legend and training."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4))
    for legend, colour in (("landcover", "#3b6e3b"), ("crops", "#b36b00")):
        for masking, style in ((True, "-"), (False, ":")):
            line = [r for r in rows if r["legend"] == legend and r["masking"] == masking]
            label = f"{legend}, {'with' if masking else 'without'} masking"
            axes.errorbar(
                [r["months"] for r in line], [r["accuracy"] for r in line], [r["sd"] for r in line],
                color=colour, linestyle=style, marker="o", label=label,
            )  # fmt: skip
    axes.set(xlabel="clear months", ylabel="accuracy", ylim=(0, 1), xticks=[1, 3, 6, 12])
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
