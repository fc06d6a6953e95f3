"""A ROI's input of a model: the image that its adapter reads, the quality of its pixels, and
(``save_inputs="model"``) the tensors that enter its network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...errors import ModelError
from ...models import get_adapter
from ...planning.units import Source, Unit
from ...providers import Roi
from ...request.specs import PointBuffer
from ...runs.run import Run
from .stored_objects import read_chip

if TYPE_CHECKING:
    import numpy as np

    from ...models.base import Image


class NoData(Exception):
    """The ROI has no imagery: a result, not a failure."""


def find_bad_input(run: Run, quality: dict) -> ModelError | None:
    """The error of an image with warnings, with ``fail_on_bad_input``; also for an embedding that
    is stored already."""
    if quality.get("warnings") and run.request.config.fail_on_bad_input:
        return ModelError(f"bad input: {'; '.join(quality['warnings'])}")
    return None


def make_image(run: Run, unit: Unit, roi: Roi, metas: dict[int, dict]) -> Image:
    """The image of a ROI as the adapter reads it. Adds the metadata of its embedding to ``metas``,
    by the ROI's index.

    Raises:
        NoData: the ROI has no imagery. ModelError: bad input, with ``fail_on_bad_input``.
    """
    from ...models.base import Image
    from ...request.geometry import Grid, model_location

    pixels, chip = read_chip(run, unit.source, unit.sensor.bands, run.plan.object_names(unit.source)[roi.index])
    meta = {k: chip[k] for k in ("status", "crs", "affine", "dates", "provenance", "roi") if k in chip}
    if pixels is None:
        known = {"warnings": chip["warnings"]} if chip["warnings"] else {}
        metas[roi.index] = meta | {"quality": {"valid": 0.0} | known}
        raise NoData
    quality = inspect_pixels(pixels, unit.sensor.bands, chip["valid"], chip["warnings"])
    if bad := find_bad_input(run, quality):
        raise bad
    height, width = pixels.shape[-2:]
    metas[roi.index] = meta | {"quality": quality, "shape": [height, width]}
    grid = Grid(chip["crs"], tuple(chip["affine"]), width, height)
    lon, lat = model_location(roi.spatial, run.request.config.projection, grid)
    # rs-embed 0.3.1 gives all tiles of a point the point's coordinates
    tiles_alike = unit.options.preset == "rs-embed" and isinstance(roi.spatial, PointBuffer)
    frames = _zero_fill(pixels if pixels.ndim == 4 else pixels[None], run.plan.source[unit.source], unit)
    window = None if roi.temporal is None else (roi.temporal.start, roi.temporal.end)
    roi_window = tuple(chip["roi"]) if "roi" in chip else None
    grid_of_tiles = None if tiles_alike else grid
    bands, scale_m, dates = unit.sensor.bands, unit.sensor.scale_m, tuple(chip["dates"])
    return Image(unit.modality, frames, bands, scale_m, lon, lat, dates, window, roi_window, grid=grid_of_tiles)


def _zero_fill(frames: np.ndarray, source: Source, unit: Unit) -> np.ndarray:
    """Pixels without data as 0, whatever the fill value of the request: models with known bands
    treat 0 as no data."""
    import numpy as np

    fill = source.identity["fill_value"]
    if fill == 0 or get_adapter(unit.model).info.any_bands:
        return frames
    return np.where(frames == fill, frames.dtype.type(0), frames)


def make_tensors(run: Run, unit: Unit, index: int) -> dict[str, np.ndarray]:
    """The tensors that enter the network for a ROI, by the adapter's names. They are the ones that
    its embedding was computed from, because preprocessing is a function of the chip. float32,
    C-contiguous; with a leading axis of tiles where the ROI was cut into several.

    Raises:
        NoData, ModelError: from :func:`make_image` and the adapter. StoreError: the chip is
            damaged or missing.
    """
    import numpy as np

    from ...engine.tiled_image import tile_image

    adapter = get_adapter(unit.model)
    image = make_image(run, unit, run.roi(index), {})
    tiled = tile_image(adapter, unit.options, unit.prep, run.request.output, index, image)
    tiles = [adapter.preprocess(tiled.tile(number), unit.options) for number in range(tiled.count)]
    tensors = {}
    for name in sorted(tiles[0]):
        tensor = tiles[0][name] if len(tiles) == 1 else np.stack([tile[name] for tile in tiles])
        # adapters may return transposed views, and np.stack keeps the order of their axes in
        # memory
        tensors[name] = np.asarray(tensor, order="C")
    return tensors


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
