"""What enters THOR: size, normalisation and ground sampling distances of an image.

Sources: the authors' pretraining code (``FM4CS/THOR``, commit 0d175b7) for what follows from the
preset ``official``; rs-embed 0.3.1 for ``rs-embed`` and for the sizes of images, which training
cut to its own. For a band x (reflectance, or dB of Sentinel-1) official input is

    z = min(max((x - mean) / std, -5), 5)

without a clip of x before; pixels without data get the mean of the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from ..errors import ModelError
from .base import Image

if TYPE_CHECKING:
    import numpy as np

#: Side of an image that is not used at its own pixel size, pixels (rs-embed 0.3.1; 2880 m of
#: ``_default_input_params`` in ``thor_terratorch_ext/models/backbones/thor_vit.py``).
SIZE = 288
#: Largest image used at its own pixel size: side in pixels, and tokens (rs-embed 0.3.1).
NATIVE_SIDE, NATIVE_TOKENS = 384, 3000
#: Largest difference of height and width that is cropped, not stretched, pixels (rs-embed 0.3.1).
NEARLY_SQUARE = 8
#: Most tokens of any image: the attention bias has heads * tokens^2 numbers, 2 GB for base.
MAX_TOKENS = 6480
#: Standard deviations at which training clamps values, on both sides
#: (``thor/data/thor_dataset_base.py``, ``clamp_5_sigma``; applied in ``_build_transforms`` right
#: after ``transforms.Normalize``).
CLAMP = 5.0


@dataclass(frozen=True)
class Group:
    """Bands that share tokens: their ground sampling distance in metres, and their names."""

    gsd: int
    bands: tuple[str, ...]


#: Groups of each modality by their name in the published file, in the order of their tokens
#: (``groups`` and ``channels`` of ``thor/config/pretrain/final/thor-base.yaml``).
GROUPS = {
    "s2": {
        "group0": Group(10, ("B2", "B3", "B4", "B8")),
        "group1": Group(20, ("B5", "B6", "B7", "B8A", "B11", "B12")),
    },
    "s1": {"group3": Group(10, ("VV", "VH"))},
}
#: Ground sampling distances of Sentinel-1 in training, metres: the product of 10 m, and its means
#: of 2 x 2, 3 x 3 and 4 x 4 pixels, whose distance the network was told
#: (``S1_multilook_factors`` of ``thor-base.yaml``; ``GSD *= multilook_factor`` in
#: ``thor/data/thor_iterable_dataset_v2.py``).
RADAR_GSDS = (10, 20, 30, 40)
#: Mean and standard deviation of the training imagery: reflectance, and dB of Sentinel-1 in IW
#: mode at 10 m (``thor/data/thor_dataset_base.py``, ``THORDatasetBase.NORMALIZATION``: products
#: S2-10m, S2-20m and S1-IW-VV-10m).
STATISTICS = {
    "B2": (0.176620, 0.264520),
    "B3": (0.195923, 0.252949),
    "B4": (0.213948, 0.259180),
    "B5": (0.263378, 0.272771),
    "B6": (0.300818, 0.248175),
    "B7": (0.313144, 0.235432),
    "B8": (0.308133, 0.226434),
    "B8A": (0.320993, 0.223274),
    "B11": (0.221550, 0.171606),
    "B12": (0.175772, 0.156223),
    "VV": (-12.9850, 5.0062),
    "VH": (-20.6958, 5.8688),
}
BANDS = {"s2": ("B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12"), "s1": ("VV", "VH")}


class InputOptions(Protocol):
    """The options of THOR that decide its input."""

    @property
    def preset(self) -> str:
        """``official`` or ``rs-embed``."""

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""


def check_scale(scale_m: float) -> int:
    """The pixel size, whole metres."""
    if scale_m != int(scale_m) or scale_m < 1:
        raise ModelError(f"pixels of {scale_m:g} m are not valid; allowed: whole metres")
    return int(scale_m)


def get_gsds(modality: str, scale: int, options: InputOptions) -> dict[str, int]:
    """Ground sampling distance of each group, metres. Sentinel-1 keeps pixel sizes that training
    had; any other image is resampled to that of its group."""
    told = modality == "s1" and options.preset == "official" and scale in RADAR_GSDS
    return {name: scale if told else group.gsd for name, group in GROUPS[modality].items()}


def _get_patches(modality: str, scale: int, options: InputOptions) -> list[int]:
    """Side of a patch of each group on the ground, metres."""
    return [options.patch_size * gsd for gsd in get_gsds(modality, scale, options).values()]


def choose_native_side(shape: tuple[int, ...], scale: int, modality: str, options: InputOptions) -> int | None:
    """Side of an image that is used at its own pixel size: the multiple nearest to its side that
    the patches of every group divide, the smaller of two. None where it is not nearly square or
    too large, and stretched to SIZE (rs-embed 0.3.1, native_snap)."""
    if abs(shape[0] - shape[1]) > NEARLY_SQUARE:
        return None
    patches = _get_patches(modality, scale, options)
    step = math.lcm(*(patch // math.gcd(scale, patch) for patch in patches))
    side = min(shape)
    lower, upper = max(step, side // step * step), max(step, -(-side // step) * step)
    snapped = lower if side - lower <= upper - side else upper
    tokens = sum((snapped * scale // patch) ** 2 for patch in patches)
    return snapped if snapped <= NATIVE_SIDE and tokens <= NATIVE_TOKENS else None


def check_patches(side: int, scale: int, modality: str, options: InputOptions) -> None:
    """Refuse pixel sizes with which the image is not divisible into patches, or has too many."""
    ground, patches = side * scale, _get_patches(modality, scale, options)
    tokens = sum((ground // patch) ** 2 for patch in patches)
    if any(ground % patch for patch in patches) or tokens > MAX_TOKENS:
        raise ModelError(
            f"pixels of {scale} m are not valid for an image of {side} x {side} ({tokens} patches of {max(patches)} m and less); "
            f"allowed: pixel sizes whose image has whole patches, {MAX_TOKENS} at most, such as 10"
        )


def make_inputs(image: Image, options: InputOptions) -> dict[str, np.ndarray]:
    """The bands of each group at its ground sampling distance: (bands, n, n) float32 by the name
    of the group. Where that distance is not the group's own also ``gsd``, (1,) float32, in metres:
    the shape does not show it.

    Raises:
        ModelError: the pixels or their size are not valid.
    """
    import numpy as np

    from .shared.inputs import resize

    scale = check_scale(image.scale_m)
    pixels = _read_values(image, options.preset)
    side = None if image.is_tile else choose_native_side(pixels.shape[2:], scale, image.modality, options)
    if side is not None:
        pixels = _crop_or_pad(pixels, side, "edge" if options.preset == "official" else "constant")
    pixels = _normalize(pixels, image.modality, options.preset)
    if side is None:
        side = SIZE
        pixels = resize(pixels, side, side)
    check_patches(side, scale, image.modality, options)
    inputs = {}
    gsds = get_gsds(image.modality, scale, options)
    for name, group in GROUPS[image.modality].items():
        chosen = pixels[:, [BANDS[image.modality].index(band) for band in group.bands]]
        n = side * scale // gsds[name]
        inputs[name] = np.ascontiguousarray(resize(chosen, n, n)[0])
    told = [gsds[name] for name, group in GROUPS[image.modality].items() if gsds[name] != group.gsd]
    return inputs | ({"gsd": np.array(told, np.float32)} if told else {})


def _read_values(image: Image, preset: str) -> np.ndarray:
    """(1, C, H, W) float32: DN or linear power. ``official``: NaN where there is no data, which is
    0 in all bands of Sentinel-2 (Sentinel-2 L2A product definition), and no power in a band of
    Sentinel-1. ``rs-embed``: DN clipped to 0..10000, without data 0."""
    import numpy as np

    from .shared.inputs import to_digital_numbers, to_linear_power

    allowed = BANDS[image.modality]
    if image.pixels.ndim == 4 and (image.pixels.shape[1] != len(allowed) or len(image.pixels) != 1):
        raise ModelError(
            f"pixels of shape {image.pixels.shape} are not valid; allowed: 1 frame of {', '.join(allowed)}"
        )
    values = to_digital_numbers(image) if image.modality == "s2" else to_linear_power(image)
    if preset == "rs-embed":
        return np.clip(values, 0, 10000) if image.modality == "s2" else values
    missing = (values == 0).all(1, keepdims=True) if image.modality == "s2" else values == 0
    if image.pixels.dtype.kind == "f":
        missing = missing | ~np.isfinite(image.pixels)
    return np.where(missing, np.float32(np.nan), values)


def _normalize(values: np.ndarray, modality: str, preset: str) -> np.ndarray:
    """Input values of the network, without NaN: z-scores of reflectance or dB; with rs-embed the
    logarithm of power over its 99th percentile."""
    import numpy as np

    from .shared.inputs import DN_PER_REFLECTANCE, scale_log_power, to_decibel

    if modality == "s1" and preset == "rs-embed":
        return scale_log_power(values)
    mean, deviation = np.array([STATISTICS[band] for band in BANDS[modality]], np.float32).T[:, :, None, None]
    physical = values / np.float32(DN_PER_REFLECTANCE) if modality == "s2" else to_decibel(values)
    z = (physical - mean) / deviation
    return z if preset == "rs-embed" else _fill_missing(np.clip(z, np.float32(-CLAMP), np.float32(CLAMP)))


def _fill_missing(z: np.ndarray) -> np.ndarray:
    """(1, C, H, W) with the mean of the other pixels of a band in place of NaN
    (``thor/data/thor_dataset_base.py``, ``collate_fn``); 0, the mean of all training imagery,
    where a band has no other pixels."""
    import numpy as np

    missing = np.isnan(z)
    if not missing.any():
        return z
    z = np.where(missing, np.float32(0), z)
    counts = np.maximum((~missing).sum((2, 3), keepdims=True), 1)
    return np.where(missing, (z.sum((2, 3), keepdims=True, dtype=np.float64) / counts).astype(np.float32), z)


def _crop_or_pad(pixels: np.ndarray, side: int, pad: Literal["constant", "edge"]) -> np.ndarray:
    """(T, C, H, W) cropped to its shorter side, then cropped or padded to ``side``, about the
    centre; an odd pixel is cropped, or added, at the bottom and right."""
    import numpy as np

    for length in (min(pixels.shape[2:]), side):
        surplus = [n - length for n in pixels.shape[2:]]
        rows, columns = (slice(max(n, 0) // 2, max(n, 0) // 2 + length) for n in surplus)
        before = [max(-n, 0) // 2 for n in surplus]
        pixels = pixels[:, :, rows, columns]
        if min(surplus) < 0:
            widths = [(0, 0), (0, 0), *((first, max(-n, 0) - first) for n, first in zip(surplus, before))]
            pixels = np.pad(pixels, widths, pad)
    return pixels
