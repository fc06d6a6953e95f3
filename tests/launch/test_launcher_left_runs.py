"""Runs that are left, stopped and picked up: jobs in a cluster's queue, a call that waits, a
closed terminal, ``rs-embed stop``."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from rs_embed import ExportModelRequest, ModelError, RunLockedError
from rs_embed.cli import main
from rs_embed.runs import cluster_queue
from rs_embed.stages.prepare import check_cluster_folder
from rs_embed.store import locks

from ..support.exports import CHECKOUT, combined, export, jobs, places, run_folder, times
from ..support.factories import assert_refusal
from ..support.work_folders import make

#: A SLURM with a queue in a file: ids, comments and folders. A cancelled job is missing from the
#: next answer.
SQUEUE = """#!/bin/sh
test -e {queue}.broken && {{ echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1; }}
cat {queue}
"""
SCANCEL = """#!/bin/sh
echo "$@" > {queue}.asked
for job in "$@"; do grep -v "^$job|" {queue} > {queue}.new; mv {queue}.new {queue}; done
"""


@pytest.fixture
def queue(tmp_path, monkeypatch):
    """The file of the queue."""
    found, bin_ = tmp_path / "queue", tmp_path / "bin"
    bin_.mkdir()
    for name, text in (("squeue", SQUEUE), ("scancel", SCANCEL)):
        (bin_ / name).write_text(text.format(queue=shlex.quote(str(found))))
        (bin_ / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_), prepend=os.pathsep)
    return found


def test_jobs_of_this_folder_are_cancelled_and_no_others(tmp_path, queue, monkeypatch, capsys):
    mine, other = tmp_path / "run", tmp_path / "other"
    mine.mkdir()
    (tmp_path / "link").symlink_to(mine)
    monkeypatch.setenv("SLURM_JOB_ID", "15")
    names = []
    for folder in (mine, other, tmp_path / "link"):
        settings = SimpleNamespace(jobname_prefix="a-long-prefix-of-the-users-own-_-of-50-letters-1234")
        cluster_queue.name_jobs(settings, folder)
        assert re.fullmatch(r"a-long-prefix[\w-]{1,37}", settings.jobname_prefix), "what the executor allows"
        names.append(f"{settings.jobname_prefix}_c8539583-960f-4a6e-9530-dce4373f9a0c")
    bare = SimpleNamespace(jobname_prefix=None)
    cluster_queue.name_jobs(bare, mine)
    cluster_queue.name_jobs(SimpleNamespace(), mine)  # another executor's settings
    rows = [f"11|{names[0]}", f"12|{names[1]}", "13|bash", f"14|{names[2]}", f"15|{bare.jobname_prefix}_c8539583"]
    queue.write_text("\n".join(rows) + "\n")
    assert cluster_queue.cancel_jobs(tmp_path / "link") == 2
    assert Path(f"{queue}.asked").read_text().split() == ["11", "14"]
    assert [line[:2] for line in queue.read_text().splitlines()] == ["12", "13", "15"]
    assert "cancelling 2 jobs of an earlier start" in capsys.readouterr().err
    assert cluster_queue.cancel_jobs(mine) == 0 and capsys.readouterr().err == ""


def test_a_slurm_that_does_not_answer_is_reported(tmp_path, queue, capsys):
    Path(f"{queue}.broken").touch()
    assert cluster_queue.cancel_jobs(tmp_path) == 0
    assert "Unable to contact slurm controller" in (message := capsys.readouterr().err) and "squeue --me" in message


def test_a_folder_with_shell_characters_is_refused_on_a_cluster(tmp_path):
    check_cluster_folder(make(tmp_path))
    (tmp_path / "müller,1").mkdir()
    check_cluster_folder(make(tmp_path / "müller,1"))
    (tmp_path / "a $(id)").mkdir()
    with pytest.raises(ModelError) as found:
        check_cluster_folder(make(tmp_path / "a $(id)"))
    assert_refusal(found.value, "work_dir", "$(id)", "letters")


@pytest.mark.heavy
def test_a_call_that_waited_takes_what_the_run_it_waited_for_has_made(tmp_path):
    """With ``resume=False`` both mean the same new generation."""
    target = combined(tmp_path / "run")
    export(target, places(3), resume=False)
    made = times(tmp_path)
    held = locks.acquire_run_lock(run_folder(tmp_path / "run"), detached=True)
    threading.Timer(2, held.close).start()
    export(target, places(3), resume=False)
    after = times(tmp_path)
    assert after != made, "the run that it waited for had computed nothing again"
    held = locks.acquire_run_lock(run_folder(tmp_path / "run"), detached=True, fresh=True)
    threading.Timer(2, held.close).start()
    export(target, places(3), resume=False)
    assert times(tmp_path) == after
    assert jobs(run_folder(tmp_path / "run")) == set()


@pytest.mark.heavy
def test_a_call_that_waits_for_a_stopped_run_does_not_start_it_again(tmp_path):
    target, folder = combined(tmp_path / "run"), tmp_path / "run"
    export(target, places(2))
    made = times(tmp_path)
    held = locks.acquire_run_lock(run_folder(folder), detached=True)

    def stop() -> None:
        locks.mark_run_stopped(run_folder(folder))
        held.close()

    threading.Timer(2, stop).start()
    with pytest.raises(RunLockedError, match="was stopped"):
        export(target, places(2), resume=False)
    assert times(tmp_path) == made
    export(target, places(2), resume=False)
    assert times(tmp_path) != made


@pytest.mark.heavy
def test_a_run_of_another_target_or_one_that_is_starting_is_left_alone(tmp_path, capsys):
    for name in ("a", "b"):
        export(combined(tmp_path / name), places(2))
    folder = run_folder(tmp_path / "b")
    with locks.acquire_run_lock(folder, starting=True):
        assert main(["stop", str(tmp_path / "a")]) == main(["stop", str(tmp_path / "a.npz")]) == 0
        assert capsys.readouterr().out.count("no run is live") == 2
        assert main(["stop", str(tmp_path / "b.npz")]) == main(["stop", str(tmp_path)]) == 1
        assert capsys.readouterr().err.count(f"run {folder.name} has just started; try again") == 2


CALL = """
from tests.support.exports import *
from rs_embed import ExportModelRequest
import sys
model = ExportModelRequest("mosaiks", model_config={"features": int(sys.argv[2]), "patch_size": 5})
print(export(combined(Path(sys.argv[1]) / "run"), places(40), [model], chunk_size=10, show_progress=True)["status"])
"""


def start(folder: Path, features: int, **streams) -> subprocess.Popen:
    command = [sys.executable, "-c", CALL, str(folder), str(features)]
    return subprocess.Popen(command, cwd=CHECKOUT, text=True, start_new_session=True, **streams)


@pytest.mark.heavy
def test_a_closed_terminal_does_not_end_a_run(tmp_path):
    read, write = os.pipe()
    os.close(read)
    process = start(tmp_path, 16, stdout=subprocess.PIPE, stderr=write)
    os.close(write)
    assert process.communicate(timeout=120)[0].strip() == "ok"
    assert process.returncode in (0, 120), "120: Python itself could not write what was left for stderr"


@pytest.mark.heavy
def test_a_live_run_is_stopped_and_goes_on_later(tmp_path, capsys):
    assert main(["stop", str(export_of(tmp_path / "done"))]) == 0
    assert "no run is live" in capsys.readouterr().out
    process = start(tmp_path, 8192, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    store = tmp_path / ".rs_embed" / "store"
    end = time.monotonic() + 90
    while len(times(store, "embeddings/**/[0-9a-f]*.npy")) < 3:
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)
    assert main(["stop", str(tmp_path), "--run", "nothing"]) == 1 and process.poll() is None
    assert "--run: 'nothing' is not valid" in capsys.readouterr().err
    assert main(["stop", str(tmp_path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"run": run_folder(tmp_path / "run").name, "cancelled": 0}
    assert "stopped" in process.communicate(timeout=30)[1] and process.returncode == 1
    kept = times(store, "embeddings/**/[0-9a-f]*.npy")
    assert 3 <= len(kept) < 40
    model = ExportModelRequest("mosaiks", model_config={"features": 8192, "patch_size": 5})
    assert export(combined(tmp_path / "run"), places(40), [model], chunk_size=10)["status"] == "ok"
    after = times(store, "embeddings/**/[0-9a-f]*.npy")
    assert {k: after[k] for k in kept} == kept


def export_of(folder: Path) -> Path:
    folder.mkdir()
    export(combined(folder / "run"), places(2))
    return folder
