"""Settings of the whole process: the library puts back what it changes."""

import errno
import importlib.util
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
import torch

from geomap import process


def test_threads_are_put_back_after_an_error_too():
    before = torch.get_num_threads()
    inside = []

    def fail() -> None:
        with process.threads(before + 1):
            inside.append(torch.get_num_threads())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [before + 1]
    assert torch.get_num_threads() == before


def test_a_pool_computes_on_one_thread_in_each_and_drops_what_waits():
    started, go = threading.Event(), threading.Event()

    def wait() -> None:
        started.set()
        go.wait()

    before = torch.get_num_threads()
    with process.threads(3):
        with process.side_by_side(2, "test") as pool:
            assert set(pool.map(lambda _: torch.get_num_threads(), range(20))) == {1}
        assert torch.get_num_threads() == 3
        with ThreadPoolExecutor(1) as later:
            assert later.submit(torch.get_num_threads).result() == 3
        with process.side_by_side(1, "test") as pool:
            first, second = pool.submit(wait), pool.submit(wait)
            started.wait()
            threading.Timer(0.05, go.set).start()
    assert first.done()
    assert second.cancelled()
    assert torch.get_num_threads() == before


def test_pools_at_the_same_time_put_back_what_the_first_found():
    """A later caller finds the 1 that the first one's pool wrote, whichever of them leaves first."""
    before = torch.get_num_threads()

    def encode(inside: threading.Event, leave: threading.Event) -> int:
        with process.side_by_side(1, "test") as pool:
            pool.submit(torch.get_num_threads).result()
            inside.set()
            leave.wait(10)
        return torch.get_num_threads()

    with process.threads(3):
        for order in ((0, 1), (1, 0)):
            with ThreadPoolExecutor(2) as callers:
                inside, leave = ([threading.Event(), threading.Event()] for _ in range(2))
                jobs = []
                for i in range(2):
                    jobs.append(callers.submit(encode, inside[i], leave[i]))
                    inside[i].wait(10)
                for i in order:
                    leave[i].set()
                    assert jobs[i].result() == 3
            with ThreadPoolExecutor(1) as later:
                assert later.submit(torch.get_num_threads).result() == 3
    assert torch.get_num_threads() == before


FORKED = """
import multiprocessing
from contextlib import nullcontext
import numpy as np, pandas as pd, torch, xarray as xr
import geomap
from geomap import process
from geomap.sentinel2 import BANDS

coords = {"month": pd.date_range("2023-01", periods=12, freq="MS"), "band": list(BANDS)}
dn = np.random.default_rng(0).integers(200, 4000, (12, 10, 40, 50)).astype("uint16")
series = xr.DataArray(dn, dims=("month", "band", "y", "x"), coords=coords)

def mapped():
    return geomap.label(geomap.embed(series, device="cpu")).landcover.values

def child(whole):
    np.testing.assert_array_equal(mapped(), whole)
    with process.threads(4), process.side_by_side(2, "test"):
        assert torch.get_num_threads() == 1
        torch.randn(10**6).relu()

process.set_threads(4)
whole = mapped()
for busy in nullcontext(), process._pools_lock:  # alone, and while another thread makes a pool
    made = multiprocessing.get_context("fork").Process(target=child, args=(whole,))
    with busy:
        made.start()
    made.join(60)
    hangs = made.is_alive()
    made.kill()
    made.join()
    assert (hangs, made.exitcode) == (False, 0)
assert torch.get_num_threads() == 4
"""


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
def test_a_forked_process_maps_too():
    """It has torch's pool without its threads: work for them would wait for ever."""
    done = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def log():
    """A log of its own, with the records that its handler got."""
    found = logging.getLogger("test_process.library")
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    found.addHandler(handler)
    yield found, seen
    found.removeHandler(handler)
    found.setLevel(logging.NOTSET)


def say(log: logging.Logger) -> None:
    log.debug("header")
    log.info("fact")
    log.warning("secret")


@pytest.mark.parametrize("level", [logging.NOTSET, logging.DEBUG, logging.INFO, logging.ERROR])
def test_what_is_overheard_is_seen_by_others_as_before(log, level):
    library, seen = log
    library.setLevel(level)
    say(library)
    alone = list(seen)
    seen.clear()
    heard: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        heard.append(record.getMessage())
        return True

    with process.Overhearing(library.name, note).at(logging.DEBUG):
        say(library)
    assert heard == ["header", "fact", "secret"]
    assert seen == alone
    say(library)
    assert seen == alone * 2
    assert len(heard) == 3
    assert (library.level, library.filters) == (level, [])


@pytest.mark.parametrize(("level", "heard_"), [(logging.NOTSET, 1), (logging.DEBUG, 3), (logging.ERROR, 1)])
def test_a_reader_of_warnings_hears_them_and_no_level_below_the_log_s_own(log, level, heard_):
    library, seen = log
    library.setLevel(level)
    say(library)
    alone = list(seen)
    heard: list[str] = []
    overhearing = process.Overhearing(library.name, lambda record: not heard.append(record.getMessage()))
    with overhearing.at(logging.WARNING):
        say(library)
        assert len(heard) == heard_
        with overhearing.at(logging.DEBUG):
            say(library)
        assert len(heard) == heard_ + 3
        say(library)
        assert len(heard) == 2 * heard_ + 3
    assert seen == alone * 4
    assert (library.level, library.filters) == (level, [])


def test_what_the_note_keeps_or_changes_is_kept_from_others(log):
    library, seen = log
    library.setLevel(logging.DEBUG)

    def note(record: logging.LogRecord) -> bool:
        record.msg = record.msg.replace("secret", "...")
        return record.msg != "header"

    with process.Overhearing(library.name, note).at(logging.DEBUG):
        say(library)
    assert seen == ["fact", "..."]


def test_the_last_of_many_threads_puts_the_level_back(log):
    library, seen = log
    library.setLevel(logging.ERROR)
    heard: list[str] = []
    overhearing = process.Overhearing(library.name, lambda record: not heard.append(record.getMessage()))
    inside, leave = threading.Barrier(5), threading.Event()

    def listen() -> None:
        with overhearing.at(logging.DEBUG):
            inside.wait()
            leave.wait()

    others = [threading.Thread(target=listen) for _ in range(4)]
    for thread in others:
        thread.start()
    inside.wait()
    with overhearing.at(logging.DEBUG):
        say(library)
    say(library)
    assert heard == ["header", "fact", "secret"] * 2
    leave.set()
    for thread in others:
        thread.join()
    say(library)
    assert len(heard) == 6
    assert seen == []
    assert library.level == logging.ERROR


@pytest.fixture
def double(tmp_path, monkeypatch):
    """A loop in a file of its own, whose compiled code is kept in tmp_path / "cache"."""
    (tmp_path / "loop.py").write_text("def double(row):\n    for i in range(len(row)):\n        row[i] *= 2\n")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    spec = importlib.util.spec_from_file_location("loop", tmp_path / "loop.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.double


def doubled(run: Callable[..., None]) -> list[int]:
    row = np.arange(4)
    run(row)
    return row.tolist()


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
@pytest.mark.parametrize("content", [b"", b"no pickle"])
def test_a_damaged_cache_of_compiled_code_is_left_out(double, tmp_path, caplog, suffix, content):
    assert doubled(process.compiled(double)) == [0, 2, 4, 6]
    (file,) = (tmp_path / "cache").rglob(f"*.{suffix}")
    file.write_bytes(content)
    again = process.compiled(double)
    assert doubled(again) == doubled(again) == [0, 2, 4, 6]
    assert "NUMBA_CACHE_DIR" in caplog.text


def test_a_cache_that_cannot_be_written_is_left_out(double, monkeypatch, caplog):
    def full(*names: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    run = process.compiled(double)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        assert doubled(run) == [0, 2, 4, 6]
    assert "Disk quota exceeded" in caplog.text
    with pytest.raises(TypeError):  # an error of the call itself is passed on
        run(object(), 1)
