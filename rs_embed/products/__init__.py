"""Satellite products, described once for all providers: bands, values, quality bands and names.

Adding a product is one file and one registry line. Standard library only.
"""

from __future__ import annotations

import re

from . import hls, landsat, modis, planet, sentinel1, sentinel2
from .base import DECIBEL, LINEAR, Band, BitTest, Product, QualityBand
from .delivery import Delivered, ProductFiles, Unused, compact_time

#: Families of products: each one has ``PRODUCTS``, ``recognise`` and ``DATES``. Sentinel-2 is the
#: last one, because its files are recognised by their folders.
FAMILIES = (landsat, hls, modis, sentinel1, planet, sentinel2)

#: Products by the id of their Earth Engine collection.
PRODUCTS: dict[str, Product] = {product.collection: product for family in FAMILIES for product in family.PRODUCTS}
#: Units of measure of the collections that exist in several (Sentinel-1).
COLLECTION_UNITS = {name: product.units for name, product in PRODUCTS.items() if product.units in (DECIBEL, LINEAR)}


def find_product(collection: str) -> Product | None:
    """The product of an Earth Engine collection; None where it is not described here."""
    return PRODUCTS.get(collection)


def recognise(path: str, files: ProductFiles) -> Delivered | Unused | None:
    """What a raster is by the conventions of the products; None where none applies.

    Args:
        path: absolute, with ``/``. files: the files around it.
    """
    return next((found for family in FAMILIES if (found := family.recognise(path, files)) is not None), None)


def date_in_name(name: str) -> str | None:
    """Time of acquisition in the name of a file or folder that follows the conventions of a
    product, ISO 8601 (UTC); None for other names."""
    for family in FAMILIES:
        for form in family.DATES:
            found = re.search(form, name, re.IGNORECASE)
            if not found:
                continue
            parts = found.groupdict()
            time = f"T{parts['hms']}" if parts.get("hms") else ""
            try:
                return compact_time((parts.get("ymd") or parts["yj"]) + time)
            except ValueError:
                continue
    return None


__all__ = (
    "COLLECTION_UNITS",
    "DECIBEL",
    "LINEAR",
    "PRODUCTS",
    "Band",
    "BitTest",
    "Delivered",
    "Product",
    "ProductFiles",
    "QualityBand",
    "Unused",
    "date_in_name",
    "find_product",
    "recognise",
)
