"""The mask of a scene: pixels that its quality band marks are removed before the composite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import ProviderError
from ...planning.units import Source
from ...request.mask_spec import CLOUD_SCORE
from ..composite import Masked
from ..mask_record import MaskCount
from .scene_files import SceneFile

if TYPE_CHECKING:
    import numpy as np


def quality_band(source: Source) -> str | None:
    """The quality band that the mask of a source reads, or None without a mask.

    Raises:
        ProviderError: the mask is not available from raster files.
    """
    mask = source.identity.get("mask")
    if mask is None:
        return None
    if mask["kind"] == CLOUD_SCORE:
        raise ProviderError(
            f"fetch.mask: {CLOUD_SCORE!r} is available from Earth Engine only; allowed: 'clouds', null, or backend 'gee'"
        )
    band: str = mask["band"]
    return band


def check_quality_band(source: Source, files: Iterable[SceneFile], where: str) -> None:
    """Refuse a mask whose quality band no file has.

    Args:
        files: that the request may read. where: of the catalogue, for the message.

    Raises:
        ProviderError: no file has the band, or the mask is not available from raster files.
    """
    band = quality_band(source)
    found = list(files) if band else []
    if found and not any(band in file.bands for file in found):
        raise ProviderError(
            f"fetch.mask: {source.identity['mask']['kind']!r} reads the band {band!r}, which no image of "
            f"{source.identity['collection']} in {where} has; allowed: null, or images with this band"
        )


def apply_mask(image: Masked, quality: Masked | None, mask: Mapping[str, Any], scene: str, count: MaskCount) -> Masked:
    """One scene without its masked pixels.

    Args:
        image: (values, valid) (C, H, W) of the scene. quality: the same (1, H, W) of its quality
            band, or None where it has none.
        mask: of the source's identity. scene: id. count: is increased.

    Returns:
        (values, valid): pixels that the mask removes, or that have no quality, are not valid.
    """
    import numpy as np

    values, valid = image
    if quality is None:
        if scene not in count.without:
            count.without.append(scene)
        return values, np.zeros_like(valid)
    numbers, observed = quality[0][0].astype(np.int64), quality[1][0].copy()
    if mask["nodata"] is not None:
        observed &= numbers != mask["nodata"]
    removed = observed & match_tests(numbers, mask["tests"])
    count.observed += int(observed.sum())
    count.masked += int(removed.sum())
    return values, valid & (observed & ~removed)[None]


def match_tests(numbers: np.ndarray, tests: list) -> np.ndarray:
    """Where integers pass at least one test (shift, width, values) of
    :class:`~rs_embed.products.BitTest`; bool, same shape."""
    import numpy as np

    found = np.zeros(numbers.shape, bool)
    for shift, width, values in tests:
        found |= np.isin((numbers >> shift) & (2**width - 1), values)
    return found
