"""Known STAC services: which of their collections correspond to Earth Engine's, and how their
values are converted.

Sources: for Earth Search its documentation (github.com/Element84/earth-search: README.md,
docs/collections/) and the packages that make its items (github.com/stactools-packages/sentinel2:
constants.py; .../landsat: fragments/); for the Planetary Computer its collection documents
(github.com/microsoft/planetary-computer-tasks: datasets/*/collection/). The tables were not tested
against the services. Thermal bands of HLS (another scale) and Sentinel-1 GRD (see ``_RADAR``) are
left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from ...errors import ModelError, ProviderError
from ...request.fields import suggest_nearest

#: Constant that ESA adds to Sentinel-2's values since processing baseline 04.00
#: (sentiwiki.copernicus.eu, S2 Products, BOA_ADD_OFFSET = -1000); COPERNICUS/S2_SR_HARMONIZED does
#: not contain it.
S2_OFFSET = 1000


@dataclass(frozen=True)
class CollectionMapping:
    """How a service provides one of Earth Engine's collections.

    Attributes:
        collection: its id in the service.
        assets: asset of each band; ``name#2`` is the second band of an asset's file. Empty: assets
            have the names of the bands.
        scale, offset: value = number * scale + offset, in the units of measure of Earth Engine's
            collection.
        nodata: nodata value; None for that of the item or the file.
        required: properties that an item must have to belong to the collection.
        offset_rule: how to determine whether Sentinel-2's values still include the constant of
            baseline 04.00: ``"flag"``, ``"raster:bands"``, ``"baseline"``; or "".
        complete: items that lack an asset are not used.
        note: remark on the pixels for the manifest.
    """

    collection: str
    assets: Mapping[str, str] = field(default_factory=dict)
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    required: Mapping[str, Any] = field(default_factory=dict)
    offset_rule: str = ""
    complete: bool = False
    note: str = ""


@dataclass(frozen=True)
class Service:
    """A STAC API.

    Attributes:
        name: in messages. url: of its landing page.
        collections: Earth Engine's id -> mappings; the first is used unless the config names
            another.
        unsupported: Earth Engine's id -> reason.
        token_url: URL of tokens for a collection's files, without the collection's id at the end;
            "" where files are public.
        storage: suffix of the host names of files that need a token.
    """

    name: str
    url: str
    collections: Mapping[str, tuple[CollectionMapping, ...]] = field(default_factory=dict)
    unsupported: Mapping[str, str] = field(default_factory=dict)
    token_url: str = ""
    storage: str = ""


#: Asset names of Sentinel-2 items from stactools-sentinel2 (BANDS_TO_ASSET_NAME).
_S2_COMMON = dict(
    zip(
        ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12"),
        [
            "coastal",
            "blue",
            "green",
            "red",
            "rededge1",
            "rededge2",
            "rededge3",
            "nir",
            "nir08",
            "nir09",
            "swir16",
            "swir22",
        ],
        strict=True,
    )
)
#: Asset names on the Planetary Computer.
_S2_NUMBERED = {b: b if b == "B8A" else f"B{b[1:]:0>2}" for b in _S2_COMMON}
#: 0 is no data (ESA: "DN=0 will remain the NO_DATA value").
_S2_NODATA = 0.0

#: Landsat Collection 2 Level-2: assets of the bands as in stactools-landsat; values are those of
#: Earth Engine (scale and offset are not applied in either). 0 is fill.
_OLI = dict(
    zip(
        ("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7", "ST_B10"),
        ["coastal", "blue", "green", "red", "nir08", "swir16", "swir22", "lwir11"],
        strict=True,
    )
)
_TM = dict(
    zip(
        ("SR_B1", "SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B7", "ST_B6"),
        ["blue", "green", "red", "nir08", "swir16", "swir22", "lwir"],
        strict=True,
    )
)


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
            mapping = CollectionMapping("landsat-c2-l2", assets, nodata=0.0, required=required)
            mappings[f"LANDSAT/{short}/C02/{tier}_L2"] = (mapping,)
    return mappings


#: HLS v2: reflectance = number * 0.0001, fill -9999 (HLS User Guide 2.0, table of layers). Earth
#: Engine's values are reflectances (its catalogue displays them from 0.01 to 0.18).
_HLS_SCALE, _HLS_NODATA = 0.0001, -9999.0
_HLS_S30 = _S2_NUMBERED | {"B10": "B10"}
_HLS_L30 = {b: _S2_NUMBERED[b] for b in ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B9")}

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
            CollectionMapping("sentinel-2-l2a", _S2_COMMON, nodata=_S2_NODATA, offset_rule="flag"),
            CollectionMapping("sentinel-2-c1-l2a", _S2_COMMON, nodata=_S2_NODATA, offset_rule="raster:bands"),
        ),
        **_landsat(),
    },
    {"COPERNICUS/S1_GRD": _RADAR, "COPERNICUS/S1_GRD_FLOAT": _RADAR},
)

PLANETARY_COMPUTER = Service(
    "the Planetary Computer",
    "https://planetarycomputer.microsoft.com/api/stac/v1",
    {
        "COPERNICUS/S2_SR_HARMONIZED": (
            CollectionMapping("sentinel-2-l2a", _S2_NUMBERED, nodata=_S2_NODATA, offset_rule="baseline"),
        ),
        "COPERNICUS/S1_GRD_FLOAT": (
            CollectionMapping(
                "sentinel-1-rtc",
                {"VV": "vv", "VH": "vh"},
                nodata=-32768.0,
                complete=True,
                note="gamma0, radiometrically terrain-corrected (RTC), where Earth Engine has sigma0 without it",
            ),
        ),
        "NASA/HLS/HLSL30/v002": (CollectionMapping("hls2-l30", _HLS_L30, scale=_HLS_SCALE, nodata=_HLS_NODATA),),
        "NASA/HLS/HLSS30/v002": (CollectionMapping("hls2-s30", _HLS_S30, scale=_HLS_SCALE, nodata=_HLS_NODATA),),
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


def map_collections(service: Service, settings: Mapping[str, Mapping]) -> dict[str, CollectionMapping]:
    """Earth Engine's collections in a service, with the settings of the config.

    Args:
        settings: Earth Engine's id -> ``collection``, ``assets``, ``scale``, ``offset``
            (``stac.collections`` of the config).

    Raises:
        ModelError: an entry without a collection where the service's is not known.
    """
    mappings = {name: known[0] for name, known in service.collections.items()}
    for name, entry in settings.items():
        known = service.collections.get(name, ())
        wanted = entry.get("collection") or (known[0].collection if known else None)
        if wanted is None:
            raise ModelError(
                f"stac.collections.{name}: the key 'collection' is missing, and {service.name} is not known to have it; "
                "allowed: the collection's id there"
            )
        base = next((m for m in known if m.collection == wanted), CollectionMapping(wanted))
        mappings[name] = replace(base, **{k: v for k, v in entry.items() if k != "collection"})
    return mappings


def select_collections(
    service: Service, known: Mapping[str, CollectionMapping], collections: list[str]
) -> dict[str, CollectionMapping]:
    """The mappings of a collection and of its other form that the service has.

    Raises:
        ProviderError: the service has neither, with the reason or what is allowed.
    """
    found = {c: known[c] for c in collections if c in known}
    wanted = collections[0]
    if not found and wanted in service.unsupported:
        raise ProviderError(
            f"sensor.collection: {wanted!r} is not available from {service.name}: {service.unsupported[wanted]}"
        )
    if not found:
        allowed = ", ".join(map(repr, known)) or "none yet"
        raise ProviderError(
            f"sensor.collection: {wanted!r} is not known in {service.name}{suggest_nearest(wanted, known)}; allowed: {allowed}, "
            "or stac.collections in the config, with the collection's id there"
        )
    return found


def sentinel_2_offset(rule: str, item: Mapping, assets: list[str]) -> int:
    """What is still to be subtracted from the values of an item (Sentinel-2's constant of baseline
    04.00), so that it is subtracted exactly once.

    Raises:
        ProviderError: the item does not contain this information.
    """
    properties = item.get("properties", {})
    if rule == "flag" and properties.get("earthsearch:boa_offset_applied") is True:
        return 0
    if rule == "raster:bands":
        for name in assets:
            band = (item["assets"][name].get("raster:bands") or [{}])[0]
            if "offset" in band and band.get("scale"):
                return -round(band["offset"] / band["scale"])
    if rule:
        try:
            return S2_OFFSET if float(properties["s2:processing_baseline"]) >= 4 else 0
        except (KeyError, TypeError, ValueError):
            raise ProviderError(
                f"STAC item {item['id']!r} does not have its processing baseline (s2:processing_baseline), so the offset of its "
                "values is not known; allowed: items that have it"
            ) from None
    return 0
