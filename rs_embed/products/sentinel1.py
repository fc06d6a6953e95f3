"""Sentinel-1 backscatter on a map grid, as linear power and in decibel.

Sources: Earth Engine's descriptions of both collections (units of measure, bands); Alaska
Satellite Facility, "HyP3 RTC Product Guide" (names); NASA, "OPERA RTC-S1 Product Specification"
(names); the Planetary Computer's description of ``sentinel-1-rtc`` (linear power, nodata -32768);
ESA, "Sentinel-1 Product Specification" (names of SAFE folders).
"""

from __future__ import annotations

import re
from dataclasses import replace

from .base import DECIBEL, LINEAR, Band, Product
from .delivery import Delivered, ProductFiles, Unused, base_name, compact_time, parents, raster_stem, time_or_unknown

_BANDS = tuple(map(Band, ("VV", "VH", "HH", "HV", "angle")))

PRODUCTS = (
    Product("COPERNICUS/S1_GRD", _BANDS, units=DECIBEL),
    Product("COPERNICUS/S1_GRD_FLOAT", _BANDS, units=LINEAR),
)

# folders as delivered ----------------------------------------------------------------------------

GAMMA = "gamma0, radiometrically terrain-corrected (RTC), where Earth Engine has sigma0 without it"
SIGMA = "sigma0, radiometrically terrain-corrected (RTC), where Earth Engine has it without"
_DECIBEL, _LINEAR = "COPERNICUS/S1_GRD", "COPERNICUS/S1_GRD_FLOAT"
#: HyP3: the letters are gamma0 or sigma0 (d), and power, decibel or amplitude (e).
_HYP3 = re.compile(
    r"(?P<id>S1[A-D]_(?:IW|EW|SM|S\d)_(?P<time>\d{8}T\d{6})_[SD][VH][PRO]_RTC\d\d_[A-Z]_(?P<d>[gs])(?P<e>[pda])[uw][nf][el][dm]"
    r"_[0-9A-F]{4})_(?P<layer>\w+)"
)
_OPERA = re.compile(
    r"(?P<id>OPERA_L2_RTC-S1_(?P<burst>T\d{3}-\d{6}-IW\d)_(?P<time>\d{8}T\d{6})Z_(?P<processed>\d{8}T\d{6})Z_(?P<satellite>S1[A-D])_\d\d_v\d+\.\d+)"
    r"_(?P<layer>\w+)",
    re.IGNORECASE,
)
#: Layers of the geometry of a burst, which are the same for all its products.
_OPERA_STATIC = re.compile(r"OPERA_L2_RTC-S1-STATIC_T\d{3}-\d{6}-IW\d_\w+_v\d+\.\d+_\w+", re.IGNORECASE)
_GRD = r"S1[A-D]_(?:IW|EW|SM|S\d)_GRD[HMF]_\w{4}_(?P<time>\d{8}T\d{6})_\d{8}T\d{6}_[0-9A-F]{6}_[0-9A-F]{6}"
#: The Planetary Computer's items, with or without the checksum of the GRD product. Its folders
#: have the name of the GRD product, and only the names of the files say that they are RTC.
_PLANETARY = re.compile(rf"(?P<id>{_GRD}(?:_[0-9A-F]{{4}})?_rtc)", re.IGNORECASE)
_PLANETARY_FOLDER = re.compile(rf"(?P<id>{_GRD}(?:_[0-9A-F]{{4}})?)(?:\.SAFE)?", re.IGNORECASE)
_PLANETARY_FILE = re.compile(
    rf"(?:(?:iw|ew|sm|s\d)-|{_PLANETARY.pattern}[._-])?(?P<layer>vv|vh|hh|hv)(?:\.rtc)?", re.IGNORECASE
)
_PLANETARY_RTC = re.compile(r"(?:iw|ew|sm|s\d)-(?P<layer>vv|vh|hh|hv)\.rtc(?P<more>.*)", re.IGNORECASE)
_POLARISATION = r"(?:.*[._-])?(VV|VH|HH|HV)(?![A-Z0-9]).*"
_SAFE = r"S1[A-D]_(IW|EW|SM|WV|S\d)_(GRD[HMF]|SLC_|OCN_|RAW_)_\w+(\.SAFE)?"
_MEASUREMENT = r"s1[a-d]-(iw|ew|sm|s\d|wv)\d?-(grd|slc)-[vh]{2}-\d{8}t\d{6}-.*"
_WAY_OUT = (
    "in radar geometry and not calibrated, which a warp by its ground control points does not correct; allowed: terrain-corrected "
    "backscatter (RTC), for example of HyP3, OPERA or the Planetary Computer"
)
_NO_IMAGE = "masks, maps of angles or previews"
DATES = (
    r"S1[A-D]_\w\w_\w{4}_\w{4}_(?P<ymd>\d{8})T(?P<hms>\d{6})_\d{8}T\d{6}",
    r"S1[A-D]_\w\w_(?P<ymd>\d{8})T(?P<hms>\d{6})_",
    r"S1[A-D]-\w{2,3}-\w{3}-\w\w-(?P<ymd>\d{8})T(?P<hms>\d{6})-",
    r"OPERA_L2_\S+?_(?P<ymd>\d{8})T(?P<hms>\d{6})Z_\d{8}T\d{6}Z",
)


def recognise(path: str, files: ProductFiles) -> Delivered | Unused | None:
    """A raster of RTC backscatter (HyP3, OPERA, Planetary Computer), or of a SAFE folder, which is
    refused; None for other files."""
    stem = raster_stem(path)
    if found := _HYP3.fullmatch(stem):
        return _read_hyp3(found)
    if found := _OPERA.fullmatch(stem):
        made = _describe(found["id"], found["layer"], found["time"], _LINEAR, GAMMA, None)
        if isinstance(made, Unused) or made is None:
            return made
        acquisition = f"{found['burst']} {found['time']} {found['satellite']}".upper()
        return replace(made, acquisition=acquisition, processing=(found["processed"],))
    if _OPERA_STATIC.fullmatch(stem):
        return Unused(stem, _NO_IMAGE)
    names = [stem, *(base_name(folder) for folder in parents(path, 3))]
    planetary = next((m for n in names if (m := _PLANETARY.match(n))), None)
    if planetary:
        layer = _PLANETARY_FILE.fullmatch(stem)
        name = layer["layer"] if layer else stem[len(planetary["id"]) + 1 :] if planetary.string == stem else stem
        return _describe(planetary["id"], name, planetary["time"], _LINEAR, GAMMA, -32768.0)
    item = next((m for n in names[1:] if (m := _PLANETARY_FOLDER.fullmatch(n))), None)
    if item and (layer := _PLANETARY_RTC.fullmatch(stem)):
        return _describe(item["id"], layer["layer"] + layer["more"], item["time"], _LINEAR, GAMMA, -32768.0)
    safe = next((n for n in names[1:] if re.fullmatch(_SAFE, n, re.IGNORECASE) and _is_safe(n, path)), None)
    if safe or re.fullmatch(_MEASUREMENT, stem, re.IGNORECASE):
        return Unused(
            safe or stem,
            f"Sentinel-1 {'SLC' if '-slc-' in stem or '_SLC_' in (safe or '') else 'GRD'}, {_WAY_OUT}",
            True,
        )
    return None


def _is_safe(name: str, path: str) -> bool:
    """The folder is a SAFE folder, rather than one with results that has its name."""
    return name.upper().endswith(".SAFE") or base_name(path.rpartition("/")[0]) == "measurement"


def _read_hyp3(found: re.Match) -> Delivered | Unused | None:
    if found["e"] == "a":
        reason = (
            "amplitude; allowed: power or dB (HyP3's options), or squares of the numbers "
            "(gdal_calc.py --calc='A*A') in a catalogue with the collection COPERNICUS/S1_GRD_FLOAT"
        )
        return Unused(found["id"], reason, True)
    collection, note = (_DECIBEL if found["e"] == "d" else _LINEAR), (GAMMA if found["d"] == "g" else SIGMA)
    return _describe(found["id"], found["layer"], found["time"], collection, note, 0.0)


def _describe(
    name: str, layer: str, time: str, collection: str, note: str, nodata: float | None
) -> Delivered | Unused | None:
    if layer.upper() in ("VV", "VH", "HH", "HV"):
        when = time_or_unknown(compact_time, time)
        return Delivered(collection, name, layer.upper(), when, nodata=nodata, integers=False, note=note)
    if re.fullmatch(_POLARISATION, layer, re.IGNORECASE):
        return None  # a file made of the delivered one: its numbers can be other ones (decibel, say)
    return Unused(name, _NO_IMAGE)
