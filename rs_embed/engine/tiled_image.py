"""One image and what becomes of it: its pieces (tiles, or itself) going in, one embedding coming out.

What the network is asked for, and how the answers become the embedding:

- grid: the cells of every piece, joined; of an image that was enlarged to a square, those that the ROI touches;
- vector of an image: the model's own; of tiles, the mean (or maximum) of their own vectors, weighted with the pixels
  that each tile owns in the ROI;
- vector of a ROI in a square, in one piece: mean (or maximum) of the cells that the ROI touches, or the model's own
  vector of the square (``ModelInfo.of_rectangle``).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..models.base import Adapter, Image
from ..planning.model_info import Prep
from ..request.geometry import centre_of, crop
from ..request.specs import OutputSpec
from . import tile_layout

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Embedding:
    """What an image became.

    Attributes:
        array: (D,) or (D, h, w) float32.
        said: ``input_prep`` (what was done to a large image), ``batch`` (images of its forward pass) and, of a grid, its
            shape ``grid`` and ``cells``, the share of the image that it covers: (y0, y1, x0, x1).
    """

    array: np.ndarray
    said: dict = field(default_factory=dict)


class Pieces:
    """The pieces of one image; not shared between threads except for :meth:`image`.

    Raises:
        ModelError: the image is smaller than the model can say something of, or would be cut into too many tiles.
    """

    def __init__(
        self,
        key: Any,
        image: Image,
        prep: Prep,
        output: OutputSpec,
        *,
        of_rectangle: str = "cells",
        smallest: int = 1,
        limits: tuple[float, float] | None = None,
    ) -> None:
        height, width = image.pixels.shape[-2:]
        if min(height, width) < smallest:
            raise ModelError(too_small(height, width, smallest))
        self.key, self.output = key, output
        layout = tile_layout.layout(height, width, prep, output.mode)
        self.said: dict = {"mode": "resize" if prep.mode == "auto" else prep.mode}
        if layout is not None:
            cut = prep.mode == "tile" or len(layout.spans) > 1
            image = replace(image, pixels=_scaled(image.pixels, layout.height, layout.width, limits), tile=cut)
            if cut:
                self.said = {"mode": "tile", "tile_size": layout.tile, "tiles": len(layout.spans)}
            if (layout.height, layout.width) != (height, width):
                self.said["scaled_to"] = [layout.height, layout.width]
        self._layout = layout if layout is not None and len(layout.spans) > 1 else None
        if self._layout:
            from ..models.shared.inputs import spread

            image = replace(image, whole=spread(image.pixels))
        self._whole, self._roi = image, image.roi
        self.count = len(self._layout.spans) if self._layout else 1
        cells = output.mode == "grid" or (image.roi is not None and not self._layout and of_rectangle == "cells")
        #: what the network is asked for: ``"grid"`` or its ``"own"`` vector
        self.kind = "grid" if cells else "own"
        self._rows: dict[int, np.ndarray] = {}
        self.failed = False
        self.batch = 0  # images of its forward pass, the last one where there were several

    def image(self, number: int) -> Image:
        """One piece, with the centre of its own footprint."""
        if self._layout is None:
            return self._whole
        whole, shares = self._whole, self._layout.shares(number)
        lon, lat = (whole.lon, whole.lat) if whole.grid is None else centre_of(whole.grid, shares)
        pixels = self._layout.cut(whole.pixels, number)
        return replace(whole, pixels=pixels, lon=lon, lat=lat, grid=None, roi=None)

    def add(self, number: int, row: np.ndarray) -> Embedding | None:
        """Take a piece's result; the embedding once all are there."""
        self._rows[number] = row
        if self.failed or len(self._rows) < self.count:
            return None
        rows = [self._rows[i] for i in range(self.count)]
        self._rows.clear()
        if self.kind == "own":
            array = (
                self._layout.vector(_stack(rows), self.output.pooling, self._roi) if self._layout else rows[0].copy()
            )
            return Embedding(array, self._said())
        return self._of_cells(self._layout.grid(rows) if self._layout else rows[0])

    def _said(self) -> dict:
        return {"input_prep": self.said, "batch": self.batch}

    def _of_cells(self, grid: np.ndarray) -> Embedding:
        height, width = grid.shape[1:]
        rows, columns = crop((height, width), self._roi) if self._roi else (slice(0, height), slice(0, width))
        part = grid[:, rows, columns]
        if self.output.mode == "pooled":
            vector = part.max(axis=(1, 2)) if self.output.pooling == "max" else part.mean(axis=(1, 2))
            return Embedding(vector, self._said())
        covers = [rows.start / height, rows.stop / height, columns.start / width, columns.stop / width]
        return Embedding(part.copy(), self._said() | {"cells": covers, "grid": list(part.shape[1:])})


def pieces_of(adapter: Adapter, options: Any, prep: Prep, output: OutputSpec, key: Any, image: Image) -> Pieces:
    """The pieces of an image for a model; raises like :class:`Pieces`."""
    info = adapter.info
    return Pieces(
        key,
        image,
        prep,
        output,
        of_rectangle=info.of_rectangle,
        smallest=info.smallest(options),
        limits=info.limits(options, image.modality, len(image.pixels)),
    )


def too_small(height: int, width: int, smallest: int) -> str:
    """The sentence about an image that is too small for a model."""
    return f"an image of {width} x {height} pixels is too small; allowed: at least {smallest} pixels a side"


def _stack(rows: list[np.ndarray]) -> np.ndarray:
    import numpy as np

    return np.stack(rows)


def _scaled(pixels: np.ndarray, height: int, width: int, limits: tuple[float, float] | None) -> np.ndarray:
    """(T, C, H, W) scaled down to whole tiles."""
    if pixels.shape[-2:] == (height, width):
        return pixels
    import numpy as np

    from ..models.shared.inputs import resize

    values = pixels.astype(np.float32, copy=False)
    return resize(values if limits is None else np.clip(values, *limits), height, width)
