"""Pictures of 8 bits, for models that were trained on image files: reflectance to bytes, and the resizing of Pillow.

Models of this kind saw ``Resize`` and ``CenterCrop`` of torchvision on a Pillow image, which computes in integers. :func:`resize`
gives the same bytes as Pillow before 13, in every version: Pillow 13 changed the order of its two passes where the height shrinks much
more than the width (pull request 9549; squares are the same in both). torch's ``interpolate`` on bytes is only near: every image
differs in some.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

#: Pillow keeps the weights of a resize as integers with this many binary places (``Resample.c``, ``PRECISION_BITS``).
_PLACES = 22
#: Output pixels computed at a time: each block reads only the input that it needs.
_BLOCK = 16


def to_bytes(reflectance: np.ndarray) -> np.ndarray:
    """Reflectance 0..1 float32 to uint8: 255 x, cut off and not rounded, as a numpy cast does."""
    import numpy as np

    return (reflectance * np.float32(255)).astype(np.uint8)


def fit(pixels: np.ndarray, side: int) -> np.ndarray:
    """(C, H, W) uint8 to (C, side, side): the shorter side resized to ``side``, then the centre.

    Source: torchvision ``Resize(side, BICUBIC)`` (long side ``int(side * long / short)``) and ``CenterCrop(side)`` (offsets
    rounded half to even).
    """
    height, width = pixels.shape[-2:]
    short = min(height, width)
    height, width = (side if n == short else int(side * n / short) for n in (height, width))
    top, left = (round((n - side) / 2.0) for n in (height, width))
    return resize(pixels, height, width)[:, top : top + side, left : left + side]


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """(C, H, W) uint8 to (C, height, width): bicubic with a = -0.5, widened when it shrinks (antialiased), along rows
    first, then along columns, rounded to bytes in between. An axis that keeps its length is left alone."""
    import numpy as np
    import torch

    image = torch.from_numpy(np.ascontiguousarray(pixels))
    if width != image.shape[2]:
        image = _along_last(image, width)
    if height != image.shape[1]:
        image = _along_last(image.mT, height).mT
    return image.numpy()


def _along_last(image: object, size: int) -> object:
    """One pass. Integers of 22 + 8 bits and a few thousand terms are exact in float64, in any order of summation."""
    import torch

    first, last, weights = _weights(image.shape[-1], size)
    made = torch.empty((*image.shape[:-1], size), dtype=torch.uint8)
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        low, high = int(first[start]), int(last[stop - 1])
        sums = image[..., low:high].to(torch.float64) @ torch.from_numpy(weights[start:stop, low:high].T)
        made[..., start:stop] = sums.add_(2.0 ** (_PLACES - 1)).mul_(2.0**-_PLACES).floor_().clamp_(0, 255)
    return made


@functools.lru_cache(maxsize=16)
def _weights(before: int, after: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last + 1 input pixel of each output pixel, and the weights, (after, before) float64 holding integers.

    Output pixel i sees centre (i + 1/2) s with s = before / after, and input within 2 max(s, 1) of it. The kernel is Keys'
    with a = -1/2 (1981, IEEE TASSP 29(6), eq. 15): (a+2)|x|^3 - (a+3)|x|^2 + 1 below 1, a(|x|^3 - 5|x|^2 + 8|x| - 4) below 2.
    The order of every operation is Pillow's (``precompute_coeffs``), so that weights round to the same integers.
    """
    import numpy as np

    scale = before / after
    stretch = max(scale, 1.0)
    centre = (np.arange(after) + 0.5) * scale
    first = np.maximum((centre - 2.0 * stretch + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + 2.0 * stretch + 0.5).astype(np.int64), before)
    at = first[:, None] + np.arange((last - first).max())
    x = np.abs((at - centre[:, None] + 0.5) * (1.0 / stretch))
    near = ((-0.5 + 2.0) * x - (-0.5 + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    kernel = np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0)) * (at < last[:, None])
    kernel /= np.cumsum(kernel, axis=1)[:, -1:]
    fixed = np.trunc(kernel * 2.0**_PLACES + np.copysign(0.5, kernel))
    weights = np.zeros((after, before))
    inside = at < last[:, None]
    weights[np.broadcast_to(np.arange(after)[:, None], at.shape)[inside], at[inside]] = fixed[inside]
    return first, last, weights
