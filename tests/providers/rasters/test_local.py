"""The provider of the user's rasters: pixels compared with rasterio's warp, composites and frames
with numpy."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rs_embed import BBox, ModelError, PointBuffer, ProviderError, SensorSpec, SpecError, TemporalSpec, load_export
from rs_embed.providers.rasters import raster_io, scenes
from rs_embed.runs.run_files import freeze_run, load_run

from ...support.exports import CHECKOUT, combined, export
from ...support.factories import assert_refusal
from ...support.rasters import ORIGIN, WINDOW, at, catalogue, chip, noise, run, warped, write

SHARED = CHECKOUT.parent / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="the real chips are not available")
S2_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
PLACES = {"38D_378R_2_3": (34.0660, -3.4014), "637U_59R_1_3": (9.8449, 57.2269)}


@real
@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
@pytest.mark.parametrize("box", [False, True], ids=["point", "box"])
@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("sensor", ["s2_l2a", "s1_rtc"])
def test_real_pixels_are_those_of_rasterios_warp(name, box, projection, sensor):
    lon, lat = PLACES[name]
    spatial = BBox(lon - 0.004, lat - 0.003, lon + 0.005, lat + 0.002) if box else PointBuffer(lon, lat, 700)
    collection, bands = ("S2_SR_HARMONIZED", S2_BANDS) if sensor == "s2_l2a" else ("S1_GRD", ("VV", "VH"))
    got, grid = chip(SHARED, spatial, collection=f"COPERNICUS/{collection}", bands=bands, config=_config(projection))
    assert grid.crs == {"web_mercator": "EPSG:3857"}.get(projection, "EPSG:32736" if lat < 0 else "EPSG:32632")
    expected = warped(SHARED / sensor / f"{name}.tif", grid)
    assert got.pixels.dtype == expected.dtype
    assert np.array_equal(got.pixels, expected)
    assert got.valid == 1.0
    assert min(got.pixels.shape[1:]) > 50


@real
def test_two_overlapping_files_cut_from_one_are_that_one(tmp_path):
    whole = SHARED / "s2_l2a" / "637U_59R_1_3.tif"
    with rasterio.open(whole) as file:
        pixels, where = file.read(), file.transform
        for name, columns in (("west", slice(0, 130)), ("east", slice(90, 224))):
            corner = (where.c + 10 * columns.start, where.f)
            write(tmp_path / f"{name}.tif", pixels[:, :, columns], crs=file.crs, corner=corner)
    rows = [{"path": f"{n}.tif", "bands": " ".join(S2_BANDS)} for n in ("west", "east")]
    for scene in ({}, {"scene": "one"}):
        catalogue(tmp_path, *[r | scene for r in rows])
        for how in ("mosaic", "median"):
            got, grid = chip(tmp_path, PointBuffer(*PLACES["637U_59R_1_3"], 900), bands=S2_BANDS, composite=how)
            assert np.array_equal(got.pixels, warped(whole, grid))
            assert len(got.provenance["scenes"]) == (1 if scene else 2)


def _config(projection: str, **options):
    from rs_embed import ExportConfig

    return ExportConfig(projection=projection, **options)


@pytest.mark.parametrize(
    ("crs", "corner", "scale"),
    [
        ("EPSG:32631", (935000, 6380000), 10.0),  # the neighbouring zone
        ("EPSG:4326", (9.82, 57.30), 0.0001),
        ("EPSG:3035", (4290000, 3800000), 25.0),
    ],
)
@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
def test_files_of_any_crs_and_scale_are_warped_onto_the_grid(tmp_path, crs, corner, scale, projection):
    path = write(tmp_path / "a.tif", noise(1, (2, 300, 400)), crs=crs, corner=corner, scale=scale)
    catalogue(tmp_path, {"path": "a.tif"})
    spatial = at(150, 120, 400, crs, corner, scale)
    for scale_m in (10.0, 30.0):
        got, grid = chip(tmp_path, spatial, scale_m=scale_m, config=_config(projection))
        assert np.array_equal(got.pixels, warped(path, grid))
        assert (got.valid, got.pixels.min() > 0) == (1.0, True)


def test_a_chip_in_strips_is_the_same(tmp_path, monkeypatch):
    for i in range(3):
        write(tmp_path / f"{i}.tif", noise(i, (2, 700, 600)), crs="EPSG:3035", corner=(4290000, 3800000))
    catalogue(tmp_path, *({"path": f"{i}.tif", "datetime": f"2022-07-0{i + 1}"} for i in range(3)))
    spatial = at(300, 350, 2500, "EPSG:3035", (4290000, 3800000))
    whole, _ = chip(tmp_path, spatial)
    monkeypatch.setattr(scenes, "STRIP_BYTES", 40_000)
    strips, _ = chip(tmp_path, spatial)
    assert whole.pixels.shape == (2, 500, 500)
    assert np.array_equal(whole.pixels, strips.pixels)


def test_only_the_blocks_of_the_roi_are_read(tmp_path):
    shape = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    path = write(tmp_path / "a.tif", noise(0, (1, 640, 640)), **shape)
    catalogue(tmp_path, {"path": "a.tif", "bands": "B2"})
    near, _ = chip(tmp_path, at(40, 40, 150), bands=("B2",))
    data = bytearray(path.read_bytes())
    far = slice(len(data) * 6 // 10, len(data) * 95 // 100)
    data[far] = b"\xff" * len(data[far])  # the far end of the image is damaged
    path.write_bytes(data)
    again, _ = chip(tmp_path, at(40, 40, 150), bands=("B2",))
    assert np.array_equal(near.pixels, again.pixels)
    with pytest.raises(ProviderError, match=r"raster .*a\.tif cannot be read"):
        chip(tmp_path, at(500, 500, 150), bands=("B2",))


def test_overviews_do_not_change_a_coarse_grid(tmp_path):
    path = write(tmp_path / "a.tif", noise(0, (2, 512, 512)), tiled=True, blockxsize=256, blockysize=256)
    catalogue(tmp_path, {"path": "a.tif"})
    before, _ = chip(tmp_path, at(256, 256, 2000), scale_m=80.0)
    with rasterio.open(path, "r+") as file:
        file.build_overviews([2, 4, 8], rasterio.enums.Resampling.average)
    after, _ = chip(tmp_path, at(256, 256, 2000), scale_m=80.0)
    assert np.array_equal(before.pixels, after.pixels)


# what is no data ---------------------------------------------------------------------------------


def test_no_data_by_file_catalogue_mask_nan_or_edge(tmp_path):
    pixels = noise(0, dtype="int16", high=500)
    pixels[0, :, :30], pixels[1, :30] = -99, -99
    write(tmp_path / "tag.tif", pixels, nodata=-99)
    write(tmp_path / "row.tif", pixels)
    floats = np.where(pixels == -99, np.nan, pixels).astype("float32")
    write(tmp_path / "nan.tif", floats)
    for name, more in (("tag", {}), ("row", {"nodata": -99}), ("nan", {}), ("nan", {"nodata": "nan"})):
        catalogue(tmp_path, {"path": f"{name}.tif"} | more)
        got, _ = chip(tmp_path, at(30, 30, 100), fill_value=7)
        expected = pixels[:, 20:40, 20:40].copy()
        assert got.valid == (expected != -99).mean() == 0.5
        expected[expected == -99] = 7
        assert np.array_equal(got.pixels, expected)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "row.tif", "r+") as file:
        hidden = np.full((60, 60), 255, "uint8")
        hidden[:, 25:] = 0
        file.write_mask(hidden)
    catalogue(tmp_path, {"path": "row.tif"})
    got, _ = chip(tmp_path, at(30, 30, 100))
    assert (got.pixels[:, :, 5:] == 0).all()
    assert got.valid == 0.25
    edge, _ = chip(tmp_path, at(0, 30, 100))
    assert (edge.pixels[:, :, :10] == 0).all()
    assert edge.valid == 0.5


def test_an_alpha_band_is_a_mask_and_not_a_band(tmp_path):
    pixels = noise(0, (3, 60, 60), "uint8", 200)
    pixels[2], pixels[2, :30] = 255, 0
    path = write(tmp_path / "a.tif", pixels)
    with rasterio.open(path, "r+") as file:
        kind = rasterio.enums.ColorInterp
        file.colorinterp = [kind.gray, kind.undefined, kind.alpha]
    catalogue(tmp_path, {"path": "a.tif"})
    got, _ = chip(tmp_path, at(30, 30, 100))
    assert got.valid == 0.5
    assert np.array_equal(got.pixels[:, 10:], pixels[:2, 30:40, 20:40])
    assert (got.pixels[:, :10] == 0).all()


def test_scale_and_offset_of_the_catalogue(tmp_path):
    pixels = noise(0)
    write(tmp_path / "a.tif", pixels, nodata=3)
    catalogue(tmp_path, {"path": "a.tif", "scale": 0.5, "offset": -100})
    got, _ = chip(tmp_path, at(30, 30, 100))
    assert got.pixels.dtype == np.float32
    assert np.allclose(got.pixels, pixels[:, 20:40, 20:40] * 0.5 - 100, atol=1e-3)


@pytest.mark.parametrize(("fill", "kind"), [(0, "uint16"), (65535, "uint16"), (-1, "float32"), (0.5, "float32")])
def test_a_fill_value_that_does_not_fit_makes_floats(tmp_path, fill, kind):
    write(tmp_path / "a.tif", noise(0))
    catalogue(tmp_path, {"path": "a.tif"})
    got, _ = chip(tmp_path, at(0, 30, 100), fill_value=fill)
    assert got.pixels.dtype == kind
    assert (got.pixels[:, :, :10] == fill).all()


# identity ----------------------------------------------------------------------------------------


def objects(folder: Path, spatials: list, **changes) -> tuple[str, ...]:
    made = run(folder, spatials, **changes)
    return made.plan.object_names(made.plan.sources[0].id)


def test_the_name_of_a_chip_depends_on_its_files(tmp_path):
    write(tmp_path / "a.tif", noise(0))
    write(tmp_path / "b.tif", noise(1), corner=(ORIGIN[0] + 5000, ORIGIN[1]))
    rows = [{"path": "a.tif", "cloud_cover": 3}, {"path": "b.tif", "cloud_cover": 3}]
    spatials = [at(30, 30), at(530, 30)]
    catalogue(tmp_path, *rows)
    first = objects(tmp_path, spatials)
    catalogue(tmp_path, *rows[::-1])
    assert objects(tmp_path, spatials) == first, "the order of the table has no effect"
    catalogue(tmp_path, *[r | {"cloud_cover": 4} for r in rows])
    assert objects(tmp_path, spatials) == first
    write(tmp_path / "c.tif", noise(2))
    catalogue(tmp_path, *rows, {"path": "c.tif"})
    more = objects(tmp_path, spatials)
    assert (more[0] != first[0], more[1] == first[1]) == (True, True), "a new scene changes the ROIs that it overlaps"
    assert objects(tmp_path, spatials, temporal=TemporalSpec.range("2022-07-01", "2022-07-02"))[1] != first[1]
    catalogue(tmp_path, rows[0], rows[1] | {"scale": 2})
    assert objects(tmp_path, spatials)[0] == first[0]
    assert objects(tmp_path, spatials)[1] != first[1]
    catalogue(tmp_path, *rows)
    os.utime(tmp_path / "a.tif", ns=(1, 1))
    assert objects(tmp_path, spatials)[0] != first[0]
    assert objects(tmp_path, spatials)[1] == first[1]


def test_a_job_plans_what_the_start_planned_and_opens_no_file_for_it(tmp_path, monkeypatch):
    write(tmp_path / "a.tif", noise(0, dtype="float32"), nodata=float("nan"), names=("B2", "B3"))
    catalogue(tmp_path, {"path": "a.tif", "bands": ""})
    made = run(tmp_path, [at(30, 30), at(35, 35)])
    freeze_run(made)
    monkeypatch.setattr(raster_io, "read_header", lambda path: pytest.fail("a job read a header"))
    job = load_run(made.dir)
    assert job.plan.receipts() == made.plan.receipts()
    assert job.plan.merge_key == made.plan.merge_key
    source, roi = job.plan.sources[0], job.roi(1)
    got = job.provider.fetch(source, source.bands, roi, job.grid(source, roi))
    assert got.pixels.shape == (2, 20, 20)
    again = run(tmp_path, [at(30, 30)])  # the next start reuses the headers, too
    assert again.plan.object_names(source.id)[0] == made.plan.object_names(source.id)[0]
    write(tmp_path / "a.tif", noise(1), names=("B2", "B3"))
    with pytest.raises(ProviderError, match="has changed since this run was started; start it again"):
        job.provider.fetch(source, source.bands, roi, job.grid(source, roi))


@pytest.mark.heavy
def test_an_export_of_local_rasters_grows_with_its_catalogue_and_moves(tmp_path):
    base = tmp_path / "base"
    for i, corner in enumerate(((0, 0), (5000, 0))):
        write(base / "rasters" / f"{i}.tif", noise(i), corner=(ORIGIN[0] + corner[0], ORIGIN[1]))
    catalogue(base / "rasters", {"path": "0.tif"}, {"path": "1.tif"})
    spatials, sensor = [at(20, 20), at(40, 40), at(520, 20)], SensorSpec("S2", ("B2", "B3"))

    def again(base: Path) -> dict:
        return export(combined(base / "out" / "run"), spatials, backend=f"local:{base / 'rasters'}", sensor=sensor)

    def stored(base: Path) -> set:
        return {p.name for p in (base / "out" / ".rs_embed" / "store").rglob("*.npy")}

    manifest = again(base)
    assert manifest["backend"] == "local:../rasters/catalogue.csv"
    before = stored(base)
    write(base / "rasters" / "2.tif", noise(2), corner=(ORIGIN[0] + 5000, ORIGIN[1]))
    catalogue(base / "rasters", {"path": "0.tif"}, {"path": "1.tif"}, {"path": "2.tif", "datetime": "2022-08-01"})
    again(base)
    assert len(stored(base) - before) == 1, (
        "one chip and one embedding of the ROI that the new scene overlaps, with one name"
    )
    result = load_export(base / "out" / "run.npz")
    assert result.models["mosaiks"].raw_inputs().dtype == np.float32, (
        "a median of two, with one of one scene, in one array"
    )
    moved = Path(shutil.move(base, tmp_path / "elsewhere"))
    after = stored(moved)
    manifest = again(moved)
    assert stored(moved) == after
    assert (
        "(Rule: embed)"
        not in (next((moved / "out" / ".rs_embed" / "runs").iterdir()) / "logs" / "snakemake.log").read_text()
    )
    assert manifest["status"] == "ok"


# refusals ----------------------------------------------------------------------------------------


def refused(folder: Path, *words: str, error=ProviderError, spatial=None, **changes) -> None:
    with pytest.raises(error) as found:
        run(folder, [spatial or at(30, 30)], **changes)
    assert_refusal(found.value, *words)
    assert not (folder / "out").exists()


def test_requests_beyond_the_catalogue_are_refused_before_anything_runs(tmp_path):
    write(tmp_path / "a.tif", noise(0))
    catalogue(tmp_path, {"path": "a.tif", "cloud_cover": 50})
    wide = {"cloudy_pct": 60}
    refused(tmp_path, "'S3' is not in the catalogue", "'S2'", collection="S3")
    refused(tmp_path, "'B9' is not in the scene 'a.tif'", "B2, B3", bands=("B2", "B9"), **wide)
    refused(tmp_path, "ROI 'p00000'", "0 of those with at most 30 % cloud", error=SpecError)
    far = PointBuffer(3, 3, 100)
    refused(tmp_path, "ROI 'p00000'", "lon 9.8", "has no imagery", spatial=far, error=SpecError, **wide)
    early = TemporalSpec.range("2021-01-01", "2022-01-01")
    refused(tmp_path, "0 of them in 2021-01-01..2022-01-01", error=SpecError, temporal=early, **wide)
    run(tmp_path, [far], config=_config("utm", continue_on_error=True), **wide)
    refused(tmp_path / "nowhere", "has no catalogue", "rs-embed catalogue")
    refused(tmp_path, "names no folder", backend="local:", error=ModelError)


@pytest.mark.parametrize(
    ("pixels", "row", "words"),
    [
        ({"crs": None}, {}, ("has no CRS", "a.tif")),
        ({}, {"bands": "B2"}, ("'B2' is 1 names for the 2 bands of a.tif", "line 2")),
        ({}, {"bands": ""}, ("bands is missing", "band descriptions of a.tif")),
        ({"names": ("B2", "B2")}, {"bands": ""}, ("bands is missing",)),
        ({"dtype": "complex64"}, {}, ("complex",)),
        (None, {}, ("a.tif cannot be read",)),
        (b"no raster", {}, ("a.tif cannot be read",)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:rasterio.errors.NotGeoreferencedWarning")
def test_files_that_cannot_be_used_are_refused_before_anything_runs(tmp_path, pixels, row, words):
    if isinstance(pixels, bytes):
        (tmp_path / "a.tif").write_bytes(pixels)
    elif pixels is not None:
        write(tmp_path / "a.tif", noise(0).astype(pixels.get("dtype", "uint16")), **pixels)
    catalogue(tmp_path, {"path": "a.tif"} | row)
    with pytest.raises(ProviderError) as found:
        run(tmp_path, [at(30, 30)])
    assert "\n" not in str(found.value)
    for word in words:
        assert word in str(found.value)


def test_an_orbit_is_chosen_or_refused(tmp_path):
    from rs_embed.planning.units import Source

    for i in range(2):
        write(tmp_path / f"{i}.tif", noise(i))
    catalogue(tmp_path, {"path": "0.tif", "orbit": "ascending"}, {"path": "1.tif", "orbit": "DESCENDING"})
    made = run(tmp_path, [at(30, 30)])
    source = made.plan.sources[0]
    radar = Source("x", source.identity | {"s1": {"orbit": "DESCENDING"}}, source.bands, source.frames)
    roi, grid = made.roi(0), made.grid(source, made.roi(0))
    made.provider.resolve(radar, [roi], [grid], strict=True)
    got = made.provider.fetch(radar, radar.bands, roi, grid)
    assert [s["scene"] for s in got.provenance["scenes"]] == ["1.tif"]
    catalogue(tmp_path, {"path": "0.tif", "orbit": "ascending"}, {"path": "1.tif", "orbit": ""})
    blind = run(tmp_path, [at(30, 30)])
    with pytest.raises(ProviderError, match="has no orbit"):
        blind.provider.resolve(radar, [roi], [grid], strict=True)


def test_a_roi_outside_all_imagery_is_no_data_where_errors_are_tolerated(tmp_path):
    write(tmp_path / "a.tif", noise(0))
    catalogue(tmp_path, {"path": "a.tif"})
    sensor = SensorSpec("S2", ("B2", "B3"))
    manifest = export(
        combined(tmp_path / "out" / "run"),
        [at(30, 30), PointBuffer(3, 3, 100)],
        backend=f"local:{tmp_path}",
        sensor=sensor,
        temporal=WINDOW,
        continue_on_error=True,
    )
    assert manifest["models"][0]["no_data_indices"] == [1]
    assert manifest["status"] == "ok"
    assert np.isnan(load_export(tmp_path / "out" / "run.npz").embedding("mosaiks")[1]).all()


def test_many_windows_find_their_files_and_open_no_others(tmp_path, monkeypatch):
    days = [f"2022-{month:02d}-{day:02d}" for month in range(1, 13) for day in (1, 15)]
    for i in range(len(days)):
        write(tmp_path / f"{i}.tif", noise(i, (2, 20, 20)), corner=(ORIGIN[0] + 200 * (i % 3), ORIGIN[1]))
    catalogue(tmp_path, *({"path": f"{i}.tif", "datetime": day} for i, day in enumerate(days)))
    windows = [("2022-01-10", "2022-02-02"), ("2022-01-01", "2022-01-16"), ("2022-12-15", "2023-01-01")]
    windows = [TemporalSpec.range(*w) for w in windows] + [None]
    opened, header = [], raster_io.read_header
    monkeypatch.setattr(raster_io, "read_header", lambda path: opened.append(Path(path).stem) or header(path))
    spatials = [at(10 + 20 * i, 10, 50) for i in range(3)] + [at(10, 10, 40)]
    late = TemporalSpec.range("2022-03-14", "2022-04-20")
    made = run(tmp_path, spatials, windows=windows, temporal=late, config=_config("utm", continue_on_error=True))
    source = made.plan.sources[0]
    chosen = [
        made.provider.fetch(source, source.bands, r, made.grid(source, r)).provenance for r in map(made.roi, range(4))
    ]
    for roi, found in zip(map(made.roi, range(4)), chosen):
        column = [0, 1, 2, 0][roi.index]
        inside = [i for i, d in enumerate(days) if roi.temporal.start <= d < roi.temporal.end and i % 3 == column]
        assert [s["scene"] for s in found["scenes"]] == [f"{i}.tif" for i in inside]
    assert sorted(map(int, opened)) == [0, 1, 2, 5, 6, 7, 23]
