"""``rs-embed status``; and the work folder that a path refers to."""

from __future__ import annotations

import json
import os
import shutil
import threading

import pytest

from rs_embed import StoreError
from rs_embed.cli import main
from rs_embed.store import locks
from rs_embed.upkeep import summaries
from rs_embed.upkeep.work_folder import find_work_folder

from ..support.work_folders import ONE, TWO, make, rewrite


def test_a_work_folder_is_found_from_related_paths(tmp_path, monkeypatch, capsys):
    make(tmp_path, upto="fetch")
    make(tmp_path, target="items", layout="per_item")
    work = tmp_path / ".rs_embed"
    for given in (work, tmp_path, tmp_path / "run.npz", tmp_path / "run", tmp_path / "items"):
        assert find_work_folder(given) == work
    monkeypatch.chdir(tmp_path)
    assert main(["status"]) == 0
    assert f"work folder {work}" in capsys.readouterr().out
    make(tmp_path, target="far", work_dir="elsewhere")
    assert find_work_folder(tmp_path / "elsewhere") == tmp_path / "elsewhere"
    (tmp_path / "empty").mkdir()
    for command in ("status", "verify", "prune"):
        assert main([command, str(tmp_path / "empty" / "nothing")]) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: folder: ") and "allowed: a folder .rs_embed" in error and error.count("\n") == 1
    with pytest.raises(StoreError, match="has no work folder"):
        find_work_folder(tmp_path / "typo")


def test_status_reports_runs_and_stores(tmp_path, say):
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


def test_status_reports_missing_and_changed_final_files(tmp_path, say):
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


def test_status_reports_failures_damage_and_the_running_process(tmp_path, say):
    run = make(tmp_path, models=(ONE, TWO))
    path = run.dir / f"items/{run.plan.chunks[0].name}.json"
    rows = json.loads(path.read_text())["rows"]
    rewrite(path, rows=[rows[0] | {"status": "partial"}, *rows[1:]])
    (run.dir / f"embed/{run.plan.units[0].id}/00001.json").write_text("{")
    _, found = say("status", tmp_path)
    (status,) = found["runs"]
    assert (status["state"], status["failed_rois"], status["unreadable_receipts"]) == ("incomplete", 1, 1)
    with locks.acquire_run_lock(run.dir):
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


def test_reading_a_lock_does_not_disturb_a_start(tmp_path):
    locks.acquire_run_lock(tmp_path).close()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            locks.read_lock_holder(tmp_path)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(50):
            locks.acquire_run_lock(tmp_path).close()
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 B"), (999, "999 B"), (1234, "1.2 kB"), (999_960, "1.0 MB"), (5e12, "5.0 TB")]
)
def test_sizes_are_short(number, shown):
    assert summaries.format_bytes(number) == shown
