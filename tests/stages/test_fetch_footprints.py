"""Points are fetched once for models with and without ``ModelInfo.square``, boxes once for each
footprint, and each model reads its own."""

from __future__ import annotations

import numpy as np
import pytest

from rs_embed import load_export
from rs_embed.providers import get_provider
from rs_embed.stages.shared.state import examine_receipts, find_invalid_receipts, list_remaining_jobs
from rs_embed.upkeep.work_folder import open_work_folder

from ..support.manifest_schema import check_export
from ..support.square_model import OWN, RGB, SQUARE, boxes, points, register_square_model, run_steps
from ..support.work_folders import free

MIXED = [*points(3), *boxes(3)]
NAMES = [f"p{i:05d}" for i in range(6)]


@pytest.fixture(autouse=True)
def square_model(monkeypatch):
    register_square_model(monkeypatch)


def expected_pixels(run, unit, index):
    """Pixels of a ROI as the scene has them on the grid of a model."""
    source = run.plan.source[run.plan.chip_source(unit, index)]
    roi = run.roi(index)
    grid = run.grid(source, roi)
    assert source.identity["square"] or grid.width != grid.height
    assert not source.identity["square"] or grid.width == grid.height
    return get_provider("sample", ".").fetch(source, unit.sensor.bands, roi, grid).pixels


def test_two_models_fetch_a_point_once(tmp_path):
    run = run_steps(tmp_path, points(3))
    assert run.provider.calls == {(name, True): 1 for name in NAMES[:3]}
    assert len(run.plan.sources) == 1
    loaded = load_export(tmp_path / "run")
    assert np.array_equal(loaded.models["mosaiks"].inputs[:, [2, 1, 0]], loaded.models["squared"].inputs)


@pytest.mark.parametrize("first", [OWN, SQUARE], ids=["own", "square"])
def test_a_model_that_is_added_fetches_no_point_again(tmp_path, first):
    run_steps(tmp_path, points(3), [first])
    other = OWN if first is SQUARE else SQUARE
    run = run_steps(tmp_path, points(3), [first, other])
    assert run.provider.bands == ({} if first is OWN else dict.fromkeys([(n, True) for n in NAMES[:3]], ("B8",)))


@pytest.mark.parametrize("layout", ["combined", "per_item"])
@pytest.mark.parametrize("order", [(OWN, SQUARE), (SQUARE, OWN)], ids=["own first", "square first"])
def test_points_and_boxes_together(tmp_path, layout, order):
    run = run_steps(tmp_path, MIXED, order, layout=layout)
    squares = {(name, True): 1 for name in NAMES}
    assert run.provider.calls == squares | {(name, False): 1 for name in NAMES[3:]}
    assert {frozenset(run.provider.bands[name, True]) for name in NAMES[3:]} == {frozenset(RGB.bands)}
    check_export(run.request.target.__class__(**{**vars(run.request.target), "path": str(tmp_path / "run")}))
    loaded = load_export(tmp_path / "run")
    for unit in run.plan.units:
        alone = run_steps(tmp_path / unit.model, MIXED, [m for m in order if m.name == unit.model], layout=layout)
        single = load_export(tmp_path / unit.model / "run")
        assert np.array_equal(loaded.embedding(unit.model), single.embedding(unit.model))
        assert alone.plan.units[0].id == unit.id
        for index in range(6):
            pixels = np.asarray(loaded.models[unit.model].raw_inputs()[index])
            assert np.array_equal(pixels, expected_pixels(run, unit, index))
        source = run.plan.source
        assert source[unit.source].identity["square"] is (unit.model == "squared")


def test_a_box_that_is_added_fetches_only_itself(tmp_path):
    before = run_steps(tmp_path, points(2))
    after = run_steps(tmp_path, [*points(2), *boxes(1)])
    assert after.provider.calls == {("p00002", True): 1, ("p00002", False): 1}
    assert before.plan.fetch_receipts(before.plan.chunks[0])[0] in after.plan.fetch_receipts(after.plan.chunks[0])


def test_a_finished_run_has_no_jobs_left_and_a_lost_chip_brings_back_its_own(tmp_path):
    run = run_steps(tmp_path, MIXED, keep_work="all")

    def remaining():
        found = examine_receipts(run)
        return list_remaining_jobs(run, found, find_invalid_receipts(run, found))

    assert remaining().count == 0
    whole, square = (run.plan.units[i].source for i in (0, 1))
    name = run.plan.object_names(whole)[4]
    (path,) = (run.store.root / "chips" / whole).glob(f"*/*/{name}.npy")
    path.unlink()
    (run.dir / "merge.json").unlink()  # objects are looked for where something remains
    part = next(p for p in run.plan.parts.values() if p.start <= 4 < p.stop)
    assert set(remaining().fetch) == {f"fetch/{whole}/{part.name}.json"}
    assert (run.store.root / "chips" / square).is_dir()


@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_freed_chips_of_both_kinds_come_back_from_the_export(tmp_path, layout, say):
    run = run_steps(tmp_path, MIXED, layout=layout, keep_work="embeddings")
    stored = list((run.store.root / "chips").glob("*/*/*/*.npy"))
    before = {p.relative_to(run.store.root): p.read_bytes() for p in stored}
    assert len(before) == 9
    free(run)
    assert not list((run.store.root / "chips").glob("*/*/*/*.npy"))
    assert say("verify", tmp_path)[0] == 0
    again = run_steps(tmp_path, MIXED, layout=layout, target="again", keep_work="all")
    assert again.provider.calls == {}
    assert {p: (run.store.root / p).read_bytes() for p in before} == before


def test_a_failure_of_one_footprint_fails_only_the_models_that_read_it(tmp_path):
    failing = [("p00000", True), ("p00003", False), ("p00004", True)]
    run = run_steps(tmp_path, MIXED, failing=failing, continue_on_error=True, max_retries=0)
    loaded = load_export(tmp_path / "run")
    failed = {m: list(np.flatnonzero(np.isnan(loaded.embedding(m)).any(axis=1))) for m in ("mosaiks", "squared")}
    assert failed == {"mosaiks": [0, 3], "squared": [0, 4]}
    assert run.plan.units[0].key == "mosaiks"


def test_a_store_knows_which_run_needs_which_chip(tmp_path, say):
    one = run_steps(tmp_path, MIXED, [OWN], target="one", keep_work="all")
    two = run_steps(tmp_path, MIXED, [SQUARE], target="two", keep_work="all")
    chips = two.store.root / "chips"
    assert two.provider.calls == {(name, True): 1 for name in NAMES[3:]}, "the points are those of the other run"
    assert say("prune", tmp_path)[1]["files"] == 0

    def remove(run):
        (run.dir / "config.yaml").parent.rename(tmp_path / run.dir.name)
        code, found = say("prune", tmp_path, "--yes")
        assert code == 0
        return sorted({g["kind"]: g["files"] for g in found["groups"]}.items())

    remove(one)
    left = {p.stem for p in chips.glob("*/*/*/*.npy")}
    assert left == set(two.plan.roi_ids), "the points stay, which the first run has fetched"
    assert [p.name for p in chips.iterdir()] == [two.plan.units[0].source]
    assert say("verify", tmp_path)[0] == 0
    remove(two)
    assert not list(chips.glob("*/*/*/*.npy"))


def test_status_and_pack_know_both_sources(tmp_path, say):
    run = run_steps(tmp_path, MIXED, keep_work="all", pack=True)
    assert not list((run.store.root / "chips").glob("*/*/??/*.npy"))
    assert say("verify", tmp_path)[0] == 0
    _, found = say("status", tmp_path)
    groups = {(g["id"], *g["bands"]): g["objects"] for s in found["stores"] for g in s["groups"] if g["bands"]}
    whole, square = (u.source for u in run.plan.units)
    assert groups == {
        (square, "B2", "B3", "B4", "B8"): 3,
        (square, "B2", "B3", "B4"): 3,
        (whole, "B2", "B3", "B4", "B8"): 3,
    }
    assert len(open_work_folder(tmp_path / ".rs_embed").run_folders) == 1
