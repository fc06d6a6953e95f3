"""Several processings of one image are one image: the latest, or the most complete one."""

from __future__ import annotations

import io
import sys

import pytest

from rs_embed.cli import main

from ...support import product_folders as made
from ...support.product_chips import rows_of
from ...support.rasters import write


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    """Nothing can be asked."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())


def burst(folder, processed: str, layers: str) -> None:
    for layer in layers.split():
        name = f"OPERA_L2_RTC-S1_T022-045678-IW1_20220701T053424Z_{processed}Z_S1A_30_v1.0_{layer}.tif"
        write(folder / name, made.pixels_of(1, 30).astype("float32")[None], scale=30)


def landsat(folder, name: str, layers: str) -> None:
    for layer in layers.split():
        write(folder / name / f"{name}_{layer}.TIF", made.pixels_of(1, 30)[None], scale=30)


RED, ALL = "SR_B4", "SR_B3 SR_B4 QA_PIXEL"


@pytest.mark.parametrize(
    ("products", "used"),
    [
        # L2SR and L2SP of one acquisition, whichever is later
        ({"LC08_L2SR_193021_20220701_20230713_02_T1": RED, "LC08_L2SP_193021_20220701_20220713_02_T1": RED}, 1),
        ({"LC08_L2SP_193021_20220701_20220713_02_T1": RED, "LC08_L2SP_193021_20220701_20220801_02_T1": RED}, 1),
        ({"LC08_L1GT_193021_20220701_20220713_02_T2": "B4", "LC08_L1TP_193021_20220701_20220801_02_T2": "B4"}, 1),
        # the later one is not complete
        ({"LC08_L2SP_193021_20220701_20220801_02_T1": RED, "LC08_L2SP_193021_20220701_20220713_02_T1": ALL}, 1),
        ({"LC08_L2SP_193021_20220701_20220801_02_T1": RED, "LC08_L2SR_193021_20220701_20220713_02_T1": ALL}, 1),
    ],
)
def test_landsat(tmp_path, capsys, products, used):
    for name, layers in products.items():
        landsat(tmp_path, name, layers)
    rows = rows_of(tmp_path)
    names = list(products)
    assert {r.scene for r in rows} == {names[used]}
    assert sorted(b for r in rows for b in r.bands) == sorted(products[names[used]].split())
    left_out = capsys.readouterr().err
    assert f"left out: {names[1 - used]}, 1 file: " in left_out and names[used] in left_out
    assert ("it lacks QA_PIXEL, SR_B3 of" in left_out) == (products[names[used]] == ALL)


def test_other_acquisitions_tiers_and_levels_are_other_images(tmp_path):
    names = (
        "LC08_L2SP_193021_20220701_20220713_02_T1",
        "LC09_L2SP_193021_20220701_20220713_02_T1",
        "LC08_L2SP_193022_20220701_20220713_02_T1",
        "LC08_L2SP_193021_20220717_20220801_02_T1",
        "LC08_L2SP_193021_20220701_20220713_02_T2",
    )
    for name in names:
        landsat(tmp_path, name, RED)
    landsat(tmp_path, "LC08_L1TP_193021_20220701_20220713_02_T1", "B4")
    assert {r.scene for r in rows_of(tmp_path)} == {*names, "LC08_L1TP_193021_20220701_20220713_02_T1"}


def test_a_later_processing_with_unreadable_files_is_not_complete(tmp_path, capsys):
    burst(tmp_path, "20230101T000000", "VV VH")
    burst(tmp_path, "20230901T000000", "VV VH")
    (damaged,) = tmp_path.glob("*20230901T000000*_VH.tif")
    damaged.write_bytes(damaged.read_bytes()[:100])
    rows = rows_of(tmp_path)
    assert sorted((r.bands, "20230101T" in r.path) for r in rows) == [(("VH",), True), (("VV",), True)]
    assert "it lacks VH of" in capsys.readouterr().err


def test_productions_of_a_modis_granule(tmp_path, capsys):
    for production in ("2022186030123", "2023001030123"):
        name = f"MOD09A1.A2022177.h18v03.061.{production}_sur_refl_b01.tif"
        write(tmp_path / name, made.pixels_of(1, 30, "int16")[None], scale=30)
    (row,) = rows_of(tmp_path)
    assert "2023001030123" in row.path
    assert "the same image was processed again later" in capsys.readouterr().err


def test_landsat_7_has_gap_masks_that_are_no_images(tmp_path):
    landsat(tmp_path, "LE07_L1TP_193021_20220701_20220713_02_T1", "B1 B2")
    name = "LE07_L1TP_193021_20220701_20220713_02_T1"
    write(tmp_path / name / "gap_mask" / f"{name}_GM_B1.TIF", made.pixels_of(1, 30)[None], scale=30)
    assert sorted(r.bands for r in rows_of(tmp_path)) == [("B1",), ("B2",)]


def test_only_the_date_is_asked_for_where_the_name_has_the_future(tmp_path):
    landsat(tmp_path, "LC08_L2SP_193021_29990701_29990713_02_T1", RED)
    assert main(["catalogue", str(tmp_path)]) == 1
    (row,) = rows_of(tmp_path, "--datetime", "2022-07-01")
    assert (row.collection, row.date) == ("LANDSAT/LC08/C02/T1_L2", "2022-07-01")


def test_a_clipped_radar_band_is_not_dropped(tmp_path, capsys):
    name = "S1A_IW_20180128T161201_DVP_RTC30_G_gpuned_FD6A_VV_clip.tif"
    write(tmp_path / name, made.pixels_of(1, 30).astype("float32")[None], scale=30)
    (row,) = rows_of(tmp_path, "--collection", "COPERNICUS/S1_GRD_FLOAT")
    assert (row.bands, row.datetime) == (("VV",), "2018-01-28T16:12:01Z")
