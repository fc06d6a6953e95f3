"""Product folders as downloaded: one command without options, then the pixels, dates and clouds of
the products, as ``stac:`` and Earth Engine have them."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from rs_embed import TemporalSpec
from rs_embed.cli import main

from ...support import product_folders as made
from ...support.product_chips import rows_of, whole
from ...support.rasters import write

S2 = "COPERNICUS/S2_SR_HARMONIZED"
DECIBEL, LINEAR = "COPERNICUS/S1_GRD", "COPERNICUS/S1_GRD_FLOAT"


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """Nothing can be asked."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())


# Landsat -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"tags": False},
        pytest.param({"level": "L2SR"}, marks=pytest.mark.heavy),
        {"mission": "LC09", "metadata": ("xml",)},
        {"mission": "LE07", "metadata": ("txt",), "day": "20220702"},
        {"mission": "LT05", "day": "20090702", "processed": "20200827"},
        pytest.param({"mission": "LC08", "tier": "T2", "metadata": ()}, marks=pytest.mark.heavy),
        {"level": "L1TP"},
        pytest.param({"level": "L1TP", "mission": "LE07"}, marks=pytest.mark.heavy),
        # a path and row that looks like the beginning of a date
        {"path_row": "200012"},
        pytest.param({"path_row": "199031"}, marks=pytest.mark.heavy),
        {"prefix": False},
    ],
)
def test_landsat_as_downloaded(tmp_path, form):
    form = dict(form)
    prefix = form.pop("prefix", True)
    root, numbers = made.landsat(tmp_path, **form)
    for path in [] if prefix else root.glob("*.TIF"):
        path.rename(root / path.name.removeprefix(f"{root.name}_"))
    rows = rows_of(tmp_path)
    mission, tier = form.get("mission", "LC08"), form.get("tier", "T1")
    collection = f"LANDSAT/{mission}/C02/{tier}" + ("" if form.get("level") == "L1TP" else "_L2")
    assert {(r.collection, r.scene) for r in rows} == {(collection, root.name)}, "SR and ST are one scene"
    assert sorted(b for r in rows for b in r.bands) == sorted(numbers)
    day = form.get("day", "20220701")
    assert {r.date for r in rows} == {f"{day[:4]}-{day[4:6]}-{day[6:]}"}
    assert {r.cloud_cover for r in rows} == ({3.21} if form.get("metadata", True) else {None})
    assert {r.datetime[11:] for r in rows} == ({"10:15:53Z"} if form.get("metadata", True) else {"00:00:00Z"})
    bands = [b for b in numbers if numbers[b].dtype == np.uint16 and b not in ("QA_PIXEL", "B8")]
    got = whole(tmp_path, collection, bands, 30, temporal=TemporalSpec.range(f"{day[:4]}-01-01", f"{day[:4]}-12-31"))
    assert got.pixels.dtype == np.uint16
    for band, pixels in zip(bands, got.pixels):
        assert np.array_equal(pixels, numbers[band]), band
    spectral = [i for i, b in enumerate(bands) if not b.startswith("QA")]
    assert {round(got.coverage[i], 6) for i in spectral} == {round((numbers[bands[spectral[0]]] != 0).mean(), 6)}


def test_landsat_masks_clouds_with_the_band_of_the_product(tmp_path):
    _, numbers = made.landsat(tmp_path)
    rows_of(tmp_path)
    got = whole(tmp_path, "LANDSAT/LC08/C02/T1_L2", ["SR_B4"], 30, mask="clouds")
    quality = numbers["QA_PIXEL"]
    clear = ((quality & 0b11111) == 0) & (numbers["SR_B4"] != 0)
    assert np.array_equal(got.pixels[0], np.where(clear, numbers["SR_B4"], 0))


def test_landsat_of_other_generations_is_left_out_with_the_reason(tmp_path, capsys):
    made.landsat(tmp_path)
    other = "LM05_L1TP_193021_19880701_20200827_02_T1"
    write(tmp_path / other / f"{other}_B1.TIF", made.pixels_of(0, 30)[None])
    rows = rows_of(tmp_path)
    assert {r.collection for r in rows} == {"LANDSAT/LC08/C02/T1_L2"}
    assert (
        f"left out: {other} (1 file): it is Landsat M05 of Collection 02, which is not described"
        in capsys.readouterr().err
    )


# HLS, MODIS --------------------------------------------------------------------------------------


@pytest.mark.parametrize("tags", [True, False])
@pytest.mark.parametrize("sensor", ["S30", "L30"])
def test_hls_as_downloaded(tmp_path, sensor, tags):
    root, numbers = made.hls(tmp_path, sensor=sensor, tags=tags)
    made.hls(tmp_path / "flat", sensor=sensor, time="2022300T104031", seed=1, own_folder=False, cloud=None)
    rows = rows_of(tmp_path)
    collection = f"NASA/HLS/HLS{sensor}/v002"
    assert {(r.collection, r.date, r.cloud_cover) for r in rows} == {
        (collection, "2022-07-01", 7.0),
        (collection, "2022-10-27", None),
    }
    assert sorted(b for r in rows if r.scene == root.name for b in r.bands) == sorted(numbers)
    bands = [b for b in numbers if b != "Fmask"]
    got = whole(tmp_path, collection, bands, 30, temporal=TemporalSpec.range("2022-07-01", "2022-07-02"))
    assert got.pixels.dtype == np.float32
    for band, pixels in zip(bands, got.pixels):
        thermal = sensor == "L30" and band in ("B10", "B11")
        scaled = numbers[band].astype("float32") * np.float32(0.01 if thermal else 0.0001)
        assert np.allclose(pixels, np.where(numbers[band] == -9999, 0, scaled), atol=1e-6), band
    masked = whole(
        tmp_path, collection, ["B4"], 30, temporal=TemporalSpec.range("2022-07-01", "2022-07-02"), mask="clouds"
    )
    hidden = ((numbers["Fmask"] & 0b1110) > 0) | (numbers["Fmask"] == 255)
    assert np.array_equal(masked.pixels[0] == 0, hidden | (numbers["B4"] == -9999) | (numbers["B4"] == 0))


@pytest.mark.parametrize("form", ["planetary", "appeears", "translated"])
@pytest.mark.parametrize("product", ["MOD09A1", "MYD09GA"])
def test_modis_as_geotiff(tmp_path, product, form):
    numbers = made.modis(tmp_path, product=product, form=form)
    rows = rows_of(tmp_path)
    assert {(r.collection, r.date) for r in rows} == {(f"MODIS/061/{product}", "2022-06-26")}
    assert sorted(b for r in rows for b in r.bands) == sorted(numbers) and len({r.scene for r in rows}) == 1
    bands = [f"sur_refl_b0{i}" for i in range(1, 8)]
    got = whole(tmp_path, f"MODIS/061/{product}", bands, 30)
    for band, pixels in zip(bands, got.pixels):
        assert np.array_equal(pixels, np.where(numbers[band] == -28672, 0, numbers[band]))
    assert got.pixels.dtype == np.int16


def test_a_modis_file_of_several_bands_is_named_by_its_descriptions(tmp_path):
    names = [f"sur_refl_b0{i}_1" for i in range(1, 8)]
    values = np.stack([made.pixels_of(i, 30, "int16") for i in range(7)])
    write(tmp_path / "MOD09GA.A2022182.h18v03.061.2022184030123.tif", values, scale=30, names=names)
    (row,) = rows_of(tmp_path)
    assert row.bands == tuple(n[:-2] for n in names) and row.date == "2022-07-01"
    assert row.nodata == -28672, "the file does not declare it"


def test_a_modis_file_of_reflectance_and_state_keeps_its_own_nodata_and_says_so(tmp_path, capsys):
    values = np.stack([made.pixels_of(i, 30, "int16") for i in range(2)])
    names = ["sur_refl_b01", "sur_refl_state_500m"]
    write(tmp_path / "MOD09A1.A2022177.h18v03.061.2022186030123.tif", values, scale=30, names=names)
    (row,) = rows_of(tmp_path)
    assert row.bands == ("sur_refl_b01", "StateQA") and row.nodata is None
    assert "declares no nodata value and its bands have several" in capsys.readouterr().err
    write(tmp_path / "MOD09A1.A2022177.h18v03.061.2022186030123.tif", values, scale=30, names=names, nodata=-1)
    (row,) = rows_of(tmp_path, "--replace")
    assert row.nodata is None and "declares no nodata" not in capsys.readouterr().err


# Sentinel-1 --------------------------------------------------------------------------------------


def test_hyp3_has_its_units_in_its_name(tmp_path, capsys):
    for units, collection in (("p", LINEAR), ("d", DECIBEL)):
        numbers = made.hyp3(tmp_path / units, units=units, gamma="g" if units == "p" else "s")
        rows = rows_of(tmp_path / units)
        assert {(r.collection, r.datetime) for r in rows} == {(collection, "2022-07-01T05:34:24Z")}
        assert len(rows) == 2
        got = whole(tmp_path / units, collection, ["VV", "VH"], 20)
        for band, pixels in zip(("VV", "VH"), got.pixels):
            assert np.array_equal(pixels, numbers[band])
        assert got.coverage[0] == pytest.approx((numbers["VV"] != 0).mean())
        note = got.provenance["scenes"][0]["note"]
        assert note.startswith("gamma0" if units == "p" else "sigma0")
    made.hyp3(tmp_path / "a", units="a")
    assert main(["catalogue", str(tmp_path / "a")]) == 1
    assert "it is amplitude; allowed: power or dB" in capsys.readouterr().err


def test_opera_without_its_static_layers_and_older_processings(tmp_path):
    bursts = made.opera(tmp_path / "opera")
    made.opera(tmp_path / "opera", processed="20230101T000000", seed=5)
    rows = rows_of(tmp_path / "opera")
    assert {(r.collection, r.date, r.orbit) for r in rows} == {(LINEAR, "2022-07-01", "DESCENDING")}
    got = whole(tmp_path / "opera", LINEAR, ["VV", "VH"], 30)
    assert np.array_equal(got.pixels[1], np.nan_to_num(bursts["VH"])), "the later processing of the two"


@pytest.mark.parametrize("end", ["_60B6", "_rtc", "_60B6_rtc"])
def test_the_planetary_computer_has_rtc_in_folders_with_the_name_of_the_grd_product(tmp_path, end):
    scene = made.planetary_rtc(tmp_path / "pc", end=end)
    rows = rows_of(tmp_path / "pc")
    assert {(r.collection, r.datetime, r.nodata) for r in rows} == {(LINEAR, "2022-07-01T05:34:24Z", -32768.0)}
    got = whole(tmp_path / "pc", LINEAR, ["VV"], 10)
    assert np.array_equal(got.pixels[0], np.where(scene["VV"] == -32768, 0, scene["VV"]))


def test_radar_geometry_is_refused_with_the_way_out(tmp_path, capsys):
    root = made.ground_range_safe(tmp_path)
    for folder in (tmp_path, root, root / "measurement"):
        assert main(["catalogue", str(folder)]) == 1
        error = capsys.readouterr().err
        assert "Sentinel-1 GRD, in radar geometry and not calibrated" in error
        assert "allowed: terrain-corrected backscatter (RTC)" in error
    made.planetary_rtc(tmp_path)
    assert len(rows_of(tmp_path)) == 2
    assert f"left out: {root.name} (2 files): it is Sentinel-1 GRD" in capsys.readouterr().err


# everything together -----------------------------------------------------------------------------


def test_a_folder_of_many_products_needs_no_option(tmp_path):
    made.safe(tmp_path / "downloads")
    made.landsat(tmp_path / "downloads")
    made.hls(tmp_path / "downloads")
    made.modis(tmp_path / "downloads" / "modis")
    made.hyp3(tmp_path / "downloads")
    rows = rows_of(tmp_path / "downloads")
    assert {r.collection for r in rows} == {
        S2,
        "LANDSAT/LC08/C02/T1_L2",
        "NASA/HLS/HLSS30/v002",
        "MODIS/061/MOD09A1",
        LINEAR,
    }
    assert len({r.scene for r in rows}) == 5


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("S2A_MSIL2A_x.zip", b"PK\x03\x04", "is packed; allowed: its unpacked content"),
        ("LC08_x.tar", b"x", "is packed; allowed: its unpacked content"),
        ("MOD09GA.A2022182.h18v03.061.2022184030123.hdf", b"\x0e\x03\x13\x01", "is HDF4, which rasterio does not read"),
    ],
)
def test_packed_files_and_hdf_are_refused_with_the_way_out(tmp_path, capsys, name, content, words):
    (tmp_path / name).write_bytes(content)
    assert main(["catalogue", str(tmp_path)]) == 1
    assert f"{name} {words}" in capsys.readouterr().err
    assert main(["catalogue", str(tmp_path / name)]) == 1
    assert "is not a folder but a file that" in capsys.readouterr().err
    made.hls(tmp_path)
    assert len(rows_of(tmp_path)) > 5
    assert f"left out: {name} {words}" in capsys.readouterr().err


def test_a_packed_file_beside_its_content_is_not_mentioned(tmp_path, capsys):
    root, _ = made.safe(tmp_path)
    (tmp_path / f"{root.name.removesuffix('.SAFE')}.zip").write_bytes(b"PK\x03\x04")
    rows_of(tmp_path)
    assert "packed" not in capsys.readouterr().err
