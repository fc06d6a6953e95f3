"""The cost of embedding one image: forward passes, operations, numbers in and out, seconds."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ModelError
from ..models import get_model_info
from ..planning.flops import InputShape
from ..planning.units import Source, Unit
from . import tile_layout

#: Rate of a core of a CPU, GFLOP/s, and time of a thread to read and preprocess an image, seconds:
#: ``make bench-rates`` on an Intel Xeon with AVX-512, and docs/benchmarks-models.md.
CORE_GFLOPS, READ_S = 150.0, 0.01
#: Rate of a GPU, GFLOP/s: 60 % (assumed) of the 19.5 TFLOP/s (float32) in NVIDIA's data sheet of
#: the A100; and the number of threads that read for it.
GPU_GFLOPS, GPU_READERS = 11_700.0, 4


@dataclass(frozen=True)
class ImageCost:
    """What one image of a unit costs.

    Attributes:
        passes: tiles that pass through the network. flops: operations of all passes.
        input_values: numbers that enter the network.
        embedding_values: numbers of its embedding, at most (for a box, the cells of its enclosing
            square).
    """

    passes: int
    flops: int
    input_values: int
    embedding_values: int


def max_frames(source: Source) -> int:
    """Most frames of a chip."""
    return 1 if source.frames.mode == "composite" else source.frames.count


def compute_image_cost(unit: Unit, output: str, shape: tuple[int, int], frames: int) -> ImageCost | None:
    """The cost of one image of (height, width) pixels; 0 of an image that the model refuses, None
    where the cost of the model is unknown."""
    info = get_model_info(unit.model)
    if info.cost is None:
        return None
    height, width = shape
    if min(shape) < info.smallest(unit.options):
        return ImageCost(0, 0, 0, 0)
    try:
        layout = tile_layout.compute_layout(height, width, unit.prep, output)
        count, is_tile = 1, False
        if layout is not None:
            count = len(layout.tiles)
            is_tile = unit.prep.mode == "tile" or count > 1
            height, width = (layout.tile_size, layout.tile_size) if count > 1 else (layout.height, layout.width)
        size = InputShape(height, width, frames, len(unit.sensor.bands), unit.sensor.scale_m, is_tile)
        cost = info.cost(unit.options, unit.modality, size)
    except ModelError:
        return ImageCost(0, 0, 0, 0)
    depth, rows, columns = cost.grid
    if layout is not None and count > 1:
        rows, columns = layout.joined_shape(rows, columns)
    embedding_values = depth * rows * columns if output == "grid" else info.dim(unit.options)
    return ImageCost(count, count * cost.flops, count * cost.input_values, embedding_values)


def estimate_seconds(unit: Unit, source: Source, output: str, shape: tuple[int, int], *, gpu: bool) -> float:
    """Time of one core or one GPU for an image of (height, width) pixels in float32, within a
    factor of three; 1 where the cost is unknown, or the model refuses the image."""
    cost = compute_image_cost(unit, output, shape, max_frames(source))
    if cost is None or not cost.passes:
        return 1.0
    if gpu:
        computing = cost.flops / (GPU_GFLOPS * 1e9 * get_model_info(unit.model).pace)
        return max(cost.passes * READ_S / GPU_READERS, computing)
    return cost.passes * READ_S + cost.flops / (CORE_GFLOPS * 1e9)
