"""How a STAC service provides Earth Engine's collections: known definitions, with the settings of
the config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import ModelError, ProviderError
from ...products import Band, find_product
from ...products.sentinel2 import BASELINE_OFFSET, HARMONIZED
from ...request.fields import suggest_nearest
from . import sentinel_2

#: ``scale`` of a collection whose items say how to scale their numbers.
FROM_ITEM = "item"


@dataclass(frozen=True)
class CollectionMapping:
    """How a service provides one of Earth Engine's collections.

    Attributes:
        collection: its id in the service.
        assets: asset of each band; ``name#2`` is the second band of an asset's file. Empty: assets
            have the names of the bands.
        scale, offset: value = number * scale + offset, in the units of measure of Earth Engine's
            collection, for all bands but those of classes; ``"item"``: as the item says. None:
            those of the product where the service is known to deliver its files, else 1 and 0.
        nodata: a nodata value of all bands, in addition to those of product, item and file.
        required: properties that an item must have to belong to the collection.
        offset_rule: how to determine whether Sentinel-2's values still include the constant of
            baseline 04.00: ``"flag"``, ``"raster:bands"``, ``"baseline"``, ``"stated"``,
            ``"constant"`` (they do, as the config says); or "".
        complete: items that lack an asset are not used.
        note: remark on the pixels for the manifest.
        known: the service delivers the product's own files, as its documents say.
        side_files: masks and nodata values can be in files beside the rasters.
    """

    collection: str
    assets: Mapping[str, str] = field(default_factory=dict)
    scale: float | str | None = None
    offset: float | None = None
    nodata: float | None = None
    required: Mapping[str, Any] = field(default_factory=dict)
    offset_rule: str = ""
    complete: bool = False
    note: str = ""
    known: bool = False
    side_files: bool = True


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


def map_collections(service: Service, settings: Mapping[str, Mapping]) -> dict[str, CollectionMapping]:
    """Earth Engine's collections in a service, with the settings of the config.

    Args:
        settings: Earth Engine's id -> ``collection``, ``assets``, ``scale``, ``offset``,
            ``side_files`` (``stac.collections`` of the config).

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
        rule = "stated" if name in HARMONIZED and "scale" not in entry else ""
        own = CollectionMapping(wanted, offset_rule=rule)
        base = next((m for m in known if m.collection == wanted), own)
        given = {k: v for k, v in entry.items() if k != "collection"}
        if "offset" in entry or entry.get("scale") == FROM_ITEM:
            base = replace(base, offset_rule="")  # or a constant would be subtracted twice
        if name in HARMONIZED and "scale" not in entry and entry.get("offset") in (0, -BASELINE_OFFSET):
            # the constant or its absence leaves integers; any other offset is a linear scale
            base = replace(base, offset_rule="constant" if given.pop("offset") else "")
        mappings[name] = replace(base, **given)
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


def product_band(collection: str, band: str) -> Band | None:
    """The description of a band of a known product, or None."""
    product = find_product(collection)
    return product.band.get(band) if product else None


def product_nodata(mapping: CollectionMapping, collection: str, band: str) -> float | None:
    """The nodata value of a known product's files, where the numbers are theirs: the service is
    known to deliver them, or the config names the product and no scale or offset."""
    if not mapping.known and not (mapping.scale is None and mapping.offset is None):
        return None
    found = product_band(collection, band)
    if found is None and collection in HARMONIZED and sentinel_2.has_constant(band):
        found = product_band(collection, "B2")  # an asset's common name; all reflectances have the same
    return found.nodata if found else None


def choose_scaling(
    mapping: CollectionMapping, collection: str, band: str, stated: tuple[float, float] | None
) -> tuple[float, float]:
    """(scale, offset) from the numbers of a file to the values of a collection. Exactly one source
    decides: the config, the product that a known service delivers, or the item. The numbers of
    classes and bits are never scaled.

    Args:
        stated: (scale, offset) of the item for this band, from its numbers to a physical value; or
            None.
    """
    product = product_band(collection, band)
    if product is not None and product.quality:
        return 1.0, 0.0
    if mapping.scale == FROM_ITEM:
        return stated or (1.0, 0.0)
    if mapping.scale is not None or mapping.offset is not None:
        scale = 1.0 if mapping.scale is None else float(mapping.scale)
        # aerosol and water vapour do not have the offset of the reflectances
        exempt = collection in HARMONIZED and not sentinel_2.has_constant(band)
        return scale, 0.0 if exempt else mapping.offset or 0.0
    if product is None or (product.scale, product.offset) == (1.0, 0.0):
        return 1.0, 0.0  # the collection has the numbers of the files
    if mapping.known:
        return product.scale, product.offset
    return stated or (1.0, 0.0)  # the collection has physical values


def is_stated_in_vain(
    mapping: CollectionMapping, collection: str, band: str, stated: tuple[float, float] | None
) -> bool:
    """Whether an item states a scale or offset that nothing applies, and nothing says why: the
    collection is no known product, and the config says nothing."""
    decided = mapping.known or mapping.scale is not None or mapping.offset is not None
    return not decided and stated not in (None, (1.0, 0.0)) and find_product(collection) is None
