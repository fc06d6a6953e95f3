"""The embedded sample scene: a real Sentinel-2 image that the package ``spyndex`` ships, for demos
and tests.

300 x 300 pixels of 10 m, bands B2 B3 B4 B8, surface reflectance x 10000. The file has no
georeference and no date, so both are *nominal*: the upper left corner is placed at 318000 E,
5693000 N in UTM zone 33 N (near Leipzig) and the scene is dated 2022-07-15. The provenance of
every chip states this.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.resources
import json
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from ..errors import ModelError, ProviderError, SpecError
from ..request.geometry import Grid, get_transformer
from .base import Chip, FetchCost, Roi
from .composite import band_coverage, combine

if TYPE_CHECKING:
    import numpy as np

    from ..planning.units import Source
    from ..request.specs import TemporalSpec

COLLECTION = "COPERNICUS/S2_SR_HARMONIZED"
BANDS = ("B2", "B3", "B4", "B8")
DATE = "2022-07-15"
SIDE = 300
SCENE = Grid("EPSG:32633", (10.0, 0.0, 318000.0, 0.0, -10.0, 5693000.0), SIDE, SIDE)


_read_lock = threading.Lock()


def read_scene() -> np.ndarray:
    """The scene, (4, 300, 300) uint16, bands as in ``BANDS``; read once, as the file stores it
    (rows first)."""
    with _read_lock:  # the first chips of a job read it in all threads at once
        return _read_scene_file()


@functools.cache
def _read_scene_file() -> np.ndarray:
    import numpy as np

    try:
        text = importlib.resources.files("spyndex").joinpath("data/S2_10m.json").read_text()
    except (ModuleNotFoundError, FileNotFoundError) as error:
        raise ProviderError(f"the sample scene is not installed ({error}); pip install spyndex") from None
    return np.asarray(json.loads(text), dtype=np.uint16)


class SampleProvider:
    """Cuts chips out of the sample scene by nearest pixel centre, in any projection and scale."""

    name = "sample"
    shared = False
    cores = 1
    lookups = 0

    def __init__(self, argument: str = "", base: str = ".", known: dict | None = None, *, job: bool = False) -> None:
        if argument:
            raise ModelError(f"backend: 'sample:{argument}' is not valid; allowed: 'sample'")

    def identity(self) -> dict:
        """Name and version of the scene."""
        return {
            "name": self.name,
            "scene": "spyndex/data/S2_10m.json",
            "placement": [SCENE.crs, list(SCENE.affine)],
            "date": DATE,
        }

    def backend(self, folder: str) -> str:
        return self.name

    def freeze(self) -> None:
        return None

    def request_slots(self, workers: int) -> AbstractContextManager:
        return threading.BoundedSemaphore(workers)

    def look_up(self, source: Source, wanted: Sequence[tuple[Roi, Grid]], slots: AbstractContextManager) -> None:
        """Do nothing: the scene has no metadata to look up."""

    def resolve(self, source: Source, rois: Sequence[Roi], grids: Sequence[Grid], *, strict: bool) -> None:
        """Refuse other collections, bands and masks; with ``strict`` also windows without the
        scene's date, and ROIs that are not inside the scene."""
        if source.identity["collection"] != COLLECTION:
            raise ProviderError(
                f"sensor.collection: {source.identity['collection']!r} is not in the sample scene; allowed: {COLLECTION!r}"
            )
        if "mask" in source.identity:
            kind = source.identity["mask"]["kind"]
            raise ProviderError(
                f"fetch.mask: {kind!r} is not valid, the sample scene has no quality band; allowed: null"
            )
        missing = [b for b in source.bands if b not in BANDS]
        if missing:
            raise ProviderError(f"sensor.bands: {missing[0]!r} is not in the sample scene; allowed: {', '.join(BANDS)}")
        if source.frames.mode != "composite":
            raise ProviderError("the sample scene is one image; allowed: models that use a single composite")
        if not strict:
            return
        for window in {r.temporal for r in rois}:
            if window is not None and not _is_in_window(window):
                raise ProviderError(
                    f"temporal: {window.start}..{window.end} has no image of the sample scene; allowed: a window with its "
                    f"nominal date {DATE}, or continue_on_error, which records its ROIs as no_data"
                )
        for roi, grid in zip(rois, grids):
            if not _is_inside_scene(grid):
                west, south, east, north = get_transformer(SCENE.crs, "EPSG:4326").transform_bounds(*SCENE.bounds)
                raise SpecError(
                    f"ROI {roi.name!r}: {roi.spatial} is not inside the sample scene; "
                    f"allowed: footprints within lon {west:.4f}..{east:.4f}, lat {south:.4f}..{north:.4f}, "
                    "or continue_on_error, which records ROIs outside it as no_data"
                )

    def fetch_cost(self, source: Source, bands: Sequence[str], height: int, width: int) -> FetchCost:
        """No requests: the scene is a file of an installed package."""
        return FetchCost(0, 2, 0)

    def fetch(self, source: Source, bands: Sequence[str], roi: Roi, grid: Grid) -> Chip:
        """The nearest scene pixel of every pixel centre; uint16 DN. Pixels outside the scene have
        the fill value, in a dtype that represents it; a ROI without any pixel, or whose window
        does not contain the scene's date, has no imagery."""
        import numpy as np

        columns, rows, inside = _scene_indices(grid)
        if not inside.any() or not _is_in_window(roi.temporal):
            reason = f"the window does not contain {DATE}" if inside.any() else "the ROI is outside it"
            said = (f"no image of the sample scene: {reason}",)
            empty = np.zeros((len(bands), 0, 0), np.uint16)
            return Chip(empty, (0.0,) * len(bands), (), {"scenes": []}, (said,) * len(bands))
        values = read_scene()[[BANDS.index(b) for b in bands]][:, rows, columns]
        image = np.ascontiguousarray(values), np.broadcast_to(inside, values.shape)
        pixels, valid = combine([image], "mosaic", source.identity["fill_value"]) if not inside.all() else image
        provenance = {
            "scenes": ["spyndex/data/S2_10m.json"],
            "package": f"spyndex {importlib.metadata.version('spyndex')}",
            "note": "the scene's place and date are nominal, not where and when it was taken",
        }
        return Chip(pixels, band_coverage(valid), (DATE,), provenance, date_is=("acquisition",))


def _is_in_window(window: TemporalSpec | None) -> bool:
    return window is None or window.start <= DATE < window.end


def _scene_indices(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scene column and row of every pixel of a grid, and whether it is inside the scene, (H, W)
    each; 0 for pixels outside."""
    import numpy as np

    x, y = np.meshgrid(*grid.centres())
    if grid.crs != SCENE.crs:  # infinity where a point cannot be projected
        x, y = get_transformer(grid.crs, SCENE.crs).transform(x, y)
    left, _, _, top = SCENE.bounds
    columns, rows = np.floor((x - left) / 10.0), np.floor((top - y) / 10.0)
    inside = (columns >= 0) & (columns < SIDE) & (rows >= 0) & (rows < SIDE)
    return np.where(inside, columns, 0).astype(int), np.where(inside, rows, 0).astype(int), inside


def _is_inside_scene(grid: Grid) -> bool:
    """All pixel centres are inside the scene. The corners decide, because both projections are
    smooth over 3 km."""
    left, bottom, right, top = grid.bounds
    half = grid.affine[0] / 2
    xs, ys = [left + half, right - half], [bottom + half, top - half]
    corners = [(x, y) for x in xs for y in ys]
    if grid.crs != SCENE.crs:
        try:
            corners = [(x, y) for x, y, *_ in get_transformer(grid.crs, SCENE.crs).itransform(corners, errcheck=True)]
        except Exception:  # pyproj cannot project a point that is far from the scene's zone
            return False
    west, south, east, north = SCENE.bounds
    return all(west <= x < east and south < y <= north for x, y in corners)
