"""Masks of the known services: the quality band of a collection, read as it is."""

from __future__ import annotations

import numpy as np
import pytest

from rs_embed import ProviderError

from ...support.rasters import at, noise
from .test_provider import at_loopback, planned

SPATIAL = at(30, 30)
S2 = "COPERNICUS/S2_SR_HARMONIZED"
LANDSAT = {"platform": "landsat-8", "landsat:collection_category": "T1"}
#: service, collections, asset of a band and of the quality band, band, a cloudy and a clear value,
#: dtype of the quality band, properties, what the band's numbers become
KNOWN = {
    "Sentinel-2, Earth Search": (
        "earth-search", S2, "sentinel-2-l2a", "blue", "scl", "B2", 9, 4, "uint8",
        {"s2:processing_baseline": "05.09"}, lambda v: np.maximum(v, 1000) - 1000,
    ),
    "Sentinel-2, Planetary Computer": (
        "planetary-computer", S2, "sentinel-2-l2a", "B02", "SCL", "B2", 3, 6, "uint8",
        {"s2:processing_baseline": "05.09"}, lambda v: np.maximum(v, 1000) - 1000,
    ),
    "Landsat, Earth Search": (
        "earth-search", "LANDSAT/LC08/C02/T1_L2", "landsat-c2-l2", "red", "qa_pixel", "SR_B4", 22280, 21824, "uint16",
        LANDSAT, lambda v: v,
    ),
    "HLS, Planetary Computer": (
        "planetary-computer", "NASA/HLS/HLSS30/v002", "hls2-s30", "B8A", "Fmask", "B8A", 2, 64, "uint8",
        {}, lambda v: v * np.float32(0.0001),
    ),
    "MODIS, Planetary Computer": (
        "planetary-computer", "MODIS/061/MOD09A1", "modis-09A1-061", "sur_refl_b01", "sur_refl_state_500m", "sur_refl_b01",
        1, 8, "uint16", {"platform": "terra"}, lambda v: v,
    ),
}  # fmt: skip


def add(scenes, case, name="a", day="2022-07-01", seed=0, quality=True) -> np.ndarray:
    _, collection, source, asset, quality_asset, _, cloudy, clear, dtype, properties, _ = case
    pixels = noise(seed, (1, 60, 60), "int16" if "HLS" in collection else "uint16", 9000)
    where = np.full((1, 60, 60), clear, dtype)
    where[:, :30] = cloudy
    item = scenes.add_scene(name, pixels, bands=(asset,), collection=("x", source), day=day, **properties)
    if quality:
        other = scenes.add_scene(f"{name}q", where, bands=(quality_asset,), collection=("x", source), day=day)
        scenes.stac.items.pop()
        item["assets"] |= other["assets"]
    return pixels


@pytest.mark.parametrize("name", KNOWN)
def test_clouds_are_removed_and_the_quality_band_keeps_its_numbers(scenes, monkeypatch, name):
    case = KNOWN[name]
    word, collection, _, _, _, band, cloudy, clear, dtype, _, decoded = case
    pixels = add(scenes, case)
    backend = at_loopback(monkeypatch, scenes, word)
    options = {"collection": collection, "bands": (band,), "stac": None}
    plain, _ = scenes.chip(SPATIAL, backend, **options)
    got, _ = scenes.chip(SPATIAL, backend, mask="clouds", **options)
    assert np.array_equal(plain.pixels, decoded(pixels)[:, 20:40, 20:40])
    assert (plain.valid, got.valid) == (1, 0.5)
    assert np.array_equal(got.pixels[:, 10:], decoded(pixels)[:, 30:40, 20:40])
    assert got.provenance["mask"]["masked"] == 0.5
    raw, _ = scenes.chip(SPATIAL, backend, **(options | {"bands": (got.provenance["mask"]["band"],)}))
    assert raw.pixels.dtype == dtype
    assert set(np.unique(raw.pixels)) == {cloudy, clear}, "not scaled, nothing subtracted"


def test_a_scene_without_the_quality_band_is_left_out_and_named(scenes, monkeypatch):
    case = KNOWN["Sentinel-2, Earth Search"]
    add(scenes, case)
    add(scenes, case, "b", "2022-07-02", 1, quality=False)
    backend = at_loopback(monkeypatch, scenes, "earth-search")
    got, _ = scenes.chip(SPATIAL, backend, collection=S2, bands=("B2",), mask="clouds", stac=None)
    assert got.provenance["mask"]["without"] == ["b"]
    assert got.valid == 0.5


def test_a_mask_that_no_item_has_is_refused(scenes, monkeypatch):
    add(scenes, KNOWN["Sentinel-2, Earth Search"], quality=False)
    backend = at_loopback(monkeypatch, scenes, "earth-search")
    with pytest.raises(ProviderError, match="'SCL'"):
        planned(scenes, [SPATIAL], backend=backend, collection=S2, bands=("B2",), mask="clouds", stac=None)
