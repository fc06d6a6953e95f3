"""What items say about the numbers of their assets, in STAC 1.0 and 1.1: nodata, scale, offset,
type."""

from __future__ import annotations

import numpy as np
import pytest

from rs_embed.providers.stac import assets, sentinel_2

from ...support.rasters import at, noise
from ...support.stac_scenes import SETTINGS
from .test_provider import at_loopback

S2 = "COPERNICUS/S2_SR_HARMONIZED"


def own(collection="s2", **entry) -> dict:
    """Settings of an own API."""
    return {"collections": {"S2": SETTINGS["collections"]["S2"] | {"collection": collection} | entry}}


#: The places where an item can say the same thing about a band.
PLACES = {
    "1.0 band": lambda a, p, f: a.update({"raster:bands": [{k.removeprefix("raster:"): v for k, v in f.items()}]}),
    "1.1 band": lambda a, p, f: a.update({"bands": [{"name": "x"} | f]}),
    "1.1 asset": lambda a, p, f: a.update(f),
    "1.1 asset beside bands": lambda a, p, f: a.update({"bands": [{"name": "x", "eo:common_name": "red"}]} | f),
    "1.1 asset beside bands of 1.0": lambda a, p, f: a.update({"eo:bands": [{"name": "x"}], "raster:bands": [{}]} | f),
    "1.1 item": lambda a, p, f: p.update(f),
    "1.1 item beside bands": lambda a, p, f: (a.update({"bands": [{"name": "x", "nodata": None}]}), p.update(f)),
}


def state(item: dict, place: str, fields: dict) -> None:
    for asset in item["assets"].values():
        PLACES[place](asset, item["properties"], fields)


@pytest.mark.parametrize("place", PLACES)
def test_nodata_of_a_band_is_found_wherever_an_item_has_it(scenes, place):
    pixels = noise(0)
    pixels[:, :30] = 7777
    state(scenes.add_scene("a", pixels), place, {"nodata": 7777})
    got, _ = scenes.chip(at(30, 30))
    assert got.valid == 0.5
    assert not got.warnings


def test_the_nearest_entry_counts(scenes):
    item = scenes.add_scene("a", noise(0))
    item["properties"] |= {"nodata": 1, "raster:scale": 9.0}
    asset = item["assets"]["blue"] | {"nodata": 2, "raster:scale": 8.0}
    for fields, expected in (
        ({}, (2, 8.0)),
        ({"bands": [{"nodata": 3, "raster:scale": 7.0}]}, (3, 7.0)),
        ({"raster:bands": [{"nodata": 4, "scale": 6.0}]}, (4, 6.0)),
        ({"bands": [{}, {"nodata": 3}]}, (2, 8.0)),
    ):
        found = asset | fields
        nodata = assets.find_stated(found, 0, item["properties"], "nodata")
        assert (nodata, assets.stated_scaling(found, 0, item["properties"])[0]) == expected
    assert assets.find_stated({}, 0, {"nodata": 1, "scale": 10}, "scale") is None, "it is another scale"
    assert assets.find_stated({"bands": [{}, {"nodata": 3}]}, 1, {}, "nodata") == 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, (0.0,)),
        (-9999.5, (-9999.5,)),
        ("nan", ()),
        ("-inf", ("-inf",)),
        ("0", (0.0,)),
        (float("nan"), ()),
        (None, ()),
    ],
)
def test_nodata_can_be_a_text(value, expected):
    assert assets.parse_nodata(value) == expected


def test_infinity_is_no_data(scenes):
    pixels = noise(0).astype("float32")
    pixels[:, :30] = -np.inf
    state(scenes.add_scene("a", pixels), "1.1 asset", {"nodata": "-inf"})
    assert scenes.chip(at(30, 30))[0].valid == 0.5


@pytest.mark.parametrize("known", [None, 0, 65535])
def test_nodata_of_item_and_file_both_count(scenes, known):
    pixels = noise(0)
    pixels[:, :25] = 0
    pixels[:, 35:] = 65535
    item = scenes.add_scene("a", pixels, profile={} if known is None else {"nodata": known})
    state(item, "1.1 asset", {"nodata": 0})
    got, _ = scenes.chip(at(30, 30))
    assert got.valid == {None: 0.75, 0: 0.75, 65535: 0.5}[known]
    assert bool(got.warnings) == (known == 65535)
    if known == 65535:
        assert "nodata is 0 for the item and 65535 in its file" in got.warnings[0]
        one, _ = scenes.chip(at(30, 30), bands=("B3",))
        assert len(one.warnings) == 1


LINEAR = {"raster:scale": 0.0001, "raster:offset": -0.1}


@pytest.mark.parametrize("place", PLACES)
def test_scale_and_offset_of_an_item_are_applied_on_request(scenes, place):
    pixels = noise(0)
    state(scenes.add_scene("a", pixels), place, LINEAR)
    scaled, _ = scenes.chip(at(30, 30), stac=own(scale="item"))
    expected = pixels[:, 20:40, 20:40] * np.float32(0.0001) + np.float32(-0.1)
    assert np.array_equal(scaled.pixels, expected)
    assert not scaled.warnings


def test_scale_and_offset_that_nothing_applies_are_named(scenes):
    pixels = noise(0)
    state(scenes.add_scene("a", pixels), "1.1 asset", LINEAR)
    raw, _ = scenes.chip(at(30, 30))
    assert np.array_equal(raw.pixels, pixels[:, 20:40, 20:40])
    assert "state scale 0.0001 and offset -0.1, which are not applied" in raw.warnings[0]
    assert "stac.collections.S2.scale: item" in raw.warnings[0]
    decided, _ = scenes.chip(at(30, 30), stac=own(scale=1.0))
    assert np.array_equal(decided.pixels, raw.pixels)
    assert not decided.warnings, "the config decides"
    other, _ = scenes.chip(at(30, 30), stac=own(scale=0.5))
    assert np.array_equal(other.pixels, pixels[:, 20:40, 20:40] * np.float32(0.5)), "never both"


def test_bands_of_one_file_can_have_different_scales(scenes):
    from ...support.rasters import write

    pixels = noise(0)
    write(scenes.root / "both.tif", pixels)
    item = scenes.stac.add("both", {"data": "both.tif"}, (9.7, 57.2, 9.9, 57.4))
    item["assets"]["data"]["bands"] = [{"name": "a", "raster:scale": 0.1}, {"name": "b", "raster:offset": 5}]
    got, _ = scenes.chip(at(30, 30), stac=own(assets={"B2": "data#1", "B3": "data#2"}, scale="item"))
    expected = np.stack([pixels[0] * np.float32(0.1), pixels[1] + np.float32(5)])[:, 20:40, 20:40]
    assert np.array_equal(got.pixels, expected)
    assert [s["scene"] for s in got.provenance["scenes"]] == ["both"]


@pytest.mark.parametrize("place", [p for p in PLACES if "item" not in p or p == "1.1 item"])
def test_the_offset_of_collection_1_is_found_in_both_versions(scenes, monkeypatch, place):
    pixels = noise(0, high=3000)
    item = scenes.add_scene("a", pixels, collection=(S2, "sentinel-2-c1-l2a"), **{"s2:processing_baseline": "02.00"})
    state(item, place, {"raster:scale": 0.0001, "raster:offset": -0.1})
    backend = at_loopback(monkeypatch, scenes, "earth-search")
    settings = {"collections": {S2: {"collection": "sentinel-2-c1-l2a"}}}
    got, _ = scenes.chip(at(30, 30), backend, collection=S2, stac=settings)
    assert np.array_equal(got.pixels, np.maximum(pixels, 1000)[:, 20:40, 20:40] - 1000)
    settings["collections"][S2]["offset"] = -1000.0
    got, _ = scenes.chip(at(30, 30), backend, collection=S2, stac=settings)
    assert np.array_equal(got.pixels, np.maximum(pixels, 1000)[:, 20:40, 20:40] - 1000), "once"


@pytest.mark.parametrize(
    ("properties", "stated", "subtracted", "warned"),
    [
        ({}, {}, 0, False),
        ({"s2:processing_baseline": "02.12"}, {}, 0, False),
        ({"s2:processing_baseline": "99.99"}, {}, 0, False),
        ({"s2:processing_baseline": "N9999"}, {}, 0, False),
        ({"s2:processing_baseline": "nan"}, {}, 0, False),
        ({"s2:processing_baseline": "05.09"}, {}, 0, True),
        ({"processing:version": "N0509"}, {}, 0, True),
        ({"s2:processing_baseline": "05.09"}, {"raster:scale": 1e-4, "raster:offset": -0.1}, 1000, False),
        ({"s2:processing_baseline": "05.09"}, {"raster:scale": 1e-4, "raster:offset": 0}, 0, False),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": True}, {}, 0, False),
        ({"s2:processing_baseline": "05.09", "earthsearch:boa_offset_applied": False}, {}, 1000, False),
        ({"s2:processing_baseline": "02.12", "earthsearch:boa_offset_applied": False}, {}, 0, False),
        # a scale alone says nothing about the constant
        ({"s2:processing_baseline": "05.09"}, {"raster:scale": 1e-4}, 0, True),
        ({"s2:processing_baseline": "02.12"}, {"raster:scale": 1e-4}, 0, False),
    ],
)
def test_sentinel_2_of_another_api_follows_what_its_items_state(scenes, properties, stated, subtracted, warned):
    pixels = noise(0, high=3000)
    state(scenes.add_scene("a", pixels, collection=(S2, "mine"), **properties), "1.1 asset", stated)
    settings = {"collections": {S2: {"collection": "mine", "assets": {"B2": "blue", "B3": "green"}}}}
    got, _ = scenes.chip(at(30, 30), collection=S2, stac=settings)
    assert np.array_equal(got.pixels, np.maximum(pixels, subtracted)[:, 20:40, 20:40] - subtracted)
    assert bool(got.warnings) == warned
    assert not warned or f"stac.collections.{S2}.offset: -1000 or 0" in got.warnings[0]
    settings["collections"][S2]["offset"] = 0.0
    assert not scenes.chip(at(30, 30), collection=S2, stac=settings)[0].warnings


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"s2:processing_baseline": "05.09"}, 5.09),
        ({"s2:processing_baseline": 4}, 4.0),
        ({"processing:version": "N0400"}, 4.0),
        ({"processing:version": "03.01"}, 3.01),
        ({"s2:processing_baseline": "new"}, None),
        ({}, None),
    ],
)
def test_the_processing_baseline_is_read_in_the_forms_that_services_write(properties, expected):
    assert sentinel_2.processing_baseline(properties) == expected


def test_reflectances_of_another_api_are_scaled_as_their_items_state(scenes):
    hls = "NASA/HLS/HLSS30/v002"
    pixels = noise(0, (1, 60, 60), "int16", 5000)
    item = scenes.add_scene("a", pixels, bands=("B8A",), collection=(hls, "mine"))
    settings = {"collections": {hls: {"collection": "mine"}}}
    state(item, "1.1 item", {"raster:scale": 0.0001})
    got, _ = scenes.chip(at(30, 30), collection=hls, bands=("B8A",), stac=settings)
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40] * np.float32(0.0001))


@pytest.mark.parametrize(
    ("asset", "expected"),
    [
        ({"type": "image/tiff; application=geotiff; profile=cloud-optimized"}, True),
        ({"type": "Image/TIFF"}, True),
        ({"type": "application/x-geotiff"}, True),
        ({"type": "image/x.geotiff"}, True),
        ({"type": "image/vnd.stac.geotiff; cloud-optimized=true"}, True),
        ({"type": "image/jp2"}, True),
        ({"type": "application/octet-stream", "href": "http://host/a.TIF?x=1"}, True),
        ({"type": "binary/octet-stream", "href": "http://host/a.bin"}, False),
        ({"href": "http://host/a.tif"}, True),
        ({"href": "http://host/a"}, True),
        ({"href": "http://host/a.json"}, False),
        ({"type": "application/json", "href": "http://host/a.tif"}, False),
        ({"type": "image/png"}, False),
        ({"type": "text/xml", "href": "http://host/a.xml"}, False),
    ],
)
def test_assets_are_rasters_by_media_type_or_name(asset, expected):
    assert assets.is_raster(asset) == expected


def test_bands_are_assets_with_odd_media_types(scenes):
    item = scenes.add_scene("a", noise(0))
    item["assets"]["blue"]["type"] = "application/octet-stream"
    del item["assets"]["green"]["type"]
    item["assets"]["info"] = {"href": f"{scenes.stac.files}/a.json", "type": "application/json"}
    got, _ = scenes.chip(at(30, 30), bands=("blue", "green"), stac={"collections": {"S2": {"collection": "s2"}}})
    assert np.array_equal(got.pixels, noise(0)[:, 20:40, 20:40])
