"""8-bit images, for models trained on image files: reflectance to bytes, resizing as in Pillow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def to_bytes(reflectance: np.ndarray) -> np.ndarray:
    """Reflectance 0..1 float32 to uint8: 255 x, truncated and not rounded, as a numpy cast
    does."""
    import numpy as np

    return (reflectance * np.float32(255)).astype(np.uint8)


def resize_and_crop(pixels: np.ndarray, side: int) -> np.ndarray:
    """(3, H, W) uint8 to (3, side, side), C-contiguous: the shorter side resized to ``side``, then
    a centre crop.

    Source: torchvision ``Resize(side, BICUBIC)`` of a Pillow image (long side ``int(side * long /
    short)``; bicubic with a = -0.5, antialiased) and ``CenterCrop(side)`` (offsets rounded half to
    even).
    """
    import numpy as np
    from PIL import Image

    height, width = pixels.shape[-2:]
    if (height, width) == (side, side):  # Pillow copies the image in this case
        return np.ascontiguousarray(pixels)
    short = min(height, width)
    size = [side if n == short else int(side * n / short) for n in (width, height)]
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    left, top = (round((n - side) / 2.0) for n in size)
    cropped = image.resize(size, Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    return np.ascontiguousarray(np.asarray(cropped).transpose(2, 0, 1))
