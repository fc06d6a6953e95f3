"""``rs-embed verify``, and whole runs after the three commands."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys

import psutil
import pytest

from rs_embed import ExportModelRequest, ExportTarget
from rs_embed.cli import main
from rs_embed.stages.prepare import check_target, prepare
from rs_embed.stages.shared.state import examine_receipts
from rs_embed.store import locks, receipts

from ..support import killing
from ..support.exports import combined, export, places, times
from ..support.work_folders import ONE, RGB, TWO, flip, make, objects, rewrite


@pytest.mark.parametrize(
    ("pattern", "kind", "expected"),
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
def test_verify_finds_one_changed_byte(tmp_path, say, pattern, kind, expected):
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
    assert expected in problem["what"] and problem["advice"]
    assert found["next"].startswith("next: rs-embed verify --set-aside, then start the same request again")
    assert times(tmp_path, "**/*") == before, "nothing was changed"
    assert str(victim) in say("verify", tmp_path, plain=True)[1]


def test_verify_finds_lost_objects_and_damaged_receipts(tmp_path, say):
    run = make(tmp_path, models=(ONE, TWO))
    lost = [run.store.embedding_path(run.plan.units[1].id, run.plan.roi_ids[2])]
    lost.append(next((tmp_path / ".rs_embed" / "store").glob("chips/*/*/*/*.npy")))
    for path in lost:
        path.unlink()
    cut = run.dir / f"embed/{run.plan.units[0].id}/00001.json"
    cut.write_text(cut.read_text()[:-20])
    (run.dir / "items/00000.json").unlink()
    other = run.dir / f"fetch/{run.plan.sources[0].id}/00000-00.json"
    rewrite(other, key="another")
    _, found = say("verify", tmp_path)
    problems = {p["path"]: p["what"] for p in found["problems"]}
    assert "missing" in problems[str(lost[0])]
    assert problems[str(cut)] == "receipt: unreadable"
    assert problems[str(run.dir / "items/00000.json")] == "receipt of a finished run: missing"
    assert problems[str(other)] == "receipt of a finished run: made for another request"
    assert found["next"].endswith(f"start the same request again ({tmp_path / 'run.npz'})")


def test_missing_objects_of_unfinished_runs_and_unneeded_ones_are_no_damage(tmp_path, say):
    make(tmp_path, models=(ONE, TWO))
    make(tmp_path, slice(0, 5), upto="fetch")  # now the receipts of the earlier request are stale
    code, found = say("verify", tmp_path)
    assert (code, len(found["notes"])) == (0, 1) and "is not finished" in found["notes"][0]
    run = make(tmp_path, save_inputs=False)
    for path in (tmp_path / ".rs_embed" / "store").glob("chips/*/*/*/*.npy"):
        path.unlink()  # no job reads them any more
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
    whole = run.store.chip_path(run.plan.sources[0].id, run.plan.sources[0].bands, run.plan.roi_ids[5])
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
        check_target(run)
        asked, found = list(prepare(run, live=False).repair), examine_receipts(run)
    assert found.states["merge.json"] == "stale"
    assert asked == (["repairs/00000-0.json", "repairs/00001-0.json"] if layout == "per_item" else [])


def test_setting_aside_is_refused_while_a_run_uses_the_store(tmp_path, say):
    run = make(tmp_path)
    victim = sorted((tmp_path / ".rs_embed" / "store").glob("embeddings/*/*/*.npy"))[0]
    flip(victim)
    with locks.acquire_shared_store_lock(run.store.root):
        code, output = say("verify", tmp_path, "--set-aside", plain=True)
        assert code == 1 and str(victim) in output and "is in use by a run" in output and victim.exists()
    with locks.acquire_run_lock(run.dir):
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


def models() -> list[ExportModelRequest]:
    """The models of the fixture ``finished``."""
    return [
        ExportModelRequest("mosaiks", model_config={"features": 64}),
        ExportModelRequest("mosaiks", label="rgb", sensor=RGB, model_config={"features": 32}),
    ]


@pytest.mark.heavy
def test_a_finished_export_makes_nothing_again_after_prune(tmp_path, finished):
    shutil.copytree(finished, tmp_path, symlinks=True, dirs_exist_ok=True)
    export(combined(tmp_path / "run"), places(9), models(), resume=False, keep_work="all")
    assert main(["prune", str(tmp_path), "--yes"]) == 0
    assert len(objects(tmp_path)) == 27
    before = times(tmp_path, "**/*.np*") | times(tmp_path / ".rs_embed" / "runs", "*/*/**/*.json")
    export(combined(tmp_path / "run"), places(9), models(), keep_work="all")
    assert times(tmp_path, "**/*.np*") | times(tmp_path / ".rs_embed" / "runs", "*/*/**/*.json") == before
    assert main(["verify", str(tmp_path)]) == 0


@pytest.mark.heavy
def test_one_start_repairs_everything_that_was_set_aside(tmp_path, say):
    export(combined(tmp_path / "run"), places(6), [ONE], chunk_size=2, keep_work="all")
    target = ExportTarget.per_item(str(tmp_path / "items"))
    export(target, places(6), [ONE], chunk_size=2, keep_work="all")
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
    export(combined(tmp_path / "run"), places(6), [ONE], chunk_size=2, keep_work="all")
    export(target, places(6), [ONE], chunk_size=2, keep_work="all")
    code, found = say("verify", tmp_path)
    assert (code, found["problems"]) == (0, [])
    assert {p: p.read_bytes() for p in good} == good
    assert say("prune", tmp_path, "--yes")[1]["damaged"]["files"] == 2


@pytest.mark.heavy
def test_status_reports_a_real_run_and_prune_is_refused(tmp_path, say):
    code = """
import sys
from tests.support.exports import *
from rs_embed import ExportModelRequest
model = ExportModelRequest("mosaiks", model_config={"features": 8192, "patch_size": 5})
export(combined(Path(sys.argv[1])), places(60), [model], chunk_size=30)
"""
    process = killing.start([sys.executable, "-c", code, str(tmp_path / "run")])
    killing.wait_until(lambda: len(objects(tmp_path, "embeddings")) > 2, process, "two embeddings")
    _, found = say("status", tmp_path)
    assert found["runs"][0]["state"] == "running" and found["runs"][0]["running"]["host"] == os.uname().nodename
    code, output = say("prune", tmp_path, "--yes")
    assert code == 1 and "a run is working on" in output
    assert locks.acquire_exclusive_store_lock(tmp_path / ".rs_embed" / "store") is None
    family = killing.tree(psutil.Process(process.pid))
    killing.kill_all(psutil.Process(process.pid))
    process.communicate()
    psutil.wait_procs(family, timeout=20)
    before = objects(tmp_path)
    _, found = say("prune", tmp_path, "--yes")
    assert objects(tmp_path) == before and found["groups"] == [], "all objects belong to the unfinished run"
    assert not [p for p in tmp_path.rglob(".tmp-*")]
    assert say("status", tmp_path)[1]["runs"][0]["state"] == "incomplete"


def test_receipts_are_read_once(tmp_path, say, monkeypatch):
    run = make(tmp_path)
    reads: list[str] = []
    real = receipts.read
    monkeypatch.setattr(receipts, "read", lambda path, key=None: (reads.append(str(path)), real(path, key))[1])
    say("status", tmp_path)
    assert len(reads) == len(set(reads)) == len(run.plan.receipts()) + 1
