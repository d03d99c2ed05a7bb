"""Who is told of the end of a job, by a real server and real programs; that nothing of it fails a run or is logged."""

import json
import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from geomap.errors import BusyError, InputError, QuarantineError
from geomap.jobs import notice
from geomap.jobs.file import MapJob, read_job
from geomap.jobs.notice import tell, telling
from tests.support.archive import PATCH
from tests.support.runner import geomap
from tests.support.server import Answer, Server


@pytest.fixture
def hook() -> Iterator[Server]:
    with Server() as server:
        server.always["/hook"] = Answer(204, body=b"")
        server.always["/gone"] = Answer(410, body=b"")
        server.always["/moved"] = Answer(302, {"Location": "/hook"}, body=b"")
        yield server


def job_with(folder: Path, notify: dict[str, Any], **changes: Any) -> Path:
    content: dict[str, Any] = {
        "name": "patch",
        "area": [float(v) for v in PATCH.split(",")],
        "period": {"start": "2018-09", "months": 1},
        "legends": ["landcover"],
        "min_clear_months": 1,
        "outputs": {"directory": "out"},
        "notify": notify,
    }
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump(content | changes))
    return path


def told(server: Server) -> list[dict[str, Any]]:
    return [json.loads(body) for body in server.posted]


def script(folder: Path, text: str) -> str:
    """A program beside the job file, named as a job names it."""
    path = folder / "tell me"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return "./tell me"


def test_success_and_failure_of_a_job_are_told(
    archive: Callable[..., Path], untrained: str, hook: Server, tmp_path: Path
) -> None:
    command = [script(tmp_path, f"cat > {shlex.quote(str(tmp_path))}/got-$1"), "a b"]
    notify = {"failure": {"url": f"{hook.base}/hook", "command": command}, "success": {"url": f"{hook.base}/hook"}}
    stac = {"stac": str(archive(dates=20) / "items.json")}
    path = job_with(tmp_path, notify, catalogue=stac, weights={"name": untrained})
    assert geomap("run", "--quiet", path).output == ""
    (content,) = told(hook)
    assert content == {
        "text": "geomap, patch: complete",
        "geomap": content["geomap"],
        "job": "patch",
        "event": "success",
        "exit_code": 0,
        "message": "complete",
        "maps": [str(tmp_path / "out")],
    }
    assert geomap("run", "--quiet", path).output == ""  # complete already
    assert len(told(hook)) == 1
    broken = {"catalogue": {"stac": "none.json"}, "outputs": {"directory": "other"}}
    done = geomap("run", job_with(tmp_path, notify, weights={"name": untrained}, **broken))
    assert done.exit_code == 2
    _, content = told(hook)
    assert (content["event"], content["exit_code"], content["maps"]) == ("failure", 2, [])
    assert content["message"] in done.stderr
    assert "none.json" in content["message"]
    assert json.loads((tmp_path / "got-a b").read_text()) == content


def test_which_ends_are_told(hook: Server, tmp_path: Path) -> None:
    url = {"url": f"{hook.base}/hook"}
    job = read_job(job_with(tmp_path, {"failure": url, "success": dict(url)}))
    patient = read_job(job_with(tmp_path, {"failure": url, "temporary": True}))
    for asked, error in (
        (job, QuarantineError("one\n  line at https://a.example/b?sig=SECRET")),
        (job, BusyError("busy")),
        (patient, BusyError("busy")),
        (job, RuntimeError("SECRET")),
        (job, KeyboardInterrupt()),
    ):
        with pytest.raises(type(error)), telling(asked):
            raise error
    with telling(job):
        pass  # nothing was due
    assert [(c["exit_code"], c["message"]) for c in told(hook)] == [
        (3, "one line at https://a.example/b"),
        (75, "busy"),
        (1, "unexpected error: RuntimeError"),
    ]


def test_a_secret_address_comes_from_the_environment_and_reaches_no_log(
    hook: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = read_job(job_with(tmp_path, {"failure": {"url_from": "GEOMAP_HOOK"}}))
    for url, why in (
        (f"{hook.base}/SECRET/hook?token=SECRET", ""),
        (f"{hook.base}/SECRET/gone?token=SECRET", "it answered 410"),
        (f"{hook.base}/SECRET/moved", "it answered 302"),
        ("http://127.0.0.1:9/SECRET", "not reached (ConnectionError)"),
        ("http://me:SECRET@127.0.0.1/", "not an http or https address without a user"),
        ("file:///SECRET", "not an http or https address without a user"),
        ("SECRET", "not an http or https address without a user"),
        ("http://127.0.0.1:SECRET/", "not an http or https address without a user"),
        ("", "the environment has no GEOMAP_HOOK"),
    ):
        caplog.clear()
        monkeypatch.setenv("GEOMAP_HOOK", url)
        with caplog.at_level(logging.INFO, "geomap"):
            tell(job, "failure", 1, "it failed", ())
        (line,) = caplog.messages
        assert line == (
            f"nobody was told by {job.path}: notify.failure.url_from: {why}"
            if why
            else f"told by {job.path}: notify.failure.url_from"
        )
    assert hook.log() == [f"POST /SECRET/{end}" for end in ("hook?token=SECRET", "gone?token=SECRET", "moved")]


def test_a_slow_address_and_a_slow_command_are_given_up(
    hook: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notice, "POST_SECONDS", 0.2)
    monkeypatch.setattr(notice, "COMMAND_SECONDS", 0.3)
    hook.always["/slow"] = Answer(204, body=b"", wait=2)
    program = script(tmp_path, "echo SECRET; (sleep 600 & echo $! > child; wait)")
    url = f"{hook.base}/slow"
    start = time.monotonic()
    tell(read_job(job_with(tmp_path, {"failure": {"url": url, "command": [program]}})), "failure", 1, "x", ())
    assert time.monotonic() - start < 2
    assert "(127.0.0.1): no answer in 0.2 s" in caplog.messages[0]
    assert "took over 0.3 s and was killed" in caplog.messages[1]
    assert "SECRET" not in caplog.text
    pid = int((tmp_path / "child").read_text())
    for _ in range(100):
        state = Path(f"/proc/{pid}/stat")
        if not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        os.kill(pid, 9)
        pytest.fail("what the command started outlived it")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["false"], "false ended with exit code 1"),
        (["./none"], "./none cannot be started (No such file or directory)"),
        (["/"], "/ cannot be started (Permission denied)"),
        (["sh", "-c", "exit 7"], "sh ended with exit code 7"),
    ],
)
def test_a_command_that_fails_is_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, command: list[str], why: str
) -> None:
    tell(read_job(job_with(tmp_path, {"success": {"command": command}})), "success", 0, "complete", ())
    (line,) = caplog.messages
    assert line.endswith(f"notify.success.command: {why}")


def test_a_command_is_no_shell_and_reads_or_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    job: MapJob = read_job(job_with(tmp_path, {"success": {"command": ["touch", "a;b $HOME *"]}}))
    tell(job, "success", 0, "complete", ())  # it does not read its input
    assert (tmp_path / "a;b $HOME *").is_file()
    assert not caplog.messages


@pytest.mark.parametrize(
    ("notify", "says"),
    [
        ({"failure": {"url": "https://me:SECRET@example.org/"}}, "notify.failure.url"),
        ({"failure": {"url": "https://example.org/?token=SECRET"}}, "notify.failure.url"),
        ({"failure": {"url": "ftp://example.org/SECRET"}}, "must be an http or https address"),
        ({"failure": {"url": "example.org"}}, "must be an http or https address"),
        ({"success": {"url_from": "$SECRET"}}, "the name of an environment variable"),
        ({"success": {"command": "SECRET"}}, "notify.success.command"),
        ({"success": {"command": ["a", ""]}}, "notify.success.command"),
        ({"temporary": "yes"}, "notify.temporary"),
        ({"always": {}}, "notify.always: unknown key"),
    ],
)
def test_what_is_wrong_is_one_line_without_secrets(tmp_path: Path, notify: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match="notify") as error:
        read_job(job_with(tmp_path, notify))
    assert says in str(error.value)
    assert "SECRET" not in str(error.value)
    assert len(str(error.value).splitlines()) == 1
