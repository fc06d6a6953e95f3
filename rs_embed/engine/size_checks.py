"""Whether a model can take the images of a request: looked at when it is planned, from their grids alone."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import ModelError
from ..models import describe
from ..planning.units import Unit
from ..request.geometry import Grid
from . import tile_layout
from .tiled_image import too_small


def check_sizes(unit: Unit, names: Sequence[str], grids: Sequence[Grid], *, strict: bool) -> None:
    """Refuse, or warn of, images that are too small for a model or become too many tiles; without ``strict`` they fail
    alone."""
    smallest = describe(unit.model).smallest(unit.options)
    first: dict[tuple[int, int], str] = {}
    for name, grid in zip(names, grids, strict=True):
        first.setdefault((grid.height, grid.width), name)
    for (height, width), name in first.items():
        count = tile_layout.count(height, width, unit.prep) if unit.prep.mode == "tile" else 1
        if strict and min(height, width) < smallest:
            raise ModelError(f"ROI {name!r}, model {unit.label}: {too_small(height, width, smallest)}")
        if strict and count > unit.prep.max_tiles_hard:
            raise ModelError(
                f"ROI {name!r}, model {unit.label}: {tile_layout.too_many(height, width, count, unit.prep)}"
            )
        if count > unit.prep.max_tiles:
            text = f"ROI {name!r}, model {unit.label}: an image of {width} x {height} pixels is {count} tiles; this can take long"
            print(f"rs-embed: {text}", file=sys.stderr)
