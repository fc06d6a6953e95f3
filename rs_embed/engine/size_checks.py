"""Checks whether a model accepts the images of a request, from their grids, before a run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import ModelError
from ..models import get_model_info
from ..planning.units import Unit
from ..request.geometry import Grid
from . import tile_layout
from .tiled_image import format_too_small


def check_sizes(unit: Unit, names: Sequence[str], grids: Sequence[Grid], *, strict: bool) -> None:
    """Check the size of the image of each ROI.

    Warns of images that become many tiles. With ``strict`` it also refuses images that are too
    small for the model or become too many tiles; without it, only these ROIs fail later.

    Raises:
        ModelError: with ``strict``; names the first ROI of the size.
    """
    smallest = get_model_info(unit.model).smallest(unit.options)
    first_roi: dict[tuple[int, int], str] = {}
    for name, grid in zip(names, grids, strict=True):
        first_roi.setdefault((grid.height, grid.width), name)
    for (height, width), name in first_roi.items():
        label = f"ROI {name!r}, model {unit.label}"
        count = tile_layout.count_tiles(height, width, unit.prep) if unit.prep.mode == "tile" else 1
        if strict and min(height, width) < smallest:
            raise ModelError(f"{label}: {format_too_small(height, width, smallest)}")
        if strict and count > unit.prep.max_tiles_hard:
            raise ModelError(f"{label}: {tile_layout.format_too_many_tiles(height, width, count, unit.prep)}")
        if count > unit.prep.max_tiles:
            text = f"an image of {width} x {height} pixels is {count} tiles; this can take long"
            print(f"rs-embed: {label}: {text}", file=sys.stderr)
