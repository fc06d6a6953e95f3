"""The constant that a catalogue subtracts from the numbers of a file."""

from __future__ import annotations

import numpy as np
import pytest

from rs_embed import ProviderError

from ...support.rasters import at, catalogue, chip, noise, write


def test_what_the_catalogue_subtracts(tmp_path):
    pixels = noise(0, high=3000)
    pixels[:, 20:30] = 0
    write(tmp_path / "a.tif", pixels)
    catalogue(tmp_path, {"path": "a.tif", "subtract": 1000, "nodata": 0, "note": "a remark"})
    got, _ = chip(tmp_path, at(30, 30, 100))
    assert got.pixels.dtype == np.uint16
    expected = np.maximum(pixels, 1000) - 1000
    assert np.array_equal(got.pixels, expected[:, 20:40, 20:40])
    assert got.valid == 0.5, "0 is no data before the subtraction, and a value after it"
    (scene,) = got.provenance["scenes"]
    assert (scene["subtracted"], scene["note"]) == (1000, "a remark")
    catalogue(tmp_path, {"path": "a.tif", "subtract": 1000, "nodata": 0, "scale": 0.0001})
    scaled, _ = chip(tmp_path, at(30, 30, 100))
    assert np.allclose(scaled.pixels, expected[:, 20:40, 20:40] / 10000)
    write(tmp_path / "a.tif", noise(0, dtype="uint8", high=200))
    with pytest.raises(ProviderError, match=r"subtract: 1000 is more than uint8 numbers of a\.tif can have"):
        chip(tmp_path, at(30, 30, 100))
