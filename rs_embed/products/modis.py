"""MODIS surface reflectance: daily (09GA) and of 8 days (09A1).

Source: LP DAAC, "MODIS Surface Reflectance User's Guide", collection 6.1 (bands, fill -28672,
state bits). Earth Engine's values are the numbers of the files.
"""

from __future__ import annotations

import re

from .base import Band, BitTest, Product, QualityBand, bit
from .delivery import Delivered, ProductFiles, Unused, compact_time, raster_stem, time_or_unknown

_NODATA = -28672.0
#: Colours of bands 1 to 7.
_ALIASES = {1: ("RED",), 2: ("NIR",), 3: ("BLUE",), 4: ("GREEN",), 6: ("SWIR1", "SWIR_1"), 7: ("SWIR2", "SWIR_2")}
_CLASSES = {
    "cloudy": BitTest(0, 2, (1,)),
    "mixed": BitTest(0, 2, (2,)),
    "cloud_shadow": bit(2),
    "high_aerosol": BitTest(6, 2, (3,)),
    "cirrus": BitTest(8, 2, (2, 3)),
    "internal_cloud": bit(10),
    "fire": bit(11),
    "snow": bit(12),
    "adjacent_to_cloud": bit(13),
    "internal_snow": bit(15),
}
_DEFAULT = ("cloudy", "mixed", "cloud_shadow", "cirrus", "internal_cloud")


def _product(collection: str, state: str) -> Product:
    bands = tuple(Band(f"sur_refl_b{n:02}", aliases=_ALIASES.get(n, ()), nodata=_NODATA) for n in range(1, 8))
    quality = QualityBand(state, _CLASSES, _DEFAULT, nodata=65535)
    units = "DN (surface reflectance x 10000)"
    return Product(collection, (*bands, Band(state, nodata=65535.0, quality=True)), None, quality, units)


PRODUCTS = tuple(
    _product(f"MODIS/061/{platform}{name}", state)
    for name, state in (("09GA", "state_1km"), ("09A1", "StateQA"))
    for platform in ("MOD", "MYD")
)

# GeoTIFFs of the products ------------------------------------------------------------------------

#: Names of the delivered file with the layer at the end, and those of AppEEARS.
_FILES = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        r"(?P<id>(?P<granule>(?P<product>M[OY]D09(?:GA|A1))\.A(?P<time>\d{7})\.h\d\dv\d\d)\.(?P<version>\d{3})"
        r"(?:\.(?P<production>\d{13}))?)"
        r"(?:[._](?P<layer>\w+))?",
        r"(?P<product>M[OY]D09(?:GA|A1))\.(?P<version>\d{3})_(?P<layer>\w+)_doy(?P<time>\d{7})(?:\d{6})?_(?P<id>aid\d+)",
    )
)
#: Layers of the products that are neither reflectance nor state.
_AUXILIARY = re.compile(
    r"\w*(qc_\w+|szen|vzen|raz|zenith|azimuth|day_of_year|num_obs\w*|orbit\w*|granule\w*|obscov\w*|iobs\w*|q_scan\w*|gflags"
    r"|range)(_\d)?",
    re.IGNORECASE,
)
DATES = (
    # all products of the LP DAAC, also those of VIIRS
    r"(?<![A-Z0-9])(M[OCY]D|V[NJ]P|VJ1|VJ2)\w{2,8}\.A(?P<yj>\d{7})\.",
    r"\.\d{3}_\w+_doy(?P<yj>\d{7})(\d{6})?_aid\d+",  # AppEEARS
)


def recognise(path: str, files: ProductFiles) -> Delivered | Unused | None:
    """A GeoTIFF of a layer, or of several whose descriptions name them; None for other files."""
    found = next((m for form in _FILES if (m := form.fullmatch(raster_stem(path)))), None)
    if found is None:
        return None
    product, layer = found["product"].upper(), found["layer"] or ""
    known = next(p for p in PRODUCTS if p.collection == f"MODIS/061/{product}")
    scene = (
        found["id"]
        if found["id"].upper().startswith("M")
        else f"{product}.{found['version']}_doy{found['time']}_{found['id']}"
    )
    name = _name_layer(product, layer) if layer else ""
    if name is None:
        return Unused(scene, "an auxiliary layer") if _AUXILIARY.fullmatch(layer) else None

    def find_band(text: str) -> Band | None:
        return known.band.get(_name_layer(product, text) or "")

    production = found.groupdict().get("production") or ""
    return Delivered(
        f"MODIS/{found['version']}/{product}",
        scene,
        name,
        time_or_unknown(compact_time, found["time"]),
        nodata=known.band[name].nodata if name else None,
        acquisition=found["granule"].upper() if production else "",
        processing=(production,),
        find_band=find_band,
    )


def _name_layer(product: str, text: str) -> str | None:
    """The band of the collection that a name of a layer means; None for another layer."""
    band = re.fullmatch(r"(?:sur_refl_)?b0?([1-7])(?:_1)?", text, re.IGNORECASE)
    if band:
        return f"sur_refl_b0{band[1]}"
    if re.fullmatch(r"(sur_refl_)?state(_500m|_1km|QA)?(_1)?", text, re.IGNORECASE):
        return "state_1km" if product.endswith("GA") else "StateQA"
    return None
