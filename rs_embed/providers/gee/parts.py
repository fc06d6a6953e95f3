"""Requests within the service's limits: groups of planes, and parts of an image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...request.geometry import Grid
from . import composites
from .masks import COUNT_BYTES, COUNTS

if TYPE_CHECKING:
    import numpy as np

#: Largest answer of one request, bytes without compression, all bands counted ("Total request size
#: must be less than or equal to 50331648 bytes").
MAX_BYTES = 48 << 20


def split_request(
    planes: int, height: int, width: int, sent: np.dtype, *, counted: bool = False
) -> Iterator[tuple[int, int, list[tuple[slice, slice]]]]:
    """The requests for a chip of so many planes (bands x windows): planes ``start .. end-1``, and
    the rows and columns of each request for them. The first planes come with the counts of a mask
    if ``counted``."""
    start = 0
    while start < planes:
        more = counted and start == 0
        end = min(start + max(1, composites.MAX_PLANES - (len(COUNTS) if more else 0)), planes)
        area = max(1, MAX_BYTES // request_bytes(end - start, sent, more))
        yield start, end, split_area(height, width, area)
        start = end


def request_bytes(planes: int, sent: np.dtype, counted: bool) -> int:
    """Uncompressed bytes of a pixel of a request."""
    return composites.bytes_per_pixel(planes, sent) + (COUNT_BYTES if counted else 0)


def split_area(height: int, width: int, area: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the parts of an image, each of at most ``area`` pixels; an image is
    halved across its longer side."""

    def halve(top: int, bottom: int, left: int, right: int) -> list[tuple[slice, slice]]:
        if (bottom - top) * (right - left) <= area:
            return [(slice(top, bottom), slice(left, right))]
        if bottom - top >= right - left:
            middle = (top + bottom) // 2
            return halve(top, middle, left, right) + halve(middle, bottom, left, right)
        middle = (left + right) // 2
        return halve(top, bottom, left, middle) + halve(top, bottom, middle, right)

    return halve(0, height, 0, width)


def subgrid(grid: Grid, rows: slice, columns: slice) -> Grid:
    """The grid of some rows and columns."""
    a, b, c, d, e, f = grid.affine
    affine = (a, b, c + a * columns.start, d, e, f + e * rows.start)
    return Grid(grid.crs, affine, columns.stop - columns.start, rows.stop - rows.start)
