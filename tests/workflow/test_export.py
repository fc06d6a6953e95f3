"""The whole way through real Snakemake runs: what is made, what is not made again, and that bits
do not change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import rs_embed
from rs_embed import (
    BBox,
    ExportConfig,
    ExportModelRequest,
    ExportTarget,
    FetchSpec,
    OutputSpec,
    SensorSpec,
    load_export,
)
from rs_embed.request.rois import read_rois

from ..support.exports import (
    CHECKOUT,
    WINDOW,
    combined,
    export,
    jobs,
    log_of,
    made,
    places,
    python,
    run_folder,
    snakemake,
    times,
)
from ..support.rasters import at, catalogue, noise, write

RGB = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B4", "B3", "B2"))
MODELS = [
    ExportModelRequest("mosaiks", model_config={"features": 64}),
    ExportModelRequest("mosaiks", label="rgb", sensor=RGB, model_config={"features": 32}),
]


@pytest.fixture
def work(finished, tmp_path) -> Path:
    """A copy of the finished export, to change."""
    return Path(shutil.copytree(finished, tmp_path / "copy", symlinks=True))


def test_the_combined_file_has_the_documented_arrays_and_manifest(finished):
    manifest = json.loads(
        (finished / "run.json").read_text(), parse_constant=lambda c: pytest.fail(f"not strict JSON: {c}")
    )
    with np.load(finished / "run.npz", allow_pickle=False) as file:
        shapes = {k: (file[k].shape, file[k].dtype.name) for k in file.files}
    assert shapes == {
        "inputs_bchw__mosaiks": ((9, 4, 32, 32), "uint16"),
        "embeddings__mosaiks": ((9, 64), "float32"),
        "inputs_bchw__rgb": ((9, 3, 32, 32), "uint16"),
        "embeddings__rgb": ((9, 32), "float32"),
    }
    assert (manifest["status"], manifest["n_items"], manifest["schema_version"]) == ("ok", 9, 2)
    assert manifest["created_at"].endswith("Z")
    assert len(manifest["sources"]) == 1, "both models share one source"
    first = manifest["models"][0]
    assert first["embeddings"] == {"npz_key": "embeddings__mosaiks", "shape": [9, 64], "dtype": "float32"}
    assert first["inputs"]["bands"] == ["B2", "B3", "B4", "B8"]
    assert first["options"]["features"] == 64
    assert [sorted(m) for m in first["metas"]] == [["embedding_sha256", "input_sha256"]] * 9, (
        "equal values are there once"
    )
    assert first["meta_default"]["quality"] == {"valid": 1.0}
    (images,) = manifest["imagery"].values()
    assert images["default"]["crs"] == "EPSG:32633"
    assert [r["affine"][0] for r in images["rows"]] == [10.0] * 9
    assert "nominal" in images["default"]["provenance"]["note"]
    assert first["weights"]["pretrained"] is False
    made_once = list((finished / ".rs_embed" / "store" / "chips").rglob("*.npy"))
    assert len(made_once) == 9, "two models, one chip a place"


def test_a_second_run_with_nothing_to_do_runs_no_job(work):
    before = times(work, "**/*.np*") | times(work, "**/*.json")
    export(combined(work / "run"), places(9), MODELS, keep_work="all")
    folder = run_folder(work / "run")
    assert jobs(folder) == set()
    assert "Nothing to be done" in log_of(folder)
    after = times(work, "**/*.np*") | times(work, "**/*.json")
    assert {k: v for k, v in after.items() if before.get(k) != v} == {}


def test_torch_is_not_imported_where_nothing_is_lacking(work):
    unit = next((work / ".rs_embed" / "store" / "embeddings").iterdir()).name
    code = f"""
import sys
from rs_embed.cli import main
assert main(["embed", "--unit", {unit!r}, "--chunk", "00000"]) == 0
assert main(["write", "--chunk", "00000"]) == 0
print("torch" in sys.modules)
"""
    done = python(code, cwd=run_folder(work / "run"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "False"
    assert '"embedded": 0' in done.stdout


def test_per_item_after_combined_fetches_and_embeds_nothing(work):
    store = work / ".rs_embed" / "store"
    before = times(store)
    target = ExportTarget.per_item(str(work / "items"), names=list("abcdefghi"))
    items = export(target, places(9), MODELS, keep_work="all")
    assert [m["name"] for m in items] == list("abcdefghi")
    assert [m["point_index"] for m in items] == list(range(9))
    assert {m["status"] for m in items} == {"ok"}
    assert times(store) == before
    assert made(run_folder(work / "items", "per_item")) == {"fetched": 0, "embedded": 0}
    one, many = load_export(work / "run.npz"), load_export(work / "items")
    for model in ("mosaiks", "rgb"):
        assert np.array_equal(one.embedding(model), many.embedding(model))
        assert np.array_equal(one.models[model].inputs, many.models[model].inputs)
        assert one.models[model].inputs.dtype == np.float32
        assert one.models[model].raw_inputs().dtype == np.uint16
        assert list(one.models[model].meta) == list(many.models[model].meta)
        assert one.models[model].meta[2]["provenance"]["scenes"] == ["spyndex/data/S2_10m.json"]
    with np.load(work / "items" / "c.npz") as file:
        assert sorted(file.files) == ["embedding__mosaiks", "embedding__rgb", "input_chw__mosaiks", "input_chw__rgb"]
    sidecar = json.loads((work / "items" / "c.json").read_text())
    assert sidecar["point_index"] == 2
    assert sidecar["models"][1]["embedding"]["npz_key"] == "embedding__rgb"


@pytest.mark.heavy
def test_a_deleted_item_is_made_again_and_nothing_else_is(tmp_path):
    target = ExportTarget.per_item(str(tmp_path / "items"))
    export(target, places(5), keep_work="all")
    before = times(tmp_path, "**/*")
    content = (tmp_path / "items" / "p00003.npz").read_bytes()
    for _ in range(2):  # the same damage twice is repaired twice
        (tmp_path / "items" / "p00003.npz").unlink()
        export(target, places(5), keep_work="all")
        folder = run_folder(tmp_path / "items", "per_item")
        assert jobs(folder) == {"repair"}
        assert (tmp_path / "items" / "p00003.npz").read_bytes() == content
        changed = {k for k, v in times(tmp_path / "items", "*").items() if before[f"items/{k}"] != v}
        assert changed == {"p00003.npz", "p00003.json"}
    export(target, places(5), keep_work="all")
    assert jobs(folder) == set()


def test_a_damaged_combined_file_is_rebuilt_from_the_store(work):
    good = (work / "run.npz").read_bytes()
    store = times(work / ".rs_embed" / "store")
    for damage in (good[:1000], bytes([*good[:500], good[500] ^ 1, *good[501:]]), None):
        (work / "run.npz").unlink() if damage is None else (work / "run.npz").write_bytes(damage)
        export(combined(work / "run"), places(9), MODELS, keep_work="all")
        assert (work / "run.npz").read_bytes() == good
        assert jobs(run_folder(work / "run")) == {"merge"}
    assert times(work / ".rs_embed" / "store") == store


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({"chunk_size": 2}, {"fetched": 0, "embedded": 0}, marks=pytest.mark.heavy),
        pytest.param({"order": slice(None, None, -1)}, {"fetched": 0, "embedded": 0}, marks=pytest.mark.heavy),
        pytest.param({"target": "renamed"}, {"fetched": 0, "embedded": 0}, marks=pytest.mark.heavy),
        pytest.param({"order": slice(0, 5)}, {"fetched": 0, "embedded": 0}, marks=pytest.mark.heavy),
        ({"extra": 2}, {"fetched": 2, "embedded": 4}),
        ({"features": 128}, {"fetched": 0, "embedded": 9}),
        ({"end": "2022-08-01"}, {"fetched": 9, "embedded": 18}),
        pytest.param({"resume": False}, {"fetched": 0, "embedded": 18}, marks=pytest.mark.heavy),
        pytest.param({"resume": False, "refetch": True}, {"fetched": 9, "embedded": 18}, marks=pytest.mark.heavy),
    ],
    ids=["chunk size", "order", "another target", "fewer", "two more", "an option", "the window", "resume", "refetch"],
)
def test_only_what_changed_is_made(work, change, expected):
    old = load_export(work / "run.npz").embedding("rgb")
    before = times(work / ".rs_embed" / "store")
    spatials = places(9)[change.get("order", slice(None))]
    spatials += [rs_embed.PointBuffer(12.41, 51.3450 + i / 1000, 100) for i in range(change.get("extra", 0))]
    models = [ExportModelRequest("mosaiks", model_config={"features": change.get("features", 64)}), MODELS[1]]
    options = {k: change[k] for k in ("chunk_size", "resume", "refetch") if k in change} | {"keep_work": "all"}
    temporal = rs_embed.TemporalSpec.range("2022-06-01", change.get("end", "2022-09-01"))
    target = work / change.get("target", "run")
    manifest = export(combined(target), spatials, models, temporal=temporal, **options)
    assert manifest["status"] == "ok"
    new = times(work / ".rs_embed" / "store")
    kept = [k for k in before if new.get(k) == before[k]]
    counts = {
        k: sum(f.startswith(k) for f in new) - sum(f.startswith(k) for f in kept) for k in ("chips", "embeddings")
    }
    assert {"fetched": counts["chips"], "embedded": counts["embeddings"]} == expected
    assert set(kept) == set(before), "nothing that was there was touched"
    new = load_export(target.with_suffix(".npz")).embedding("rgb")
    assert np.array_equal(new[: len(old)], old[change.get("order", slice(None))][: len(new)])
    export(combined(target), spatials, models, temporal=temporal, **(options | {"resume": True, "refetch": False}))
    assert jobs(run_folder(target)) == set(), "and then there is nothing to do"


@pytest.mark.heavy
def test_bits_do_not_depend_on_cores_or_chunks(tmp_path):
    seen = {}
    for cores, chunk_size in ((1, 7), (4, 7), (1, 1), (4, 64)):
        target = tmp_path / f"{cores}-{chunk_size}" / "run"
        config = ExportConfig(cores=cores, chunk_size=chunk_size, show_progress=False)
        export(combined(target), places(16), ["mosaiks"], config=config)
        seen[cores, chunk_size] = target.with_suffix(".npz").read_bytes()
    assert len(set(seen.values())) == 1


def test_boxes_of_many_sizes_give_grids_of_many_sizes(tmp_path):
    spatials = [BBox(12.40, 51.34, 12.40 + w, 51.34 + h) for w, h in ((0.004, 0.003), (0.002, 0.005), (0.0001, 0.0001))]
    request = {"output": OutputSpec.grid(), "continue_on_error": True}
    manifest = export(combined(tmp_path / "run"), spatials, **request)
    result = load_export(tmp_path / "run.npz")
    grids, pixels = result.embedding("mosaiks"), result.models["mosaiks"].raw_inputs()
    assert [p.shape[0] for p in pixels] == [4, 4, 4]
    for grid, chip in list(zip(grids, pixels))[:2]:
        assert grid.shape == (512, -(-chip.shape[1] // 16), -(-chip.shape[2] // 16))
    assert grids[2] is None
    assert manifest["models"][0]["failed_indices"] == [2]
    assert result.status == "partial"


@pytest.mark.heavy
def test_a_failure_stops_the_run_with_roi_model_and_stage(tmp_path):
    pixels = noise(1, (2, 60, 200))
    pixels[:, :, 150:] = 7
    write(tmp_path / "in" / "a.tif", pixels)
    catalogue(tmp_path / "in", {"path": "a.tif"})
    more = {"backend": f"local:{tmp_path / 'in'}", "sensor": SensorSpec("S2", ("B2", "B3")), "fail_on_bad_input": True}
    spatials = [at(column, 30) for column in (20, 60, 100, 170)]
    with pytest.raises(rs_embed.ExportError) as error:
        export(combined(tmp_path / "run"), spatials, **more)
    text = str(error.value)
    assert text.startswith("embed failed for ROI 'p00003', model mosaiks: bad input: constant bands: B2, B3")
    assert "call again to go on" in text
    assert "\n" not in text
    assert Path(error.value.log).exists()
    assert not (tmp_path / "run.npz").exists()
    manifest = export(combined(tmp_path / "run"), spatials, continue_on_error=True, **more)
    assert manifest["status"] == "partial"
    with pytest.raises(rs_embed.ExportError, match="ROI 'p00003'"):  # a tolerant run does not hide it from a strict one
        export(combined(tmp_path / "run"), spatials, **more)


def test_only_embeddings_or_only_inputs_and_no_manifest(tmp_path):
    export(combined(tmp_path / "a"), places(2), save_inputs=False)
    manifest = export(combined(tmp_path / "b"), places(2), save_embeddings=False, save_manifest=False)
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert (a.files, b.files) == (["embeddings__mosaiks"], ["inputs_bchw__mosaiks"])
    assert manifest["models"][0]["embeddings"] is None
    assert not (tmp_path / "b.json").exists()
    assert "embed" not in jobs(run_folder(tmp_path / "b"))


@pytest.mark.heavy
def test_odd_paths_work(tmp_path):
    folder = tmp_path / "with space & 'quote' {brace} ü"
    export(combined(folder / "{all} {wildcards}"), places(1))
    items = export(ExportTarget.per_item(str(folder / "it ems")), places(2))
    export(combined(folder / "all $HOME; in-one.v1"), places(2))
    assert load_export(folder / "it ems").n_items == len(items) == 2
    assert load_export(folder / "all $HOME; in-one.v1.npz").status == "ok"


def test_two_runs_at_once_on_one_target_are_kept_apart(tmp_path):
    from rs_embed.store.locks import acquire_run_lock

    export(combined(tmp_path / "run"), places(2))
    with acquire_run_lock(run_folder(tmp_path / "run")):
        with pytest.raises(rs_embed.RunLockedError, match=r"another run is working on this target \(.*\"pid\""):
            export(combined(tmp_path / "run"), places(2))
        done = snakemake("--cores", "1", "--configfile", "config.yaml", cwd=run_folder(tmp_path / "run"))
    assert done.returncode != 0
    assert "another run is working on this target" in done.stderr


def test_the_command_line_runs_the_same_request(tmp_path):
    config = f"rois: {CHECKOUT / 'config' / 'rois.csv'}\nmodels: [mosaiks]\nbackend: sample\n"
    window = "temporal: {start: 2022-06-01, end: 2022-09-01}\n"  # unquoted: YAML makes dates of them
    (tmp_path / "my.yaml").write_text(config + window + "target: {layout: per_item, path: out}\n")
    dry = snakemake("--cores", "2", "-n", "--configfile", "my.yaml", cwd=tmp_path)
    assert dry.returncode == 0, dry.stderr
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".rs_embed/store/**/*")) + list(tmp_path.glob(".rs_embed/runs/*/*.yaml"))
    done = snakemake("--cores", "2", "--configfile", "my.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = snakemake("--cores", "1", "--configfile", "my.yaml", "--report", tmp_path / "report.zip", cwd=tmp_path)
    assert report.returncode == 0, report.stderr
    assert (tmp_path / "report.zip").exists()
    result = load_export(tmp_path / "out")
    assert result.names[0] == "plot_a1"
    spatials, names, _ = read_rois(str(CHECKOUT / "config" / "rois.csv"), "")
    export(ExportTarget.per_item(str(tmp_path / "out"), names=names), spatials)
    assert jobs(run_folder(tmp_path / "out", "per_item")) == set(), "Python continues what the command line made"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("models: [mosaix]", "models: 'mosaix' is unknown (did you mean 'mosaiks'?)"),
        ("models: []", "models: [] is empty"),
        ("export: {chunk_sise: 3}", "export: unknown key 'chunk_sise' (did you mean 'chunk_size'?)"),
        ("export: {chunk_size: 0}", "export.chunk_size: 0 is not valid; allowed: an integer >= 1 or null"),
        ("rois: [{lon: 200, lat: 1, buffer_m: 10}]", "200"),
        ("rois: [{name: ../x, lon: 12.4, lat: 51.345, buffer_m: 50}]", "name: '../x' is not valid"),
        ("rois: [{name: far, lon: 3, lat: 51.345, buffer_m: 50}]", "ROI 'far'"),
        ("target: {layout: combined, path: /proc/nowhere/x}", "cannot be written"),
        ("target: {layout: pile, path: x}", "target.layout: 'pile' is not valid"),
    ],
)
def test_a_mistake_in_the_config_is_one_sentence_and_writes_nothing(tmp_path, change, message):
    import yaml

    config = {"rois": [{"lon": 12.41, "lat": 51.345, "buffer_m": 100}], "models": ["mosaiks"], "backend": "sample"}
    config |= {"target": {"layout": "combined", "path": "out/run"}} | yaml.safe_load(change)
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    done = snakemake("--cores", "1", "--configfile", "c.yaml", cwd=tmp_path)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if message in line], done.stderr
    assert "Traceback" not in done.stderr
    left = {p.name for p in tmp_path.iterdir()} - {"c.yaml", ".snakemake"}
    assert left <= {".rs_embed", "out"}, left
    assert not [p for p in tmp_path.rglob("*") if p.suffix in (".npz", ".npy", ".json")]


def test_python_refuses_before_anything_is_written(tmp_path):
    good = {"spatials": places(2), "models": ["mosaiks"], "target": combined(tmp_path / "x" / "run")}
    for change, error in (
        ({"models": []}, rs_embed.ModelError),
        ({"models": "mosaiks"}, rs_embed.ModelError),
        ({"models": ["nope"]}, rs_embed.ModelError),
        ({"spatials": []}, rs_embed.ModelError),
        ({"target": "somewhere"}, rs_embed.ModelError),
        ({"target": ExportTarget.per_item(str(tmp_path / "x"), names=["only-one"])}, rs_embed.ModelError),
        ({"target": combined(Path("/proc/nowhere/run"))}, rs_embed.ModelError),
        ({"backend": "geee"}, rs_embed.ModelError),
        ({"fetch": FetchSpec(scale_m=10), "sensor": RGB}, rs_embed.ModelError),
        ({"models": [ExportModelRequest("mosaiks", model_config={"featurs": 3})]}, rs_embed.ModelError),
        ({"modality": "s1"}, rs_embed.ModelError),
        ({"spatials": [*places(1), rs_embed.PointBuffer(3, 3, 10)]}, rs_embed.SpecError),
        ({"config": ExportConfig(), "chunk_size": 3}, rs_embed.ModelError),
        ({"chunksize": 3}, TypeError),
    ):
        with pytest.raises(error) as refused:
            rs_embed.export_batch(**({"temporal": WINDOW, "backend": "sample"} | good | change))
        assert "\n" not in str(refused.value)
        assert list(tmp_path.iterdir()) == [], change
    with pytest.raises(TypeError):
        rs_embed.export_batch(places(1), None, ["mosaiks"], combined(tmp_path / "x"))
