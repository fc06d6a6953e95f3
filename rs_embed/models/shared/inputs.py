"""Input pixels: checks, units of measure and sizes that several families share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ModelError
from ..base import Image, ValueRange

if TYPE_CHECKING:
    import numpy as np

#: Surface reflectance of Sentinel-2 is stored as DN = reflectance x 10000 (Sentinel-2 L2A product
#: definition).
DN_PER_REFLECTANCE = 10000.0
#: Lower limit of power before a logarithm: -100 dB, far below the noise floor of Sentinel-1 (about
#: -22 dB).
POWER_FLOOR = 1e-10
#: Share of negative values above which pixels count as decibel rather than power.
NEGATIVE_SHARE = 0.1
#: Of a model that scales any numbers to about 0..1: the smallest magnitude, which is 2 DN (see
#: ``to_digital_numbers``), and the largest. 32-bit DN are below it, fill values such as -3.4e38
#: are not.
SCALED_RANGE = 2 / DN_PER_REFLECTANCE, 1e6
#: Of scaled numbers that are nearly all negative, the magnitude below which they count as decibel
#: (100 dB scaled like DN), and their share of negative ones.
SCALED_DECIBEL, DECIBEL_NEGATIVE_SHARE = 100 / DN_PER_REFLECTANCE, 0.9

_NO_VALUE = "the image has no finite value; allowed: imagery with data"


def compute_value_range(pixels: np.ndarray) -> ValueRange | None:
    """The range of the finite values of an image; None where it has none, or its dtype is not
    numeric."""
    import numpy as np

    if pixels.dtype.kind not in "iuf" or not pixels.size:
        return None
    if pixels.dtype.kind == "f" and not (finite := np.isfinite(pixels)).all():
        pixels = pixels[finite]
        if not pixels.size:
            return None
    return ValueRange(float(pixels.min()), float(pixels.max()), float((pixels < 0).mean()))


def to_float32(image: Image) -> np.ndarray:
    """The pixels, (T, C, H, W) float32, with 0 in place of values that are not finite; may be the
    image's array itself.

    Integers above 2^24 and float64 are rounded to the nearest float32 (relative error 6e-8).

    Raises:
        ModelError: channels and bands differ in number, the dtype is not numeric, no value is
            finite, or a finite value is out of the range of float32.
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
    finite = np.isfinite(pixels)
    pixels = round_to_float32(pixels)
    if finite.all():
        return pixels
    if image.whole_range is None and not finite.any():
        raise ModelError(_NO_VALUE)
    return np.where(finite, pixels, np.float32(0))


def round_to_float32(values: np.ndarray) -> np.ndarray:
    """Numbers as float32; the array itself where it is float32.

    Raises:
        ModelError: a finite value is out of the range of float32.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        rounded = values.astype(np.float32, copy=False)
    if values.dtype.kind == "f" and values.dtype.itemsize > 4 and (np.isinf(rounded) & np.isfinite(values)).any():
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
        raise ModelError(
            f"the values {low:g}..{high:g} are out of the range of float32; allowed: imagery without extreme values, such as "
            "-1.8e308 for no data (a nodata value of the file or the catalogue)"
        )
    return rounded


def _find_value_range(image: Image, pixels: np.ndarray) -> ValueRange:
    """The value range of the whole image, of which ``pixels`` may be one tile."""
    value_range = image.whole_range or compute_value_range(pixels)
    if value_range is None:
        raise ModelError(_NO_VALUE)
    return value_range


def check_scaled_values(image: Image, pixels: np.ndarray, factor: float) -> None:
    """Refuse an image whose values a factor is certainly not meant for, in a model that takes any
    bands and scales them to about 0..1. Values that are merely unusual pass, and values that are
    all 0.

    Args:
        pixels: of the image, before scaling.
        factor: the model's option ``input_scale``.

    Raises:
        ModelError: the scaled values are at most :data:`SCALED_RANGE`, like reflectance where DN
            are expected, or above it, or nearly all negative and small, like decibel.
    """
    value_range = _find_value_range(image, pixels)
    low, high = value_range.lowest, value_range.highest
    largest = max(-low, high) * factor
    if not largest:
        return
    looks_like = None
    if largest <= SCALED_RANGE[0] * (1 + 1e-6):  # the factor is rounded: 2 * 0.0001
        looks_like = "reflectance"
    elif value_range.negative > DECIBEL_NEGATIVE_SHARE and largest <= SCALED_DECIBEL:
        looks_like = "decibel"
    elif largest > SCALED_RANGE[1]:
        looks_like = "values for no data, or DN that are not scaled"
    if looks_like is not None:
        raise ModelError(
            f"the values of the image, {low:g}..{high:g}, look like {looks_like} for model_config.input_scale={factor:g}; "
            "allowed: values that input_scale scales to about 0..1, such as DN (reflectance x 10000) with 0.0001: set "
            "input_scale (reflectance 0..1: 1), or scale and offset of the local catalogue"
        )


def to_digital_numbers(image: Image) -> np.ndarray:
    """Sentinel-2 pixels as DN, (T, C, H, W) float32.

    Raises:
        ModelError: all values are 0 (no data), or they look like reflectance 0..1.
    """
    pixels = to_float32(image)
    value_range = _find_value_range(image, pixels)
    if value_range.lowest == value_range.highest == 0:
        raise ModelError("every value of the image is 0, which means no data in Sentinel-2; allowed: imagery with data")
    if value_range.highest <= 2:
        raise ModelError(
            f"the highest value of the image is {value_range.highest:g}, which looks like reflectance; allowed: DN (reflectance x 10000, "
            "see scale of the local catalogue)"
        )
    return pixels


def to_reflectance(image: Image) -> np.ndarray:
    """Sentinel-2 pixels as reflectance, clipped to 0..1: (T, C, H, W) float32."""
    import numpy as np

    reflectance = to_digital_numbers(image) / np.float32(DN_PER_REFLECTANCE)
    return np.clip(reflectance, 0, 1, out=reflectance)


def to_linear_power(image: Image) -> np.ndarray:
    """Sentinel-1 pixels as linear power, >= 0: (T, C, H, W) float32.

    Raises:
        ModelError: many values are negative (decibel), or all are 0.
    """
    import numpy as np

    pixels = to_float32(image)
    value_range = _find_value_range(image, pixels)
    if value_range.negative > NEGATIVE_SHARE:
        raise ModelError(
            f"{100 * value_range.negative:.0f} % of the values are negative, which looks like decibel; allowed: linear power "
            "(collection COPERNICUS/S1_GRD_FLOAT)"
        )
    if value_range.lowest == value_range.highest == 0:
        raise ModelError("every value of the image is 0; allowed: imagery with data")
    return np.maximum(pixels, 0)


def to_decibel(power: np.ndarray) -> np.ndarray:
    """10 log10 of linear power, with :data:`POWER_FLOOR` as its lower limit."""
    import numpy as np

    return np.float32(10) * np.log10(np.maximum(power, np.float32(POWER_FLOOR)))


def scale_log_power(power: np.ndarray) -> np.ndarray:
    """log1p of linear power over its 99th percentile in both channels together, clipped to 0..1,
    as in rs-embed 0.3.1 for terrafm and thor. The percentile is that of this image, so tiles of
    one ROI differ in brightness."""
    import numpy as np

    logs = np.log1p(power)
    top = float(np.percentile(logs, 99))
    return np.clip(logs / np.float32(top if top > 0 else 1), 0, 1)


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(T, C, H, W) float32 to another size: bilinear, half-pixel centres, no antialiasing
    (``align_corners=False``)."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    if pixels.shape[-2:] == (height, width):
        return pixels
    pixels = np.ascontiguousarray(pixels)  # torch has other kernels, with other bits, for other orders
    if not pixels.flags.writeable:  # torch warns of these, though it only reads
        pixels = pixels.copy()
    return F.interpolate(torch.from_numpy(pixels), (height, width), mode="bilinear", align_corners=False).numpy()


def pad_to_square(pixels: np.ndarray) -> np.ndarray:
    """(T, C, H, W) with the shorter side mirrored outwards on both sides to the longer one (an odd
    pixel is added at the bottom or right), or its edge repeated where there is too little to
    mirror, as rs-embed 0.3.1 does where no square image was fetched (``tools/shape.py``)."""
    import numpy as np

    height, width = pixels.shape[-2:]
    pads = [(0, 0), (0, 0)]
    for side in (height, width):
        missing = max(height, width) - side
        pads.append((missing // 2, missing - missing // 2))
    repeat_edge = any(sum(pad) >= side for pad, side in zip(pads[2:], (height, width)))
    return pixels if height == width else np.pad(pixels, pads, "edge" if repeat_edge else "reflect")
