"""Weights: what is saved is loaded, and nothing else is."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from geomap import legends, pipeline
from geomap.encode import card, weights
from geomap.errors import OutputError, WeightsError
from geomap.sentinel2 import BANDS


@pytest.fixture
def folder(untrained, tmp_path) -> Path:
    copy = tmp_path / "w"
    shutil.copytree(untrained, copy)
    return copy


def edit_card(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | changes))


def test_save_and_load_give_the_same_tensors_and_bytes(folder, tmp_path):
    first = weights.load_weights(str(folder))
    again = tmp_path / "again"
    weights.save(again, first.encoder, first.card, first.class_vectors, scatter=first.scatter)
    for file in ("card.json", "model.safetensors", "class_vectors.safetensors"):
        assert (again / file).read_bytes() == (folder / file).read_bytes()
    second = weights.load_weights(str(again))
    assert second.digest == first.digest
    for k, v in first.encoder.state_dict().items():
        assert torch.equal(v, second.encoder.state_dict()[k])
    assert not second.encoder.training


def saved_again(folder: Path, **changes: Any) -> None:
    """Save other tensors into a folder of weights."""
    held = weights.load_weights(str(folder))
    with torch.no_grad():
        held.encoder.cls.add_(0.1)
    weights.save(folder, held.encoder, held.card.model_copy(update=changes), held.class_vectors)


def test_weights_whose_saving_stops_leave_the_older_ones(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / ".card.json.part").mkdir()  # nothing can be written there, when the other two files are
    with pytest.raises(OutputError, match="cannot write to"):
        saved_again(folder)
    (folder / ".card.json.part").rmdir()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    saved_again(folder)
    assert weights.load_weights(str(folder)).digest != weights._sha256(before["card.json"])
    assert {path.name for path in folder.iterdir()} == before.keys()


def test_weights_of_another_name_are_not_replaced(folder: Path) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(OutputError, match="holds the weights untrained, not mine; choose another --out, or remove"):
        saved_again(folder, name="mine")
    with pytest.raises(OutputError, match="not mine"):
        weights.prepare(folder, "mine")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_for_weights_is_tried_before_them(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "w"):
        with pytest.raises(OutputError, match=f"cannot write to {out}: .*choose another"):
            weights.prepare(out, "mine")
    weights.prepare(tmp_path / "new" / "w", "mine")
    assert not any((tmp_path / "new" / "w").iterdir())


def test_a_card_without_digests_of_series_is_written_as_before(folder: Path, tmp_path: Path) -> None:
    whole = (Path(card.locate("default")) / "card.json").read_text()
    assert card.read_card(card.locate("default")).model_dump_json(indent=2) + "\n" == whole
    assert "series" not in json.loads(whole)["training"][1]
    source = card.TrainingSource(name="mine", kind="measured", samples=3, licence="none", series="00ff 01aa")
    saved_again(folder, training=(source,))
    assert weights.load_weights(str(folder)).card.training == (source,)


@pytest.mark.parametrize("file", ["model.safetensors", "class_vectors.safetensors"])
def test_a_flipped_byte_is_found(folder, file):
    content = bytearray((folder / file).read_bytes())
    content[-3] ^= 1
    (folder / file).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{file} is not the file that its card describes") as e:
        weights.load_weights(str(folder))
    assert e.value.exit_code == 2
    assert "\n" not in str(e.value)


def test_a_missing_file_is_named(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors is missing"):
        weights.load_weights(str(folder))


def test_tensors_that_do_not_fit_the_card_are_refused(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["cls"] = torch.zeros(64)
    save_file(tensors, folder / "model.safetensors")
    card = json.loads((folder / "card.json").read_text())
    card["files"]["model.safetensors"] = weights._sha256((folder / "model.safetensors").read_bytes())
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match="do not fit the card's architecture, first cls"):
        weights.load_weights(str(folder))


def test_another_band_order_is_refused(folder):
    edit_card(folder, bands=[*BANDS[::-1]])
    with pytest.raises(WeightsError, match="expect bands B12 B11"):
        weights.load_weights(str(folder))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"colour": "red"}, "colour"),
        ({"logit_scale": -1}, "logit_scale"),
        ({"low": [1.0]}, "low"),
        ({"encoder": {"width": 3}}, "encoder"),
    ],
)
def test_a_broken_card_is_refused(folder, changes, says):
    edit_card(folder, **changes)
    with pytest.raises(WeightsError, match=says):
        weights.load_weights(str(folder))


def test_unknown_weights_name_the_known_ones():
    with pytest.raises(WeightsError, match="use one of default"):
        weights.load_weights("no-such-weights")


def test_the_default_weights_load_and_carry_every_built_in_legend():
    default = weights.load_weights("default")
    for name in legends.builtin_names():
        found = legends.load(name)
        vectors = default.class_vectors[found.digest]  # KeyError: a legend changed; make its vectors again
        assert vectors.shape == (len(found.classes) or len(found.prompts), default.card.config().out)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))
    assert default.scatter is not None
    for matrix in default.scatter:  # covariances
        torch.testing.assert_close(matrix, matrix.T)
        assert torch.linalg.eigvalsh(matrix.double()).min() > -1e-6 * matrix.trace()
    assert default.card.training
    assert default.card.limits
    assert default.card.metrics


# --- values with a right sha256


def rewrite(folder: Path, file: str, change: Callable[[dict[str, Tensor]], None]) -> None:
    """Change tensors, and the card's sha256 with them."""
    tensors = load_file(folder / file)
    change(tensors)
    save_file(tensors, folder / file)
    card = json.loads((folder / "card.json").read_text())
    edit_card(folder, files=card["files"] | {file: weights._sha256((folder / file).read_bytes())})


def refused_as(folder: Path, says: str) -> None:
    with pytest.raises(WeightsError, match=says) as e:
        weights.load_weights(str(folder))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("file", ["model.safetensors", "class_vectors.safetensors"])
def test_a_value_that_is_not_finite_is_refused(folder: Path, file: str, value: float) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[max(tensors)].view(-1)[-1] = value

    rewrite(folder, file, change)
    refused_as(folder, f"{file}: .* holds NaN or infinite values")


@pytest.mark.parametrize(("dtype", "called"), [(torch.float16, "F16"), (torch.int8, "I8"), (torch.float64, "F64")])
@pytest.mark.parametrize("file", ["model.safetensors", "class_vectors.safetensors"])
def test_another_data_type_is_refused(folder: Path, file: str, dtype: torch.dtype, called: str) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[max(tensors)] = tensors[max(tensors)].to(dtype)

    rewrite(folder, file, change)
    refused_as(folder, f"{file}: .* is {called}, not F32")


@pytest.mark.parametrize("factor", [0.0, 1e38])
def test_finite_weights_that_give_no_embeddings_are_refused(folder: Path, factor: float) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        for tensor in tensors.values():
            tensor *= factor

    rewrite(folder, "model.safetensors", change)
    refused_as(folder, r"no unit vector|infinite")


@pytest.mark.parametrize("factor", [0.0, 0.5, 1e20])
def test_class_vectors_of_another_length_are_refused(folder: Path, factor: float) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[max(tensors)] *= factor

    rewrite(folder, "class_vectors.safetensors", change)
    refused_as(folder, "not of length 1")


@pytest.mark.parametrize(
    ("embeddings", "series"), [((384, 384), None), ((384, 383), (120, 120)), ((384, 384), (12, 12))]
)
def test_matrices_of_scatter_of_another_shape_are_refused(
    folder: Path, embeddings: tuple[int, int], series: tuple[int, int] | None
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        shapes = {"scatter.embeddings": embeddings, "scatter.series": series}
        tensors.update({name: torch.zeros(shape) for name, shape in shapes.items() if shape})

    rewrite(folder, "class_vectors.safetensors", change)
    refused_as(folder, "scatter do not fit")


@pytest.mark.parametrize("rows", [0, 1, 7, 9, 600])
def test_too_few_or_too_many_class_vectors_are_refused(folder: Path, rows: int) -> None:
    legend = legends.load("landcover")

    def change(tensors: dict[str, Tensor]) -> None:
        old = tensors[legend.digest]
        tensors[legend.digest] = old.repeat(rows // 8 + 1, 1)[:rows].contiguous()

    rewrite(folder, "class_vectors.safetensors", change)
    with pytest.raises(WeightsError, match=f"holds {rows} class vectors for a legend of 8|not of length 1"):
        pipeline.vectors_of(legend, weights.load_weights(str(folder)))


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 10**12}, {"dim": -8}, {"dim": 0}, {"dim": 32.5}, {"dim": "32"}, {"dim": True}, {"depth": 10**9},
        {"heads": 0}, {"heads": 5}, {"mlp": 10**15}, {"out": 10**18}, {"months": 13}, {"bands": 3}, {"patch": 10**6},
        {"dropout": 2}, {"dropout": "no"}, {"dim": 8192, "depth": 96}, {"dim": None},
    ],
)  # fmt: skip
def test_absurd_sizes_in_a_card_are_refused_before_anything_is_allocated(folder: Path, changes: Any) -> None:
    card = json.loads((folder / "card.json").read_text())
    edit_card(folder, encoder=card["encoder"] | changes)
    refused_as(folder, "encoder|architecture")


@pytest.mark.parametrize("key", ["low", "high", "logit_scale"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_of_a_card_are_finite(folder: Path, key: str, value: float) -> None:
    edit_card(folder, **{key: value if key == "logit_scale" else [value] * 10})
    refused_as(folder, key)


def test_a_file_that_is_no_safetensors_is_refused(folder: Path) -> None:
    for file in ("model.safetensors", "class_vectors.safetensors"):
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(b"\xff" * 9)
        card = json.loads((folder / "card.json").read_text())
        edit_card(folder, files=card["files"] | {file: weights._sha256(b"\xff" * 9)})
        refused_as(folder, f"{file} is not a safetensors file")
        (folder / file).write_bytes(whole)
        edit_card(folder, files=card["files"])
