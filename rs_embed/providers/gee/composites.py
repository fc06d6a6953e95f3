"""Expressions for composites of images: several windows and bands in one image, with bits that
mark where they are valid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...planning.units import Source
from ...request.geometry import Grid
from . import masks
from .band_types import CASTS
from .images import FoundImages, Scene, Window, filtered_collections

if TYPE_CHECKING:
    import numpy as np

#: Number of bands whose validity one band of bits stores.
BITS = 32
#: Most bands of values in one image: with their bands of bits, fewer than Earth Engine's limit of
#: 1,024.
MAX_PLANES = 31 * BITS


def composite_expression(
    ee: Any, source: Source, planes: Sequence[tuple[Window, str]], found: FoundImages, grid: Grid, dtype: np.dtype
) -> tuple[Any, list[str], list[str]]:
    """One image with the composites of several bands and windows, and bits that mark where they
    are valid.

    Args:
        planes: (window, band of the collection) of every band of the image, at most
            ``MAX_PLANES``.
        found: the images of the ROI.
        grid: its footprint selects the images.
        dtype: of the values; masked values are 0.

    Returns:
        (expression, names of the values' bands, names of the bands of bits: bit i of band k is
        plane 32 * k + i).
    """
    names = [f"p{i}" for i in range(len(planes))]
    stack = None
    for window, group in itertools.groupby(enumerate(planes), key=lambda p: p[1][0]):
        numbers, bands = zip(*((i, band) for i, (_, band) in group))
        one = _composite_of_window(ee, source, window, bands, found, grid, dtype).rename([names[i] for i in numbers])
        stack = one if stack is None else stack.addBands(one)
    assert stack is not None, "planes is not empty"
    image, bits = _cast(stack.unmask(0, False), dtype), []
    for start in range(0, len(names), BITS):
        group_names = names[start : start + BITS]
        weights = ee.Image.constant([2**i for i in range(len(group_names))])
        cast = "toUint8" if len(group_names) <= 8 else "toUint16" if len(group_names) <= 16 else "toUint32"
        valid = stack.select(group_names).mask().gt(0).multiply(weights).reduce(ee.Reducer.sum())
        bits.append(f"v{start // BITS}")
        image = image.addBands(getattr(valid, cast)().rename([bits[-1]]))
    return image, names, bits


def masked_counts(ee: Any, source: Source, window: Window, found: FoundImages, grid: Grid) -> Any:
    """:func:`masks.count_expression` of the images of a window."""
    mask = source.identity["mask"]
    images = _images_of(ee, source, window, found, grid)
    lacking = _lacking(masks.own_bands(mask), found, window)
    return masks.count_expression(ee, images.map(lambda image: _fill_up(ee, ee.Image(image), lacking)), mask)


def _images_of(ee: Any, source: Source, window: Window, found: FoundImages, grid: Grid) -> Any:
    """The images of a window, with the quality band of the source's mask."""
    *_, images = filtered_collections(ee, source, window, grid)
    if found.iw:
        images = images.filter(ee.Filter.eq("instrumentMode", "IW"))
    mask = source.identity.get("mask")
    return masks.link_quality(ee, images, mask) if mask else images


def _composite_of_window(
    ee: Any, source: Source, window: Window, bands: Sequence[str], found: FoundImages, grid: Grid, dtype: np.dtype
) -> Any:
    """Expression for the composite of some bands over one window."""
    images = _images_of(ee, source, window, found, grid)
    is_mosaic, scenes = source.identity["composite"] == "mosaic", found.scenes_in(window)
    if is_mosaic:
        images = _by_time(ee, images, scenes)
    lacking = _lacking([*bands, *masks.own_bands(source.identity.get("mask"))], found, window)
    if "mask" in source.identity or lacking or len({s.signature for s in scenes}) > 1:
        images = _uniform(ee, source, images, bands, lacking, dtype)
    else:
        images = images.select(list(bands))
    return images.mosaic() if is_mosaic else images.median()  # the last image of a mosaic is on top


def _by_time(ee: Any, images: Any, scenes: Sequence[Scene]) -> Any:
    """Images by time, those without a time first: where a sort places them is not documented."""
    timed = [scene.datetime is not None for scene in scenes]
    if all(timed):
        return images.sort("system:time_start")
    has_time = ee.Filter.notNull(["system:time_start"])
    untimed = images.filter(has_time.Not()).sort("system:index")
    return untimed.merge(images.filter(has_time).sort("system:time_start")) if any(timed) else untimed


def _uniform(
    ee: Any, source: Source, images: Any, bands: Sequence[str], lacking: Sequence[str], dtype: np.dtype
) -> Any:
    """Images with the same bands of one type, without the pixels that the source's mask removes.

    Reducers need a homogeneous collection. A band of ``lacking`` that an image lacks is masked in
    it.
    """
    mask = source.identity.get("mask")

    def prepare(image: Any) -> Any:
        full = _fill_up(ee, ee.Image(image), lacking)
        pixels = _cast(full.select(list(bands)), dtype)
        return pixels.updateMask(masks.clear_expression(ee, full, mask)) if mask else pixels

    return images.map(prepare)


def _lacking(bands: Sequence[str], found: FoundImages, window: Window) -> list[str]:
    """Those of some bands of the collection that an image of a window lacks."""
    scenes = found.scenes_in(window)
    return [band for band in dict.fromkeys(bands) if any(band not in scene.types for scene in scenes)]


def _fill_up(ee: Any, image: Any, bands: Sequence[str]) -> Any:
    """An image with some more bands that are masked everywhere; a band that it has is added under
    another name."""
    if not bands:
        return image
    return image.addBands(ee.Image.constant([0] * len(bands)).rename(list(bands)).updateMask(0))


def _cast(image: Any, dtype: np.dtype) -> Any:
    return getattr(image, CASTS[dtype.name])()


def bytes_per_pixel(planes: int, dtype: np.dtype) -> int:
    """Uncompressed bytes of a pixel of :func:`composite_expression`."""
    full, last = divmod(planes, BITS)
    return planes * dtype.itemsize + 4 * full + (1 if 0 < last <= 8 else 2 if 0 < last <= 16 else 4 * bool(last))
