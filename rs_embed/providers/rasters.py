"""Raster files with rasterio: what a file says about itself, and its pixels on a grid."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ProviderError
from ..geometry import Grid

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
        tags: the file's metadata.
    """

    bands: tuple[str | None, ...]
    box: tuple[float, float, float, float]
    nodata: tuple[float | None, ...]
    dtype: str
    tags: dict[str, str]


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
    from rasterio.errors import CRSError
    from rasterio.warp import transform_bounds

    with _open(path) as dataset:
        if dataset.crs is None:
            raise ProviderError(
                f"raster {path} has no CRS; allowed: georeferenced rasters (gdal_edit.py -a_srs EPSG:...)"
            )
        if dataset.transform.is_identity:
            raise ProviderError(f"raster {path} has no geotransform; allowed: georeferenced rasters")
        if any(kind.startswith("complex") for kind in dataset.dtypes):
            raise ProviderError(f"raster {path} has complex numbers; allowed: integers and floats")
        try:
            box = transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
        except (CRSError, ValueError) as error:
            raise ProviderError(f"raster {path} has a CRS that cannot be used: {error}") from None
        own = [i for i in dataset.indexes if i not in _alpha(dataset)]
        return Header(
            tuple(dataset.descriptions[i - 1] for i in own),
            tuple(round(v, 9) for v in box),
            tuple(dataset.nodatavals[i - 1] for i in own),
            dataset.dtypes[own[0] - 1] if own else "uint8",
            dataset.tags(),
        )


def read(path: str, indexes: Sequence[int], grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of some bands on a grid, by rasterio's warp with nearest centre; only the blocks that the grid touches are read.
    Values of a coarse grid are picked from the full resolution, whether or not a file has overviews. The warp finds centres
    within an eighth of a pixel, line by line, so the rows of a grid can be read apart.

    Args:
        indexes: positions of the bands in the file, from 0, alpha bands not counted.

    Returns:
        (values (C, H, W) in the file's dtype, inside (H, W) bool: the raster has a pixel there that its mask does not hide).

    Raises:
        ProviderError: the file cannot be read.
    """
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    with _open(path) as dataset:
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
    return values, inside


def stamp(path: str) -> tuple[int, int]:
    """Size in bytes and modification time in ns: a file with other ones has other pixels.

    Raises:
        ProviderError: there is no such file.
    """
    try:
        found = os.stat(path)
    except OSError as error:
        raise ProviderError(f"raster {path} cannot be read: {error.strerror}") from None
    return found.st_size, found.st_mtime_ns
