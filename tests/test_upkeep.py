"""status, verify and prune over real work folders: the steps run in this process, and a few whole runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from rs_embed import ExportModelRequest, ExportTarget, SensorSpec, StoreError, locks, receipts
from rs_embed.cli import main
from rs_embed.config import ExportConfig
from rs_embed.request import Request
from rs_embed.run import Run, load_run, open_run
from rs_embed.stages.embed import embed
from rs_embed.stages.fetch import fetch
from rs_embed.stages.merge import merge
from rs_embed.stages.prepare import _examined, check, prepare
from rs_embed.stages.write import write
from rs_embed.store import Store
from rs_embed.upkeep import text
from rs_embed.upkeep.work import find_work

from . import killing, rasters
from .conftest import WINDOW, combined, export, places, python, times

RGB = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B4", "B3", "B2"))
ONE = ExportModelRequest("mosaiks", model_config={"features": 16})
TWO = ExportModelRequest("mosaiks", label="rgb", sensor=RGB, model_config={"features": 8})
STEPS = ("fetch", "embed", "write", "merge")
SPOTS = places(9, 60)


def make(
    folder: Path, spots=slice(0, 4), models=(ONE,), target="run", layout="combined", upto="merge", **options
) -> Run:
    """What a run of these places below ``folder`` does, up to a step, in this process."""
    chosen = ExportTarget.combined(target) if layout == "combined" else ExportTarget.per_item(target)
    request = Request.build(
        spatials=SPOTS[spots],
        temporal=WINDOW,
        models=list(models),
        target=chosen,
        backend="sample",
        config=ExportConfig(**{"chunk_size": 2} | options),
    )
    folder.mkdir(exist_ok=True)
    return do(open_run(request, str(folder)), upto)


def do(opened: Run, upto: str = "merge") -> Run:
    """Freeze a run, and do its steps up to one."""
    opened.freeze()
    with contextlib.chdir(opened.dir):
        run = load_run(".")
        for step in STEPS[: STEPS.index(upto) + 1]:
            if step == "fetch":
                [fetch(run, s.id, p) for s in run.plan.sources for p in run.plan.parts]
            elif step == "embed":
                [embed(run, u.id, c) for u in run.plan.embedded for c in run.plan.chunk]
            elif step == "write":
                [write(run, c) for c in run.plan.chunk]
            else:
                merge(run)
    return run


@pytest.fixture
def say(capsys):
    """Run a command with ``--json`` (or without); returns the exit status and what it said."""

    def said(command: str, folder: Path, *flags: str, plain: bool = False):
        code = main([command, str(folder), *flags, *([] if plain else ["--json"])])
        out, err = capsys.readouterr()
        if plain or not out:
            return code, out + err
        return code, json.loads(out, parse_constant=lambda c: pytest.fail(c))

    return said


def objects(folder: Path, kind: str = "") -> set[str]:
    """Objects of the store of a work folder beside a target."""
    root = folder / ".rs_embed" / "store"
    return {str(p.relative_to(root)) for p in root.glob(f"{kind or '*'}/**/*.npy")}


def flip(path: Path) -> None:
    """Change one byte in the middle, and keep the time, as a failing disk would."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def change(path: Path, **what) -> None:
    """Write a receipt again, with other content."""
    receipts.write(path, **({k: v for k, v in receipts.read(path).items() if k not in ("schema", "sha256")} | what))


# which folder --------------------------------------------------------------------------------------------------


def test_a_work_folder_is_found_from_everything_that_belongs_to_it(tmp_path, monkeypatch, capsys):
    make(tmp_path, upto="fetch")
    make(tmp_path, target="items", layout="per_item")
    work = tmp_path / ".rs_embed"
    for given in (work, tmp_path, tmp_path / "run.npz", tmp_path / "run", tmp_path / "items"):
        assert find_work(given) == work
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    assert f"work folder {work}" in capsys.readouterr().out
    make(tmp_path, target="far", work_dir="elsewhere")
    assert find_work(tmp_path / "elsewhere") == tmp_path / "elsewhere"
    (tmp_path / "empty").mkdir()
    for command in ("status", "verify", "prune"):
        assert main([command, str(tmp_path / "empty" / "nothing")]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: folder: ") and "allowed: a folder .rs_embed" in error and error.count("\n") == 1
    with pytest.raises(StoreError, match="has no work folder"):
        find_work(tmp_path / "typo")


# status --------------------------------------------------------------------------------------------------------


def test_status_says_what_is_there(tmp_path, say):
    make(tmp_path, models=(ONE, TWO))
    make(tmp_path, target="other", upto="fetch")
    code, found = say("status", tmp_path)
    done, begun = sorted(found["runs"], key=lambda r: r["state"])
    assert (code, done["state"], begun["state"]) == (0, "complete", "incomplete")
    assert (done["rois"], done["models"], done["target"]) == (4, ["mosaiks", "rgb"], str(tmp_path / "run.npz"))
    assert {k: (s["done"], s["of"]) for k, s in begun["stages"].items()} == {
        "fetch": (2, 2),
        "embed": (0, 2),
        "items": (0, 2),
        "merge": (0, 1),
    }
    assert begun["finished"] and done["files"] == {"recorded": 2, "gone": 0, "changed": 0, "touched": 0}
    (store,) = found["stores"]
    chips, *embeddings = store["groups"]
    assert (chips["files"], len(chips["runs"]), chips["bands"]) == (4, 2, ["B2", "B3", "B4", "B8"])
    assert sorted((e["files"], len(e["runs"])) for e in embeddings) == [(4, 1), (4, 2)]
    assert found["prune"] == {"files": 0, "bytes": 0, "refused": None}
    real = [p for p in (tmp_path / ".rs_embed").rglob("*") if p.is_file() and ".package/rs_embed/" not in str(p)]
    links = [p for p in (tmp_path / ".rs_embed").rglob("*") if p.is_symlink()]
    assert found["total"]["files"] == len(real) + len(links)
    _, shown = say("status", tmp_path, plain=True)
    assert "done     fetch 2/2, embed 0/2, write 0/2, merge 0/1 jobs" in shown
    assert "prune would free: 0 files, 0 B" in shown


def test_status_says_what_became_of_final_files(tmp_path, say):
    run = make(tmp_path, target="items", layout="per_item")
    os.utime(tmp_path / "items" / "p00001.npz")
    (tmp_path / "items" / "p00002.npz").unlink()
    (tmp_path / "items" / "p00003.json").write_text("{}")
    _, found = say("status", tmp_path)
    assert found["runs"][0]["files"] == {"recorded": 9, "gone": 1, "changed": 1, "touched": 1}
    assert found["runs"][0]["state"] == "files changed"
    shutil.rmtree(tmp_path / "items")
    _, found = say("status", tmp_path)
    assert found["runs"][0]["state"] == "files gone"
    assert found["prune"]["files"] == 0, "a run without its files still refers to its objects"
    _, shown = say("status", tmp_path, plain=True)
    assert f"delete {run.dir} and prune" in shown
    shutil.rmtree(run.dir)
    _, found = say("status", tmp_path)
    assert (found["runs"], found["prune"]["files"]) == ([], 9)
    assert "there is no run in " in say("prune", tmp_path, plain=True)[1]


def test_status_shows_failures_damage_and_who_is_running(tmp_path, say):
    run = make(tmp_path, models=(ONE, TWO))
    path = run.dir / f"items/{run.plan.chunks[0].name}.json"
    rows = receipts.read(path)["rows"]
    rows[0]["status"] = "partial"
    change(path, rows=rows)
    (run.dir / f"embed/{run.plan.units[0].id}/00001.json").write_text("{")
    _, found = say("status", tmp_path)
    (said,) = found["runs"]
    assert (said["state"], said["failed_rois"], said["unreadable_receipts"]) == ("incomplete", 1, 1)
    with locks.acquire(run.dir):
        _, found = say("status", tmp_path)
        assert found["runs"][0]["state"] == "running"
        assert found["runs"][0]["running"]["pid"] == os.getpid()
        assert "wait for it, or stop it" in found["prune"]["refused"]
        _, shown = say("status", tmp_path, plain=True)
        assert f"running (pid {os.getpid()}, host " in shown
    (run.dir / "config.yaml").write_text("models: [")
    _, found = say("status", tmp_path)
    assert found["runs"][0]["state"] == "unreadable"
    assert "--ignore-broken" in found["prune"]["refused"]


def test_a_look_at_a_lock_does_not_disturb_a_start(tmp_path):
    locks.acquire(tmp_path).close()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            locks.holder(tmp_path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(50):
            locks.acquire(tmp_path).close()
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (999_960, "1.0 MB"), (5e12, "5.0 TB")]
)
def test_sizes_are_for_people(number, shown):
    assert text.size(number) == shown


# prune ---------------------------------------------------------------------------------------------------------


def test_prune_says_first_and_removes_then(tmp_path, say):
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
    assert unit.name == run.plan.units[0].id, "the folder of the other is gone, too"
    assert len(objects(tmp_path)) == 8
    assert say("prune", tmp_path, "--yes")[1]["files"] == 0
    assert say("verify", tmp_path)[0] == 0


def test_prune_frees_bands_and_places_that_are_not_asked_for_any_more(tmp_path, say):
    make(tmp_path, models=(TWO,))
    make(tmp_path, slice(0, 6), models=(ONE, TWO))  # fetches B8 of the first four apart, all bands of the others
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
    assert len(folders) == 1, "the folders of B8 and of all bands went with their declarations"
    assert (found["declarations"]["files"], say("verify", tmp_path)[0]) == (2, 0)


def test_prune_keeps_what_another_run_needs(tmp_path, say):
    make(tmp_path, slice(0, 4), target="one")
    make(tmp_path, slice(2, 6), target="two", layout="per_item")
    (first,) = (tmp_path / ".rs_embed" / "runs").glob("one-*")
    shutil.rmtree(first)
    assert say("prune", tmp_path, "--yes")[1]["files"] == 4
    assert len(objects(tmp_path)) == 8
    assert say("verify", tmp_path)[0] == 0


def test_prune_frees_earlier_generations_and_those_of_runs_that_are_gone(tmp_path, say):
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
    assert f"the work folder {tmp_path / 'b' / '.rs_embed'} used this store and is gone" in shown
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
    assert {w for w in Store(shared).works().values()} == {tmp_path / d / ".rs_embed" for d in "ab"}


def test_temporary_files_of_dead_processes_and_damaged_objects_go(tmp_path, say):
    run = make(tmp_path, target="items", layout="per_item")
    victim = next((tmp_path / ".rs_embed" / "store").glob("embeddings/*/*/*.npy"))
    code = f"""
import os
from pathlib import Path
from rs_embed.store import temporary_name
for path in ({str(victim)!r}, {str(tmp_path / "items" / "p00000.npz")!r}, {str(run.dir / "items" / "00000.json")!r}):
    temporary_name(Path(path)).write_bytes(b"half")
os.kill(os.getpid(), 9)
"""
    assert python(code, tmp_path).returncode == -9
    mine = victim.with_name(f".tmp-{os.uname().nodename}-{os.getpid()}-7-x.npy")
    mine.write_bytes(b"a living process writes this")
    victim.with_name("x.npy.damaged").write_bytes(b"bad")
    final = times(tmp_path / "items", "p*")
    _, found = say("status", tmp_path)
    assert (found["leftovers_of_runs"]["files"], found["stores"][0]["leftovers"]["files"]) == (2, 1)
    _, found = say("prune", tmp_path, "--yes")
    assert [found[k]["files"] for k in ("in_runs", "leftovers", "damaged")] == [2, 1, 1]
    assert found["files"] == 4
    assert mine.exists() and times(tmp_path / "items", "p*") == final
    assert sorted(p.name for p in (tmp_path / "items").iterdir() if p.name.startswith(".")) == []
    assert say("verify", tmp_path)[0] == 0


def test_prune_refuses_while_a_run_is_live(tmp_path, say):
    make(tmp_path, models=(ONE, TWO))
    run = make(tmp_path)
    code = f"""
import sys, time
from pathlib import Path
from rs_embed import locks
with locks.acquire(Path({str(run.dir)!r})), locks.share(Path({str(run.store.root)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as other:
        assert other.stdout.readline() == "held\n"
        before = objects(tmp_path)
        code, said = say("prune", tmp_path, "--yes")
        assert code == 1 and said.count("\n") == 1
        assert f"a run is working on {tmp_path / 'run.npz'} (pid {other.pid}, host " in said
        assert objects(tmp_path) == before
        assert say("prune", tmp_path)[1]["files"] == 4, "looking is always allowed"
        other.stdin.close()
    assert say("prune", tmp_path, "--yes")[1]["files"] == 4
    with locks.share(run.store.root):  # a run of a work folder that is not known here
        code, said = say("prune", tmp_path, "--yes")
        assert code == 1 and "is in use by a run that has just started or that is not known here" in said


def test_a_run_waits_while_its_store_is_pruned(tmp_path, capsys):
    (tmp_path / "store").mkdir()
    held, got = locks.exclude(tmp_path / "store"), threading.Event()
    assert locks.exclude(tmp_path / "store") is None
    thread = threading.Thread(target=lambda: (locks.share(tmp_path / "store").close(), got.set()))
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
        locks.exclude(run.store.root).close()
        prepare(run, live=True)
    assert locks.exclude(run.store.root) is None
    assert say("prune", tmp_path, "--yes")[0] == 1
    for folder in (run.dir, run.store.root):
        locks._held.pop(folder).close()
    assert say("prune", tmp_path, "--yes")[0] == 0


def test_pixels_of_files_that_were_replaced_go(tmp_path, say):
    spots = [rasters.at(15, 15), rasters.at(45, 45)]
    for corner, name in ((0, "a"), (300, "b")):
        rasters.write(
            tmp_path / "data" / f"{name}.tif",
            rasters.noise(1, (2, 30, 30)),
            corner=(rasters.ORIGIN[0] + corner, rasters.ORIGIN[1] - corner),
        )
    rasters.catalogue(tmp_path / "data", {"path": "a.tif"}, {"path": "b.tif"})
    ask = {"models": [ONE], "target": combined(tmp_path / "run")}
    do(rasters.run(tmp_path / "data", spots, **ask))
    assert say("prune", tmp_path, "--yes")[1]["files"] == 0
    rasters.write(tmp_path / "data" / "a.tif", rasters.noise(2, (2, 30, 30)))
    os.utime(tmp_path / "data" / "a.tif", (1, 1))
    assert say("prune", tmp_path, "--yes")[1]["files"] == 0, "the run as it was started last still means the old file"
    do(rasters.run(tmp_path / "data", spots, **ask))
    assert (len(objects(tmp_path)), say("prune", tmp_path, "--yes")[1]["files"], len(objects(tmp_path))) == (6, 2, 4)
    assert say("verify", tmp_path)[0] == 0
    shutil.rmtree(tmp_path / "data")
    assert say("prune", tmp_path, "--yes")[1]["files"] == 0, "the files themselves are not asked"
    (frozen,) = (tmp_path / ".rs_embed" / "runs").glob("*/imagery.json")
    frozen.unlink()
    code, said = say("prune", tmp_path, "--yes")
    assert code == 1 and "imagery.json is missing" in said


def test_what_is_not_ours_stays(tmp_path, say):
    run = make(tmp_path)
    shutil.rmtree(run.dir)
    store = tmp_path / ".rs_embed" / "store"
    (folder,) = store.glob("chips/*/*")
    mine = [folder / "notes.txt", folder / "ab" / "abc.npy", store / "chips" / "readme", store / "old" / "x.npy"]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    assert say("prune", tmp_path, "--yes")[1]["files"] == 8
    assert all(p.exists() for p in [*mine, folder / "bands.json"])
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
        code, said = say("prune", tmp_path, *flags)
        assert code == 1 and said.count("\n") == 1
        assert f"the request of the run {run.dir} cannot be read" in said and "allowed: " in said
    assert objects(tmp_path) == before
    code, found = say("verify", tmp_path)
    assert code == 1 and [p["kind"] for p in found["problems"]] == ["request"]
    assert say("prune", tmp_path, "--yes", "--ignore-broken")[1]["files"] == 4
    assert len(objects(tmp_path)) == 4
    make(tmp_path, slice(2, 4), target="two")  # the next start mends it
    assert say("prune", tmp_path, "--yes")[0] == 0


def test_a_run_that_never_started_is_in_nobodys_way(tmp_path, say):
    run = make(tmp_path)
    locks.acquire(run.dir.with_name("other-combined-00000000")).close()
    assert say("prune", tmp_path, "--yes")[1]["files"] == 0
    assert sorted(r["state"] for r in say("status", tmp_path)[1]["runs"]) == ["complete", "empty"]
    assert say("verify", tmp_path)[0] == 0


# verify --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "kind", "said"),
    [
        (".rs_embed/store/embeddings/**/*.npy", "object", "of ROI 'p0"),
        (".rs_embed/store/chips/**/*.npy", "object", "chip (B2 B3 B4 B8) of sample-"),
        (".rs_embed/store/chips/**/bands.json", "declaration", "damaged"),
        ("run.npz", "file", "changed since it was written"),
        ("run.json", "file", "changed since it was written"),
        ("items/p00001.npz", "file", "final file of the run items-per_item-"),
        ("items/manifest.json", "file", "changed since it was written"),
        (".rs_embed/runs/*/items/*.jsonl", "file", "records of the run "),
    ],
)
def test_verify_finds_one_changed_byte(tmp_path, say, pattern, kind, said):
    make(tmp_path)
    make(tmp_path, target="items", layout="per_item")
    code, found = say("verify", tmp_path)
    assert (code, found["whole"], found["problems"], found["notes"]) == (0, True, [], [])
    victim = sorted(tmp_path.glob(pattern))[0]
    flip(victim)
    before = times(tmp_path, "**/*")
    code, found = say("verify", tmp_path)
    (problem,) = found["problems"]
    assert (code, problem["kind"], problem["path"]) == (1, kind, str(victim))
    assert said in problem["what"] and problem["advice"]
    assert found["next"].startswith("next: rs-embed verify --set-aside, then start the same request again")
    assert times(tmp_path, "**/*") == before, "nothing was changed"
    assert str(victim) in say("verify", tmp_path, plain=True)[1]


def test_verify_finds_lost_objects_and_damaged_receipts(tmp_path, say):
    run = make(tmp_path, models=(ONE, TWO))
    lost = [run.store.embedding(run.plan.units[1].id, run.plan.roi_ids[2])]
    lost.append(next((tmp_path / ".rs_embed" / "store").glob("chips/*/*/*/*.npy")))
    for path in lost:
        path.unlink()
    cut = run.dir / f"embed/{run.plan.units[0].id}/00001.json"
    cut.write_text(cut.read_text()[:-20])
    (run.dir / "items/00000.json").unlink()
    other = run.dir / f"fetch/{run.plan.sources[0].id}/00000-00.json"
    change(other, key="another")
    _, found = say("verify", tmp_path)
    said = {p["path"]: p["what"] for p in found["problems"]}
    assert "gone" in said[str(lost[0])]
    assert said[str(cut)] == "receipt: unreadable"
    assert said[str(run.dir / "items/00000.json")] == "receipt of a finished run: gone"
    assert said[str(other)] == "receipt of a finished run: made for another request"
    assert found["next"].endswith(f"start the same request again ({tmp_path / 'run.npz'})")


def test_what_is_unfinished_or_unneeded_is_no_damage(tmp_path, say):
    make(tmp_path, models=(ONE, TWO))
    make(tmp_path, slice(0, 5), upto="fetch")  # the receipts of the earlier request are stale now
    code, found = say("verify", tmp_path)
    assert (code, len(found["notes"])) == (0, 1) and "is not finished" in found["notes"][0]
    run = make(tmp_path, save_inputs=False)
    for path in (tmp_path / ".rs_embed" / "store").glob("chips/*/*/*/*.npy"):
        path.unlink()  # nothing reads them any more
    assert say("verify", tmp_path)[0] == 0
    victim = next(
        p for p in (tmp_path / ".rs_embed" / "store").glob("embeddings/*/*/*.npy") if run.plan.units[0].id not in str(p)
    )
    flip(victim)
    code, found = say("verify", tmp_path)
    assert code == 1 and "that no run refers to" in found["problems"][0]["what"]
    assert found["next"] == "next: rs-embed prune --yes removes it, no run needs it"
    say("prune", tmp_path, "--yes")
    assert say("verify", tmp_path)[0] == 0


def test_a_chip_with_other_bands_than_its_folder_is_damaged(tmp_path, say):
    make(tmp_path, models=(TWO,))
    run = make(tmp_path, slice(0, 6), models=(ONE, TWO))
    few, *_ = [
        p
        for p in (tmp_path / ".rs_embed" / "store").glob("chips/*/*/*/*.npy")
        if "B8" not in (p.parents[1] / "bands.json").read_text()
    ]
    whole = run.store.chip(run.plan.sources[0].id, run.plan.sources[0].bands, run.plan.roi_ids[5])
    shutil.copy(few, whole)
    code, found = say("verify", tmp_path)
    assert code == 1 and "not those of its folder" in found["problems"][0]["what"]


@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_a_start_notices_damaged_files_after_setting_aside(tmp_path, say, layout):
    run = make(tmp_path, layout=layout)
    files = [tmp_path / "run.npz", tmp_path / "run.json"]
    if layout == "per_item":
        files = [tmp_path / "run" / name for name in ("p00001.npz", "p00002.json", "manifest.json")]
    for path in files:
        before = path.stat()
        path.write_bytes(b"{" * before.st_size)  # not even JSON
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, found = say("verify", tmp_path, "--set-aside")
    assert (code, sorted(found["touched"])) == (1, sorted(map(str, files)))
    assert found["next"] == f"next: start the same request again ({run.dir.joinpath(run.plan.target).resolve()})"
    with contextlib.chdir(run.dir):
        check(run)
        asked, found = prepare(run, live=False), _examined(run)
    assert found.states["merge.json"] == "stale"
    assert asked == (["repairs/00000-0.json", "repairs/00001-0.json"] if layout == "per_item" else [])


def test_setting_aside_waits_for_nobody_and_refuses_under_a_run(tmp_path, say):
    run = make(tmp_path)
    victim = sorted((tmp_path / ".rs_embed" / "store").glob("embeddings/*/*/*.npy"))[0]
    flip(victim)
    with locks.share(run.store.root):
        code, said = say("verify", tmp_path, "--set-aside", plain=True)
        assert code == 1 and str(victim) in said and "is in use by a run" in said and victim.exists()
    with locks.acquire(run.dir):
        code, found = say("verify", tmp_path)
        assert code == 1 and "is running" in found["notes"][0]
    code, found = say("verify", tmp_path, "--set-aside")
    assert code == 1 and found["set_aside"] == [f"{victim}.damaged"] and not victim.exists()
    chunk = next(c.name for c in run.plan.chunks if victim.stem in run.plan.roi_ids[c.start : c.stop])
    unit = run.plan.units[0].id
    assert found["withdrawn"] == [str(run.dir / p) for p in (f"embed/{unit}/{chunk}.json", f"items/{chunk}.json")]
    assert found["next"] == f"next: start the same request again ({tmp_path / 'run.npz'})"
    make(tmp_path)
    assert say("verify", tmp_path)[0] == 0


# whole runs ----------------------------------------------------------------------------------------------------


def models() -> list[ExportModelRequest]:
    """The models of the fixture ``finished``."""
    return [
        ExportModelRequest("mosaiks", model_config={"features": 64}),
        ExportModelRequest("mosaiks", label="rgb", sensor=RGB, model_config={"features": 32}),
    ]


@pytest.mark.heavy
def test_a_finished_export_makes_nothing_after_prune(tmp_path, finished):
    shutil.copytree(finished, tmp_path, symlinks=True, dirs_exist_ok=True)
    export(combined(tmp_path / "run"), places(9), models(), resume=False)
    assert main(["prune", str(tmp_path), "--yes"]) == 0
    assert len(objects(tmp_path)) == 27
    before = times(tmp_path, "**/*.np*") | times(tmp_path / ".rs_embed" / "runs", "*/*/**/*.json")
    export(combined(tmp_path / "run"), places(9), models())
    assert times(tmp_path, "**/*.np*") | times(tmp_path / ".rs_embed" / "runs", "*/*/**/*.json") == before
    assert main(["verify", str(tmp_path)]) == 0


@pytest.mark.heavy
def test_one_start_mends_everything_that_was_set_aside(tmp_path, say):
    export(combined(tmp_path / "run"), places(6), [ONE], chunk_size=2)
    target = ExportTarget.per_item(str(tmp_path / "items"))
    export(target, places(6), [ONE], chunk_size=2)
    good = {p: p.read_bytes() for p in (tmp_path / "run.npz", tmp_path / "items" / "p00003.npz")}
    store = tmp_path / ".rs_embed" / "store"
    victims = [sorted(store.glob(f"{kind}/**/[0-9a-f]*.npy")) for kind in ("chips", "embeddings")]
    records = sorted(tmp_path.glob(".rs_embed/runs/*/items/*.jsonl"))[0]
    victims = [victims[0][1], victims[1][4], records, *good]
    for path in victims:
        flip(path)
    sorted(store.glob("embeddings/**/[0-9a-f]*.npy"))[0].unlink()
    sorted(store.glob("chips/**/[0-9a-f]*.npy"))[5].unlink()
    code, found = say("verify", tmp_path, "--set-aside")
    assert (
        code == 1 and len(found["set_aside"]) == 2 and set(map(str, victims)) <= {p["path"] for p in found["problems"]}
    )
    export(combined(tmp_path / "run"), places(6), [ONE], chunk_size=2)
    export(target, places(6), [ONE], chunk_size=2)
    code, found = say("verify", tmp_path)
    assert (code, found["problems"]) == (0, [])
    assert {p: p.read_bytes() for p in good} == good
    assert say("prune", tmp_path, "--yes")[1]["damaged"]["files"] == 2


@pytest.mark.heavy
def test_a_real_run_is_shown_as_running_and_keeps_prune_out(tmp_path, say):
    code = """
import sys
from tests.conftest import *
from rs_embed import ExportModelRequest
model = ExportModelRequest("mosaiks", model_config={"features": 8192, "patch_size": 5})
export(combined(Path(sys.argv[1])), places(60), [model], chunk_size=30)
"""
    process = killing.start([sys.executable, "-c", code, str(tmp_path / "run")])
    killing.wait_until(lambda: len(objects(tmp_path, "embeddings")) > 2, process, "two embeddings")
    _, found = say("status", tmp_path)
    assert found["runs"][0]["state"] == "running" and found["runs"][0]["running"]["host"] == os.uname().nodename
    code, said = say("prune", tmp_path, "--yes")
    assert code == 1 and "a run is working on" in said
    assert locks.exclude(tmp_path / ".rs_embed" / "store") is None
    family = killing.tree(psutil.Process(process.pid))
    killing.kill_all(psutil.Process(process.pid))
    process.communicate()
    psutil.wait_procs(family, timeout=20)
    before = objects(tmp_path)
    _, found = say("prune", tmp_path, "--yes")
    assert objects(tmp_path) == before and found["groups"] == [], "everything is of the unfinished run"
    assert not [p for p in tmp_path.rglob(".tmp-*")]
    assert say("status", tmp_path)[1]["runs"][0]["state"] == "incomplete"


def test_receipts_are_read_once(tmp_path, say, monkeypatch):
    run = make(tmp_path)
    reads: list[str] = []
    real = receipts.read
    monkeypatch.setattr(receipts, "read", lambda path, key=None: (reads.append(str(path)), real(path, key))[1])
    say("status", tmp_path)
    assert len(reads) == len(set(reads)) == len(run.plan.receipts()) + 1
