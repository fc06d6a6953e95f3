"""Large images in tiles: where they lie, who owns which pixels, and how their results become one.

Tiles of side ``t`` lie at 0, t, 2t, ...; the last one is moved back to end with the image, and pixels in two tiles belong
to the tile whose side of the middle of the overlap they are on. An axis that exceeds a multiple of the tile by little is
scaled down to it first (otherwise the last two tiles would be nearly the same), one shorter than a tile is filled up with its edge.
The rules are those of rs-embed 0.3.1 (``tools/tiling.py``), so that grids and vectors of both can be compared.
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


#: Of a cell: what cuts on the edge of a cell may be off by rounding.
_EPS = 1e-9


@dataclass(frozen=True)
class Span:
    """One axis of a tile: pixels ``start .. stop-1`` of the image, of which ``own`` (start, stop) are its own."""

    start: int
    stop: int
    own: tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Tiles of one image.

    Attributes:
        height, width: of the image after scaling to whole tiles, pixels.
        tile: side of a tile. rows, columns: its spans along both axes.
    """

    height: int
    width: int
    tile: int
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @cached_property
    def spans(self) -> list[tuple[Span, Span]]:
        """(rows, columns) of every tile, row by row."""
        return list(itertools.product(self.rows, self.columns))

    def shares(self, number: int) -> tuple[float, float, float, float]:
        """Footprint of a tile in the image: (y0, y1, x0, x1) as shares, from the upper left."""
        y, x = self.spans[number]
        return y.start / self.height, y.stop / self.height, x.start / self.width, x.stop / self.width

    def cut(self, pixels: np.ndarray, number: int) -> np.ndarray:
        """Pixels (..., tile, tile) of a tile from those of the scaled image (..., height, width)."""
        import numpy as np

        y, x = self.spans[number]
        part = pixels[..., y.start : y.stop, x.start : x.stop]
        short = self.tile - (y.stop - y.start), self.tile - (x.stop - x.start)
        if any(short):
            part = np.pad(part, [(0, 0)] * (part.ndim - 2) + [(0, n) for n in short], "edge")
        return part

    def vector(
        self, vectors: np.ndarray, pooling: str, roi: tuple[float, float, float, float] | None = None
    ) -> np.ndarray:
        """One vector (D,) of those of the tiles, (tiles, D): the mean weighted with the pixels that each one owns in the
        ROI, or the maximum over the tiles that own any."""
        import numpy as np

        weights = np.array([_own(y, x, *self._window(roi)) for y, x in self.spans], np.float32)
        if not weights.any():  # cannot happen with a window that has an area
            weights[:] = 1
        if pooling == "max":
            return vectors[weights > 0].max(axis=0)
        return (vectors * weights[:, None]).sum(axis=0) / max(np.float32(1), weights.sum())

    def _window(self, roi: tuple[float, float, float, float] | None) -> tuple[float, float, float, float]:
        y0, y1, x0, x1 = roi or (0.0, 1.0, 0.0, 1.0)
        return y0 * self.height, y1 * self.height, x0 * self.width, x1 * self.width

    def grid(self, grids: Sequence[np.ndarray]) -> np.ndarray:
        """One grid (D, h, w) of those of the tiles, (D, n, m) each: every tile gives the cells that it owns."""
        import numpy as np

        rows = _kept(self.rows, self.tile, grids[0].shape[-2])
        columns = _kept(self.columns, self.tile, grids[0].shape[-1])
        pieces = iter(grids)
        bands = [np.concatenate([next(pieces)[:, a:b, c:d] for c, d in columns], axis=2) for a, b in rows]
        return np.concatenate(bands, axis=1)

    def joined(self, rows: int, columns: int) -> tuple[int, int]:
        """Rows and columns of the grid that is joined of those of the tiles, (rows, columns) each."""
        kept = _kept(self.rows, self.tile, rows), _kept(self.columns, self.tile, columns)
        high, wide = (sum(end - first for first, end in cells) for cells in kept)
        return high, wide


def _own(y: Span, x: Span, top: float, bottom: float, left: float, right: float) -> float:
    """Pixels of a window that a tile owns."""
    high = max(0.0, min(y.own[1], bottom) - max(y.own[0], top))
    return high * max(0.0, min(x.own[1], right) - max(x.own[0], left))


def _kept(spans: Sequence[Span], tile: int, cells: int) -> list[tuple[int, int]]:
    """Cells (first, end) that each tile of an axis gives. A cut falls on the nearest edge of a cell, and the next tile
    begins where the one before it ended: no cell is there twice, none is left out."""
    kept, cut = [], 0.0
    for number, span in enumerate(spans):
        first = min(max(math.floor((cut - span.start) / tile * cells + _EPS), 0), cells - 1)
        end = (span.own[1] - span.start) / tile * cells
        end = math.ceil(end - _EPS) if number == len(spans) - 1 else math.floor(end + 0.5)
        end = max(first + 1, min(cells, end))
        cut = span.start + end * tile / cells
        kept.append((first, end))
    return kept


def snapped(length: int, tile: int, snap: float) -> int:
    """Length of an axis after scaling it down to whole tiles, where it exceeds them by at most ``snap`` of a tile."""
    rest = length % tile
    return length - rest if length > tile and 0 < rest <= round(snap * tile) else length


def _spans(length: int, tile: int) -> tuple[Span, ...]:
    if length <= tile:
        return (Span(0, length, (0, length)),)
    starts = [*range(0, length - tile, tile), length - tile]
    cuts = [0, *((a + tile + b) // 2 for a, b in itertools.pairwise(starts)), length]
    return tuple(Span(s, s + tile, own) for s, own in zip(starts, itertools.pairwise(cuts)))


def count(height: int, width: int, prep: Prep) -> int:
    """Tiles of an image, without making them."""
    sides = (snapped(n, prep.tile_size, prep.snap) for n in (height, width))
    return math.prod(max(1, -(-n // prep.tile_size)) for n in sides)


def layout(height: int, width: int, prep: Prep, mode: str) -> Layout | None:
    """How an image is scaled and cut for an output mode (``"pooled"`` or ``"grid"``); None where it is taken as it is.

    With ``"auto"`` an image that is not cut is scaled down to whole tiles all the same, as in rs-embed 0.3.1.

    Raises:
        ModelError: more than ``max_tiles_hard`` tiles.
    """
    if prep.mode not in ("tile", "auto"):
        return None
    tiles = count(height, width, prep)
    high, wide = (snapped(n, prep.tile_size, prep.snap) for n in (height, width))
    if prep.mode == "auto" and (mode != "grid" or not 1 < tiles <= prep.max_tiles):
        whole = (Span(0, high, (0, high)),), (Span(0, wide, (0, wide)),)
        return Layout(high, wide, prep.tile_size, *whole)
    if tiles > prep.max_tiles_hard:
        raise ModelError(too_many(height, width, tiles, prep))
    return Layout(high, wide, prep.tile_size, _spans(high, prep.tile_size), _spans(wide, prep.tile_size))


def too_many(height: int, width: int, tiles: int, prep: Prep) -> str:
    """The sentence about an image that would be cut into too many tiles."""
    return (
        f"an image of {width} x {height} pixels is {tiles} tiles of {prep.tile_size}; allowed: at most {prep.max_tiles_hard} "
        "(InputPrepSpec.max_tiles_hard), a larger scale_m, smaller ROIs, or input_prep='resize'"
    )
