"""Raster files with rasterio: their metadata, and their pixels on a grid."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ProviderError
from ...request.geometry import Grid

if TYPE_CHECKING:
    import numpy as np

#: Sidecars (.msk, .aux.xml) are looked for by name: listing the folder of each file is slow on
#: shared storage.
_ENVIRONMENT = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}


@dataclass(frozen=True)
class Header:
    """The metadata of a raster file.

    Attributes:
        bands: descriptions of its bands in file order, or None; an alpha band is not counted.
        box: (west, south, east, north) of its outline, degrees; west > east across the
            antimeridian.
        nodata: nodata value of each band, or None.
        dtype: of its values.
        pieces: digest of the beginning, middle and end of the file: it differs for another file
            with the same size and time.
        parts: other files that its pixels depend on (sidecars, the sources of a VRT), relative to
            its folder.
        tags: the file's tags.
    """

    bands: tuple[str | None, ...]
    box: tuple[float, float, float, float]
    nodata: tuple[float | None, ...]
    dtype: str
    pieces: str
    parts: tuple[str, ...]
    tags: dict[str, str]


#: Size in bytes and modification time in ns of a file and of its parts; None for a missing one.
Stamps = tuple[tuple[int, int] | None, ...]
#: Sidecars that GDAL looks for, so that one that appears later is noticed.
_SIDECARS = (".aux.xml", ".msk")
_PIECE = 1 << 16


@contextmanager
def _open(path: str) -> Iterator[Any]:
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.Env(**_ENVIRONMENT), rasterio.open(path) as dataset:
            yield dataset
    except (RasterioError, OSError) as error:
        raise ProviderError(f"raster {path} cannot be read: {error}") from None


def _alpha_indexes(dataset: Any) -> list[int]:
    """Indices of alpha bands, from 1."""
    from rasterio.enums import ColorInterp

    return [i for i, kind in zip(dataset.indexes, dataset.colorinterp) if kind == ColorInterp.alpha]


def _data_indexes(dataset: Any) -> list[int]:
    """Indices of the other bands, from 1."""
    alpha = _alpha_indexes(dataset)
    return [i for i in dataset.indexes if i not in alpha]


def read_header(path: str) -> Header:
    """Read the metadata of a file.

    Raises:
        ProviderError: the file is not a raster, or is not georeferenced.
    """
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError
    from rasterio.warp import transform_bounds

    with _open(path) as dataset:
        if dataset.crs is None and dataset.gcps[0]:
            raise ProviderError(
                f"raster {path} is located by ground control points; allowed: warped rasters (gdalwarp)"
            )
        if dataset.crs is None:
            raise ProviderError(
                f"raster {path} has no CRS; allowed: georeferenced rasters (gdal_edit.py -a_srs EPSG:...)"
            )
        if dataset.transform.is_identity:
            raise ProviderError(f"raster {path} has no geotransform; allowed: georeferenced rasters")
        if any(kind.startswith("complex") for kind in dataset.dtypes):
            raise ProviderError(f"raster {path} has complex numbers; allowed: integers and floats")
        try:
            x0, y0, x1, y1 = dataset.bounds  # in the wrong order for south-up or mirrored files
            box = transform_bounds(dataset.crs, "EPSG:4326", min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        except (CRSError, CPLE_BaseError, ValueError) as error:
            raise ProviderError(f"raster {path} has a CRS that cannot be used: {error}") from None
        indexes = _data_indexes(dataset)
        return Header(
            tuple(dataset.descriptions[i - 1] for i in indexes),
            (round(box[0], 9), round(box[1], 9), round(box[2], 9), round(box[3], 9)),
            tuple(dataset.nodatavals[i - 1] for i in indexes),
            dataset.dtypes[indexes[0] - 1] if indexes else "uint8",
            _digest_pieces(path),
            _list_parts(path, dataset.files),
            dataset.tags(),
        )


def _digest_pieces(path: str) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        for start in sorted({0, max(size // 2 - _PIECE // 2, 0), max(size - _PIECE, 0)}):
            file.seek(start)
            sha.update(file.read(_PIECE))
    return sha.hexdigest()[:32]


def _list_parts(path: str, files: Sequence[str]) -> tuple[str, ...]:
    """The files that GDAL lists in addition to the file itself, also those of its VRTs; without
    overviews."""
    found, todo = {path + s for s in _SIDECARS}, [f for f in files if os.path.abspath(f) != os.path.abspath(path)]
    while todo:
        file = todo.pop()
        if file in found or file.endswith(".ovr"):
            continue
        found.add(file)
        if file.lower().endswith(".vrt"):
            with _open(file) as dataset:
                todo += dataset.files
    return tuple(sorted(os.path.relpath(f, os.path.dirname(path)) for f in found))


def read_file(path: str, indexes: Sequence[int], grid: Grid) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
    """:func:`read_dataset` of a file.

    Raises:
        ProviderError: the file cannot be read.
    """
    with _open(path) as dataset:
        return read_dataset(dataset, indexes, grid)


def read_dataset(dataset: Any, indexes: Sequence[int], grid: Grid) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
    """Pixels of some bands on a grid, by rasterio's warp with nearest centre; only the blocks that
    the grid touches are read. Values of a coarse grid are picked from the full resolution, whether
    or not a file has overviews. The warp locates centres within an eighth of a pixel, row by row,
    so the rows of a grid can be read separately.

    Args:
        dataset: an open rasterio dataset.
        indexes: positions of the bands in the file, from 0, alpha bands not counted.

    Returns:
        (values (C, H, W) in the file's dtype, inside (H, W) bool: the raster has a pixel at this
        position that its mask does not exclude, nodata value of each band in the file or None).
    """
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    alpha, data = _alpha_indexes(dataset), _data_indexes(dataset)
    options = {
        "crs": grid.crs,
        "transform": rasterio.Affine(*grid.affine),
        "width": grid.width,
        "height": grid.height,
        "resampling": Resampling.nearest,
        "src_nodata": None,  # nodata values are masked afterwards, band by band
        "nodata": None,
        "add_alpha": not alpha,
    }
    with WarpedVRT(dataset, **options) as warped:
        values = warped.read([data[i] for i in indexes])
        inside = warped.read(alpha[-1] if alpha else warped.count) > 0
    return values, inside, [dataset.nodatavals[data[i] - 1] for i in indexes]


def read_stamps(path: str, parts: Sequence[str]) -> Stamps:
    """Size and modification time of a file and of its parts: they change when its pixels do.

    Raises:
        ProviderError: the file does not exist.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: an impossible path
        raise ProviderError(f"raster {path!r} cannot be read: {getattr(error, 'strerror', error)}") from None
    return (status.st_size, status.st_mtime_ns), *(_read_stamp(os.path.join(os.path.dirname(path), p)) for p in parts)


def _read_stamp(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns
