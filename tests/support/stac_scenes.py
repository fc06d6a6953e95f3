"""The same scenes in a folder with a local catalogue, in static STAC catalogues and behind a
loopback STAC API."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from rs_embed.providers.rasters import raster_io

from .rasters import ORIGIN, ZONE, catalogue, chip, write
from .stac_server import StacServer, serve_stac

#: Names of the collection S2 and its bands in the loopback API.
SETTINGS = {"collections": {"S2": {"collection": "s2", "assets": {"B2": "blue", "B3": "green"}}}}
NAMES = {"B2": "blue", "B3": "green", "VV": "vv", "VH": "vh"}
COG = {"driver": "COG", "blocksize": 128, "compress": "deflate", "overviews": "none"}


class SceneServer:
    """The folder of scenes, the server, and the rows of the local catalogue."""

    def __init__(self, root: Path, stac: StacServer) -> None:
        self.root, self.stac, self.rows = root, stac, []

    def add_scene(
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
        """Add a scene with a file for each band; ``local``: different pixels for the local
        catalogue."""
        more = {"collection": collection[0], "datetime": f"{day}T10:00:00Z", "scene": name} | (row or {})
        for i, band in enumerate(bands):
            path = self.root / f"{name}_{band}.tif"
            write(path, pixels[i : i + 1], corner=corner, crs=crs, scale=scale, **(COG | (profile or {})))
            if local is not None:
                path = write(self.root / "local" / path.name, local[i : i + 1], corner=corner, crs=crs, scale=scale)
            self.rows.append({"path": str(path.relative_to(self.root)), "bands": band} | more)
        catalogue(self.root, *self.rows)
        assets = {NAMES.get(b, b): f"{name}_{b}.tif" for b in bands}
        box = raster_io.read_header(str(self.root / f"{name}_{bands[0]}.tif")).box
        when = f"{day}T10:00:00Z"
        return self.stac.add(name, assets, box, when, collection[1], **properties)

    def write_static(self) -> tuple[Path, Path]:
        """Write the items as a catalogue with relative links and as an item collection; both link
        to the files on disk."""
        items = json.loads(json.dumps(self.stac.items).replace(f"{self.stac.files}/", "./"))
        folder = self.root / "catalogue.stac"
        folder.mkdir(exist_ok=True)
        links = [{"rel": "item", "href": f"./{i['id']}.json"} for i in items]
        for item in items:
            moved = json.loads(json.dumps(item).replace('"./', '"../'))
            (folder / f"{item['id']}.json").write_text(json.dumps(moved))
        head = {"type": "Catalog", "id": "static", "stac_version": "1.0.0", "description": "static", "links": links}
        (folder / "catalog.json").write_text(json.dumps(head))
        (self.root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
        return folder / "catalog.json", self.root / "items.json"

    def chip(self, spatial, backend: str | None = None, **changes):
        """(chip, grid) from the API, or from another STAC backend."""
        given = {"backend": backend or f"stac:{self.stac.address}", "stac": SETTINGS} | changes
        return chip(self.root, spatial, **given)

    def compare_chips(self, spatial, **changes):
        """(chip, grid) of the local catalogue, compared with those of the API and of both static
        catalogues."""
        catalogue(self.root, *self.rows)
        expected, grid = chip(self.root, spatial, **{k: v for k, v in changes.items() if k != "stac"})
        for backend in (None, *(f"stac:{p}" for p in self.write_static())):
            got, got_grid = self.chip(spatial, backend, **changes)
            assert got_grid == grid
            assert got.pixels.dtype == expected.pixels.dtype
            assert np.array_equal(got.pixels, expected.pixels)
            assert (got.coverage, got.dates, got.band_warnings) == (
                expected.coverage,
                expected.dates,
                expected.band_warnings,
            )
            scenes = [{"scene": s["scene"], "datetime": s["datetime"]} for s in got.provenance["scenes"]]
            assert scenes == [{"scene": s["scene"], "datetime": s["datetime"]} for s in expected.provenance["scenes"]]
            assert got.provenance.get("frames") == expected.provenance.get("frames")
        return expected, grid


@contextmanager
def serve_scenes(root: Path) -> Iterator[SceneServer]:
    with serve_stac(root) as stac:
        yield SceneServer(root, stac)
