"""Numbers of known products from an API of one's own: nodata values, and the constant of
Sentinel-2 as the config says."""

from __future__ import annotations

import numpy as np
import pytest

from rs_embed import ProviderError
from rs_embed.providers.stac import mappings, sentinel_2
from rs_embed.providers.stac.items import parse_item
from rs_embed.providers.stac.services import PLANETARY_COMPUTER

from ...support.rasters import at, noise
from .test_provider import at_loopback, planned

SPATIAL = at(30, 30)
S2 = "COPERNICUS/S2_SR_HARMONIZED"
L8 = "LANDSAT/LC08/C02/T1_L2"
HLS = "NASA/HLS/HLSS30/v002"


def settings(collection: str, band: str, asset: str, **entry) -> dict:
    return {"collections": {collection: {"collection": "mine", "assets": {band: asset}} | entry}}


@pytest.mark.parametrize(
    ("collection", "band", "number", "entry", "valid"),
    [
        (S2, "B2", 0, {}, 0.5),
        (S2, "B2", 0, {"offset": 0.0}, 0.5),
        (S2, "B2", 0, {"offset": -1000.0}, 0.5),
        (S2, "B2", 0, {"scale": 1.0}, 1),
        (S2, "B2", 0, {"scale": 0.5, "offset": -1000.0}, 1),
        (S2, "B2", 0, {"offset": -500.0}, 1),
        (S2, "SCL", 0, {}, 0.5),
        (S2, "AOT", 0, {}, 1),
        (L8, "SR_B4", 0, {}, 0.5),
        (L8, "SR_B4", 0, {"scale": 2.0}, 1),
        (HLS, "B8A", -9999, {}, 0.5),
        ("S2", "B2", 0, {}, 1),
    ],
)
def test_the_nodata_value_of_a_product_counts_unless_the_config_scales(scenes, collection, band, number, entry, valid):
    pixels = noise(0, (1, 60, 60), "int16" if number < 0 else "uint16", 3000) + 1
    pixels[:, :30] = number
    scenes.add_scene("a", pixels, bands=("B2",), collection=(collection, "mine"))
    got, _ = scenes.chip(
        SPATIAL, collection=collection, bands=(band,), stac=settings(collection, band, "blue", **entry)
    )
    assert got.valid == valid


@pytest.mark.parametrize("word", ["", "planetary-computer"])
@pytest.mark.parametrize(
    ("band", "subtracted"), [("B2", 1000), ("B8A", 1000), ("red", 1000), ("AOT", 0), ("WVP", 0), ("SCL", 0)]
)
def test_the_way_out_of_the_baseline_remark_gives_the_collection_s_numbers(scenes, monkeypatch, word, band, subtracted):
    pixels = noise(0, (1, 60, 60), high=3000) + 1
    pixels[:, :25] = 0
    service = "sentinel-2-l2a" if word else "mine"
    scenes.add_scene("a", pixels, bands=("B2",), collection=(S2, service), **{"s2:processing_baseline": "05.09"})
    backend = at_loopback(monkeypatch, scenes, word) if word else None
    entry = {"collection": service, "assets": {band: "blue"}, "offset": -1000.0}
    got, _ = scenes.chip(SPATIAL, backend, collection=S2, bands=(band,), stac={"collections": {S2: entry}})
    expected = np.maximum(pixels, subtracted)[:, 20:40, 20:40] - np.uint16(subtracted)
    assert got.pixels.dtype == np.uint16
    assert np.array_equal(got.pixels[:, 5:], expected[:, 5:])
    assert got.valid == (1 if band in ("AOT", "WVP") else 0.75)
    assert not got.warnings
    assert got.provenance["scenes"][0].get("subtracted", 0) == subtracted


def test_another_offset_of_the_config_leaves_aerosol_and_water_vapour():
    known = mappings.map_collections(PLANETARY_COMPUTER, {S2: {"scale": 0.5, "offset": -500.0}})[S2]
    for band, offset in (("B4", -500.0), ("AOT", 0.0), ("WVP", 0.0)):
        assert mappings.choose_scaling(known, S2, band, None) == (0.5, offset)
    assert mappings.choose_scaling(known, L8, "SR_B4", None) == (0.5, -500.0)


@pytest.mark.parametrize("known", [None, "sentinel-2-c1-l2a"])
def test_a_scale_without_an_offset_leaves_the_constant_to_the_baseline(scenes, monkeypatch, known):
    pixels = noise(0, high=3000)
    item = scenes.add_scene("a", pixels, collection=(S2, known or "mine"), **{"s2:processing_baseline": "05.09"})
    for asset in item["assets"].values():
        asset["raster:bands"] = [{"scale": 0.0001}]
    backend = at_loopback(monkeypatch, scenes, "earth-search") if known else None
    entry = {"collection": known or "mine", "assets": {"B2": "blue", "B3": "green"}}
    got, _ = scenes.chip(SPATIAL, backend, collection=S2, stac={"collections": {S2: entry}})
    subtracted = 1000 if known else 0
    assert np.array_equal(got.pixels, np.maximum(pixels, subtracted)[:, 20:40, 20:40] - subtracted)
    assert bool(got.warnings) == (not known)
    item["assets"]["green"]["raster:bands"] = [{"scale": 0.0001, "offset": -0.1}]
    got, _ = scenes.chip(SPATIAL, backend, collection=S2, stac={"collections": {S2: entry}})
    assert np.array_equal(got.pixels, np.maximum(pixels, 1000)[:, 20:40, 20:40] - 1000), "another band states it"
    assert not got.warnings


def test_an_offset_without_its_scale_is_refused():
    with pytest.raises(ValueError, match="no whole number of steps"):
        sentinel_2.sentinel_2_offset("stated", {"id": "a"}, (1.0, -0.1))
    assert sentinel_2.sentinel_2_offset("stated", {"id": "a"}, (0.0001, -0.1)) == 1000
    assert sentinel_2.sentinel_2_offset("stated", {"id": "a"}, (1.0, -1000.0)) == 1000


def test_a_removed_constant_needs_a_baseline_where_the_item_says_that_it_was_not_removed(scenes):
    scenes.add_scene("a", noise(0), collection=(S2, "mine"), **{"earthsearch:boa_offset_applied": False})
    with pytest.raises(ProviderError, match="does not have its processing baseline"):
        planned(scenes, [SPATIAL], collection=S2, bands=("B2",), stac=settings(S2, "B2", "blue"))


@pytest.mark.parametrize("named", [True, False])
def test_null_entries_of_an_item_are_skipped(scenes, named):
    item = scenes.add_scene("a", noise(0))
    item["assets"] |= {"thumb": None, "text": "a.tif"}
    item["assets"]["blue"] |= {"raster:bands": [None], "bands": None, "eo:bands": [None], "nodata": 7}
    entry = {"collection": "s2"} | ({"assets": {"B2": "blue", "B3": "green"}} if named else {})
    bands = ("B2", "B3") if named else ("blue", "green")
    got, _ = scenes.chip(SPATIAL, bands=bands, stac={"collections": {"S2": entry}})
    assert np.array_equal(got.pixels, noise(0)[:, 20:40, 20:40])
    mapping = mappings.CollectionMapping("s2")
    fields = {"proj:code": "EPSG:32632", "proj:bbox": [500000, 6000000, 510000, 6010000]}
    item |= {"geometry": None, "bbox": None, "properties": item["properties"] | fields}
    assert parse_item(item, "S2", mapping, None).box[0] == pytest.approx(9)
