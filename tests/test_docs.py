"""What the documents point to is there: tests that are named as evidence, and files behind links."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def functions(path: Path) -> set[str]:
    """Names of a module's functions."""
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = re.findall(r"\b(test_\w+\.py)::(\w+)", page.read_text())
    assert not {(file, name) for file, name in named if name not in functions(ROOT / "tests" / file)}
    assert named or page.name != "reliability.md"


def test_each_of_the_promises_has_a_test() -> None:
    rows = re.findall(r"^\| (\d+) \|.*\|([^|]*)\|$", (ROOT / "docs/reliability.md").read_text(), re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 16))
    assert all("::test_" in shown for _, shown in rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_within_the_project_lead_to_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", page.read_text())
    assert not [target for target in targets if not (page.parent / target).exists()]
