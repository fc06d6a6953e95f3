"""Variables that describe the arrays of a NetCDF file: coordinates, texts, grid mappings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..arrays import Affine, ArrayMetadata, FileMetadata, RoiCoordinates
from . import cf, layout

if TYPE_CHECKING:
    import netCDF4
    import numpy as np

#: Compression of what the library writes itself: byte shuffling and deflate of level 1. Not
#: possible for a single value.
COMPRESSION: dict[str, Any] = {"compression": "zlib", "complevel": 1, "shuffle": True}


class MetadataWriter:
    """Writes these variables.

    Attributes:
        file: the open file; set it again after the file was closed and reopened.
        coordinates: names of the coordinates that every array of a ROI has.
    """

    def __init__(self, file: netCDF4.Dataset, metadata: FileMetadata) -> None:
        """Write the attributes of the file and the coordinates of its ROIs."""
        import numpy as np

        self.file = file
        rois, dims = metadata.rois, () if metadata.single else ("roi",)
        self.file.setncatts({"Conventions": "CF-1.8", **metadata.attributes})
        if dims:
            self.get_dimension("roi", len(rois.names))
        self.get_dimension("bnds", 2)
        self.write_texts("name", dims, rois.names, {"long_name": "name of the region of interest"})
        self.write_texts("roi_id", dims, rois.ids, {"long_name": "identity of geometry and window"})
        self.coordinates = ["name", "roi_id", "lon", "lat"]
        for i, (name, word, unit) in enumerate((("lon", "longitude", "east"), ("lat", "latitude", "north"))):
            attributes = {"standard_name": word, "long_name": f"{word} of the centre", "units": f"degrees_{unit}"}
            self.write_numbers(name, dims, rois.centres[:, i], attributes | {"bounds": f"{name}_bnds"})
            self.write_numbers(f"{name}_bnds", (*dims, "bnds"), rois.bounds[:, i::2], {})
        if any(rois.windows):
            start, end = _window_days(rois)
            attributes = {"standard_name": "time", "long_name": "middle of the window", "bounds": "time_bnds"}
            self.write_numbers("time", dims, (start + end) / 2, attributes | cf.TIME_ATTRIBUTES)
            self.write_numbers("time_bnds", (*dims, "bnds"), np.stack([start, end], 1), cf.TIME_ATTRIBUTES)
            self.coordinates.append("time")

    def get_dimension(self, name: str, size: int) -> str:
        """The name of a dimension of this size, created if missing.

        The name differs from ``name`` if that has another size, which no model causes today.
        """
        existing = self.file.dimensions.get(name)
        if existing is not None and len(existing) != size:
            return self.get_dimension(f"{name}__{size}", size)
        if existing is None:
            self.file.createDimension(name, size)
        return name

    def write_numbers(self, name: str, dims: tuple[str, ...], values: np.ndarray, attributes: dict) -> None:
        """Write a float64 variable; ``values`` of one ROI may have an axis of ROIs that ``dims``
        lacks."""
        import numpy as np

        values = np.asarray(values, np.float64)
        fill = math.nan if np.isnan(values).any() else False
        variable = self.file.createVariable(name, "f8", dims, fill_value=fill, **(COMPRESSION if dims else {}))
        variable.setncatts(attributes)
        variable[...] = values.reshape(variable.shape)

    def write_texts(self, name: str, dims: tuple[str, ...], values: Sequence[str], attributes: dict) -> None:
        """Write texts as characters: these are compressed, and every reader supports them; xarray
        decodes them to strings."""
        import numpy as np

        texts = np.array([v.encode() for v in values], "S")
        length = self.get_dimension(f"string{texts.dtype.itemsize}", texts.dtype.itemsize)
        variable = self.file.createVariable(name, "S1", (*dims, length), **(COMPRESSION if dims else {}))
        variable.setncatts({**attributes, "_Encoding": "utf-8"})
        variable.set_auto_chartostring(False)
        variable[...] = texts.view("S1").reshape(variable.shape)

    def write_grid_mapping(self, name: str, crs: str, affine: Affine | None) -> None:
        """Write a CF grid mapping, unless the file has it."""
        if name not in self.file.variables:
            variable = self.file.createVariable(name, "i4", ())
            variable.setncatts(cf.grid_mapping_attributes(crs, affine))
            variable[...] = 0

    def write_grids(
        self, array: ArrayMetadata, variable: netCDF4.Variable, crs: Sequence[str | None], affines: np.ndarray
    ) -> list[str]:
        """Write the grids of a stacked array; returns the names of further coordinates of the
        array.

        CRS and affine of a ROI without an array are empty and NaN. The axes get the coordinates
        that are equal for all ROIs.

        Args:
            crs: CRS of each ROI, at least one. affines: (N, 6) float64.
        """
        suffix = layout.grid_suffix(array)
        known = affines[[c is not None for c in crs]]
        first, distinct = known[0], {c for c in crs if c is not None}
        same_affine = bool((known == first).all())
        same_steps = bool((known[:, [0, 1, 3, 4]] == first[[0, 1, 3, 4]]).all())
        self.write_texts(f"crs{suffix}", ("roi",), [c or "" for c in crs], {"long_name": "CRS of the grid"})
        self.get_dimension("affine", 6)
        formula = "a, b, c, d, e, f: x = a * column + b * row + c, y = d * column + e * row + f, of upper left corners"
        attributes = {"long_name": f"affine of the grid; {formula}"}
        self.write_numbers(f"affine{suffix}", ("roi", "affine"), affines, attributes)
        variable.ancillary_variables = f"affine{suffix}"
        common_crs = distinct.pop() if len(distinct) == 1 else None
        if common_crs is not None:
            self.write_grid_mapping(f"grid_mapping{suffix}", common_crs, first if same_affine else None)
            variable.grid_mapping = f"grid_mapping{suffix}"
        if same_steps and cf.is_axis_aligned(first):
            self._write_axes(array, variable, common_crs, first, same_grid=common_crs is not None and same_affine)
        return [f"crs{suffix}"]

    def _write_axes(
        self, array: ArrayMetadata, variable: netCDF4.Variable, crs: str | None, affine: Affine, *, same_grid: bool
    ) -> None:
        """Write the coordinates of y and x of a stacked array.

        Args:
            crs: the CRS of all ROIs; None where they differ.
            same_grid: all ROIs have this affine. Otherwise the coordinates are distances from the
                ROI's corner.
        """
        for axis, dim, size in zip("yx", variable.dimensions[-2:], variable.shape[-2:]):
            attributes = cf.axis_attributes(axis, crs, cells=array.kind == "embedding") if crs is not None else {}
            if not same_grid:
                edge, letter = ("western", "c") if axis == "x" else ("northern", "f")
                added = f"with {letter} of affine{layout.grid_suffix(array)} added, {axis} in its CRS"
                long_name = f"distance from the {edge} edge of the ROI's grid; {added}"
                attributes = {"long_name": long_name, "units": attributes.get("units", "m")}
            values = cf.cell_centres(axis, affine, size, offset=not same_grid)
            self.write_numbers(dim, (dim,), values, attributes)

    def write_dates(self, array: ArrayMetadata, variable: netCDF4.Variable, dates: list[Sequence[str]]) -> list[str]:
        """Write the dates of frames as a coordinate; returns the names of further coordinates of
        the array.

        The dates of a single ROI without an axis of frames become an attribute.

        Args:
            dates: ISO dates of the frames of each ROI; empty where unknown.
        """
        import numpy as np

        dims, stacked = variable.dimensions, variable.dimensions[0] == "roi"
        if array.kind != "input":
            return []
        axes = layout.axis_names(array, len(dims) - stacked)
        if "frame" not in axes or dims[axes.index("frame")].startswith(f"frame__{array.model}__n"):
            if not stacked and dates[0]:
                variable.dates = ", ".join(dates[0])
            return []
        frame_dim = next(d for d in dims if d.startswith("frame"))
        frames = variable.shape[dims.index(frame_dim)]
        if any(len(d) != frames for d in dates if d or not stacked):
            return []
        name = f"frame_time{frame_dim.removeprefix('frame')}"
        attributes = {"standard_name": "time", "long_name": "date of the frame", **cf.TIME_ATTRIBUTES}
        days = [[cf.days_since_epoch(d) for d in row] or [math.nan] * frames for row in dates]
        self.write_numbers(name, ("roi", frame_dim) if stacked else (frame_dim,), np.array(days), attributes)
        return [name]


def _window_days(rois: RoiCoordinates) -> tuple[np.ndarray, np.ndarray]:
    """Start and end of every window, (N,) float64 days; NaN without a window."""
    import numpy as np

    days = [(cf.days_since_epoch(w[0]), cf.days_since_epoch(w[1])) if w else (math.nan, math.nan) for w in rois.windows]
    start, end = np.array(days, np.float64).T
    return start, end
