"""The constant in the numbers of Sentinel-2 since processing baseline 04.00, subtracted exactly
once.

Source: sentiwiki.copernicus.eu, S2 Products (BOA_ADD_OFFSET, RADIO_ADD_OFFSET = -1000 from
baseline 04.00 on).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ProviderError
from ...products.sentinel2 import BASELINE_OFFSET, FIRST_BASELINE_WITH_OFFSET, UNKNOWN_BASELINE

#: Names of assets that are reflectances (stactools-sentinel2, constants.py: BANDS_TO_ASSET_NAME).
_COMMON_NAMES = {
    *("coastal", "blue", "green", "red", "rededge1", "rededge2", "rededge3"),
    *("nir", "nir08", "nir09", "cirrus", "swir16", "swir22"),
}


def has_constant(band: str) -> bool:
    """Whether a band is a reflectance (B1 to B12, or an asset with a common name of one): scene
    classification, aerosol and water vapour have no constant."""
    return band.startswith("B") or band.lower() in _COMMON_NAMES


def sentinel_2_offset(
    rule: str, item: Mapping, stated: tuple[float, float] | None, others: Sequence[tuple[float, float] | None] = ()
) -> int:
    """What is still to be subtracted from the values of a band.

    Args:
        rule: of the collection (``CollectionMapping.offset_rule``).
        stated: (scale, offset) of the item for this band, where it states the offset, or None.
        others: for its other bands, where this one has none.

    Raises:
        ProviderError: the item does not contain this information.
        ValueError: the stated offset is not one that can be subtracted.
    """
    properties = item.get("properties") or {}
    if rule == "constant":
        return BASELINE_OFFSET
    if rule in ("flag", "stated") and properties.get("earthsearch:boa_offset_applied") is True:
        return 0
    if rule in ("raster:bands", "stated"):
        known = next((s for s in (stated, *others) if s is not None), None)
        if known is not None:
            return _constant_of(*known)
    if not rule or (rule == "stated" and properties.get("earthsearch:boa_offset_applied") is not False):
        return 0
    baseline = processing_baseline(properties)
    if baseline is None:
        raise ProviderError(
            f"STAC item {item['id']!r} does not have its processing baseline (s2:processing_baseline), so the offset of its "
            "values is not known; allowed: items that have it"
        )
    return BASELINE_OFFSET if baseline >= FIRST_BASELINE_WITH_OFFSET else 0


def _constant_of(scale: float, offset: float) -> int:
    constant = -round(offset / scale)
    if constant < 0:
        raise ValueError(f"the offset {offset:g} of its values is above 0")
    if abs(offset / scale + constant) > 1e-3:  # an offset without its scale
        raise ValueError(f"the offset {offset:g} of its values is no whole number of steps of {scale:g}")
    return constant


def processing_baseline(properties: Mapping[str, Any]) -> float | None:
    """The processing baseline of an item (``05.09`` or ``N0509``), or None; 99.99 is that of
    products of a user's own processor, which says nothing about the constant."""
    given = _stated_baseline(properties)
    try:
        number = float(str(given).strip().upper().removeprefix("N"))
    except ValueError:
        return None
    number = number / 100 if number >= 100 else number
    return None if number == UNKNOWN_BASELINE or not number < 100 else number


def _stated_baseline(properties: Mapping[str, Any]) -> Any:
    """As the item says, by the Sentinel-2 extension or by the processing extension."""
    return properties.get("s2:processing_baseline") or properties.get("processing:version")


def unexplained_baseline(item: Mapping, stated: Sequence[tuple[float, float] | None]) -> str:
    """The processing baseline of an item of a service that is not known, where it implies a
    constant and nothing says whether it was removed; or ""."""
    properties = item.get("properties") or {}
    baseline = processing_baseline(properties)
    if baseline is None or baseline < FIRST_BASELINE_WITH_OFFSET or any(s is not None for s in stated):
        return ""
    return (
        "" if isinstance(properties.get("earthsearch:boa_offset_applied"), bool) else str(_stated_baseline(properties))
    )
