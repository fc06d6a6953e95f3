"""Scenes that lie in a folder, in a local catalogue, in static STAC catalogues and behind a loopback STAC API at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rs_embed.providers.rasters import raster_io

from .rasters import ORIGIN, ZONE, catalogue, chip, write
from .stac_server import Stac, serving

#: What the loopback API calls the collection S2 and its bands.
SETTINGS = {"collections": {"S2": {"collection": "s2", "assets": {"B2": "blue", "B3": "green"}}}}
NAMES = {"B2": "blue", "B3": "green", "VV": "vv", "VH": "vh"}
COG = {"driver": "COG", "blocksize": 128, "compress": "deflate", "overviews": "none"}


class World:
    """The folder, the server, and the rows of the local catalogue."""

    def __init__(self, root: Path, stac: Stac) -> None:
        self.root, self.stac, self.rows = root, stac, []

    def scene(
        self,
        name: str,
        pixels: np.ndarray,
        *,
        day="2022-07-01",
        bands=("B2", "B3"),
        row=None,
        local=None,
        collection=("S2", "s2"),
        corner=ORIGIN,
        crs=ZONE,
        scale=10.0,
        profile=None,
        **properties,
    ) -> dict:
        """A scene with a file for each band; ``local`` are the pixels that the local catalogue has instead."""
        more = {"collection": collection[0], "datetime": f"{day}T10:00:00Z", "scene": name} | (row or {})
        for i, band in enumerate(bands):
            path = self.root / f"{name}_{band}.tif"
            write(path, pixels[i : i + 1], corner=corner, crs=crs, scale=scale, **(COG | (profile or {})))
            if local is not None:
                path = write(self.root / "local" / path.name, local[i : i + 1], corner=corner, crs=crs, scale=scale)
            self.rows.append({"path": str(path.relative_to(self.root)), "bands": band} | more)
        catalogue(self.root, *self.rows)
        assets = {NAMES.get(b, b): f"{name}_{b}.tif" for b in bands}
        box = raster_io.header(str(self.root / f"{name}_{bands[0]}.tif")).box
        when = f"{day}T10:00:00Z"
        return self.stac.add(name, assets, box, when, collection[1], **properties)

    def static(self) -> tuple[Path, Path]:
        """The items as a catalogue with relative links and as an item collection; both link to the files on disk."""
        items = json.loads(json.dumps(self.stac.items).replace(f"{self.stac.files}/", "./"))
        folder = self.root / "catalogue.stac"
        folder.mkdir(exist_ok=True)
        links = [{"rel": "item", "href": f"./{i['id']}.json"} for i in items]
        for item in items:
            above = json.loads(json.dumps(item).replace('"./', '"../'))
            (folder / f"{item['id']}.json").write_text(json.dumps(above))
        head = {"type": "Catalog", "id": "static", "stac_version": "1.0.0", "description": "static", "links": links}
        (folder / "catalog.json").write_text(json.dumps(head))
        (self.root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        return folder / "catalog.json", self.root / "items.json"

    def chip(self, place, backend: str | None = None, **changes):
        """(chip, grid) through the API, or another STAC backend."""
        given = {"backend": backend or f"stac:{self.stac.address}", "stac": SETTINGS} | changes
        return chip(self.root, place, **given)

    def same(self, place, **changes):
        """(chip, grid), after comparing those of the API, both static catalogues and the local one."""
        catalogue(self.root, *self.rows)
        expected, grid = chip(self.root, place, **{k: v for k, v in changes.items() if k != "stac"})
        for backend in (None, *(f"stac:{p}" for p in self.static())):
            got, where = self.chip(place, backend, **changes)
            assert where == grid
            assert got.pixels.dtype == expected.pixels.dtype
            assert np.array_equal(got.pixels, expected.pixels)
            assert (got.coverage, got.dates, got.said) == (expected.coverage, expected.dates, expected.said)
            scenes = [{"scene": s["scene"], "datetime": s["datetime"]} for s in got.provenance["scenes"]]
            assert scenes == [{"scene": s["scene"], "datetime": s["datetime"]} for s in expected.provenance["scenes"]]
            assert got.provenance.get("frames") == expected.provenance.get("frames")
        return expected, grid


@contextmanager
def a_world(root: Path) -> Iterator[World]:
    with serving(root) as stac:
        yield World(root, stac)
