"""Raster files with rasterio: what a file says about itself, and its pixels on a grid."""

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

#: Sidecars (.msk, .aux.xml) are looked for by name: listing the folder of each file is slow on shared storage.
_ENVIRONMENT = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}


@dataclass(frozen=True)
class Header:
    """What a file says about itself.

    Attributes:
        bands: descriptions of its bands in file order, None where there is none; an alpha band is not counted.
        box: (west, south, east, north) of its outline, degrees; west > east across the antimeridian.
        nodata: number of each band that means no data, or None.
        dtype: of its numbers.
        pieces: digest of the beginning, middle and end of the file: another file with the size and time of this one is told
            from it.
        parts: other files that its pixels depend on (sidecars, the sources of a VRT), relative to its folder.
        tags: the file's metadata.
    """

    bands: tuple[str | None, ...]
    box: tuple[float, float, float, float]
    nodata: tuple[float | None, ...]
    dtype: str
    pieces: str
    parts: tuple[str, ...]
    tags: dict[str, str]


#: Size in bytes and modification time in ns of a file and of its parts; None for one that is not there.
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


def _alpha(dataset: Any) -> list[int]:
    """Indices of alpha bands, from 1."""
    from rasterio.enums import ColorInterp

    return [i for i, kind in zip(dataset.indexes, dataset.colorinterp) if kind == ColorInterp.alpha]


def header(path: str) -> Header:
    """Read what a file says about itself.

    Raises:
        ProviderError: no raster, or one without a CRS or a place.
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
            x0, y0, x1, y1 = dataset.bounds  # of south-up or mirrored files in the wrong order
            box = transform_bounds(dataset.crs, "EPSG:4326", min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
        except (CRSError, CPLE_BaseError, ValueError) as error:
            raise ProviderError(f"raster {path} has a CRS that cannot be used: {error}") from None
        own = [i for i in dataset.indexes if i not in _alpha(dataset)]
        return Header(
            tuple(dataset.descriptions[i - 1] for i in own),
            tuple(round(v, 9) for v in box),
            tuple(dataset.nodatavals[i - 1] for i in own),
            dataset.dtypes[own[0] - 1] if own else "uint8",
            _pieces(path),
            _parts(path, dataset.files),
            dataset.tags(),
        )


def _pieces(path: str) -> str:
    sha = hashlib.sha256()
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        for start in sorted({0, max(size // 2 - _PIECE // 2, 0), max(size - _PIECE, 0)}):
            file.seek(start)
            sha.update(file.read(_PIECE))
    return sha.hexdigest()[:32]


def _parts(path: str, files: Sequence[str]) -> tuple[str, ...]:
    """What GDAL lists beside the file itself, and for the VRTs among it what they list; without overviews."""
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


def read(path: str, indexes: Sequence[int], grid: Grid) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
    """:func:`pixels` of a file.

    Raises:
        ProviderError: the file cannot be read.
    """
    with _open(path) as dataset:
        return pixels(dataset, indexes, grid)


def pixels(dataset: Any, indexes: Sequence[int], grid: Grid) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
    """Pixels of some bands on a grid, by rasterio's warp with nearest centre; only the blocks that the grid touches are read.
    Values of a coarse grid are picked from the full resolution, whether or not a file has overviews. The warp finds centres
    within an eighth of a pixel, line by line, so the rows of a grid can be read apart.

    Args:
        dataset: an open rasterio dataset.
        indexes: positions of the bands in the file, from 0, alpha bands not counted.

    Returns:
        (values (C, H, W) in the file's dtype, inside (H, W) bool: the raster has a pixel there that its mask does not hide,
        the file's own nodata number of each band or None).
    """
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    alpha = _alpha(dataset)
    own = [i for i in dataset.indexes if i not in alpha]
    view = {
        "crs": grid.crs,
        "transform": rasterio.Affine(*grid.affine),
        "width": grid.width,
        "height": grid.height,
        "resampling": Resampling.nearest,
        "src_nodata": None,  # values that mean no data are found afterwards, band by band
        "nodata": None,
        "add_alpha": not alpha,
    }
    with WarpedVRT(dataset, **view) as warped:
        values = warped.read([own[i] for i in indexes])
        inside = warped.read(alpha[-1] if alpha else warped.count) > 0
    return values, inside, [dataset.nodatavals[own[i] - 1] for i in indexes]


def stamps(path: str, parts: Sequence[str]) -> Stamps:
    """Size and modification time of a file and of its parts: with other ones it has other pixels.

    Raises:
        ProviderError: there is no such file.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # ValueError: a path that no file can have
        raise ProviderError(f"raster {path!r} cannot be read: {getattr(error, 'strerror', error)}") from None
    return (found.st_size, found.st_mtime_ns), *(_stamp(os.path.join(os.path.dirname(path), p)) for p in parts)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns
