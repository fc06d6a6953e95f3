"""Sequences that once ended wrong: requests changed back and forth, lost and damaged files, odd
folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import rs_embed
from rs_embed import ExportModelRequest, ExportTarget, FetchSpec, PointBuffer, TemporalSpec, load_export
from rs_embed.request.geometry import get_transformer

from ..support.exports import combined, export, places, run_folder, times

pytestmark = pytest.mark.heavy  # three or four real runs each

SMALL = [ExportModelRequest("mosaiks", model_config={"features": 16})]
TWO = [*SMALL, ExportModelRequest("mosaiks", label="other", model_config={"features": 8, "seed": 1})]


@pytest.fixture
def done(tmp_path) -> Path:
    """A finished export of six places in three chunks, with a store that keeps everything."""
    again(tmp_path)
    return tmp_path


def again(folder: Path, models=SMALL, **options):
    return export(combined(folder / "run"), places(6), models, **{"chunk_size": 2, "keep_work": "all"} | options)


def test_a_lost_store_costs_one_call(done):
    shutil.rmtree(done / ".rs_embed" / "store")
    assert again(done, TWO)["status"] == "ok"
    shutil.rmtree(done / ".rs_embed" / "store")
    before = (done / "run.npz").read_bytes()
    (done / "run.npz").unlink()
    again(done, TWO)
    assert (done / "run.npz").read_bytes() == before


def test_objects_that_are_not_needed_may_be_missing(done):
    shutil.rmtree(done / ".rs_embed" / "store")
    again(done)
    assert not list((done / ".rs_embed" / "store").rglob("*.npy"))


def test_a_failing_merge_leaves_the_finished_export_alone(done):
    before = (done / "run.npz").read_bytes(), (done / "run.json").read_bytes()
    for victim in list((done / ".rs_embed" / "store" / "embeddings").rglob("*.npy"))[:2]:
        victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    with pytest.raises(rs_embed.ExportError, match="run again to create it again") as error:
        again(done, chunk_size=6)
    assert "\n" not in str(error.value)
    assert ((done / "run.npz").read_bytes(), (done / "run.json").read_bytes()) == before
    again(done, chunk_size=6)
    assert (done / "run.npz").read_bytes() == before[0]


def test_a_tolerant_run_survives_a_damaged_chip_and_the_next_one_repairs_it(done):
    victim = next((done / ".rs_embed" / "store" / "chips").rglob("[0-9a-f]*.npy"))
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    manifest = again(done, TWO, continue_on_error=True, save_inputs=False)
    assert manifest["status"] == "partial"
    assert again(done, TWO, continue_on_error=True, save_inputs=False)["status"] == "ok"


def test_bad_input_is_checked_again_when_the_request_changes(tmp_path):
    centre = get_transformer("EPSG:32633", "EPSG:4326").transform(319005, 5692005)
    flat = [*places(1), PointBuffer(*centre, 3)]  # 6 x 6 pixels of 1 m in one pixel of 10 m: constant
    request = {"fetch": FetchSpec(scale_m=1.0), "models": SMALL}
    assert export(combined(tmp_path / "run"), flat, **request)["status"] == "ok"
    with pytest.raises(rs_embed.ExportError, match="ROI 'p00001', model mosaiks: bad input: constant bands"):
        export(combined(tmp_path / "run"), flat, fail_on_bad_input=True, **request)
    tolerant = {"continue_on_error": True, **request}
    assert export(combined(tmp_path / "run"), flat, fail_on_bad_input=True, **tolerant)["status"] == "partial"
    assert export(combined(tmp_path / "run"), flat, **tolerant)["status"] == "ok"


def test_a_linked_work_folder_does_not_move_the_target(tmp_path):
    (tmp_path / "scratch" / "deep" / "er").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "work").symlink_to(tmp_path / "scratch" / "deep" / "er")
    target = tmp_path / "project" / "exports" / "run"
    export(combined(target), places(2), SMALL, work_dir=str(tmp_path / "project" / "work"))
    assert target.with_suffix(".npz").exists()
    assert (tmp_path / "scratch" / "deep" / "er" / "store").is_dir()
    assert not (tmp_path / "scratch" / "deep" / "exports").exists()


def test_damaged_small_files_are_written_again(tmp_path):
    target = ExportTarget.per_item(str(tmp_path / "items"))
    export(target, places(3), SMALL, keep_work="all")
    (tmp_path / "items" / "p00001.npz").unlink()
    export(target, places(3), SMALL, keep_work="all")
    folder = run_folder(tmp_path / "items", "per_item")
    (stamp,) = (folder / "repairs").iterdir()
    stamp.write_text("")
    (bands,) = (tmp_path / ".rs_embed" / "store" / "chips").glob("*/*/bands.json")
    bands.write_text("")
    link = folder / ".package" / "rs_embed"
    link.unlink()
    link.symlink_to("/nowhere/rs_embed")  # as after the environment was moved
    (tmp_path / "items" / "p00002.npz").unlink()
    before = times(tmp_path / ".rs_embed" / "store")
    assert [m["status"] for m in export(target, places(3), SMALL, keep_work="all")] == ["ok"] * 3
    assert times(tmp_path / ".rs_embed" / "store") == before
    for path in folder.glob("*/**/*.json"):
        path.write_text("{")
    assert [m["status"] for m in export(target, places(3), SMALL, keep_work="all")] == ["ok"] * 3
    assert times(tmp_path / ".rs_embed" / "store") == before


def test_recomputed_embeddings_stay_when_the_runs_are_deleted(done):
    again(done, resume=False)
    store = done / ".rs_embed" / "store"
    before = times(store)
    assert len([p for p in before if p.startswith("embeddings")]) == 12
    shutil.rmtree(done / ".rs_embed" / "runs")
    again(done)
    assert times(store) == before, "nothing was made, and what was taken is of the last generation"
    (unit,) = (run_folder(done / "run") / "embed").iterdir()
    assert len(list(store.glob(f"embeddings/{unit.name}/*/*.npy"))) == 6
    for path in (done / ".rs_embed" / "generations").iterdir():
        path.write_text("")
    assert again(done)["status"] == "ok"


def test_the_manifest_has_the_last_request(done):
    first = again(done, temporal=TemporalSpec.year(2022))
    second = again(done, temporal=TemporalSpec.range("2022-01-01", "2023-01-01"), device="cpu")
    assert (first["temporal"]["mode"], second["temporal"]["mode"], second["device"]) == ("year", "range", "cpu")
    assert first["request_fingerprint"] == second["request_fingerprint"]
    assert json.loads((done / "run.json").read_text())["device"] == "cpu"


def test_no_manifest_is_left_that_describes_other_arrays(tmp_path):
    target = ExportTarget.per_item(str(tmp_path / "items"))
    export(combined(tmp_path / "run"), places(3), SMALL)
    export(target, places(3), SMALL)
    export(combined(tmp_path / "run"), places(2), SMALL, save_manifest=False)
    export(target, places(2), SMALL, save_manifest=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".rs_embed", "items", "run.npz"]
    # the third place is not asked for any more: its files are not touched
    assert sorted(p.name for p in (tmp_path / "items").iterdir()) == [
        "p00000.npz",
        "p00001.npz",
        "p00002.json",
        "p00002.npz",
    ]
    bare = load_export(tmp_path / "run.npz")
    assert (bare.status, bare.n_items, bare.embedding("mosaiks").shape) == ("unknown", 2, (2, 16))
    assert bare.notes[0] == "run.json is missing: rows and models are those of the arrays, geometries are unknown"


def test_another_programs_json_is_not_replaced(tmp_path):
    (tmp_path / "data.json").write_text('{"mine": 1}')
    with pytest.raises(rs_embed.ModelError, match=r"data\.json exists and is not a manifest of an export"):
        export(combined(tmp_path / "data"), places(1), SMALL)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data.json"]


def test_names_and_repeated_places_in_one_file(tmp_path):
    spot = places(1)[0]
    target = ExportTarget.combined(str(tmp_path / "run"), names=["a", "b", "c"])
    export(target, [spot, places(2)[1], spot], SMALL)
    result = load_export(tmp_path / "run")  # the path as it was given, without its suffix
    vectors = result.embedding("mosaiks")
    assert result.names == ["a", "b", "c"]
    assert np.array_equal(vectors[0], vectors[2])
    assert not np.array_equal(vectors[0], vectors[1])
    assert len(list((tmp_path / ".rs_embed" / "store" / "embeddings").rglob("*.npy"))) == 2


@pytest.mark.heavy
def test_two_runs_at_once_on_one_store_with_places_in_common(tmp_path):
    """Both finish, with the files that each has alone; what both make twice is harmless."""
    from concurrent.futures import ThreadPoolExecutor

    spots = places(12)
    parts = {"one": spots[:8], "two": spots[4:]}
    store = {"store_dir": str(tmp_path / "store"), "chunk_size": 2, "cores": 1}
    with ThreadPoolExecutor(2) as pool:
        futures = [
            pool.submit(export, combined(tmp_path / name / "run"), spots_, **store) for name, spots_ in parts.items()
        ]
        assert [f.result()["status"] for f in futures] == ["ok", "ok"]
    for name, spots_ in parts.items():
        export(combined(tmp_path / f"{name} alone" / "run"), spots_, chunk_size=2)
        assert (tmp_path / name / "run.npz").read_bytes() == (tmp_path / f"{name} alone" / "run.npz").read_bytes()
    assert len(list((tmp_path / "store" / "embeddings").rglob("*.npy"))) == 12
    assert not list((tmp_path / "store").rglob(".tmp-*"))
