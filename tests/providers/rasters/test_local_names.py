"""Folders and files with any name, and paths that are no catalogue or no raster."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from rs_embed import ProviderError, SensorSpec, load_export
from rs_embed.cli import main

from ...support.exports import combined, export
from ...support.factories import assert_refusal
from ...support.product_folders import ground_range_safe
from ...support.rasters import at, catalogue, chip, noise, run, write

NAMES = [
    "a b.tif",
    "größe.tif",
    "a#b.tif",
    "a?b=c.tif",
    "a%20b.tif",
    "a,b.tif",
    'a"b.tif',
    "a&b.tif",
    "a!b.tif",
    "a;b.tif",
    "a:b.tif",
    "{a}.tif",
]


@pytest.mark.parametrize("name", NAMES)
def test_files_of_any_name(tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    folder = tmp_path / f"Äcker #1 ?{name}"
    pixels = noise(0)
    write(folder / name, pixels, names=("B2", "B3"))
    assert main(["catalogue", str(folder), "--collection", "S2", "--datetime", "2022-07-01"]) == 0
    got, _ = chip(folder, at(30, 30))
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])


def test_an_alpha_band_of_a_file_of_any_name(tmp_path):
    for name in ("a&b #1.tif", "<größe>?.tif"):
        pixels = noise(0, (4, 60, 60), "uint8", 200)
        write(tmp_path / name, pixels)
        catalogue(tmp_path, {"path": name, "bands": "B4 B3 B2 B8"})
        got, _ = chip(tmp_path, at(30, 30), bands=("B4", "B8"))
        assert np.array_equal(got.pixels, pixels[[0, 3], 20:40, 20:40])


@pytest.mark.heavy
def test_an_export_from_a_folder_of_any_name(tmp_path):
    folder = tmp_path / "Äcker & Wiesen #1"
    pixels = noise(0)
    write(folder / "größe #2?.tif", pixels)
    catalogue(folder, {"path": "größe #2?.tif"})
    sensor = SensorSpec("S2", ("B2", "B3"))
    export(combined(tmp_path / "out" / "run"), [at(30, 30)], backend=f"local:{folder}", sensor=sensor)
    saved = load_export(tmp_path / "out" / "run.npz").models["mosaiks"].inputs
    assert np.array_equal(saved[0], pixels[:, 20:40, 20:40])


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.tif", None, "is a raster (TIFF) and not a catalogue"),
        ("a.jp2", b"\x00\x00\x00\x0cjP  \r\n\x87\n", "is a raster (JPEG 2000)"),
        ("a.vrt", b"<VRTDataset rasterXSize='1'/>", "is a raster (VRT)"),
        ("a.zip", b"PK\x03\x04\x14", "is a ZIP archive or an office document"),
        ("a.hdf", b"\x0e\x03\x13\x01", "is an HDF4 file"),
        ("a.nc", b"\x89HDF\r\n\x1a\n", "is an HDF5 or netCDF file"),
        ("a.csv", b"path;collection;datetime\n", "is separated by semicolons"),
    ],
)
def test_a_path_that_is_no_catalogue_is_named_for_what_it_is(tmp_path, name, content, words):
    if content is None:
        write(tmp_path / name, noise(0))
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ProviderError) as error:
        run(tmp_path, [at(30, 30)], backend=f"local:{tmp_path / name}")
    assert_refusal(error.value, words, name)


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/vsicurl/http://127.0.0.1:9/a.tif", "cannot be read: No such file"),
        ("a.zip", "it is a ZIP archive; allowed: its unpacked content"),
        ("a.hdf", "it is HDF4, which rasterio does not read"),
        (".", "it is no file"),
    ],
)
def test_rows_that_name_no_raster_are_refused(tmp_path, path, words):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04" + bytes(100))
    (tmp_path / "a.hdf").write_bytes(b"\x0e\x03\x13\x01" + bytes(100))
    catalogue(tmp_path, {"path": path})
    with pytest.raises(ProviderError, match="cannot be read") as error:
        run(tmp_path, [at(30, 30)])
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:.*:rasterio.errors.NotGeoreferencedWarning")
def test_rasters_without_a_map_grid_name_the_way_out(tmp_path):
    measurement = next(ground_range_safe(tmp_path).rglob("*vv*.tiff"))
    catalogue(tmp_path, {"path": str(measurement), "bands": "VV"})
    with pytest.raises(ProviderError) as error:
        run(tmp_path, [at(30, 30)])
    assert_refusal(error.value, "is located by ground control points", "gdalwarp -t_srs")
