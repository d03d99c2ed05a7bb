"""Trains, evaluates and maps with the paper's configuration shrunk in size, through the command line: make train-smoke.

The files have the published layouts, but nothing in them is measured. Series are simulated. There are no photos: a
sample's "photos" are text vectors of captions of its land cover, with noise, by CLIP's text tower with random weights:
the figures say that the parts work together, and nothing of how well maps of real places are.

    python -m tests.train.smoke_train [--out DIR] [--train N]
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from tests.support import REPOSITORY
from tests.support.layouts import write_cut, write_photo_dictionary

CONFIG = REPOSITORY / "pipelines" / "train_smoke.yaml"
SIZES = {"val": 256, "test": 384}
NOISE = 0.3  # of a photo, in lengths of the spread of the classes' vectors
LANDSCAPE = 64  # pixels a side


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, help="keep data, weights, report and maps here")
    p.add_argument("--train", type=int, default=1280, help="training samples")
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        out = (a.out or Path(scratch)).resolve()
        out.mkdir(parents=True, exist_ok=True)
        os.environ["GEOMAP_CLIP_FILE"] = str(out / "random_clip.pt")
        os.environ["XDG_CACHE_HOME"] = str(out / "cache")  # vectors of a random CLIP must not reach the user's cache
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for a busy core cost more than they save here
        clock = {"data": timed(write_data, out, a.train)}
        clock["train"] = timed(geomap, "train", out / CONFIG.name, "--out", out / "weights")
        clock["evaluate"] = timed(
            geomap, "evaluate", out / "weights", "--data", out / "test.h5", "--photos", out / "photos.pt",
            "--prompts", "D", "--draws", "0", "--out", out / "evaluation",
        )  # fmt: skip
        clock["map"] = timed(write_map, out)
        summary = check(out)
        report(summary | {f"{stage}_s": round(seconds, 1) for stage, seconds in clock.items()})


def timed(function, *arguments) -> float:
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def geomap(*arguments) -> None:
    subprocess.run([sys.executable, "-m", "geomap.cli", *map(str, arguments)], check=True)


def write_data(out: Path, train: int) -> None:
    """train.h5, val.h5, test.h5, photos.pt, the random CLIP's weights, and the configuration beside them."""
    import open_clip

    from geomap import legends
    from geomap.label import towers
    from geomap.simulate import series
    from geomap.simulate.covers import table

    torch.manual_seed(0)
    torch.save(open_clip.create_model("ViT-B-32-quickgelu").state_dict(), os.environ["GEOMAP_CLIP_FILE"])
    classes = legends.load("landcover").classes
    captions = towers.tower(towers.CLIP_SPACE).encode([prompt for c in classes for prompt in c.prompts]).numpy()
    of_class = np.split(captions, np.cumsum([len(c.prompts) for c in classes])[:-1])
    spread = np.std([group.mean(0) for group in of_class], axis=0)  # (512,)
    rng = np.random.default_rng(0)
    photos = {}
    for row, (name, n) in enumerate({"train": train, **SIZES}.items()):
        made = series.simulate(rng, n)
        covers = [table().cover[i] for i in made.cover]
        ids = [f"{3500 + i % 700}{2500 + 100 * row + i // 700}" for i in range(n)]  # kilometres in central Europe
        codes = [f"{'ABCDEFGH'[c.landcover - 1]}10" for c in covers]  # B10: crops, without saying which
        attributes = {"lc1": codes, "nuts0": ["FR"] * n}
        write_cut(out / f"{name}.h5", ids, made.dn, attributes, composite="masked")
        for point, cover in zip(ids, covers, strict=True):
            prompts = of_class[cover.landcover - 1]
            for direction in "NESW":
                stand_in = prompts[rng.integers(len(prompts))] + NOISE * spread * rng.normal(size=spread.shape)
                photos[f"FR_{point}{direction}"] = stand_in
    write_photo_dictionary(out / "photos.pt", photos)
    shutil.copy(CONFIG, out)


def write_map(out: Path) -> None:
    from geomap.simulate import write_archive

    archive = write_archive(out / "scenes", size=LANDSCAPE)
    area = ",".join(map(repr, archive.bbox))
    geomap(
        "map", area, "--year", "2023", "--stac", archive.items, "--legend", "landcover",
        "--weights", out / "weights", "--out", out / "maps",
    )  # fmt: skip
    geomap("verify", out / "maps")


def check(out: Path) -> dict[str, object]:
    """Figures of the run. Exits with a message where training did not beat chance."""
    from geomap.demo import agreement

    with (out / "weights" / "metrics.csv").open() as f:
        epochs = [{k: float(v) for k, v in line.items()} for line in csv.DictReader(f)]
    (found,) = json.loads((out / "evaluation" / "results.json").read_text())["sets"]
    top1 = {s["method"]: s["top1"] for s in found["scores"] if s["legend"] == "landcover" and s["length"] == "monthly"}
    (recall,) = (
        r["recall"]["1"]
        for r in found["retrieval"]
        if (r["classes"], r["query"], r["length"]) == ("landcover", "pixel", "monthly")
    )
    mapped, *_ = agreement("landcover", out / "scenes" / "truth_landcover.tif", out / "maps" / "landcover.tif")
    better = {
        "the loss fell": epochs[-1]["val_loss"] < epochs[0]["val_loss"],
        "land cover beats the commonest class": top1["encoder"] > top1["majority"],
        "retrieved photos beat the commonest class": recall > top1["majority"],
    }
    summary = {
        "validation loss": f"{epochs[0]['val_loss']:.3f} -> {epochs[-1]['val_loss']:.3f}",
        "own photo recall@1": f"{epochs[-1]['val_recall_at_1']:.3f} (chance {1 / SIZES['val']:.3f})",
        "land cover, zero-shot": f"{top1['encoder']:.3f} (commonest class {top1['majority']:.3f})",
        "photo of the same cover @1": f"{recall:.3f}",
        "simulated map, land cover": f"{mapped.share:.3f} of {mapped.pixels} pixels",
    }
    failed = [what for what, true in better.items() if not true]
    if failed:
        report(summary)
        sys.exit(f"not so: {'; '.join(failed)}")
    return summary


def report(summary: dict[str, object]) -> None:
    sys.stdout.write("Simulated series and stand-ins for photos: a check of the code, no measure of quality.\n")
    for key, value in summary.items():
        sys.stdout.write(f"{key:>28}: {value}\n")


if __name__ == "__main__":
    main()
