"""Commands of `geomap`, in this process or as a user's own, and Python that runs beside the test."""

import os
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner, Result

from geomap.cli import app
from tests.support import REPOSITORY

PROGRAM = str(Path(sys.executable).with_name("geomap"))


def geomap(*words: str | Path, columns: int = 1000) -> Result:
    """A command in this process; no line of its output is broken."""
    return CliRunner(env={"COLUMNS": str(columns), "NO_COLOR": "1"}).invoke(app, [str(word) for word in words])


def typed(
    *words: str | Path, cwd: Path | None = None, columns: int = 200, **env: str
) -> subprocess.CompletedProcess[str]:
    """A command as it is typed in a folder: a process of its own."""
    environment = os.environ | {"COLUMNS": str(columns), "NO_COLOR": "1"} | env
    command = [PROGRAM, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=200)


def refused(done: Result | subprocess.CompletedProcess[str], code: int, *says: str) -> str:
    """The one line that a command says of itself on stderr; asserts its exit code, and what the line says."""
    exit_code = done.exit_code if isinstance(done, Result) else done.returncode
    assert exit_code == code, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("geomap: ")]
    for text in says:
        assert text in line
    return line


def start(code: str, *words: str | Path) -> subprocess.Popen[str]:
    """Python code in a process of its own, which finds these helpers too; its stdout is a pipe."""
    command = [sys.executable, "-c", code, *map(str, words)]
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": path})
