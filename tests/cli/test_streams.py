"""What a command says cannot be written, and errors that nothing expects: the exit code stays true, in one line."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from geomap.run import status
from tests.support.runner import PROGRAM, geomap, refused

TEXT = ["legends", "show", "crops"]  # more than one buffer of text
MAKES = [
    "map",
    "4.0585,50.7431,4.0676,50.7489",
    "--start",
    "2018-08",
    "--months",
    "3",
    "--min-clear-months",
    "1",
    "--weights",
]


def shell(line: str, *words: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """A line of bash, in which "$@" is a command as it is typed."""
    command = ["bash", "-c", line, "bash", PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | env, timeout=200)


def test_text_that_no_disk_takes_is_an_error(tmp_path: Path) -> None:
    refused(shell('"$@" >/dev/full', *TEXT, cwd=tmp_path), 1, "cannot write to standard output: No space left")


def test_who_closes_a_pipe_hears_no_complaint(tmp_path: Path) -> None:
    done = shell('"$@" | head -1', *TEXT, cwd=tmp_path)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed: str, tmp_path: Path) -> None:
    done = shell(f'"$@" {closed}', *TEXT, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


ALONE = [pytest.param(to, marks=pytest.mark.soak) for to in (">/dev/full", "2>/dev/full", ">&- 2>&-", "| head -0")]


@pytest.mark.parametrize("to", [">/dev/full 2>/dev/full", "2>&- | head -0", *ALONE])
def test_a_finished_map_is_not_failed_by_its_report(
    to: str, archive: Callable[..., Path], untrained: str, tmp_path: Path
) -> None:
    items = archive(dates=8) / "items.json"
    line = f'set -o pipefail; "$@" {to}'
    done = shell(line, *MAKES, untrained, "--stac", items, "--out", "é", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "é/SHA256SUMS").is_file()


def test_characters_that_a_terminal_lacks_are_escaped(tmp_path: Path) -> None:
    done = shell('"$@"', "status", "é\udcff", cwd=tmp_path, PYTHONIOENCODING="ascii")
    refused(done, 2, "\\xe9\\udcff holds no run")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("a b\n  c"), "unexpected ValueError: a b c; for a report, type: geomap -v COMMAND ..."),
        (RecursionError("deep " * 1000), "unexpected RecursionError: deep deep"),
        (KeyError("x"), "unexpected KeyError: 'x'"),
        (AssertionError(), "unexpected AssertionError; for a report"),
        (MemoryError(), "there is not enough memory"),
    ],
)
def test_an_error_that_nothing_expects_is_one_line(
    error: Exception, says: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fails(directory: Path) -> status.Status:
        raise error

    monkeypatch.setattr(status, "status", fails)
    assert len(refused(geomap("status", tmp_path), 1, says)) < 400
    done = geomap("-v", "status", tmp_path)
    assert (done.exit_code, "Traceback" in done.stderr, "in fails" in done.stderr) == (1, True, True)


def test_a_list_of_commands_says_what_each_command_says() -> None:
    from geomap.cli import COMMANDS, command

    for name, (_, line) in COMMANDS.items():
        assert (command(name).name, str(command(name).help).splitlines()[0]) == (name, line)
