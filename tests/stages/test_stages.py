"""The jobs by themselves, in this process, with a provider that fails as a test wants."""

from __future__ import annotations

import json
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from rs_embed import ExportTarget, ModelError, ProviderError, StoreError
from rs_embed.machine.cores import CoreShare
from rs_embed.providers import Chip
from rs_embed.request.config import ExportConfig, ExportModelRequest
from rs_embed.request.request import Request
from rs_embed.request.specs import SensorSpec
from rs_embed.runs.open_run import open_run
from rs_embed.runs.run_files import freeze_run, load_run
from rs_embed.stages.embed import embed
from rs_embed.stages.fetch import fetch
from rs_embed.stages.merge import merge
from rs_embed.stages.repair import repair
from rs_embed.stages.shared.jobs import StageError
from rs_embed.stages.shared.state import examine_receipts
from rs_embed.stages.shared.state import find_invalid_receipts as withdrawn_of
from rs_embed.stages.write import write
from rs_embed.store import receipts
from rs_embed.store.groups import Group
from rs_embed.store.objects import read_object

from ..support.exports import WINDOW, places
from ..support.manifest_schema import check_manifest

S2 = "COPERNICUS/S2_SR_HARMONIZED"


class Fake:
    """Deterministic pixels; ``plan`` maps a ROI name to what happens: an error, or a list of
    errors before success."""

    name = "sample"

    def __init__(self, **plan):
        self.plan, self.calls, self.lock = plan, [], threading.Lock()

    def request_slots(self, workers):
        return threading.BoundedSemaphore(workers)

    def look_up(self, source, wanted, slots):
        return None

    def fetch(self, source, bands, roi, grid):
        with self.lock:
            self.calls.append((roi.name, tuple(bands)))
            todo = self.plan.get(roi.name)
            if isinstance(todo, list):
                todo = todo.pop(0) if todo else None
        if isinstance(todo, Exception):
            raise todo
        if todo == "empty":
            return Chip(
                np.zeros((len(bands), grid.height, grid.width), np.uint16), (0.0,) * len(bands), (), {"scenes": []}
            )
        seed = int(roi.id[:8], 16)
        planes = [
            np.random.default_rng([seed, *b.encode()]).integers(1, 5000, (grid.height, grid.width)) for b in bands
        ]
        if todo == "flat":
            planes = [np.full_like(p, 7) for p in planes]
        valid = 0.75 if todo == "partial" else 1.0
        return Chip(np.stack(planes).astype(np.uint16), (valid,) * len(bands), ("2022-07-15",), {"scenes": ["fake"]})


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A function that freezes a run of n places below ``tmp_path``, enters its folder and gives it
    a fake provider."""

    def made(
        n=4, models=("mosaiks",), provider=None, target="run", layout="combined", buffers=None, spatials=None, **options
    ):
        spatials = spatials or places(n, 60)
        for index, buffer_m in (buffers or {}).items():
            spatials[index] = replace(spatials[index], buffer_m=buffer_m)
        chosen = ExportTarget.combined(target) if layout == "combined" else ExportTarget.per_item(target)
        options = {"retry_backoff_s": 0.01, "chunk_size": n} | options
        request = Request.build(
            spatials=spatials,
            temporal=WINDOW,
            models=[ExportModelRequest(m, model_config={"features": 16}) if isinstance(m, str) else m for m in models],
            target=chosen,
            backend="sample",
            config=ExportConfig(**options),
        )
        run = open_run(request, str(tmp_path))
        freeze_run(run)
        monkeypatch.chdir(run.dir)
        return replace(load_run("."), provider=provider or Fake())

    return made


def fetch_all(run):
    return [fetch(run, s.id, p) for s in run.plan.sources for p in run.plan.parts]


def embed_all(run):
    return [embed(run, u.id, c) for u in run.plan.embedded_units for c in run.plan.chunk]


def write_all(run):
    done = [write(run, c) for c in run.plan.chunk], merge(run)
    items = run.plan.layout == "per_item"
    for path in [run.plan.manifest, *(run.plan.item_manifest(i) for i in range(len(run.plan.names)) if items)]:
        check_manifest(run.dir / path)
    return done


def rows(run, step):
    return [r for p in sorted(run.dir.glob(f"{step}/**/*.json")) for r in receipts.read(p)["rows"]]


def test_a_step_makes_only_what_is_lacking(make):
    run = make()
    assert fetch_all(run) == [{"fetched": 4, "restored": 0, "reused": 0, "failed": 0}]
    assert embed_all(run) == [{"embedded": 4, "reused": 0}]
    victim = run.store.embedding_path(run.plan.units[0].id, run.plan.roi_ids[2])
    before = read_object(victim).array
    victim.unlink()
    assert fetch_all(run) == [{"fetched": 0, "restored": 0, "reused": 4, "failed": 0}]
    assert embed_all(run) == [{"embedded": 1, "reused": 3}]
    assert read_object(victim).array.tobytes() == before.tobytes()
    assert len(run.provider.calls) == 4


def test_chips_are_not_fetched_for_embeddings_that_are_there(make):
    run = make(save_inputs=False)
    fetch_all(run), embed_all(run)
    for chip in (run.store.root / "chips").glob("*/*/*/*.npy"):
        chip.unlink()
    again = replace(run, provider=Fake())
    fetch_all(again), embed_all(again)
    assert again.provider.calls == []


def test_a_model_with_more_bands_fetches_only_the_new_ones(make):
    def model(bands, label):
        return ExportModelRequest("mosaiks", sensor=SensorSpec(S2, bands), label=label, model_config={"features": 8})

    first = make(models=[model(("B2", "B4"), "a")])
    fetch_all(first), embed_all(first)
    both = make(models=[model(("B2", "B4"), "a"), model(("B4", "B8", "B3"), "b")])
    assert both.plan.units[0].id == first.plan.units[0].id
    fetch_all(both)
    assert Counter(b for _, b in both.provider.calls) == {("B8", "B3"): 4}
    assert embed_all(both) == [{"embedded": 0, "reused": 4}, {"embedded": 4, "reused": 0}]
    # the assembled chip is what one request for all its bands would have given
    write_all(both)
    with np.load(both.plan.target) as file:
        inputs = file["inputs_bchw__b"]
    roi = both.roi(0)
    from rs_embed.request.geometry import make_grid

    whole = Fake().fetch(None, ("B4", "B8", "B3"), roi, make_grid(roi.spatial, "utm", 10.0))
    assert np.array_equal(inputs[0], whole.pixels)


def test_errors_that_can_pass_are_retried_and_others_are_not(make):
    busy, denied = ProviderError("busy", retryable=True), ProviderError("no such band")
    run = make(provider=Fake(p00001=[busy, busy]), max_retries=2)
    assert fetch_all(run)[0]["failed"] == 0
    assert Counter(n for n, _ in run.provider.calls)["p00001"] == 3
    run = make(provider=Fake(p00002=denied), max_retries=5, target="other", store_dir="elsewhere")
    with pytest.raises(StageError, match=r"^fetch failed for ROI 'p00002', model mosaiks: no such band$"):
        fetch_all(run)
    assert Counter(n for n, _ in run.provider.calls)["p00002"] == 1


def test_what_was_fetched_before_a_failure_is_kept(make):
    run = make(n=6, provider=Fake(p00005=ProviderError("missing")), num_workers=1)
    with pytest.raises(StageError):
        fetch_all(run)
    assert not list(run.dir.glob("fetch/**/*.json"))
    again = replace(run, provider=Fake())
    assert fetch_all(again) == [{"fetched": 1, "restored": 0, "reused": 5, "failed": 0}]


def test_nothing_new_is_fetched_after_a_failure(make):
    run = make(n=60, provider=Fake(p00000=ProviderError("missing")), num_workers=2)
    with pytest.raises(StageError, match="ROI 'p00000'"):
        fetch_all(run)
    assert len(run.provider.calls) < 60


def test_failures_become_rows_and_rows_stay_aligned(make):
    busy = ProviderError("quota", retryable=True)
    run = make(n=5, provider=Fake(p00001=busy, p00003="empty"), continue_on_error=True, max_retries=0, buffers={4: 4.0})
    fetch_all(run), embed_all(run), write_all(run)
    assert [r["status"] for r in rows(run, "fetch")] == ["ok", "failed", "ok", "no_data", "ok"]
    assert [r["status"] for r in rows(run, "embed")] == ["ok", "failed", "ok", "no_data", "failed"]
    assert [(r.get("stage"), r.get("retryable")) for r in rows(run, "embed") if r["status"] == "failed"] == [
        ("fetch", True),
        ("embed", False),
    ]
    manifest = json.loads((run.dir / run.plan.manifest).read_text())
    assert manifest["status"] == "partial"
    assert manifest["items"] == {"ok": 2, "failed": 2, "no_data": 1}
    (model,) = manifest["models"]
    assert model["failed_indices"] == [1, 4]
    assert model["no_data_indices"] == [3]
    assert "quota" in model["errors_by_index"]["1"]
    assert "1 x 1 pixels is too small; allowed: at least 3" in model["errors_by_index"]["4"]
    assert [m is None for m in model["metas"]] == [False, True, False, False, True]
    assert model["failures_by_index"] == {
        "1": {"stage": "fetch", "retryable": True},
        "4": {"stage": "embed", "retryable": False},
    }
    assert model["embeddings"]["missing_indices"] == [1, 3, 4] and model["embeddings"]["shape"] == [5, 16]

    from rs_embed import load_export

    found = load_export(run.plan.target)
    assert [m and m["status"] for m in found.models["mosaiks"].meta] == ["ok", None, "ok", "no_data", None]
    assert found.models["mosaiks"].statuses() == ["ok", "failed", "ok", "no_data", "failed"]
    assert found.items()["stage"].dropna().to_dict() == {1: "fetch", 4: "embed"}
    vectors = found.embedding("mosaiks")
    assert vectors.shape == (5, 16)
    assert [bool(np.isnan(v).all()) for v in vectors] == [False, True, False, True, True]
    assert np.array_equal(
        vectors[2], read_object(run.store.embedding_path(run.plan.units[0].id, run.plan.roi_ids[2])).array
    )


def test_a_failed_embedding_stops_the_job_after_the_others_are_kept(make, monkeypatch):
    from rs_embed.models.mosaiks import Mosaiks

    def preprocess(self, image, options, own=Mosaiks.preprocess):
        if image.pixels.min() == image.pixels.max():
            raise ModelError("a flat image has no information")
        return own(self, image, options)

    monkeypatch.setattr(Mosaiks, "preprocess", preprocess)
    run = make(n=5, provider=Fake(p00002="flat"))
    fetch_all(run)
    message = r"^embed failed for ROI 'p00002', model mosaiks: a flat image has no information$"
    with pytest.raises(StageError, match=message):
        embed_all(run)
    assert not list(run.dir.glob("embed/**/*.json"))
    assert len(list((run.store.root / "embeddings").rglob("*.npy"))) >= 2


def test_an_image_that_a_model_cannot_take_is_refused_before_anything_is_fetched(make):
    with pytest.raises(
        ModelError, match="ROI 'p00002', model mosaiks: an image of 1 x 1 pixels is too small; allowed: "
    ):
        make(n=5, buffers={2: 4.0})


def test_bad_input_is_recorded_or_refused(make):
    run = make(provider=Fake(p00001="flat", p00002="partial"))
    fetch_all(run), embed_all(run)
    unit = run.plan.units[0].id
    quality = [read_object(run.store.embedding_path(unit, r)).meta["quality"] for r in run.plan.roi_ids]
    assert quality[0] == {"valid": 1.0}
    assert quality[1]["warnings"] == ["constant bands: B2, B3, B4, B8"]
    assert quality[2] == {
        "valid": 0.75, "warnings": ["25.0 % of the pixels have no data"], "kinds": ["partly_filled"],
    }  # fmt: skip
    strict = make(provider=Fake(p00001="flat"), fail_on_bad_input=True, store_dir="strict")
    fetch_all(strict)
    with pytest.raises(StageError, match=r"ROI 'p00001', model mosaiks: bad input: constant bands: B2, B3, B4, B8"):
        embed_all(strict)


def test_a_model_that_cannot_be_loaded_fails_its_rows_or_the_job(make, monkeypatch):
    from rs_embed.models.mosaiks import Mosaiks

    def load(*_):
        raise ModelError("weights.pt has no tensor conv1.weight")

    monkeypatch.setattr(Mosaiks, "load", load)
    run = make(continue_on_error=True)
    fetch_all(run), embed_all(run), write_all(run)
    assert {(r["status"], r["stage"]) for r in rows(run, "embed")} == {("failed", "load")}
    assert json.loads((run.dir / run.plan.manifest).read_text())["status"] == "failed"
    run = make(store_dir="other")
    fetch_all(run)
    with pytest.raises(StageError, match=r"loading the model failed for ROI 'p00000', model mosaiks: weights\.pt"):
        embed_all(run)


@pytest.mark.parametrize("kind", ["chips", "embeddings"])
@pytest.mark.parametrize("stage", ["write", "merge"])
def test_damaged_objects_are_all_set_aside_and_made_again_once(make, kind, stage):
    run = make(chunk_size=2)
    fetch_all(run), embed_all(run)
    if stage == "merge":
        for chunk in run.plan.chunk:
            write(run, chunk)
    reference = {p: p.read_bytes() for p in (run.store.root / "embeddings").rglob("*.npy")}
    victims = [getattr(run.store, f"{kind[:-1]}_path")(*place) for place in _places(run, kind)]
    for victim in victims:
        data = bytearray(victim.read_bytes())
        data[200] ^= 4
        victim.write_bytes(data)
    with pytest.raises(StoreError, match=r"was moved to .*\.damaged; run again to create it again \(and 1 more\)"):
        write(run, "00000") if stage == "write" else merge(run)
    assert all(v.with_name(v.name + ".damaged").exists() for v in victims)
    withdrawn = withdrawn_of(run, examine_receipts(run))
    step = "fetch" if kind == "chips" else "embed"
    assert {p.split("/")[0] for p in withdrawn} == {step, "items"}
    assert len(withdrawn) == 2, "one receipt of the step and one of the write job: the other chunk is untouched"
    receipts.withdraw(run.dir / p for p in withdrawn)
    again = fetch_all(run), embed_all(run)
    assert sum(c.get("fetched", 0) for c in again[0]) == (2 if kind == "chips" else 0)
    assert sum(c["embedded"] for c in again[1]) == (0 if kind == "chips" else 2)
    write_all(run)
    assert {p: p.read_bytes() for p in reference} == reference


def test_a_chip_is_read_once_for_all_models_and_threads_change_no_row(make, monkeypatch):
    rgb = ExportModelRequest("mosaiks", label="rgb", sensor=SensorSpec(S2, ("B4", "B3", "B2")))
    run = make(6, ["mosaiks", rgb])
    fetch_all(run), embed_all(run)
    seen, real = [], Group.read
    monkeypatch.setattr(Group, "read", lambda self, name: seen.append((self.folder, name)) or real(self, name))
    found = []
    for threads in (1, 4):
        seen.clear()
        write(run, "00000", CoreShare(threads))
        found.append([{k: v for k, v in row.items() if k != "created"} for row in rows(run, "items")])
        assert len(seen) == len(set(seen)) == 6 * (1 + 2), "a chip, and the embeddings of two models"
    assert found[0] == found[1] and len(found[0]) == 6


def _places(run, kind):
    """Arguments of the store for the first two ROIs' chips or embeddings."""
    (source,), (unit,) = run.plan.sources, run.plan.units
    return [(source.id, source.bands, r) if kind == "chips" else (unit.id, r) for r in run.plan.roi_ids[:2]]


def test_a_full_disk_is_a_failure_that_can_pass(make, monkeypatch):
    from rs_embed.stages import fetch as stage

    def full(*_):
        raise OSError(28, "No space left on device")

    run = make(continue_on_error=True)
    with monkeypatch.context() as patched:
        patched.setattr(stage, "write_object", full)
        fetch_all(run)
    assert {(r["status"], r["retryable"]) for r in rows(run, "fetch")} == {("failed", True)}
    assert {p.split("/")[0] for p in withdrawn_of(run, examine_receipts(run))} == {"fetch"}


def test_a_repeated_roi_is_processed_once(make):
    run = make(n=2)
    twice = make(spatials=[*places(2, 60), *places(2, 60)], store_dir="other")
    assert twice.plan.roi_ids[2:] == run.plan.roi_ids
    assert fetch_all(twice)[0]["fetched"] == 2
    assert embed_all(twice)[0]["embedded"] == 2
    write_all(twice)
    with np.load(twice.plan.target) as file:
        vectors = file["embeddings__mosaiks"]
    assert vectors.shape == (4, 16)
    assert np.array_equal(vectors[:2], vectors[2:])


def test_a_chip_that_cannot_be_saved_is_a_failure_although_the_embedding_is_there(make):
    run = make(n=3, save_inputs=False)
    fetch_all(run), embed_all(run)
    for chip in (run.store.root / "chips").glob("*/*/*/*.npy"):
        chip.unlink()
    run = make(n=3, continue_on_error=True, provider=Fake(p00001=ProviderError("missing")))
    fetch_all(run), embed_all(run), write_all(run)
    manifest = json.loads((run.dir / run.plan.manifest).read_text())
    assert manifest["status"] == "partial"
    assert manifest["models"][0]["failed_indices"] == [1]
    assert manifest["models"][0]["embeddings"]["shape"] == [3, 16]
    assert manifest["models"][0]["inputs"]["missing_indices"] == [1]


def test_a_repair_makes_exactly_the_damaged_files_again(make, tmp_path):
    run = make(layout="per_item", target="items")
    fetch_all(run), embed_all(run), write_all(run)
    folder = tmp_path / "items"
    files = sorted(p for p in folder.iterdir() if p.name != "manifest.json")
    assert [p.name for p in files[:2]] == ["p00000.json", "p00000.npz"]
    before = {p: (p.read_bytes(), p.stat().st_ino) for p in files}
    repairs = lambda run: list(examine_receipts(run).repairs.values())  # noqa: E731

    assert repairs(run) == []
    files[1].unlink()  # deleted
    files[2].write_bytes(files[2].read_bytes()[:50])  # truncated
    flipped = bytearray(files[5].read_bytes())
    flipped[100] ^= 1
    files[5].write_bytes(flipped)  # same size, other content
    for number in (0, 1):
        assert repairs(run) == [f"repairs/00000-{number}.json"]
        assert repair(run, "00000", number)["repaired"] == (3 if number == 0 else 1)
        assert repairs(run) == []
        assert {p: p.read_bytes() for p in files} == {p: b for p, (b, _) in before.items()}
        untouched = [p for p in files if p.stem == "p00003"]
        assert all(p.stat().st_ino == before[p][1] for p in untouched)
        files[1].unlink()  # the same damage a second time


def test_memory_of_the_merge_does_not_grow_with_the_rois(make):
    import tracemalloc

    peaks = {}
    for n in (40, 320):
        run = make(n=n, target=f"run{n}", chunk_size=20)
        fetch_all(run), embed_all(run)
        for c in run.plan.chunk:
            write(run, c)
        found = []
        for _ in range(3):  # the interpreter enlarges a table of its own now and then: that is once, not every time
            tracemalloc.start()
            merge(run)
            found.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        peaks[n] = min(found)
    # ids and names of the plan stay; arrays and manifest rows do not: 320 chips and vectors are
    # 1.6 MB
    assert peaks[320] < peaks[40] + 200_000, peaks


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(StoreError, match="is not the folder of a run"):
        load_run(tmp_path)


def test_steps_refuse_names_that_are_not_in_the_plan(make):
    run = make()
    with pytest.raises(StageError, match="chunk '99999' is not in the plan"):
        write(run, "99999")
