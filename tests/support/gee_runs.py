"""The same files twice: as a local catalogue, and as collections of a loopback Earth Engine."""

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
from .earth_engine import PROJECT, EarthEngine, served
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
        """An image that is there already."""
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
        """A new image."""
        path = self.folder / f"{name or len(self.rows)}.tif"
        self.add(rasters.write(path, pixels, **(profile or {})), day, **about)

    @contextlib.contextmanager
    def served(self, **about) -> Iterator[EarthEngine]:
        """An Earth Engine with these images, and a catalogue beside them."""
        rasters.catalogue(self.folder, *self.rows)
        with served(collections=self.collections, **about) as service:
            yield service


def power(decibel: np.ndarray) -> np.ndarray:
    """Linear power of dB, in its dtype."""
    return np.power(decibel.dtype.type(10), decibel / decibel.dtype.type(10))


def settings(service: EarthEngine, **more) -> GeeSettings:
    return GeeSettings(project=PROJECT, url=service.url, **more)


def chips(archive: Archive, service: EarthEngine, place, frames: Frames | None = None, **changes):
    """The chips of a place: (through Earth Engine, from the files), and the grid."""
    changes = {"collection": S2} | changes
    there, grid = rasters.chip(archive.folder, place, frames, backend="gee", gee=settings(service), **changes)
    here, same = rasters.chip(archive.folder, place, frames, **changes)
    assert grid == same
    return there, here, grid


def assert_same(there, here) -> None:
    """Two chips are one: pixels, dtype, coverage, dates, sentences and frames."""
    assert there.pixels.dtype == here.pixels.dtype
    assert np.array_equal(there.pixels, here.pixels)
    assert there.coverage == pytest.approx(here.coverage)
    assert (there.dates, there.warnings) == (here.dates, here.warnings)
    assert there.provenance.get("frames") == here.provenance.get("frames")
    for ours, theirs in zip(there.provenance["scenes"], here.provenance["scenes"], strict=True):
        assert {k: v for k, v in ours.items() if k != "mode"} == {k: v for k, v in theirs.items() if k != "files"}
