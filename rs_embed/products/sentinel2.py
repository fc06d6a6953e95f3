"""Sentinel-2 L1C and L2A.

Sources: ESA, "Sentinel-2 Products Specification Document" (bands, ``BOA_ADD_OFFSET``, scene
classification; names and folders of products); Earth Engine's descriptions of the collections.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from xml.etree.ElementTree import Element

from .base import Band, Product, QualityBand, padded_name, value
from .delivery import (
    Delivered,
    ProductFiles,
    Unused,
    base_name,
    compact_time,
    metadata_time,
    parents,
    parse_xml,
    percent,
    raster_stem,
    time_or_unknown,
    xml_elements,
    xml_fields,
)

#: Constant that ESA adds to the numbers since processing baseline 04.00
#: (sentiwiki.copernicus.eu, S2 Products: BOA_ADD_OFFSET and RADIO_ADD_OFFSET = -1000). The
#: harmonized collections of Earth Engine do not contain it.
BASELINE_OFFSET = 1000
#: Collections without the constant.
HARMONIZED = ("COPERNICUS/S2_SR_HARMONIZED", "COPERNICUS/S2_HARMONIZED")
#: First processing baseline with the constant.
FIRST_BASELINE_WITH_OFFSET = 4.0
#: What Sen2Cor writes where a user has run it: nothing says whether its numbers have the constant.
UNKNOWN_BASELINE = 99.99
#: Value of saturated pixels (special value SATURATED of the product metadata).
SATURATED = 65535

_ALIASES = {
    "B2": ("BLUE",),
    "B3": ("GREEN",),
    "B4": ("RED",),
    "B5": ("RE1",),
    "B6": ("RE2",),
    "B7": ("RE3",),
    "B8": ("NIR", "NIR_BROAD"),
    "B8A": ("NIR_NARROW", "RE4"),
    "B11": ("SWIR1", "SWIR_1"),
    "B12": ("SWIR2", "SWIR_2"),
}
_L1C = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
#: Metres of a pixel in which a band is acquired.
RESOLUTION = {
    **dict.fromkeys(("B2", "B3", "B4", "B8"), 10),
    **dict.fromkeys(("B5", "B6", "B7", "B8A", "B11", "B12", "SCL"), 20),
    **dict.fromkeys(("B1", "B9", "B10"), 60),
}

#: Classes of the scene classification of Sen2Cor. Snow stays: cloud edges and bright roofs are in
#: it, but without it winters have no pixels.
SCENE_CLASSIFICATION = QualityBand(
    "SCL",
    {
        "no_data": value(0),
        "saturated_or_defective": value(1),
        "dark": value(2),
        "cloud_shadow": value(3),
        "vegetation": value(4),
        "bare": value(5),
        "water": value(6),
        "unclassified": value(7),
        "cloud_medium_probability": value(8),
        "cloud_high_probability": value(9),
        "thin_cirrus": value(10),
        "snow": value(11),
    },
    default=(
        "no_data",
        "saturated_or_defective",
        "cloud_shadow",
        "cloud_medium_probability",
        "cloud_high_probability",
        "thin_cirrus",
    ),
    nodata=0,
)


def _spectral(name: str) -> Band:
    return Band(name, padded_name(name), _ALIASES.get(name, ()), nodata=0.0)


_LEVEL_1 = tuple(map(_spectral, _L1C))
_LEVEL_2 = (
    *(_spectral(name) for name in _L1C if name != "B10"),
    Band("AOT"),
    Band("WVP"),
    Band("SCL", nodata=0.0, quality=True),
)


def _product(collection: str, bands: tuple[Band, ...], quality: QualityBand | None) -> Product:
    return Product(
        collection,
        bands,
        "CLOUDY_PIXEL_PERCENTAGE",
        quality,
        "DN (reflectance x 10000)",
        SATURATED,
        cloud_score=True,
    )


PRODUCTS = (
    _product("COPERNICUS/S2_SR_HARMONIZED", _LEVEL_2, SCENE_CLASSIFICATION),
    _product("COPERNICUS/S2_SR", _LEVEL_2, SCENE_CLASSIFICATION),
    _product("COPERNICUS/S2_HARMONIZED", _LEVEL_1, None),
    _product("COPERNICUS/S2", _LEVEL_1, None),
)

# folders as delivered ----------------------------------------------------------------------------

_PRODUCT = (
    r"(?P<satellite>S2[A-Z])_MSI(?P<level>L1C|L2A)_(?P<time>\d{8}T\d{6})_N(?P<baseline>\d{4})_R\d{3}"
    r"_(?P<tile>T\d\d[A-Z]{3})_(?P<processing>\d{8}T\d{6})(\.SAFE)?"
)
#: The time of a product before 2016 in its name.
_OLD_PRODUCT = r"S2[A-Z]_OPER_PRD_MSIL\w+_V(?P<time>\d{8}T\d{6})_"
#: Granules of products: since 2016, and before.
_GRANULE = r"(?P<level>L1C|L2A)_(?P<tile>T\d\d[A-Z]{3})_A\d{6}_(?P<time>\d{8}T\d{6})"
_OLD_GRANULE = (
    r"S2[A-Z]_OPER_MSI_(?P<level>L1C|L2A)_TL_\w{4}_\d{8}T\d{6}_A\d{6}_(?P<tile>T\d\d[A-Z]{3})"
    r"_N(?P<major>\d\d)\.(?P<minor>\d\d)"
)
_METADATA = r"MTD_MSI(L1C|L2A)\.xml|S2[A-Z]_OPER_MTD_SAF(L1C|L2A)_\w+\.xml"
_TILE_METADATA = r"MTD_TL\.xml|S2[A-Z]_OPER_MTD_(L1C|L2A)_TL_\w+\.xml"
_BAND_FILE = r"(?:.*_)?(?P<band>B0[1-9]|B1[0-2]|B8A|AOT|WVP|SCL)(?:_(?P<metres>10|20|60)m)?"
_AUXILIARY = ("QI_DATA", "AUX_DATA", "HTML", "DATASTRIP", "REP_INFO", "INSPIRE")
_AUXILIARY_FILE = (
    r"MSK_(CLDPRB|SNWPRB|DETFOO|QUALIT|CLASSI|CLOUDS|DEFECT|NODATA|SATURA|TECQUA)"
    r"|(L2A_)?T\d\d[A-Z]{3}_\d{8}T\d{6}_(TCI|PVI)"
)
_NO_IMAGE = "a quality mask, a preview or auxiliary data"
#: Order of ``band_id`` in the metadata.
_BAND_IDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
_COLLECTIONS = {"L1C": "COPERNICUS/S2_HARMONIZED", "L2A": "COPERNICUS/S2_SR_HARMONIZED"}
#: Collections that contain the numbers as delivered.
AS_DELIVERED = ("COPERNICUS/S2", "COPERNICUS/S2_SR")
_TILE_FILE = r"(L2A_)?(?P<tile>T\d\d[A-Z]{3})_(?P<time>\d{8}T\d{6})_"
#: Files of tiles whose folders do not say what product they are of.
LOOSE_FILE = r"(L2A_)?T\d\d[A-Z]{3}_\d{8}T\d{6}_(B\d\d|B8A|SCL)(_\d\dm)?\."
DATES = (
    r"S2[A-Z]_MSIL\w\w_(?P<ymd>\d{8})T(?P<hms>\d{6})_N\d{4}",
    r"S2[A-Z]_OPER_\w+_V(?P<ymd>\d{8})T(?P<hms>\d{6})_",
    # Earth Engine's system:index
    r"(?<![A-Z0-9])(?P<ymd>\d{8})T(?P<hms>\d{6})_\d{8}T\d{6}_T\d\d[A-Z]{3}",
    r"(?<![A-Z0-9])T\d\d[A-Z]{3}_(?P<ymd>\d{8})T(?P<hms>\d{6})(?![0-9])",
)


def recognise(path: str, files: ProductFiles) -> Delivered | Unused | None:
    """A raster of a SAFE folder, complete or in part, whatever the format of its images; None for
    other files, and where nothing says the processing baseline."""
    root, granule = _find_root(path, files)
    if root is None:
        loose = re.match(_AUXILIARY_FILE, base_name(path), re.IGNORECASE) or "/QI_DATA/" in path
        return Unused("Sentinel-2", _NO_IMAGE) if loose else None
    inside = path[len(root) + 1 :]
    folders = {f.upper() for f in inside.split("/")[:-1]}
    found = re.fullmatch(_BAND_FILE, raster_stem(path), re.IGNORECASE)
    product = files.once(_read_product, root, granule)
    of_file = re.match(_TILE_FILE, base_name(path), re.IGNORECASE)
    names = (of_file["tile"].upper(), of_file["time"].upper()) if of_file else None
    if folders & set(_AUXILIARY) or re.match(_AUXILIARY_FILE, base_name(path), re.IGNORECASE):
        return Unused("Sentinel-2", _NO_IMAGE)
    if found is None:
        return Unused("Sentinel-2", _NO_IMAGE) if "IMG_DATA" in folders else None
    if product is None or (names and not _is_of(product, *names)):
        return None  # a file of another product beside this one's metadata
    file, metres = found["band"].upper(), int(found["metres"] or 0)
    collection = _COLLECTIONS[product["level"]]
    band = next((b for b in _bands(collection) if (b.file or b.name) == file), None)
    if band is None:
        return Unused(product["scene"], "no band of the collection")
    spectral = bool(band.file)
    return Delivered(
        collection,
        product["scene"],
        band.name,
        product["datetime"] or time_or_unknown(compact_time, names[1] if names else None),
        product["source"],
        product["cloud_cover"],
        scale=10000 / product["quantification"] if spectral else 1.0,
        subtract=product["subtract"][band.name] if spectral else 0,
        nodata=band.nodata,
        copy=copy_order(band.name, metres),
        acquisition=product["acquisition"],
        processing=product["processing"],
        remark=product["remark"],
    )


def copy_order(band: str, metres: int) -> tuple[int, ...]:
    """Sort key of a band's files in several pixel sizes (0: unknown): first the one of the
    instrument, then coarser ones, whose numbers are means of it, then finer ones."""
    native = RESOLUTION.get(band, 10)
    return metres not in (0, native), metres < native, metres


def _is_of(product: dict, tile: str, time: str) -> bool:
    """Whether a file is of a product by its tile and the start of its pass. A pass takes less than
    two hours, and a granule alone has the time of its tile."""
    if product["named"]:
        return product["named"] == (tile, time)
    start = time_or_unknown(compact_time, time)
    if product["tile"] not in ("", tile) or not start or not product["datetime"]:
        return product["tile"] in ("", tile)
    delay = dt.datetime.fromisoformat(product["datetime"]) - dt.datetime.fromisoformat(start)
    return abs(delay) < dt.timedelta(hours=2)


def _bands(collection: str) -> tuple[Band, ...]:
    return _LEVEL_1 if collection == _COLLECTIONS["L1C"] else _LEVEL_2


def _find_root(path: str, files: ProductFiles) -> tuple[str | None, str | None]:
    """The folder of the product, or of a granule alone; and the folder of the granule."""
    granule = None
    for folder in parents(path):
        name = base_name(folder)
        if granule is None and (_parse_granule(name) or files.find(folder, _TILE_METADATA)):
            granule = folder
        if re.fullmatch(_PRODUCT, name, re.IGNORECASE) or re.match(_OLD_PRODUCT, name) or files.find(folder, _METADATA):
            return folder, granule
    return granule, granule


def _parse_granule(name: str) -> re.Match | None:
    return re.fullmatch(_GRANULE, name) or re.fullmatch(_OLD_GRANULE, name)


def _read_product(root: str, granule: str | None, files: ProductFiles) -> dict | None:
    """What names and metadata say about a product; None where its level or baseline is unknown."""
    named = re.fullmatch(_PRODUCT, base_name(root), re.IGNORECASE)
    of_granule = _parse_granule(base_name(granule)) if granule else None
    main_file = files.find(root, _METADATA)
    tile_file = next((f for g in (granule, root) if g and (f := files.find(g, _TILE_METADATA))), None)
    main_xml, tile_xml = (parse_xml(files.text(f)) if f else None for f in (main_file, tile_file))
    if main_xml is not None and not main_xml.tag.endswith("User_Product"):
        main_xml = None  # another document
    main, tile = xml_fields(main_xml), xml_fields(tile_xml)
    if named is None and (uri := re.fullmatch(_PRODUCT, main.get("PRODUCT_URI", ""), re.IGNORECASE)):
        named = uri
    tile_id = re.search(r"_MSI_(L1C|L2A)_TL_.*?(T\d\d[A-Z]{3})?_N(\d\d\.\d\d)$", tile.get("TILE_ID", ""), re.ASCII)
    level = next(
        (
            text.upper()
            for text in (
                main_file and re.search(r"L1C|L2A", base_name(main_file), re.IGNORECASE)[0],  # type: ignore[index]
                named and named["level"],
                of_granule and of_granule["level"],
                tile_id and tile_id[1],
            )
            if text
        ),
        None,
    )
    baseline = _read_baseline(main, named, of_granule, tile_id)
    by_baseline = None if baseline is None else BASELINE_OFFSET if baseline >= FIRST_BASELINE_WITH_OFFSET else 0
    stated = _read_numbers(main_xml, main, level)
    if level is None or (stated is None and by_baseline is None):
        return None
    quantification, subtract = stated or (10000.0, dict.fromkeys(_BAND_IDS, by_baseline))
    damaged = [base_name(f) for f, xml in ((main_file, main_xml), (tile_file, tile_xml)) if f and xml is None]
    old_name = re.match(_OLD_PRODUCT, base_name(root))
    time, source = _read_time(main, tile, named or old_name or of_granule)
    scene = named.string.upper().removesuffix(".SAFE") if named else f"{base_name(root)}_{time}"
    tile_name = (tile_id and tile_id[2]) or (of_granule["tile"] if of_granule else "")
    if named is None and granule == root and of_granule is None:  # a granule in a folder of any name
        scene = f"{base_name(root)}_{tile_name}_{time}"
    if granule and granule != root and len(files.names(f"{root}/GRANULE")) > 1:  # products before 2016
        scene += "/" + base_name(granule)
    if main_xml is not None and stated is None:
        damaged.append(base_name(main_file or ""))
    remarks = [f"{', '.join(damaged)} cannot be read, so the name of the product counts"] if damaged else []
    if stated and by_baseline and not any(subtract.values()):
        remarks.append(f"its metadata has baseline {baseline:05.2f} and no constant, so nothing is subtracted")
    return {
        "scene": scene,
        "level": level,
        "datetime": time,
        "source": source,
        "cloud_cover": _first(
            percent(tile.get("CLOUDY_PIXEL_PERCENTAGE")), percent(main.get("Cloud_Coverage_Assessment"))
        ),
        "quantification": quantification,
        "subtract": subtract,
        "tile": tile_name,
        "named": named and (named["tile"].upper(), named["time"].upper()),
        # tile and start of the pass: one acquisition, which can have been processed several times
        "acquisition": f"{level} {named['tile']} {named['time']}".upper() if named else "",
        # a processing by a user is never later than one of ESA
        "processing": ("" if named["baseline"] == "9999" else named["baseline"],) if named else (),
        "remark": "; ".join(remarks),
    }


def _first(*values: float | None) -> float | None:
    return next((v for v in values if v is not None), None)


def _read_numbers(
    root: Element | None, fields: dict[str, str], level: str | None
) -> tuple[float, dict[str, int]] | None:
    """The quantification value and the constant of each band in the metadata of a product; None
    where it is missing or damaged. Without elements for it, the constant is 0: products from
    baseline 04.00 on have them."""
    if root is None:
        return None
    elements = xml_elements(root, "RADIO_ADD_OFFSET" if level == "L1C" else "BOA_ADD_OFFSET")
    subtract = dict.fromkeys(_BAND_IDS, 0)
    try:
        quantification = float(fields.get("BOA_QUANTIFICATION_VALUE") or fields.get("QUANTIFICATION_VALUE") or 10000)
        for element in elements:
            number = (element.get("band_id") or "").strip()
            if not re.fullmatch(r"[0-9]{1,2}", number):
                return None
            subtract[_BAND_IDS[int(number)]] = -round(float(element.text or ""))
    except (ValueError, OverflowError, IndexError):
        return None
    known = quantification > 0 and math.isfinite(quantification) and math.isfinite(10000 / quantification)
    return (quantification, subtract) if known and all(0 <= v < SATURATED for v in subtract.values()) else None


def _read_baseline(
    main: dict[str, str], named: re.Match | None, of_granule: re.Match | None, tile_id: re.Match | None
) -> float | None:
    """The processing baseline: of the metadata, else of a name; None where it is unknown."""
    texts = (
        main.get("PROCESSING_BASELINE"),
        tile_id and tile_id[3],
        named and f"{named['baseline'][:2]}.{named['baseline'][2:]}",
        of_granule and "major" in of_granule.groupdict() and f"{of_granule['major']}.{of_granule['minor']}",
    )
    found = [float(text) for text in texts if text and re.fullmatch(r"[0-9]{1,2}\.[0-9]{1,2}", text)]
    return None if not found or UNKNOWN_BASELINE in found else found[0]


def _read_time(main: dict[str, str], tile: dict[str, str], named: re.Match | None) -> tuple[str, str]:
    """Time of acquisition and where it was found: of the tile, as in Earth Engine
    (``system:time_start``); else of the start of the pass."""
    for fields, key in ((tile, "SENSING_TIME"), (main, "PRODUCT_START_TIME"), (main, "DATATAKE_SENSING_START")):
        if "T" in (time := time_or_unknown(metadata_time, fields.get(key))):
            return time, f"metadata of the product ({key})"
    if named and (time := time_or_unknown(compact_time, named.groupdict().get("time"))):
        return time, "name of the product"
    return "", "name of the file"
