"""Dates, bands and scenes in names: by convention, or where they are unambiguous; never digits of
something else."""

from __future__ import annotations

import datetime as dt
import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_embed.cli import main
from rs_embed.providers.rasters.catalogue import read_catalogue
from rs_embed.providers.rasters.file_names import AMBIGUOUS, find_time, parse_band

from ...support.factories import PROPERTY
from ...support.rasters import noise, write


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        # Landsat: the second date is that of the processing; path and row are no date
        ("LC08_L2SP_193027_20220701_20220713_02_T1_clip.tif", "2022-07-01"),
        ("LC08_L1TP_200012_20220701_20230113_02_T1_B4_x.tif", "2022-07-01"),
        ("LT05_199031_20090702.tif", "2009-07-02"),
        ("LC81930272014200LGN00_B4.tif", "2014-07-19"),
        ("LE07_CU_004012_20150302_20210427_02_SR.tif", "2015-03-02"),
        # Sentinel-2: the last time is that of the processing
        ("S2B_MSIL2A_20180101T104031_N0500_R008_T32VNJ_20230815T101010.tif", "2018-01-01T10:40:31Z"),
        ("20220701T104031_20220702T104027_T32VNJ.tif", "2022-07-01T10:40:31Z"),
        ("L2A_T32VNJ_20220701T104031_B04_10m.tif", "2022-07-01T10:40:31Z"),
        # day of the year
        ("HLS.S30.T17SLU.2020209T155956.v2.0.B8A_x.tif", "2020-07-27T15:59:56Z"),
        ("MCD43A4.A2024060.h09v05.061.2024069030912.Band1.tif", "2024-02-29"),
        ("VNP09GA.A2024001.h09v05.002.2024003023436.tif", "2024-01-01"),
        ("MOD13Q1.061__250m_16_days_NDVI_doy2022177_aid0001.tif", "2022-06-26"),
        # Sentinel-1: the orbit and the datatake are no date
        ("S1A_IW_GRDH_1SDV_20220701T053424_20220701T053449_043904_053DC9_A1B2_Orb_TC.tif", "2022-07-01T05:34:24Z"),
        ("S1A_IW_20180128T161201_DVP_RTC30_G_gpuned_FD6A_VV_x.tif", "2018-01-28T16:12:01Z"),
        ("s1a-iw-grd-vv-20220701t053424-20220701t053449-043904-053dc9-001_x.tif", "2022-07-01T05:34:24Z"),
        ("20220701_103045_12_2403_3B_AnalyticMS_SR_8b.tif", "2022-07-01T10:30:45Z"),
        # the folder of a product, where the file has no date of its own
        ("S2B_MSIL2A_20180101T104031_N0500_R008_T32VNJ_20230815T101010/stack.tif", "2018-01-01T10:40:31Z"),
        # other names: the only date
        ("field_7_20220701.tif", "2022-07-01"),
        ("field 2022-07-01T10:00:00Z.tif", "2022-07-01T10:00:00Z"),
        ("20220701101112_x.tif", "2022-07-01T10:11:12Z"),
        ("x_2022_07_01.tif", "2022-07-01"),
        ("20220701_a_20220701.tif", "2022-07-01"),
        ("2022-07-01/B02.tif", "2022-07-01"),
        ("2021-01-01/x/tile_20220701.tif", "2022-07-01"),
        ("tile_20991231_20220701.tif", "2022-07-01"),  # the future is no date
    ],
)
def test_the_date_of_a_name(path, expected):
    assert find_time(path, {})[0] == expected


@pytest.mark.parametrize(
    "path",
    [
        "tile_19990101_v20240501.tif",
        "20220701_20220731.tif",
        "composite_2022-07-01_2022-07-31/a.tif",
        "x_2020209.tif",  # a day of the year, or a number
        "x_2020209_20230101.tif",
        "S2B_MSIL2A_20180101T104031_N0500_R008_T32VNJ_20230815T101010/other_20190101.tif",
    ],
)
def test_several_dates_are_none(path):
    assert find_time(path, {}) == (None, AMBIGUOUS)
    assert find_time(path, {"TIFFTAG_DATETIME": "2022:07:01 10:00:00"}) == (None, AMBIGUOUS)


@pytest.mark.parametrize(
    "name",
    [
        "20231301",
        "20240230",
        "25062023",
        "193027",
        "20991231",
        "2020400",
        "120220701",
        "202207011",
        "199030_20",
        "043904",
    ],
)
def test_no_date(name):
    assert find_time(f"x_{name}.tif", {}) == (None, "")


def test_tags_count_after_conventions_and_before_other_names():
    tags = {"datetime": "2022-07-05T10:00:00.000000000"}
    assert find_time("LC08_L2SP_193027_20220701_20220713_02_T1_x.tif", tags)[0] == "2022-07-01"
    assert find_time("x_20200101.tif", tags) == ("2022-07-05T10:00:00Z", "tag datetime")
    assert find_time("x.tif", {"TIFFTAG_DATETIME": "2022:07:01 10:00:00"}) == (
        "2022-07-01T10:00:00Z",
        "tag TIFFTAG_DATETIME",
    )
    assert find_time("x.tif", {"datetime": "2999-01-01"}) == (None, "")


@PROPERTY
@given(
    path=st.integers(1, 233),
    row=st.integers(1, 248),
    day=st.dates(dt.date(1982, 8, 22), dt.date(2024, 12, 31)),
    processed=st.dates(dt.date(2020, 8, 1), dt.date(2025, 12, 31)),
    form=st.sampled_from(["LC08_L2SP_{0}_{1}_{2}_02_T1", "LE07_L1TP_{0}_{1}_{2}_02_T2_x", "LT05_{0}_{1}"]),
)
def test_no_path_and_row_becomes_a_date(path, row, day, processed, form):
    name = form.format(f"{path:03}{row:03}", f"{day:%Y%m%d}", f"{processed:%Y%m%d}")
    assert find_time(f"{name}.tif", {})[0] == day.isoformat()


def test_bands_of_names():
    assert parse_band("a/LC08_x_SR_B4_clip.tif") == ("SR_B4", "a/LC08_x_clip")
    assert parse_band("R10m/T32VNJ_20220701T104031_B02_10m.jp2") == ("B2", "T32VNJ_20220701T104031")
    assert parse_band("20220701/vv.tif") == ("VV", "20220701")
    assert parse_band("field_B.tif") is None


def test_files_of_a_scene_with_different_dates_are_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    for band, day in (("B02", "2022-07-01"), ("B03", "2022-07-09")):
        write(tmp_path / f"x_{band}.tif", noise(0)[:1], tags={"ACQUISITION_DATE": day})
    write(tmp_path / "y_B02.tif", noise(0)[:1], tags={"ACQUISITION_DATE": "2022-07-01"})
    write(tmp_path / "y_B03.tif", noise(1)[:1])
    assert main(["catalogue", str(tmp_path), "--collection", "S2"]) == 1
    error = capsys.readouterr().err
    assert "--datetime is missing" in error and "several dates" in error and "x_B02.tif" in error
    assert main(["catalogue", str(tmp_path), "--collection", "S2", "--datetime", "2022-07-02"]) == 0
    rows = {r.path: r.date for r in read_catalogue(str(tmp_path / "catalogue.csv"))}
    assert rows == {"x_B02.tif": "2022-07-02", "x_B03.tif": "2022-07-02"} | dict.fromkeys(
        ("y_B02.tif", "y_B03.tif"), "2022-07-01"
    )
