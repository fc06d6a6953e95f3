"""Cores that are nobody's: real processes that divide them, and an engine that follows."""

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
from rs_embed.machine.cores import CORES, Share, Turn, share

from ..support.exports import CHECKOUT, combined, export, places, run_folder

#: Works for a run with as many cores as it is told, says at each line of stdin how many it may use, and ends with stdin.
WORK = """
import sys
from pathlib import Path
from rs_embed.machine.cores import share
with share(Path(sys.argv[1]), int(sys.argv[2]), more=sys.argv[3] == "more") as cores:
    print("here", flush=True)
    for line in sys.stdin:
        print(cores.now(), flush=True)
"""


@pytest.fixture
def sixteen(tmp_path, monkeypatch):
    """A run with 16 cores; its jobs' locks lie in a folder of the test, and who is at work is always looked up."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv(CORES, "16")
    monkeypatch.setattr(cores, "_FRESH_S", 0.0)
    for name in user_locks._ALLOCATION:
        monkeypatch.delenv(name, raising=False)
    yield tmp_path / "a run"
    monkeypatch.undo()


class Job:
    """A process that works for a run."""

    def __init__(self, run: Path, own: int, kind: str = "more") -> None:
        command = [sys.executable, "-c", WORK, str(run), str(own), kind]
        given = os.environ | {"PYTHONPATH": str(CHECKOUT)}
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=given)
        assert self.process.stdout.readline() == "here\n"

    def now(self) -> int:
        time.sleep(0.11)  # what it knows is a tenth of a second old at most
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self, signal: int = 0) -> None:
        self.process.send_signal(signal)
        self.process.communicate()


def test_what_no_job_has_is_divided_among_those_that_can_use_it(sixteen):
    with share(sixteen, 5, more=True) as mine:
        assert (mine.own, mine.most, mine.now()) == (5, 16, 16)
        other = Job(sixteen, 5)
        assert sorted([mine.now(), other.now()]) == [8, 8]
        fetch = Job(sixteen, 1, "own")
        assert fetch.now() == 1
        assert sorted([mine.now(), other.now()]) == [7, 8]
        full = Job(sixteen, 5)
        assert (mine.now(), other.now(), full.now()) == (5, 5, 5)
        other.end(SIGKILL)  # without a word
        assert sorted([mine.now(), full.now()]) == [7, 8]
        another = Job(sixteen.with_name("another run"), 1)
        assert (another.now(), mine.now() + full.now()) == (16, 15), "runs have cores of their own"
        [job.end() for job in (fetch, full, another)]
        assert mine.now() == 16
    assert not list(user_locks.folder("cores").iterdir()), "nothing is left"


def test_more_jobs_than_cores_have_their_own(sixteen):
    with share(sixteen, 12, more=True) as mine:
        other = Job(sixteen, 12)
        assert (mine.now(), other.now()) == (12, 12)
        other.end()


def test_where_jobs_run_elsewhere_nothing_is_divided(sixteen, monkeypatch):
    monkeypatch.delenv(CORES)
    with share(sixteen, 4, more=True) as mine:
        assert (mine.now(), mine.most) == (4, 4)
    assert not (Path(os.environ["TMPDIR"]) / f"rs-embed-{os.getuid()}").exists()


def test_a_job_that_cannot_agree_has_its_own_and_says_so(sixteen, capsys):
    (Path(os.environ["TMPDIR"]) / f"rs-embed-{os.getuid()}").write_text("in the way")
    with pytest.raises((StoreError, OSError)):
        user_locks.folder("cores")
    with share(sixteen, 4, more=True) as mine:
        assert (mine.now(), mine.most) == (4, 4)
    assert "no core beside its own, because jobs cannot agree" in capsys.readouterr().err


def test_many_come_and_go(sixteen):
    """While others begin and end: a lock is never taken for that of a dead job, nobody waits, nothing is left."""
    wrong: list[str] = []

    def work(seed: int) -> None:
        for _ in range(30):
            with share(sixteen, 1 + seed % 3, more=True) as mine:
                found = mine.now()
                if not mine.own <= found <= 16:
                    wrong.append(f"{found} of 16, own {mine.own}")
                time.sleep(0.001)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not wrong
    assert not list(user_locks.folder("cores").iterdir())


class Given(Share):
    """A share that a test changes."""

    def __init__(self, now: int, most: int) -> None:
        super().__init__(1, most)
        self.given = now

    def now(self) -> int:
        return self.given


def test_threads_take_turns_and_follow_the_share():
    given, seen, over = Given(1, 8), [], threading.Event()
    turn, count, lock = Turn(given), [0], threading.Lock()

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
        time.sleep(0.05)  # those that are in go on
        seen.clear()
        deadline = time.monotonic() + 30
        while (not seen or max(seen) < now) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert max(seen) == now
    over.set()
    [t.join() for t in threads]


def test_a_folder_that_is_cleaned_away_costs_the_borrowed_cores_only(sixteen, capsys):
    with share(sixteen, 4, more=True) as mine:
        assert mine.now() == 16
        shutil.rmtree(user_locks.folder("cores"))
        assert mine.now() == 4, "another job may have begun, and cannot be seen"
        (Path(os.environ["TMPDIR"]) / f"rs-embed-{os.getuid()}").rmdir()
        assert mine.now() == 4


def test_a_timer_of_the_scheduler_keeps_no_run_from_ending():
    """The lambda of Snakemake's own scheduler, which nobody waits for any more; timers of others stay."""
    from snakemake.scheduling.job_scheduler import JobScheduler

    from rs_embed.launch.snakefile import end_soon

    scheduler = JobScheduler.__new__(JobScheduler)
    scheduler._schedule_reevalutation(30)
    (theirs,) = (t for t in threading.enumerate() if isinstance(t, threading.Timer))
    mine = threading.Timer(30, print)
    mine.start()
    end_soon()
    theirs.join(10)
    assert not theirs.is_alive() and mine.is_alive()
    mine.cancel()


@pytest.mark.heavy
def test_the_job_that_is_left_has_the_cores_of_those_that_ended(tmp_path):
    """Two unlike models, one chunk, two cores: each job has one core from Snakemake, and the larger one has both in the
    end. Its numbers are those of a run that was given one core in all."""
    small = ExportModelRequest("mosaiks", label="small", model_config={"features": 8})
    large = ExportModelRequest("mosaiks", label="large", model_config={"features": 8192})
    about = {"models": [small, large], "infer_batch_size": 1}
    export(combined(tmp_path / "shared"), places(24, 640), cores=2, **about)
    receipts = [json.loads(p.read_text()) for p in run_folder(tmp_path / "shared").glob("embed/*/*.json")]
    assert [r["threads"] for r in receipts] == [1, 1]
    assert max(r["most_threads"] for r in receipts) == 2
    export(combined(tmp_path / "alone"), places(24, 640), cores=1, **about)
    assert (tmp_path / "shared.npz").read_bytes() == (tmp_path / "alone.npz").read_bytes()
