"""``load_export`` reads arrays on access; its errors are one sentence."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_embed import ModelError, load_export
from rs_embed.formats import open_arrays
from rs_embed.formats.arrays import ArrayMetadata, Row
from rs_embed.formats.npz import NpzReader, NpzWriter
from rs_embed.reading import manifest_lines

from ..support.factories import PROPERTY
from ..support.manifest_schema import check_manifest


def named(key: str, deflated: bool) -> ArrayMetadata:
    return ArrayMetadata(key, "input" if deflated else "embedding", "m", "m")


def test_a_file_beside_the_manifest_of_another_format_is_recognised(tmp_path):
    from ..support.work_folders import make

    make(tmp_path, slice(0, 3))
    make(tmp_path, slice(0, 3), format="netcdf")
    same = load_export(tmp_path / "run.npz")
    assert (
        same.names == ["p00000", "p00001", "p00002"] and "run.json describes run.nc; the compared rows" in same.notes[0]
    )
    make(tmp_path, slice(3, 6), format="netcdf")
    other = load_export(tmp_path / "run.npz")
    assert np.array_equal(other.embedding("mosaiks"), same.embedding("mosaiks"))
    assert "contains other arrays" in other.notes[-1] and other.status == "unknown"
    assert load_export(tmp_path / "run.nc").notes == []


@PROPERTY
@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.sampled_from(["uint16", "float32", ">f8", "int8", "bool"]),
    st.sampled_from(["stored", "deflated", "fortran", "numpy"]),
    st.data(),
)
def test_selected_rows_equal_those_of_the_array(tmp_path_factory, shape, dtype, how, data):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    array = np.random.default_rng(1).integers(0, 100, shape).astype(dtype)
    if how in ("stored", "deflated"):
        with NpzWriter(path) as npz:
            npz.add(named("before", True), (3,), np.dtype("u1"), [Row(np.arange(3, dtype="u1"))])
            npz.add(named("a", how == "deflated"), array.shape, array.dtype, [Row(array)])
    else:
        np.savez_compressed(path, before=np.arange(3), a=np.asfortranarray(array) if how == "fortran" else array)
    n = shape[0]
    some = st.lists(st.integers(-n, n - 1), max_size=6) if n else st.just([])
    rows = data.draw(st.none() | st.slices(n) | some)
    with open_arrays(path) as file:
        assert isinstance(file, NpzReader)
        assert (file.keys(), file.shape("a"), file.dtype("a")) == (["before", "a"], tuple(shape), array.dtype)
        found = file.read("a", rows)
        expected = array if rows is None else array[rows if isinstance(rows, slice) else np.asarray(rows, int)]
        assert found.dtype == array.dtype and np.array_equal(found, expected)
        with pytest.raises(IndexError):
            file.read("a", [n])
        with pytest.raises(KeyError, match="'b' is not in"):
            file.read("b")


@PROPERTY
@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=4))
def test_the_digest_of_a_file_is_known_when_it_is_written(tmp_path_factory, members):
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    arrays = {f"a{i}": (np.arange(n, dtype="u2"), deflate) for i, (n, deflate) in enumerate(members)}
    with NpzWriter(path) as npz:
        for key, (array, deflate) in arrays.items():
            npz.add(named(key, deflate), array.shape, array.dtype, [Row(array)])
        assert npz.sha256 is None  # the file does not exist yet
    assert npz.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    with np.load(path) as found:
        assert {k: found[k].tolist() for k in found} == {k: a.tolist() for k, (a, _) in arrays.items()}


def test_members_above_4_gb_are_written_to_a_file_that_cannot_seek(tmp_path, monkeypatch):
    monkeypatch.setattr("rs_embed.formats.npz._ZIP64", 1000)  # sizes have 64 bits from this size on
    array = np.arange(4000, dtype=np.float32)
    for deflate in (False, True):
        with NpzWriter(tmp_path / "a.npz") as npz:
            npz.add(named("a", deflate), array.shape, array.dtype, [Row(array)])
        assert np.array_equal(np.load(tmp_path / "a.npz")["a"], array)
        assert zipfile.ZipFile(tmp_path / "a.npz").testzip() is None


def test_only_the_requested_rows_are_read(tmp_path):
    array = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    for deflate in (False, True):
        path = tmp_path / f"{deflate}.npz"
        with NpzWriter(path) as npz:
            npz.add(named("a", deflate), array.shape, array.dtype, [Row(array)])
        whole = bytearray(path.read_bytes())
        whole[-2000 if deflate else 12_000] ^= 255  # in a late row
        path.write_bytes(whole)
        with open_arrays(path) as file:
            assert np.array_equal(file.read("a", [3, 17]), array[[3, 17]])
            with pytest.raises(ValueError, match=r"the array 'a' is damaged"):
                file.read("a")


def test_python_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "a.npz", a=np.array([Trap()], dtype=object))
    with open_arrays(tmp_path / "a.npz") as file, pytest.raises(ValueError, match="contains Python objects"):
        file.read("a")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("a.npy", b"cos\nsystem\n")
    with open_arrays(tmp_path / "b.npz") as file, pytest.raises(ValueError, match="cannot be read"):
        file.shape("a")
    (tmp_path / "c.npz").write_bytes(b"PK no zip")
    for name, error in (
        ("c.npz", "damaged or not an .npz file"),
        ("d.tif", "unknown suffix '.tif'; allowed: .npz, .nc"),
    ):
        with pytest.raises(ValueError, match=error):
            open_arrays(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.fixture
def run(finished, tmp_path):
    """The manifest and the arrays of a finished export, to change."""
    for name in ("run.json", "run.npz"):
        shutil.copy(finished / name, tmp_path / name)
    return tmp_path / "run.npz"


def test_rows_of_a_manifest_are_parsed_on_access(run):
    text = run.with_suffix(".json").read_bytes()
    manifest = json.loads(text)
    row = json.dumps(manifest["models"][1]["metas"][4], separators=(",", ":")).encode()
    spatial = json.dumps(manifest["spatials"][2], separators=(",", ":")).encode()
    assert (text.count(row), text.count(spatial)) == (1, 1)
    run.with_suffix(".json").write_bytes(text.replace(row, b"}" * len(row)).replace(spatial, b"]" * len(spatial)))
    result = load_export(run)  # the broken entries are not parsed
    assert result.names == manifest["names"]
    assert result.models["rgb"].rows([8]).shape == (1, 32)
    assert result.models["rgb"].meta[5]["crs"] == "EPSG:32633"
    assert len(list(result.models["mosaiks"].meta)) == 9
    for broken in (lambda: result.models["rgb"].meta[4], lambda: result.spatials):
        with pytest.raises(ValueError):
            broken()


def test_rows_in_any_order_and_kind(run):
    model = load_export(run).models["mosaiks"]
    with np.load(run) as file:
        vectors, pixels = file["embeddings__mosaiks"], file["inputs_bchw__mosaiks"]
    assert np.array_equal(model.rows([5, 0, 5, -1]), vectors[[5, 0, 5, -1]])
    assert np.array_equal(model.rows(np.array([2, 1])), vectors[[2, 1]])
    assert np.array_equal(model.rows(slice(7, None, -3)), vectors[7::-3])
    assert np.array_equal(model.rows(np.int64(4)), vectors[4])
    assert model.rows([3], "inputs").dtype == np.float32
    assert np.array_equal(model.rows([3, 2], "inputs", None), pixels[[3, 2]])
    assert model.rows([3], "inputs", None).dtype == np.uint16
    assert model.rows([]) is None
    for wrong, error in (([9], IndexError), (-10, IndexError), ([0.5], TypeError)):
        with pytest.raises(error):
            model.rows(wrong)
    with pytest.raises(ModelError, match="kind: 'pixels' is not valid; allowed: 'embeddings' or 'inputs'"):
        model.rows([0], "pixels")


def test_errors_are_one_sentence(run, tmp_path):
    sidecar, manifest = run.with_suffix(".json"), json.loads(run.with_suffix(".json").read_text())

    def refused(error, match, path=run, **options):
        with pytest.raises(error, match=match) as caught:
            result = load_export(path, **options)
            _ = [m.embeddings for m in result.models.values()]
        assert "\n" not in str(caught.value)

    refused(ValueError, "n_items: 7 is not the number of ROIs .*; allowed: 9 or None", n_items=7)
    refused(FileNotFoundError, "is missing: there is no export", tmp_path / "nothing")
    refused(FileNotFoundError, "contains no per_item export", tmp_path)
    (tmp_path / "x.tif").write_text("")
    refused(ValueError, r"unknown suffix '\.tif'; allowed: \.npz, \.nc, \.json or a folder", tmp_path / "x.tif")
    refused(FileNotFoundError, r"run\.nc is missing \(its manifest .* is there, run\.npz is\)", tmp_path / "run.nc")
    sidecar.write_text(json.dumps(manifest | {"point_index": 3}))
    refused(ValueError, "is the manifest of one ROI; allowed: its folder")
    sidecar.write_text('{"mine": 1}')
    refused(ValueError, "is not the manifest of a combined export")
    for text in ("[1]", '{"a": ', ""):
        sidecar.write_text(text)
        refused(ValueError, "cannot be read as a manifest")
    manifest["n_items"] = 8
    sidecar.write_text(json.dumps(manifest))
    refused(ValueError, "does not fit its manifest: 'embeddings__mosaiks' has 9 rows, and the manifest lists 8")
    manifest["n_items"], manifest["models"][0]["embeddings"]["npz_key"] = 9, "embeddings__other"
    sidecar.write_text(json.dumps(manifest))
    refused(ValueError, "does not fit its manifest: it has no array 'embeddings__other'")


def test_an_export_that_is_replaced_is_not_read_in_part(run):
    result = load_export(run)
    manifest = json.loads(run.with_suffix(".json").read_text())
    run.with_suffix(".json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="has changed since it was opened; call load_export again"):
        _ = result.models["mosaiks"].meta[0]
    assert load_export(run).models["mosaiks"].meta[0]["device"] == "cpu", "reformatted, it reads the same"


def test_manifests_of_schema_1_still_open(run, tmp_path):
    """As this project wrote them until schema 2: whole records in ``metas``, an index without
    geometries."""
    new = {label: list(model.meta) for label, model in load_export(run).models.items()}
    manifest = check_manifest(run.with_suffix(".json"))
    for entry in manifest["models"]:
        metas = [{k: v for k, v in m.items() if k != "model"} for m in new[entry["model"]]]
        entry |= {"metas": metas}
        del entry["meta_default"], entry["duplicates"], entry["key"]
    del manifest["imagery"], manifest["repeated_rois"]
    run.with_suffix(".json").write_text(json.dumps(manifest | {"schema_version": 1}, indent=1))
    old = load_export(run)
    assert [m | {"model": "rgb"} for m in old.models["rgb"].meta] == new["rgb"]
    assert old.items()["valid"].tolist() == [1.0] * 9
    folder = tmp_path / "items"
    folder.mkdir()
    index = {
        "schema_version": 1,
        "layout": "per_item",
        "status": "partial",
        "n_items": 2,
        "temporal": None,
        "items": [],
    }
    for i, status in enumerate(("ok", "failed")):
        entry = {"model": "m-1", "status": status, "input": None, "embedding": None, "meta": None}
        if status == "ok":
            entry |= {"embedding": {"npz_key": "embedding__m_1"}, "meta": {"model": "m-1", "status": "ok"}}
            np.savez(folder / f"p{i}.npz", embedding__m_1=np.ones(3, np.float32))
        else:
            entry |= {"error": "E: no", "stage": "fetch", "retryable": True}
            np.savez(folder / f"p{i}.npz")
        item = {"schema_version": 1, "point_index": i, "spatial": {"lon": i, "lat": 1, "buffer_m": 9}, "temporal": None}
        (folder / f"p{i}.json").write_text(json.dumps(item | {"models": [entry]}))
        index["items"].append({"index": i, "name": f"p{i}", "file": f"p{i}.npz", "status": status})
    index["models"] = [{"model": "m-1", "key": "m_1", "status": "partial"}]
    (folder / "manifest.json").write_text(json.dumps(index))
    result = load_export(folder)
    assert np.array_equal(result.embedding("m-1"), [[1, 1, 1], [np.nan] * 3], equal_nan=True)
    assert result.items()[["status", "stage"]].values.tolist()[1] == ["failed", "fetch"]
    assert [s["lon"] for s in result.spatials] == [0, 1]


def test_bounds_of_rois():
    from rs_embed.reading.tables import geographic_bounds

    point = {"lon": 12.0, "lat": 60.0, "buffer_m": 1000.0}
    box = {"minlon": 1.0, "minlat": 2.0, "maxlon": 3.0, "maxlat": 4.0}
    found = geographic_bounds([point, box, {}], "utm")
    assert found[1].tolist() == [1, 2, 3, 4] and np.isnan(found[2]).all()
    west, south, east, north = found[0]
    assert (north - south) * 111_412 == pytest.approx(2000, rel=0.06)
    assert (east - west) * 55_800 == pytest.approx(2000, rel=0.06), "the corners of a square that is turned a little"
    west, south, east, north = geographic_bounds([point], "web_mercator")[0]
    assert (east - west) * 111_319.49 == pytest.approx(2000, rel=1e-6), "metres of the map, not of the ground"


def test_lists_of_a_manifest_have_no_copy_in_memory(run):
    manifest = manifest_lines.read_manifest(run.with_suffix(".json"))
    for found in (manifest["names"], manifest["spatials"], manifest["models"][0]["metas"], manifest["npz_keys"]):
        assert isinstance(found, manifest_lines.LineList)
    result = load_export(run)
    assert result.manifest == json.loads(run.with_suffix(".json").read_text()), "the whole manifest is a plain dict"
    assert "metas" not in result.models["rgb"].entry and result.models["rgb"].entry["weights"]["pretrained"] is False
    assert repr(result).endswith("combined, ok, 9 ROIs; mosaiks (ok), rgb (ok)>")
