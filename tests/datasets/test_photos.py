"""Embedding ground photos, with a small CLIP of random weights (CLIP's own cannot be shipped): how, not how well."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, features
from safetensors.numpy import load_file

from geomap.datasets import lucas, photos
from geomap.errors import BusyError, DataError, InputError, OutputError
from geomap.label import towers
from tests.support.runner import geomap, refused

VIEWS = ["FR/346/283/34622836" + d for d in "NESW"] + ["BG/550/236/55082360" + d for d in "NE"]
CORRUPT = "BG/550/236/55082360S"
SMALL = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "patch_size": 32, "layers": 2, "width": 128},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "layers": 1, "width": 64, "heads": 2},
}
"""ViT-B/32 as open_clip describes it, but for 12 layers of 768 and 512 numbers: 0.6 GB, of which nothing here is."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of open_clip's that describes a model called small."""
    path = tmp_path_factory.mktemp("model") / "small.json"
    path.write_text(json.dumps(SMALL))
    return path


@pytest.fixture(scope="module", autouse=True)
def clip(small: Path, tmp_path_factory: pytest.TempPathFactory):
    """A small CLIP of seeded random weights, and its file, which GEOMAP_CLIP_FILE names for other processes.

    In this process the model itself is taken, not loaded again each time; label/test_text.py loads a ViT-B/32.
    """
    import open_clip

    torch.manual_seed(0)
    open_clip.add_model_config(small)
    model = open_clip.create_model(small.stem, pretrained=None).eval()
    path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save(model.state_dict(), path)
    with pytest.MonkeyPatch.context() as m:
        m.setenv(towers.CLIP_FILE_VARIABLE, str(path))
        m.setattr(towers, "load_clip", lambda: model)
        yield model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of two points, a truncated one, and files that are no photos of a view."""
    home = tmp_path_factory.mktemp("lucas")
    rng = np.random.default_rng(0)
    for name in [*VIEWS, CORRUPT]:
        path = home / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (12, 16, 3), np.uint8).repeat(20, 0).repeat(20, 1)
        Image.fromarray(pixels).save(path, quality=90)
    torn = home / f"{CORRUPT}.jpg"
    torn.write_bytes(torn.read_bytes()[:2000])
    (home / "FR/346/283/34622836P.jpg").write_bytes((home / f"{VIEWS[0]}.jpg").read_bytes())
    (home / "FR/readme.txt").write_text("no photo")
    return home


@pytest.fixture(scope="module")
def embedded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, photos.Embedded, list]:
    out = tmp_path_factory.mktemp("out") / "photos.safetensors"
    steps: list[tuple[int, int]] = []
    done = photos.embed_photos(folder, out, 2, "cpu", lambda stage, n, total: steps.append((n, total)))
    return out, done, steps


def test_vectors_are_those_of_the_model_and_the_corrupt_photo_is_named(folder, embedded, clip) -> None:
    out, done, steps = embedded
    assert done == photos.Embedded(6, 2, (f"{CORRUPT}.jpg",))
    assert steps == [(2, 7), (4, 7), (6, 7), (7, 7)]
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    stored = load_file(out)
    keys = [row.tobytes().decode() for row in stored["keys"]]
    assert keys == sorted(f"{v[:2]}_{v[-9:]}" for v in VIEWS)
    mean, std = ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711])  # OpenAI's CLIP
    for key, vector in zip(keys, stored["vectors"], strict=True):
        (path,) = folder.rglob(f"{key[3:]}.jpg")
        image = Image.open(path).resize((298, 224), Image.Resampling.BICUBIC).crop((37, 0, 261, 224))
        pixels = (np.asarray(image, np.float32) / 255 - mean) / std
        with torch.inference_mode():
            want = clip.encode_image(torch.from_numpy(pixels.transpose(2, 0, 1)[None]).float())[0]
        cosine = float(want @ torch.from_numpy(vector) / want.norm() / np.linalg.norm(vector))
        assert cosine > 0.9999, key
        assert np.linalg.norm(vector) == pytest.approx(float(want.norm()), rel=0.001)  # as the model gives it


@pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")
def test_a_photo_is_left_out_whatever_its_format_raises(folder, tmp_path) -> None:
    """Pillow goes by a file's content, and raises RuntimeError for a damaged AVIF."""
    path = tmp_path / "34622836N.jpg"
    Image.open(folder / f"{VIEWS[0]}.jpg").save(path, "AVIF")
    content = path.read_bytes()
    begin = content.index(b"mdat") + 4
    path.write_bytes(content[:begin] + bytes(len(content) - begin))
    tower = SimpleNamespace(_prepare=lambda image: torch.from_numpy(np.asarray(image)))
    assert photos._ImageTower._decode(tower, photos.Photo("FR_34622836N", path, (1, 0, 0))) is None


def test_training_reads_the_file(embedded) -> None:
    out, *_ = embedded
    stored = load_file(out)
    got = lucas.read_photos(out, ["34622836", "31421816", "55082360"])
    np.testing.assert_allclose(got[0], stored["vectors"][2:].mean(0), atol=1e-6)
    np.testing.assert_allclose(got[2], stored["vectors"][:2].mean(0), atol=1e-6)
    assert np.isnan(got[1]).all()


def test_a_killed_run_resumes_to_the_same_bytes(folder, small, embedded, tmp_path, monkeypatch) -> None:
    out = tmp_path / "photos.safetensors"
    code = (
        f"import torch; torch.set_num_threads({torch.get_num_threads()})\n"  # sums depend on it in the last digits
        "import open_clip, os, signal, sys; from pathlib import Path; from geomap.datasets.photos import embed_photos\n"
        "from geomap.label import towers; open_clip.add_model_config(sys.argv[3]); towers.CLIP_MODEL = 'small'\n"
        "embed_photos(Path(sys.argv[1]), Path(sys.argv[2]), 2, 'cpu',"
        " lambda stage, n, total: n == 6 and os.kill(os.getpid(), signal.SIGKILL))"
    )
    # a process of its own, which loads the file
    killed = subprocess.run([sys.executable, "-c", code, *map(str, (folder, out, small))], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    parts = tmp_path / ".photos.safetensors.parts"
    made = sorted(parts.glob("*.safetensors"))
    assert len(made) == 3
    whole = [path for path in made if not photos._read_part(path)[1]]  # the third lacks the corrupt photo
    whole[0].write_bytes(whole[0].read_bytes()[:100])
    calls: list[int] = []
    embed = photos._ImageTower.embed

    def counted(tower, group):
        calls.append(len(group))
        return embed(tower, group)

    monkeypatch.setattr(photos._ImageTower, "embed", counted)
    command = ["photos", "embed", str(folder), "--out", str(out), "--batch", "2", "--device", "cpu"]
    done = geomap(*command)
    assert done.exit_code == 0
    assert "6 photos of 2 points" in done.output
    assert f"{CORRUPT}.jpg" in done.output
    assert sorted(calls) == [1, 2, 2]  # the last, the damaged one, and the one that lacks a photo
    assert out.read_bytes() == embedded[0].read_bytes()
    assert not parts.exists()
    assert geomap(*command).exit_code == OutputError.exit_code  # it is there


@pytest.fixture
def own(folder: Path, tmp_path: Path) -> Path:
    """A copy of the photos, to change."""
    return shutil.copytree(folder, tmp_path / "own")


def stopped(folder: Path, out: Path) -> None:
    """Stop a run after three of its four batches."""

    def stop(stage: str, done: int, total: int) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        photos.embed_photos(folder, out, 2, "cpu", stop)


@pytest.mark.parametrize("dated", [True, False])
def test_a_photo_that_became_another_is_embedded_again(own: Path, tmp_path: Path, dated: bool) -> None:
    """Of the same length, and even of the same date."""
    out, fresh = tmp_path / "p.safetensors", tmp_path / "fresh.safetensors"
    first, second = own / f"{VIEWS[0]}.jpg", own / f"{VIEWS[4]}.jpg"
    size = max(path.stat().st_size for path in (first, second))
    for path in (first, second):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))  # decoders ignore what follows the image
    stopped(own, out)
    then = second.stat()
    second.write_bytes(first.read_bytes())
    if dated:
        os.utime(second, ns=(then.st_atime_ns, then.st_mtime_ns))
    assert photos.embed_photos(own, out, 2, "cpu") == photos.embed_photos(own, fresh, 2, "cpu")
    assert out.read_bytes() == fresh.read_bytes()
    assert not np.array_equal(load_file(out)["vectors"][1], load_file(out)["vectors"][0])


def test_a_photo_that_could_not_be_decoded_is_tried_again(own: Path, embedded, tmp_path: Path, monkeypatch) -> None:
    """Even if it is the same file: a disk may have failed for a moment."""
    out = tmp_path / "p.safetensors"
    opened = Image.open

    def failing(path: Path) -> Image.Image:
        if path.name == f"{VIEWS[5][-9:]}.jpg":
            raise OSError("Input/output error")
        return opened(path)

    with monkeypatch.context() as m:
        m.setattr(Image, "open", failing)
        stopped(own, out)
    assert photos.embed_photos(own, out, 2, "cpu") == embedded[1]
    assert out.read_bytes() == embedded[0].read_bytes()


def test_a_photo_is_turned_as_its_camera_was(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8).repeat(10, 0).repeat(10, 1)
    upright, turned = tmp_path / "a/FR", tmp_path / "b/FR"
    for home, image, orientation in ((upright, pixels, 1), (turned, np.rot90(pixels), 6)):  # 6: to be turned clockwise
        home.mkdir(parents=True)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        Image.fromarray(image).save(home / "34622836N.jpg", quality=100, subsampling=0, exif=exif)
    vectors = []
    for home in (upright, turned):
        photos.embed_photos(home, home.parent / "p.safetensors", device="cpu")
        vectors.append(load_file(home.parent / "p.safetensors")["vectors"][0])
    np.testing.assert_allclose(*vectors, atol=0.05 * np.abs(vectors[0]).max())


def test_one_run_at_a_time_writes_a_file(folder: Path, embedded, tmp_path: Path) -> None:
    out = tmp_path / "p.safetensors"
    command = ("photos", "embed", folder, "--out", out, "--batch", "2", "--device", "cpu")

    def again(stage: str, done: int, total: int) -> None:
        refused(geomap(*command), BusyError.exit_code, "another run is writing", out.name)

    assert photos.embed_photos(folder, out, 2, "cpu", again) == embedded[1]
    assert out.read_bytes() == embedded[0].read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_a_file_that_another_run_wrote_meanwhile_stays(folder: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "p.safetensors"
    find = photos.find_photos

    def slowly(folder: Path) -> list[photos.Photo]:
        out.write_bytes(b"another run's")
        return find(folder)

    monkeypatch.setattr(photos, "find_photos", slowly)
    with pytest.raises(OutputError, match="exists already"):
        photos.embed_photos(folder, out, 2, "cpu")
    assert out.read_bytes() == b"another run's"
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


def test_folders_without_usable_photos_are_refused(folder, tmp_path) -> None:
    def place(*names: str) -> Path:
        home = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            (home / name).write_bytes(b"\xff\xd8 torn")
        return home

    out = tmp_path / "p.safetensors"
    for names, told in (
        (["FR/34622836P.jpg"], "no photo in"),
        (["photos/34622836N.jpg"], "no country's folder"),
        (["FR/2015/34622836N.jpg", "FR/2018/34622836n.JPEG"], "same view"),
    ):
        with pytest.raises(InputError, match=told):
            photos.find_photos(place(*names))
    with pytest.raises(InputError, match="no folder"):
        photos.find_photos(tmp_path / "none")
    with pytest.raises(DataError, match="none of 1 photos"):
        photos.embed_photos(place("FR/34622836N.jpg"), out, device="cpu")
    assert not out.exists()
    assert [p.key for p in photos.find_photos(folder / "FR")] == [f"FR_34622836{d}" for d in "ENSW"]
