"""What names say: layouts of providers, auxiliary layers, files made of delivered ones, dates that
cannot be."""

from __future__ import annotations

import datetime as dt
import json

import pytest

from rs_embed.products import Delivered, ProductFiles, Unused, date_in_name, recognise
from rs_embed.products.delivery import compact_time, metadata_time

GRD = "S1A_IW_GRDH_1SDV_20200727T122412_20200727T122441_033640_03E61B"
HYP3 = "S1A_IW_20180128T161201_DVP_RTC30_G_gpuned_FD6A"
OPERA = "OPERA_L2_RTC-S1_T022-045678-IW1_20220701T053424Z_20230915T120000Z_S1A_30_v1.0"
STATIC = "OPERA_L2_RTC-S1-STATIC_T022-045678-IW1_20140403_S1A_30_v1.0"
LANDSAT = "LE07_L1TP_193021_20220701_20220713_02_T1"


def known(path: str) -> Delivered | Unused | None:
    return recognise(f"/data/{path}", ProductFiles())


@pytest.mark.parametrize(
    ("path", "band"),
    [
        (f"{GRD}_60B6/measurement/iw-vv.rtc.tiff", "VV"),
        (f"{GRD}_60B6/measurement/ew-hh.rtc.tiff", "HH"),
        (f"{GRD}_60B6/iw-vh.rtc.tiff", "VH"),
        (f"{GRD}_rtc/measurement/s3-hv.rtc.tiff", "HV"),
        (f"{GRD}_rtc/vv.tif", "VV"),
        (f"{GRD}_60B6_rtc_vh.tif", "VH"),
        (f"{HYP3}/{HYP3}_VV.tif", "VV"),
        (f"{OPERA}_VH.tif", "VH"),
    ],
)
def test_backscatter(path, band):
    found = known(path)
    assert isinstance(found, Delivered)
    assert (found.collection, found.band) == ("COPERNICUS/S1_GRD_FLOAT", band)


@pytest.mark.parametrize(
    "path",
    [
        *(
            f"{STATIC}_{layer}.tif"
            for layer in (
                "incidence_angle",
                "local_incidence_angle",
                "mask",
                "number_of_looks",
                "rtc_anf_gamma0_to_beta0",
            )
        ),
        *(f"{HYP3}_{layer}.tif" for layer in ("ls_map", "inc_map", "dem", "area", "rgb")),
        f"{OPERA}_mask.tif",
        f"{LANDSAT}/gap_mask/{LANDSAT}_GM_B1.TIF",
        f"{LANDSAT}/gap_mask/{LANDSAT}_GM_B6_VCID_1.TIF",
        f"{LANDSAT}/gap_mask/GM_B1.TIF",
        f"{LANDSAT}_GM_B8.TIF",
    ],
)
def test_what_is_no_image(path):
    found = known(path)
    assert isinstance(found, Unused) and not found.refused


@pytest.mark.parametrize(
    "path",
    [
        f"{HYP3}_VV_clip.tif",
        f"{HYP3}_VH_dB.tif",
        f"{OPERA}_VV_clip.tif",
        f"{GRD}_rtc/measurement/iw-vv.rtc_clip.tif",
        f"{GRD}_60B6/measurement/iw-vv.rtc_clip.tif",
        f"{GRD}_rtc_vv_db.tif",
        f"{LANDSAT.replace('L1TP', 'L2SP')}_SR_B4_clip.tif",
    ],
)
def test_files_made_of_delivered_ones_are_other_rasters(path):
    assert known(path) is None


def test_slant_or_ground_range_stays_refused():
    name = "s1a-iw-grd-vv-20200727t122412-20200727t122441-033640-03e61b-001.tiff"
    found = known(f"{GRD}_60B6/measurement/{name}")
    assert isinstance(found, Unused) and found.refused


# dates -------------------------------------------------------------------------------------------

TOMORROW = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)


@pytest.mark.parametrize("day", [TOMORROW + dt.timedelta(days=1), dt.date(2999, 12, 31)])
def test_the_future_is_no_date(day):
    for text in (f"{day:%Y%m%d}", f"{day:%Y%j}", f"{day:%Y%m%d}T000000Z"):
        with pytest.raises(ValueError, match="future"):
            compact_time(text)
    for text in (f"{day}", f"{day}T10:00:00.5Z"):
        with pytest.raises(ValueError, match="future"):
            metadata_time(text)
    assert date_in_name(f"LC08_L2SP_193021_{day:%Y%m%d}_20220713_02_T1") is None
    for path in (
        f"LC08_L2SP_193021_{day:%Y%m%d}_20220713_02_T1_SR_B4.TIF",
        f"HLS.S30.T17SLU.{day:%Y%j}T155956.v2.0.B8A.tif",
        f"MOD09A1.A{day:%Y%j}.h18v03.061.2022186030123_sur_refl_b01.tif",
        f"S1A_IW_{day:%Y%m%d}T161201_DVP_RTC30_G_gpuned_FD6A_VV.tif",
        f"S2A_MSIL2A_{day:%Y%m%d}T104031_N0400_R008_T32VNJ_20220701T170000.SAFE/T32VNJ_{day:%Y%m%d}T104031_B02_10m.jp2",
    ):
        found = known(path)
        assert isinstance(found, Delivered) and found.datetime == "", path


def test_today_is_a_date():
    today = dt.datetime.now(dt.UTC).date()
    assert compact_time(f"{today:%Y%m%d}") == metadata_time(f"{today}") == f"{today}"


@pytest.mark.parametrize("text", ["", "x", "2022-13-01", "2022-07-01T25:00:00Z", "202\u0662-07-01", "20220701"])
def test_what_is_no_date_of_metadata(text):
    with pytest.raises(ValueError):
        metadata_time(text)


@pytest.mark.parametrize("fields", [{"DATE_ACQUIRED": "2999-01-01"}, {"SCENE_CENTER_TIME": "99:00:00"}])
def test_the_name_counts_where_the_metadata_has_an_impossible_time(tmp_path, fields):
    name = "LC08_L2SP_193021_20220701_20220713_02_T1"
    (tmp_path / f"{name}_MTL.json").write_text(json.dumps(fields))
    found = recognise(f"{tmp_path.as_posix()}/{name}_SR_B4.TIF", ProductFiles())
    assert isinstance(found, Delivered) and found.datetime == "2022-07-01"
