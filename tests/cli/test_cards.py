"""What `geomap weights show` prints of cards that somebody has edited."""

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.runner import geomap

SCORE = {"samples": 3, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"encoder": {"depth": 1, "heads": 2, "mlp": 32, "out": 384}}, ["? x 1"]),
        ({"metrics": {"here": SCORE | {"macro_f1": "n/a"}}}, ["here", "0.500"]),
        ({"metrics": {"here": SCORE | {"majority": {"accuracy": "n/a"}}}}, ["here", "0.500"]),
        ({"training": [{"name": "a", "kind": "[/b]", "samples": 1, "licence": "x"}]}, []),
        ({"title": "a\x1b[2Jb", "recipe": "c\x1b]0;d\x07", "metrics": {"e\x9b": SCORE}, "version": "[/b]\x1b[0m"}, []),
    ],
)
def test_a_card_that_was_edited_is_shown(
    untrained: str, tmp_path: Path, changes: dict[str, Any], shown: list[str]
) -> None:
    shutil.copytree(untrained, tmp_path / "w")
    path = tmp_path / "w" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    one, two = geomap("weights", "show", tmp_path / "w"), geomap("weights", "show", tmp_path / "w", untrained)
    assert (one.exit_code, two.exit_code) == (0, 0), one.output + two.output
    assert all(text in two.output for text in shown)
    assert not set("\x1b\x9b\x07") & set(one.output + two.output)
    if "title" in changes:
        assert all(text in one.output for text in (r"a\x1b[2Jb", r"c\x1b]0;d\x07", r"e\x9b"))
    assert json.loads(geomap("weights", "show", tmp_path / "w", "--json").stdout)["name"] == "untrained"


def test_the_command_for_all_figures_is_that_of_the_folder(untrained: str, tmp_path: Path) -> None:
    shutil.copytree(untrained, tmp_path / "my weights")
    shown = geomap("weights", "show", tmp_path / "my weights")
    command = shlex.split(shown.stdout.partition("All figures: ")[2])
    assert command == ["geomap", "weights", "show", str(tmp_path / "my weights"), "--json"]
    assert json.loads(geomap(*command[1:]).stdout)["name"] == "untrained"
