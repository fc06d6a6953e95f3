"""Raster files with rasterio: their metadata, and their pixels on a grid."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ProviderError
from ...request.geometry import Grid
from .alpha_bands import alpha_indexes, data_indexes, is_image, without_alpha
from .longitudes import full_turns, outline_box

if TYPE_CHECKING:
    import numpy as np

#: Sidecars (.msk, .aux.xml) are looked for by name: listing the folder of each file is slow on
#: shared storage.
_ENVIRONMENT = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}


@dataclass(frozen=True)
class Header:
    """The metadata of a raster file.

    Attributes:
        bands: descriptions of its bands in file order, or None; with alpha bands.
        box: (west, south, east, north) of its outline, degrees; west > east across the
            antimeridian.
        nodata: nodata value of each band, or None.
        dtype: of its values.
        pieces: digest of the beginning, middle and end of the file: it differs for another file
            with the same size and time.
        parts: other files that its pixels depend on (sidecars, the sources of a VRT), relative to
            its folder.
        tags: the file's tags.
        alpha: positions of the bands that GDAL takes for alpha (transparency), from 0.
        alpha_is_image: the numbers of an alpha band are those of an image: not only 0 and the
            highest, as in a mask.
    """

    bands: tuple[str | None, ...]
    box: tuple[float, float, float, float]
    nodata: tuple[float | None, ...]
    dtype: str
    pieces: str
    parts: tuple[str, ...]
    tags: dict[str, str]
    alpha: tuple[int, ...] = ()
    alpha_is_image: bool = False

    @property
    def without_alpha(self) -> tuple[str | None, ...]:
        """Descriptions of the bands that are no alpha bands."""
        return tuple(b for i, b in enumerate(self.bands) if i not in self.alpha)


#: Size in bytes and modification time in ns of a file and of its parts; None for a missing one.
Stamps = tuple[tuple[int, int] | None, ...]
#: Sidecars that GDAL looks for, so that one that appears later is noticed.
_SIDECARS = (".aux.xml", ".msk")
_PIECE = 1 << 16
#: Beginnings of files that rasterio does not read, or of which GDAL shows a list of contents.
_PACKED = {
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"\x0e\x03\x13\x01": "HDF4",
}


@contextmanager
def _open(path: str) -> Iterator[Any]:
    import rasterio
    from rasterio.errors import RasterioError

    try:
        # a Path is a name of a file in any case; a text with # or ? would be taken for a URL
        with rasterio.Env(**_ENVIRONMENT), rasterio.open(Path(path)) as dataset:
            yield dataset
    except (RasterioError, OSError) as error:
        raise ProviderError(f"raster {path} cannot be read: {error}") from None


def describe_file(path: str) -> str:
    """What a file is that is no raster for rasterio, with the way out; "" where this is not
    known."""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except (OSError, ValueError):
        return ""
    what = next((what for magic, what in _PACKED.items() if start.startswith(magic)), "")
    if start[257:262] == b"ustar":
        what = "a tar archive"
    if what == "HDF4":
        return "it is HDF4, which rasterio does not read; allowed: GeoTIFFs of its layers (gdal_translate)"
    return f"it is {what}; allowed: its unpacked content" if what else ""


def read_header(path: str) -> Header:
    """Read the metadata of a file.

    Raises:
        ProviderError: the file is not a raster, or is not georeferenced.
    """
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import CRSError, RasterioError

    _refuse_other_than_files(path)
    with _open(path) as dataset:
        if dataset.crs is None and dataset.gcps[0]:
            raise ProviderError(
                f"raster {path} is located by ground control points; allowed: warped rasters (gdalwarp -t_srs EPSG:...)"
            )
        if dataset.crs is None and dataset.rpcs:
            raise ProviderError(
                f"raster {path} is located by rational polynomials (RPC); allowed: warped rasters (gdalwarp -rpc -t_srs EPSG:...)"
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
            box = outline_box(dataset)
        except (CRSError, CPLE_BaseError, ValueError) as error:
            raise ProviderError(f"raster {path} has a CRS that cannot be used: {error}") from None
        indexes, alpha = data_indexes(dataset), alpha_indexes(dataset)
        try:
            alpha_is_image = any(is_image(dataset, i) for i in alpha)
        except RasterioError as error:
            raise ProviderError(f"raster {path} cannot be read: {error}") from None
        return Header(
            dataset.descriptions,
            (round(box[0], 9), round(box[1], 9), round(box[2], 9), round(box[3], 9)),
            dataset.nodatavals,
            dataset.dtypes[indexes[0] - 1] if indexes else "uint8",
            _digest_pieces(path),
            _list_parts(path, dataset.files),
            dataset.tags(),
            tuple(i - 1 for i in alpha),
            alpha_is_image,
        )


def _refuse_other_than_files(path: str) -> None:
    """Refuse what GDAL would open and is no raster file: names of its virtual file systems,
    folders, pipes, archives."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ProviderError(f"raster {path} cannot be read: it is no file")
    except (OSError, ValueError) as error:  # ValueError: an impossible path
        raise ProviderError(
            f"raster {path if path.isprintable() else repr(path)} cannot be read: {getattr(error, 'strerror', error)}"
        ) from None
    if what := describe_file(path):
        raise ProviderError(f"raster {path} cannot be read: {what}")


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


def read_file(
    path: str, indexes: Sequence[int], grid: Grid, *, alpha: Sequence[int] = ()
) -> tuple[np.ndarray, np.ndarray, list[float | None]]:
    """:func:`read_dataset` of a file.

    Args:
        alpha: positions of the bands that GDAL takes for alpha and that are data; ``indexes`` then
            count them.

    Raises:
        ProviderError: the file cannot be read.
    """
    with _open(path) as dataset:
        if not alpha:
            return read_dataset(dataset, indexes, grid)
        with without_alpha(dataset, path) as plain:
            return read_dataset(plain, indexes, grid)


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
    import numpy as np
    import rasterio
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    alpha, data = alpha_indexes(dataset), data_indexes(dataset)
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
    merged: tuple[np.ndarray, np.ndarray] | None = None
    for shift in full_turns(dataset):
        a, b, c, d, e, f = dataset.transform[:6]
        moved = {"src_transform": rasterio.Affine(a, b, c + shift, d, e, f)} if shift else {}
        with WarpedVRT(dataset, **options, **moved) as warped:
            values = warped.read([data[i] for i in indexes])
            inside = warped.read(alpha[-1] if alpha else warped.count) > 0
        if merged is None:
            merged = values, inside
        else:
            np.copyto(merged[0], values, where=inside & ~merged[1])
            merged[1][inside] = True
    assert merged is not None  # there is at least one turn
    return *merged, [dataset.nodatavals[data[i] - 1] for i in indexes]


def highest_number(dtype: str) -> float:
    """The highest number of a dtype."""
    import numpy as np

    kind = np.dtype(dtype)
    return float((np.iinfo(kind) if kind.kind in "iu" else np.finfo(kind)).max)


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
