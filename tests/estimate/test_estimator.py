"""Estimates of ``plan`` compared with runs: jobs and files exactly, bytes within the documented
bounds."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

import rs_embed
from rs_embed import ExportModelRequest, ExportTarget, ModelError, SensorSpec, plan_batch
from rs_embed.cli import main
from rs_embed.estimate import disk, speeds
from rs_embed.estimate.summary import format_summary

from ..support.exports import WINDOW, combined, content, export, made, places, run_folder, snakemake, steps
from ..support.factories import assert_refusal

RGB = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B4", "B3", "B2"))
SMALL = ExportModelRequest("mosaiks", model_config={"features": 16})
OTHER = ExportModelRequest("mosaiks", label="rgb", sensor=RGB, model_config={"features": 8})
COARSE = ExportModelRequest(
    "mosaiks", label="coarse", fetch=rs_embed.FetchSpec(scale_m=20), model_config={"features": 8}
)


def plan(target, spatials, models, **options):
    return plan_batch(spatials=spatials, models=models, target=target, temporal=WINDOW, backend="sample", **options)


def count_entries(folder: Path, *, below: str = "**/*", apart: str = " ") -> int:
    """Number of files and links below a folder."""
    found = (p for p in folder.glob(below) if p.is_symlink() or not p.is_dir())
    return sum(apart not in p.relative_to(folder).parts for p in found)


CASES = {
    "combined": ({"keep_work": "all"}, "combined"),
    "combined, bare": ({"save_inputs": False, "save_manifest": False}, "combined"),
    "per_item": ({"format": "netcdf", "keep_work": "all"}, "per_item"),
    "per_item, bare": ({"save_manifest": False, "save_inputs": "model", "keep_work": "all"}, "per_item"),
    "pixels": ({"save_embeddings": False, "keep_work": "all"}, "combined"),
    "pixels freed": ({}, "combined"),
    "all freed": ({"keep_work": "none"}, "per_item"),
    "packed": ({"keep_work": "all", "pack": True}, "combined"),
    "packed and freed": ({"pack": True}, "combined"),
}


@pytest.mark.heavy
@pytest.mark.parametrize("case", CASES)
def test_jobs_and_files_are_those_of_the_run_and_bytes_stay_below(tmp_path, case):
    options, layout = CASES[case]
    options = {"chunk_size": 3} | options
    target = getattr(ExportTarget, layout)(str(tmp_path / "out" / "run"))
    spots = [*places(7), places(7)[6]]  # a repeated ROI, in one chunk: two jobs could both make its objects
    models = [SMALL, OTHER, COARSE]
    planned = plan(target, spots, models, **options)
    assert not any(tmp_path.iterdir()), "a plan writes nothing"
    assert sum(planned.jobs.values()) == sum(planned.jobs_in_all.values())
    export(target, spots, models, **options)
    folder = run_folder(tmp_path / "out" / "run", layout)
    assert steps(folder) == {rule: n for rule, n in planned.jobs.items() if n}
    assert made(folder) == {
        "fetched": sum(s.chips for s in planned.sources),
        "embedded": sum(m.images for m in planned.models),
    }
    work, out = tmp_path / "out" / ".rs_embed", tmp_path / "out"
    export_folder = out / "run" if layout == "per_item" else out
    assert count_entries(export_folder, apart=".rs_embed") == planned.files["export"]
    assert count_entries(work / "store") == planned.files["store"]
    assert count_entries(folder, apart=".snakemake") == planned.files["run"] + 1, "one more is the log of export_batch"
    assert count_entries(folder / ".snakemake" / "metadata") == planned.files["snakemake"]
    sizes = {k: [p.stat().st_size for p in (work / "store" / k).glob("**/*.npy")] for k in ("chips", "embeddings")}
    for kind, name in (("chips", "pixels"), ("embeddings", "embeddings")):
        bound, count = planned.bytes[name], len(sizes[kind])
        if not count and bound:  # freed, or in packs
            assert options.get("keep_work") != "all" or "pack" in options
            continue
        assert bound - count * disk.OBJECT_OVERHEAD <= sum(sizes[kind]) <= bound, (name, "values, and metadata")
    final = [p for p in export_folder.iterdir() if p.is_file()]
    assert sum(p.stat().st_size for p in final if p.suffix != ".json") <= planned.bytes["final"]
    if planned.files["export"] > 1 and options.get("save_manifest", True):
        # a manifest states shared values once, also for few ROIs
        assert sum(p.stat().st_size for p in final if p.suffix == ".json") <= planned.bytes["manifests"] + 30_000
    assert sum(p.stat().st_size for p in folder.glob("items/*.jsonl")) <= planned.bytes["records"]
    again = plan(target, spots, models, **options)
    assert sum(again.jobs.values()) == again.bytes["peak"] == 0
    assert again.files == planned.files
    assert format_summary(again) == "rs-embed: nothing is left to do"


@pytest.mark.heavy
def test_stored_objects_are_not_counted_again(tmp_path):
    spots, target = places(7), combined(tmp_path / "run")
    export(target, spots[:4], [SMALL], chunk_size=3, keep_work="all")
    folder, store = run_folder(tmp_path / "run"), tmp_path / ".rs_embed" / "store"

    def check(planned, models, rois=spots, **more) -> dict:
        before = {k: len(list((store / k).glob("**/*.npy"))) for k in ("chips", "embeddings")}
        export(target, rois, models, chunk_size=3, keep_work="all")
        assert steps(folder) == {rule: n for rule, n in planned.jobs.items() if n}
        after = {k: len(list((store / k).glob("**/*.npy"))) for k in ("chips", "embeddings")}
        grown = {k: after[k] - before[k] for k in after}
        assert grown == {
            "chips": sum(s.chips for s in planned.sources),
            "embeddings": sum(m.images for m in planned.models),
        }
        return grown

    more = plan(target, spots, [SMALL], chunk_size=3)
    assert (more.models[0].there, more.sources[0].there) == (1, 1), "one ROI of the second chunk was done"
    assert check(more, [SMALL]) == {"chips": 3, "embeddings": 3}
    one = plan(target, spots, [SMALL, OTHER], chunk_size=3)
    assert [(m.images, m.there) for m in one.models] == [(0, 0), (7, 0)]
    assert check(one, [SMALL, OTHER]) == {"chips": 0, "embeddings": 7}
    next((folder / "embed").glob("*/00001.json")).unlink()
    (folder / "merge.json").unlink()
    next((store / "chips").glob("*/*/*/*.npy")).unlink()
    lost = plan(target, spots, [SMALL, OTHER], chunk_size=3)
    assert (lost.jobs["fetch"], lost.jobs["merge"]) == (1, 1)
    check(lost, [SMALL, OTHER])


@pytest.mark.heavy
def test_chips_in_an_export_are_not_fetched(tmp_path):
    spots, target = places(5), combined(tmp_path / "run")
    export(target, spots, [SMALL], chunk_size=3)
    planned = plan(target, [*spots, *places(7)[5:]], [SMALL, OTHER], chunk_size=3)
    assert (planned.sources[0].chips, planned.sources[0].restored, planned.sources[0].there) == (2, 5, 0)
    assert "5 are read back from an export" in str(planned)
    export(target, [*spots, *places(7)[5:]], [SMALL, OTHER], chunk_size=3)
    folder = run_folder(tmp_path / "run")
    receipts = [json.loads(p.read_text()) for p in folder.glob("fetch/*/*.json")]
    assert [sum(r[k] for r in receipts) for k in ("fetched", "restored")] == [2, 5]


@pytest.mark.heavy
def test_damaged_files_are_repaired_and_counted(tmp_path):
    target, spots = ExportTarget.per_item(str(tmp_path / "run")), places(4)
    export(target, spots, [SMALL], chunk_size=2, keep_work="all")
    (tmp_path / "run" / "p00003.npz").unlink()
    planned = plan(target, spots, [SMALL], chunk_size=2, keep_work="all")
    assert planned.jobs == {"fetch": 0, "embed": 0, "write": 0, "merge": 0, "repair": 1}
    export(target, spots, [SMALL], chunk_size=2, keep_work="all")
    assert steps(run_folder(tmp_path / "run", "per_item")) == {"repair": 1}


def test_the_command_line_and_a_dry_run_report_the_same(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"name": f"a{i}", "lon": p.lon, "lat": p.lat, "buffer_m": p.buffer_m} for i, p in enumerate(places(5))]
    config = {"rois": rows, "models": ["mosaiks"], "backend": "sample", "target": {"layout": "combined", "path": "run"}}
    config["temporal"] = {"start": "2022-06-01", "end": "2022-09-01"}
    Path("my.yaml").write_text(
        yaml.safe_dump(config).replace("'2022", "2022").replace("01'", "01")
    )  # dates without quotes
    assert main(["plan", "--configfile", "my.yaml", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned["jobs"] == {"fetch": 1, "embed": 1, "write": 1, "merge": 1, "repair": 0}
    spots = places(5)
    names = [r["name"] for r in rows]
    target = ExportTarget.combined("run", names=names)
    assert json.loads(json.dumps(plan(target, spots, ["mosaiks"]).to_dict())) == planned
    assert main(["plan", "--configfile", "my.yaml", "--gpus", "2", "--gpu", "h100"]) == 0
    out = capsys.readouterr().out
    assert "1 fetch, 1 embed, 1 write, 1 merge = 4 of 4" in out and "H100" in out and "estimated" in out
    done = snakemake("-n", "--cores", "1", "--configfile", "my.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("rs-embed: jobs       1 fetch, 1 embed, 1 write, 1 merge = 4 of 4") == 1
    graph = snakemake("--dag", "--cores", "1", "--configfile", "my.yaml", cwd=tmp_path)
    assert graph.returncode == 0 and "rs-embed: jobs" not in graph.stderr, graph.stderr
    assert {p.name for p in tmp_path.iterdir()} <= {"my.yaml", ".rs_embed", ".snakemake"}
    assert not list((tmp_path / ".rs_embed").glob("**/*.json")), "Snakemake creates only a working directory"
    assert main(["plan", "--configfile", "none.yaml"]) == 1
    assert capsys.readouterr().err.startswith("error: --configfile: 'none.yaml' cannot be read")


def test_the_arguments_are_those_of_export_batch(tmp_path):
    with pytest.raises(TypeError, match="missing a required argument: 'temporal'"):
        plan_batch(spatials=places(1), models=["mosaiks"], target=combined(tmp_path / "run"))
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'chunksize' \(did you mean 'chunk_size'"):
        plan(combined(tmp_path / "run"), places(1), [SMALL], chunksize=3)
    for keyword, value in (("gpus", 0), ("gpus", True), ("gpu", "H1000")):
        with pytest.raises(ModelError) as found:
            plan(combined(tmp_path / "run"), places(1), [SMALL], **{keyword: value})
        assert_refusal(found.value, keyword)
    with pytest.raises(ModelError, match="gpus: given for device 'cpu'; allowed"):
        plan(combined(tmp_path / "run"), places(1), [SMALL], gpus=2, device="cpu")
    with pytest.raises(ModelError, match="spatials, rois: neither is given"):
        plan_batch(temporal=WINDOW, models=["mosaiks"], target=combined(tmp_path / "run"), backend="sample")
    assert set(inspect.signature(plan_batch).parameters) == {"gpus", "gpu", "arguments"}
    assert "plan_batch" in rs_embed.__all__


def test_measurements_of_earlier_jobs_replace_data_sheets(tmp_path, monkeypatch):
    target = combined(tmp_path / "run")
    first = plan(target, places(4), [SMALL])
    assert not first.models[0].measured and "estimated" in str(first)
    export(target, places(4), [SMALL])
    more = plan(combined(tmp_path / "other"), places(9), [SMALL])
    (model,) = more.models
    assert model.measured and model.how == "measured in this folder, 4 images" and model.images == 9 - model.there
    receipt = json.loads(next(run_folder(tmp_path / "run").glob("embed/*/*.json")).read_text())
    each, start = receipt["embed_cpu_seconds"] / 4, receipt["seconds"] - receipt["embed_seconds"]
    assert model.seconds == pytest.approx(model.images * each + model.jobs * start)
    other = plan(combined(tmp_path / "other"), places(9), [SMALL], gpu="A100", gpus=3)
    assert not other.models[0].measured, "it was measured on a CPU"
    assert other.must_say_cuda and "`device: cuda`" in str(other) and "`device: cuda`" not in str(more)
    asks = plan(combined(tmp_path / "other"), places(9), [SMALL], gpu="A100", gpus=3, device="cuda")
    assert not asks.must_say_cuda and "`device: cuda`" not in str(asks)
    assert other.wall_hours == other.device_hours == other.gpu_hours, "one job has one GPU"
    split = plan(combined(tmp_path / "other"), places(9), [SMALL], gpu="A100", gpus=3, chunk_size=2)
    assert (split.jobs["embed"], split.device_hours / split.wall_hours) == (5, pytest.approx(2.5)), (
        "one GPU has one job"
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert (plan(target, places(5), [SMALL]).device, plan(target, places(5), [SMALL]).parallel) == ("cuda", 2)


@pytest.mark.heavy
def test_requests_of_earth_engine_are_counted(tmp_path):
    from ..support.gee_runs import Archive, settings
    from ..support.rasters import at, noise

    archive = Archive(tmp_path / "archive")
    archive.folder.mkdir()
    for day in ("2022-07-01", "2022-07-20"):
        archive.make(noise(1), day)
    spots = [at(20 + 5 * i, 30, 120) for i in range(5)]
    sensor = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B2", "B3"))
    models = [ExportModelRequest("mosaiks", sensor=sensor, model_config={"features": 8})]
    with archive.served() as service:
        given = {"backend": "gee", "gee": settings(service), "chunk_size": 2, "keep_work": "all"}
        planned = plan_batch(spatials=spots, models=models, target=combined(tmp_path / "run"), temporal=WINDOW, **given)
        (source,) = planned.sources
        service.reset_counts()
        export(combined(tmp_path / "run"), spots, models, **given)
        assert (source.requests, source.lookups, source.jobs) == (5, 3, 3)
        assert (service.counts()["pixels"], service.counts()["value"]) == (source.requests, source.lookups + 1), (
            "one at the start"
        )
    assert planned.fetch_hours == pytest.approx(8 / 100 / 3600)
    chips = (tmp_path / ".rs_embed" / "store" / "chips").glob("**/*.npy")
    assert sum(np.load(p).nbytes for p in chips) == source.bytes - 5 * disk.OBJECT_OVERHEAD, (
        "medians of two images are floats"
    )


@pytest.mark.parametrize(
    "name", ["NVIDIA A100-SXM4-80GB", "Tesla V100-PCIE-16GB", "NVIDIA GeForce RTX 4090", "NVIDIA L40S"]
)
def test_cards_are_found_in_names_of_drivers(name):
    assert speeds.find_card(name) in name
    assert speeds.card_speed(speeds.find_card(name), "bf16").gflops > 0
    assert speeds.find_card("NVIDIA GeForce GTX 980") is None


def test_planning_changes_no_file(tmp_path):
    export(combined(tmp_path / "run"), places(3), [SMALL])
    before = content(tmp_path)
    times = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    plan(combined(tmp_path / "run"), places(3), [SMALL, OTHER])
    assert content(tmp_path) == before
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == times
    assert os.getcwd() != str(tmp_path)
