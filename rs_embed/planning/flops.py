"""Floating-point operations of forward passes, counted from sizes alone: 2 for a multiplication
and an addition.

Source: Hoffmann et al. 2022, arXiv 2203.15556, appendix F, for the matrix products of a
transformer (as Kaplan et al. 2020, arXiv 2001.08361, table 1). Only matrix products and
convolutions count, as in torch's ``FlopCounterMode``: norms, softmax, activations and sums are
less than 2 % of the operations of every model here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputShape:
    """Size of what enters a network in one forward pass: the whole image of a ROI, or one tile of
    it.

    Attributes:
        height, width: pixels. frames, bands: their number. scale_m: pixel size, metres.
        is_tile: a tile, or an image that fits into one where the request is for tiles.
    """

    height: int
    width: int
    frames: int
    bands: int
    scale_m: float
    is_tile: bool = False


@dataclass(frozen=True)
class PassCost:
    """What one forward pass of one input costs.

    Attributes:
        flops: floating-point operations.
        input_values: numbers that enter the network.
        grid: shape (D, h, w) of its grid.
    """

    flops: int
    input_values: int
    grid: tuple[int, int, int]


def matmul_flops(rows: int, inside: int, outside: int) -> int:
    """A matrix product (rows, inside) x (inside, outside): a linear layer on ``rows`` tokens, or
    patches as one product."""
    return 2 * rows * inside * outside


def transformer_flops(tokens: int, dim: int, depth: int, hidden: int) -> int:
    """Blocks of self-attention and an MLP of width ``hidden``: queries, keys and values; the
    logits and the mixing of values, tokens x tokens x dim each; the projection; two layers of the
    MLP."""
    attention = matmul_flops(tokens, dim, 3 * dim) + 2 * matmul_flops(tokens, tokens, dim)
    return depth * (attention + matmul_flops(tokens, dim, dim) + 2 * matmul_flops(tokens, dim, hidden))


def convolution_flops(height: int, width: int, channels: int, kernel: int, filters: int) -> int:
    """Filters of kernel x kernel at every position where they fit."""
    positions = max(0, height - kernel + 1) * max(0, width - kernel + 1)
    return matmul_flops(positions, channels * kernel**2, filters)
