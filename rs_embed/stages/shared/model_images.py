"""A ROI as a model sees it: the image that its adapter takes, and (``save_inputs="model"``) the tensors that enter its network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import ModelError
from ...models import get_adapter
from ...planning.units import Source, Unit
from ...providers import Roi
from ...request.specs import PointBuffer
from ...runs.run import Run
from .common import read_chip
from .quality import inspect

if TYPE_CHECKING:
    import numpy as np

    from ...models.base import Image


class NoData(Exception):
    """There is no imagery: an answer, not a failure."""


def bad_input(run: Run, quality: dict) -> ModelError | None:
    """The error of an image with warnings, where the request wants one; also for an embedding that is there already."""
    if quality.get("warnings") and run.request.config.fail_on_bad_input:
        return ModelError(f"bad input: {'; '.join(quality['warnings'])}")
    return None


def image_of(run: Run, unit: Unit, roi: Roi, metas: dict[int, dict]) -> Image:
    """The image of a ROI as the adapter takes it; the metadata of its embedding go into ``metas``.

    Raises:
        NoData: there is no imagery. ModelError: bad input, where that is to be an error.
    """
    from ...models.base import Image
    from ...request.geometry import Grid, centre_of_request

    pixels, chip = read_chip(run, unit.source, unit.sensor.bands, run.plan.objects(unit.source)[roi.index])
    meta = {k: chip[k] for k in ("status", "crs", "affine", "dates", "provenance", "roi") if k in chip}
    if pixels is None:
        known = {"warnings": chip["warnings"]} if chip["warnings"] else {}
        metas[roi.index] = meta | {"quality": {"valid": 0.0} | known}
        raise NoData
    quality = inspect(pixels, unit.sensor.bands, chip["valid"], chip["warnings"])
    bad = bad_input(run, quality)
    if bad:
        raise bad
    height, width = pixels.shape[-2:]
    metas[roi.index] = meta | {"quality": quality, "shape": [height, width]}
    grid = Grid(chip["crs"], tuple(chip["affine"]), width, height)
    lon, lat = centre_of_request(roi.spatial, run.request.config.projection, grid)
    # rs-embed 0.3.1 tells all tiles of a point the point's place
    tiles_alike = unit.options.preset == "rs-embed" and isinstance(roi.spatial, PointBuffer)
    frames = _emptied(pixels if pixels.ndim == 4 else pixels[None], run.plan.source[unit.source], unit)
    return Image(
        unit.modality,
        frames,
        unit.sensor.bands,
        unit.sensor.scale_m,
        lon,
        lat,
        tuple(chip["dates"]),
        None if roi.temporal is None else (roi.temporal.start, roi.temporal.end),
        tuple(chip["roi"]) if "roi" in chip else None,
        grid=None if tiles_alike else grid,
    )


def _emptied(frames: np.ndarray, source: Source, unit: Unit) -> np.ndarray:
    """Pixels without data as 0, whatever the request fills them with: what models that know their bands take for no data."""
    import numpy as np

    fill = source.identity["fill_value"]
    if fill == 0 or get_adapter(unit.model).info.any_bands:
        return frames
    return np.where(frames == fill, frames.dtype.type(0), frames)


def tensors_of(run: Run, unit: Unit, index: int) -> dict[str, np.ndarray]:
    """What enters the network for a ROI, by the adapter's names, as it was when the embedding was made: preprocessing is a
    function of the chip. float32; with an axis of tiles in front where the ROI was cut into several.

    Raises:
        NoData, ModelError: as :func:`image_of` and the adapter do. StoreError: the chip is damaged or gone.
    """
    import numpy as np

    from ...engine.tiled_image import pieces_of

    adapter = get_adapter(unit.model)
    image = image_of(run, unit, run.roi(index), {})
    pieces = pieces_of(adapter, unit.options, unit.prep, run.request.output, index, image)
    made = [adapter.preprocess(pieces.image(number), unit.options) for number in range(pieces.count)]
    return {name: made[0][name] if len(made) == 1 else np.stack([m[name] for m in made]) for name in sorted(made[0])}
