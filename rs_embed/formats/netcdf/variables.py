"""What describes the arrays of a NetCDF file: dimensions, coordinates, texts, grid mappings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..arrays import About, Places
from . import cf

if TYPE_CHECKING:
    import netCDF4
    import numpy as np

#: Compression of what the library writes itself: deflate of level 1 behind byte shuffling. A single value cannot be compressed.
DEFLATED = {"compression": "zlib", "complevel": 1, "shuffle": True}


class Described:
    """Writes them.

    Attributes:
        file: the open file; to be set anew when it was closed.
        coordinates: names of those that every array of a ROI has.
    """

    def __init__(self, file: netCDF4.Dataset, about: About) -> None:
        """Writes the attributes of the file and the coordinates of its ROIs."""
        import numpy as np

        self.file = file
        places, dims = about.places, () if about.single else ("roi",)
        self.file.setncatts({"Conventions": "CF-1.8", **about.attributes})
        if dims:
            self.dimension("roi", len(places.names))
        self.dimension("bnds", 2)
        self.text("name", dims, places.names, {"long_name": "name of the region of interest"})
        self.text("roi_id", dims, places.ids, {"long_name": "identity of geometry and window"})
        self.coordinates = ["name", "roi_id", "lon", "lat"]
        for i, (name, word, unit) in enumerate((("lon", "longitude", "east"), ("lat", "latitude", "north"))):
            said = {"standard_name": word, "long_name": f"{word} of the centre", "units": f"degrees_{unit}"}
            self.number(name, dims, places.centres[:, i], said | {"bounds": f"{name}_bnds"})
            self.number(f"{name}_bnds", (*dims, "bnds"), places.bounds[:, i::2], {})
        if any(places.windows):
            start, end = _windows(places)
            said = {"standard_name": "time", "long_name": "middle of the window", "bounds": "time_bnds", **cf.TIME}
            self.number("time", dims, (start + end) / 2, said)
            self.number("time_bnds", (*dims, "bnds"), np.stack([start, end], 1), cf.TIME)
            self.coordinates.append("time")

    def dimension(self, name: str, size: int) -> str:
        """A dimension of a size; another name where it is taken with another size, which no model of today does."""
        known = self.file.dimensions.get(name)
        if known is not None and len(known) != size:
            return self.dimension(f"{name}__{size}", size)
        if known is None:
            self.file.createDimension(name, size)
        return name

    def number(self, name: str, dims: tuple[str, ...], values: np.ndarray, said: dict) -> None:
        """A float64 variable that describes; of one ROI without the axis of ROIs."""
        import numpy as np

        values = np.asarray(values, np.float64)
        fill = math.nan if np.isnan(values).any() else False
        variable = self.file.createVariable(name, "f8", dims, fill_value=fill, **(DEFLATED if dims else {}))
        variable.setncatts(said)
        variable[...] = values.reshape(variable.shape)

    def text(self, name: str, dims: tuple[str, ...], values: Sequence[str], said: dict) -> None:
        """Texts as characters, which are compressed, and which every reader knows; xarray makes strings of them."""
        import numpy as np

        texts = np.array([v.encode() for v in values], "S")
        length = self.dimension(f"string{texts.dtype.itemsize}", texts.dtype.itemsize)
        variable = self.file.createVariable(name, "S1", (*dims, length), **(DEFLATED if dims else {}))
        variable.setncatts({**said, "_Encoding": "utf-8"})
        variable.set_auto_chartostring(False)
        variable[...] = texts.view("S1").reshape(variable.shape)

    def mapping(self, name: str, crs: str, affine: Sequence[float] | None) -> None:
        """A CF grid mapping, unless it is there."""
        if name not in self.file.variables:
            variable = self.file.createVariable(name, "i4", ())
            variable.setncatts(cf.grid_mapping(crs, affine))
            variable[...] = 0


def _windows(places: Places) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of every window, days; NaN without one."""
    import numpy as np

    known = [(cf.days(w[0]), cf.days(w[1])) if w else (math.nan, math.nan) for w in places.windows]
    start, end = np.array(known, np.float64).T
    return start, end
