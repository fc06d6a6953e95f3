"""What one image takes: pictures through the network, operations, numbers in and out."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ModelError
from ..models import describe
from ..planning.flops import Picture
from ..planning.units import Source, Unit
from . import tile_layout


def frames_of(source: Source) -> int:
    """Most frames of a chip."""
    return 1 if source.frames.mode == "composite" else source.frames.count


#: What a core of a CPU computes, GFLOP/s, and what reading and preprocessing an image takes a thread, seconds: ``make bench-rates`` on
#: an Intel Xeon with AVX-512, and docs/benchmarks-models.md.
CORE_GFLOPS, READ_S = 150.0, 0.01
#: What a GPU computes, GFLOP/s: 60 % of the 19.5 TFLOP/s (float32) of NVIDIA's data sheet of the A100, assumed; and threads that read
#: for it.
GPU_GFLOPS, GPU_READERS = 11_700.0, 4


@dataclass(frozen=True)
class Image:
    """What one image of a unit takes.

    Attributes:
        passes: pictures through the network. flops: of all of them. numbers: that enter the network.
        embedding: numbers of its embedding, at most (of a box, the cells of the square that it lies in).
    """

    passes: int
    flops: int
    numbers: int
    embedding: int


def image(unit: Unit, output: str, shape: tuple[int, int], frames: int) -> Image | None:
    """One image of (height, width) pixels; None where the model does not say. An image that the model refuses takes nothing."""
    info = describe(unit.model)
    if info.cost is None:
        return None
    height, width = shape
    if min(shape) < info.smallest(unit.options):
        return Image(0, 0, 0, 0)
    try:
        layout = tile_layout.layout(height, width, unit.prep, output)
        count, cut = 1, False
        if layout is not None:
            count, cut = len(layout.spans), unit.prep.mode == "tile" or len(layout.spans) > 1
            height, width = (layout.tile, layout.tile) if count > 1 else (layout.height, layout.width)
        picture = Picture(height, width, frames, len(unit.sensor.bands), unit.sensor.scale_m, cut)
        one = info.cost(unit.options, unit.modality, picture)
    except ModelError:
        return Image(0, 0, 0, 0)
    depth, rows, columns = one.grid
    if count > 1:
        rows, columns = layout.joined(rows, columns)
    numbers = depth * rows * columns if output == "grid" else info.dim(unit.options)
    return Image(count, count * one.flops, count * one.numbers, numbers)


def seconds(unit: Unit, source: Source, output: str, shape: tuple[int, int], *, gpu: bool) -> float:
    """What an image of (height, width) pixels takes one core or one GPU, in float32, within a factor of three; 1 where nothing is
    known, or the model refuses such an image."""
    found = image(unit, output, shape, frames_of(source))
    if found is None or not found.passes:
        return 1.0
    if gpu:
        computing = found.flops / (GPU_GFLOPS * 1e9 * describe(unit.model).pace)
        return max(found.passes * READ_S / GPU_READERS, computing)
    return found.passes * READ_S + found.flops / (CORE_GFLOPS * 1e9)
