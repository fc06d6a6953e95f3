"""``rs-embed prune``: removes what no run needs, and nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rs_embed.stages.prepare import prepare
from rs_embed.store import locks
from rs_embed.store.store import Store

from ..support import rasters
from ..support.exports import combined, python, times
from ..support.work_folders import ONE, TWO, do, make, objects


def test_prune_lists_objects_and_removes_them_with_yes(tmp_path, say):
    make(tmp_path, models=(ONE, TWO))
    run = make(tmp_path)  # the second model was removed from the request
    before = times(tmp_path, "**/*")
    code, found = say("prune", tmp_path)
    assert (code, found["removed"], found["files"]) == (0, False, 4)
    assert times(tmp_path, "**/*") == before
    _, shown = say("prune", tmp_path, plain=True)
    assert "all of it" in shown and "nothing was removed; rs-embed prune --yes removes it" in shown
    _, found = say("prune", tmp_path, "--yes")
    assert (found["removed"], found["files"]) == (True, 4)
    (unit,) = (tmp_path / ".rs_embed" / "store" / "embeddings").iterdir()
    assert unit.name == run.plan.units[0].id, "the folder of the other unit is removed, too"
    assert len(objects(tmp_path)) == 8
    assert say("prune", tmp_path, "--yes")[1]["files"] == 0
    assert say("verify", tmp_path)[0] == 0


def test_prune_removes_bands_and_rois_that_are_no_longer_requested(tmp_path, say):
    make(tmp_path, models=(TWO,))
    make(tmp_path, slice(0, 6), models=(ONE, TWO))  # fetches only B8 for the first four, all bands for the others
    run = make(tmp_path, slice(1, 3), models=(TWO,))
    _, found = say("prune", tmp_path, "--yes")
    assert {(g["kind"], *(g["bands"] or ())): (g["files"], g["whole"]) for g in found["groups"]}[("chips", "B8")] == (
        4,
        True,
    )
    kept = objects(tmp_path)
    assert {Path(p).stem for p in kept} == set(run.plan.roi_ids)
    folders = [p for p in (tmp_path / ".rs_embed" / "store" / "chips").glob("*/*")]
    assert all((p / "bands.json").exists() and list(p.glob("*/*.npy")) for p in folders)
    assert len(folders) == 1, "the folders of B8 and of all bands are removed with their declarations"
    assert (found["declarations"]["files"], say("verify", tmp_path)[0]) == (2, 0)


def test_prune_keeps_what_another_run_needs(tmp_path, say):
    make(tmp_path, slice(0, 4), target="one")
    make(tmp_path, slice(2, 6), target="two", layout="per_item")
    (first,) = (tmp_path / ".rs_embed" / "runs").glob("one-*")
    shutil.rmtree(first)
    assert say("prune", tmp_path, "--yes")[1]["files"] == 4
    assert len(objects(tmp_path)) == 8
    assert say("verify", tmp_path)[0] == 0


def test_prune_removes_earlier_generations_and_those_of_deleted_runs(tmp_path, say):
    make(tmp_path)
    old = objects(tmp_path, "embeddings")
    run = make(tmp_path, resume=False)
    assert say("prune", tmp_path, "--yes")[1]["files"] == 4
    assert not objects(tmp_path, "embeddings") & old and len(objects(tmp_path)) == 8
    generation = tmp_path / ".rs_embed" / "generations" / f"{run.dir.name}.json"
    shutil.rmtree(run.dir)
    _, found = say("status", tmp_path)
    assert found["generations"] == {"files": 1, "of_runs_that_are_gone": [run.dir.name]}
    assert say("prune", tmp_path, "--yes")[1]["generations"]["files"] == 1
    assert not generation.exists() and not objects(tmp_path)
    make(tmp_path)
    assert say("verify", tmp_path)[0] == 0


@pytest.mark.parametrize("upto", ["fetch", "embed", "write"])
def test_prune_never_removes_what_an_unfinished_run_made(tmp_path, say, upto):
    run = make(tmp_path, models=(ONE, TWO), upto=upto)
    for path in [*run.dir.glob("fetch/**/*.json"), *run.dir.glob("embed/**/*.json")]:
        path.unlink()  # killed before its receipts were written
    before = objects(tmp_path)
    assert say("prune", tmp_path, "--yes")[1]["files"] == 0
    assert objects(tmp_path) == before != set()


def test_work_folders_that_share_a_store_are_all_counted(tmp_path, say):
    shared = tmp_path / "store"
    make(tmp_path / "a", slice(0, 4), store_dir=str(shared))
    make(tmp_path / "b", slice(2, 6), store_dir=str(shared))
    make(tmp_path / "b", slice(4, 6), store_dir=str(shared))
    _, found = say("status", tmp_path / "a")
    assert [w["path"] for w in found["stores"][0]["works"]] == [str(tmp_path / d / ".rs_embed") for d in "ab"]
    assert say("prune", tmp_path / "a", "--yes")[1]["files"] == 0
    shutil.rmtree(tmp_path / "b")
    _, shown = say("prune", tmp_path / "a", plain=True)
    assert f"the work folder {tmp_path / 'b' / '.rs_embed'} used this store and is missing" in shown
    assert say("prune", tmp_path / "a", "--yes")[1]["files"] == 4 + 1, "four objects and a registration"
    assert say("prune", tmp_path / "a", "--yes")[1]["works_gone"] == []
    assert len(list(shared.rglob("*.npy"))) == 8
    assert say("verify", tmp_path / "a")[0] == 0


def test_a_store_behind_a_link_is_one_store(tmp_path, say):
    shared = tmp_path / "disk" / "store"
    shared.mkdir(parents=True)
    (tmp_path / "b" / ".rs_embed").mkdir(parents=True)
    (tmp_path / "b" / ".rs_embed" / "store").symlink_to(shared)
    make(tmp_path / "a", slice(0, 2), store_dir=str(shared))
    make(tmp_path / "b", slice(2, 4))
    for folder in "ab":
        assert say("prune", tmp_path / folder, "--yes")[1]["files"] == 0
    assert len(list(shared.rglob("*.npy"))) == 8
    assert {w for w in Store(shared).registered_work_folders().values()} == {tmp_path / d / ".rs_embed" for d in "ab"}


def test_temporary_files_of_dead_processes_and_damaged_objects_are_removed(tmp_path, say):
    run = make(tmp_path, target="items", layout="per_item")
    victim = next((tmp_path / ".rs_embed" / "store").glob("embeddings/*/*/*.npy"))
    code = f"""
import os
from pathlib import Path
from rs_embed.store.atomic_files import temporary_path
for path in ({str(victim)!r}, {str(tmp_path / "items" / "p00000.npz")!r}, {str(run.dir / "items" / "00000.json")!r}):
    temporary_path(Path(path)).write_bytes(b"half")
os.kill(os.getpid(), 9)
"""
    assert python(code, tmp_path).returncode == -9
    live = victim.with_name(f".tmp-{os.uname().nodename}-{os.getpid()}-7-x.npy")
    live.write_bytes(b"a living process writes this")
    victim.with_name("x.npy.damaged").write_bytes(b"bad")
    final = times(tmp_path / "items", "p*")
    _, found = say("status", tmp_path)
    assert (found["leftovers_of_runs"]["files"], found["stores"][0]["leftovers"]["files"]) == (2, 1)
    _, found = say("prune", tmp_path, "--yes")
    assert [found[k]["files"] for k in ("in_runs", "leftovers", "damaged")] == [2, 1, 1]
    assert found["files"] == 4
    assert live.exists() and times(tmp_path / "items", "p*") == final
    assert sorted(p.name for p in (tmp_path / "items").iterdir() if p.name.startswith(".")) == []
    assert say("verify", tmp_path)[0] == 0


def test_prune_refuses_while_a_run_is_live(tmp_path, say):
    make(tmp_path, models=(ONE, TWO))
    run = make(tmp_path)
    code = f"""
import sys, time
from pathlib import Path
from rs_embed.store import locks
with locks.acquire_run_lock(Path({str(run.dir)!r})), locks.acquire_shared_store_lock(Path({str(run.store.root)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        before = objects(tmp_path)
        code, output = say("prune", tmp_path, "--yes")
        assert code == 1 and output.count("\n") == 1
        assert f"a run is working on {tmp_path / 'run.npz'} (pid {other.pid}, host " in output
        assert objects(tmp_path) == before
        assert say("prune", tmp_path)[1]["files"] == 4, "a list without --yes is always allowed"
        other.stdin.close()
    assert say("prune", tmp_path, "--yes")[1]["files"] == 4
    with locks.acquire_shared_store_lock(run.store.root):  # a run of a work folder that is not known here
        code, output = say("prune", tmp_path, "--yes")
        assert code == 1 and "is in use by a run that has just started or that is not known here" in output


def test_a_run_waits_while_its_store_is_pruned(tmp_path, capsys):
    (tmp_path / "store").mkdir()
    held, got = locks.acquire_exclusive_store_lock(tmp_path / "store"), threading.Event()
    assert locks.acquire_exclusive_store_lock(tmp_path / "store") is None
    thread = threading.Thread(target=lambda: (locks.acquire_shared_store_lock(tmp_path / "store").close(), got.set()))
    thread.start()
    time.sleep(0.3)
    assert not got.is_set()
    held.close()
    thread.join(10)
    assert got.is_set()
    assert f'is being pruned ({{"pid": {os.getpid()},' in capsys.readouterr().err


def test_snakemake_holds_the_store_for_its_life(tmp_path, say):
    run = make(tmp_path)
    with contextlib.chdir(run.dir):
        prepare(run, live=False)
        locks.acquire_exclusive_store_lock(run.store.root).close()
        prepare(run, live=True)
    assert locks.acquire_exclusive_store_lock(run.store.root) is None
    assert say("prune", tmp_path, "--yes")[0] == 1
    for folder in (run.dir, run.store.root):
        locks._held_locks.pop(folder).close()
    assert say("prune", tmp_path, "--yes")[0] == 0


def test_pixels_of_replaced_files_are_removed(tmp_path, say):
    spots = [rasters.at(15, 15), rasters.at(45, 45)]
    for corner, name in ((0, "a"), (300, "b")):
        rasters.write(
            tmp_path / "data" / f"{name}.tif",
            rasters.noise(1, (2, 30, 30)),
            corner=(rasters.ORIGIN[0] + corner, rasters.ORIGIN[1] - corner),
        )
    rasters.catalogue(tmp_path / "data", {"path": "a.tif"}, {"path": "b.tif"})
    request = {"models": [ONE], "target": combined(tmp_path / "run")}
    do(rasters.run(tmp_path / "data", spots, **request))
    assert say("prune", tmp_path, "--yes")[1]["files"] == 0
    rasters.write(tmp_path / "data" / "a.tif", rasters.noise(2, (2, 30, 30)))
    os.utime(tmp_path / "data" / "a.tif", (1, 1))
    assert say("prune", tmp_path, "--yes")[1]["files"] == 0, (
        "the run as it was started last still refers to the old file"
    )
    do(rasters.run(tmp_path / "data", spots, **request))
    assert (len(objects(tmp_path)), say("prune", tmp_path, "--yes")[1]["files"], len(objects(tmp_path))) == (6, 2, 4)
    assert say("verify", tmp_path)[0] == 0
    shutil.rmtree(tmp_path / "data")
    assert say("prune", tmp_path, "--yes")[1]["files"] == 0, "the raster files are not needed"
    (frozen,) = (tmp_path / ".rs_embed" / "runs").glob("*/imagery.json")
    frozen.unlink()
    code, output = say("prune", tmp_path, "--yes")
    assert code == 1 and "imagery.json is missing" in output


def test_unknown_files_stay(tmp_path, say):
    run = make(tmp_path)
    shutil.rmtree(run.dir)
    store = tmp_path / ".rs_embed" / "store"
    (folder,) = store.glob("chips/*/*")
    unknown = [folder / "notes.txt", folder / "ab" / "abc.npy", store / "chips" / "readme", store / "old" / "x.npy"]
    for path in unknown:
        path.parent.mkdir(exist_ok=True)
        path.write_text("text")
    assert say("prune", tmp_path, "--yes")[1]["files"] == 8
    assert all(p.exists() for p in [*unknown, folder / "bands.json"])
    assert not (store / "embeddings").exists() or not list((store / "embeddings").iterdir())


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("config.yaml", "models: ["),
        ("config.yaml", None),
        ("rois.csv", "name,lon\n"),
        ("rois.csv", "cut"),
        ("imagery.json", "{"),
        ("../../generations/{run}.json", "{"),
    ],
)
def test_a_request_that_cannot_be_read_keeps_its_objects(tmp_path, say, name, damage):
    make(tmp_path, slice(0, 2), target="one")
    run = make(tmp_path, slice(2, 4), target="two", resume=False)
    path = run.dir / name.format(run=run.dir.name)
    if damage is None:
        path.unlink()
    else:
        path.write_text(path.read_text()[:-9] if damage == "cut" else damage)
    before = objects(tmp_path)
    for flags in ((), ("--yes",)):
        code, output = say("prune", tmp_path, *flags)
        assert code == 1 and output.count("\n") == 1
        assert f"the request of the run {run.dir} cannot be read" in output and "allowed: " in output
    assert objects(tmp_path) == before
    code, found = say("verify", tmp_path)
    assert code == 1 and [p["kind"] for p in found["problems"]] == ["request"]
    assert say("prune", tmp_path, "--yes", "--ignore-broken")[1]["files"] == 4
    assert len(objects(tmp_path)) == 4
    make(tmp_path, slice(2, 4), target="two")  # the next start repairs it
    assert say("prune", tmp_path, "--yes")[0] == 0


def test_a_run_folder_that_was_never_used_is_ignored(tmp_path, say):
    run = make(tmp_path)
    locks.acquire_run_lock(run.dir.with_name("other-combined-00000000")).close()
    assert say("prune", tmp_path, "--yes")[1]["files"] == 0
    assert sorted(r["state"] for r in say("status", tmp_path)[1]["runs"]) == ["complete", "empty"]
    assert say("verify", tmp_path)[0] == 0
