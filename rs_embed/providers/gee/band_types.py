"""Types of the bands of images, which can differ between the images of a collection: expressions
that ask for them, and the numpy dtypes that represent them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ...products import COLLECTION_UNITS

#: Methods that cast an image, by the name of the numpy dtype.
CASTS = {
    "uint8": "toUint8", "int8": "toInt8", "uint16": "toUint16", "int16": "toInt16", "uint32": "toUint32",
    "int32": "toInt32", "int64": "toInt64", "float32": "toFloat", "float64": "toDouble",
}  # fmt: skip
#: Images of a collection whose bands are asked for at the start of a run.
SAMPLE = 100
#: The bands of an image: (name, precision, smallest value, largest value) each; floats have no
#: limits.
Signature = Sequence[Sequence]


def signature_expression(ee: Any, image: Any, bands: Sequence[str] | None = None) -> Any:
    """Expression for the :data:`Signature` of an image: of all its bands, or of those of some
    names that it has."""
    image = ee.Image(image)
    types, names = image.bandTypes(), image.bandNames()
    if bands is not None:
        names = ee.List(list(bands)).filter(ee.Filter.inList("item", names))

    def describe(name: Any) -> Any:
        kind = types.get(name)
        return ee.List([name, *(_property_of_type(ee, kind, part) for part in ("precision", "minValue", "maxValue"))])

    return names.map(describe)


def _property_of_type(ee: Any, kind: Any, name: str) -> Any:
    """A property of a pixel type. The client's own method would make a new type of ``kind``, as if
    it were the name of a precision."""
    return ee.ComputedObject(ee.ApiFunction.lookup(f"PixelType.{name}"), {"pixelType": kind})


def parse_signature(signature: Signature) -> dict[str, str]:
    """Names of numpy dtypes by band: integers by their limits, ``float`` has 32 and ``double`` 64
    bits."""
    return {name: _dtype_name(precision, low, high) for name, precision, low, high in signature}


def _dtype_name(precision: str, low: float | None, high: float | None) -> str:
    import numpy as np

    if precision in ("float", "double"):
        return "float32" if precision == "float" else "float64"
    low, high = -(2**31) if low is None else low, 2**31 - 1 if high is None else high
    fits = (t for t in CASTS if "int" in t and np.iinfo(t).min <= low and high <= np.iinfo(t).max)
    return next(fits, "float64")


def merge_types(*types: Mapping[str, str]) -> dict[str, str]:
    """The bands of several images, each with the dtype that represents its values in all of
    them."""
    import numpy as np

    merged: dict[str, str] = {}
    for image in types:
        for band, name in image.items():
            merged[band] = np.result_type(merged.get(band, name), name).name
    return merged


def polarisations(bands: Iterable[str]) -> tuple[str, str]:
    """The pair of polarisations that an image of Sentinel-1 must have: one is transmitted, both
    are received."""
    return ("HH", "HV") if {"HH", "HV"} & set(bands) else ("VV", "VH")


def filter_polarised(ee: Any, images: Any, pair: Sequence[str]) -> Any:
    """Images that have both polarisations."""
    for polarisation in pair:
        images = images.filter(ee.Filter.listContains("transmitterReceiverPolarisation", polarisation))
    return images


def collection_key(collection: str, bands: Sequence[str]) -> str:
    """What identifies the images whose bands are asked for: the collection, and for Sentinel-1 the
    polarisation, because its images do not all have the same bands."""
    return f"{collection} {polarisations(bands)[0]}" if collection in COLLECTION_UNITS else collection


def collection_expression(ee: Any, collection: str, bands: Sequence[str]) -> Any:
    """Expression for (signatures of the first images of a collection; 1 if an image has a time,
    else 0)."""
    images = ee.ImageCollection(collection)
    if collection in COLLECTION_UNITS:
        images = filter_polarised(ee, images, polarisations(bands))
    timed = images.filter(ee.Filter.notNull(["system:time_start"])).limit(1).size()
    return ee.List([_signatures(ee, images), timed])


def optional_bands_expression(
    ee: Any,
    collection: str,
    bands: Sequence[str],
    box: tuple[float, float, float, float],
    window: tuple[str, str] | None,
) -> Any:
    """Expression for the signatures of images that have a band: a list for each of ``bands``,
    which the first images of the collection lack.

    Args:
        box: (west, south, east, north) of all ROIs, degrees.
        window: (start, end) of all ROIs, or None.
    """
    images = ee.ImageCollection(collection).filterBounds(ee.Geometry.Rectangle(list(box), geodesic=False))
    if window is not None:
        images = images.filterDate(*window)
    found = [images.filter(ee.Filter.listContains("system:band_names", band)) for band in bands]
    return ee.List([_signatures(ee, one, [band]) for one, band in zip(found, bands)])


def _signatures(ee: Any, images: Any, bands: Sequence[str] | None = None) -> Any:
    """The different signatures of the first images of a collection."""
    first = images.limit(SAMPLE).toList(SAMPLE)
    return first.map(lambda image: signature_expression(ee, image, bands)).distinct()
