"""Pixels of Earth Engine, over HTTP with its client: the same as those of the same files read from
a folder."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rs_embed import BBox, ExportConfig, PointBuffer, TemporalSpec
from rs_embed.planning.model_info import Frames
from rs_embed.providers.gee import band_types, composites, images, parts
from rs_embed.runs.run_files import freeze_run

from ...support.gee_runs import DECIBEL, IW, LINEAR, S2, Archive, assert_same_chip, chips, settings
from ...support.rasters import ORIGIN, at, chip, noise, run
from ..rasters.test_local import PLACES, S2_BANDS, SHARED, real


@real
@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
@pytest.mark.parametrize("box", [False, True], ids=["point", "box"])
@pytest.mark.parametrize("name", PLACES)
def test_real_sentinel_2_is_the_same_as_from_its_file(tmp_path, name, box, projection):
    archive = Archive(tmp_path)
    archive.add(SHARED / "s2_l2a" / f"{name}.tif", "2022-07-01", S2_BANDS, cloud=5.0)
    lon, lat = PLACES[name]
    spatial = BBox(lon - 0.004, lat - 0.003, lon + 0.005, lat + 0.002) if box else PointBuffer(lon, lat, 700)
    with archive.served() as service:
        for how in ("median", "mosaic"):
            from_gee, from_files, _ = chips(
                archive, service, spatial, bands=S2_BANDS, composite=how, config=ExportConfig(projection=projection)
            )
            assert_same_chip(from_gee, from_files)
            assert (from_gee.pixels.dtype, from_gee.valid) == (np.int16, 1.0)
        assert service.counts() == {"start": 3, "value": 4, "pixels": 2}


@real
@pytest.mark.parametrize("name", PLACES)
def test_real_sentinel_1_in_decibel_and_linear_power(tmp_path, name):
    archive = Archive(tmp_path)
    archive.add(SHARED / "s1_rtc" / f"{name}.tif", "2022-07-01", ("VV", "VH"), DECIBEL, None, **IW)
    with archive.served() as service:
        spatial = PointBuffer(*PLACES[name], 700)
        for collection in (DECIBEL, LINEAR):
            from_gee, from_files, _ = chips(archive, service, spatial, collection=collection, bands=("VV", "VH"))
            assert from_gee.pixels.dtype == from_files.pixels.dtype == np.float64
            assert np.array_equal(from_gee.pixels, from_files.pixels)
            assert from_gee.provenance["scenes"][0]["units"] == {DECIBEL: "dB", LINEAR: "linear power"}[collection]


def archive_with_holes(tmp_path, days=("2022-07-03", "2022-07-01", "2022-07-02"), **more) -> Archive:
    """Images with holes, not in order."""
    archive = Archive(tmp_path)
    for i, day in enumerate(days):
        pixels = noise(i)
        pixels[np.random.default_rng(i).random(pixels.shape) < 0.4] = 0
        archive.make(pixels, day, profile={"nodata": 0}, **more)
    return archive


@pytest.mark.parametrize("fill", [0, 7, -1.5])
@pytest.mark.parametrize("how", ["median", "mosaic"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_composites_of_masked_images(tmp_path, count, how, fill):
    archive = archive_with_holes(tmp_path, ("2022-07-03", "2022-07-01", "2022-07-02")[:count])
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(28, 30, 300), composite=how, fill_value=fill)
        assert 0.4 < from_gee.valid < 0.99
        assert_same_chip(from_gee, from_files)


def test_validity_is_stored_for_each_band(tmp_path):
    """40 bands: two bands of bits."""
    bands, archive = tuple(f"b{i}" for i in range(40)), Archive(tmp_path)
    pixels = noise(0, (40, 30, 30))
    for i in range(40):
        pixels[i].ravel()[: 20 * i] = 0
    archive.make(pixels, "2022-07-01", bands=bands, collection="X", cloud=None, profile={"nodata": 0})
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(15, 15, 150), collection="X", bands=bands)
        assert_same_chip(from_gee, from_files)
        assert len(set(from_gee.coverage)) == 40


def test_the_window_is_half_open_the_cloud_limit_inclusive_and_years_are_windows(tmp_path):
    archive = Archive(tmp_path)
    for day, cloud in (("2021-12-31T23:59:59", 0), ("2022-01-01", 30), ("2022-12-31T23:59:59", 1), ("2023-01-01", 0),
                       ("2022-07-01", 30.5)):  # fmt: skip
        archive.make(noise(len(archive.rows)), day, cloud=cloud)
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(30, 30), temporal=TemporalSpec.year(2022))
        assert_same_chip(from_gee, from_files)
        assert [s["scene"] for s in from_gee.provenance["scenes"]] == ["1", "2"]
        assert list(from_gee.provenance["counts"].values()) == [3, 2]
        all_of_them, _, _ = chips(archive, service, at(30, 30), temporal=None, cloudy_pct=100)
        assert (len(all_of_them.provenance["scenes"]), all_of_them.dates) == (5, ())


def test_frames_and_a_bin_without_imagery(tmp_path):
    archive = archive_with_holes(tmp_path, ("2022-06-01", "2022-06-20", "2022-08-31"))
    with archive.served() as service:
        for how in ("median", "mosaic"):
            from_gee, from_files, _ = chips(archive, service, at(30, 30, 300), Frames("equal", 3), composite=how)
            assert_same_chip(from_gee, from_files)
            assert from_gee.pixels.shape == (3, 2, 60, 60)
            assert [f.get("empty") for f in from_gee.provenance["frames"]] == [None, True, None]
        assert service.counts()["pixels"] == 2, "all frames in one request"


def test_a_band_without_pixels_in_a_bin_comes_from_the_whole_window(tmp_path):
    archive = Archive(tmp_path)
    for i, day in enumerate(("2022-06-01", "2022-07-20")):
        pixels = noise(i)
        pixels[i:] = pixels[i:] if i == 0 else 0
        archive.make(pixels, day, profile={"nodata": 0})
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(30, 30, 300), Frames("equal", 2))
        assert_same_chip(from_gee, from_files)
        assert "empty" not in from_gee.provenance["frames"][1]
        assert len(from_gee.band_warnings[1]) == 1 and not from_gee.band_warnings[0]
        assert service.counts()["pixels"] == 2


def test_a_failed_request_is_not_an_empty_bin(tmp_path):
    from rs_embed import ProviderError

    from ...support.earth_engine import UNAVAILABLE

    archive = archive_with_holes(tmp_path, ("2022-06-01", "2022-08-31"))
    with archive.served(faults=[UNAVAILABLE]) as service, pytest.raises(ProviderError, match="answers 503") as found:
        chips(archive, service, at(30, 30), Frames("equal", 3))
    assert found.value.retryable


def test_a_roi_without_imagery_lists_the_images_after_each_filter(tmp_path):
    archive = Archive(tmp_path)
    archive.make(noise(0), "2022-07-01", cloud=80.0)
    archive.make(noise(1), "2022-07-02", cloud=90.0)
    with archive.served() as service:
        for spatial, counts in ((at(30, 30), [2, 0]), (PointBuffer(3, 3, 100), [0, 0])):
            got, _ = chip(tmp_path, spatial, backend="gee", gee=settings(service), collection=S2)
            assert (got.valid, got.pixels.shape) == (0.0, (2, 0, 0))
            assert list(got.provenance["counts"].values()) == counts
            assert got.warnings == (
                f"there is no imagery: {counts[0]} images of {S2} in 2022-06-01..2022-09-01, 0 with "
                "CLOUDY_PIXEL_PERCENTAGE <= 30",
            )
        assert service.counts()["pixels"] == 0


def test_cloud_properties_depend_on_the_collection(tmp_path):
    for collection, name in {
        S2: "CLOUDY_PIXEL_PERCENTAGE",
        "COPERNICUS/S2_SR": "CLOUDY_PIXEL_PERCENTAGE",
        "LANDSAT/LC08/C02/T1_L2": "CLOUD_COVER",
        "LANDSAT/LE07/C02/T1_TOA": "CLOUD_COVER",
        "LANDSAT/COMPOSITES/C02/T1_L2_32DAY": None,
        "MODIS/061/MOD09GA": None,
        "COPERNICUS/DEM/GLO30": None,
        DECIBEL: None,
    }.items():
        assert images.cloud_property(collection) == name
    archive = Archive(tmp_path)
    archive.make(noise(0), "2022-07-01", collection="MODIS/061/MOD09GA", cloud=None)
    archive.make(noise(1), "2022-07-01", collection="LANDSAT/LC08/C02/T1_L2", cloud=None, CLOUD_COVER=31)
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(30, 30), collection="MODIS/061/MOD09GA")
        assert_same_chip(from_gee, from_files)
        none, _ = chip(tmp_path, at(30, 30), backend="gee", gee=settings(service), collection="LANDSAT/LC08/C02/T1_L2")
        assert list(none.provenance["counts"].values()) == [1, 0]


def test_bands_by_common_names(tmp_path):
    archive = Archive(tmp_path)
    archive.make(noise(0, (3, 60, 60)), "2022-07-01", bands=("B2", "B4", "B8A"))
    with archive.served() as service:
        about = {"backend": "gee", "gee": settings(service), "collection": S2}
        plain, _ = chip(tmp_path, at(30, 30), bands=("B4", "B8A", "B2"), **about)
        named, _ = chip(tmp_path, at(30, 30), bands=("RED", "nir_narrow", "Blue", "B4"), **about)
        assert np.array_equal(named.pixels[:3], plain.pixels)
        assert np.array_equal(named.pixels[3], plain.pixels[0])
    assert images.resolve_alias("LANDSAT/LC09/C02/T1_L2", "SWIR2") == "SR_B7"
    assert images.resolve_alias("LANDSAT/LT05/C02/T1_L2", "RED") == "SR_B3"
    assert images.resolve_alias("COPERNICUS/DEM/GLO30", "RED") == "RED"


# Sentinel-1 --------------------------------------------------------------------------------------


def radar_archive(tmp_path, *scenes: dict) -> Archive:
    archive = Archive(tmp_path)
    for i, about in enumerate(scenes):
        bands = ("VV", "VH") if "VH" in (IW | about)["transmitterReceiverPolarisation"] else ("VV",)
        pixels = np.random.default_rng(i).random((len(bands), 60, 60)).astype("float32") * 20 - 25
        archive.make(pixels, f"2022-07-{i + 1:02d}", bands=bands, collection=DECIBEL, cloud=None, **(IW | about))
    return archive


def s1_scenes(archive: Archive, service, **changes) -> tuple[list, dict]:
    """Scenes and provenance of a chip in dB for a source of the modality s1."""
    import dataclasses

    made = run(
        archive.folder, [at(30, 30)], backend="gee", gee=settings(service), collection=DECIBEL, bands=("VV", "VH")
    )
    source, roi = made.plan.sources[0], made.roi(0)
    source = dataclasses.replace(source, identity=source.identity | {"s1": changes})
    got = made.provider.fetch(source, source.bands, roi, made.grid(source, roi))
    return [s["scene"] for s in got.provenance["scenes"]], got.provenance | {"pixels": got.pixels}


def test_sentinel_1_has_both_polarisations_and_prefers_iw(tmp_path):
    single, wide = {"transmitterReceiverPolarisation": ["VV"]}, {"instrumentMode": "EW"}
    archive = radar_archive(tmp_path, single, wide, {}, {"orbitProperties_pass": "DESCENDING"})
    with archive.served() as service:
        scenes, answer = s1_scenes(archive, service)
        assert scenes == ["2", "3"]
        assert list(answer["counts"].values()) == [4, 3, 2]
        assert "relaxed" not in answer
        assert s1_scenes(archive, service, orbit="ASCENDING")[0] == ["2"]
        assert s1_scenes(archive, service, s1_require_iw=False)[0] == ["1", "2", "3"]
        from_gee, from_files, _ = chips(
            archive, service, at(30, 30), collection=DECIBEL, bands=("VV", "VH"),
            temporal=TemporalSpec.range("2022-07-03", "2022-08-01"),
        )  # fmt: skip
        assert_same_chip(from_gee, from_files)


def test_other_modes_are_used_without_iw_images_and_recorded(tmp_path):
    archive = radar_archive(tmp_path, {"instrumentMode": "EW"}, {"instrumentMode": "SM"})
    with archive.served() as service:
        scenes, answer = s1_scenes(archive, service)
        assert scenes == ["0", "1"]
        assert "not" not in answer["counts"] and "no image in IW mode" in answer["relaxed"]
        assert [s["mode"] for s in answer["scenes"]] == ["EW", "SM"]
        strict, answer = s1_scenes(archive, service, s1_relax_iw_on_empty=False)
        assert (strict, answer["counts"]["in IW mode"], answer["pixels"].size) == ([], 0, 0)


# requests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [30_000, 5_000, 300])
def test_requests_above_the_limit_are_split_and_joined_exactly(tmp_path, monkeypatch, limit):
    archive = archive_with_holes(tmp_path)
    with archive.served(limit=limit) as service:
        monkeypatch.setattr(parts, "MAX_BYTES", limit)
        from_gee, from_files, grid = chips(archive, service, at(30, 30, 300))
        assert_same_chip(from_gee, from_files)
        sizes = [b["grid"]["dimensions"] for b in service.requests["pixels"]]
        assert sum(s["width"] * s["height"] for s in sizes) == grid.width * grid.height == 3600
        assert len(sizes) >= 3600 * 9 / limit


def test_more_bands_than_one_request_may_have_are_archive_with_holes(tmp_path, monkeypatch):
    archive = archive_with_holes(tmp_path, ("2022-06-01", "2022-07-15", "2022-08-31"))
    monkeypatch.setattr(composites, "MAX_PLANES", 4)
    with archive.served() as service:
        from_gee, from_files, _ = chips(archive, service, at(30, 30), Frames("equal", 3))
        assert_same_chip(from_gee, from_files)
        assert service.counts()["pixels"] == 2


def test_parts_cover_an_image_once():
    for height, width, area in ((1, 1, 1), (7, 5, 6), (100, 3, 10), (3, 100, 1), (64, 64, 4096)):
        seen = np.zeros((height, width), int)
        for rows, columns in parts.split_area(height, width, area):
            seen[rows, columns] += 1
            assert seen[rows, columns].size <= area
        assert (seen == 1).all()


def test_a_request_has_the_exact_grid_nothing_secret_and_one_composite(tmp_path):
    archive = archive_with_holes(tmp_path)
    with archive.served() as service:
        chips(archive, service, at(30.2, 30.7, 155))
        (body,) = service.requests["pixels"]
        grid = body["grid"]
        assert grid["crsCode"] == "EPSG:32632"
        assert grid["dimensions"] == {"width": 31, "height": 31}
        assert grid["affineTransform"]["translateX"] == ORIGIN[0] + 150
        assert (
            grid["affineTransform"] | {"scaleX": 10, "scaleY": -10, "shearX": 0, "shearY": 0} == grid["affineTransform"]
        )
        assert body["fileFormat"] == "NPY"
        assert "reproject" not in json.dumps(body), "pixels are computed on the request's grid"
        assert all("Authorization" not in h and "authorization" not in h for h in service.headers)
        assert all(
            h["X-Goog-User-Project"] == "test-project" for h in service.headers[1:] if "X-Goog-User-Project" in h
        )


def test_types_of_bands_become_numpy_dtypes():
    kinds = {"a": ("uint8", 0, 255), "b": ("int8", -1, 5), "c": ("uint16", 0, 10000), "d": ("int16", -100, 16000),
             "e": ("uint32", 0, 2**32 - 1), "f": ("int32", -5, 70000)}  # fmt: skip
    signature = [(k, "int", low, high) for k, (_, low, high) in kinds.items()]
    signature += [("g", "float", None, None), ("h", "double", None, None), ("i", "int", None, None)]
    assert band_types.parse_signature(signature) == {k: v[0] for k, v in kinds.items()} | {
        "g": "float32",
        "h": "float64",
        "i": "int32",
    }


@pytest.mark.parametrize(
    "answer",
    [
        {"provider": [1]},
        {"provider": {"types": [1]}},
        {"provider": {"types": {S2: None}}},
        {"provider": {"types": {S2: {"B2": "zzz", "B3": "uint16"}}}},
        "[" * 200000,
        None,
    ],
    ids=["list", "types", "null", "dtype", "deep", "folder"],
)
def test_stored_types_of_other_runs_are_checked(tmp_path, answer):
    from rs_embed.runs.run_files import seal

    archive = archive_with_holes(tmp_path)
    with archive.served() as service:
        about = {"backend": "gee", "gee": settings(service), "collection": S2}
        first = run(tmp_path, [at(28, 30, 300)], **about)
        freeze_run(first)
        (path,) = (first.store.root / "providers").glob("*.json")
        (first.dir / "imagery.json").unlink()
        if answer is None:
            path.unlink()
            path.mkdir()
        else:
            path.write_text(answer if isinstance(answer, str) else seal(answer))
        before = service.counts()["value"]
        again = run(tmp_path, [at(28, 30, 300)], **about)
        assert service.counts()["value"] == before + 1, "it is requested again"
        assert again.plan.sources[0].id == first.plan.sources[0].id
        if answer is not None:
            freeze_run(again)
            assert set(json.loads(path.read_text())["provider"]["types"]) == {S2}
            (first.dir / "imagery.json").unlink()
            run(tmp_path, [at(28, 30, 300)], **about)
            assert service.counts()["value"] == before + 1, "now it is known"
