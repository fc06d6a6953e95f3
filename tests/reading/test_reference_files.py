"""``load_export`` reads exports of rs-embed 0.3.1, also those that its own reader cannot read."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from rs_embed import load_export

from ..support.reference_files import Combined, PerItem, pixels, spatial, vector

SUFFIXES = (".npz", pytest.param(".nc", id="nc"))


@pytest.fixture(params=SUFFIXES)
def suffix(request):
    return request.param


def rows(label: str, n: int = 4, missing=()) -> np.ndarray:
    return np.stack([vector(label, i) if i not in missing else np.full(6, np.nan, np.float32) for i in range(n)])


def test_a_whole_combined_export(tmp_path, suffix):
    path = Combined(suffix=suffix).write(tmp_path / "run")
    for given in (path, path.with_suffix(".json"), tmp_path / "run"):
        result = load_export(given)
        assert (result.layout, result.status, result.n_items, result.notes) == ("combined", "ok", 4, [])
        for label in ("stub_a", "stub-B"):
            model = result.models[label]
            assert np.array_equal(result.embedding(label), rows(label))
            assert np.array_equal(model.inputs, np.stack([pixels(i) for i in range(4)]))
            assert np.array_equal(model.rows([2, 0, -1]), rows(label)[[2, 0, 3]])
            assert math.isnan(model.meta[1]["lat"]) and [m["row"] for m in model.meta] == [0, 1, 2, 3]
        assert result.created_at == "2026-05-06T07:08:09Z"
        assert result.temporal == {"mode": "range", "year": None, "start": "2022-06-01", "end": "2022-09-01"}
        assert result.windows == [result.temporal] * 4
        assert result.spatials == [spatial(i) for i in range(4)]
        assert result.names == [f"p{i:05d}" for i in range(4)]
    table = result.items(per_model=True)
    assert table["status"].tolist() == ["ok"] * 8
    assert table["model"].tolist() == ["stub_a", "stub-B"] * 4
    assert (table["west"] < table["lon"]).all() and (table["south"] < 50).all()
    data = result.to_xarray(inputs=True)
    assert data["embedding_stub_B"].dims == ("roi", "dim_stub_B")
    assert data["input_stub_a"].dims == ("roi", "band_stub_a", "py_stub_a", "px_stub_a")
    assert data["band_stub_a"].values.tolist() == ["B4", "B3"]


def test_failed_rows_are_nan_and_have_an_error(tmp_path, suffix):
    path = Combined(failed={"stub_a": (1,), "stub-B": (1, 3)}, suffix=suffix).write(tmp_path / "run")
    result = load_export(path)
    assert result.status == "partial"
    for label, missing in (("stub_a", (1,)), ("stub-B", (1, 3))):
        model = result.models[label]
        assert np.array_equal(model.embeddings, rows(label, missing=missing), equal_nan=True)
        assert np.array_equal(model.rows(slice(1, None)), rows(label, missing=missing)[1:], equal_nan=True)
        assert model.rows(1) is None
        assert np.array_equal(model.rows(2), vector(label, 2))
        assert model.inputs.shape == (4, 2, 8, 8)
        assert {i: f.error for i, f in model.failures.items()} == {i: f"RuntimeError('{label} {i}')" for i in missing}
        assert model.error == f"RuntimeError('{label} 1')"
        assert model.meta[1] is None
    assert result.items()["status"].tolist() == ["ok", "failed", "ok", "partial"]
    assert result.items()["error"].dropna().to_dict() == {1: "RuntimeError('stub_a 1')", 3: "RuntimeError('stub-B 3')"}


def test_pixels_with_fewer_rows_than_rois_are_placed(tmp_path):
    for name, how in (("with", "dense"), ("without", "unplaced")):
        result = load_export(Combined(unfetched=(0, 2), inputs=how).write(tmp_path / name))
        for model in result.models.values():
            found = model.inputs
            assert found.shape == (4, 2, 8, 8)
            assert np.isnan(found[[0, 2]]).all() and np.array_equal(found[3], pixels(3))
            assert np.array_equal(model.rows([3, 1], "inputs"), np.stack([pixels(3), pixels(1)]))
            assert model.raw_inputs().dtype == np.float32


def test_pixels_that_cannot_be_assigned_to_rois_are_refused_when_they_are_read(tmp_path):
    path = Combined(unfetched=(0,), failed={"stub_a": (1,), "stub-B": (1,)}, inputs="unplaced").write(tmp_path / "run")
    result = load_export(path)
    assert result.embedding("stub_a").shape == (4, 6)
    with pytest.raises(ValueError, match="model 'stub_a': nothing says which ROIs the 3 rows of inputs belong to"):
        _ = result.models["stub_a"].inputs


def test_different_sizes_are_lists_and_padded_in_a_dataset(tmp_path, suffix):
    path = Combined(sides=(2, 3, 2, 4), inputs="ragged", unfetched=(2,), suffix=suffix).write(tmp_path / "run")
    result = load_export(path)
    for label in ("stub_a", "stub-B"):
        grids = result.embedding(label)
        assert [g if g is None else g.shape for g in grids] == [(6, 2, 2), (6, 3, 3), None, (6, 4, 4)]
        assert np.array_equal(grids[3], vector(label, 3, (6, 4, 4)))
        assert [p if p is None else p.shape for p in result.models[label].inputs] == [
            (2, 8, 8), (2, 9, 9), None, (2, 11, 11),
        ]  # fmt: skip
    data = result.to_xarray(["stub-B"])
    assert list(data) == ["embedding_stub_B", "embedding_stub_B_size"]
    assert data["embedding_stub_B"].shape == (4, 6, 4, 4)
    assert data["embedding_stub_B_size"].values.tolist() == [[2, 2], [3, 3], [0, 0], [4, 4]]
    assert np.array_equal(data["embedding_stub_B"][1, :, :3, :3], grids[1])
    assert np.isnan(data["embedding_stub_B"][1, :, 3]).all()
    data.to_netcdf(tmp_path / "own.nc")


def test_two_formats_beside_each_other_share_the_manifest_of_the_last_one(tmp_path):
    made = [Combined(suffix=suffix).write(tmp_path / "run") for suffix in (".npz", ".nc")]
    for path in made:
        assert np.array_equal(load_export(path).embedding("stub-B"), rows("stub-B"))
    assert load_export(tmp_path / "run").path == made[1], "the file that the manifest names"
    Combined(n=3).write(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run\.nc does not fit its manifest: 'embeddings__stub_B' has 4 rows"):
        load_export(made[1]).embedding("stub-B")


def test_an_interrupted_run_has_a_note(tmp_path):
    result = load_export(Combined(stage="stub_a").write(tmp_path / "run"))
    assert result.status == "running"
    assert list(result.models) == ["stub_a"]
    assert result.notes == ["the export was not finished (stage 'model:stub_a'): models may be missing"]
    assert np.array_equal(result.embedding("stub_a"), rows("stub_a"))


def test_arrays_without_their_manifest(tmp_path):
    path = Combined(failed={"stub-B": (1,)}, stage="stub-B").write(tmp_path / "run")
    path.with_suffix(".json").unlink()
    result = load_export(path)
    assert (result.status, result.n_items, list(result.models)) == ("unknown", 4, ["stub_a", "stub_B"])
    assert np.array_equal(result.embedding("stub_B"), rows("stub-B", missing=(1,)), equal_nan=True)
    assert result.items()["status"].tolist() == ["unknown"] * 4
    assert result.to_xarray()["lon"].isnull().all()


def test_a_year_is_a_year(tmp_path):
    result = load_export(
        Combined(temporal={"mode": "year", "year": 2022, "start": None, "end": None}).write(tmp_path / "r")
    )
    assert result.temporal["year"] == 2022
    assert result.items()[["start", "end"]].iloc[0].tolist() == ["2022-01-01", "2023-01-01"]


def test_a_folder(tmp_path, suffix):
    folder = PerItem(names=("x", "b", "p7", "a"), suffix=suffix).write(tmp_path / "items")
    result = load_export(folder)
    assert (result.layout, result.status, result.names) == ("per_item", "ok", ["x", "b", "p7", "a"])
    for label in ("stub_a", "stub-B"):
        assert np.array_equal(result.embedding(label), rows(label))
        assert np.array_equal(result.models[label].inputs, np.stack([pixels(i) for i in range(4)]))
        assert [m["row"] for m in result.models[label].meta] == [0, 1, 2, 3]
    assert result.manifest["point_index"] == 0, "the manifest of the first ROI"


def test_rois_without_a_file_are_failed_rows(tmp_path):
    folder = PerItem(n=6, lost=(1, 4, 5), failed=(("stub-B", 2),)).write(tmp_path / "items")
    short, whole = load_export(folder), load_export(folder, n_items=6)
    assert (short.n_items, whole.n_items) == (4, 6)
    assert whole.status == "partial"
    assert whole.models["stub_a"].statuses() == ["ok", "failed", "ok", "ok", "failed", "failed"]
    assert np.array_equal(whole.embedding("stub-B"), rows("stub-B", 6, (1, 2, 4, 5)), equal_nan=True)
    assert whole.models["stub-B"].failures[2].error == "RuntimeError('stub-B 2')"
    assert whole.models["stub-B"].inputs.shape == (6, 2, 8, 8), "fetched pixels are available"
    assert whole.notes == ["no file for 3 ROIs (rows 1, 4, 5): they failed as a whole"]
    assert whole.items()["status"].tolist() == ["ok", "failed", "partial", "ok", "failed", "failed"]


def test_a_model_that_failed_for_one_roi_is_partial(tmp_path):
    result = load_export(PerItem(failed=(("stub-B", 0),)).write(tmp_path / "items"))
    assert {m.name: m.status for m in result.models.values()} == {"stub_a": "ok", "stub-B": "partial"}
    assert result.status == "partial", "the reader of rs-embed returns ok"


def test_pixels_of_different_sizes_in_a_folder(tmp_path):
    result = load_export(PerItem(sides=(8, 9, 8, 10)).write(tmp_path / "items"))
    assert [p.shape for p in result.models["stub-B"].inputs] == [(2, 8, 8), (2, 9, 9), (2, 8, 8), (2, 10, 10)]
    assert result.embedding("stub-B").shape == (4, 6)


def test_what_does_not_belong_to_the_folder_is_left_out(tmp_path):
    folder = PerItem().write(tmp_path / "items")
    (folder / "p00002.json").unlink()
    np.savez(folder / "mine.npz", a=np.zeros(3))
    Combined().write(folder / "run")
    result = load_export(folder)
    assert result.notes == [
        "mine.npz is left out: nothing says which ROI it is of",
        "p00002.json is missing: of ROI 2 only the arrays are known",
        "run.npz is left out: nothing says which ROI it is of",
    ]
    assert np.array_equal(result.embedding("stub-B"), rows("stub-B"))
    assert result.models["stub-B"].statuses() == ["ok", "ok", "unknown", "ok"]
    manifest = json.loads((folder / "p00003.json").read_text())
    (folder / "p00003.json").write_text(json.dumps(manifest | {"point_index": 1}))
    with pytest.raises(ValueError, match=r"p00001\.npz and p00003\.npz are both of ROI 1"):
        load_export(folder)
