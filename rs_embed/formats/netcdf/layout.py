"""How an array lies in a NetCDF file: names of its dimensions, and its chunks. Nothing here depends on other models or on order."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from ..arrays import Array

#: Rows of vectors share a chunk of about this many bytes; smaller ones compress worse and cost time, larger ones gain nothing.
SHARED = 1 << 18
#: A ROI is one chunk up to this size; larger ones are cut.
LARGEST = 1 << 24

_AXES = {
    ("input", 3): ("band", "y", "x"),
    ("input", 4): ("frame", "band", "y", "x"),
    ("embedding", 1): ("dim",),
    ("embedding", 3): ("dim", "y", "x"),
}


def axes(array: Array, rank: int) -> tuple[str, ...]:
    """What the axes of one ROI's array mean; ``d0, d1, ...`` for a rank that is not ours."""
    return _AXES.get((array.kind, rank)) or tuple(f"d{i}" for i in range(rank))


def names(array: Array, shape: tuple[int, ...], *, own: bool = True) -> tuple[str, ...]:
    """Names of the dimensions of one ROI's array, of the shape that it has.

    Args:
        own: in a combined file where each ROI has an array of its own, each has axes of its own, too. Otherwise those of one size
            share one, ``y__<m>__n32``: thousands of axes cost a reader minutes.
    """
    found = []
    for axis, size in zip(axes(array, len(shape)), shape):
        if axis in ("band", "dim"):
            found.append(f"{axis}__{array.model}")
        elif own or array.roi is None:
            found.append(f"{axis}{tail(array, axis)}")
        else:
            found.append(f"{axis}{tail(replace(array, roi=None), axis)}__n{size}")
    return tuple(found)


def tail(array: Array, axis: str = "") -> str:
    """How the names end that belong to the grid of an array: ``_in__<m>`` for pixels, ``__<m>`` for cells and frames."""
    roi = "" if array.roi is None else f"__{array.roi:05d}"
    return f"{'_in' if array.kind == 'input' and axis != 'frame' else ''}__{array.model}{roi}"


def word(crs: str) -> str:
    """A CRS as part of a name."""
    return re.sub(r"[^0-9A-Za-z]+", "_", crs).strip("_")


def chunks(shape: tuple[int, ...], itemsize: int, *, stacked: bool) -> tuple[int, ...]:
    """Chunk sizes: a ROI, several where they are small, or part of one where it is large.

    Args:
        stacked: the first axis is that of ROIs.
    """
    one = list(shape[1:] if stacked else shape)
    for axis in range(len(one)):
        while one[axis] > 1 and math.prod(one) * itemsize > LARGEST:
            one[axis] = (one[axis] + 1) // 2
    if not stacked:
        return tuple(one)
    together = SHARED // (math.prod(one) * itemsize) if tuple(one) == tuple(shape[1:]) else 1
    return (min(max(together, 1), shape[0]), *one)
