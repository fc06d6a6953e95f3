"""Streaming NetCDF-4: what a CF reader needs beside the arrays; the file appears whole or not at all, equal content gives equal bytes.

Names of dimensions depend on the model (and, where each ROI has an array of its own, on the ROI) and on nothing else:

- ``roi``; ``dim__<m>``, ``y__<m>``, ``x__<m>`` of embeddings; ``frame__<m>``, ``band__<m>``, ``y_in__<m>``, ``x_in__<m>`` of pixels.
- In a combined file with single arrays, y, x and frame are each ROI's own: ``y__<m>__00003`` (in large ones those of a size share
  one: ``y__<m>__n32``).

One writer of a process works at a time (``netcdf_reader.py`` says why).
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
from array import array as packed
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ...store.store import temporary_name
from ..arrays import About, Array, Row
from . import cf, hdf5, layout
from .reader import LOCK, NetcdfReader
from .variables import DEFLATED, Described

if TYPE_CHECKING:
    import netCDF4
    import numpy as np

PATH, KEYS = "nc_path", "nc_variables"
#: With more ROIs than this, those with single arrays have no axes of their own: 5,000 of them take a gigabyte to write, and xarray
#: minutes to open. Their attributes still say CRS and affine.
OWN_AXES = 500
#: Single arrays are declared and then written, so many together: HDF5 looks through all variables at every change of mood.
TOGETHER, TOGETHER_BYTES = 1024, 1 << 26


class NetcdfWriter:
    """Write a ``.nc`` in a temporary file; leaving the ``with`` block without an error renames it to ``path``.

    Raises:
        OSError: it could not be written, for example because the disk is full; nothing is left.
    """

    def __init__(self, path: str | Path, about: Callable[[], About], threads: int = 1) -> None:
        """
        Args:
            about: says what the file says of itself, when it is begun.
            threads: that deflate large arrays.
        """
        self._threads = threads
        self.path = Path(os.path.abspath(path))  # a relative one could look like a URL, which the library would open
        self._about = about
        self.keys: list[str] = []
        self.sha256 = None  # HDF5 goes back in its file, so a digest has to read it
        self._pending: list[tuple[Array, Row]] = []
        self._extra: list[str] = []  # of the array that is being declared

    def __enter__(self) -> NetcdfWriter:
        import netCDF4

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_name(self.path)
        self.about = self._about()
        LOCK.acquire()
        try:
            with _said(self.path):
                try:
                    self._file = netCDF4.Dataset(self._temporary, "w", clobber=False, format="NETCDF4")
                except BaseException:
                    self._temporary.unlink(missing_ok=True)
                    raise
            try:
                with _said(self.path):
                    self._names = Described(self._file, self.about)
            except BaseException as error:
                self._close(type(error))
                raise
        except BaseException:
            LOCK.release()
            raise
        return self

    def add(self, array: Array, shape: tuple[int, ...], dtype: np.dtype, rows: Iterable[Row]) -> None:
        """Write one array; memory holds a chunk, or the single arrays that are declared together, and what threads deflate
        ahead (:mod:`rs_embed.formats.parallel`).

        Args:
            array: what it is.
            shape, dtype: of the whole array, with the axis of ROIs where it has one.
            rows: one per ROI, without that axis.

        Raises:
            ValueError: the rows do not add up to ``shape`` and ``dtype``, or NetCDF cannot hold it.
        """
        if 0 in shape or dtype.kind not in "iuf" or dtype.itemsize not in (1, 2, 4, 8) or dtype.str[1:] == "f2":
            raise ValueError(
                f"{array.key}: NetCDF does not hold {dtype} of shape {shape}; allowed: numbers, none empty"
            )
        stacked = array.roi is None and not self.about.single
        if stacked and shape[0] != len(self.about.places.names):
            raise ValueError(f"{array.key}: {shape[0]} rows for {len(self.about.places.names)} ROIs")
        rows = _checked(array.key, shape, dtype, rows, stacked=stacked)
        if stacked:
            with _said(self.path):
                self._stacked(array, shape, dtype, rows)
        else:
            for row in rows:
                self._pending.append((array, row))
            held = sum(row.array.nbytes for _, row in self._pending)
            if len(self._pending) >= TOGETHER or held >= TOGETHER_BYTES:
                with _said(self.path):
                    self._flush()
        self.keys.append(array.key)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close(kind)
        finally:
            LOCK.release()

    def _close(self, kind: type[BaseException] | None) -> None:
        """Finish the file, or remove it."""
        whole = False
        try:
            with _said(self.path):
                try:
                    if kind is None:
                        self._flush()
                        # what is no array of ours is a coordinate: xarray shows the arrays alone as data
                        others = set(self._file.variables).difference(self.keys, self._file.dimensions)
                        self._file.coordinates = " ".join(sorted(others))
                finally:
                    if self._file is not None:
                        self._file.close()
            if kind is None:
                with open(self._temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(self._temporary, self.path)
                whole = True
        except OSError:
            if kind is None:  # else the first error is the one to tell
                raise
        finally:
            if not whole:
                self._temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """The file closed, for another library to write to. Variables are to be looked up anew."""
        import netCDF4

        file, self._file = self._file, None
        file.close()
        yield
        self._file = self._names.file = netCDF4.Dataset(self._temporary, "a")

    # arrays ---------------------------------------------------------------------------------------------------

    def _stacked(self, array: Array, shape: tuple[int, ...], dtype: np.dtype, rows: Iterator[Row]) -> None:
        """All ROIs in one variable, a chunk after the other; then where each of them lies."""
        import numpy as np

        dims = ("roi", *(self._names.dimension(d, n) for d, n in zip(layout.names(array, shape[1:]), shape[1:])))
        variable = self._declare(array, dims, shape, dtype)
        together = variable.chunking()[0]
        crs, affines, dates = [], packed("d"), []

        def blocks() -> Iterator[tuple[int, np.ndarray]]:
            held: list[np.ndarray] = []
            for i, row in enumerate(rows):
                held.append(row.array)
                if len(held) == together or i == shape[0] - 1:
                    yield i + 1 - len(held), np.stack(held)
                    held.clear()
                crs.append(row.crs)
                affines.extend(row.affine or [math.nan] * 6)
                dates.append(row.dates)

        if math.prod(shape) * dtype.itemsize < hdf5.WORTH:
            for first, block in blocks():
                variable[first : first + len(block)] = block
        else:
            with self._apart():
                hdf5.put(self._temporary, {array.key: blocks()}, self._threads)
            variable = self._file.variables[array.key]
        if "y" in layout.axes(array, len(shape) - 1) and any(crs):
            self._place(array, dims, shape, variable, crs, np.array(affines).reshape(-1, 6))
        self._frames(array, dims, shape, variable, dates)
        variable.coordinates = " ".join(self._names.coordinates + self._extra)

    def _place(
        self,
        array: Array,
        dims: tuple,
        shape: tuple,
        variable: netCDF4.Variable,
        crs: list[str | None],
        affines: np.ndarray,
    ) -> None:
        """CRS and affine of every ROI's grid, empty and NaN where it has none; coordinates of the axes as far as they are the
        same for all."""
        tail = layout.tail(array)
        known = affines[[c is not None for c in crs]]
        first, words = known[0], {c for c in crs if c is not None}
        same, cells = (known == first).all(), array.kind == "embedding"
        scale = (known[:, [0, 1, 3, 4]] == first[[0, 1, 3, 4]]).all()
        self._names.text(f"crs{tail}", ("roi",), [c or "" for c in crs], {"long_name": "CRS of the grid"})
        self._names.dimension("affine", 6)
        said = "a, b, c, d, e, f: x = a * column + b * row + c, y = d * column + e * row + f, of upper left corners"
        self._names.number(f"affine{tail}", ("roi", "affine"), affines, {"long_name": f"affine of the grid; {said}"})
        variable.ancillary_variables = f"affine{tail}"
        self._extra.append(f"crs{tail}")
        one, word = len(words) == 1, min(words)
        if one:
            self._names.mapping(f"grid_mapping{tail}", word, first if same else None)
            variable.grid_mapping = f"grid_mapping{tail}"
        for which, dim, size in zip("yx", dims[-2:], shape[-2:]):
            if not (scale and cf.upright(first)):
                continue
            if one and same:
                self._names.number(dim, (dim,), cf.centres(which, first, size), cf.axis(which, word, cells=cells))
                continue
            edge, letter = ("western", "c") if which == "x" else ("northern", "f")
            name = f"distance from the {edge} edge of the ROI's grid; with {letter} of affine{tail} added, {which} in its CRS"
            units = {"units": cf.axis(which, word, cells=cells)["units"]} if one else {"units": "m"}
            self._names.number(dim, (dim,), cf.centres(which, first, size, offset=True), {"long_name": name, **units})

    def _flush(self) -> None:
        """Write the arrays that wait, declared first."""
        variables, large = [], []
        own = len(self.about.places.names) <= OWN_AXES
        for array, row in self._pending:
            tail, shape = layout.tail(array), row.array.shape
            dims = tuple(self._names.dimension(d, n) for d, n in zip(layout.names(array, shape, own=own), shape))
            variable = self._declare(array, dims, shape, row.array.dtype)
            # opening the file anew takes as long as it has variables
            apart = row.array.nbytes >= hdf5.WORTH and len(self.keys) <= OWN_AXES
            (large if apart else variables).append((variable, row.array))
            if "y" in layout.axes(array, len(shape)) and row.crs is not None and row.affine is not None:
                # of many ROIs, those of one CRS share a variable; a reader has the affine in the coordinates
                name = f"grid_mapping{tail}" if array.roi is None else f"grid_mapping__{layout.word(row.crs)}"
                self._names.mapping(name, row.crs, row.affine if array.roi is None else None)
                variable.setncatts({"grid_mapping": name, "crs": row.crs, "affine": [float(v) for v in row.affine]})
                for which, dim in zip("yx", dims[-2:]):
                    if own and cf.upright(row.affine):
                        said = cf.axis(which, row.crs, cells=array.kind == "embedding")
                        axis = self._file.createVariable(dim, "f8", (dim,), fill_value=False)
                        axis.setncatts(said)
                        variables.append((axis, cf.centres(which, row.affine, len(axis))))
            self._frames(array, dims, shape, variable, [row.dates])
            if array.roi is None:
                variable.coordinates = " ".join(self._names.coordinates + self._extra)
            else:
                variable.setncatts({"roi": self.about.places.names[array.roi], "roi_index": array.roi})
                if self._extra:
                    variable.coordinates = " ".join(self._extra)
        self._pending.clear()
        for variable, values in variables:
            variable[...] = values
        if large:
            blocks = {variable.name: [(0, values)] for variable, values in large}
            with self._apart():
                hdf5.put(self._temporary, blocks, self._threads)

    def _declare(self, array: Array, dims: tuple[str, ...], shape: tuple, dtype: np.dtype) -> netCDF4.Variable:
        """The variable of an array, and the names of its bands."""
        stacked = dims[0] == "roi"
        chunks = layout.chunks(shape, dtype.itemsize, stacked=stacked)
        variable = self._file.createVariable(array.key, dtype, dims, fill_value=False, chunksizes=chunks, **DEFLATED)
        # whole chunks are written, so none need be kept; the library's default would keep them of every variable
        variable.set_var_chunk_cache(1, 1, 1.0)
        variable.set_auto_maskandscale(False)
        what, units = {"input": ("pixels", array.units), "embedding": ("embeddings", "1")}.get(
            array.kind, ("input tensor", "1")
        )
        said = {"long_name": f"{what} of {array.label}", "units": units or None}
        variable.setncatts({k: v for k, v in said.items() if v is not None})
        self._extra = []
        for dim in dims:
            if dim == f"band__{array.model}" and array.bands and dim not in self._file.variables:
                self._names.text(dim, (dim,), array.bands, {"long_name": "name of the band"})
        return variable

    def _frames(
        self, array: Array, dims: tuple, shape: tuple, variable: netCDF4.Variable, dates: list[Sequence[str]]
    ) -> None:
        """Dates of frames as a coordinate; a composite's single date as an attribute where there is one ROI."""
        import numpy as np

        if array.kind != "input":
            return
        axes = layout.axes(array, len(dims) - (dims[0] == "roi"))
        if "frame" not in axes or dims[axes.index("frame")].startswith(f"frame__{array.model}__n"):
            if dims[0] != "roi" and dates[0]:
                variable.dates = ", ".join(dates[0])
            return
        at = dims.index(next(d for d in dims if d.startswith("frame")))
        stacked, frames = dims[0] == "roi", shape[at]
        if any(len(d) != frames for d in dates if d or not stacked):
            return
        name = f"frame_time{dims[at].removeprefix('frame')}"
        own = ("roi", dims[at]) if dims[0] == "roi" else (dims[at],)
        said = {"standard_name": "time", "long_name": "date of the frame", **cf.TIME}
        days = [[cf.days(d) for d in row] or [math.nan] * frames for row in dates]
        self._names.number(name, own, np.array(days), said)
        self._extra.append(name)


@contextlib.contextmanager
def _said(path: Path) -> Iterator[None]:
    """The library's errors as those of the system, with the file and the likely reason."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        full = (
            shutil.disk_usage(path.parent).free < 1 << 20
        )  # where a file cannot begin, the library says permission denied
        library = isinstance(error, hdf5.WriteError) or str(error).startswith("NetCDF")
        if not library and not (isinstance(error, OSError) and full):
            raise
        why = "no space left on the device" if full else "a full disk, a quota or a limit of file sizes does that"
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, f"the file could not be written ({error}; {why})", str(path)) from None


def _checked(key: str, shape: tuple[int, ...], dtype: np.dtype, rows: Iterable[Row], *, stacked: bool) -> Iterator[Row]:
    """The rows, as many and of such a form as they should be."""
    count, one = (shape[0], shape[1:]) if stacked else (1, shape)
    seen = 0
    for row in rows:
        if row.array.dtype != dtype or row.array.shape != tuple(one):
            raise ValueError(f"{key}: a row of {row.array.dtype} {row.array.shape} in an array of {dtype} {tuple(one)}")
        seen += 1
        if seen <= count:
            yield row
    if seen != count:
        raise ValueError(f"{key}: {seen} rows for an array of {count}")


Writer, Reader = NetcdfWriter, NetcdfReader
