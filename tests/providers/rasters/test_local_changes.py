"""Local rasters that change, and requests that grow: earlier results must never decide what is
read."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import rasterio

from rs_embed import ExportConfig, ExportModelRequest, SensorSpec, StoreError, TemporalSpec, load_export
from rs_embed.runs.run_files import freeze_run, load_run

from ...support.exports import combined, export
from ...support.rasters import ORIGIN, at, catalogue, chip, noise, run, write

S2 = SensorSpec("S2", ("B2", "B3"))


def level(folder, name: str, value: int, **keywords):
    return write(folder / name, np.full((2, 60, 60), value, "uint16"), **keywords)


def pixels(folder, target, spatials=None, **options):
    """Saved pixels of an export with the catalogue of a folder."""
    given = {"backend": f"local:{folder}", "sensor": S2} | options
    export(combined(target / "run"), spatials or [at(30, 30)], **given)
    return load_export(target / "run.npz").models["mosaiks"].inputs


@pytest.mark.heavy
def test_a_row_that_was_removed_from_catalogue_or_window_is_no_longer_read(tmp_path):
    rasters, out = tmp_path / "rasters", tmp_path / "out"
    rows = []
    for i, value in enumerate((100, 300, 900)):
        level(rasters, f"{i}.tif", value)
        rows.append({"path": f"{i}.tif", "datetime": f"2022-07-0{i + 1}"})
    catalogue(rasters, *rows)
    assert (pixels(rasters, out) == 300).all()
    catalogue(rasters, rows[0], rows[1], rows[2] | {"datetime": "2021-07-01"})
    assert (pixels(rasters, out) == 200).all()
    catalogue(rasters, rows[0])
    (rasters / "1.tif").unlink()
    assert (pixels(rasters, out) == 100).all()


def test_sources_of_a_vrt_and_sidecars_change_the_name(tmp_path):
    level(tmp_path, "u.tif", 100)
    sources = '<SimpleSource><SourceFilename relativeToVRT="1">u.tif</SourceFilename><SourceBand>{}</SourceBand></SimpleSource>'
    bands = "".join(f'<VRTRasterBand dataType="UInt16" band="{b}">{sources.format(b)}</VRTRasterBand>' for b in (1, 2))
    transform = f"{ORIGIN[0]}, 10, 0, {ORIGIN[1]}, 0, -10"
    head = (
        f'<VRTDataset rasterXSize="60" rasterYSize="60"><SRS>EPSG:32632</SRS><GeoTransform>{transform}</GeoTransform>'
    )
    (tmp_path / "v.vrt").write_text(f"{head}{bands}</VRTDataset>")
    catalogue(tmp_path, {"path": "v.vrt"})

    def key():
        made = run(tmp_path, [at(30, 30)])
        return made.plan.object_names(made.plan.sources[0].id)

    first = key()
    assert (chip(tmp_path, at(30, 30))[0].pixels == 100).all()
    made = run(tmp_path, [at(30, 30)])
    freeze_run(made)
    level(tmp_path, "u.tif", 900)
    assert key() != first
    second = key()
    (tmp_path / "u.tif.aux.xml").write_text("<PAMDataset></PAMDataset>")
    (tmp_path / "v.vrt.aux.xml").write_text("<PAMDataset></PAMDataset>")
    assert key() != second


@pytest.mark.heavy
def test_folders_of_equal_names_sizes_and_times_are_told_apart(tmp_path):
    for name, value in (("v1", 100), ("v2", 700)):
        os.utime(level(tmp_path / name, "x.tif", value), ns=(10**18, 10**18))
        catalogue(tmp_path / name, {"path": "x.tif"})
    assert os.stat(tmp_path / "v1" / "x.tif").st_size == os.stat(tmp_path / "v2" / "x.tif").st_size
    assert (pixels(tmp_path / "v1", tmp_path / "out") == 100).all()
    assert (pixels(tmp_path / "v2", tmp_path / "out") == 700).all()


@pytest.mark.parametrize("damage", ["{", "{}", "[]", "null", "box"])
def test_a_damaged_frozen_file_is_looked_up_again(tmp_path, damage):
    level(tmp_path, "x.tif", 100)
    catalogue(tmp_path, {"path": "x.tif"})
    made = run(tmp_path, [at(30, 30)])
    freeze_run(made)
    frozen = made.dir / "imagery.json"
    fields = json.loads(frozen.read_text())
    fields["provider"]["files"][0]["header"]["box"] = [0, 0, 1, 1]
    frozen.write_text(json.dumps(fields) if damage == "box" else damage)
    with pytest.raises(StoreError, match=r"imagery\.json is damaged; start the run again"):
        load_run(made.dir)
    again = run(tmp_path, [at(30, 30)])
    assert again.plan.names_by_source == made.plan.names_by_source
    freeze_run(again)
    assert load_run(made.dir).plan.names_by_source == made.plan.names_by_source
    frozen.unlink()
    with pytest.raises(StoreError, match=r"imagery\.json is missing"):
        load_run(made.dir)


def test_a_window_without_any_image_is_no_data_where_errors_are_tolerated(tmp_path):
    level(tmp_path / "r", "x.tif", 100)
    catalogue(tmp_path / "r", {"path": "x.tif"})
    window = TemporalSpec.range("2001-01-01", "2001-02-01")
    options = {"backend": f"local:{tmp_path / 'r'}", "sensor": S2, "temporal": window, "continue_on_error": True}
    manifest = export(combined(tmp_path / "run"), [at(30, 30)], **options)
    assert (manifest["status"], manifest["models"][0].get("no_data_indices")) == ("ok", [0])


@pytest.mark.heavy
def test_quality_and_no_data_concern_the_bands_of_the_model_only(tmp_path):
    image = noise(0, dtype="int16")
    image[1] = -1
    write(tmp_path / "r" / "x.tif", image, nodata=-1)
    catalogue(tmp_path / "r", {"path": "x.tif"})
    one = ExportModelRequest("mosaiks", label="one", sensor=SensorSpec("S2", ("B2",)), model_config={"features": 8})
    two = ExportModelRequest("mosaiks", label="two", sensor=S2, model_config={"features": 8})
    three = ExportModelRequest("mosaiks", label="three", sensor=SensorSpec("S2", ("B3",)), model_config={"features": 8})
    common = {"backend": f"local:{tmp_path / 'r'}"}
    export(combined(tmp_path / "grown" / "run"), [at(30, 30)], [one], **common)
    grown = export(combined(tmp_path / "grown" / "run"), [at(30, 30)], [one, two, three], **common)
    fresh = export(combined(tmp_path / "fresh" / "run"), [at(30, 30)], [one, two, three], **common)
    assert (tmp_path / "grown" / "run.npz").read_bytes() == (tmp_path / "fresh" / "run.npz").read_bytes()
    one, other = (load_export(tmp_path / w / "run").models for w in ("grown", "fresh"))
    for a, b in zip(grown["models"], fresh["models"]):
        label = a["model"]
        assert [m["quality"] for m in one[label].meta] == [m["quality"] for m in other[label].meta], label
        assert a.get("no_data_indices") == b.get("no_data_indices") == ([0] if a["model"] == "three" else None)
    assert one["one"].meta[0]["quality"] == {"valid": 1.0}
    assert one["two"].meta[0]["quality"]["valid"] == 0.5


def test_a_frame_is_filled_band_by_band(tmp_path):
    from rs_embed.planning.model_info import Frames

    first, second = noise(0, dtype="int16"), noise(1, dtype="int16")
    second[1] = -1  # B3 has no data in the second bin
    for i, image in enumerate((first, second)):
        write(tmp_path / f"{i}.tif", image, nodata=-1)
    catalogue(tmp_path, {"path": "0.tif", "datetime": "2022-06-05"}, {"path": "1.tif", "datetime": "2022-08-20"})
    both, _ = chip(tmp_path, at(30, 30, 300), Frames("equal", 2))
    alone, _ = chip(tmp_path, at(30, 30, 300), Frames("equal", 2), bands=("B3",))
    assert np.array_equal(both.pixels[:, 1:], alone.pixels)
    assert both.band_warnings[0] == () and both.band_warnings[1] == alone.band_warnings[0] != ()


@pytest.mark.parametrize(("dx", "dy"), [(1, 1), (-1, -1), (-1, 1)])
def test_files_that_are_south_up_or_mirrored_are_found(tmp_path, dx, dy):
    data = noise(0, (2, 80, 80))
    corner = (9.83 if dx > 0 else 9.838, 57.280 if dy > 0 else 57.288)
    transform = rasterio.Affine(0.0001 * dx, 0, corner[0], 0, 0.0001 * dy, corner[1])
    profile = {"driver": "GTiff", "count": 2, "height": 80, "width": 80, "dtype": "uint16", "crs": "EPSG:4326"}
    with rasterio.open(tmp_path / "x.tif", "w", transform=transform, **profile) as file:
        file.write(data)
    catalogue(tmp_path, {"path": "x.tif"})
    from rs_embed import PointBuffer

    got, grid = chip(tmp_path, PointBuffer(9.834, 57.284, 60))
    assert got.valid == 1.0
    x, y = np.meshgrid(*grid.centres())
    from rs_embed.request.geometry import get_transformer

    lon, lat = get_transformer(grid.crs, "EPSG:4326").transform(x, y)
    columns, rows = ~transform @ (lon, lat)
    expected = data[:, np.floor(rows).astype(int), np.floor(columns).astype(int)]
    assert (got.pixels == expected).mean() > 0.99


@pytest.mark.heavy
def test_a_linked_catalogue_and_two_collections_of_one_file(tmp_path):
    level(tmp_path / "r", "x.tif", 100)
    made = catalogue(tmp_path / "r", {"path": "x.tif"}, {"path": "x.tif", "collection": "other"})
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "catalogue.csv").symlink_to(made)
    assert (pixels(tmp_path / "links", tmp_path / "out") == 100).all()
    shutil.rmtree(tmp_path / "out")
    assert (pixels(tmp_path / "r", tmp_path / "out", sensor=SensorSpec("other", ("B2", "B3"))) == 100).all()


def test_the_other_form_of_a_product_is_used_where_the_requested_one_has_no_files(tmp_path):
    bands = {"bands": "VV VH"}
    write(tmp_path / "db.tif", np.full((2, 60, 60), 10.0, "float32"))
    write(tmp_path / "linear.tif", np.full((2, 60, 60), 4.0, "float32"), corner=(ORIGIN[0] + 5000, ORIGIN[1]))
    rows = [
        {"path": "db.tif", "collection": "COPERNICUS/S1_GRD"},
        {"path": "linear.tif", "collection": "COPERNICUS/S1_GRD_FLOAT"},
    ]
    catalogue(tmp_path, *(r | bands for r in rows))
    want = {"collection": "COPERNICUS/S1_GRD_FLOAT", "bands": ("VV", "VH"), "config": ExportConfig()}
    near, far = chip(tmp_path, at(30, 30), **want)[0], chip(tmp_path, at(530, 30), **want)[0]
    assert np.allclose(near.pixels, 10.0) and (far.pixels == 4.0).all()
