"""Landsat Collection 2: Level-2 of all missions, and Level-1.

Sources: USGS, "Landsat Collection 2 Level-2 Science Product Guide" (bands, fill value, QA_PIXEL),
"Landsat Collections: file naming convention"; Earth Engine's descriptions of the collections,
whose values are the numbers of the files.
"""

from __future__ import annotations

import re

from .base import Band, BitTest, Product, QualityBand, bit
from .delivery import (
    Delivered,
    ProductFiles,
    Unused,
    base_name,
    compact_time,
    metadata_fields,
    metadata_time,
    parents,
    percent,
    raster_stem,
    time_or_unknown,
)

#: Colours by the number of the band. The same number is another colour on TM and ETM+ than on OLI.
_OLI = {
    1: ("COASTAL",),
    2: ("BLUE",),
    3: ("GREEN",),
    4: ("RED",),
    5: ("NIR",),
    6: ("SWIR1", "SWIR_1"),
    7: ("SWIR2", "SWIR_2"),
}
_TM = {1: ("BLUE",), 2: ("GREEN",), 3: ("RED",), 4: ("NIR",), 5: ("SWIR1", "SWIR_1"), 7: ("SWIR2", "SWIR_2")}
#: Mission as in Earth Engine's ids -> aliases by band, and the band of surface temperature.
MISSIONS = {
    "LT04": (_TM, "ST_B6"),
    "LT05": (_TM, "ST_B6"),
    "LE07": (_TM, "ST_B6"),
    "LC08": (_OLI, "ST_B10"),
    "LC09": (_OLI, "ST_B10"),
}

_HIGH = (2, 3)  # of a confidence of two bits: 0 none, 1 low, 2 medium, 3 high
_CLASSES = {
    "fill": bit(0),
    "dilated_cloud": bit(1),
    "cirrus": bit(2),
    "cloud": bit(3),
    "cloud_shadow": bit(4),
    "snow": bit(5),
    "clear": bit(6),
    "water": bit(7),
    "cloud_confidence": BitTest(8, 2, _HIGH),
    "cloud_shadow_confidence": BitTest(10, 2, _HIGH),
    "snow_confidence": BitTest(12, 2, _HIGH),
    "cirrus_confidence": BitTest(14, 2, _HIGH),
}
PIXEL_QUALITY = QualityBand(
    "QA_PIXEL", _CLASSES, default=("fill", "dilated_cloud", "cirrus", "cloud", "cloud_shadow"), nodata=1
)


def _level_2(mission: str, tier: str) -> Product:
    colours, temperature = MISSIONS[mission]
    oli = colours is _OLI
    bands = (
        *(Band(f"SR_B{n}", aliases=names, nodata=0.0) for n, names in colours.items()),
        Band(temperature, nodata=0.0),
        *(
            Band(f"ST_{name}", nodata=-9999.0)
            for name in ("ATRAN", "CDIST", "DRAD", "EMIS", "EMSD", "QA", "TRAD", "URAD")
        ),
        *([Band("SR_QA_AEROSOL", quality=True)] if oli else []),
        *([] if oli else [Band("SR_ATMOS_OPACITY", nodata=-9999.0), Band("SR_CLOUD_QA", quality=True)]),
        Band("QA_PIXEL", nodata=1.0, quality=True),
        Band("QA_RADSAT", quality=True),
    )
    units = "DN (surface reflectance = DN x 2.75e-5 - 0.2)"
    return Product(f"LANDSAT/{mission}/C02/{tier}_L2", bands, "CLOUD_COVER", PIXEL_QUALITY, units)


def _level_1(mission: str, tier: str) -> Product:
    colours, _ = MISSIONS[mission]
    names: dict[str, tuple[str, ...]] = {f"B{n}": aliases for n, aliases in colours.items()}
    if mission in ("LC08", "LC09"):
        more: tuple[str, ...] = ("B8", "B9", "B10", "B11")
    elif mission == "LE07":
        more = ("B6_VCID_1", "B6_VCID_2", "B8")
    else:
        more = ("B6",)
    bands = (
        *(Band(name, aliases=names.get(name, ()), nodata=0.0) for name in sorted({*names, *more}, key=_number)),
        Band("QA_PIXEL", nodata=1.0, quality=True),
        Band("QA_RADSAT", quality=True),
    )
    return Product(f"LANDSAT/{mission}/C02/{tier}", bands, "CLOUD_COVER", PIXEL_QUALITY, "DN (radiance)")


def _number(name: str) -> tuple[int, str]:
    return int(name[1:].partition("_")[0]), name


PRODUCTS = tuple(make(mission, tier) for make in (_level_2, _level_1) for mission in MISSIONS for tier in ("T1", "T2"))

# folders as delivered ----------------------------------------------------------------------------

_FILE = re.compile(
    r"(?P<id>L(?P<sensor>[COTEM])(?P<number>0[1-9])_(?P<level>L1TP|L1GT|L1GS|L2SP|L2SR)_\d{6}"
    r"_(?P<time>\d{8})_(?P<processed>\d{8})_(?P<version>\d\d)_(?P<tier>T1|T2|RT))_(?P<layer>\w+)",
    re.IGNORECASE,
)
#: Layers of angles, the gap masks of Landsat 7 and, since they are pictures, previews.
_AUXILIARY = re.compile(r"(SAA|SZA|VAA|VZA|SEA?|GM|.*thumb.*|.*refl.*|.*browse.*)(_\w+)?", re.IGNORECASE)
_SENSORS = {"C": "LC", "O": "LC", "E": "LE", "T": "LT"}
DATES = (
    r"L[COTEM]0[1-9]_L[12]\w{2}_\d{6}_(?P<ymd>\d{8})_\d{8}",
    r"L[COTEM]0[1-9]_(CU|AK|HI)_\d{6}_(?P<ymd>\d{8})_\d{8}",  # US Analysis Ready Data
    r"L[COTEM]0[1-9]_\d{6}_(?P<ymd>\d{8})",  # Earth Engine's system:index
    r"(?<![A-Z0-9])L[COTEM]\d\d{6}(?P<yj>\d{7})[A-Z]{3}\d\d",  # before Collection 1
)


def recognise(path: str, files: ProductFiles) -> Delivered | Unused | None:
    """A raster of a Collection 2 product (L1, L2SP, L2SR); None for other files."""
    stem = raster_stem(path)
    folder = next((name for name in map(base_name, parents(path, 2)) if name.lower() != "gap_mask"), "")
    found = _FILE.fullmatch(stem) or _FILE.fullmatch(f"{folder}_{stem}")
    if found is None:
        return None
    name = found["id"].upper()
    mission = _SENSORS.get(found["sensor"].upper(), "") + found["number"]
    if mission not in MISSIONS or found["version"] != "02" or (mission == "LT08"):
        what = f"Landsat {found['sensor'].upper()}{found['number']} of Collection {found['version']}"
        return Unused(name, f"{what}, which is not described here; allowed: Collection 2 of TM, ETM+ and OLI", True)
    tier = found["tier"].upper()
    level = found["level"].upper()
    product = (_level_2 if level.startswith("L2") else _level_1)(mission, "T1" if tier == "RT" else tier)
    band = next((b for b in product.bands if b.name == found["layer"].upper()), None)
    if band is None:
        return Unused(name, "angles, masks of gaps or previews") if _AUXILIARY.fullmatch(found["layer"]) else None
    fields = files.once(_read_metadata, path.rpartition("/")[0], name)
    acquired = time_or_unknown(metadata_time, fields.get("DATE_ACQUIRED"))[:10]
    day = acquired or time_or_unknown(compact_time, found["time"])
    return Delivered(
        product.collection + ("_RT" if tier == "RT" else ""),
        name,
        band.name,
        time_or_unknown(metadata_time, f"{day}T{fields.get('SCENE_CENTER_TIME', '')}") or day,
        "metadata of the product (MTL)" if acquired else "name of the product",
        percent(fields.get("CLOUD_COVER")),
        nodata=band.nodata,
        # L2SP is L2SR with temperature; of one level and tier, USGS delivers the latest product
        acquisition=f"{level[:2]} {name.split('_')[2]} {found['time']} {mission}",
        processing=("1" if level == "L2SP" else "0", found["processed"], level),
    )


def _read_metadata(folder: str, product: str, files: ProductFiles) -> dict[str, str]:
    """Fields of the MTL file of a product, in the form that is there."""
    for suffix in ("json", "xml", "txt"):
        path = files.entry(folder, f"{product}_MTL.{suffix}")
        if path and (fields := metadata_fields(files.text(path))):
            return fields
    return {}
