"""Names of the dimensions of an array in a NetCDF file, and chunk sizes.

Both are independent of other models and of order.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

from ..arrays import ArrayMetadata

#: Approximate bytes of a chunk of several vectors; smaller ones compress worse and cost time,
#: larger ones gain nothing.
SHARED_CHUNK_BYTES = 1 << 18
#: A ROI is one chunk up to this size, in bytes; larger ones are cut.
MAX_CHUNK_BYTES = 1 << 24

_AXES = {
    ("input", 3): ("band", "y", "x"),
    ("input", 4): ("frame", "band", "y", "x"),
    ("embedding", 1): ("dim",),
    ("embedding", 3): ("dim", "y", "x"),
}


def axis_names(array: ArrayMetadata, rank: int) -> tuple[str, ...]:
    """The axes of the array of one ROI; ``d0, d1, ...`` for any other kind and rank."""
    return _AXES.get((array.kind, rank)) or tuple(f"d{i}" for i in range(rank))


def dimension_names(array: ArrayMetadata, shape: tuple[int, ...], *, separate: bool = True) -> tuple[str, ...]:
    """Names of the dimensions of the array of one ROI.

    Args:
        separate: if each ROI has a separate array in a combined file, each has separate axes, too.
            Otherwise axes of one size share a dimension, ``y__<m>__n32``: thousands of axes cost a
            reader minutes.
    """
    names = []
    for axis, size in zip(axis_names(array, len(shape)), shape):
        if axis in ("band", "dim"):
            names.append(f"{axis}__{array.model}")
        elif separate or array.roi is None:
            names.append(f"{axis}{grid_suffix(array, axis)}")
        else:
            names.append(f"{axis}{grid_suffix(replace(array, roi=None), axis)}__n{size}")
    return tuple(names)


def grid_suffix(array: ArrayMetadata, axis: str = "") -> str:
    """End of the names that belong to the grid of an array: ``_in__<m>`` for pixels, ``__<m>`` for
    cells and frames."""
    roi = "" if array.roi is None else f"__{array.roi:05d}"
    return f"{'_in' if array.kind == 'input' and axis != 'frame' else ''}__{array.model}{roi}"


def crs_to_name(crs: str) -> str:
    """A CRS as part of a name."""
    return re.sub(r"[^0-9A-Za-z]+", "_", crs).strip("_")


def chunk_sizes(shape: tuple[int, ...], itemsize: int, *, stacked: bool) -> tuple[int, ...]:
    """Chunk sizes: one ROI, several small ones, or part of a large one.

    Args:
        stacked: the first axis is that of ROIs.
    """
    one = list(shape[1:] if stacked else shape)
    for axis in range(len(one)):
        while one[axis] > 1 and math.prod(one) * itemsize > MAX_CHUNK_BYTES:
            one[axis] = (one[axis] + 1) // 2
    if not stacked:
        return tuple(one)
    rois = SHARED_CHUNK_BYTES // (math.prod(one) * itemsize) if tuple(one) == tuple(shape[1:]) else 1
    return (min(max(rois, 1), shape[0]), *one)
