"""Alpha bands: a mask where they are one, data where the catalogue names them, never silently
both."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import rasterio

from rs_embed import ProviderError
from rs_embed.cli import main

from ...support.factories import assert_refusal
from ...support.rasters import at, catalogue, chip, noise, write

NAMES = ("B4", "B3", "B2", "B8")


def rgb_and_infrared(folder, share=0.2, **profile) -> np.ndarray:
    """A file of 8 bits, whose fourth band GDAL takes for alpha; some of its numbers are 0."""
    pixels = noise(0, (4, 60, 60), "uint8", 200)
    pixels[3][np.random.default_rng(1).random((60, 60)) < share] = 0
    path = write(folder / "a.tif", pixels, **profile)
    with rasterio.open(path) as file:
        assert file.colorinterp[3] == rasterio.enums.ColorInterp.alpha
    return pixels


@pytest.mark.parametrize("profile", [{}, {"nodata": 0}, {"tiled": True, "blockxsize": 16, "blockysize": 16}])
def test_four_names_make_the_fourth_band_data(tmp_path, profile):
    pixels = rgb_and_infrared(tmp_path, **profile)
    catalogue(tmp_path, {"path": "a.tif", "bands": " ".join(NAMES)})
    got, _ = chip(tmp_path, at(30, 30), bands=NAMES)
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])
    zeros = (pixels[3, 20:40, 20:40] == 0).mean()
    assert got.coverage == (1.0, 1.0, 1.0, pytest.approx(1 - zeros if "nodata" in profile else 1.0))
    some, _ = chip(tmp_path, at(30, 30), bands=("B8", "B4"))
    assert np.array_equal(some.pixels, pixels[[3, 0], 20:40, 20:40])


@pytest.mark.parametrize("names", [NAMES[:3], ()])
def test_three_names_never_hide_pixels(tmp_path, names):
    rgb_and_infrared(tmp_path)
    catalogue(tmp_path, {"path": "a.tif", "bands": " ".join(names)})
    with pytest.raises(ProviderError) as error:
        chip(tmp_path, at(30, 30), bands=NAMES[:3])
    assert_refusal(error.value, "a.tif has 4 bands (band 4 is marked as alpha, which is transparency)", "4 names")


def test_a_mask_is_a_mask_unless_it_is_named(tmp_path):
    pixels = noise(0, (4, 60, 60), "uint8", 200)
    pixels[3], pixels[3, :30] = 255, 0
    pixels[3, 30] = 128  # an edge that was resampled
    write(tmp_path / "a.tif", pixels)
    catalogue(tmp_path, {"path": "a.tif", "bands": " ".join(NAMES[:3])})
    got, _ = chip(tmp_path, at(30, 30), bands=NAMES[:3])
    assert got.valid == 0.5 and np.array_equal(got.pixels[:, 10:], pixels[:3, 30:40, 20:40])
    catalogue(tmp_path, {"path": "a.tif", "bands": " ".join(NAMES)})
    got, _ = chip(tmp_path, at(30, 30), bands=NAMES)
    assert got.valid == 1.0 and np.array_equal(got.pixels, pixels[:, 20:40, 20:40])


def test_the_message_about_the_number_of_names_mentions_alpha(tmp_path):
    rgb_and_infrared(tmp_path)
    catalogue(tmp_path, {"path": "a.tif", "bands": "B4 B3"})
    with pytest.raises(ProviderError) as error:
        chip(tmp_path, at(30, 30), bands=("B4", "B3"))
    assert_refusal(error.value, "2 names for the 4 bands of a.tif (band 4 is marked as alpha")


def test_the_command_counts_the_band_and_says_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    pixels = rgb_and_infrared(tmp_path)
    options = ["catalogue", str(tmp_path), "--collection", "S2", "--datetime", "2022-07-01"]
    assert main(options) == 1
    assert "(4 bands, band 4 is marked as alpha and has the values of an image)" in capsys.readouterr().err
    assert main([*options, "--bands", "B4 B3 B2"]) == 1
    assert "does not name the 4 bands of a.tif, band 4 is marked as alpha" in capsys.readouterr().err
    assert main([*options, "--bands", " ".join(NAMES)]) == 0
    got, _ = chip(tmp_path, at(30, 30), bands=NAMES)
    assert np.array_equal(got.pixels, pixels[:, 20:40, 20:40])


def test_a_mask_beside_a_raster_that_is_moved_by_a_turn(tmp_path):
    from rs_embed import PointBuffer

    values = noise(0, (1, 200, 3600))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(tmp_path / "a.tif", values, crs="EPSG:4326", corner=(0.0, 10.0), scale=0.1)
        with rasterio.open(path, "r+") as file:
            hidden = np.full((200, 3600), 255, "uint8")
            hidden[:, 1800:] = 0
            file.write_mask(hidden)
    catalogue(tmp_path, {"path": "a.tif", "bands": "B2"})
    for lon, valid in ((75.0, 1.0), (-75.0, 0.0)):
        got, _ = chip(tmp_path, PointBuffer(lon, 5.0, 20000), bands=("B2",), scale_m=1000.0)
        assert got.valid == valid
