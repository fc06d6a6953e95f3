"""Floating-point operations of forward passes, counted from sizes alone: 2 for a multiplication and an addition.

Source: Hoffmann et al. 2022, arXiv 2203.15556, appendix F, for the products of a transformer (as Kaplan et al. 2020, arXiv
2001.08361, table 1). Only matrix products and convolutions count, as in torch's ``FlopCounterMode``: norms, softmax, activations
and sums are less than 2 % of the operations of every model here.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Picture:
    """What a network is asked about, in one piece: the whole image of a ROI, or one tile of it.

    Attributes:
        height, width: pixels. frames, bands: numbers of them. scale_m: pixel size, metres.
        tile: the request is for tiles.
    """

    height: int
    width: int
    frames: int
    bands: int
    scale_m: float
    tile: bool = False


@dataclass(frozen=True)
class Pass:
    """One forward pass of one picture.

    Attributes:
        flops: floating-point operations.
        numbers: that enter the network.
        grid: shape (D, h, w) of what a grid has for it.
    """

    flops: int
    numbers: int
    grid: tuple[int, int, int]


def product(rows: int, inside: int, outside: int) -> int:
    """A matrix product (rows, inside) x (inside, outside): a linear layer on so many tokens, or patches as one."""
    return 2 * rows * inside * outside


def transformer(tokens: int, dim: int, depth: int, hidden: int) -> int:
    """Blocks of self-attention and an MLP of width ``hidden``: queries, keys and values; the logits and the mixing of values,
    tokens x tokens x dim each; the projection; two layers of the MLP."""
    attention = product(tokens, dim, 3 * dim) + 2 * product(tokens, tokens, dim) + product(tokens, dim, dim)
    return depth * (attention + 2 * product(tokens, dim, hidden))


def convolution(height: int, width: int, channels: int, kernel: int, filters: int) -> int:
    """Filters of kernel x kernel over every place where they fit."""
    places = max(0, height - kernel + 1) * max(0, width - kernel + 1)
    return product(places, channels * kernel**2, filters)
