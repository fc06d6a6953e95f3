"""Known STAC services: which of their collections correspond to Earth Engine's, and how their
values are converted.

Sources: for Earth Search its documentation (github.com/Element84/earth-search: README.md,
docs/collections/) and the packages that make its items (github.com/stactools-packages/sentinel2:
constants.py; .../landsat: fragments/); for the Planetary Computer its collection documents
(github.com/microsoft/planetary-computer-tasks: datasets/*/collection/). The tables were not tested
against the services. Thermal bands of HLS and Sentinel-1 GRD (see ``_RADAR``) are left out.
Scales and nodata values are those of the products (``rs_embed/products``).
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from ...errors import ModelError
from ...products import PRODUCTS
from .mappings import CollectionMapping, Service

#: Asset names of Sentinel-2 items from stactools-sentinel2 (BANDS_TO_ASSET_NAME).
_S2_COMMON = {
    "B1": "coastal",
    "B2": "blue",
    "B3": "green",
    "B4": "red",
    "B5": "rededge1",
    "B6": "rededge2",
    "B7": "rededge3",
    "B8": "nir",
    "B8A": "nir08",
    "B9": "nir09",
    "B11": "swir16",
    "B12": "swir22",
    "AOT": "aot",
    "WVP": "wvp",
    "SCL": "scl",
}
#: Asset names on the Planetary Computer.
_NUMBERED = {b.name: b.file for b in PRODUCTS["COPERNICUS/S2_SR_HARMONIZED"].bands if b.file}
_S2_NUMBERED = _NUMBERED | {"AOT": "AOT", "WVP": "WVP", "SCL": "SCL"}

#: Landsat Collection 2 Level-2: assets of the bands as in stactools-landsat; values are those of
#: Earth Engine (scale and offset are not applied in either).
_OLI = {
    "SR_B1": "coastal",
    "SR_B2": "blue",
    "SR_B3": "green",
    "SR_B4": "red",
    "SR_B5": "nir08",
    "SR_B6": "swir16",
    "SR_B7": "swir22",
    "ST_B10": "lwir11",
    "SR_QA_AEROSOL": "qa_aerosol",
    "QA_PIXEL": "qa_pixel",
    "QA_RADSAT": "qa_radsat",
}
_TM = {
    "SR_B1": "blue",
    "SR_B2": "green",
    "SR_B3": "red",
    "SR_B4": "nir08",
    "SR_B5": "swir16",
    "SR_B7": "swir22",
    "ST_B6": "lwir",
    "SR_ATMOS_OPACITY": "atmos_opacity",
    "SR_CLOUD_QA": "cloud_qa",
    "QA_PIXEL": "qa_pixel",
    "QA_RADSAT": "qa_radsat",
}


def _mapping(collection: str, assets: dict[str, str], **more: Any) -> CollectionMapping:
    """A collection whose files are those of the product, as cloud-optimized GeoTIFFs that contain
    their masks and nodata values."""
    return CollectionMapping(collection, assets, known=True, side_files=False, **more)


def _landsat() -> dict[str, tuple[CollectionMapping, ...]]:
    mappings: dict[str, tuple[CollectionMapping, ...]] = {}
    for short, platform, assets in (
        ("LC09", "landsat-9", _OLI),
        ("LC08", "landsat-8", _OLI),
        ("LE07", "landsat-7", _TM),
        ("LT05", "landsat-5", _TM),
        ("LT04", "landsat-4", _TM),
    ):
        for tier in ("T1", "T2"):
            required = {"platform": platform, "landsat:collection_category": tier}
            mappings[f"LANDSAT/{short}/C02/{tier}_L2"] = (_mapping("landsat-c2-l2", assets, required=required),)
    return mappings


#: HLS v2; scale and fill value are those of the product.
_HLS_S30 = _NUMBERED | {"B10": "B10", "Fmask": "Fmask"}
_HLS_L30 = {b: _NUMBERED[b] for b in ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B9")} | {"Fmask": "Fmask"}
#: MODIS 09A1 (stactools-modis): the reflectances have Earth Engine's names.
_MODIS = {f"sur_refl_b{n:02}": f"sur_refl_b{n:02}" for n in range(1, 8)} | {"StateQA": "sur_refl_state_500m"}

#: Earth Search's sentinel-1-grd is "amplitude-only" and not on a map grid; its numbers mean
#: nothing without the calibration tables.
_RADAR = (
    "its Sentinel-1 GRD is uncalibrated amplitude in radar geometry, which is no backscatter; allowed: "
    "'stac:planetary-computer', which has terrain-corrected backscatter (RTC), or 'gee'"
)

EARTH_SEARCH = Service(
    "Earth Search",
    "https://earth-search.aws.element84.com/v1",
    {
        "COPERNICUS/S2_SR_HARMONIZED": (
            # "I think the boa_offset_applied is the truth" (a maintainer, Element84/earth-search
            # issue 9); issues 66 and 71 list items whose flag is wrong
            _mapping("sentinel-2-l2a", _S2_COMMON, offset_rule="flag"),
            _mapping("sentinel-2-c1-l2a", _S2_COMMON, offset_rule="raster:bands"),
        ),
        **_landsat(),
    },
    {"COPERNICUS/S1_GRD": _RADAR, "COPERNICUS/S1_GRD_FLOAT": _RADAR},
)

PLANETARY_COMPUTER = Service(
    "the Planetary Computer",
    "https://planetarycomputer.microsoft.com/api/stac/v1",
    {
        "COPERNICUS/S2_SR_HARMONIZED": (_mapping("sentinel-2-l2a", _S2_NUMBERED, offset_rule="baseline"),),
        "COPERNICUS/S1_GRD_FLOAT": (
            _mapping(
                "sentinel-1-rtc",
                {"VV": "vv", "VH": "vh"},
                nodata=-32768.0,
                complete=True,
                note="gamma0, radiometrically terrain-corrected (RTC), where Earth Engine has sigma0 without it",
            ),
        ),
        "NASA/HLS/HLSL30/v002": (_mapping("hls2-l30", _HLS_L30),),
        "NASA/HLS/HLSS30/v002": (_mapping("hls2-s30", _HLS_S30),),
        "MODIS/061/MOD09A1": (_mapping("modis-09A1-061", _MODIS, required={"platform": "terra"}),),
        "MODIS/061/MYD09A1": (_mapping("modis-09A1-061", _MODIS, required={"platform": "aqua"}),),
        **_landsat(),
    },
    token_url="https://planetarycomputer.microsoft.com/api/sas/v1/token/",
    storage=".blob.core.windows.net",
)

#: word of ``backend`` -> service
SERVICES = {"earth-search": EARTH_SEARCH, "planetary-computer": PLANETARY_COMPUTER}


def find_service(argument: str) -> Service | None:
    """The service of ``stac:<argument>``, known or not; None for a path or the URL of a file."""
    given = argument.strip().rstrip("/")
    if not given:
        return SERVICES["earth-search"]
    for word, service in SERVICES.items():
        if given.lower() == word or given == service.url:
            return service
    if given.lower().startswith(("http://", "https://")) and not given.lower().endswith((".json", ".geojson")):
        return Service(given, given)
    return None


def refuse_secrets(argument: str) -> None:
    """Refuse a URL with a token: it is written into the manifest, the frozen request and messages.

    Raises:
        ModelError: it has a user, a password, a query or a fragment, which the message does not
            repeat; or is not a URL.
    """
    if "://" not in argument:
        return
    try:
        parts = urlsplit(argument.strip())
        secret = parts.username or parts.password or parts.query or parts.fragment
    except ValueError:
        parts, secret = None, None
    if secret:
        raise ModelError(
            "backend: a stac: URL with a user, a password, a query or a fragment is not valid, it would be written into "
            "manifests; allowed: stac:https://host/path (credentials: .netrc, or the environment of the jobs)"
        )
    if parts is None or not parts.hostname:
        raise ModelError(f"backend: 'stac:{argument}' is not a URL; allowed: stac:https://host/path")
