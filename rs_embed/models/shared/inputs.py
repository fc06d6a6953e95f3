"""From a provider's pixels to numbers that networks take: checks, units and sizes that several families share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ModelError
from ..base import Image, Spread

if TYPE_CHECKING:
    import numpy as np

#: Surface reflectance of Sentinel-2 is stored as DN = reflectance x 10000 (Sentinel-2 L2A product definition).
DN_PER_REFLECTANCE = 10000.0
#: Power below this is taken as this before a logarithm: -100 dB, far below the noise floor of Sentinel-1 (about -22 dB).
POWER_FLOOR = 1e-10
#: Share of negative values from which pixels are taken for decibel rather than power.
NEGATIVE_SHARE = 0.1


def spread(pixels: np.ndarray) -> Spread | None:
    """The spread of an image's finite values; None without one, or where they are no numbers."""
    import numpy as np

    if pixels.dtype.kind not in "iuf" or not pixels.size:
        return None
    if pixels.dtype.kind == "f" and not (finite := np.isfinite(pixels)).all():
        pixels = pixels[finite]
        if not pixels.size:
            return None
    return Spread(float(pixels.min()), float(pixels.max()), float((pixels < 0).mean()))


def values(image: Image) -> np.ndarray:
    """The image's pixels, (T, C, H, W) float32, with 0 for what is not finite; they may be the image's own array.

    Raises:
        ModelError: as many channels as bands are missing, a dtype that is no number, or no finite value at all.
    """
    import numpy as np

    pixels = image.pixels
    if pixels.ndim != 4 or pixels.shape[1] != len(image.bands):
        raise ModelError(
            f"pixels of shape {pixels.shape} are not valid for {len(image.bands)} bands; allowed: (T, {len(image.bands)}, H, W)"
        )
    if pixels.dtype.kind not in "iuf":
        raise ModelError(f"pixels of dtype {pixels.dtype} are not valid; allowed: integers or floats")
    if pixels.dtype.kind != "f":
        return pixels.astype(np.float32)
    pixels = pixels.astype(np.float32, copy=False)
    finite = np.isfinite(pixels)
    if finite.all():
        return pixels
    if image.whole is None and not finite.any():
        raise ModelError("the image has no finite value; allowed: imagery with data")
    return np.where(finite, pixels, np.float32(0))


def digital_numbers(image: Image) -> np.ndarray:
    """Sentinel-2 pixels as DN, (T, C, H, W) float32.

    Raises:
        ModelError: nothing but 0 (no data), or values that look like reflectance 0..1.
    """
    pixels = values(image)
    found = image.whole or spread(pixels)
    if found.lowest == found.highest == 0:
        raise ModelError("every value of the image is 0, which is Sentinel-2's no data; allowed: imagery with data")
    if found.highest <= 2:
        raise ModelError(
            f"the highest value of the image is {found.highest:g}, which looks like reflectance; allowed: DN (reflectance x 10000)"
        )
    return pixels


def reflectance(image: Image) -> np.ndarray:
    """Sentinel-2 pixels as reflectance, clipped to 0..1: (T, C, H, W) float32."""
    import numpy as np

    values = digital_numbers(image) / np.float32(DN_PER_REFLECTANCE)
    return np.clip(values, 0, 1, out=values)


def linear_power(image: Image) -> np.ndarray:
    """Sentinel-1 pixels as linear power, >= 0: (T, C, H, W) float32.

    Raises:
        ModelError: many negative values (decibel), or nothing but 0.
    """
    import numpy as np

    pixels = values(image)
    found = image.whole or spread(pixels)
    if found.negative > NEGATIVE_SHARE:
        raise ModelError(
            f"{100 * found.negative:.0f} % of the values are negative, which looks like decibel; allowed: linear power "
            "(collection COPERNICUS/S1_GRD_FLOAT)"
        )
    if found.lowest == found.highest == 0:
        raise ModelError("every value of the image is 0; allowed: imagery with data")
    return np.maximum(pixels, 0)


def decibel(power: np.ndarray) -> np.ndarray:
    """10 log10 of linear power, which is taken as :data:`POWER_FLOOR` at least."""
    import numpy as np

    return np.float32(10) * np.log10(np.maximum(power, np.float32(POWER_FLOOR)))


def log_scaled(power: np.ndarray) -> np.ndarray:
    """log1p of linear power over its 99th percentile in both channels together, clipped to 0..1: what rs-embed 0.3.1
    feeds terrafm and thor. The percentile is that of this image, so tiles of one place differ in brightness."""
    import numpy as np

    logs = np.log1p(power)
    top = float(np.percentile(logs, 99))
    return np.clip(logs / np.float32(top if top > 0 else 1), 0, 1)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(T, C, H, W) float32 to another size: bilinear, half-pixel centres, no antialiasing (``align_corners=False``)."""
    import torch
    import torch.nn.functional as F

    if pixels.shape[-2:] == (height, width):
        return pixels
    return F.interpolate(torch.from_numpy(pixels), (height, width), mode="bilinear", align_corners=False).numpy()


def squared(pixels: np.ndarray) -> np.ndarray:
    """(T, C, H, W) with the shorter side mirrored outwards on both sides to the longer one (the odd pixel at the bottom or
    right), or its edge repeated where there is too little to mirror: what rs-embed 0.3.1 does where no square image could be
    had (``tools/shape.py``)."""
    import numpy as np

    height, width = pixels.shape[-2:]
    pads = [(0, 0), (0, 0)]
    for side in (height, width):
        missing = max(height, width) - side
        pads.append((missing // 2, missing - missing // 2))
    few = any(sum(pad) >= side for pad, side in zip(pads[2:], (height, width)))
    return pixels if height == width else np.pad(pixels, pads, "edge" if few else "reflect")
