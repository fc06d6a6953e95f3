"""A ROI's input of a model: the image that its adapter reads, and (``save_inputs="model"``) the
tensors that enter its network."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from ...models import get_adapter
from ...planning.units import Source, Unit
from ...providers import Roi
from ...providers.composite import midpoint, time_bins
from ...request.specs import PointBuffer
from ...runs.run import Run
from .quality import assess_input, describe_missing_imagery, find_bad_input
from .stored_objects import read_chip

if TYPE_CHECKING:
    import numpy as np

    from ...models.base import Image


class NoData(Exception):
    """The ROI has no imagery: a result, not a failure."""


def make_image(run: Run, unit: Unit, roi: Roi, metas: dict[int, dict]) -> Image:
    """The image of a ROI as the adapter reads it. Adds the metadata of its embedding to ``metas``,
    by the ROI's index.

    Raises:
        NoData: the ROI has no imagery. ModelError: bad input, with ``fail_on_bad_input``.
    """
    from ...models.base import Image
    from ...request.geometry import Grid, model_location

    source = run.plan.source[run.plan.chip_source(unit, roi.index)]
    pixels, chip = read_chip(run, source.id, unit.sensor.bands, run.plan.object_names(source.id)[roi.index])
    meta = {k: chip[k] for k in ("status", "crs", "affine", "dates", "date_is", "provenance", "roi") if k in chip}
    if pixels is None:
        metas[roi.index] = meta | {"quality": describe_missing_imagery(chip)}
        raise NoData
    quality = assess_input(run, unit, pixels, chip, source.identity["fill_value"])
    if bad := find_bad_input(run, quality):
        raise bad
    height, width = pixels.shape[-2:]
    metas[roi.index] = meta | {"quality": quality, "shape": [height, width]}
    grid = Grid(chip["crs"], tuple(chip["affine"]), width, height)
    lon, lat = model_location(roi.spatial, run.request.config.projection, grid)
    # rs-embed 0.3.1 gives all tiles of a point the point's coordinates
    tiles_alike = unit.options.preset == "rs-embed" and isinstance(roi.spatial, PointBuffer)
    frames = _zero_fill(pixels if pixels.ndim == 4 else pixels[None], source, unit)
    window = None if roi.temporal is None else (roi.temporal.start, roi.temporal.end)
    roi_window = tuple(chip["roi"]) if "roi" in chip else None
    grid_of_tiles = None if tiles_alike else grid
    bands, scale_m, dates = unit.sensor.bands, unit.sensor.scale_m, tuple(chip["dates"])
    bins = time_bins(roi.temporal, source.frames) if roi.temporal else []
    return Image(
        *(unit.modality, frames, bands, scale_m, lon, lat, dates, window, roi_window),
        grid=grid_of_tiles,
        bin_dates=tuple(midpoint(start, end) for start, end in bins),
    )


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
    its embedding was computed from, because preprocessing is a function of the chip. In C
    order (:func:`~rs_embed.engine.preprocessing.compute_inputs`), with a leading axis of tiles
    where the ROI was cut into several.

    Raises:
        NoData, ModelError: from :func:`make_image` and the adapter. StoreError: the chip is
            damaged or missing.
    """
    import numpy as np

    from ...engine.preprocessing import compute_inputs
    from ...engine.tiled_image import tile_image

    adapter = get_adapter(unit.model)
    image = make_image(run, unit, run.roi(index), {})
    tiled = tile_image(adapter, unit.options, unit.prep, run.request.output, index, image)
    preprocess = functools.partial(adapter.preprocess, options=unit.options)
    tiles = [compute_inputs(preprocess, tiled.tile(number)) for number in range(tiled.count)]
    if len(tiles) == 1:
        return dict(sorted(tiles[0].items()))
    stacked = {name: np.stack([tile[name] for tile in tiles]) for name in sorted(tiles[0])}
    return {name: np.ascontiguousarray(array) for name, array in stacked.items()}
