"""Harmonized Landsat and Sentinel-2 (HLS) version 2.

Source: NASA, "HLS Product User Guide" 2.0 (bands, scale 0.0001, fill -9999, Fmask). Earth Engine's
values are reflectances.
"""

from __future__ import annotations

import re

from .base import Band, BitTest, Product, QualityBand, bit, padded_name
from .delivery import (
    Delivered,
    ProductFiles,
    Unused,
    base_name,
    compact_time,
    metadata_fields,
    parse_xml,
    percent,
    raster_stem,
    time_or_unknown,
    xml_elements,
    xml_fields,
)

_SCALE, _THERMAL_SCALE, _NODATA = 0.0001, 0.01, -9999.0
_L30 = {
    "B1": ("COASTAL",),
    "B2": ("BLUE",),
    "B3": ("GREEN",),
    "B4": ("RED",),
    "B5": ("NIR", "NIR_NARROW"),
    "B6": ("SWIR1", "SWIR_1"),
    "B7": ("SWIR2", "SWIR_2"),
    "B9": ("CIRRUS",),
    "B10": (),
    "B11": (),
}
_S30 = {
    "B1": ("COASTAL",),
    "B2": ("BLUE",),
    "B3": ("GREEN",),
    "B4": ("RED",),
    "B5": ("RE1",),
    "B6": ("RE2",),
    "B7": ("RE3",),
    "B8": ("NIR_BROAD",),
    # the band that corresponds to B5 of L30
    "B8A": ("NIR", "NIR_NARROW"),
    "B9": (),
    "B10": ("CIRRUS",),
    "B11": ("SWIR1", "SWIR_1"),
    "B12": ("SWIR2", "SWIR_2"),
}
_THERMAL = {"NASA/HLS/HLSL30/v002": ("B10", "B11")}

FMASK = QualityBand(
    "Fmask",
    {
        "cloud": bit(1),
        "adjacent_to_cloud_or_shadow": bit(2),
        "cloud_shadow": bit(3),
        "snow": bit(4),
        "water": bit(5),
        "high_aerosol": BitTest(6, 2, (3,)),
    },
    default=("cloud", "adjacent_to_cloud_or_shadow", "cloud_shadow"),
    nodata=255,
)


def _product(collection: str, names: dict[str, tuple[str, ...]]) -> Product:
    thermal = _THERMAL.get(collection, ())
    bands = tuple(
        Band(
            name,
            padded_name(name),
            aliases,
            _THERMAL_SCALE if name in thermal else _SCALE,
            nodata=_NODATA,
        )
        for name, aliases in names.items()
    )
    quality = Band("Fmask", nodata=255.0, quality=True)
    return Product(collection, (*bands, quality), "CLOUD_COVERAGE", FMASK, "reflectance")


PRODUCTS = (_product("NASA/HLS/HLSL30/v002", _L30), _product("NASA/HLS/HLSS30/v002", _S30))

# folders as delivered ----------------------------------------------------------------------------

_FILE = re.compile(
    r"(?P<id>HLS\.(?P<sensor>[LS]30)\.(?P<tile>T\d\d[A-Z]{3})\.(?P<time>\d{7}T\d{6})\.v(?P<version>\d)\.\d)\.(?P<layer>\w+)",
    re.IGNORECASE,
)
_ANGLES = ("SAA", "SZA", "VAA", "VZA")
DATES = (
    r"HLS\.[LS]30\.T\d\d[A-Z]{3}\.(?P<yj>\d{7})T(?P<hms>\d{6})",
    r"HLS[LS]30\.\d{3}_\w+_doy(?P<yj>\d{7})",  # AppEEARS
)


def recognise(path: str, files: ProductFiles) -> Delivered | Unused | None:
    """A raster of an HLS product; None for other files."""
    stem, folder = raster_stem(path), base_name(path.rpartition("/")[0])
    found = _FILE.fullmatch(stem) or _FILE.fullmatch(f"{folder}.{stem}")
    if found is None:
        return None
    if found["version"] != "2":
        return Unused(found["id"], "HLS of another version; allowed: version 2", True)
    layer = found["layer"].upper()
    if layer in _ANGLES:
        return Unused(found["id"], "angles")
    product = next(p for p in PRODUCTS if p.collection == f"NASA/HLS/HLS{found['sensor'].upper()}/v002")
    band = next((b for b in product.bands if (b.file or b.name).upper() == layer), None)
    if band is None:
        return None
    return Delivered(
        product.collection,
        found["id"],
        band.name,
        time_or_unknown(compact_time, found["time"]),
        cloud_cover=files.once(_read_cloud_cover, path.rpartition("/")[0], found["id"]),
        scale=band.scale,
        offset=band.offset,
        nodata=band.nodata,
    )


def _read_cloud_cover(folder: str, product: str, files: ProductFiles) -> float | None:
    """Percent, from the metadata of CMR or the STAC item beside the product; None without them."""
    if path := files.entry(folder, f"{product}.cmr.xml") or files.entry(folder, f"{product}.xml"):
        for attribute in xml_elements(parse_xml(files.text(path)), "AdditionalAttribute"):
            fields = xml_fields(attribute)
            if fields.get("Name") == "CLOUD_COVERAGE":
                return percent(fields.get("Value"))
    if path := files.entry(folder, f"{product}_stac.json"):
        return percent(metadata_fields(files.text(path)).get("eo:cloud_cover"))
    return None
