"""Temporary files of killed jobs: a merge removes those of its run and does not fail for them;
prune also removes those of other machines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rs_embed.store import receipts
from rs_embed.store.atomic_files import OTHER_HOST_DAYS, temporary_path

from ..support.exports import CHECKOUT
from ..support.work_folders import ONE, TWO, do, make

#: Larger than any process number of Linux.
DEAD = 4194305


def write_temporary_file(
    folder: Path, host: str | None = None, pid: int = DEAD, days: float = 0, name: str = "new.pack"
) -> Path:
    """Write a temporary file like that of a killed job."""
    path = folder / f".tmp-{host or socket.gethostname()}-{pid}-4-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    then = time.time() - days * 86400
    os.utime(path, (then, then))
    return path


# merge -------------------------------------------------------------------------------------------

#: Merges; removes a folder of the store or kills itself when the merge lists it for the n-th time.
MERGE = """
import os, signal, sys
from rs_embed.runs.run_files import load_run
from rs_embed.stages.merge import merge

victim, count, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
run = load_run(".")

def interfere(event, arguments):
    global count
    if event == "os.scandir" and os.fspath(arguments[0]) == victim:
        count -= 1
        if not count:
            os.rmdir(victim) if what == "removed" else os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(interfere)
merge(run)
"""


def run_merge(run, victim: Path, count: int, what: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", MERGE, str(victim), str(count), what]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(command, cwd=run.dir, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("count", [1, 2])
def test_a_merge_does_not_fail_because_another_run_packs(tmp_path, count):
    """Another run removes an empty folder while this one count for temporary files."""
    run = make(tmp_path, upto="write")
    victim = run.store.embedding_group(run.plan.units[0].id).folder.resolve() / "ff"
    victim.mkdir(exist_ok=True)
    for path in victim.iterdir():
        path.unlink()
    done = run_merge(run, victim, count, "removed")
    assert done.returncode == 0, done.stderr
    assert receipts.read(run.dir / "merge.json", run.plan.merge_key)


def test_the_receipt_is_written_before_the_cleanup(tmp_path):
    run = make(tmp_path, upto="write")
    victim = run.store.embedding_group(run.plan.units[0].id).folder.resolve()
    assert run_merge(run, victim, 1, "killed").returncode == -9
    assert receipts.read_state(run.dir / "merge.json", run.plan.merge_key)[0] == "good"


def test_a_merge_does_not_fail_for_what_it_cannot_remove(tmp_path):
    run = make(tmp_path, upto="write")
    stubborn = run.store.embedding_group(run.plan.units[0].id).folder / f".tmp-{socket.gethostname()}-{DEAD}-1-x.npy"
    beside = tmp_path / stubborn.name
    for folder in (stubborn, beside):
        (folder / "full").mkdir(parents=True)
    removable = write_temporary_file(stubborn.parent / "ab")
    do(run)
    assert (run.dir / "merge.json").exists() and stubborn.is_dir() and beside.is_dir()
    assert not removable.exists()


def test_a_merge_cleans_the_folders_of_its_run(tmp_path):
    """Also folders that it does not read; files of other runs in a shared store stay."""
    other = make(tmp_path, models=(TWO,), target="other")
    run = make(tmp_path)
    store, source = run.store, run.plan.sources[0].id
    expected = [
        write_temporary_file(store.embedding_group(run.plan.units[0].id).folder / "ab"),
        write_temporary_file(store.embedding_group(run.plan.units[0].id).folder / "packs"),
        write_temporary_file(store.root / "chips" / source / "0123456789ab" / "cd"),
        write_temporary_file(store.root / "kept" / source / "0123456789ab"),
        write_temporary_file(store.root / "works"),
        write_temporary_file(run.dir / "items"),
        write_temporary_file(tmp_path),
    ]
    others = [
        write_temporary_file(other.store.embedding_group(other.plan.units[0].id).folder / "ab"),
        write_temporary_file(expected[0].parent, host="node17"),
    ]
    do(run)
    assert [p.name for p in expected if p.exists()] == []
    assert all(p.exists() for p in others)


# prune -------------------------------------------------------------------------------------------


def test_prune_removes_old_temporary_files_of_other_machines(tmp_path, say):
    run = make(tmp_path, target="items", layout="per_item")
    (group,) = (run.store.root / "embeddings").iterdir()
    folders = [group / "packs", group / "ab", run.store.root / "kept" / "s" / "b"]
    old, host = OTHER_HOST_DAYS + 0.5, "node17.some-cluster"
    in_store = [write_temporary_file(folder, host, days=old) for folder in folders]
    in_runs = [
        write_temporary_file(folder, host, days=old, name="x.npz")
        for folder in (tmp_path, tmp_path / "items", run.dir / "embed")
    ]
    live = temporary_path(group / "ab" / "x.npy")
    live.write_bytes(b"written slowly")
    os.utime(live, (1, 1))
    kept = [
        write_temporary_file(folder, host, days=OTHER_HOST_DAYS - 0.5, pid=5)
        for folder in (*folders, tmp_path, run.dir)
    ]
    kept += [live, tmp_path / ".tmp-notes", run.store.root / "works" / ".tmp-my-2024-notes"]
    for path in kept[-2:]:
        path.write_text("unknown")
        os.utime(path, (1, 1))
    _, found = say("status", tmp_path)
    assert (found["leftovers_of_runs"]["files"], found["stores"][0]["leftovers"]["files"]) == (3, 3)
    _, found = say("prune", tmp_path)
    assert (found["in_runs"]["files"], found["leftovers"]["files"], found["files"]) == (3, 3, 6)
    assert all(p.exists() for p in in_store + in_runs), "nothing is removed without --yes"
    assert say("prune", tmp_path, "--yes")[1]["bytes"] == 6 * len(b"half")
    assert not [p for p in in_store + in_runs if p.exists()]
    assert all(p.exists() for p in kept)
    assert say("verify", tmp_path)[0] == 0


def test_the_number_of_days_is_documented():
    text = " ".join((CHECKOUT / "docs" / "upkeep.md").read_text().split())
    assert f"have not been written to for {OTHER_HOST_DAYS} days" in text


def test_status_and_prune_ignore_files_that_are_deleted_meanwhile(tmp_path, say):
    run = make(tmp_path, models=(ONE,))
    existing = write_temporary_file(run.dir)
    deleted = run.dir / f".tmp-{socket.gethostname()}-{DEAD}-9-x.json"
    deleted.symlink_to(tmp_path / "nowhere")
    for command in ("prune", "status"):
        assert say(command, tmp_path)[0] == 0
    assert say("prune", tmp_path)[1]["in_runs"] == {"files": 1, "bytes": existing.stat().st_size}
