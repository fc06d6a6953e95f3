"""Masks and nodata values in files beside a raster: behind HTTP as on disk."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from rs_embed import ProviderError
from rs_embed.providers.stac import side_files

from ...support.rasters import at, noise, write
from ...support.stac_scenes import NAMES, SETTINGS
from ...support.stac_server import Fault
from .test_provider import at_loopback, objects

SPATIAL = at(30, 30)


@pytest.fixture(autouse=True)
def without_waiting(impatient):
    """Failures of a server are noticed at once."""


def add_with_mask(scenes, marked: np.ndarray, name="a", internal=False, **profile) -> None:
    """A scene of two files with masks; GDAL writes them."""
    kind = {"driver": "GTiff", **profile}
    scenes.add_scene(name, noise(0), profile=kind)
    for band in NAMES.keys() & {"B2", "B3"}:
        path = scenes.root / f"{name}_{band}.tif"
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as file:
            file.write_mask(marked)


def marked_half() -> np.ndarray:
    marked = np.full((60, 60), 255, "uint8")
    marked[:, 30:] = 0
    marked[22, 22] = 0
    return marked


@pytest.mark.parametrize("internal", [False, True])
def test_a_mask_beside_a_file_counts_as_on_disk(scenes, internal):
    add_with_mask(scenes, marked_half(), internal=internal)
    assert (scenes.root / "a_B2.tif.msk").exists() == (not internal)
    got, _ = scenes.compare_chips(SPATIAL)
    assert got.coverage == (0.4975, 0.4975)


def test_a_mask_beside_a_file_is_warped_as_the_file(scenes):
    from ..rasters.test_local import _config

    add_with_mask(scenes, marked_half())
    got, _ = scenes.compare_chips(SPATIAL, config=_config("web_mercator"))
    assert 0.4 < got.valid < 0.6


def test_a_mask_of_another_size_is_ignored_as_on_disk(scenes):
    scenes.add_scene("a", noise(0), bands=("B2",))
    write(scenes.root / "a_B2.tif.msk", np.zeros((1, 9, 9), "uint8"), crs=None)
    got, _ = scenes.chip(SPATIAL, bands=("B2",))
    local, _ = scenes.chip(SPATIAL, f"local:{scenes.root}", bands=("B2",), stac=None)
    assert got.coverage == local.coverage


@pytest.mark.parametrize("inside", [None, 9])
def test_nodata_beside_a_file_counts_as_on_disk(scenes, inside):
    pixels = noise(0)
    pixels[:, :25], pixels[:, 35:] = 5, 9
    scenes.add_scene("a", pixels, profile={} if inside is None else {"nodata": inside})
    for band in ("B2", "B3"):
        text = '<PAMDataset><PAMRasterBand band="1"><NoDataValue>5</NoDataValue></PAMRasterBand></PAMDataset>'
        (scenes.root / f"a_{band}.tif.aux.xml").write_text(text)
    got, _ = scenes.compare_chips(SPATIAL)
    assert got.valid == 0.75


def test_a_mask_behind_a_query_or_a_signature_is_found(scenes, monkeypatch):
    s2 = "COPERNICUS/S2_SR_HARMONIZED"
    add_with_mask(scenes, marked_half())
    item = scenes.stac.items[0] | {"collection": "sentinel-2-l2a"}
    item["properties"]["s2:processing_baseline"] = "03.00"
    item["assets"] = {{"blue": "B02", "green": "B03"}[k]: a for k, a in item["assets"].items()}
    scenes.stac.items[0] = item
    for asset in item["assets"].values():
        asset["href"] += "?version=1"
    scenes.stac.signed = True
    backend = at_loopback(monkeypatch, scenes, "planetary-computer")
    scenes.stac.good.add("version=1")  # the landing page of the file server
    settings = {"collections": {s2: {"side_files": True}}}
    monkeypatch.setattr(side_files, "_known", {})
    for token in (f"sig=SECRET{n}&for=sentinel-2-l2a" for n in range(1, 9)):
        scenes.stac.good.add(f"version=1&{token}")
    got, _ = scenes.chip(SPATIAL, backend, collection=s2, stac=settings)
    assert got.valid == 0.4975
    assert {a.query.partition("&")[0] for a in scenes.stac.requests if ".msk" in a.path} == {"version=1"}


def test_known_services_have_no_files_beside_their_rasters(scenes, monkeypatch):
    s2 = "COPERNICUS/S2_SR_HARMONIZED"
    scenes.add_scene("a", noise(0), collection=(s2, "sentinel-2-l2a"), **{"s2:processing_baseline": "03.00"})
    backend = at_loopback(monkeypatch, scenes, "earth-search")
    scenes.chip(SPATIAL, backend, collection=s2, stac=None)
    assert scenes.stac.count(".msk") == scenes.stac.count(".aux.xml") == 0


def test_it_can_be_switched_off(scenes):
    add_with_mask(scenes, marked_half())
    settings = {"collections": {"S2": SETTINGS["collections"]["S2"] | {"side_files": False}}}
    assert scenes.chip(SPATIAL, stac=settings)[0].valid == 1
    assert objects(scenes, [SPATIAL], stac=settings) != objects(scenes, [SPATIAL]), "other pixels"


@pytest.mark.parametrize("content", [b"<html>Log in</html>", b"<PAMDataset>", b"II*\0", b""])
def test_what_a_server_answers_for_every_name_is_no_mask(scenes, content):
    scenes.add_scene("a", noise(0), bands=("B2",))
    (scenes.root / "a_B2.tif.aux.xml").write_bytes(content)
    if content != b"II*\0":
        (scenes.root / "a_B2.tif.msk").write_bytes(content)
    if content == b"<PAMDataset>":
        with pytest.raises(ProviderError, match=r"its side file .aux.xml is not valid") as found:
            scenes.chip(SPATIAL, bands=("B2",))
        assert not found.value.retryable
    else:
        assert scenes.chip(SPATIAL, bands=("B2",))[0].valid == 1


def test_a_mask_is_never_another_kind_of_file(scenes):
    """GDAL would open a VRT of this name, which can name any file of this machine."""
    scenes.add_scene("a", noise(0), bands=("B2",))
    secret = write(scenes.root / "secret.tif", np.zeros((1, 60, 60), "uint8"))
    source = f'<SimpleSource><SourceFilename relativeToVRT="0">{secret}</SourceFilename></SimpleSource>'
    vrt = f'<VRTDataset rasterXSize="60" rasterYSize="60"><VRTRasterBand dataType="Byte">{source}</VRTRasterBand></VRTDataset>'
    (scenes.root / "a_B2.tif.msk").write_text(vrt)
    assert scenes.chip(SPATIAL, bands=("B2",))[0].valid == 1


def test_a_failure_that_can_pass_is_no_missing_file(scenes):
    add_with_mask(scenes, marked_half())
    scenes.stac.faults = [Fault("503", ".msk", times=1)]
    assert scenes.chip(SPATIAL)[0].valid == 0.4975
    side_files._known.clear()
    scenes.stac.faults = [Fault("503", ".msk")]
    with pytest.raises(ProviderError, match=r"a_B.\.tif cannot be read: its side file .msk: HTTP 503") as found:
        scenes.chip(SPATIAL)
    assert found.value.retryable
    assert "allowed: side_files: false in stac.collections" in str(found.value)


def test_masks_of_a_static_catalogue_on_disk_are_part_of_the_name_of_a_chip(scenes):
    scenes.add_scene("a", noise(0))
    _, items = scenes.write_static()
    before = objects(scenes, [SPATIAL], backend=f"stac:{items}")
    add_with_mask(scenes, marked_half())
    scenes.stac.items.pop()
    for band in ("B2", "B3"):
        path = scenes.root / f"a_{band}.tif"
        path.with_suffix(".tif.msk").rename(scenes.root / f"{band}.msk")
    without = objects(scenes, [SPATIAL], backend=f"stac:{items}")
    (scenes.root / "B2.msk").rename(scenes.root / "a_B2.tif.msk")
    assert len({before, without, objects(scenes, [SPATIAL], backend=f"stac:{items}")}) == 3
