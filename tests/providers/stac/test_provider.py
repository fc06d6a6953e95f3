"""Imagery of STAC catalogues: the pixels of ``local:`` with the same files, names of chips,
refusals."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from rs_embed import ModelError, PointBuffer, ProviderError, SpecError, TemporalSpec
from rs_embed.planning.model_info import Frames
from rs_embed.providers.stac import outlines, search, services
from rs_embed.runs.run_files import freeze_run, load_run

from ...support.factories import assert_refusal
from ...support.rasters import ORIGIN, WINDOW, at, noise, request, run
from ...support.stac_scenes import SETTINGS
from ..rasters.test_local import _config


def planned(scenes, spatials, **changes):
    given = {"backend": f"stac:{scenes.stac.address}", "stac": SETTINGS} | changes
    return run(scenes.root, spatials, **given)


def objects(scenes, spatials, **changes) -> tuple[str, ...]:
    made = planned(scenes, spatials, **changes)
    return made.plan.object_names(made.plan.sources[0].id)


# pixels ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
@pytest.mark.parametrize("how", ["median", "mosaic"])
def test_pixels_are_those_of_the_local_provider(scenes, how, projection):
    for i in range(3):
        pixels = noise(i, (2, 300, 300))
        pixels[:, 40 * i : 40 * i + 30] = 0
        scenes.add_scene(
            f"s{i}", pixels, day=f"2022-07-0{i + 1}", profile={"nodata": 0}, **{"eo:cloud_cover": 10.0 * i}
        )
    scenes.add_scene("cloudy", noise(9, (2, 300, 300)), row={"cloud_cover": 31}, **{"eo:cloud_cover": 31})
    scenes.add_scene("late", noise(9, (2, 300, 300)), day="2022-09-01")
    got, _ = scenes.compare_chips(at(100, 100, 600), composite=how, config=_config(projection))
    assert len(got.provenance["scenes"]) == 3
    assert got.pixels.dtype == ("float32" if how == "median" else "uint16")
    coarse, _ = scenes.compare_chips(at(150, 150, 1200), composite=how, scale_m=30.0, config=_config(projection))
    assert 60 < coarse.pixels.shape[1] < 160


def test_frames_are_those_of_the_local_provider(scenes):
    scenes.add_scene("a", noise(0, (2, 60, 60)), day="2022-06-05")
    scenes.add_scene("b", noise(1, (2, 60, 60)), day="2022-08-20")
    got, _ = scenes.compare_chips(at(30, 30), frames=Frames("equal", 3))
    assert got.pixels.shape == (3, 2, 20, 20)
    assert got.provenance["frames"][1]["empty"]
    half = noise(2, (2, 60, 60))
    half[:, :, 30:] = 0
    scenes.add_scene("c", half, day="2022-07-10", profile={"nodata": 0}, row={"nodata": 0})
    got, _ = scenes.compare_chips(at(30, 30), frames=Frames("equal", 3))
    assert got.coverage[0] == pytest.approx(1 - 0.5 / 3)


def test_tiles_in_two_zones_scales_and_offsets(scenes):
    from rs_embed.request.geometry import get_transformer

    scenes.add_scene("a", noise(0, (2, 200, 200)))
    x, y = get_transformer("EPSG:32632", "EPSG:32631").transform(*ORIGIN)
    scenes.add_scene(
        "b", noise(1, (2, 200, 200)), crs="EPSG:32631", corner=(round(x, -1), round(y, -1)), day="2022-07-02"
    )
    linear = {"scale": 0.0001, "offset": -0.1}
    for row in scenes.rows:
        row |= linear
    settings = {"collections": {"S2": SETTINGS["collections"]["S2"] | linear}}
    got, _ = scenes.compare_chips(at(60, 60, 300), stac=settings)
    assert got.pixels.dtype == np.float32
    assert got.pixels.max() < 1


def test_two_bands_of_one_file(scenes):
    from ...support.rasters import write

    pixels = noise(0)
    write(scenes.root / "both.tif", pixels)
    item = scenes.stac.add("both", {"data": "both.tif"}, (9.7, 57.2, 9.9, 57.4))
    settings = {"collections": {"S2": {"collection": "s2", "assets": {"B2": "data#2", "B3": "data"}}}}
    got, _ = scenes.chip(at(30, 30), stac=settings)
    assert np.array_equal(got.pixels, pixels[::-1, 20:40, 20:40])
    assert got.provenance["scenes"][0]["files"] == ["s2/both"]
    item["assets"]["data"]["href"] += "?se=soon&sig=SIGNATURE"
    again, _ = scenes.chip(at(30, 30), stac=settings)
    assert np.array_equal(again.pixels, got.pixels)


# known services ----------------------------------------------------------------------------------


def at_loopback(monkeypatch, scenes, word: str, **changes) -> str:
    """The backend of a known service, moved to the loopback address."""
    service = services.SERVICES[word]
    token_url = f"{scenes.stac.address}/token/" if service.token_url else ""
    moved = dataclasses.replace(service, url=scenes.stac.address, token_url=token_url, storage="127.0.0.1", **changes)
    monkeypatch.setitem(services.SERVICES, word, moved)
    return f"stac:{word}"


@pytest.mark.parametrize(
    ("word", "collection", "properties", "raster", "subtracted"),
    [
        ("earth-search", "sentinel-2-l2a", {"s2:processing_baseline": "03.01"}, {}, 0),
        ("earth-search", "sentinel-2-l2a", {"s2:processing_baseline": "04.00"}, {}, 1000),
        ("earth-search", "sentinel-2-l2a", {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False}, {}, 1000),
        ("earth-search", "sentinel-2-l2a", {"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, {}, 0),
        ("earth-search", "sentinel-2-l2a", {"earthsearch:boa_offset_applied": True}, {"scale": 0.0001, "offset": -0.1}, 0),
        ("earth-search", "sentinel-2-c1-l2a", {"s2:processing_baseline": "05.00"}, {"scale": 0.0001, "offset": -0.1}, 1000),
        ("earth-search", "sentinel-2-c1-l2a", {"s2:processing_baseline": "05.00"}, {"scale": 0.0001, "offset": 0}, 0),
        ("planetary-computer", "sentinel-2-l2a", {"s2:processing_baseline": "02.12"}, {}, 0),
        ("planetary-computer", "sentinel-2-l2a", {"s2:processing_baseline": "05.10"}, {}, 1000),
    ],
)  # fmt: skip
def test_the_offset_of_sentinel_2_is_subtracted_once(
    scenes, monkeypatch, word, collection, properties, raster, subtracted
):
    stored = noise(0, (2, 60, 60), high=3000)
    stored[:, 25:30] = 0  # no data
    true = np.where(stored == 0, 0, np.maximum(stored, subtracted) - subtracted).astype("uint16")
    item = scenes.add_scene("a", stored, collection=("COPERNICUS/S2_SR_HARMONIZED", collection), **properties)
    names = {"blue": "B02", "green": "B03"} if word == "planetary-computer" else {}
    item["assets"] = {
        names.get(n, n): a | ({"raster:bands": [raster]} if raster else {}) for n, a in item["assets"].items()
    }
    settings = {"collections": {"COPERNICUS/S2_SR_HARMONIZED": {"collection": collection}}}
    backend = at_loopback(monkeypatch, scenes, word)
    got, _ = scenes.chip(at(30, 30), backend, collection="COPERNICUS/S2_SR_HARMONIZED", stac=settings)
    assert got.pixels.dtype == np.uint16
    assert np.array_equal(got.pixels, true[:, 20:40, 20:40])
    assert got.valid == 0.75, "dark pixels are data, fill values are not"
    assert got.provenance["scenes"][0].get("subtracted", 0) == subtracted


def test_the_offset_of_a_scene_without_a_baseline_is_not_guessed(scenes, monkeypatch):
    scenes.add_scene("a", noise(0), collection=("COPERNICUS/S2_SR_HARMONIZED", "sentinel-2-l2a"))
    backend = at_loopback(monkeypatch, scenes, "earth-search")
    with pytest.raises(ProviderError) as found:
        planned(scenes, [at(30, 30)], backend=backend, stac=None, collection="COPERNICUS/S2_SR_HARMONIZED")
    assert_refusal(found.value, "'a'", "s2:processing_baseline")


@pytest.mark.parametrize("wanted", ["COPERNICUS/S1_GRD_FLOAT", "COPERNICUS/S1_GRD"])
def test_radar_of_the_planetary_computer_is_power_or_decibel(scenes, monkeypatch, wanted):
    power = np.random.default_rng(0).uniform(0.001, 2, (2, 60, 60)).astype("float32")
    power[:, :25] = -32768
    kind = ("COPERNICUS/S1_GRD_FLOAT", "sentinel-1-rtc")
    more = {"bands": ("VV", "VH"), "collection": kind, "row": {"nodata": -32768}}
    scenes.add_scene("a", power, **more, **{"sat:orbit_state": "ascending", "sar:instrument_mode": "IW"})
    scenes.add_scene(
        "b", np.where(power > 0, 2 * power, power), day="2022-07-02", **more, **{"sat:orbit_state": "descending"}
    )
    scenes.stac.add("one", {"vv": "a_VV.tif"}, (9.7, 57.2, 9.9, 57.4), collection=kind[1])
    backend = at_loopback(monkeypatch, scenes, "planetary-computer")
    given = {"collection": wanted, "bands": ("VV", "VH")}
    got, _ = scenes.chip(at(30, 30), backend, stac=None, **given)
    expected, _ = scenes.chip(at(30, 30), f"local:{scenes.root}", stac=None, **given)
    assert np.array_equal(got.pixels, expected.pixels)
    assert got.coverage == (0.75, 0.75)
    assert [s["scene"] for s in got.provenance["scenes"]] == ["a", "b"], "an image of one polarisation is not used"
    assert "terrain-corrected" in got.provenance["scenes"][0]["note"]
    made = planned(scenes, [at(30, 30)], backend=backend, stac=None, **given)
    source, roi = made.plan.sources[0], made.roi(0)
    for orbit, name in (("ASCENDING", "a"), ("DESCENDING", "b")):
        radar = dataclasses.replace(source, id=orbit, identity=source.identity | {"s1": {"orbit": orbit}})
        chosen = made.provider.fetch(radar, radar.bands, roi, made.grid(source, roi))
        assert [s["scene"] for s in chosen.provenance["scenes"]] == [name]


def test_other_modes_are_used_without_interferometric_wide_swath(scenes):
    scenes.add_scene("iw", noise(0), **{"sar:instrument_mode": "IW"})
    scenes.add_scene("ew", noise(1), day="2022-07-02", **{"sar:instrument_mode": "EW"})
    made = planned(scenes, [at(30, 30)])
    source, roi = made.plan.sources[0], made.roi(0)
    box = search.plan_searches([None], [[9.8, 57.2, 9.9, 57.3]])[0].box

    def names(**radar):
        radar_source = dataclasses.replace(source, id=str(radar), identity=source.identity | {"s1": radar})
        return [i.row.scene for i in made.provider._find_files(radar_source, roi, box)]

    assert names(s1_require_iw=True, s1_relax_iw_on_empty=True) == ["iw"]
    assert names(s1_require_iw=False) == ["iw", "ew"]
    del made.provider._items["S2"]["iw"]
    assert names(s1_require_iw=True, s1_relax_iw_on_empty=True, orbit=None) == ["ew"]
    assert names(s1_require_iw=True, s1_relax_iw_on_empty=False) == []


def test_landsat_is_selected_by_platform_and_tier_and_hls_is_reflectance(scenes, monkeypatch):
    for name, platform, tier in (("a", "landsat-8", "T1"), ("b", "landsat-9", "T1"), ("c", "landsat-8", "T2")):
        about = {"platform": platform, "landsat:collection_category": tier}
        scenes.add_scene(name, noise(0), bands=("red", "lwir11"), collection=("x", "landsat-c2-l2"), **about)
    backend = at_loopback(monkeypatch, scenes, "earth-search")
    options = {"collection": "LANDSAT/LC08/C02/T1_L2", "bands": ("SR_B4", "ST_B10"), "stac": None}
    got, _ = scenes.chip(at(30, 30), backend, **options)
    assert [s["scene"] for s in got.provenance["scenes"]] == ["a"]
    assert got.pixels.dtype == np.uint16
    hls = noise(1, (1, 60, 60), "int16", 5000)
    hls[:, :30] = -9999
    scenes.add_scene("h", hls, bands=("B8A",), collection=("x", "hls2-s30"))
    backend = at_loopback(monkeypatch, scenes, "planetary-computer")
    got, _ = scenes.chip(at(30, 30), backend, collection="NASA/HLS/HLSS30/v002", bands=("B8A",), stac=None)
    assert got.pixels.max() == pytest.approx(hls[:, 20:40, 20:40].max() * 0.0001)
    assert got.valid == 0.5


# which items -------------------------------------------------------------------------------------


def test_only_items_whose_outline_overlaps_a_roi_are_used(scenes):
    scenes.add_scene("whole", noise(0))
    west, south, east, north = scenes.stac.items[0]["bbox"]
    corner = scenes.add_scene("corner", noise(1), day="2022-07-02")
    corner["geometry"]["coordinates"] = [
        [[west, north], [east, north], [west, south], [west, north]]
    ]  # upper left half
    for column, row, names in ((12, 12, ["whole", "corner"]), (48, 48, ["whole"])):
        got, _ = scenes.chip(at(column, row, 40))
        assert [s["scene"] for s in got.provenance["scenes"]] == names
    corner["geometry"] = {"type": "MultiPolygon", "coordinates": [[[[0, 0], [1, 0], [1, 1], [0, 0]]]]}
    assert len(scenes.chip(at(12, 12, 40))[0].provenance["scenes"]) == 1
    corner["geometry"] = None
    assert len(scenes.chip(at(48, 48, 40))[0].provenance["scenes"]) == 2
    ring = ((0.0, 0.0), (3.0, 0.0), (3.0, 3.0), (2.0, 3.0), (2.0, 1.0), (1.0, 1.0), (1.0, 3.0), (0.0, 3.0), (0.0, 0.0))
    assert not outlines.ring_overlaps(ring, (1.2, 2, 1.8, 4)), "in the mouth of a U"
    assert outlines.ring_overlaps(ring, (0.2, 2, 1.8, 4))


def test_few_searches_find_the_items_of_many_rois(scenes):
    scenes.add_scene("a", noise(0, (2, 60, 60)))
    scenes.stac.page = 1
    scenes.add_scene("b", noise(1, (2, 60, 60)), day="2022-07-02")
    scenes.add_scene("c", noise(2, (2, 60, 60)), day="2022-07-03")
    scenes.stac.requests.clear()
    made = planned(scenes, [at(10 + i, 30, 50) for i in range(40)])
    assert scenes.stac.kinds == {"landing": 1, "search": 3}, "one search of three pages"
    body = next(a.body for a in scenes.stac.requests if a.path == "/search")
    assert body["collections"] == ["s2"]
    assert body["limit"] == search.PAGE_SIZE
    assert body["datetime"] == "2022-06-01T00:00:00Z/2022-09-01T00:00:00Z"
    assert len(made.provider._items["S2"]) == 3
    boxes = [[x, y, x + 0.01, y + 0.01] for x in (10.22, 10.92, 13.12) for y in (50.12, 50.22)]
    spring, april, later = (
        TemporalSpec.range(*s)
        for s in (("2020-01-01", "2020-03-01"), ("2020-03-01", "2020-04-01"), ("2021-01-01", "2021-02-01"))
    )
    found = search.plan_searches([spring, april, later] * 2, boxes)
    assert [(s.box, s.window) for s in found] == [
        ((10.2, 50.1, 11.0, 50.3), ("2020-01-01", "2020-04-01")),  # windows that adjoin
        ((10.9, 50.1, 11.0, 50.2), ("2021-01-01", "2021-02-01")),
        ((13.1, 50.1, 13.2, 50.2), ("2020-03-01", "2020-04-01")),
        ((13.1, 50.2, 13.2, 50.3), ("2021-01-01", "2021-02-01")),
    ]


def test_the_name_of_a_chip_depends_on_its_items(scenes):
    first = scenes.add_scene("a", noise(0), updated="2023-01-01T00:00:00Z")
    scenes.add_scene("b", noise(1), corner=(ORIGIN[0] + 5000, ORIGIN[1]))
    spatials = [at(30, 30), at(530, 30)]
    names = objects(scenes, spatials)
    first["properties"]["eo:cloud_cover"] = 4
    first["assets"]["thumbnail"] = {"href": "http://elsewhere/a.png"}
    for asset in first["assets"].values():
        asset["href"] += "?sig=other"
    assert objects(scenes, spatials) == names, "signatures, cloud cover and assets that are not read have no effect"
    assert objects(scenes, spatials[::-1]) == names[::-1]
    assert objects(scenes, [*spatials, PointBuffer(9.8, 57.29, 100)][:2]) == names
    assert objects(scenes, spatials, bands=("B2",)) == names, "the requested bands have no effect"
    scenes.add_scene("c", noise(2), day="2022-07-02")
    more = objects(scenes, spatials)
    assert (more[0] != names[0], more[1] == names[1]) == (True, True)
    scenes.stac.items.pop()
    assert objects(scenes, spatials) == names
    first["properties"]["updated"] = "2023-01-02T00:00:00Z"
    assert objects(scenes, spatials)[0] != names[0]
    scaled = {"collections": {"S2": SETTINGS["collections"]["S2"] | {"scale": 2.0}}}
    assert objects(scenes, spatials, stac=scaled)[1] != names[1]


def test_files_of_a_static_catalogue_are_identified_and_may_move(scenes):
    scenes.add_scene("a", noise(0))
    _, items = scenes.write_static()
    spatial = at(30, 30)
    names = objects(scenes, [spatial], backend=f"stac:{items}")
    made = planned(scenes, [spatial], backend=f"stac:{items}")
    freeze_run(made)
    assert "files" not in json.dumps(made.provider.freeze()["items"][0]["assets"])
    job = load_run(made.dir)
    assert job.request.backend == "stac:../../../../items.json"
    assert (
        job.provider.fetch(job.plan.sources[0], ("B2",), job.roi(0), job.grid(job.plan.sources[0], job.roi(0))).valid
        == 1
    )
    (scenes.root / "a_B2.tif").touch()
    assert objects(scenes, [spatial], backend=f"stac:{items}") != names


# refusals ----------------------------------------------------------------------------------------


def test_requests_beyond_the_catalogue_are_refused_before_anything_runs(scenes, monkeypatch):
    scenes.add_scene("a", noise(0), **{"eo:cloud_cover": 50})

    def refused(*words, error=ProviderError, spatial=None, **changes):
        with pytest.raises(error) as found:
            planned(scenes, [spatial or at(30, 30)], **changes)
        assert_refusal(found.value, *words)

    wide = {"cloudy_pct": 60}
    refused(
        "ROI 'p00000'", "1 items of s2", "1 of them touch it", "0 of those with at most 30 % cloud", error=SpecError
    )
    early = TemporalSpec.range("2021-01-01", "2022-01-01")
    refused("0 items of s2", "2021-01-01..2022-01-01", error=SpecError, temporal=early, **wide)
    refused("0 of them touch it", error=SpecError, spatial=PointBuffer(9.95, 57.2, 100), **wide)
    refused("'B9' of S2 is not known in s2", "B2, B3", bands=("B2", "B9"), **wide)
    refused("'S3' is not known", "'S2'", "stac.collections", collection="S3")
    wrong = {"collections": {"S2": {"collection": "s2", "assets": {"B2": "blue", "B3": "gren"}}}}
    refused("'B3' is in none of the 1 items", "(B2)", stac=wrong, **wide)
    refused("not a service with known collections", "stac.collections", error=ModelError, stac=None)
    refused("'stac:nowhere.json' is not a service, URL or file", "'stac' (Earth Search)", backend="stac:nowhere.json")
    (scenes.root / "broken.json").write_text("{}")
    refused("cannot be read", "catalog.json", backend=f"stac:{scenes.root / 'broken.json'}")
    radar = {"collection": "COPERNICUS/S1_GRD", "bands": ("VV", "VH"), "stac": None}
    refused("uncalibrated amplitude", "stac:planetary-computer", backend="stac", **radar)
    assert planned(scenes, [PointBuffer(3, 3, 100)], config=_config("utm", continue_on_error=True), **wide)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (7, ("stac: 7", "collections")),
        ({"colections": {}}, ("stac: unknown key 'colections'", "'collections'")),
        ({"collections": {"S2": 3}}, ("stac.collections.S2: 3",)),
        ({"collections": {"S2": {}}}, ("stac.collections.S2", "is empty")),
        ({"collections": {"S2": {"colection": "x"}}}, ("unknown key 'colection'", "'collection'")),
        ({"collections": {"S2": {"collection": 5}}}, ("stac.collections.S2.collection: 5",)),
        ({"collections": {"S2": {"assets": {"B2": ""}}}}, ("stac.collections.S2.assets.B2: ''", "asset#2")),
        ({"collections": {"S2": {"scale": 0}}}, ("stac.collections.S2.scale: 0", "other than 0, or 'item'")),
        ({"collections": {"S2": {"scale": "items"}}}, ("stac.collections.S2.scale: 'items'", "'item'")),
        ({"collections": {"S2": {"scale": "item", "offset": 1}}}, ("stac.collections.S2.offset: 1", "scale: item")),
        ({"collections": {"S2": {"side_files": "no"}}}, ("stac.collections.S2.side_files: 'no'", "true or false")),
        ({"search_method": "PUT"}, ("stac.search_method: 'PUT'", "GET, POST")),
        ({"collections": {"S2": {"offset": "no"}}}, ("stac.collections.S2.offset: 'no'",)),
        ({"collections": {"S2": {"scale": 2}}}, ("stac.collections.S2", "'collection' is missing")),
    ],
)
def test_the_section_of_the_config_is_checked(scenes, given, words):
    with pytest.raises(ModelError) as found:
        planned(scenes, [at(30, 30)], stac=given)
    assert_refusal(found.value, *words)


def test_the_section_of_the_config_makes_the_round_trip(scenes):
    from rs_embed.request.request import Request
    from rs_embed.request.rois import RoiTable

    made = request(scenes.root, [at(30, 30)], stac=SETTINGS, temporal=WINDOW)
    again = Request.from_config(made.to_config("rois.csv"), RoiTable(made.spatials))
    assert again.stac == made.stac == SETTINGS
    assert request(scenes.root, [at(30, 30)]).to_config("rois.csv")["stac"] is None
