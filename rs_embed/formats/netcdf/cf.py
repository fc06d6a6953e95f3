"""Words of the CF conventions: coordinate reference systems, axes and times as attributes and numbers."""

from __future__ import annotations

import datetime as dt
import functools
from typing import TYPE_CHECKING

from ..arrays import Affine

if TYPE_CHECKING:
    import numpy as np

TIME = {"units": "days since 1970-01-01", "calendar": "proleptic_gregorian"}


def days(date: str) -> float:
    """Days from 1970-01-01 to an ISO date."""
    return float((dt.date.fromisoformat(date) - dt.date(1970, 1, 1)).days)


@functools.lru_cache(maxsize=64)
def _crs(crs: str) -> tuple[dict, str | None]:
    from pyproj import CRS

    known = CRS.from_user_input(crs)
    cf = known.to_cf()
    unit = known.axis_info[0].unit_name if known.axis_info else None
    words = {k: v for k, v in cf.items() if isinstance(v, (str, int, float))}  # the text of a CRS first, as GDAL has it
    return {"spatial_ref": cf["crs_wkt"], **words}, unit


def grid_mapping(crs: str, affine: Affine | None) -> dict:
    """Attributes of a grid mapping variable, with GDAL's ``GeoTransform`` where the affine is one for all."""
    out = dict(_crs(crs)[0])
    if affine is not None:
        a, b, c, d, e, f = map(float, affine)
        out["GeoTransform"] = " ".join(map(repr, (c, a, b, f, d, e)))
    return out


def axis(which: str, crs: str, *, cells: bool) -> dict:
    """Attributes of the coordinate variable of an axis, ``x`` or ``y``, of a grid in a CRS."""
    unit = _crs(crs)[1]
    what = "cell" if cells else "pixel"
    if unit == "degree":
        word, unit = ("longitude", "degrees_east") if which == "x" else ("latitude", "degrees_north")
    else:
        word, unit = f"projection_{which}_coordinate", {"metre": "m"}.get(unit or "", unit or "m")
    return {"standard_name": word, "long_name": f"{which} of {what} centres", "units": unit, "axis": which.upper()}


def upright(affine: Affine) -> bool:
    """Rows and columns run along the axes, so that there is one x for a column."""
    return affine[1] == 0 and affine[3] == 0


def centres(which: str, affine: Affine, size: int, *, offset: bool = False) -> np.ndarray:
    """Coordinates of the centres of columns (``x``) or rows (``y``) of an upright grid, float64.

    Args:
        offset: from the grid's upper left corner.
    """
    import numpy as np

    a, _, c, _, e, f = affine
    step, start = (a, c) if which == "x" else (e, f)
    return (0.0 if offset else start) + step * (np.arange(size) + 0.5)
