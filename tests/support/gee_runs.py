"""The same files in two forms: a local catalogue, and collections of a loopback Earth Engine."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rs_embed.planning.model_info import Frames
from rs_embed.request.gee_settings import GeeSettings

from . import rasters
from .earth_engine import PROJECT, EarthEngine, serve_earth_engine
from .ee_images import Scene

S2 = "COPERNICUS/S2_SR_HARMONIZED"
LINEAR, DECIBEL = "COPERNICUS/S1_GRD_FLOAT", "COPERNICUS/S1_GRD"
IW = {
    "instrumentMode": "IW",
    "transmitterReceiverPolarisation": ["VV", "VH"],
    "orbitProperties_pass": "ASCENDING",
}


@dataclasses.dataclass
class Archive:
    """Images in a folder, as rows of a catalogue and as scenes of collections."""

    folder: Path
    rows: list[dict] = dataclasses.field(default_factory=list)
    collections: dict[str, list[Scene]] = dataclasses.field(default_factory=dict)

    def add(
        self,
        path: Path,
        day: str | None,
        bands=("B2", "B3"),
        collection=S2,
        cloud: float | None = 0.0,
        more=(),
        **properties,
    ) -> None:
        """Add an existing file, and further files (path, bands) of the same image. An image
        without a day is the earliest one of the catalogue, which has a day for every row."""
        name = path.stem
        for file, in_file in ((path, bands), *more):
            row = {"path": str(file), "collection": collection, "datetime": day or "1970-01-01", "scene": name}
            self.rows.append(row | {"bands": " ".join(in_file)} | ({} if cloud is None else {"cloud_cover": cloud}))
        if cloud is not None:
            properties = {"CLOUDY_PIXEL_PERCENTAGE": cloud} | properties
        scene = Scene(name, path, day, tuple(bands), properties, more=tuple(more))
        self.collections.setdefault(collection, []).append(scene)
        if collection == DECIBEL:  # Earth Engine has both
            linear = dataclasses.replace(scene, convert=power)
            self.collections.setdefault(LINEAR, []).append(linear)

    def make(
        self, pixels: np.ndarray, day: str | None, *, name: str | None = None, profile: dict | None = None, **about
    ) -> None:
        """Write and add a new image."""
        path = self.folder / f"{name or len(self.rows)}.tif"
        self.add(rasters.write(path, pixels, **(profile or {})), day, **about)

    @contextlib.contextmanager
    def served(self, **about) -> Iterator[EarthEngine]:
        """An Earth Engine with these images, and a catalogue beside them."""
        rasters.catalogue(self.folder, *self.rows)
        with serve_earth_engine(collections=self.collections, **about) as service:
            yield service


def power(decibel: np.ndarray) -> np.ndarray:
    """Linear power of dB, in its dtype."""
    return np.power(decibel.dtype.type(10), decibel / decibel.dtype.type(10))


def settings(service: EarthEngine, **more) -> GeeSettings:
    return GeeSettings(project=PROJECT, url=service.url, **more)


def chips(archive: Archive, service: EarthEngine, spatial, frames: Frames | None = None, **changes):
    """The chips of a ROI: (from Earth Engine, from the files, grid)."""
    changes = {"collection": S2} | changes
    from_gee, grid = rasters.chip(archive.folder, spatial, frames, backend="gee", gee=settings(service), **changes)
    from_files, files_grid = rasters.chip(archive.folder, spatial, frames, **changes)
    assert grid == files_grid
    return from_gee, from_files, grid


def assert_same_chip(one, other, rounding: float = 0.0) -> None:
    """Two chips are equal: pixels, dtype, coverage, dates, warnings, frames and mask.
    The mean of two floats may be rounded in another way."""
    assert one.pixels.dtype == other.pixels.dtype
    np.testing.assert_allclose(one.pixels, other.pixels, rtol=rounding, atol=0)
    assert one.coverage == pytest.approx(other.coverage)
    assert (one.dates, one.date_is, one.warnings) == (other.dates, other.date_is, other.warnings)
    for key in ("frames", "mask"):
        assert one.provenance.get(key) == other.provenance.get(key)
    for scene, other_scene in zip(one.provenance["scenes"], other.provenance["scenes"], strict=True):
        assert {k: v for k, v in scene.items() if k != "mode"} == {k: v for k, v in other_scene.items() if k != "files"}
