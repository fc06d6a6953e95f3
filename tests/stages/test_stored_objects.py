"""Bands of several stored chips in one array."""

from __future__ import annotations

import numpy as np
import pytest

from rs_embed.stages.shared.stored_objects import _stack_bands
from rs_embed.store.objects import Object


@pytest.mark.parametrize("frames", [(), (3,)], ids=["image", "frames"])
@pytest.mark.parametrize(
    ("fill", "dtype"), [(-9999.0, np.float32), (0.5, np.float32), (-1e9, np.float32), (7.0, np.int16)]
)
def test_a_band_without_imagery_has_the_fill_value(fill, dtype, frames):
    """A chip without imagery is stored as uint8, which cannot represent every fill value."""
    pixels = np.arange(2 * 3 * 4 * 5, dtype=np.int16).reshape(2, 3, 4, 5)[: frames[0] if frames else None]
    pixels = np.stack([pixels[0]] * 3)[:, :2] if frames else pixels[0, :2]
    full = Object(pixels, {"bands": ["B2", "B3"]}, "", 0)
    empty = Object(np.zeros((*frames, 1, 0, 0), np.uint8), {"bands": ["B8"]}, "", 0)
    found = _stack_bands(("B3", "B8", "B2"), {"B2": full, "B3": full, "B8": empty}, fill)
    assert found.shape == (*frames, 3, 4, 5) and found.dtype == dtype and found.flags.c_contiguous
    assert (found[..., 1, :, :] == fill).all()
    assert np.array_equal(found[..., [2, 0], :, :], pixels)
