"""The tiles of a large image: where they lie, which pixels each one owns, how results are joined.

Tiles of side ``t`` lie at 0, t, 2t, ...; the last one is moved back to end with the image. Pixels
in two tiles belong to the tile on whose side of the middle of the overlap they lie. An axis that
is slightly longer than a multiple of the tile is first scaled down to it (otherwise the last two
tiles would be nearly equal). An axis shorter than a tile is padded with its edge. The rules are
those of rs-embed 0.3.1 (``tools/tiling.py``), so that grids and vectors of both can be compared.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..planning.model_info import Prep

if TYPE_CHECKING:
    import numpy as np


#: Tolerance for rounding where a cut falls on the edge of a cell, in cells.
_EPS = 1e-9


@dataclass(frozen=True)
class Span:
    """One axis of a tile: pixels ``start .. stop-1`` of the image, of which it owns ``owned``
    (start, stop)."""

    start: int
    stop: int
    owned: tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """The tiles of one image.

    Attributes:
        height, width: of the image after scaling to whole tiles, pixels.
        tile_size: side of a tile, pixels. rows, columns: spans of the tiles along both axes.
    """

    height: int
    width: int
    tile_size: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @cached_property
    def tiles(self) -> list[tuple[Span, Span]]:
        """(rows, columns) of every tile, row by row."""
        return list(itertools.product(self.rows, self.columns))

    def footprint(self, number: int) -> tuple[float, float, float, float]:
        """Footprint of a tile in the image: (y0, y1, x0, x1) as shares, from the upper left."""
        y, x = self.tiles[number]
        return y.start / self.height, y.stop / self.height, x.start / self.width, x.stop / self.width

    def cut_tile(self, pixels: np.ndarray, number: int) -> np.ndarray:
        """Pixels (..., tile_size, tile_size) of a tile from those of the scaled image
        (..., height, width)."""
        import numpy as np

        y, x = self.tiles[number]
        tile = pixels[..., y.start : y.stop, x.start : x.stop]
        missing = self.tile_size - (y.stop - y.start), self.tile_size - (x.stop - x.start)
        if any(missing):
            tile = np.pad(tile, [(0, 0)] * (tile.ndim - 2) + [(0, n) for n in missing], "edge")
        return tile

    def join_vectors(
        self, vectors: np.ndarray, pooling: str, roi: tuple[float, float, float, float] | None = None
    ) -> np.ndarray:
        """One vector (D,) from those of the tiles, (tiles, D): the mean weighted with the pixels
        in the ROI that each tile owns, or the maximum over the tiles that own any."""
        import numpy as np

        y0, y1, x0, x1 = roi or (0.0, 1.0, 0.0, 1.0)
        window = y0 * self.height, y1 * self.height, x0 * self.width, x1 * self.width
        weights = np.array([_count_owned_pixels(y, x, *window) for y, x in self.tiles], np.float32)
        if not weights.any():  # cannot happen with a window that has an area
            weights[:] = 1
        if pooling == "max":
            return vectors[weights > 0].max(axis=0)
        return (vectors * weights[:, None]).sum(axis=0) / max(np.float32(1), weights.sum())

    def join_grids(self, grids: Sequence[np.ndarray]) -> np.ndarray:
        """One grid (D, h, w) from those of the tiles, (D, n, m) each: every tile gives the cells
        that it owns."""
        import numpy as np

        rows = _assign_cells(self.rows, self.tile_size, grids[0].shape[-2])
        columns = _assign_cells(self.columns, self.tile_size, grids[0].shape[-1])
        tiles = iter(grids)
        bands = [np.concatenate([next(tiles)[:, a:b, c:d] for c, d in columns], axis=2) for a, b in rows]
        return np.concatenate(bands, axis=1)

    def joined_shape(self, rows: int, columns: int) -> tuple[int, int]:
        """Shape (h, w) of the grid that :meth:`join_grids` returns for grids of (rows, columns)
        cells."""
        axes = _assign_cells(self.rows, self.tile_size, rows), _assign_cells(self.columns, self.tile_size, columns)
        height, width = (sum(end - first for first, end in cells) for cells in axes)
        return height, width


def _count_owned_pixels(y: Span, x: Span, top: float, bottom: float, left: float, right: float) -> float:
    """Pixels of a window that a tile owns."""
    height = max(0.0, min(y.owned[1], bottom) - max(y.owned[0], top))
    return height * max(0.0, min(x.owned[1], right) - max(x.owned[0], left))


def _assign_cells(spans: Sequence[Span], tile_size: int, cells: int) -> list[tuple[int, int]]:
    """Cells (first, end) that each tile of an axis gives to the joined grid. A cut falls on the
    nearest edge of a cell, and each tile begins where the one before it ends: no cell occurs
    twice, none is left out."""
    assigned, cut = [], 0.0
    for number, span in enumerate(spans):
        first = min(max(math.floor((cut - span.start) / tile_size * cells + _EPS), 0), cells - 1)
        edge = (span.owned[1] - span.start) / tile_size * cells
        end = math.ceil(edge - _EPS) if number == len(spans) - 1 else math.floor(edge + 0.5)
        end = max(first + 1, min(cells, end))
        cut = span.start + end * tile_size / cells
        assigned.append((first, end))
    return assigned


def snap_length(length: int, tile_size: int, snap: float) -> int:
    """Length of an axis after scaling it down to whole tiles, where it exceeds them by at most
    ``snap`` of a tile."""
    excess = length % tile_size
    return length - excess if length > tile_size and 0 < excess <= round(snap * tile_size) else length


def _split_axis(length: int, tile_size: int) -> tuple[Span, ...]:
    if length <= tile_size:
        return (Span(0, length, (0, length)),)
    starts = [*range(0, length - tile_size, tile_size), length - tile_size]
    cuts = [0, *((a + tile_size + b) // 2 for a, b in itertools.pairwise(starts)), length]
    return tuple(Span(s, s + tile_size, owned) for s, owned in zip(starts, itertools.pairwise(cuts)))


def count_tiles(height: int, width: int, prep: Prep) -> int:
    """Number of tiles of an image."""
    sides = (snap_length(n, prep.tile_size, prep.snap) for n in (height, width))
    return math.prod(max(1, -(-n // prep.tile_size)) for n in sides)


def compute_layout(height: int, width: int, prep: Prep, mode: str) -> Layout | None:
    """How an image is scaled and cut for an output mode (``"pooled"`` or ``"grid"``); None where
    it is neither.

    With ``"auto"`` an image that is not cut is still scaled down to whole tiles, as in rs-embed
    0.3.1.

    Raises:
        ModelError: more than ``max_tiles_hard`` tiles.
    """
    if prep.mode not in ("tile", "auto"):
        return None
    size, tiles = prep.tile_size, count_tiles(height, width, prep)
    scaled_height, scaled_width = (snap_length(n, size, prep.snap) for n in (height, width))
    if prep.mode == "auto" and (mode != "grid" or not 1 < tiles <= prep.max_tiles):
        rows, columns = ((Span(0, n, (0, n)),) for n in (scaled_height, scaled_width))
        return Layout(scaled_height, scaled_width, size, rows, columns)
    if tiles > prep.max_tiles_hard:
        raise ModelError(format_too_many_tiles(height, width, tiles, prep))
    return Layout(scaled_height, scaled_width, size, _split_axis(scaled_height, size), _split_axis(scaled_width, size))


def format_too_many_tiles(height: int, width: int, tiles: int, prep: Prep) -> str:
    """The message for an image that would be cut into too many tiles."""
    return (
        f"an image of {width} x {height} pixels is {tiles} tiles of {prep.tile_size}; allowed: at most {prep.max_tiles_hard} "
        "(InputPrepSpec.max_tiles_hard), a larger scale_m, smaller ROIs, or input_prep='resize'"
    )
