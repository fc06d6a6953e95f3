"""PlanetScope: names of files. Earth Engine has no public collection of it, so collection and
bands are the user's.

Source: Planet, "PlanetScope Product Specification" (names of assets).
"""

from __future__ import annotations

import re

from .base import Product
from .delivery import Delivered, ProductFiles, Unused, raster_stem

PRODUCTS: tuple[Product, ...] = ()
_ITEM = r"\d{8}_\d{6}(_\d\d)?_[0-9a-f]{4}"
DATES = (r"(?<![A-Z0-9])(?P<ymd>\d{8})_(?P<hms>\d{6})(_\d\d)?_[0-9A-F]{4}_3B_",)


def recognise(path: str, files: ProductFiles) -> Delivered | Unused | None:
    """A usable data mask, which is no image; None for all other files."""
    stem = raster_stem(path)
    if re.match(rf"{_ITEM}_3B_(\w+_)?(DN_)?udm2?(_\w+)?$", stem, re.IGNORECASE):
        return Unused(stem, "a mask of usable data")
    return None
