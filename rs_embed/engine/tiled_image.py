"""One image as tiles, and one embedding from their results. A tile is a cut of an image, or the
whole image where it is not cut.

The network returns its own vector or a grid of cells for each tile. They become the embedding as
follows:

- grid: the cells of all tiles, joined; of an image that was enlarged to a square, the cells that
  the ROI touches;
- vector of an uncut image: the model's own; of several tiles, the mean (or maximum) of their own
  vectors, weighted with the pixels in the ROI that each tile owns;
- vector of a ROI in an uncut square: mean (or maximum) of the cells that the ROI touches, or the
  model's own vector of the square (``ModelInfo.rectangle_pooling``, ``vector_of_cells``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..models.base import Adapter, Image
from ..planning.model_info import Prep
from ..request.geometry import centre_of_window, crop_slices
from ..request.specs import OutputSpec
from . import tile_layout

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Embedding:
    """The embedding of an image.

    Attributes:
        array: (D,) or (D, h, w) float32.
        metadata: ``input_prep`` (how a large image was prepared), ``batch`` (inputs of its forward
            pass) and, for a grid, its shape ``grid`` and ``cells``, the part of the image that its
            cells of equal size cover: (y0, y1, x0, x1) as shares of the image, above 1 where the
            last cells extend beyond it.
    """

    array: np.ndarray
    metadata: dict = field(default_factory=dict)


class TiledImage:
    """The tiles of one image and their results; not shared between threads except for
    :meth:`tile`.

    Attributes:
        count: number of tiles.
        output_kind: result of the network for a tile: ``"grid"``, or ``"pooled"`` for its own
            vector.
        failed: an error of this image was reported.
        batch: inputs of its forward pass, the last one where there were several.

    Raises:
        ModelError: the image is smaller than the model accepts, or would be cut into too many
            tiles.
    """

    def __init__(
        self,
        key: Any,
        image: Image,
        prep: Prep,
        output: OutputSpec,
        *,
        rectangle_pooling: str = "cells",
        cell: int | None = None,
        smallest: int = 1,
        limits: tuple[float, float] | None = None,
    ) -> None:
        height, width = image.pixels.shape[-2:]
        if min(height, width) < smallest:
            raise ModelError(format_too_small(height, width, smallest))
        self.key, self.output, self._cell = key, output, cell
        layout = tile_layout.compute_layout(height, width, prep, output.mode)
        self._input_prep: dict = {"mode": "resize" if prep.mode == "auto" else prep.mode}
        self._layout = None
        if layout is not None:
            tiles = len(layout.tiles)
            is_tile = prep.mode == "tile" or tiles > 1
            pixels = _scale_down(image.pixels, layout.height, layout.width, limits)
            image = replace(image, pixels=pixels, is_tile=is_tile)
            if is_tile:
                self._input_prep = {"mode": "tile", "tile_size": layout.tile_size, "tiles": tiles}
            if (layout.height, layout.width) != (height, width):
                self._input_prep["scaled_to"] = [layout.height, layout.width]
            if tiles > 1:
                from ..models.shared.inputs import compute_value_range

                self._layout = layout
                image = replace(image, whole_range=compute_value_range(image.pixels))
        self._image, self._roi = image, image.roi
        self.count = len(self._layout.tiles) if self._layout else 1
        pools_cells = image.roi is not None and self._layout is None and rectangle_pooling == "cells"
        self.output_kind = "grid" if output.mode == "grid" or pools_cells else "pooled"
        self._results: dict[int, np.ndarray] = {}
        self.failed, self.batch = False, 0

    def tile(self, number: int) -> Image:
        """One tile, with the centre of its own footprint; its pixels are C-contiguous, in the
        machine's byte order."""
        image, layout = self._image, self._layout
        if layout is None:
            return replace(image, pixels=_arrange(image.pixels))
        centre = (image.lon, image.lat)
        lon, lat = centre_of_window(image.grid, layout.footprint(number)) if image.grid is not None else centre
        pixels = _arrange(layout.cut_tile(image.pixels, number))
        return replace(image, pixels=pixels, lon=lon, lat=lat, grid=None, roi=None)

    def add_result(self, number: int, result: np.ndarray) -> Embedding | None:
        """Add the result of a tile, a vector or grid by ``output_kind``; returns the embedding
        with the last result."""
        import numpy as np

        self._results[number] = result
        if self.failed or len(self._results) < self.count:
            return None
        results = [self._results[i] for i in range(self.count)]
        self._results.clear()
        layout, pooling = self._layout, self.output.pooling
        if self.output_kind == "grid":
            return self._embed_cells(layout.join_grids(results) if layout else results[0])
        vector = layout.join_vectors(np.stack(results), pooling, self._roi) if layout else results[0].copy()
        return Embedding(vector, self._metadata())

    def _metadata(self) -> dict:
        return {"input_prep": self._input_prep, "batch": self.batch}

    def _embed_cells(self, grid: np.ndarray) -> Embedding:
        """The embedding from the cells (D, h, w) of the whole image: cropped to the ROI, and
        pooled for a vector."""
        height, width = grid.shape[1:]
        scale_y, scale_x = self._grid_extent(height, width)
        rows, columns = slice(0, height), slice(0, width)
        if self._roi is not None:
            y0, y1, x0, x1 = self._roi
            rows, columns = crop_slices((height, width), (y0 / scale_y, y1 / scale_y, x0 / scale_x, x1 / scale_x))
        cells = grid[:, rows, columns]
        if self.output.mode == "pooled":
            vector = cells.max(axis=(1, 2)) if self.output.pooling == "max" else cells.mean(axis=(1, 2))
            return Embedding(vector, self._metadata())
        covered = [scale_y * rows.start / height, scale_y * rows.stop / height]
        covered += [scale_x * columns.start / width, scale_x * columns.stop / width]
        return Embedding(cells.copy(), self._metadata() | {"cells": covered, "grid": list(cells.shape[1:])})

    def _grid_extent(self, rows: int, columns: int) -> tuple[float, float]:
        """Height and width of the cells of the whole image, as shares of it: above 1 where its
        last cells have fewer pixels than the others."""
        if self._cell is None or self._layout is not None:
            return 1.0, 1.0
        height, width = self._image.pixels.shape[-2:]
        return rows * self._cell / height, columns * self._cell / width


def tile_image(adapter: Adapter, options: Any, prep: Prep, output: OutputSpec, key: Any, image: Image) -> TiledImage:
    """The tiles of an image for a model; raises like :class:`TiledImage`."""
    info = adapter.info
    return TiledImage(
        key,
        image,
        prep,
        output,
        rectangle_pooling=info.rectangle_pooling if info.vector_of_cells(options) else "own",
        cell=info.cell(options),
        smallest=info.smallest(options),
        limits=info.limits(options, image.modality, len(image.pixels)),
    )


def format_too_small(height: int, width: int, smallest: int) -> str:
    """The message for an image that is too small for a model."""
    return f"an image of {width} x {height} pixels is too small; allowed: at least {smallest} pixels a side"


def _scale_down(pixels: np.ndarray, height: int, width: int, limits: tuple[float, float] | None) -> np.ndarray:
    """(T, C, H, W) scaled down to whole tiles."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    import numpy as np

    from ..models.shared.inputs import resize, round_to_float32

    values = round_to_float32(pixels)
    return resize(values if limits is None else np.clip(values, *limits), height, width)


def _arrange(pixels: np.ndarray) -> np.ndarray:
    """The pixels in C order and the machine's byte order; the array itself where it has both."""
    import numpy as np

    return np.asarray(pixels, pixels.dtype.newbyteorder("="), order="C")
