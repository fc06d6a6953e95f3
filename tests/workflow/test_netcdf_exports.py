"""NetCDF through whole runs: beside npz on one store, missing places, status and verify, one file
per ROI with threads."""

from __future__ import annotations

import contextlib
import json
import os

import numpy as np
import pytest

from rs_embed import ExportTarget, OutputSpec, PointBuffer, SensorSpec, load_export
from rs_embed.formats.netcdf.reader import NetcdfReader
from rs_embed.runs.run_files import load_run
from rs_embed.stages.repair import repair
from rs_embed.upkeep.work_folder import find_work_folder

from ..formats.test_netcdf import opened
from ..support.exports import combined, content, export, log_of, places, steps, times
from ..support.rasters import at, catalogue, noise, write
from ..support.work_folders import ONE, TWO, make

#: What differs between the manifests of two formats.
NAMES = {"npz_path", "npz_keys", "nc_path", "nc_variables"}


def arrays_of(npz) -> dict[str, np.ndarray]:
    with np.load(npz, allow_pickle=False) as file:
        return {k: file[k] for k in file.files}


def test_both_formats_hold_the_same_arrays_and_share_one_store(tmp_path, say):
    make(tmp_path, models=(ONE, TWO))
    first, store = content(tmp_path), times(tmp_path / ".rs_embed" / "store")
    run = make(tmp_path, models=(ONE, TWO), format="netcdf")
    assert times(tmp_path / ".rs_embed" / "store") == store, "nothing was fetched or embedded"
    wanted = arrays_of(tmp_path / "run.npz")
    with NetcdfReader(tmp_path / "run.nc") as file:
        found = dict(zip(keys := file.keys(), map(file.read, keys)))
    assert list(found) == list(wanted)
    assert all(found[k].dtype == v.dtype and np.array_equal(found[k], v) for k, v in wanted.items())
    assert list(opened(tmp_path / "run.nc").data_vars) == list(wanted)
    second = content(tmp_path)
    assert (second["run.json"]["nc_path"], second["run.json"]["nc_variables"]) == ("run.nc", list(wanted))
    one, two = ({k: v for k, v in c["run.json"].items() if k not in NAMES} for c in (first, second))
    assert one == two, "the manifests are equal but for the file"
    # the first run's sidecar was replaced, and that is no damage
    code, found = say("verify", tmp_path)
    assert (code, found["whole"]) == (0, True)
    assert f"{tmp_path / 'run.json'} is now that of the other file format" in found["notes"][0]
    code, found = say("status", tmp_path)
    assert [r["state"] for r in found["runs"]] == ["complete", "complete"]
    assert {r["target"] for r in found["runs"]} == {str(tmp_path / "run.npz"), str(tmp_path / "run.nc")}
    assert find_work_folder(tmp_path / "run.nc") == tmp_path / ".rs_embed" == find_work_folder(tmp_path / "run")
    assert say("prune", tmp_path)[0] == 0
    (tmp_path / "run.nc").write_bytes((tmp_path / "run.nc").read_bytes()[:-1] + b"x")
    assert say("verify", tmp_path)[1]["problems"][0]["path"] == str(tmp_path / "run.nc")
    assert run.plan.target.endswith("run.nc")


def test_a_format_without_a_manifest_leaves_that_of_the_other(tmp_path):
    make(tmp_path)
    make(tmp_path, format="netcdf", save_manifest=False)
    assert json.loads((tmp_path / "run.json").read_text())["npz_path"] == "run.npz"
    make(tmp_path, format="netcdf")
    make(tmp_path, format="netcdf", save_manifest=False)
    assert not (tmp_path / "run.json").exists(), "its own is deleted"


@pytest.mark.heavy
def test_formats_take_turns_and_nothing_is_embedded_again(tmp_path):
    def start(name: str) -> dict:
        export(combined(tmp_path / "run"), places(3), format=name, keep_work="all")
        (folder,) = (
            p
            for p in (tmp_path / ".rs_embed" / "runs").iterdir()
            if f"format: {name}" in (p / "config.yaml").read_text()
        )
        assert "rror" not in log_of(folder)
        return steps(folder)

    everything = {"fetch": 1, "embed": 1, "write": 1, "merge": 1}
    assert start("npz") == everything
    store, files = times(tmp_path / ".rs_embed" / "store"), content(tmp_path)
    assert start("netcdf") == everything
    assert start("netcdf") == {}
    assert start("npz") == {"merge": 1}, "its manifest again"
    assert start("npz") == {}
    assert start("netcdf") == {"merge": 1}
    assert start("npz") == {"merge": 1}
    assert times(tmp_path / ".rs_embed" / "store") == store
    assert {k: v for k, v in content(tmp_path).items() if k in files} == files


@pytest.mark.parametrize("output", [OutputSpec.pooled(), OutputSpec.grid()], ids=["pooled", "grid"])
def test_one_file_per_roi(tmp_path, output):
    spots = [*places(2), PointBuffer(12.41, 51.345, 200)]
    target = ExportTarget.per_item(str(tmp_path / "items"), names=["a", "b", "c"])
    manifests = export(target, spots, format="netcdf", output=output)
    folder = tmp_path / "items"
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        [f"{n}.{s}" for n in "abc" for s in ("nc", "json")] + ["manifest.json"]
    )
    assert os.path.samefile(manifests[2]["nc_path"], folder / "c.nc")
    assert json.loads((folder / "manifest.json").read_text())["items"][1]["file"] == "b.nc"
    found = opened(folder / "c.nc", decode_coords="all")
    entry = manifests[2]["models"][0]
    taken = found[entry["input"]["npz_key"]]
    assert (taken.dtype.name, list(taken.shape)) == (entry["input"]["dtype"], entry["input"]["shape"])
    a, _, c, _, e, f = manifests[2]["imagery"][entry["source"]]["affine"]
    assert taken["x_in__mosaiks"].values[[0, -1]].tolist() == [c + a / 2, c + a * (taken.shape[2] - 0.5)]
    assert taken["y_in__mosaiks"].values[0] == f + e / 2
    assert taken["band__mosaiks"].values.tolist() == entry["input"]["bands"]
    assert (str(found["name"].values), float(found["lon"])) == ("c", 12.41)
    assert found["lon_bnds"].values[0] < 12.41 < found["lon_bnds"].values[1]
    if output.mode == "grid":
        cells = found["embedding__mosaiks"]
        assert cells.dims == ("dim__mosaiks", "y__mosaiks", "x__mosaiks")
        step = entry["meta"]["grid"]["affine"][0]
        assert cells["x__mosaiks"].values[0] == entry["meta"]["grid"]["affine"][2] + step / 2
        assert "grid_mapping__mosaiks" in cells.coords


def test_threads_and_runs_write_equal_files(tmp_path):
    for name, options in {"one": {"async_write": False}, "many": {"writer_workers": 6}}.items():
        make(tmp_path / name, slice(0, 9), (ONE, TWO), "items", "per_item", format="netcdf", chunk_size=9, **options)
    one, many = (content(tmp_path / name) for name in ("one", "many"))
    assert len([k for k in one if k.endswith(".nc")]) == 9
    assert one == many


def test_in_a_folder_of_the_other_format_files_are_written_and_the_old_ones_stay(tmp_path):
    make(tmp_path, target="items", layout="per_item")
    old = content(tmp_path)
    make(tmp_path, target="items", layout="per_item", format="netcdf")
    now = content(tmp_path)
    assert {k: v for k, v in now.items() if k.endswith(".npz")} == {k: v for k, v in old.items() if k.endswith(".npz")}
    assert [i["file"] for i in now["items/manifest.json"]["items"]] == [f"p0000{i}.nc" for i in range(4)]
    make(tmp_path, target="items", layout="per_item")
    assert {k: v for k, v in content(tmp_path).items() if k in old} == old


@pytest.mark.parametrize("format_", [pytest.param("npz", marks=pytest.mark.heavy), "netcdf"])
@pytest.mark.parametrize("output", [pytest.param(OutputSpec.pooled(), marks=pytest.mark.heavy), OutputSpec.grid()])
def test_a_place_without_imagery_has_a_row_that_is_nan(tmp_path, format_, output):
    write(tmp_path / "a.tif", noise(0))
    catalogue(tmp_path, {"path": "a.tif"})
    spatials = [at(30, 30), PointBuffer(3, 3, 100), at(60, 60)]
    settings = {"backend": f"local:{tmp_path}", "sensor": SensorSpec("S2", ("B2", "B3")), "output": output}
    manifest = export(combined(tmp_path / "out" / "run"), spatials, continue_on_error=True, format=format_, **settings)
    alone = export(combined(tmp_path / "alone"), spatials[2:], **settings)
    entry = manifest["models"][0]
    for kind in ("inputs", "embeddings"):
        assert entry[kind]["missing_indices"] == [1] and entry[kind]["shape"][0] == 3
    result = load_export(tmp_path / "out" / ("run.npz" if format_ == "npz" else "run.nc"))
    model, other = result.models["mosaiks"], load_export(tmp_path / "alone.npz").models["mosaiks"]
    assert np.isnan(model.embeddings[1]).all() and np.isfinite(model.embeddings[[0, 2]]).all()
    assert np.array_equal(model.embeddings[2], other.embeddings[0]) and np.array_equal(model.inputs[2], other.inputs[0])
    assert np.isnan(model.inputs[1]).all(), "filled with 0 in the file, which is no pixel"
    assert model.rows(1) is None and model.rows([2, 1], dtype=None)[0].tolist() == other.embeddings[0].tolist()
    assert model.statuses() == ["ok", "no_data", "ok"]
    assert alone["models"][0]["embeddings"].keys() == entry["embeddings"].keys() - {"missing_indices"}
    if format_ == "npz":
        return
    found = opened(tmp_path / "out" / "run.nc")
    assert list(found.data_vars) == [entry["inputs"]["npz_key"], entry["embeddings"]["npz_key"]]
    pixels = found["inputs_bchw__mosaiks"]
    assert pixels.dtype == np.uint16 and not pixels[1].values.any() and pixels[2].values.any()
    crs = model.meta[2]["crs"]
    assert found["crs_in__mosaiks"].values.tolist() == [crs, "", crs]
    assert found["affine_in__mosaiks"].values[2].tolist() == model.meta[2]["affine"]
    assert np.isnan(found["affine_in__mosaiks"].values[1]).all()
    assert found["name"].values.tolist() == ["p00000", "p00001", "p00002"]


def test_places_of_different_sizes_have_arrays_of_their_own(tmp_path):
    manifest = export(combined(tmp_path / "run"), [places(1)[0], PointBuffer(12.41, 51.35, 100)], format="netcdf")
    entry = manifest["models"][0]
    assert entry["inputs"]["indices"] == [0, 1] and entry["embeddings"]["shape"] == [2, 512]
    found = opened(tmp_path / "run.nc")
    last = found["input_chw__mosaiks__00001"]
    crs = load_export(tmp_path / "run.nc").models["mosaiks"].meta[1]["crs"]
    assert (last.attrs["roi"], last.attrs["crs"]) == ("p00001", crs)
    assert last["y_in__mosaiks__00001"].size == last.sizes["y_in__mosaiks__00001"]
    with NetcdfReader(tmp_path / "run.nc") as file:
        assert file.shape("embeddings__mosaiks") == (2, 512)


def test_a_damaged_file_is_repaired_to_the_same_bytes(tmp_path):
    run = make(tmp_path, target="items", layout="per_item", format="netcdf")
    before, victim = content(tmp_path), tmp_path / "items" / "p00001.nc"
    victim.write_bytes(victim.read_bytes()[:5000])
    with contextlib.chdir(run.dir):
        assert repair(load_run("."), "00000", 0) == {"repaired": 1}
    assert content(tmp_path) == before
