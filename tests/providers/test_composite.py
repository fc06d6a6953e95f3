"""Scenes, composites, windows, frames, and forms of one product."""

from __future__ import annotations

import datetime as dt
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_embed import TemporalSpec
from rs_embed.planning.model_info import Frames
from rs_embed.providers import composite
from rs_embed.providers.composite import frame_dates, midpoint, time_bins

from ..support.rasters import at, catalogue, chip, noise, write

# composites and scenes ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_the_median_is_that_of_numpy_over_valid_pixels(tmp_path, count):
    images = np.stack([noise(i, dtype="int16") for i in range(count)])
    images[np.random.default_rng(9).random(images.shape) < 0.3] = -1
    images[:, 0, :25] = -1
    for i, image in enumerate(images):
        write(tmp_path / f"{i}.tif", image, nodata=-1)
    catalogue(tmp_path, *({"path": f"{i}.tif", "datetime": f"2022-07-{i + 1:02d}"} for i in range(count)))
    got, _ = chip(tmp_path, at(30, 30, 300))
    masked = np.ma.masked_equal(images, -1).astype("float64")
    assert got.pixels.dtype == np.float32
    assert np.array_equal(got.pixels, np.ma.median(masked, axis=0).filled(0).astype("float32"))
    assert got.valid == pytest.approx((~masked.mask.all(axis=0)).mean())


def test_a_mosaic_has_the_latest_valid_pixel_in_the_dtype_of_the_files(tmp_path):
    old, new = noise(0), noise(1)
    new[:, :30] = 0
    write(tmp_path / "z_old.tif", old)
    write(tmp_path / "a_new.tif", new, nodata=0)
    rows = [{"path": "a_new.tif", "datetime": "2022-07-02T10:00:00+02:00"}, {"path": "z_old.tif"}]
    for order in (rows, rows[::-1]):
        catalogue(tmp_path, *order)
        got, _ = chip(tmp_path, at(30, 30, 300), composite="mosaic")
        assert got.pixels.dtype == np.uint16
        assert np.array_equal(got.pixels, np.where(new == 0, old, new))
    assert [s["datetime"] for s in got.provenance["scenes"]] == ["2022-07-01T00:00:00Z", "2022-07-02T08:00:00Z"]


def test_a_scene_of_a_file_per_band_is_one_image(tmp_path):
    pixels = noise(0)
    write(tmp_path / "x_B2.tif", pixels[:1])
    write(tmp_path / "x_B3.tif", pixels[1:, ::2, ::2], scale=20.0)
    rows = [{"path": f"x_{b}.tif", "bands": b, "scene": "x"} for b in ("B3", "B2")]
    catalogue(tmp_path, *rows)
    got, _ = chip(tmp_path, at(30, 30, 300), bands=("B2", "B3"))
    assert np.array_equal(got.pixels[0], pixels[0])
    assert np.array_equal(got.pixels[1], pixels[1, ::2, ::2].repeat(2, 0).repeat(2, 1))
    assert got.pixels.dtype == np.uint16
    assert got.provenance["scenes"][0]["files"] == ["x_B2.tif", "x_B3.tif"]


def test_the_window_is_half_open_and_the_cloud_limit_inclusive(tmp_path):
    rows = []
    for i, (day, cloud) in enumerate(
        [("2022-05-31", 0), ("2022-06-01", 30), ("2022-08-31T23:59:59", None), ("2022-09-01", 0), ("2022-07-01", 31)]
    ):
        write(tmp_path / f"{i}.tif", noise(i))
        rows.append({"path": f"{i}.tif", "datetime": day, "cloud_cover": cloud})
    catalogue(tmp_path, *[{k: "" if v is None else v for k, v in r.items()} for r in rows])
    got, _ = chip(tmp_path, at(30, 30, 100))
    assert [s["scene"] for s in got.provenance["scenes"]] == ["1.tif", "2.tif"]
    everything, _ = chip(tmp_path, at(30, 30, 100), temporal=None, cloudy_pct=100)
    assert len(everything.provenance["scenes"]) == 5
    assert everything.dates == ()
    assert got.dates == ("2022-07-17",)


# frames ------------------------------------------------------------------------------------------


def test_frames_are_the_composites_of_their_bins_with_a_warning_for_an_empty_one(tmp_path):
    days = ["2022-06-01", "2022-06-20", "2022-08-31"]
    images = [noise(i) for i in range(3)]
    for i, image in enumerate(images):
        write(tmp_path / f"{i}.tif", image)
    catalogue(tmp_path, *({"path": f"{i}.tif", "datetime": day} for i, day in enumerate(days)))
    got, _ = chip(tmp_path, at(30, 30, 300), Frames("equal", 3))
    assert got.pixels.shape == (3, 2, 60, 60)
    assert np.array_equal(got.pixels[0], np.mean(images[:2], axis=0).astype("float32"))
    assert np.array_equal(got.pixels[1], np.median(images, axis=0).astype("float32"))
    assert np.array_equal(got.pixels[2], images[2])
    assert got.dates == ("2022-06-16", "2022-07-17", "2022-08-31")
    assert got.date_is == ("bin_middle", "window_middle", "acquisition")
    assert got.warnings == (
        "frame 1 (2022-07-01..2022-08-01) has no imagery, the composite of the whole window stands in",
    )
    assert [f.get("empty") for f in got.provenance["frames"]] == [None, True, None]
    assert [f["scenes"] for f in got.provenance["frames"]] == [["0.tif", "1.tif"], [], ["2.tif"]]


@pytest.mark.parametrize(
    ("window", "frames", "count", "first", "last"),
    [
        (
            ("2022-06-01", "2022-09-01"),
            Frames("equal", 4),
            4,
            ("2022-06-01", "2022-06-24"),
            ("2022-08-09", "2022-09-01"),
        ),
        (
            ("2022-06-01", "2022-06-03"),
            Frames("equal", 4),
            2,
            ("2022-06-01", "2022-06-02"),
            ("2022-06-02", "2022-06-03"),
        ),
        (
            ("2022-01-01", "2022-03-15"),
            Frames("fixed", 12, 30),
            3,
            ("2022-01-01", "2022-01-31"),
            ("2022-03-02", "2022-03-15"),
        ),
        (
            ("2022-01-01", "2023-01-01"),
            Frames("fixed", 12, 30),
            12,
            ("2022-01-01", "2022-01-31"),
            ("2022-11-27", "2022-12-27"),
        ),
        (
            ("2022-01-01", "2024-01-01"),
            Frames("fixed", 12, 30),
            12,
            ("2022-01-01", "2022-03-02"),
            ("2023-11-01", "2024-01-01"),
        ),
        (("2022-01-01", "2022-02-01"), Frames(), 1, ("2022-01-01", "2022-02-01"), ("2022-01-01", "2022-02-01")),
    ],
)
def test_bins_follow_each_other(window, frames, count, first, last):
    made = composite.time_bins(TemporalSpec.range(*window), frames)
    assert (len(made), made[0], made[-1]) == (count, first, last)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(made))
    assert all(start < end for start, end in made)


# forms of one product ----------------------------------------------------------------------------


def test_decibel_and_linear_power_are_converted_into_each_other(tmp_path):
    power = np.random.default_rng(0).random((2, 60, 60)).astype("float32") + 0.001
    power[0, 0, 0] = 0
    write(tmp_path / "p.tif", power)
    write(tmp_path / "d.tif", (10 * np.log10(np.where(power > 0, power, 1))).astype("float64"))
    row = {"path": "p.tif", "collection": "COPERNICUS/S1_GRD_FLOAT", "bands": "VV VH"}
    catalogue(tmp_path, row)
    want = {"collection": "COPERNICUS/S1_GRD", "bands": ("VV", "VH")}
    got, _ = chip(tmp_path, at(30, 30, 300), **want)
    assert np.allclose(got.pixels[1], 10 * np.log10(power[1]), atol=1e-5)
    assert got.pixels[0, 0, 0] == 0
    assert got.valid == pytest.approx(1 - 1 / 7200), "a power of 0 has no dB"
    catalogue(tmp_path, {"path": "d.tif", "collection": "COPERNICUS/S1_GRD", "bands": "VV VH"})
    linear, _ = chip(tmp_path, at(30, 30, 300), collection="COPERNICUS/S1_GRD_FLOAT", bands=("VV", "VH"))
    assert np.allclose(linear.pixels[1], power[1], rtol=1e-6)
    assert linear.provenance["scenes"][0]["units"] == "dB"
    catalogue(tmp_path, {"path": "d.tif", "collection": "COPERNICUS/S1_GRD", "bands": "VV VH"}, row)
    exact, _ = chip(tmp_path, at(30, 30, 300), **want)
    assert [s["scene"] for s in exact.provenance["scenes"]] == ["d.tif"], (
        "the collection itself comes before its other form"
    )


DAYS = st.lists(st.integers(0, 89), max_size=6)


@given(DAYS, st.integers(1, 5), st.data())
def test_the_date_of_a_frame_is_that_of_its_images_if_they_are_of_one_day(days, count, data):
    window = TemporalSpec.range("2022-06-01", "2022-08-30")
    bins = time_bins(window, Frames("equal", count))
    start = dt.date(2022, 6, 1)
    dates = [(start + dt.timedelta(days=d)).isoformat() for d in days]
    empty = [not any(a <= d < b for d in dates) for a, b in bins]
    found, kinds = frame_dates((window.start, window.end), bins, dates, empty)
    for (a, b), date, kind, replaced in zip(bins, found, kinds, empty, strict=True):
        inside = {d for d in dates if replaced or a <= d < b}
        if len(inside) == 1:
            assert (date, kind) == (inside.pop(), "acquisition")
        else:
            used = [(a, b) for a, b in bins if any(a <= d < b for d in dates)]
            if replaced and len(used) != 1:
                expected = midpoint(window.start, window.end), "window_middle"
            else:
                expected = midpoint(*(used[0] if replaced else (a, b))), "bin_middle"
            assert (date, kind) == expected


def test_without_a_window_only_images_of_one_day_have_a_date():
    assert frame_dates(None, [], ["2022-06-01", "2022-06-01"]) == (("2022-06-01",), ("acquisition",))
    assert frame_dates(None, [], ["2022-06-01", "2022-06-02"]) == ((), ())
    assert frame_dates(None, [], []) == ((), ())


def test_float16_becomes_float32_which_every_format_can_store():
    half = np.dtype(np.float16)
    assert composite.composite_dtype([half], 1, "mosaic", 0.0) == np.float32
    assert composite.composite_dtype([half, np.dtype(np.uint8)], 2, "median", -9999.0) == np.float32
    values = np.arange(6, dtype=np.float16).reshape(1, 2, 3)
    found, _ = composite.combine([(values, np.ones(values.shape, bool))] * 2, "median", 0.0)
    assert found.dtype == np.float32 and np.array_equal(found, values)
