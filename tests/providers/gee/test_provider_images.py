"""Images of one collection that differ: in the types of their bands, in their bands, and in the
properties that they have."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from rs_embed import ProviderError
from rs_embed.planning.model_info import Frames
from rs_embed.providers import composite
from rs_embed.providers.gee import band_types

from ...support.gee_runs import DECIBEL, IW, S2, Archive, assert_same_chip, chips, settings
from ...support.rasters import at, chip, noise, run, write

#: Relative error of a mean of two numbers of type float32.
ROUNDING = 2e-7
#: Rows and columns of ``at(30, 30)``.
PLACE = np.s_[20:40, 20:40]
DAYS = ("2022-06-10", "2022-07-20", "2022-08-25")


def varied(seed: int, dtype: str, shape=(2, 60, 60)) -> np.ndarray:
    """Pixels that no other of these dtypes represents, with holes of value 0."""
    random = np.random.default_rng(seed)
    if dtype.startswith("f"):
        pixels = random.random(shape)
    else:
        limits = np.iinfo(dtype)
        pixels = random.integers(max(limits.min, -(2**31)), min(limits.max, 2**31), shape)
    pixels[random.random(shape) < 0.3] = 0
    return pixels.astype(dtype)


# types -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["median", "mosaic"])
@pytest.mark.parametrize(
    "dtypes",
    [("uint16", "float64"), ("uint16", "float32", "float32"), ("uint8", "int16", "uint16"), ("float32", "int32")],
    ids="-".join,
)
def test_images_of_different_types(tmp_path, dtypes, how):
    archive = Archive(tmp_path)
    for i, dtype in enumerate(dtypes):
        archive.make(varied(i, dtype), DAYS[i], profile={"nodata": 0})
    with archive.served() as service:
        for frames in (None, Frames("equal", 3)):
            from_gee, from_files, _ = chips(archive, service, at(30, 30), frames, composite=how)
            assert_same_chip(from_gee, from_files, ROUNDING if how == "median" else 0)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int16", "uint32"])
def test_the_types_are_those_of_the_window_and_not_of_the_collection(tmp_path, dtype):
    """The first image of the collection is older than the window."""
    archive = Archive(tmp_path)
    archive.make(noise(0), "2015-07-01")
    for i, day in enumerate(DAYS, 1):
        archive.make(varied(i, dtype), day, profile={"nodata": 0})
    with archive.served() as service:
        for how in ("median", "mosaic"):
            from_gee, from_files, _ = chips(archive, service, at(30, 30), composite=how)
            assert_same_chip(from_gee, from_files, ROUNDING if how == "median" else 0)
            assert np.result_type(from_gee.pixels.dtype, dtype) == from_gee.pixels.dtype


def test_bands_of_different_types(tmp_path):
    archive = Archive(tmp_path)
    for i, day in enumerate(DAYS):
        reflectance = write(tmp_path / f"r{i}.tif", varied(i, "float32", (1, 60, 60)), nodata=0)
        archive.add(write(tmp_path / f"{i}.tif", noise(i, (1, 60, 60))), day, ("B2",), more=[(reflectance, ("B3",))])
    with archive.served() as service:
        for how in ("median", "mosaic"):
            from_gee, from_files, _ = chips(archive, service, at(30, 30), composite=how)
            assert_same_chip(from_gee, from_files, ROUNDING if how == "median" else 0)
            assert from_gee.pixels[1].max() < 1


def test_images_of_one_type_are_not_cast(tmp_path):
    archive = Archive(tmp_path)
    for i, day in enumerate(DAYS):
        archive.make(noise(i), day)
    with archive.served() as service:
        chips(archive, service, at(30, 30))
        text = json.dumps(service.requests["pixels"])
        assert text.count("Image.toFloat") == 1 and "updateMask" not in text


@pytest.mark.parametrize("collection", [S2, "X"])
def test_the_cost_is_an_upper_limit_for_images_of_different_types(tmp_path, monkeypatch, collection):
    """The first images of a collection that is not a product tell nothing about the others."""
    monkeypatch.setattr(band_types, "SAMPLE", 1 if collection == "X" else 100)
    archive = Archive(tmp_path)
    for i, dtype in enumerate(("uint16", "float64", "float32")):
        archive.make(varied(i, dtype), DAYS[i], collection=collection, cloud=None)
    with archive.served() as service:
        made = run(tmp_path, [at(30, 30)], backend="gee", gee=settings(service), collection=collection)
        source, roi = made.plan.sources[0], made.roi(0)
        grid = made.grid(source, roi)
        cost = made.provider.fetch_cost(source, source.bands, grid.height, grid.width)
        got = made.provider.fetch(source, source.bands, roi, grid)
        assert cost.itemsize >= got.pixels.dtype.itemsize == 8
        assert cost.sent >= grid.height * grid.width * (2 * 8 + 1)


# bands -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["median", "mosaic"])
def test_a_band_that_an_image_lacks_has_no_data_there(tmp_path, how):
    archive, images = Archive(tmp_path), []
    for i, (day, bands) in enumerate(zip(DAYS, (("B2",), ("B3", "B2"), ("B2", "B3")))):
        pixels = noise(i, (len(bands), 60, 60))
        pixels[np.random.default_rng(i).random(pixels.shape) < 0.3] = 0
        archive.make(pixels, day, bands=bands, profile={"nodata": 0})
        full = np.array([pixels[bands.index(b)] if b in bands else pixels[0] * 0 for b in ("B2", "B3")])[:, *PLACE]
        images.append((full, full != 0))
    with archive.served() as service:
        about = {"backend": "gee", "gee": settings(service), "collection": S2, "composite": how}
        got, _ = chip(tmp_path, at(30, 30), **about)
        expected, valid = composite.combine(images, how, 0)
        assert np.array_equal(got.pixels, expected) and got.pixels.dtype == expected.dtype
        assert got.coverage == composite.band_coverage(valid)
        got, _ = chip(tmp_path, at(30, 30), Frames("equal", 3), **about)
        for frame, image in zip(got.pixels, images):
            lacking = not image[1][1].any()
            assert np.array_equal(frame, np.array([image[0][0], expected[1] if lacking else image[0][1]]))
        assert [len(w) for w in got.band_warnings] == [0, 1]


@pytest.mark.parametrize("sample", [1, 2, 100])
def test_a_band_that_only_a_later_image_has(tmp_path, monkeypatch, sample):
    monkeypatch.setattr(band_types, "SAMPLE", sample)
    archive = Archive(tmp_path)
    archive.make(noise(0, (1, 60, 60)), "2015-07-01", bands=("B2",))
    archive.make(noise(1, (1, 60, 60)), "2022-06-10", bands=("B2",))
    archive.make(noise(2), "2022-07-20")
    with archive.served() as service:
        about = {"backend": "gee", "gee": settings(service), "collection": S2}
        got, _ = chip(tmp_path, at(30, 30), **about)
        middle = (noise(1, (1, 60, 60))[0].astype("f4") + noise(2)[0]) / 2
        assert np.array_equal(got.pixels, np.array([middle, noise(2)[1]])[:, *PLACE])
        assert service.counts()["value"] == (2 if sample == 100 else 3)
        with pytest.raises(ProviderError, match=r"'B9' is not in the collection .*allowed: B2, B3"):
            run(tmp_path, [at(30, 30)], bands=("B3", "B9"), **about)


def test_a_band_that_no_image_of_a_roi_has(tmp_path):
    archive = Archive(tmp_path)
    archive.make(noise(0), "2022-07-01", profile={"corner": (650000.0, 6350000.0)})
    archive.make(noise(1, (1, 60, 60)), "2022-07-02", bands=("B2",))
    with archive.served() as service:
        got, _ = chip(tmp_path, at(30, 30), backend="gee", gee=settings(service), collection=S2)
        assert got.coverage == (1.0, 0.0)
        assert np.array_equal(got.pixels[0], noise(1, (1, 60, 60))[0, 20:40, 20:40])
        assert got.band_warnings == ((), ("no image here has the band B3",))


# properties --------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["median", "mosaic"])
def test_every_image_has_its_own_properties_whatever_others_lack(tmp_path, how):
    """Without a window, images without a time are used; none is without a footprint here."""
    archive = Archive(tmp_path)
    clouds = (20.0, None, 7.0, None, 3.0)
    days = (None, "2022-07-03", None, "2022-07-01", "2022-07-02")
    for i, (day, cloud) in enumerate(zip(days, clouds)):
        pixels = noise(i)
        pixels[np.random.default_rng(i).random(pixels.shape) < 0.4] = 0
        archive.make(pixels, day, cloud=cloud, profile={"nodata": 0})
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(30, 30), temporal=None, composite=how)
        assert np.array_equal(from_gee.pixels, from_files.pixels)
        assert (from_gee.dates, from_gee.date_is) == ((), ())
        found = {s["scene"]: (s["datetime"], s.get("cloud_cover")) for s in from_gee.provenance["scenes"]}
        assert found == {
            str(i): (day and f"{day}T00:00:00Z", cloud) for i, (day, cloud) in enumerate(zip(days, clouds))
        }
        assert list(found) == ["0", "2", "3", "4", "1"], "by time, those without one first"


def test_images_of_unknown_cloud_cover_are_used(tmp_path):
    archive = Archive(tmp_path)
    for i, (day, cloud) in enumerate(zip(DAYS, (90.0, None, 10.0))):
        archive.make(noise(i), day, cloud=cloud)
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(30, 30), cloudy_pct=30)
        assert_same_chip(from_gee, from_files)
        assert [s["scene"] for s in from_gee.provenance["scenes"]] == ["1", "2"]


def test_a_collection_without_times_has_no_window(tmp_path):
    archive = Archive(tmp_path)
    for i in range(2):
        archive.make(noise(i), None, collection="STATIC", cloud=None)
    with archive.served() as service:
        about = {"backend": "gee", "gee": settings(service), "collection": "STATIC"}
        for _ in range(2):  # also where an earlier start has looked it up
            with pytest.raises(ProviderError, match=r"temporal: the images of 'STATIC' have no time .*temporal null"):
                run(tmp_path, [at(30, 30)], **about)
        from_gee, from_files, _ = chips(archive, service, at(30, 30), temporal=None, collection="STATIC")
        assert np.array_equal(from_gee.pixels, from_files.pixels)
        assert len(from_gee.provenance["scenes"]) == 2


def test_images_without_a_time_are_counted_where_a_window_leaves_them_out(tmp_path):
    archive = Archive(tmp_path)
    for i, day in enumerate((None, "2022-07-01", None)):
        archive.make(noise(i), day, collection="X", cloud=None)
    far = (650000.0, 6350000.0)
    archive.make(noise(3), None, collection="X", cloud=None, profile={"corner": far})
    with archive.served() as service:
        about = {"backend": "gee", "gee": settings(service), "collection": "X"}
        got, _ = chip(tmp_path, at(30, 30), **about)
        assert np.array_equal(got.pixels, noise(1)[:, 20:40, 20:40])
        assert got.warnings == ("X: 2 images have no time (system:time_start), so no window contains them",)
        none, _ = chip(tmp_path, at(30, 30, corner=far), **about)
        assert none.valid == 0
        assert none.warnings == (
            "there is no imagery: 0 images of X in 2022-06-01..2022-09-01, 1 without a time, which no window contains",
        )


def test_radar_images_of_unknown_mode_are_not_iw(tmp_path):
    archive = Archive(tmp_path)
    unknown = {k: v for k, v in IW.items() if k != "instrumentMode"}
    for i, properties in enumerate((unknown, IW, unknown)):
        pixels = np.random.default_rng(i).random((2, 60, 60)).astype("float32") - 20
        archive.make(pixels, DAYS[i], bands=("VV", "VH"), collection=DECIBEL, cloud=None, **properties)
    with archive.served() as service:
        about = {"backend": "gee", "gee": settings(service), "collection": DECIBEL, "bands": ("VV", "VH")}
        made = run(tmp_path, [at(30, 30)], **about)
        source, roi = made.plan.sources[0], made.roi(0)
        for required, expected in ((True, [("1", "IW")]), (False, [("0", None), ("1", "IW"), ("2", None)])):
            identity = source.identity | {"s1": {"s1_require_iw": required}}
            one = dataclasses.replace(source, id=f"s{required}", identity=identity)
            got = made.provider.fetch(one, one.bands, roi, made.grid(one, roi))
            assert [(s["scene"], s.get("mode")) for s in got.provenance["scenes"]] == expected
