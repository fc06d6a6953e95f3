"""Objects that stay in the store after success: ``keep_work``, ``store_limit_gb``,
``rs-embed prune --max-gb``; and a store that several projects share."""

from __future__ import annotations

import contextlib
import json
import os

import numpy as np
import pytest

from rs_embed import SensorSpec, load_export
from rs_embed.reading import ExportResult
from rs_embed.runs.run_files import FREED
from rs_embed.store import locks
from rs_embed.upkeep.free_space import free_space

from ..support.exports import combined, export, log_of, made, places, run_folder, snakemake, steps, times
from ..support.gee_runs import S2, Archive, settings
from ..support.rasters import at, noise
from ..support.work_folders import do, free, make, objects, rewrite


@pytest.fixture
def free_finished():
    return free


def assert_equal_arrays(one: ExportResult, other: ExportResult) -> None:
    assert np.array_equal(one.embedding("mosaiks"), other.embedding("mosaiks"))
    assert np.array_equal(one.models["mosaiks"].inputs, other.models["mosaiks"].inputs)


# after success -----------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_a_finished_export_frees_according_to_keep_work(tmp_path, say, layout):
    import rs_embed

    path = tmp_path / "run"
    target = rs_embed.ExportTarget(layout, str(path))
    every = places(9)
    spots = every[:4]
    export(target, spots, keep_work="embeddings", chunk_size=2)
    folder = run_folder(path, layout)
    assert not objects(tmp_path, "chips") and len(objects(tmp_path, "embeddings")) == 4
    assert "GB were freed in the store" in log_of(folder)
    first = load_export(path)
    assert_equal_arrays(first, first)  # reads it
    before = times(tmp_path)
    export(target, spots, keep_work="embeddings", chunk_size=2)
    assert times(tmp_path) == before, "nothing is missing"
    code, found = say("verify", tmp_path)
    assert code == 0 and "its chips were freed" in found["notes"][0]
    export(target, [*spots, every[8]], keep_work="embeddings", chunk_size=2)
    assert steps(folder)["fetch"] == {"combined": 3, "per_item": 1}[layout], "the combined file is written again"
    assert not objects(tmp_path, "chips")
    export(target, spots, keep_work="none", chunk_size=2)
    left = len(
        objects(tmp_path)
    )  # of the fifth ROI, which is no longer requested; its own file stays, its row in a combined file does not
    assert left == {"combined": 2, "per_item": 1}[layout]
    assert say("prune", tmp_path, "--yes")[1]["files"] == left + (
        layout == "combined"
    )  # and the declaration of its bands
    assert_equal_arrays(load_export(path), first)
    code, found = say("verify", tmp_path)
    assert code == 0, found["problems"]


@pytest.mark.heavy
def test_the_command_line_frees_too_and_a_dry_run_does_not(tmp_path):
    run = make(tmp_path, keep_work="none", upto="write")
    config = ["--configfile", run.dir / "config.yaml", "--cores", "1"]
    done = snakemake(*config, "-n", cwd=run.dir)
    assert done.returncode == 0, done.stderr
    assert len(objects(tmp_path)) == 8
    done = snakemake(*config, cwd=run.dir)
    assert done.returncode == 0, done.stderr
    assert "were freed in the store" in done.stderr and not objects(tmp_path)


def test_pixels_that_were_not_saved_stay_with_embeddings(tmp_path, free_finished):
    run = make(tmp_path, keep_work="embeddings", save_inputs=False)
    free_finished(run)
    assert len(objects(tmp_path, "chips")) == 4
    free_finished(make(tmp_path, keep_work="none", save_inputs=False))
    assert not objects(tmp_path)


def test_objects_that_another_run_refers_to_stay(tmp_path, free_finished):
    make(tmp_path, slice(0, 3), target="one", upto="fetch")
    run = make(tmp_path, slice(2, 5), target="two", keep_work="none")
    free_finished(run)
    kept = objects(tmp_path)
    assert {kind: sum(kind in k for k in kept) for kind in ("chips", "embeddings")} == {"chips": 3, "embeddings": 1}


def test_nothing_is_freed_while_another_run_uses_the_store(tmp_path, free_finished, capsys):
    run = make(tmp_path, keep_work="none")
    with locks.acquire_shared_store_lock(run.store.root):
        free_finished(run)
    assert "in use by another run, nothing was freed" in capsys.readouterr().err
    assert len(objects(tmp_path)) == 8
    free_finished(run)
    assert not objects(tmp_path)


def test_nothing_is_freed_if_a_run_cannot_be_read(tmp_path, free_finished, capsys):
    run, other = make(tmp_path, keep_work="none"), make(tmp_path, target="other")
    (other.dir / "config.yaml").write_text("models: [")
    free_finished(run)
    assert "nothing was freed in the store: prune: the request of the run" in capsys.readouterr().err
    assert len(objects(tmp_path)) == 8


def test_an_unfinished_run_frees_nothing(tmp_path, free_finished):
    """Also a run whose next start retries something."""
    for upto in ("fetch", "embed", "write"):
        free_finished(make(tmp_path, keep_work="none", upto=upto))
        assert len(objects(tmp_path)) == (4 if upto == "fetch" else 8)
    run = make(tmp_path, keep_work="none", continue_on_error=True)
    receipt = next((run.dir / "embed").glob("*/*.json"))
    rows = json.loads(receipt.read_text())["rows"]
    rewrite(receipt, rows=[rows[0] | {"status": "failed", "error": "", "stage": "embed", "retryable": True}, *rows[1:]])
    free_finished(run)
    assert len(objects(tmp_path)) == 8


def test_the_next_success_frees_what_was_not_freed_before(tmp_path, free_finished):
    first = make(tmp_path, slice(0, 3), target="one", keep_work="none")
    with locks.acquire_shared_store_lock(first.store.root):
        free_finished(first)
    second = make(tmp_path, slice(2, 5), target="two", keep_work="none")
    assert len(objects(tmp_path)) == 10
    free_finished(second)
    assert not objects(tmp_path), "neither run keeps objects of the other"


def test_nothing_is_freed_without_the_lock_of_the_store(tmp_path, capsys):
    free_space(make(tmp_path, keep_work="none"))
    assert len(objects(tmp_path)) == 8 and "nothing was freed" in capsys.readouterr().err


@pytest.mark.heavy
def test_a_start_with_nothing_to_do_frees_too(tmp_path, say):
    export(combined(tmp_path / "run"), places(9)[:3], keep_work="all")
    assert len(objects(tmp_path)) == 6
    export(combined(tmp_path / "run"), places(9)[:3], keep_work="embeddings")
    assert len(objects(tmp_path)) == 3
    export(combined(tmp_path / "run"), places(9)[:4], keep_work="all")
    assert not (run_folder(tmp_path / "run") / FREED).exists(), "verify expects the objects again"
    assert len(objects(tmp_path)) == 8 and say("verify", tmp_path)[0] == 0


# the limit ---------------------------------------------------------------------------------------


def test_above_the_limit_the_oldest_objects_are_removed_pixels_first(tmp_path, free_finished, say, monkeypatch):
    ends = iter(f"2022-01-0{i}T00:00:00Z" for i in range(1, 9))
    monkeypatch.setattr("rs_embed.stages.merge.measure_job", lambda started: {"finished": next(ends)})
    first = make(tmp_path, slice(0, 2), target="first")
    second = make(tmp_path, slice(2, 4), target="second")
    third = make(tmp_path, slice(4, 6), target="third", upto="write")  # not finished
    deleted = make(tmp_path, slice(6, 7), target="deleted")
    import shutil

    shutil.rmtree(deleted.dir)
    _, status = say("status", tmp_path)
    total = status["stores"][0]["bytes"]
    size = {
        k: next(g["bytes"] / g["files"] for g in status["stores"][0]["groups"] if g["kind"] == k)
        for k in ("chips", "embeddings")
    }

    def left() -> dict[str, int]:
        return {
            f"{name} {kind}": sum(any(r in o for r in run.plan.roi_ids) for o in objects(tmp_path, kind))
            for name, run in (("deleted", deleted), ("first", first), ("second", second), ("third", third))
            for kind in ("chips", "embeddings")
        }

    def shrink(bytes_: float) -> dict[str, int]:
        bytes_ += sum(p.stat().st_size for p in (tmp_path / ".rs_embed" / "store" / "kept").rglob("*.jsonl"))
        _, found = say("prune", tmp_path, "--max-gb", str(bytes_ / 1e9))
        _, done = say("prune", tmp_path, "--yes", "--max-gb", str(bytes_ / 1e9))
        assert found["files"] == done["files"]
        return {k: n for k, n in left().items() if n}

    deleted_bytes = size["chips"] + size["embeddings"]
    both = {"second chips": 2, "second embeddings": 2, "third chips": 2, "third embeddings": 2}
    slack = 100  # objects differ by a few bytes
    assert shrink(total) == {"first chips": 2, "first embeddings": 2} | both, "unreferenced objects are always removed"
    assert shrink(total - deleted_bytes - 1) == {"first chips": 1, "first embeddings": 2} | both
    assert shrink(total - deleted_bytes - 2 * size["chips"] - 1) == {"first embeddings": 2} | both | {"second chips": 1}
    rest = {"third chips": 2, "third embeddings": 2}
    assert (
        shrink(slack + total - deleted_bytes - 4 * size["chips"] - 2 * size["embeddings"])
        == {"second embeddings": 2} | rest
    )
    assert shrink(0) == rest, "an unfinished run keeps its objects"
    code, found = say("verify", tmp_path)
    assert code == 0, found["problems"]
    do(third)
    free_finished(make(tmp_path, slice(4, 6), target="third", store_limit_gb=0))
    assert not objects(tmp_path)
    assert (first.dir / FREED).read_text() == '["chips", "embeddings"]'


@pytest.mark.parametrize("given", ["-1", "nan", "many"])
def test_a_limit_is_a_number(tmp_path, given, capsys):
    from rs_embed.cli import main

    with pytest.raises(SystemExit):
        main(["prune", str(tmp_path), "--max-gb", given])
    assert "allowed: a number >= 0" in capsys.readouterr().err


def test_a_new_roi_costs_only_its_chunk_in_per_item_exports(tmp_path, free_finished):
    from rs_embed.stages.prepare import prepare

    run = make(tmp_path, keep_work="none", layout="per_item")
    free_finished(run)
    more = make(tmp_path, slice(0, 5), layout="per_item", keep_work="none", upto="fetch")
    os.unlink(more.dir / "merge.json")
    with contextlib.chdir(more.dir):
        try:
            prepare(more, live=True)
        finally:
            locks._held_locks.pop(more.dir.resolve()).close()
            locks._held_locks.pop(more.store.root.resolve()).close()
    there = {p.name for p in (more.dir / "items").glob("*.json")}
    assert there == {"00000.json", "00001.json"}, "chunks without remaining jobs are not made again"


# one store for many ------------------------------------------------------------------------------


@pytest.mark.heavy
@pytest.mark.parametrize("word", ["gee", "stac"])
def test_a_second_project_requests_no_pixels_again(tmp_path, monkeypatch, word):
    from ..support.stac_scenes import SETTINGS, serve_scenes

    monkeypatch.setenv("RS_EMBED_STORE", str(tmp_path / "store"))
    places = [at(20, 20, 50), at(30, 30, 50)]
    with contextlib.ExitStack() as open_:
        if word == "gee":
            archive = Archive(tmp_path / "files")
            archive.make(noise(0), "2022-07-01")
            service = open_.enter_context(archive.served())
            about = {"backend": "gee", "gee": settings(service), "sensor": SensorSpec(S2, ("B2", "B3"))}
        else:
            (tmp_path / "files").mkdir()
            scenes = open_.enter_context(serve_scenes(tmp_path / "files"))
            scenes.add_scene("a", noise(0, (2, 60, 60)))
            about = {
                "backend": f"stac:{scenes.stac.address}",
                "stac": SETTINGS,
                "sensor": SensorSpec("S2", ("B2", "B3")),
            }
        export(combined(tmp_path / "one" / "run"), places, **about)
        if word == "gee":
            assert service.counts()["pixels"] == 2
            service.reset_counts()
        else:
            scenes.stac.requests.clear()
        export(combined(tmp_path / "two" / "other"), places[::-1], save_inputs=True, **about)
        if word == "gee":
            assert set(service.counts().values()) == {0}
        else:
            assert not [a.path for a in scenes.stac.requests if a.path.endswith(".tif")], (
                "only a search, which determines the identity of the imagery"
            )
    assert made(run_folder(tmp_path / "two" / "other")) == {"fetched": 0, "embedded": 0}
    one, two = load_export(tmp_path / "one" / "run"), load_export(tmp_path / "two" / "other")
    assert np.array_equal(one.embedding("mosaiks"), two.embedding("mosaiks")[::-1])
    assert not (tmp_path / "two" / ".rs_embed" / "store").exists()
