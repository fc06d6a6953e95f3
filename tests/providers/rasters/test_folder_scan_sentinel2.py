"""Sentinel-2 folders as downloaded: one command without options, then pixels, dates and clouds as
``stac:`` and Earth Engine have them."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys

import numpy as np
import pytest

from rs_embed import TemporalSpec, load_export
from rs_embed.cli import main

from ...support import product_folders as made
from ...support.exports import combined, export
from ...support.product_chips import enlarged, expected_of, rows_of, whole
from ...support.rasters import at, write

S2, L1C = "COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED"


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """Nothing can be asked."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.mark.parametrize(
    ("form", "subtract"),
    [
        ({}, 1000),
        ({"baseline": "0301"}, 0),
        # processed again: the baseline decides, not the date
        ({"baseline": "0500", "time": "20180701T104031"}, 1000),
        pytest.param({"baseline": "0214", "time": "20220801T104031"}, 0, marks=pytest.mark.heavy),
        pytest.param({"suffix": ""}, 1000, marks=pytest.mark.heavy),
        ({"driver": "GTiff"}, 1000),
        ({"metadata": ()}, 1000),
        pytest.param({"metadata": ("product",)}, 1000, marks=pytest.mark.heavy),
        pytest.param({"metadata": (), "baseline": "0214"}, 0, marks=pytest.mark.heavy),
        ({"offsets": dict.fromkeys(made.BAND_IDS, -900)}, 900),
        # Sen2Cor of a user, before 2.10 and since
        ({"baseline": "9999", "offsets": {}, "driver": "GTiff"}, 0),
        pytest.param({"baseline": "9999", "driver": "GTiff"}, 1000, marks=pytest.mark.heavy),
        ({"level": "L1C"}, 1000),
        pytest.param({"level": "L1C", "baseline": "0301"}, 0, marks=pytest.mark.heavy),
        pytest.param({"level": "L1C", "metadata": ()}, 1000, marks=pytest.mark.heavy),
    ],
)
def test_sentinel_2_as_downloaded(tmp_path, form, subtract):
    root, numbers = made.safe(tmp_path, **form)
    rows = rows_of(tmp_path)
    collection = L1C if form.get("level") == "L1C" else S2
    assert {r.collection for r in rows} == {collection}
    assert {r.scene for r in rows} == {root.name.removesuffix(".SAFE")}
    assert sorted(b for r in rows for b in r.bands) == sorted(
        numbers.keys() | ({"AOT", "WVP"} if collection == S2 else set())
    )
    day = form.get("time", "20220701")
    assert {r.date for r in rows} == {f"{day[:4]}-{day[4:6]}-{day[6:8]}"}
    clouds = {12.5} if "product" in form.get("metadata", ("product",)) else {None}
    assert {r.cloud_cover for r in rows} == clouds
    window = TemporalSpec.range(f"{day[:4]}-01-01", f"{day[:4]}-12-31")
    bands = ["B2", "B8", "B5", "B8A", "B11", "B1", "B9"]
    got = whole(tmp_path, collection, bands, 10, temporal=window)
    assert got.pixels.dtype == np.uint16
    for band, pixels in zip(bands, got.pixels):
        assert np.array_equal(pixels, enlarged(expected_of(numbers[band], subtract), 10)), band
    assert got.coverage == tuple(pytest.approx((numbers[b] != 0).mean()) for b in bands)
    (scene,) = got.provenance["scenes"]
    assert scene.get("subtracted", 0) == subtract


def test_classes_are_never_shifted(tmp_path):
    _, numbers = made.safe(tmp_path)
    rows_of(tmp_path)
    got = whole(tmp_path, S2, ["SCL", "B5"], 20)
    assert np.array_equal(got.pixels[0], numbers["SCL"])
    assert np.array_equal(got.pixels[1], expected_of(numbers["B5"], 1000))
    masked = whole(tmp_path, S2, ["B5"], 20, mask="clouds")
    hidden = np.isin(numbers["SCL"], [0, 1, 3, 8, 9, 10])
    assert np.array_equal(masked.pixels[0], np.where(hidden, 0, expected_of(numbers["B5"], 1000)))


def test_the_metadata_decides_against_the_name(tmp_path):
    _, numbers = made.safe(tmp_path, baseline="0400", offsets={}, metadata=("product",))
    xml = next(tmp_path.rglob("MTD_MSIL2A.xml"))
    xml.write_text(xml.read_text().replace("<PROCESSING_BASELINE>04.00", "<PROCESSING_BASELINE>03.01"))
    rows_of(tmp_path)
    assert np.array_equal(whole(tmp_path, S2, ["B2"], 10).pixels[0], numbers["B2"])


def test_a_folder_inside_a_product_is_that_product(tmp_path):
    root, numbers = made.safe(tmp_path)
    for inside in (root, next(root.glob("GRANULE/*")), next(root.glob("GRANULE/*/IMG_DATA"))):
        rows = rows_of(inside)
        assert {r.scene for r in rows} == {root.name.removesuffix(".SAFE")}
        assert np.array_equal(whole(inside, S2, ["B2"], 10).pixels[0], expected_of(numbers["B2"], 1000))


def test_a_granule_alone_and_a_renamed_product(tmp_path):
    root, numbers = made.safe(tmp_path / "x")
    granule = next(root.glob("GRANULE/*"))
    shutil.copytree(granule, tmp_path / "alone" / granule.name)
    assert {r.subtract for r in rows_of(tmp_path / "alone") if r.bands[0].startswith("B")} == {1000}
    assert np.array_equal(whole(tmp_path / "alone", S2, ["B2"], 10).pixels[0], expected_of(numbers["B2"], 1000))
    (tmp_path / "alone" / granule.name).rename(tmp_path / "alone" / "my granule")
    rows = rows_of(tmp_path / "alone", "--replace")
    assert {(r.scene, r.subtract) for r in rows if r.bands[0] == "B2"} == {
        ("my granule_T32VNJ_2022-07-01T10:40:59Z", 1000)
    }
    name = root.name.removesuffix(".SAFE")
    root.rename(tmp_path / "x" / "my scene #1")
    assert {r.scene for r in rows_of(tmp_path / "x")} == {name}


def test_what_is_no_imagery_is_counted_and_not_listed(tmp_path, capsys):
    made.safe(tmp_path)
    rows = rows_of(tmp_path)
    assert not [r.path for r in rows if "QI_DATA" in r.path or "TCI" in r.path]
    output = capsys.readouterr()
    assert "left out: 9 files of products: a quality mask, a preview or auxiliary data" in output.err
    assert f"{S2}: 1 scene, 15 files" in output.out
    assert "1000 is subtracted from the numbers of 12 files" in output.out
    assert "Use it with" in output.out


def test_many_products_and_two_processings_of_one_image(tmp_path, capsys):
    made.safe(tmp_path, baseline="0214", seed=1)
    _, latest = made.safe(tmp_path, baseline="0500", seed=2, processed="20230815T101010")
    made.safe(tmp_path, time="20220711T104031", seed=3)
    made.safe(tmp_path, level="L1C", seed=4)
    rows = rows_of(tmp_path)
    assert len({r.scene for r in rows if r.collection == S2}) == 2
    assert len({r.scene for r in rows if r.collection == L1C}) == 1
    assert "the same image was processed again later" in capsys.readouterr().err
    got = whole(tmp_path, S2, ["B2"], 10, temporal=TemporalSpec.range("2022-07-01", "2022-07-02"))
    assert np.array_equal(got.pixels[0], expected_of(latest["B2"], 1000))


def test_a_band_that_is_only_there_resampled_is_said(tmp_path, capsys):
    root, _ = made.safe(tmp_path)
    shutil.rmtree(next(root.rglob("R10m")))
    rows = {r.bands[0]: r.path for r in rows_of(tmp_path)}
    assert rows["B2"].endswith("B02_20m.jp2") and "B8" not in rows
    assert "B02_20m.jp2 is resampled" in capsys.readouterr().err


def test_a_damaged_metadata_file_is_said(tmp_path, capsys):
    _, numbers = made.safe(tmp_path)
    next(tmp_path.rglob("MTD_MSIL2A.xml")).write_text("<n1:Level-2A_User_Product")
    rows_of(tmp_path)
    assert "MTD_MSIL2A.xml cannot be read, so the name of the product counts" in capsys.readouterr().err
    assert np.array_equal(whole(tmp_path, S2, ["B2"], 10).pixels[0], expected_of(numbers["B2"], 1000))


def test_files_without_their_product_need_an_answer_and_get_a_note(tmp_path, capsys):
    root, _ = made.safe(tmp_path / "x")
    loose = tmp_path / "loose"
    loose.mkdir()
    for path in [*root.rglob("*_B0[123]_?0m.jp2"), *root.rglob("*_TCI_*.jp2"), *root.rglob("MSK_*.jp2")]:
        shutil.copy(path, loose)
    assert main(["catalogue", str(loose)]) == 1
    assert "--collection is missing" in capsys.readouterr().err
    rows = rows_of(loose, "--collection", S2)
    assert {r.date for r in rows} == {"2022-07-01"}
    assert "the column subtract must be 1000" in capsys.readouterr().err
    assert sorted((r.bands[0], r.path[-7:-4], r.nodata) for r in rows) == [
        ("B1", "60m", 0.0),
        ("B2", "10m", 0.0),
        ("B3", "10m", 0.0),
    ]
    next(root.glob("GRANULE/*/MTD_TL.xml")).unlink()
    assert main(["catalogue", str(next(root.glob("GRANULE/*/IMG_DATA")))]) == 0, "the product is above"
    shutil.copytree(next(root.glob("GRANULE/*")), tmp_path / "y" / next(root.glob("GRANULE/*")).name)
    rows = rows_of(tmp_path / "y", "--collection", S2, "--replace")
    assert len({r.scene for r in rows}) == 1 and len(rows) == 15, "masks are no images, whatever is known"


def test_files_of_a_users_sen2cor_without_metadata_need_an_answer_and_get_a_note(tmp_path, capsys):
    made.safe(tmp_path, baseline="9999", metadata=(), driver="GTiff")
    assert main(["catalogue", str(tmp_path)]) == 1
    assert "--collection is missing" in capsys.readouterr().err
    rows = rows_of(tmp_path, "--collection", S2)
    assert {r.subtract for r in rows} == {0} and {r.date for r in rows} == {"2022-07-01"}
    assert "nothing says the processing baseline of" in capsys.readouterr().err


def test_a_processing_by_a_user_is_used_only_without_one_of_esa(tmp_path, capsys):
    own, _ = made.safe(tmp_path, baseline="9999", driver="GTiff", offsets={}, processed="20240101T000000")
    esa, _ = made.safe(tmp_path, baseline="0301", driver="GTiff", seed=2)
    assert {r.scene for r in rows_of(tmp_path)} == {esa.name.removesuffix(".SAFE")}
    assert f"{esa.name.removesuffix('.SAFE')} is the same image" in capsys.readouterr().err
    for path in esa.rglob("*_B02_*.tif"):
        path.unlink()
    assert {r.scene for r in rows_of(tmp_path, "--replace")} == {own.name.removesuffix(".SAFE")}
    assert "it lacks B2 of" in capsys.readouterr().err


def test_an_answer_names_the_collection_as_delivered(tmp_path):
    _, numbers = made.safe(tmp_path)
    rows_of(tmp_path, "--collection", "COPERNICUS/S2_SR")
    got = whole(tmp_path, "COPERNICUS/S2_SR", ["B2"], 10)
    assert np.array_equal(got.pixels[0], numbers["B2"])


def test_files_of_floats_are_not_the_delivered_ones(tmp_path, capsys):
    root, numbers = made.safe(tmp_path, driver="GTiff")
    for path in root.rglob("*_B02_10m.tif"):
        write(path, (numbers["B2"][None] / 10000).astype("float32"))
    assert main(["catalogue", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert "it has float32 numbers, the product has integers" in error
    assert "--collection is missing for 1 file like" in error


def test_other_files_beside_the_metadata_are_not_of_the_product(tmp_path):
    root, _ = made.safe(tmp_path)
    made.landsat(root)
    write(root / "clip_20220702.tif", made.pixels_of(0, 10)[None], names=("B2",))
    rows = rows_of(root, "--collection", "clip*=mine")
    assert {r.collection for r in rows} == {S2, "LANDSAT/LC08/C02/T1_L2", "mine"}


@pytest.mark.heavy
def test_the_command_and_an_export_of_defaults(tmp_path):
    folder = tmp_path / "down loads"
    _, numbers = made.safe(folder)
    command = [sys.executable, "-m", "rs_embed", "catalogue", str(folder)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    window = TemporalSpec.range("2022-06-01", "2022-09-01")
    target = combined(tmp_path / "out" / "run")
    manifest = export(target, [at(30, 30, 200)], backend=f"local:{folder}", temporal=window)
    assert manifest["status"] == "ok"
    result = load_export(tmp_path / "out" / "run.npz").models["mosaiks"]
    for band, pixels in zip(("B2", "B3", "B4", "B8"), result.inputs[0]):
        assert np.array_equal(pixels, expected_of(numbers[band], 1000)[10:50, 10:50]), band
    meta = result.meta[0]
    assert (meta["dates"], meta["date_is"]) == (["2022-07-01"], ["acquisition"])
    assert [s["subtracted"] for s in meta["provenance"]["scenes"]] == [1000]
