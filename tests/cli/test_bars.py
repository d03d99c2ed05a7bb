"""Progress bars on a terminal: the time left that they show, and lines that are written meanwhile."""

import os
import pty
import re
import subprocess
import sys

from rich.progress import Progress

from geomap.cli.console import Remaining
from tests.support import REPOSITORY


def test_time_left_is_that_of_the_mean_speed_since_the_bar_began():
    """Of 10 tiles 2 came from an earlier run; the next 2 took 5 and 55 s, so the last 6 take 180 s."""
    now = [100.0]
    column = Remaining()
    with Progress(column, get_time=lambda: now[0], disable=True) as bars:
        bar = bars.add_task("tiles", total=10, completed=2, first=2)
        task = bars.tasks[0]
        assert str(column.render(task)) == "-:--:--"
        for seconds, done, left in ((5, 3, "0:00:35"), (55, 4, "0:03:00"), (60, 10, "0:00:00")):
            now[0] += seconds
            bars.update(bar, completed=done)
            assert str(column.render(task)) == left


def test_a_warning_stands_on_a_line_of_its_own_while_a_bar_is_drawn():
    code = (
        "import logging; from geomap.cli.console import log_to_stderr, progress_bars;"
        "log_to_stderr(False);"
        "bars = progress_bars(); report = bars.__enter__(); report('composite', 1, 5);"
        "logging.getLogger('geomap.x').warning('a scene is left out');"
        "report('composite', 5, 5); bars.__exit__(None, None, None)"
    )
    terminal, end = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen([sys.executable, "-c", code], stderr=end, env=environment) as process:
        os.close(end)
        written = b""
        try:
            while part := os.read(terminal, 4096):
                written += part
        except OSError:  # Linux says so when the other end is closed
            pass
        os.close(terminal)
    assert process.returncode == 0
    erased = re.sub(r"[^\n]*\x1b\[2K", "", written.decode())  # what erasing a line leaves of it
    (line,) = [line for line in erased.splitlines() if "left out" in line]
    assert re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", line).strip() == "WARNING: a scene is left out"
