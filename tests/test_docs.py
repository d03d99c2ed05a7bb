"""What the documents point to is there: tests that are named as evidence, and files behind links."""

import ast
import re
import shlex
from pathlib import Path

import pytest
import typer

from geomap.cli import app
from tests.support import REPOSITORY

PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/*.md")])


def functions(file: str) -> set[str]:
    """Names of the functions of a test file, wherever it lies."""
    (path,) = REPOSITORY.glob(f"tests/**/{file}")
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"\b(test_\w+\.py)::(\w+)", page.read_text())
    assert not {(file, name) for file, name in named if name not in functions(file)}
    assert named or page.name != "reliability.md"


def test_each_of_the_promises_has_a_test() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", (REPOSITORY / "docs/reliability.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 16))
    assert all("::test_" in shown for _, shown in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_of_tests_lead_to_files(page: Path) -> None:
    assert not [p for p in re.findall(r"\btests/[\w/]+\.py", page.read_text()) if not (REPOSITORY / p).is_file()]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_within_the_project_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]


def typed(page: Path) -> list[list[str]]:
    """The words of every `geomap` command in a page's code blocks, with continued lines, without what is said of it."""
    blocks = re.findall(r"^```(?:\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    commands = (re.sub(r"(?<=\S) {3,}\S.*| #.*", "", line).strip().removeprefix(".venv/bin/") for line in lines)
    return [shlex.split(re.split(r" [|>] ", command)[0]) for command in commands if command.startswith("geomap ")]


@pytest.mark.parametrize("page", [page for page in PAGES if typed(page)], ids=lambda p: p.name)
def test_commands_that_a_page_tells_to_type_exist_with_their_options(page: Path) -> None:
    for words in typed(page):
        command = typer.main.get_command(app)
        rest = words[1:]
        while rest and rest[0] in getattr(command, "commands", {}):
            command = command.commands[rest.pop(0)]
        assert command.name != "geomap" or rest[0].startswith("--"), words
        known = {option for parameter in command.params for option in parameter.opts} | {
            "--help",
            "--install-completion",
        }
        assert {word.partition("=")[0] for word in rest if word.startswith("--")} <= known, words
