"""kill -9 of everything in the middle, then the same request in a new process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from .conftest import CHECKOUT, combined, export, places, times

REQUEST = """
import sys
from tests.conftest import *
from rs_embed import ExportModelRequest

model = ExportModelRequest("mosaiks", model_config={{"features": {features}, "patch_size": 5}})
export(combined(Path(sys.argv[1])), places({n}), [model], chunk_size={chunk_size}, cores=2)
"""


def request(features: int, n: int, chunk_size: int) -> str:
    return REQUEST.format(features=features, n=n, chunk_size=chunk_size)


def start(code: str, target: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", code, str(target)]
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a CI in the background ignores it
    return subprocess.Popen(command, cwd=CHECKOUT, stderr=subprocess.PIPE, text=True, preexec_fn=listen)


def kill_all(process: subprocess.Popen) -> int:
    """SIGKILL the process and everything it has started, its orphans-to-be included."""
    family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in family:
        member.suspend()  # so that nobody sees anybody else die
    for member in family:
        member.kill()
    psutil.wait_procs(family, timeout=20)
    process.communicate()
    return len(family)


def wait_for(folder: Path, pattern: str, count: int, process: subprocess.Popen) -> int:
    end = time.monotonic() + 90
    while time.monotonic() < end:
        found = len(list(folder.glob(pattern)))
        if found >= count:
            return found
        assert process.poll() is None, f"finished before it could be killed: {process.communicate()[1]}"
        time.sleep(0.01)
    raise AssertionError(f"no {count} files {pattern} in {folder}")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("kind", "features", "n", "chunk_size", "count"),
    [("chips", 8, 900, 300, 200), ("embeddings", 8192, 60, 30, 10)],
    ids=["fetch", "embed"],
)
def test_what_was_finished_is_kept_and_the_result_is_the_same(tmp_path, kind, features, n, chunk_size, count):
    code = request(features, n, chunk_size)
    target = tmp_path / "killed" / "run"
    store = tmp_path / "killed" / ".rs_embed" / "store"
    victim = start(code, target)
    found = wait_for(store, f"{kind}/**/[0-9a-f]*.npy", count, victim)
    assert kill_all(victim) >= 3, "the caller, Snakemake and a job"
    kept = times(store, "**/[0-9a-f]*.npy")
    assert found <= len(kept)
    assert sum(k.startswith(kind) for k in kept) < n, "killed in the middle"
    assert not target.with_suffix(".npz").exists()

    again = start(code, target)
    _, text = again.communicate(timeout=200)
    assert again.returncode == 0, text
    after = times(store, "**/[0-9a-f]*.npy")
    assert {k: after[k] for k in kept} == kept, "no finished object was made again"
    assert len(after) == 2 * n
    assert not [p for p in (tmp_path / "killed").rglob("*") if p.name.startswith(".tmp-")]

    undisturbed = start(code, tmp_path / "undisturbed" / "run")
    undisturbed.communicate(timeout=200)
    assert target.with_suffix(".npz").read_bytes() == (tmp_path / "undisturbed" / "run.npz").read_bytes()


@pytest.mark.heavy
def test_a_job_that_outlives_its_run_blocks_nobody(tmp_path):
    code = request(8192, 60, 30)
    victim = start(code, tmp_path / "run")
    wait_for(tmp_path / ".rs_embed" / "store", "embeddings/**/[0-9a-f]*.npy", 3, victim)
    family = psutil.Process(victim.pid).children(recursive=True)
    jobs = [p for p in family if "embed" in p.cmdline() and "rs_embed" in p.cmdline()]
    assert jobs, [p.cmdline() for p in family]
    launcher = [psutil.Process(victim.pid), *(p for p in family if "rs_embed._run" in p.cmdline())]
    for process in launcher:
        process.kill()
    victim.communicate(timeout=20)  # ends at once, although the orphan runs on
    assert any(p.is_running() for p in jobs)
    again = start(code, tmp_path / "run")
    _, text = again.communicate(timeout=200)
    assert again.returncode == 0, text
    psutil.wait_procs(jobs, timeout=60)
    undisturbed = tmp_path / "undisturbed" / "run"
    start(code, undisturbed).communicate(timeout=200)
    assert (tmp_path / "run.npz").read_bytes() == undisturbed.with_suffix(".npz").read_bytes()


@pytest.mark.heavy
@pytest.mark.parametrize("number", [9, 15], ids=["SIGKILL", "SIGTERM"])
def test_a_killed_caller_takes_the_run_with_it(tmp_path, number):
    code = request(8192, 60, 30)
    victim = start(code, tmp_path / "run")
    wait_for(tmp_path / ".rs_embed" / "store", "embeddings/**/[0-9a-f]*.npy", 3, victim)
    family = psutil.Process(victim.pid).children(recursive=True)
    victim.send_signal(number)
    victim.communicate(timeout=20)
    assert psutil.wait_procs(family, timeout=15)[1] == [], "a notebook kernel that was restarted leaves nothing running"
    again = start(code, tmp_path / "run")
    _, text = again.communicate(timeout=200)
    assert again.returncode == 0, text


@pytest.mark.heavy
def test_ctrl_c_stops_everything_and_the_next_call_goes_on(tmp_path):
    code = request(8192, 60, 30)
    process = start(code, tmp_path / "run")
    wait_for(tmp_path / ".rs_embed" / "store", "embeddings/**/[0-9a-f]*.npy", 5, process)
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(2)
    _, text = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in text
    assert psutil.wait_procs(family, timeout=10)[1] == [], "nothing runs on"
    export(combined(tmp_path / "other"), places(1))  # the folder is usable by others at once
    again = start(code, tmp_path / "run")
    again.communicate(timeout=200)
    assert again.returncode == 0
