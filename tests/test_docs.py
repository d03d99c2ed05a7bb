"""What the documents point to is there: tests named as evidence, files behind links, commands and their options."""

import ast
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from geomap.cli import app
from geomap.errors import to_type
from tests.support import REPOSITORY

PAGES = sorted(page for folder in (".", "docs", "pipelines") for page in REPOSITORY.glob(f"{folder}/*.md"))
JOBS = sorted(REPOSITORY.glob("pipelines/*.yaml"))


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


def line_commands(page: Path) -> list[list[str]]:
    """The words of every line of code that is a `geomap` command: continued lines joined, remarks beside it cut off."""
    text = re.sub(r"\\\n[# ]*", " ", page.read_text())
    fenced = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    indented = re.findall(r"^(?: {4}|# {3,})(\S.*)", text, re.MULTILINE)
    lines = (line.removeprefix(".venv/bin/") for line in [*"".join(fenced).splitlines(), *indented])
    commands = (re.sub(r"(?<=\S) {3,}\S.*| #.*| [|>] .*", "", line) for line in lines if line.startswith("geomap "))
    return [[word for word in shlex.split(command) if word != "..."] for command in commands]


def inline_commands(page: Path) -> list[list[str]]:
    """The words of every `geomap` command within a sentence, where arguments may be left out."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [words.replace("|", " ").split() for words in re.findall(r"`(geomap [^`]+)`", text)]


def subcommand(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and what follows its name."""
    command, rest = typer.main.get_command(app), words[1:]
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.resolve_command(typer.Context(command), [rest.pop(0)])[1]
    assert not hasattr(command, "commands") or not rest or rest[0].startswith("--"), f"no such command: {words}"
    return command, rest


def options(command: Any) -> set[str]:
    return {"--help"} | {name for parameter in command.params for name in parameter.opts}


@pytest.mark.parametrize("page", [p for p in [*PAGES, *JOBS] if line_commands(p)], ids=lambda p: p.name)
def test_commands_that_a_page_tells_to_type_are_taken_by_the_parser(page: Path) -> None:
    """By the real parser: options and their values, and the number of arguments."""
    for words in line_commands(page):
        command, rest = subcommand(words)
        if {"--help", "--install-completion"} & {*rest}:  # which would print, or install
            assert [word for word in rest if word in options(command)] == rest, words
        else:
            command.make_context(" ".join(words), [*rest])


def test_the_readme_asks_again_of_what_it_has_mapped_with_embeddings() -> None:
    commands = line_commands(REPOSITORY / "README.md")
    kept = {words[words.index("--out") + 1] for words in commands if "--save-embeddings" in words}
    asked = {words[2] for words in commands if words[1] in ("label", "similar")}
    assert len(asked) > 1
    assert asked <= kept


@pytest.mark.parametrize("page", [p for p in PAGES if inline_commands(p)], ids=lambda p: p.name)
def test_commands_within_a_sentence_exist_with_their_options(page: Path) -> None:
    for words in inline_commands(page):
        command, rest = subcommand(words)
        assert {word for word in rest if word.startswith("--")} <= options(command), words


def test_a_misspelt_option_or_command_in_a_page_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("`geomap evalute` or `geomap run --again`\n\n```\ngeomap plan AOI --yaer 2023   a plan\n```\n")
    (misspelt, unknown), (line,) = inline_commands(page), line_commands(page)
    with pytest.raises(AssertionError, match="evalute"):
        subcommand(misspelt)
    command, rest = subcommand(unknown)
    assert not {*rest} <= options(command)
    command, rest = subcommand(line)
    with pytest.raises(typer.TyperException, match="--yaer"):
        command.make_context("plan", rest)


def test_packages_are_installed_by_a_named_python_and_never_the_strangers_geomap() -> None:
    """`geomap` on the registry is another project; which Python a bare `pip` belongs to, nobody knows."""
    code = [p for folder in ("geomap", "benchmarks", "contrib") for p in REPOSITORY.glob(f"{folder}/**/*.py")]
    texts = {path: path.read_text() for path in [*PAGES, *JOBS, *code]}
    assert not [p for p, text in texts.items() if re.search(r"(?<!-m )\bpip install|install ['\"]?geomap(\[|==)", text)]
    assert "-m pip install" in texts[REPOSITORY / "docs/install.md"]


def unquoted(source: str) -> list[str]:
    """The text before each value that a message puts into a `geomap` command as it is."""
    named = "|".join(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            said = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            found += re.findall(rf"\bgeomap (?:{named})(?: [\w-]+)* \{{\}}", said)
    return found


def test_messages_quote_what_they_put_into_a_command_to_type() -> None:
    for path in REPOSITORY.glob("geomap/**/*.py"):
        assert not unquoted(path.read_text()), path
    assert unquoted('f"; " f"geomap weights show {card.name}"') == ["geomap weights show {}"]
    assert shlex.split(to_type("view", Path("My Maps/it's 1"))) == ["geomap", "view", "My Maps/it's 1"]
