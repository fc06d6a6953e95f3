"""Expressions for the mask of an image, and for the pixels that it removes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...request.mask_spec import CLOUD_SCORE

#: Bands of :func:`count_expression`.
COUNTS = ("observed", "masked")
#: Bytes of a pixel of :func:`count_expression`: two uint16.
COUNT_BYTES = 4


def own_bands(mask: Mapping[str, Any] | None) -> list[str]:
    """The quality band that a mask reads in the images themselves."""
    return [] if mask is None or mask["kind"] == CLOUD_SCORE else [mask["band"]]


def link_quality(ee: Any, images: Any, mask: Mapping[str, Any]) -> Any:
    """Images with the quality band of a mask: Cloud Score+ is a collection of its own, whose
    images have the same ``system:index``. An image without a Cloud Score+ image gets a band that
    is masked."""
    if mask["kind"] != CLOUD_SCORE:
        return images
    return images.linkCollection(ee.ImageCollection(mask["collection"]), [mask["band"]])


def clear_expression(ee: Any, image: Any, mask: Mapping[str, Any]) -> Any:
    """1 where an image is observed and clear; 0 or masked elsewhere."""
    observed, removed = _quality(ee, image, mask)
    return observed.And(removed.Not())


def count_expression(ee: Any, images: Any, mask: Mapping[str, Any]) -> Any:
    """The number of images in which a pixel is observed, and of those in which the mask removes
    it: bands :data:`COUNTS`, uint16."""

    def observe(image: Any) -> Any:
        observed, removed = _quality(ee, ee.Image(image), mask)
        return observed.addBands(observed.And(removed)).rename(list(COUNTS))

    return images.map(observe).sum().unmask(0, False).toUint16()


def _quality(ee: Any, image: Any, mask: Mapping[str, Any]) -> tuple[Any, Any]:
    """(pixels whose quality is known, pixels that are not clear), 1 or 0, masked where the quality
    band has no data."""
    if mask["kind"] == CLOUD_SCORE:
        score = image.select([mask["band"]])
        return score.mask().gt(0), score.lt(mask["threshold"])
    numbers = image.select([mask["band"]]).toInt64()  # bits are defined for integers only
    removed = None
    for (shift, width), values in group_tests(mask["tests"]).items():
        bits = numbers.rightShift(shift).bitwiseAnd(2**width - 1)
        found = bits.remap(values, [1] * len(values), 0)
        removed = found if removed is None else removed.Or(found)
    assert removed is not None, "a mask has at least one test"
    observed = numbers.mask().gt(0) if mask["nodata"] is None else numbers.neq(mask["nodata"])
    return observed, removed


def group_tests(tests: Sequence[Sequence]) -> dict[tuple[int, int], list[int]]:
    """The values of tests (shift, width, values) of the same bits, together."""
    grouped: dict[tuple[int, int], list[int]] = {}
    for shift, width, values in tests:
        known = grouped.setdefault((shift, width), [])
        known += [value for value in values if value not in known]
    return grouped
