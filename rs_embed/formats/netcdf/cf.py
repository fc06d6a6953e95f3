"""The CF conventions: coordinate reference systems, axes and times as attributes and numbers.
``variables.py`` writes them into a file."""

from __future__ import annotations

import datetime as dt
import functools
from typing import TYPE_CHECKING

from ..arrays import Affine

if TYPE_CHECKING:
    import numpy as np

TIME_ATTRIBUTES = {"units": "days since 1970-01-01", "calendar": "proleptic_gregorian"}


def days_since_epoch(date: str) -> float:
    """Days from 1970-01-01 to an ISO date."""
    return float((dt.date.fromisoformat(date) - dt.date(1970, 1, 1)).days)


@functools.lru_cache(maxsize=64)
def _crs_attributes(crs: str) -> tuple[dict, str | None]:
    """Attributes of a CRS, and the unit of measure of its axes."""
    from pyproj import CRS

    parsed = CRS.from_user_input(crs)
    cf = parsed.to_cf()
    unit = parsed.axis_info[0].unit_name if parsed.axis_info else None
    attributes = {k: v for k, v in cf.items() if isinstance(v, (str, int, float))}
    return {"spatial_ref": cf["crs_wkt"], **attributes}, unit  # spatial_ref first, as GDAL writes it


def grid_mapping_attributes(crs: str, affine: Affine | None) -> dict:
    """Attributes of a grid mapping variable, with GDAL's ``GeoTransform`` if all ROIs have the
    same affine."""
    out = dict(_crs_attributes(crs)[0])
    if affine is not None:
        a, b, c, d, e, f = map(float, affine)
        out["GeoTransform"] = " ".join(map(repr, (c, a, b, f, d, e)))
    return out


def axis_attributes(axis: str, crs: str, *, cells: bool) -> dict:
    """Attributes of the coordinate variable of an axis, ``x`` or ``y``, of a grid in a CRS."""
    unit = _crs_attributes(crs)[1]
    element = "cell" if cells else "pixel"
    if unit == "degree":
        name, unit = ("longitude", "degrees_east") if axis == "x" else ("latitude", "degrees_north")
    else:
        name, unit = f"projection_{axis}_coordinate", {"metre": "m"}.get(unit or "", unit or "m")
    return {"standard_name": name, "long_name": f"{axis} of {element} centres", "units": unit, "axis": axis.upper()}


def is_axis_aligned(affine: Affine) -> bool:
    """Whether rows and columns are parallel to the axes, so that each column has one x."""
    return affine[1] == 0 and affine[3] == 0


def cell_centres(axis: str, affine: Affine, size: int, *, offset: bool = False) -> np.ndarray:
    """Coordinates of the centres of columns (``x``) or rows (``y``) of an axis-aligned grid,
    float64.

    Args:
        offset: relative to the upper left corner of the grid.
    """
    import numpy as np

    a, _, c, _, e, f = affine
    step, start = (a, c) if axis == "x" else (e, f)
    return (0.0 if offset else start) + step * (np.arange(size) + 0.5)
