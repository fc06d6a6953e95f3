"""Unused cores of a run, shared by real processes and used by the engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from signal import SIGKILL

import pytest

from rs_embed import ExportModelRequest, StoreError
from rs_embed.machine import cores, user_locks
from rs_embed.machine.cores import CORES_VARIABLE, CoreShare, ThreadLimit, share_cores

from ..support.exports import CHECKOUT, combined, export, places, run_folder

#: A job of a run with a number of cores: prints for each line of stdin how many it may use.
WORK = """
import sys
from pathlib import Path
from rs_embed.machine.cores import share_cores
with share_cores(Path(sys.argv[1]), int(sys.argv[2]), can_use_more=sys.argv[3] == "more") as cores:
    print("ready", flush=True)
    for line in sys.stdin:
        print(cores.available(), flush=True)
"""


@pytest.fixture
def sixteen(tmp_path, monkeypatch):
    """A run with 16 cores; the locks are in a folder of the test, and claims are never cached."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv(CORES_VARIABLE, "16")
    monkeypatch.setattr(cores, "_REFRESH_S", 0.0)
    for name in user_locks._ALLOCATION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield tmp_path / "a run"
    monkeypatch.undo()


class Job:
    """A process that is a job of a run."""

    def __init__(self, run: Path, assigned: int, kind: str = "more") -> None:
        command = [sys.executable, "-c", WORK, str(run), str(assigned), kind]
        given = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=given)
        assert self.process.stdout.readline() == "ready\n"

    def available(self) -> int:
        time.sleep(0.11)  # longer than claims are cached
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self, signal: int = 0) -> None:
        self.process.send_signal(signal)
        self.process.communicate()


def test_unused_cores_are_divided_among_jobs_that_can_use_them(sixteen):
    with share_cores(sixteen, 5, can_use_more=True) as mine:
        assert (mine.assigned, mine.maximum, mine.available()) == (5, 16, 16)
        other = Job(sixteen, 5)
        assert sorted([mine.available(), other.available()]) == [8, 8]
        fetch = Job(sixteen, 1, "own")
        assert fetch.available() == 1
        assert sorted([mine.available(), other.available()]) == [7, 8]
        full = Job(sixteen, 5)
        assert (mine.available(), other.available(), full.available()) == (5, 5, 5)
        other.end(SIGKILL)  # it cannot remove its claim
        assert sorted([mine.available(), full.available()]) == [7, 8]
        another = Job(sixteen.with_name("another run"), 1)
        assert (another.available(), mine.available() + full.available()) == (16, 15), "each run has its own cores"
        [job.end() for job in (fetch, full, another)]
        assert mine.available() == 16
    assert not list(user_locks.lock_folder("cores").iterdir()), "nothing is left"


def test_more_jobs_than_cores_use_the_assigned_ones(sixteen):
    with share_cores(sixteen, 12, can_use_more=True) as mine:
        other = Job(sixteen, 12)
        assert (mine.available(), other.available()) == (12, 12)
        other.end()


def test_nothing_is_shared_if_jobs_run_on_other_machines(sixteen, monkeypatch):
    monkeypatch.delenv(CORES_VARIABLE)
    with share_cores(sixteen, 4, can_use_more=True) as mine:
        assert (mine.available(), mine.maximum) == (4, 4)
    assert not (Path(os.environ["TMPDIR"]) / f"rs-embed-{os.getuid()}").exists()


def test_a_job_that_cannot_share_uses_its_assigned_cores_and_reports_it(sixteen, capsys):
    (Path(os.environ["TMPDIR"]) / f"rs-embed-{os.getuid()}").write_text("in the way")
    with pytest.raises((StoreError, OSError)):
        user_locks.lock_folder("cores")
    with share_cores(sixteen, 4, can_use_more=True) as mine:
        assert (mine.available(), mine.maximum) == (4, 4)
    assert "no additional cores, because jobs cannot share them" in capsys.readouterr().err


def test_claims_of_many_short_jobs(sixteen):
    """Jobs start and end at the same time: no claim is taken for that of a dead job, no file
    stays."""
    wrong: list[str] = []

    def work(seed: int) -> None:
        for _ in range(30):
            with share_cores(sixteen, 1 + seed % 3, can_use_more=True) as mine:
                found = mine.available()
                if not mine.assigned <= found <= 16:
                    wrong.append(f"{found} of 16, assigned {mine.assigned}")
                time.sleep(0.001)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong
    assert not list(user_locks.lock_folder("cores").iterdir())


class Given(CoreShare):
    """A share that a test changes."""

    def __init__(self, now: int, most: int) -> None:
        super().__init__(1, most)
        self.given = now

    def available(self) -> int:
        return self.given


def test_the_number_of_threads_follows_the_share():
    given, seen, over = Given(1, 8), [], threading.Event()
    turn, count, lock = ThreadLimit(given), [0], threading.Lock()

    def work() -> None:
        while not over.is_set():
            with turn:
                with lock:
                    count[0] += 1
                    seen.append(count[0])
                time.sleep(0.002)
                with lock:
                    count[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    [t.start() for t in threads]
    for now in (1, 5, 2):
        given.given = now
        time.sleep(0.05)  # threads inside continue
        seen.clear()
        deadline = time.monotonic() + 30
        while (not seen or max(seen) < now) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert max(seen) == now
    over.set()
    [t.join() for t in threads]


def test_a_job_keeps_its_assigned_cores_if_the_folder_is_deleted(sixteen, capsys):
    with share_cores(sixteen, 4, can_use_more=True) as mine:
        assert mine.available() == 16
        shutil.rmtree(user_locks.lock_folder("cores"))
        assert mine.available() == 4, "another job may have started and is not visible"
        (Path(os.environ["TMPDIR"]) / f"rs-embed-{os.getuid()}").rmdir()
        assert mine.available() == 4


def test_a_timer_of_the_scheduler_does_not_delay_the_end_of_a_run():
    """Only the timer of Snakemake's scheduler is cancelled."""
    from snakemake.scheduling.job_scheduler import JobScheduler

    from rs_embed.launch.snakefile import skip_exit_delays

    scheduler = JobScheduler.__new__(JobScheduler)
    scheduler._schedule_reevalutation(30)
    (theirs,) = (t for t in threading.enumerate() if isinstance(t, threading.Timer))
    mine = threading.Timer(30, print)
    mine.start()
    skip_exit_delays()
    theirs.join(10)
    assert not theirs.is_alive() and mine.is_alive()
    mine.cancel()


@pytest.mark.heavy
def test_the_last_job_uses_the_cores_of_jobs_that_ended(tmp_path):
    """Two unlike models, one chunk, two cores: each job has one core from Snakemake, and the
    larger one has both in the end. Its numbers are those of a run that was given one core in
    all."""
    small = ExportModelRequest("mosaiks", label="small", model_config={"features": 8})
    large = ExportModelRequest("mosaiks", label="large", model_config={"features": 8192})
    about = {"models": [small, large], "infer_batch_size": 1}
    export(combined(tmp_path / "shared"), places(24, 640), cores=2, **about)
    receipts = [json.loads(p.read_text()) for p in run_folder(tmp_path / "shared").glob("embed/*/*.json")]
    assert [r["threads"] for r in receipts] == [1, 1]
    assert max(r["most_threads"] for r in receipts) == 2
    export(combined(tmp_path / "alone"), places(24, 640), cores=1, **about)
    assert (tmp_path / "shared.npz").read_bytes() == (tmp_path / "alone.npz").read_bytes()
