"""The quality of an image's pixels, before a model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def inspect_pixels(pixels: np.ndarray, bands: Sequence[str], valid: float, known: Sequence[str] = ()) -> dict:
    """Quality record of one image.

    Args:
        pixels: (C, H, W) or (T, C, H, W) as fetched.
        bands: names of the C bands.
        valid: share of pixels with data, 0..1.
        known: warnings of the provider.

    Returns:
        ``valid`` and, where something is wrong, ``constant_bands`` and ``warnings``: sentences
        about frames without imagery, partly filled images, non-finite values and constant bands
        (not for an image of one pixel).
    """
    import numpy as np

    warnings, flat = list(known), []
    if valid < 1:
        warnings.append(f"{100 * (1 - valid):.1f} % of the pixels have no data")
    if pixels.dtype.kind == "f" and not (finite := np.isfinite(pixels)).all():
        warnings.append(f"{100 * (1 - finite.mean()):.1f} % of the values are not finite")
        pixels = np.where(finite, pixels, 0)
    if pixels.shape[-1] * pixels.shape[-2] > 1:
        planes = np.moveaxis(pixels, -3, 0).reshape(len(bands), -1)
        flat = [b for b, low, high in zip(bands, planes.min(1), planes.max(1)) if low == high]
        if flat:
            warnings.append(f"constant bands: {', '.join(flat)}")
    found = {"constant_bands": flat, "warnings": warnings}
    return {"valid": valid} | {k: v for k, v in found.items() if v}
