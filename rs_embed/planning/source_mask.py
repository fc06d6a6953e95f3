"""The mask of a source: the quality band of its collection, and the pixels of it that are
masked."""

from __future__ import annotations

from typing import Any

from ..errors import ModelError
from ..products import PRODUCTS, QualityBand, find_product
from ..request.fields import suggest_nearest
from ..request.mask_spec import CLOUD_SCORE, MaskSpec
from ..request.specs import SensorSpec

#: Collection and band of Cloud Score+ (Earth Engine's description of the collection: ``cs_cdf`` is
#: the more robust of its two bands).
CLOUD_SCORE_COLLECTION, CLOUD_SCORE_BAND = "GOOGLE/CLOUD_SCORE_PLUS/V1/S2_HARMONIZED", "cs_cdf"


def resolve_mask(sensor: SensorSpec, where: str) -> dict[str, Any] | None:
    """The mask in the identity of a source, with the product's defaults filled in; None without
    one.

    Args:
        where: key of the mask in the request, for messages.

    Returns:
        ``{kind, band, classes, tests, nodata}`` of a quality band, with a test (shift, width,
        values) for each class (:class:`~rs_embed.products.BitTest`) and the value of pixels that
        were not observed; or ``{kind, collection, band, threshold}`` of Cloud Score+.

    Raises:
        ModelError: the collection has no such mask, or a class is unknown.
    """
    if sensor.mask is None:
        return None
    mask = MaskSpec(sensor.mask) if isinstance(sensor.mask, str) else sensor.mask
    product = find_product(sensor.collection)
    if mask.kind == CLOUD_SCORE:
        if product is None or not product.cloud_score:
            raise ModelError(
                f"{where}: {CLOUD_SCORE!r} is not valid for the collection {sensor.collection!r}; allowed: collections of Sentinel-2"
            )
        return {
            "kind": mask.kind,
            "collection": CLOUD_SCORE_COLLECTION,
            "band": CLOUD_SCORE_BAND,
            "threshold": mask.threshold,
        }
    if product is None or product.quality is None:
        known = ", ".join(name for name, p in PRODUCTS.items() if p.quality)
        other = f"{CLOUD_SCORE!r} on Earth Engine, or " if product and product.cloud_score else ""
        raise ModelError(
            f"{where}: {mask.kind!r} is not valid, the collection {sensor.collection!r} has no known quality band; "
            f"allowed: {other}null, or one of the collections {known}"
        )
    classes = _choose_classes(mask, product.quality, where)
    return {
        "kind": mask.kind,
        "band": product.quality.band,
        "classes": classes,
        "tests": [product.quality.classes[name].as_list() for name in classes],
        "nodata": product.quality.nodata,
    }


def _choose_classes(mask: MaskSpec, quality: QualityBand, where: str) -> list[str]:
    if mask.classes is None:
        return sorted(quality.default)
    unknown = [name for name in mask.classes if name not in quality.classes]
    if unknown:
        raise ModelError(
            f"{where}.classes: {unknown[0]!r} is not a class of {quality.band}{suggest_nearest(unknown[0], quality.classes)}; "
            f"allowed: {', '.join(quality.classes)}"
        )
    return list(mask.classes)
