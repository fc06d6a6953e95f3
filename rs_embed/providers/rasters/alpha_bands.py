"""Bands that GDAL takes for alpha (transparency): a mask of the other bands, or data.

A file of 8 bits with four bands and no other statement has red, green, blue and alpha for GDAL,
also where its fourth band is infrared. Then pixels whose infrared is 0 would be transparent.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Share of the values between 0 and the highest from which an alpha band is an image: at the edges
#: of a mask that was resampled there are fewer.
_IMAGE_SHARE = 0.05
#: Names of GDAL for rasterio's dtypes.
_GDAL_TYPES = {
    "uint8": "Byte",
    "int8": "Int8",
    "uint16": "UInt16",
    "int16": "Int16",
    "uint32": "UInt32",
    "int32": "Int32",
    "uint64": "UInt64",
    "int64": "Int64",
    "float32": "Float32",
    "float64": "Float64",
}


def alpha_indexes(dataset: Any) -> list[int]:
    """Indices of alpha bands, from 1."""
    from rasterio.enums import ColorInterp

    return [i for i, kind in zip(dataset.indexes, dataset.colorinterp) if kind == ColorInterp.alpha]


def data_indexes(dataset: Any) -> list[int]:
    """Indices of the other bands, from 1."""
    alpha = alpha_indexes(dataset)
    return [i for i in dataset.indexes if i not in alpha]


def is_image(dataset: Any, index: int) -> bool:
    """The values of an alpha band are those of an image, as far as samples of it show."""
    import numpy as np
    from rasterio.windows import Window

    side = 256
    inner = total = 0
    for row in range(3):
        for column in range(3):
            top, left = max(dataset.height - side, 0) * row // 2, max(dataset.width - side, 0) * column // 2
            values = dataset.read(index, window=Window(left, top, min(side, dataset.width), min(side, dataset.height)))
            highest = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
            inner += int(((values > 1 if highest > 1 else values > 0) & (values < highest)).sum())
            total += values.size
    return inner > _IMAGE_SHARE * total


@contextmanager
def without_alpha(dataset: Any, path: str) -> Iterator[Any]:
    """The dataset with bands of data alone. A warp would not use the pixels where alpha is 0, and
    has no option for that."""
    from xml.sax.saxutils import escape

    from rasterio.io import MemoryFile

    name = escape(os.path.abspath(path))
    bands = "".join(
        f'<VRTRasterBand dataType="{_GDAL_TYPES[kind]}" band="{i}">'
        + ("" if nodata is None else f"<NoDataValue>{nodata!r}</NoDataValue>")
        + f'<SimpleSource><SourceFilename relativeToVRT="0">{name}</SourceFilename><SourceBand>{i}</SourceBand></SimpleSource>'
        "</VRTRasterBand>"
        for i, kind, nodata in zip(dataset.indexes, dataset.dtypes, dataset.nodatavals)
    )
    numbers = ", ".join(map(repr, dataset.transform.to_gdal()))
    text = (
        f'<VRTDataset rasterXSize="{dataset.width}" rasterYSize="{dataset.height}"><SRS>{escape(dataset.crs.to_wkt())}</SRS>'
        f"<GeoTransform>{numbers}</GeoTransform>{bands}</VRTDataset>"
    )
    with MemoryFile(text.encode(), ext=".vrt") as file, file.open() as plain:
        yield plain
