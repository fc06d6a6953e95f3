"""Packs in runs: the option ``pack``, ``rs-embed pack``, and packs in the other commands."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import rs_embed
from rs_embed import ExportError, StoreError, load_export
from rs_embed.cli import main
from rs_embed.runs.run import Run
from rs_embed.runs.run_files import load_run
from rs_embed.stages.merge import merge
from rs_embed.stages.shared.state import examine_receipts, find_invalid_receipts
from rs_embed.stages.write import write
from rs_embed.store import locks
from rs_embed.store.groups import Group
from rs_embed.upkeep.free_space import free_space

from ..support import killing
from ..support.exports import CHECKOUT, combined, content, export, made, places, run_folder, steps
from ..support.work_folders import ONE, TWO, make, objects


def packs(folder: Path, kind: str = "") -> list[Path]:
    """Packs of the store of a work folder beside a target."""
    return sorted((folder / ".rs_embed" / "store").glob(f"{kind or '*'}/**/*.pack"))


def flip(path: Path, at: int = 200) -> None:
    """Change one byte, and keep the time."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def groups(run: Run) -> list[tuple[Group, tuple[str, ...]]]:
    """Every group of a run, and the names in it."""
    found = [(run.store.embedding_group(u.id), run.plan.object_names(u.source)) for u in run.plan.embedded_units]
    chips = [(s, b) for s in run.plan.sources for b in run.store.list_band_sets(s.id, s.bands)]
    return found + [(run.store.chip_group(s.id, b), run.plan.object_names(s.id)) for s, b in chips]


def nothing_to_do(run: Run) -> bool:
    with contextlib.chdir(run.dir):
        return not find_invalid_receipts(run, examine_receipts(run)) and set(examine_receipts(run).states.values()) == {
            "good"
        }


# runs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_a_packed_run_makes_the_same_files(tmp_path, layout):
    """Also after a model and ROIs were added, and with nothing to do."""
    requests = [{"models": (TWO,)}, {"models": (TWO, ONE)}, {"models": (TWO, ONE), "spots": slice(0, 7)}]
    for more in requests:
        plain = make(tmp_path / "plain", layout=layout, **more)
        run = make(tmp_path / "packed", layout=layout, pack=True, **more)
        assert content(tmp_path / "packed") == content(tmp_path / "plain")
        assert not objects(tmp_path / "packed"), "no object is loose"
        assert run.plan.receipts() == plain.plan.receipts(), "no key depends on packs"
        for (group, names), (other, _) in zip(groups(run), groups(plain), strict=True):
            for name in names:
                assert group.has(name) == other.has(name)
                if group.has(name):
                    packed, loose = group.read(name), other.read(name)
                    assert packed.array.tobytes() == loose.array.tobytes() and packed.meta.keys() == loose.meta.keys()
        assert nothing_to_do(run)
    # chips: two chunks of the first bands, two of the fourth band, two of new ROIs; embeddings:
    # four chunks of two units
    assert len(objects(tmp_path / "plain")) == 25 and len(packs(tmp_path / "packed")) == 6 + 8
    assert not [p for p in (tmp_path / "packed").rglob("*") if len(p.name) == 2 and p.is_dir()], "no empty folders"


def test_objects_are_packed_before_their_chunk_is_written(tmp_path):
    """Fetch jobs can be far ahead of embed jobs."""
    run = make(tmp_path, models=(ONE, TWO), pack=True, upto="embed")
    assert not objects(tmp_path) and (len(packs(tmp_path, "chips")), len(packs(tmp_path, "embeddings"))) == (2, 4)
    receipt = json.loads(next(run.dir.glob("fetch/*/*.json")).read_text())
    assert receipt["packed"] == receipt["fetched"] == 2
    make(tmp_path, models=(ONE, TWO), pack=True)
    assert len(packs(tmp_path)) == 6 and load_export(tmp_path / "run").status == "ok"


def test_a_finished_run_that_is_packed_needs_nothing(tmp_path, say):
    run = make(tmp_path, models=(ONE, TWO))
    before, times = content(tmp_path), {p: p.stat().st_mtime_ns for p in run.dir.rglob("*.json")}
    loose = len(objects(tmp_path))
    code, found = say("pack", tmp_path)
    assert (code, found["objects"], found["packs"], found["damaged"], found["notes"]) == (0, loose, 6, [], [])
    assert loose == 12 and not objects(tmp_path) and len(packs(tmp_path)) == 6
    assert nothing_to_do(run)
    run = make(tmp_path, models=(ONE, TWO))
    assert made(run.dir) == {"fetched": 0, "embedded": 0} and not objects(tmp_path)
    assert content(tmp_path) == before and set(times) == set(run.dir.rglob("*.json"))
    assert say("pack", tmp_path)[1]["objects"] == 0
    assert "0 objects (0 B) were put into 0 packs" in say("pack", tmp_path, plain=True)[1]


def test_objects_of_unfinished_chunks_stay_loose(tmp_path, say):
    run = make(tmp_path, upto="embed")
    assert say("pack", tmp_path)[1]["objects"] == 0
    with contextlib.chdir(run.dir):
        write(run, "00001")
    assert say("pack", tmp_path)[1]["objects"] == 4
    assert {Path(p).stem for p in objects(tmp_path)} == set(run.plan.roi_ids[:2])
    make(tmp_path)
    assert say("pack", tmp_path)[1]["objects"] == 4 and not objects(tmp_path)
    other = make(tmp_path, slice(4, 6), target="other")
    (other.dir / "config.yaml").write_text("models: [")
    _, found = say("pack", tmp_path)
    assert found["objects"] == 0 and "its request cannot be read" in found["notes"][0]


def test_a_chunk_does_not_fail_because_it_cannot_be_packed(tmp_path, monkeypatch, capsys):
    def full(folder, _):
        raise StoreError(f"{folder} cannot be written (Disk quota exceeded)")

    monkeypatch.setattr("rs_embed.store.packs.write_pack", full)
    make(tmp_path, pack=True, upto="write")
    assert "were not all packed" in capsys.readouterr().err
    monkeypatch.undo()
    assert len(objects(tmp_path)) == 8 and not list(tmp_path.rglob(".tmp-*"))
    make(tmp_path)
    assert load_export(tmp_path / "run").status == "ok"


@pytest.mark.heavy
@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_real_runs(tmp_path, say, layout):
    every, models = places(9), ["mosaiks"]
    for folder, more in (("plain", {}), ("packed", {"pack": True})):
        target = rs_embed.ExportTarget(layout, str(tmp_path / folder / "run"))
        export(target, every, models, chunk_size=3, keep_work="all", **more)
        export(target, every, [*models, TWO], chunk_size=3, keep_work="all", **more)
    assert content(tmp_path / "packed") == content(tmp_path / "plain")
    assert len(objects(tmp_path / "plain")) == 27 and not objects(tmp_path / "packed")
    assert len(packs(tmp_path / "packed")) == 9
    export(target, every, [*models, TWO], chunk_size=3, pack=True, keep_work="all")
    assert steps(run_folder(tmp_path / "packed" / "run", layout)) == {}
    for folder in ("plain", "packed"):
        assert say("verify", tmp_path / folder)[0] == 0
    if layout == "combined":
        for path in (tmp_path / "packed").glob("run.*"):
            path.unlink()
        export(target, every, [*models, TWO], chunk_size=3, pack=True, keep_work="all")
        assert steps(run_folder(tmp_path / "packed" / "run")) == {"merge": 1}
        assert content(tmp_path / "packed") == content(tmp_path / "plain")


# damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["chips", "embeddings"])
@pytest.mark.parametrize("whole", [False, True])
def test_only_damaged_objects_of_a_pack_are_made_again(tmp_path, say, kind, whole):
    reference = content(make(tmp_path / "reference").dir.parents[2])
    tmp_path /= "run"
    run = load_run(make(tmp_path, pack=True, upto="write").dir)  # like the next job, which has read no index
    victim = packs(tmp_path, kind)[0]
    flip(victim, -1 if whole else 200)  # its index, or its first object
    with contextlib.chdir(run.dir), pytest.raises(StoreError, match="run again to"):
        merge(run)
    assert not victim.exists() or whole
    with contextlib.chdir(run.dir):
        withdrawn_paths = find_invalid_receipts(run, examine_receipts(run))
    assert sorted(p.split("/")[0] for p in withdrawn_paths) == [
        {"chips": "fetch", "embeddings": "embed"}[kind],
        "items",
    ]
    for path in withdrawn_paths:
        (run.dir / path).unlink()
    again = make(tmp_path, pack=True)
    key = {"chips": "fetched", "embeddings": "embedded"}[kind]
    lost = 2 if whole else 1
    assert _made_now(again, withdrawn_paths, key) == lost
    assert content(tmp_path) == reference and not objects(tmp_path)
    assert nothing_to_do(again) and say("verify", tmp_path)[0] == 0
    damaged = say("prune", tmp_path, "--yes")[1]["damaged"]["files"]
    assert damaged == 1 and say("verify", tmp_path)[0] == 0


def _made_now(run: Run, withdrawn: list[str], key: str) -> int:
    """Number of objects that the jobs with withdrawn receipts made."""
    from rs_embed.store import receipts

    return sum(receipts.read(run.dir / p).get(key, 0) for p in withdrawn)


@pytest.mark.heavy
def test_one_more_start_repairs_a_damaged_pack(tmp_path):
    target, every = combined(tmp_path / "run"), places(6)
    export(target, every, [ONE], chunk_size=3, pack=True, keep_work="all")
    good = content(tmp_path)
    flip(packs(tmp_path, "chips")[0])
    flip(packs(tmp_path, "embeddings")[1])
    (tmp_path / "run.npz").unlink()
    with pytest.raises(ExportError, match="run again to create it again"):
        export(target, every, [ONE], chunk_size=3, pack=True, keep_work="all")
    export(target, every, [ONE], chunk_size=3, pack=True, keep_work="all")
    run = run_folder(tmp_path / "run")
    assert {k: v for k, v in steps(run).items() if k in ("fetch", "merge")} == {"fetch": 1, "merge": 1}
    assert content(tmp_path)["run.npz"] == good["run.npz"] and not objects(tmp_path)


def test_verify_finds_damage_in_packs_and_one_start_repairs_it(tmp_path, say):
    run = make(tmp_path, pack=True)
    reference = content(tmp_path)
    assert say("verify", tmp_path)[1]["read"]["objects"] == 8
    one, other = packs(tmp_path, "embeddings")
    flip(one)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    code, found = say("verify", tmp_path)
    (problem,) = found["problems"]
    assert (code, problem["kind"]) == (1, "object")
    assert f"in {one.name}: its digest does not fit" in problem["what"] and "of ROI 'p0000" in problem["what"]
    flip(other, -1)
    code, found = say("verify", tmp_path)
    assert [p["kind"] for p in found["problems"]] == ["object", "object", "object", "pack"], "two objects are lost"
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    with locks.acquire_shared_store_lock(run.store.root):
        assert "is in use by a run" in say("verify", tmp_path, "--set-aside", plain=True)[1]
    code, found = say("verify", tmp_path, "--set-aside")
    assert code == 1 and sorted(Path(p).suffix for p in found["set_aside"]) == [".damaged"] * 2
    assert len(found["withdrawn"]) == 4
    again = make(tmp_path, pack=True)
    assert sum(made(again.dir).values()) == 3 and content(tmp_path) == reference
    assert say("verify", tmp_path)[0] == 0
    assert say("prune", tmp_path, "--yes")[1]["damaged"]["files"] == 2


# the commands ------------------------------------------------------------------------------------


def test_status_counts_files_and_objects(tmp_path, say):
    make(tmp_path, models=(ONE, TWO))
    _, loose = say("status", tmp_path)
    say("pack", tmp_path)
    _, packed = say("status", tmp_path)
    (before,), (after,) = loose["stores"], packed["stores"]
    assert [(g["objects"], g["files"], g["packs"]) for g in before["groups"]] == [(4, 4, 0)] * 3
    assert [(g["objects"], g["files"], g["packs"]) for g in after["groups"]] == [(4, 2, 2)] * 3
    assert before["files"] - after["files"] == 12 - 6 - 1, "the lock of the store is a file, too"
    real = [p for p in (tmp_path / ".rs_embed").rglob("*") if p.is_file() and ".package/rs_embed/" not in str(p)]
    links = [p for p in (tmp_path / ".rs_embed").rglob("*") if p.is_symlink()]
    assert packed["total"]["files"] == len(real) + len(links)
    assert after["bytes"] == sum(p.stat().st_size for p in (tmp_path / ".rs_embed" / "store").rglob("*") if p.is_file())
    assert packed["prune"] == {"files": 0, "bytes": 0, "refused": None}
    assert "4 in 2 files" in say("status", tmp_path, plain=True)[1]


def test_pack_and_unpack(tmp_path, say):
    run = make(tmp_path, models=(ONE, TWO))
    store = tmp_path / ".rs_embed" / "store"
    before = {p: (tmp_path / ".rs_embed" / "store" / p).read_bytes() for p in objects(tmp_path)}
    assert main(["pack", str(tmp_path)]) == 0
    with locks.acquire_shared_store_lock(run.store.root):
        code, output = say("pack", tmp_path, "--undo", plain=True)
        assert code == 1 and "is in use by a run" in output and len(packs(tmp_path)) == 6
    code, found = say("pack", tmp_path, "--undo")
    assert (code, found["loosened"], found["unreadable"]) == (0, 12, [])
    assert {p: (store / p).read_bytes() for p in objects(tmp_path)} == before
    assert not list(store.rglob("packs"))
    assert say("verify", tmp_path)[0] == 0
    assert "0 objects in packs are loose again" in say("pack", tmp_path, "--undo", plain=True)[1]


def test_a_pack_that_cannot_be_read_is_not_undone(tmp_path, say):
    make(tmp_path, pack=True)
    flip(packs(tmp_path)[0], -1)
    code, found = say("pack", tmp_path, "--undo")
    assert (code, found["loosened"], len(found["unreadable"])) == (0, 6, 1)
    assert "1 pack cannot be read" in say("pack", tmp_path, "--undo", plain=True)[1]


def test_packing_works_beside_runs_and_waits_for_prune(tmp_path, say):
    run = make(tmp_path)
    with locks.acquire_shared_store_lock(run.store.root), locks.acquire_run_lock(run.dir):
        assert say("pack", tmp_path)[1]["objects"] == 8
    code = "import sys; from rs_embed.cli import main; sys.exit(main(sys.argv[1:]))"
    with locks.acquire_exclusive_store_lock(run.store.root):
        waiting = subprocess.Popen(
            [sys.executable, "-c", code, "pack", str(tmp_path)], cwd=CHECKOUT, stderr=subprocess.PIPE, text=True
        )
        assert "is being pruned" in waiting.stderr.readline()
    assert waiting.wait(timeout=30) == 0
    waiting.communicate()


def test_prune_removes_packed_objects(tmp_path, say):
    make(tmp_path, models=(ONE, TWO), pack=True)
    run = make(tmp_path, slice(1, 4), pack=True)  # a ROI and a model are no longer requested
    before = {p: p.stat().st_mtime_ns for p in packs(tmp_path)}
    _, found = say("prune", tmp_path)
    assert sum(g["objects"] for g in found["groups"]) == 4 + 1 + 1
    assert found["files"] == 2, "packs with nothing else in them"
    assert {p: p.stat().st_mtime_ns for p in packs(tmp_path)} == before
    assert "can be removed" in say("prune", tmp_path, plain=True)[1]
    say("prune", tmp_path, "--yes")
    assert sum(g["objects"] for g in say("status", tmp_path)[1]["stores"][0]["groups"]) == 6
    (unit,) = (tmp_path / ".rs_embed" / "store" / "embeddings").iterdir()
    assert unit.name == run.plan.units[0].id and not objects(tmp_path)
    assert nothing_to_do(run) and say("verify", tmp_path)[0] == 0
    _, found = say("prune", tmp_path, "--yes")
    assert (found["files"], found["bytes"]) == (0, 0)
    _, shown = say("prune", tmp_path, plain=True)
    assert "nothing to remove" in shown


def test_prune_reports_bytes_where_no_file_is_removed(tmp_path, say):
    make(tmp_path, slice(0, 2), pack=True)
    make(tmp_path, slice(0, 1), pack=True)
    _, found = say("prune", tmp_path)
    assert found["files"] == 0 and found["bytes"] > 0
    assert "0 files" in say("prune", tmp_path, plain=True)[1]
    say("prune", tmp_path, "--yes")
    assert say("prune", tmp_path)[1]["bytes"] == 0 and len(packs(tmp_path)) == 2


@pytest.mark.parametrize("options", [{"keep_work": "none"}, {"keep_work": "embeddings"}, {"store_limit_gb": 0}])
def test_a_packed_run_frees_its_objects(tmp_path, say, options):
    run = make(tmp_path, pack=True, **options)
    locks.hold_store_lock(run.store.root)
    try:
        free_space(run)
    finally:
        locks._held_locks.pop(run.store.root.resolve()).close()
    assert not packs(tmp_path, "chips")
    assert len(packs(tmp_path, "embeddings")) == (2 if options.get("keep_work") == "embeddings" else 0)
    assert not list((tmp_path / ".rs_embed" / "store" / "chips").glob("*")), "nor their folders"
    assert nothing_to_do(run) and say("verify", tmp_path)[0] == 0


def test_above_the_limit_whole_packs_are_removed(tmp_path, say):
    make(tmp_path, slice(0, 8), pack=True)
    (before,) = say("status", tmp_path)[1]["stores"]
    chips = next(g for g in before["groups"] if g["kind"] == "chips")
    times = {p: p.stat().st_mtime_ns for p in packs(tmp_path)}
    assert len(times) == 8
    limit = before["bytes"] - chips["bytes"] // 2 + 500  # some of the chips, and none of the embeddings
    assert say("prune", tmp_path, "--yes", "--max-gb", str(limit / 1e9))[1]["spare"]["files"] == 2
    left = {p: p.stat().st_mtime_ns for p in packs(tmp_path)}
    assert len(left) == 6 and left.items() <= times.items(), "no pack was written again"


# killed ------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_a_run_killed_while_it_packs(tmp_path):
    """SIGKILL to all processes before a pack is renamed: the same request succeeds, and makes no
    object again."""
    import psutil

    request = killing.REQUEST.replace("writer_workers=1", "writer_workers=1, pack=True")
    command = [sys.executable, "-c", request, "combined"]
    victim = killing.start([*command, str(tmp_path / "killed")], "embed 4 *.pack")
    store = tmp_path / "killed" / ".rs_embed" / "store"

    def temporary_packs() -> list[Path]:  # os.walk ignores folders that are deleted
        found = [Path(folder, name) for folder, _, names in os.walk(store) for name in names]
        return [p for p in found if p.name.startswith(".tmp-") and p.suffix == ".pack" and p.parts[-4] == "embeddings"]

    killing.wait_until(lambda: any(p.stat().st_size for p in temporary_packs()), victim, "packing")
    kept = killing.objects(tmp_path / "killed")
    family = killing.tree(psutil.Process(victim.pid))
    killing.kill_all(psutil.Process(victim.pid))
    victim.communicate(timeout=20)
    psutil.wait_procs(family, timeout=20)
    assert temporary_packs() and set(kept) == set(killing.objects(tmp_path / "killed"))
    for folder in ("killed", "undisturbed"):
        process = killing.start([*command, str(tmp_path / folder)])
        assert process.communicate(timeout=120) and process.returncode == 0
    # objects of a killed job are in the store, and no receipt counts them
    now, whole = (made(run_folder(tmp_path / word / "run")) for word in ("killed", "undisturbed"))
    assert all(now[key] <= whole[key] for key in whole)
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
    assert not objects(tmp_path / "killed") and len(packs(tmp_path / "killed")) == 4
    assert not list(tmp_path.rglob(".tmp-*"))
