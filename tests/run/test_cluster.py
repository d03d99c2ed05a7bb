"""Tiles on real dask clusters: workers of this machine, and `dask scheduler` and `dask worker` started by hand."""

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import cloudpickle
import dask
import psutil
import pytest
import requests
from distributed import Client, WorkerPlugin

from geomap import grid, simulate
from geomap.errors import ClusterError, InputError
from geomap.run import cluster, worker
from geomap.run.map import map_area
from geomap.run.prepare import prepare
from geomap.run.request import Request
from geomap.run.tile_file import Task
from geomap.run.workers import Resources
from geomap.sources import leases
from geomap.types import Period
from tests.support import REPOSITORY
from tests.support.outputs import digests, problems
from tests.support.requests import request_for, tiles_of
from tests.support.runner import geomap
from tests.support.server import Answer, Server

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file


@pytest.fixture
def asked(nine_tiles) -> Request:
    return nine_tiles


@pytest.fixture(scope="module")
def here(archive, untrained, tmp_path_factory) -> dict[str, str]:
    """Digests of what this process makes of `asked` by itself."""
    out = tmp_path_factory.mktemp("here") / "out"
    with tiles_of(32):
        map_area(request_for(archive(dates=9) / "items.json", untrained, period=Period(2018, 9, 1)), out)
    return digests(out)


class Processes:
    """`dask scheduler` and `dask worker` on loopback, each a process group of its own."""

    def __init__(self, folder: Path, *options: str, settings: dict[str, str] | None = None) -> None:
        self.file = folder / "scheduler.json"
        self._environment = {
            **os.environ,
            **(settings or {}),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",  # each death of a worker is a failure of its tiles
            "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "5s",
            "OMP_NUM_THREADS": "1",
        }
        self.running: list[subprocess.Popen[bytes]] = []
        self.scheduler = self.start(
            "scheduler", "--scheduler-file", str(self.file), "--port", "0", "--no-dashboard", *options
        )
        while not self.file.exists() or not self.file.read_bytes().endswith(b"}"):
            assert self.scheduler.poll() is None
            time.sleep(0.05)

    @property
    def address(self) -> str:
        return json.loads(self.file.read_bytes())["address"]

    def workers(self, *options: str) -> subprocess.Popen[bytes]:
        return self.start("worker", "--scheduler-file", str(self.file), "--nthreads", "1", "--no-dashboard", *options)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = [str(Path(sys.executable).with_name("dask")), *arguments, "--host", "127.0.0.1"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(command, env=self._environment, start_new_session=True, **quiet)
        self.running.append(process)
        return process

    def stop(self) -> None:
        for process in self.running:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory) -> Iterator[str]:
    """The address of a scheduler with two workers, one of which offers a GPU: here a name alone."""
    processes = Processes(tmp_path_factory.mktemp("dask"))
    processes.workers("--name", "reader")
    processes.workers("--name", "encoder", "--resources", "GPU=1")
    with Client(processes.address, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
    yield processes.address
    processes.stop()


def spilled() -> set[Path]:
    """Where workers of this machine spill data, also those of other runs and of killed ones."""
    return set(Path(tempfile.gettempdir()).glob("geomap-*/dask-scratch-space"))


def test_workers_of_this_machine_give_the_same_bytes_and_are_reached_by_it_alone(asked, here, tmp_path, monkeypatch):
    """Every port is on loopback and takes no client without the certificate of this run; spilled data is private.

    Nor do they run what lies in the folder where the command is typed under the name of one of Python's modules.
    """
    (tmp_path / "typed_here").mkdir()
    (tmp_path / "typed_here/re.py").write_text("raise SystemExit('this is not the module that was asked for')")
    monkeypatch.chdir(tmp_path / "typed_here")
    (tmp_path / "spilled").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spilled"))  # other tests have workers at the same time
    listening: set[tuple[str, int]] = set()
    children: set[int] = set()
    answers: dict[int, str] = {}
    folders: set[Path] = set()
    before, others = ports(psutil.Process()), spilled()

    def look(stage: str, done: int, total: int) -> None:
        me = psutil.Process()
        family = [me, *me.children(recursive=True)]
        children.update(p.pid for p in family[1:] if any("spawn_main" in part for part in p.cmdline()))
        listening.update(ports(me) - before)
        answers.update({port: stranger(port) for _, port in listening if port not in answers})
        folders.update(spilled() - others)
        assert all(folder.parent.stat().st_mode & 0o777 == 0o700 for folder in folders if folder.exists())

    result = map_area(asked, tmp_path / "out", look, resources=Resources(workers=2, threads=1))
    assert result.tiles == 9
    assert digests(tmp_path / "out") == here
    assert {host for host, _ in listening} == {"127.0.0.1"}
    assert len(answers) >= 4  # scheduler, its pages, two nannies or workers
    assert set(answers.values()) <= {"refused", "no page"}, answers
    assert list(answers.values()).count("refused") >= 3, answers
    assert folders
    assert not any(folder.exists() for folder in folders)
    assert len(children) == 2
    assert not any(psutil.pid_exists(pid) for pid in children)
    assert "PYTHONSAFEPATH" not in os.environ  # commands of the user's own may rely on their folder


def ports(me: psutil.Process) -> set[tuple[str, int]]:
    """Where a process and its children listen."""
    family = [me, *me.children(recursive=True)]
    return {c.laddr for p in family for c in p.net_connections("inet") if c.status == psutil.CONN_LISTEN}


def stranger(port: int) -> str:
    """What a port answers to a client without a certificate, which trusts whatever it is shown."""
    paths = ("", "health", "info/main/workers.html", "json/counts.json", "metrics", "api/v1/get_workers")
    with suppress(requests.RequestException):  # a port with TLS does not talk to it
        found = {requests.get(f"http://127.0.0.1:{port}/{path}", timeout=10).status_code for path in paths}
        return "no page" if found == {404} else f"answers {found}"
    anyone = ssl.create_default_context()
    anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
    raw = socket.create_connection(("127.0.0.1", port), timeout=10)
    with suppress(OSError), anyone.wrap_socket(raw) as secured:
        secured.sendall(b"x" * 100)
        return f"says {said!r}" if (said := secured.recv(10)) else "refused"
    return "refused"


def test_workers_that_cannot_start_are_one_clear_error(asked, tmp_path, monkeypatch):
    monkeypatch.setattr("distributed.nanny.Nanny.instantiate", cannot_start)
    with pytest.raises(ClusterError, match=r"workers of this machine do not start \(.*no room for a process"):
        map_area(asked, tmp_path / "out", resources=Resources(workers=1))


async def cannot_start(nanny) -> None:
    raise OSError("no room for a process")


def test_encode_tasks_go_to_workers_that_offer_a_gpu(asked, here, tmp_path, two_workers):
    """The resource decides where a task runs, the request on what device: here a CPU."""
    with Client(two_workers, set_as_default=False) as client:
        map_area(asked, tmp_path / "out", resources=Resources(two_workers))
        names = {address: w["name"] for address, w in client.scheduler_info()["workers"].items()}
        ran = {names[address]: tasks for address, tasks in client.run(task_names).items()}
    assert ran == {"reader": {"composite", "shared"}, "encoder": {"tile"}}
    assert digests(tmp_path / "out") == here


def task_names(dask_worker) -> set[str]:
    """Prefixes of the tasks that a worker has computed."""
    return {str(entry[0]).split("-")[0] for entry in dask_worker.state.log if "executing" in entry}


def test_a_worker_killed_mid_run_costs_no_tile(asked, here, tmp_path, two_workers, caplog):
    """It is stopped for a moment first, so that tiles are surely in its hands when it is killed."""
    killed: list[int] = []

    def kill(stage: str, done: int, total: int) -> None:
        if stage == "encode" and not killed:
            with Client(two_workers, set_as_default=False) as client:
                names = {w["name"]: address for address, w in client.scheduler_info()["workers"].items()}
                killed.append(client.run(os.getpid, workers=[names["encoder"]]).popitem()[1])
            os.kill(killed[0], signal.SIGSTOP)
            threading.Timer(1.0, os.kill, (killed[0], signal.SIGKILL)).start()

    result = map_area(asked, tmp_path / "out", kill, resources=Resources(two_workers))
    assert not result.quarantined
    assert "attempt 1 of 2): WorkerLostError" in caplog.text
    assert "attempt 2 of 2" not in caplog.text
    assert digests(tmp_path / "out") == here


def poison(tile: str) -> WorkerPlugin:
    """A dask plugin that kills the worker's process as soon as it takes up a task of this tile."""

    class Poison(WorkerPlugin):
        name = "poison"

        def transition(self, key, start, finish, **kwargs):
            if finish == "executing" and tile in str(key):
                os.kill(os.getpid(), signal.SIGKILL)

    return Poison()


def test_a_tile_that_kills_its_workers_is_quarantined_and_can_be_tried_again(asked, here, tmp_path, two_workers):
    tile = grid.tiles(asked.area)[4].name
    with Client(two_workers, set_as_default=False) as client:
        client.register_plugin(poison(tile))
        result = map_area(asked, tmp_path / "out", resources=Resources(two_workers))
        client.unregister_worker_plugin("poison")
    assert set(result.quarantined) == {tile}
    assert result.quarantined[tile].startswith("WorkerLostError: workers die on this tile")
    assert json.loads((tmp_path / "out/tiles/quarantine.json").read_text())[tile]["cause"] == result.quarantined[tile]
    assert json.loads((tmp_path / "out/run.json").read_text())["quarantined"] == {tile: "WorkerLostError"}
    assert problems(tmp_path / "out") == ()  # finished, with a hole that it tells of
    assert map_area(asked, tmp_path / "out").quarantined == result.quarantined  # a rerun leaves it as it is
    again = map_area(asked, tmp_path / "out", resources=Resources(two_workers), retry_quarantined=True)
    assert again.resumed == 8
    assert not again.quarantined
    assert digests(tmp_path / "out") == here


def test_what_tiles_share_is_asked_for_anew_once_its_readers_are_gone(asked, two_workers):
    """A future that only dead workers may compute is never done, and neither are the tiles that need it."""
    near = [Task(tile, ()) for tile in grid.tiles(asked.area)[:4]]
    with cluster.Cluster(Resources(two_workers), "cpu") as crew, Client(two_workers, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        one, other = client.nthreads()
        first = crew._shared(client, near, {"workers": [one], "pure": False})
        assert crew._shared(client, near, {"workers": [one, other], "pure": False}) is first
        second = crew._shared(client, near, {"workers": [other], "pure": False})  # the first one is gone
        assert second.future.key != first.future.key
        assert (first.readers, second.readers) == ({one}, {other})
        assert crew._shared(client, near, {"workers": None, "pure": False}).readers == frozenset()  # no reader is left
        for found in (first, second):
            found.future.cancel()


@pytest.mark.soak
def test_a_lost_scheduler_is_a_temporary_failure_and_finished_tiles_are_kept(
    asked, here, tmp_path, tmp_path_factory, monkeypatch
):
    monkeypatch.setattr(cluster, "CONNECT_S", 1)
    processes = Processes(tmp_path_factory.mktemp("dask"))
    try:
        processes.workers()

        def stop(stage: str, done: int, total: int) -> None:
            if stage == "encode" and done:
                processes.stop()

        with pytest.raises(ClusterError, match="run the same command again"):
            map_area(asked, tmp_path / "out", stop, resources=Resources(processes.address))
        with pytest.raises(ClusterError, match="does not answer"):
            map_area(asked, tmp_path / "out", resources=Resources(processes.address))
    finally:
        processes.stop()
    kept = len(list((tmp_path / "out/tiles").glob("*.npz")))
    assert 1 <= kept < 9
    assert map_area(asked, tmp_path / "out").resumed == kept  # in this process: the bytes do not depend on it
    assert digests(tmp_path / "out") == here


def test_connections_to_a_provider_are_limited_over_all_workers_and_threads(two_workers, asked):
    """CDSE allows four: eight threads on two workers hold no more, counted by a server that they ask."""
    server = Server()
    server.replies = [Answer(body=b"", wait=0.05)]
    url = server.base

    def fetch(part: int) -> None:  # six reads by six threads
        def read(_: int) -> None:
            with leases.lease("s3://eodata/Sentinel-2/x.jp2"):
                urllib.request.urlopen(url, timeout=30).close()

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(read, range(6)))

    with Client(two_workers, set_as_default=False) as client:
        client.register_plugin(worker.PreparedPlugin("limits", prepare(asked), None))
        client.gather([client.submit(fetch, part, pure=False) for part in range(4)])
        client.unregister_worker_plugin("geomap-limits")
    server.close()
    assert leases.limits() == {"cdse": 4}
    assert server.most_in_hand == 4


def authority(folder: Path) -> dict[str, str]:
    """Dask's TLS settings, as variables, with a certificate that all roles share, of an authority made for it."""
    ca, key, request, cert = (str(folder / name) for name in ("ca.pem", "key.pem", "request.pem", "cert.pem"))
    new = ["openssl", "req", "-newkey", "rsa:2048", "-nodes", "-subj"]
    signed = ["-CA", ca, "-CAkey", str(folder / "ca.key"), "-CAcreateserial", "-days", "1"]
    for command in (
        [*new, "/CN=authority", "-x509", "-days", "1", "-keyout", str(folder / "ca.key"), "-out", ca],
        [*new, "/CN=holder", "-keyout", key, "-out", request],
        ["openssl", "x509", "-req", "-in", request, "-out", cert, *signed],
    ):
        subprocess.run(command, check=True, capture_output=True)
    tls = "DASK_DISTRIBUTED__COMM__TLS__"
    roles = {f"{tls}{role}__{part}": path for role in ROLES for part, path in (("CERT", cert), ("KEY", key))}
    return {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True", f"{tls}CA_FILE": ca, **roles}


ROLES = ("SCHEDULER", "WORKER", "CLIENT")


def here_too(settings: dict[str, str]) -> dict[str, str]:
    """Variables as keys of dask's configuration."""
    return {name.removeprefix("DASK_").lower().replace("__", "."): value for name, value in settings.items()}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")
def test_a_scheduler_with_tls_does_the_tiles_and_refuses_other_certificates(asked, here, tmp_path, monkeypatch):
    settings = authority(tmp_path)
    processes = Processes(tmp_path, "--protocol", "tls", settings=settings)
    try:
        assert processes.address.startswith("tls://127.0.0.1:")
        processes.workers()
        over_tls = Resources(scheduler=processes.address)
        with pytest.raises(InputError, match=r"no certificate here .*docs/cluster\.md"):
            map_area(asked, tmp_path / "refused", resources=over_tls)
        (tmp_path / "other").mkdir()
        with monkeypatch.context() as patience, dask.config.set(here_too(authority(tmp_path / "other"))):
            patience.setattr(cluster, "CONNECT_S", 2)
            with pytest.raises(ClusterError, match="does not answer"):
                map_area(asked, tmp_path / "refused", resources=over_tls)
        with dask.config.set(here_too(settings)):
            map_area(asked, tmp_path / "there", resources=over_tls)
    finally:
        processes.stop()
    assert digests(tmp_path / "there") == here


def test_other_hrefs_need_no_lease():
    with leases.lease("https://example.org/x.tif") as held, leases.lease("/data/x.tif") as too:
        assert held is None
        assert too is None


def test_a_worker_of_another_version_is_refused(asked):
    with pytest.raises(ClusterError, match=r"tcp://w:1 has geomap .*, this is geomap 0\.0\.1, torch 2\.0"):
        worker._Run(prepare(asked), None, ("0.0.1", "2.0"), "tcp://w:1", "0").checked()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scheduler": "tcp://h:1", "workers": 2}, "not both"),
        ({"scheduler": "h:8786"}, "tcp://host:8786"),
        ({"workers": -1}, "give 1 or more"),
    ],
)
def test_resources_that_contradict_are_refused(fields, message):
    with pytest.raises(InputError, match=message):
        Resources(**fields)


def test_no_scheduler_there(monkeypatch, asked, tmp_path):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    with pytest.raises(ClusterError, match=r"tcp://127\.0\.0\.1:9 does not answer"):
        map_area(asked, tmp_path / "out", resources=Resources("tcp://127.0.0.1:9"))
    assert not (tmp_path / "out").exists()


@pytest.mark.soak
def test_no_workers_there(monkeypatch, asked, tmp_path, tmp_path_factory):
    monkeypatch.setattr(cluster, "PATIENCE_S", 0.2)
    monkeypatch.setattr(cluster, "POLL_S", 0.2)
    processes = Processes(tmp_path_factory.mktemp("dask"))
    try:
        with pytest.raises(ClusterError, match="no worker for"):
            map_area(asked, tmp_path / "out", resources=Resources(processes.address))
    finally:
        processes.stop()


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_the_job_of_the_documentation(tmp_path, tmp_path_factory):
    """The commands of docs/cluster.md and its job file, on simulated scenes and a port of our own."""
    job = (REPOSITORY / "pipelines/cluster_two_workers.yaml").read_text()
    for line in (line for line in job.splitlines() if line.startswith("#     ")):
        assert line.removeprefix("# ") in (REPOSITORY / "docs/cluster.md").read_text()
    archive = simulate.write_archive(tmp_path / "scenes", year=2023, size=128)
    processes = Processes(tmp_path_factory.mktemp("dask"))
    try:
        command = next(line for line in job.splitlines() if "dask worker" in line).removesuffix(" &").split()
        processes.start("worker", processes.address, *command[command.index("tcp://127.0.0.1:8786") + 1 :])
        assert "--nworkers" in command
        (tmp_path / "pipelines").mkdir()
        path = tmp_path / "pipelines/job.yaml"
        changed = job.replace("tcp://127.0.0.1:8786", processes.address).replace("earth-search", str(archive.items))
        path.write_text(changed)
        done = geomap("run", path)
        assert done.exit_code == 0, done.output
        assert problems(tmp_path / "maps/brussels_cluster") == ()
        assert "was complete already" in geomap("run", path).output
    finally:
        processes.stop()
