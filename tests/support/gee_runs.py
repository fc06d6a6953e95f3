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
from .ee_graph import Scene

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
        self, path: Path, day: str, bands=("B2", "B3"), collection=S2, cloud: float | None = 0.0, **properties
    ) -> None:
        """Add an existing file."""
        name = path.stem
        row = {"path": str(path), "collection": collection, "datetime": day, "bands": " ".join(bands), "scene": name}
        self.rows.append(row | ({} if cloud is None else {"cloud_cover": cloud}))
        if cloud is not None:
            properties = {"CLOUDY_PIXEL_PERCENTAGE": cloud} | properties
        scene = Scene(name, path, day, tuple(bands), properties)
        self.collections.setdefault(collection, []).append(scene)
        if collection == DECIBEL:  # Earth Engine has both
            linear = dataclasses.replace(scene, convert=power)
            self.collections.setdefault(LINEAR, []).append(linear)

    def make(
        self, pixels: np.ndarray, day: str, *, name: str | None = None, profile: dict | None = None, **about
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


def assert_same_chip(one, other) -> None:
    """Two chips are equal: pixels, dtype, coverage, dates, warnings and frames."""
    assert one.pixels.dtype == other.pixels.dtype
    assert np.array_equal(one.pixels, other.pixels)
    assert one.coverage == pytest.approx(other.coverage)
    assert (one.dates, one.warnings) == (other.dates, other.warnings)
    assert one.provenance.get("frames") == other.provenance.get("frames")
    for scene, other_scene in zip(one.provenance["scenes"], other.provenance["scenes"], strict=True):
        assert {k: v for k, v in scene.items() if k != "mode"} == {k: v for k, v in other_scene.items() if k != "files"}
