"""Write NetCDF-4 files as a stream, with CF metadata.

A file appears when it is complete; equal content gives equal bytes. Names of dimensions depend on
the model (and on the ROI, if each ROI has a separate array) and on nothing else:

- ``roi``; of embeddings ``dim__<m>``, ``y__<m>``, ``x__<m>``; of pixels ``frame__<m>``,
  ``band__<m>``, ``y_in__<m>``, ``x_in__<m>``.
- In a combined file with an array per ROI, each ROI has its y, x and frame: ``y__<m>__00003``. In
  a large file, axes of one size share a dimension: ``y__<m>__n32``.

One writer of a process works at a time (``reader.LOCK``).
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import shutil
from array import array as packed_array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ...store.atomic_files import temporary_path
from ..arrays import Affine, ArrayMetadata, FileMetadata, Row
from . import cf, hdf5, layout
from .reader import LOCK
from .variables import COMPRESSION, MetadataWriter

if TYPE_CHECKING:
    import netCDF4
    import numpy as np

    #: Names and sizes of dimensions.
    Dims = tuple[str, ...]
    Shape = tuple[int, ...]
    #: A declared variable and the numbers to write to it.
    Values = tuple[netCDF4.Variable, np.ndarray]

PATH, KEYS = "nc_path", "nc_variables"
#: Largest number of ROIs with separate axes in a file with an array per ROI: 5,000 cost a gigabyte
#: to write, and xarray minutes to open. In larger files the attributes still contain CRS and
#: affine.
MAX_ROIS_WITH_AXES = 500
#: Arrays of single ROIs that are declared, and then written, together: HDF5 looks through all
#: variables whenever it changes between declaring and writing.
MAX_PENDING, MAX_PENDING_BYTES = 1024, 1 << 26


class NetcdfWriter:
    """Write a ``.nc`` in a temporary file; leaving the ``with`` block without an error renames it
    to ``path``.

    Attributes:
        keys: names of the arrays, in order.
        sha256: None: HDF5 seeks in its file, so a digest has to read it.

    Raises:
        OSError: the file could not be written, for example because the disk is full; it is
            removed.
    """

    def __init__(self, path: str | Path, metadata: Callable[[], FileMetadata], threads: int = 1) -> None:
        """
        Args:
            metadata: returns the metadata of the file; called when it is created.
            threads: number of threads that deflate large arrays.
        """
        self._threads = threads
        self.path = Path(os.path.abspath(path))  # a relative path could look like a URL, which the library would open
        self._build_metadata = metadata
        self.keys: list[str] = []
        self.sha256 = None
        self._dataset: netCDF4.Dataset | None = None
        self._pending: list[tuple[ArrayMetadata, Row]] = []

    def __enter__(self) -> NetcdfWriter:
        import netCDF4

        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_path(self.path)
        self.metadata = self._build_metadata()
        LOCK.acquire()
        try:
            with _translated_errors(self.path):
                try:
                    self._dataset = netCDF4.Dataset(self._temporary, "w", clobber=False, format="NETCDF4")
                except BaseException:
                    self._temporary.unlink(missing_ok=True)
                    raise
            try:
                with _translated_errors(self.path):
                    self._descriptions = MetadataWriter(self._file, self.metadata)
            except BaseException as error:
                self._close(type(error))
                raise
        except BaseException:
            LOCK.release()
            raise
        return self

    def add(self, array: ArrayMetadata, shape: tuple[int, ...], dtype: np.dtype, rows: Iterable[Row]) -> None:
        """Write one array.

        Memory contains a chunk, or the arrays of single ROIs that are declared together, and the
        chunks that threads deflate ahead (:mod:`rs_embed.formats.parallel`).

        Args:
            array: metadata of the array.
            shape, dtype: of the whole array, with the axis of ROIs if it has one.
            rows: one per ROI, without that axis.

        Raises:
            ValueError: the rows do not add up to ``shape`` and ``dtype``, or NetCDF cannot store
                them.
        """
        if 0 in shape or dtype.kind not in "iuf" or dtype.itemsize not in (1, 2, 4, 8) or dtype.str[1:] == "f2":
            raise ValueError(f"{array.key}: NetCDF cannot store {dtype} of shape {shape}; allowed: numbers, none empty")
        stacked, rois = array.roi is None and not self.metadata.single, len(self.metadata.rois.names)
        if stacked and shape[0] != rois:
            raise ValueError(f"{array.key}: {shape[0]} rows for {rois} ROIs")
        rows = _check_rows(array.key, shape, dtype, rows, stacked=stacked)
        if stacked:
            with _translated_errors(self.path):
                self._write_stacked(array, shape, dtype, rows)
        else:
            for row in rows:
                self._pending.append((array, row))
            pending_bytes = sum(row.array.nbytes for _, row in self._pending)
            if len(self._pending) >= MAX_PENDING or pending_bytes >= MAX_PENDING_BYTES:
                with _translated_errors(self.path):
                    self._write_pending()
        self.keys.append(array.key)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._close(kind)
        finally:
            LOCK.release()

    def _close(self, kind: type[BaseException] | None) -> None:
        """Finish the file, or remove it after an error."""
        complete = False
        try:
            with _translated_errors(self.path):
                try:
                    if kind is None:
                        self._write_pending()
                        # all variables but arrays become coordinates: xarray then shows only
                        # arrays as data
                        others = set(self._file.variables).difference(self.keys, self._file.dimensions)
                        self._file.coordinates = " ".join(sorted(others))
                finally:
                    if self._dataset is not None:
                        self._dataset.close()
            if kind is None:
                with open(self._temporary, "rb") as file:
                    os.fsync(file.fileno())
                os.replace(self._temporary, self.path)
                complete = True
        except OSError:
            if kind is None:  # otherwise the first error is the one to report
                raise
        finally:
            if not complete:
                self._temporary.unlink(missing_ok=True)

    @property
    def _file(self) -> netCDF4.Dataset:
        if self._dataset is None:
            raise ValueError(f"{self.path} is not open")
        return self._dataset

    def _write_chunks(self, arrays: dict[str, Iterable[tuple[int, np.ndarray]]]) -> None:
        """Write declared arrays by HDF5, see :func:`hdf5.write_arrays`.

        The file is closed meanwhile; look up variables again.
        """
        import netCDF4

        file, self._dataset = self._file, None
        file.close()
        hdf5.write_arrays(self._temporary, arrays, self._threads)
        self._dataset = self._descriptions.file = netCDF4.Dataset(self._temporary, "a")

    # arrays --------------------------------------------------------------------------------------

    def _write_stacked(self, array: ArrayMetadata, shape: Shape, dtype: np.dtype, rows: Iterator[Row]) -> None:
        """Write all ROIs to one variable, chunk by chunk, then their grids and dates."""
        import numpy as np

        variable = self._declare(array, ("roi", *self._dimensions(array, shape[1:])), shape, dtype)
        rois_per_chunk = variable.chunking()[0]
        crs: list[str | None] = []
        affines, dates = packed_array("d"), []

        def iter_blocks() -> Iterator[tuple[int, np.ndarray]]:
            block: list[np.ndarray] = []
            for i, row in enumerate(rows):
                block.append(row.array)
                if len(block) == rois_per_chunk or i == shape[0] - 1:
                    yield i + 1 - len(block), np.stack(block)
                    block.clear()
                crs.append(row.crs)
                affines.extend(row.affine or [math.nan] * 6)
                dates.append(row.dates)

        if math.prod(shape) * dtype.itemsize < hdf5.MIN_BYTES:
            for first, block in iter_blocks():
                variable[first : first + len(block)] = block
        else:
            self._write_chunks({array.key: iter_blocks()})
            variable = self._file.variables[array.key]
        coordinates = list(self._descriptions.coordinates)
        if "y" in layout.axis_names(array, len(shape) - 1) and any(crs):
            coordinates += self._descriptions.write_grids(array, variable, crs, np.array(affines).reshape(-1, 6))
        coordinates += self._descriptions.write_dates(array, variable, dates)
        variable.coordinates = " ".join(coordinates)

    def _write_pending(self) -> None:
        """Declare and then write the pending arrays of single ROIs."""
        small: list[Values] = []
        large: dict[str, Iterable[tuple[int, np.ndarray]]] = {}
        for array, row in self._pending:
            variable, axes = self._declare_single(array, row)
            # the cost of opening the file again grows with its variables
            if row.array.nbytes >= hdf5.MIN_BYTES and len(self.keys) <= MAX_ROIS_WITH_AXES:
                large[array.key] = [(0, row.array)]
            else:
                small.append((variable, row.array))
            small += axes
        self._pending.clear()
        for variable, values in small:
            variable[...] = values
        if large:
            self._write_chunks(large)

    def _declare_single(self, array: ArrayMetadata, row: Row) -> tuple[netCDF4.Variable, list[Values]]:
        """Declare the array of one ROI with its grid and dates.

        Returns:
            The variable, and the variables of its axes with their values.
        """
        shape = row.array.shape
        separate_axes = len(self.metadata.rois.names) <= MAX_ROIS_WITH_AXES
        variable = self._declare(array, self._dimensions(array, shape, separate=separate_axes), shape, row.array.dtype)
        axes = []
        if "y" in layout.axis_names(array, len(shape)) and row.crs is not None and row.affine is not None:
            axes = self._declare_grid(array, variable, row.crs, row.affine, separate_axes=separate_axes)
        coordinates = self._descriptions.write_dates(array, variable, [row.dates])
        if array.roi is None:
            coordinates = self._descriptions.coordinates + coordinates
        else:
            variable.setncatts({"roi": self.metadata.rois.names[array.roi], "roi_index": array.roi})
        if coordinates:
            variable.coordinates = " ".join(coordinates)
        return variable, axes

    def _declare_grid(
        self, array: ArrayMetadata, variable: netCDF4.Variable, crs: str, affine: Affine, *, separate_axes: bool
    ) -> list[Values]:
        """Declare the grid of the array of one ROI; returns the variables of its axes with their
        values."""
        # of many ROIs, those of one CRS share a variable; a reader has the affine in the
        # coordinates
        name = f"grid_mapping{layout.grid_suffix(array)}"
        if array.roi is not None:
            name = f"grid_mapping__{layout.crs_to_name(crs)}"
        self._descriptions.write_grid_mapping(name, crs, affine if array.roi is None else None)
        variable.setncatts({"grid_mapping": name, "crs": crs, "affine": [float(v) for v in affine]})
        axes = []
        if separate_axes and cf.is_axis_aligned(affine):
            for axis, dim in zip("yx", variable.dimensions[-2:]):
                coordinate = self._file.createVariable(dim, "f8", (dim,), fill_value=False)
                coordinate.setncatts(cf.axis_attributes(axis, crs, cells=array.kind == "embedding"))
                axes.append((coordinate, cf.cell_centres(axis, affine, len(coordinate))))
        return axes

    def _dimensions(self, array: ArrayMetadata, shape: Shape, *, separate: bool = True) -> Dims:
        """The dimensions of the array of one ROI, created if missing."""
        names = layout.dimension_names(array, shape, separate=separate)
        return tuple(map(self._descriptions.get_dimension, names, shape))

    def _declare(self, array: ArrayMetadata, dims: Dims, shape: Shape, dtype: np.dtype) -> netCDF4.Variable:
        """Create the variable of an array, and write the names of its bands."""
        chunks = layout.chunk_sizes(shape, dtype.itemsize, stacked=dims[0] == "roi")
        variable = self._file.createVariable(array.key, dtype, dims, fill_value=False, chunksizes=chunks, **COMPRESSION)
        # whole chunks are written, so none needs a cache; the library would by default cache them
        # of every variable
        variable.set_var_chunk_cache(1, 1, 1.0)
        variable.set_auto_maskandscale(False)
        known = {"input": ("pixels", array.units), "embedding": ("embeddings", "1")}
        content, units = known.get(array.kind, ("input tensor", "1"))
        variable.setncatts({"long_name": f"{content} of {array.label}"} | ({"units": units} if units else {}))
        for dim in dims:
            if dim == f"band__{array.model}" and array.bands and dim not in self._file.variables:
                self._descriptions.write_texts(dim, (dim,), array.bands, {"long_name": "name of the band"})
        return variable


@contextlib.contextmanager
def _translated_errors(path: Path) -> Iterator[None]:
    """Raise the library's errors as ``OSError`` with the path and the likely reason."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        # on a full disk, the library reports permission denied when it creates a file
        full = shutil.disk_usage(path.parent).free < 1 << 20
        library = isinstance(error, hdf5.WriteError) or str(error).startswith("NetCDF")
        if not library and not (isinstance(error, OSError) and full):
            raise
        reason = "no space left on the device" if full else "a full disk, a quota or a limit of file sizes does that"
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, f"the file could not be written ({error}; {reason})", str(path)) from None


def _check_rows(key: str, shape: Shape, dtype: np.dtype, rows: Iterable[Row], *, stacked: bool) -> Iterator[Row]:
    """The rows, whose number, shapes and dtypes must be those of the array."""
    count, row_shape = (shape[0], tuple(shape[1:])) if stacked else (1, tuple(shape))
    seen = 0
    for row in rows:
        if row.array.dtype != dtype or row.array.shape != row_shape:
            raise ValueError(f"{key}: a row of {row.array.dtype} {row.array.shape} in an array of {dtype} {row_shape}")
        seen += 1
        if seen <= count:
            yield row
    if seen != count:
        raise ValueError(f"{key}: {seen} rows for an array of {count}")
