"""Half files of killed jobs: a merge removes those of its own run and fails for none, prune those of other machines, too."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rs_embed.store import receipts
from rs_embed.store.atomic_files import FOREIGN_DAYS
from rs_embed.store.store import temporary_name

from ..support.exports import CHECKOUT
from ..support.work_folders import ONE, TWO, do, make

#: Larger than any process number of Linux.
DEAD = 4194305


def half(folder: Path, host: str | None = None, pid: int = DEAD, days: float = 0, name: str = "new.pack") -> Path:
    """What a killed job left in a folder."""
    path = folder / f".tmp-{host or socket.gethostname()}-{pid}-4-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    then = time.time() - days * 86400
    os.utime(path, (then, then))
    return path


# merge ---------------------------------------------------------------------------------------------------------------

#: Merges, and does something when a folder of the store is looked at for the n-th time.
MERGE = """
import os, signal, sys
from rs_embed.runs.run import load_run
from rs_embed.stages.merge import merge

victim, looks, what = sys.argv[1], int(sys.argv[2]), sys.argv[3]
run = load_run(".")

def meanwhile(event, arguments):
    global looks
    if event == "os.scandir" and os.fspath(arguments[0]) == victim:
        looks -= 1
        if not looks:
            os.rmdir(victim) if what == "gone" else os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(meanwhile)
merge(run)
"""


def merged(run, victim: Path, looks: int, what: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", MERGE, str(victim), str(looks), what]
    around = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(command, cwd=run.dir, env=around, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("looks", [1, 2])
def test_a_merge_does_not_fail_because_another_run_packs(tmp_path, looks):
    """What ``Group._tidy`` of another run removes while this one looks for half files."""
    run = make(tmp_path, upto="write")
    victim = run.store.embeddings(run.plan.units[0].id).folder.resolve() / "ff"
    victim.mkdir(exist_ok=True)
    for path in victim.iterdir():
        path.unlink()
    done = merged(run, victim, looks, "gone")
    assert done.returncode == 0, done.stderr
    assert receipts.read(run.dir / "merge.json", run.plan.merge_key)


def test_the_receipt_does_not_wait_until_everything_is_clean(tmp_path):
    run = make(tmp_path, upto="write")
    victim = run.store.embeddings(run.plan.units[0].id).folder.resolve()
    assert merged(run, victim, 1, "killed").returncode == -9
    assert receipts.examine(run.dir / "merge.json", run.plan.merge_key)[0] == "good"


def test_a_merge_does_not_fail_for_what_it_cannot_remove(tmp_path):
    run = make(tmp_path, upto="write")
    stubborn = run.store.embeddings(run.plan.units[0].id).folder / f".tmp-{socket.gethostname()}-{DEAD}-1-x.npy"
    beside = tmp_path / stubborn.name
    for folder in (stubborn, beside):
        (folder / "full").mkdir(parents=True)
    removable = half(stubborn.parent / "ab")
    do(run)
    assert (run.dir / "merge.json").exists() and stubborn.is_dir() and beside.is_dir()
    assert not removable.exists()


def test_a_merge_looks_where_its_run_works(tmp_path):
    """Also in folders that it does not read itself; what belongs to others in a store that they share is left to them."""
    other = make(tmp_path, models=(TWO,), target="other")
    run = make(tmp_path)
    store, source = run.store, run.plan.sources[0].id
    own = [
        half(store.embeddings(run.plan.units[0].id).folder / "ab"),
        half(store.embeddings(run.plan.units[0].id).folder / "packs"),
        half(store.root / "chips" / source / "0123456789ab" / "cd"),
        half(store.root / "kept" / source / "0123456789ab"),
        half(store.root / "works"),
        half(run.dir / "items"),
        half(tmp_path),
    ]
    others = [half(other.store.embeddings(other.plan.units[0].id).folder / "ab"), half(own[0].parent, host="node17")]
    do(run)
    assert [p.name for p in own if p.exists()] == []
    assert all(p.exists() for p in others)


# prune ---------------------------------------------------------------------------------------------------------------


def test_prune_removes_old_half_files_of_other_machines(tmp_path, say):
    run = make(tmp_path, target="items", layout="per_item")
    (group,) = (run.store.root / "embeddings").iterdir()
    places = [group / "packs", group / "ab", run.store.root / "kept" / "s" / "b"]
    old, host = FOREIGN_DAYS + 0.5, "node17.some-cluster"
    in_store = [half(folder, host, days=old) for folder in places]
    in_runs = [
        half(folder, host, days=old, name="x.npz") for folder in (tmp_path, tmp_path / "items", run.dir / "embed")
    ]
    mine = temporary_name(group / "ab" / "x.npy")
    mine.write_bytes(b"written slowly")
    os.utime(mine, (1, 1))
    staying = [half(folder, host, days=FOREIGN_DAYS - 0.5, pid=5) for folder in (*places, tmp_path, run.dir)]
    staying += [mine, tmp_path / ".tmp-notes", run.store.root / "works" / ".tmp-my-2024-notes"]
    for path in staying[-2:]:
        path.write_text("not ours")
        os.utime(path, (1, 1))
    _, found = say("status", tmp_path)
    assert (found["leftovers_of_runs"]["files"], found["stores"][0]["leftovers"]["files"]) == (3, 3)
    _, found = say("prune", tmp_path)
    assert (found["in_runs"]["files"], found["leftovers"]["files"], found["files"]) == (3, 3, 6)
    assert all(p.exists() for p in in_store + in_runs), "nothing is removed without --yes"
    assert say("prune", tmp_path, "--yes")[1]["bytes"] == 6 * len(b"half")
    assert not [p for p in in_store + in_runs if p.exists()]
    assert all(p.exists() for p in staying)
    assert say("verify", tmp_path)[0] == 0


def test_the_days_are_those_of_the_document():
    assert f"nobody has written to them for {FOREIGN_DAYS} days" in (CHECKOUT / "docs" / "upkeep.md").read_text()


def test_looking_bears_files_that_vanish(tmp_path, say):
    run = make(tmp_path, models=(ONE,))
    there = half(run.dir)
    gone = run.dir / f".tmp-{socket.gethostname()}-{DEAD}-9-x.json"
    gone.symlink_to(tmp_path / "nowhere")
    for command in ("prune", "status"):
        assert say(command, tmp_path)[0] == 0
    assert say("prune", tmp_path)[1]["in_runs"] == {"files": 1, "bytes": there.stat().st_size}
