"""Attention biases by distance (ALiBi) of grids of patches, cached by geometry.

Source: Press et al. 2022, arXiv 2108.12409 (slopes); in two dimensions as in THOR, Forgaard et al.
2026, arXiv 2601.16011.
"""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Largest size of a cache, bytes; it always keeps the last bias.
MAX_BYTES = 2**30


class BiasCache:
    """The attention biases of a network, one for each geometry, computed on its device at first
    use.

    Each is (1, heads, N, N) in the dtype of the queries, so that no block casts or copies it. Rows
    in memory are a multiple of 16 numbers long, so that the fused kernels of CPUs and GPUs use it
    without a copy.
    """

    def __init__(self) -> None:
        self._cache: collections.OrderedDict[tuple, torch.Tensor] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, slopes: torch.Tensor, sides: list[int], dtype: torch.dtype) -> torch.Tensor:
        """``-slope * distance``; ``sides`` are those of the grids of one image, whose largest
        patch has side 1."""
        key = (*sides, dtype, slopes.device)
        with self._lock:
            if key not in self._cache:
                self._cache[key] = compute_attention_bias(slopes, sides, dtype)
            self._cache.move_to_end(key)
            while len(self._cache) > 1 and sum(b.untyped_storage().nbytes() for b in self._cache.values()) > MAX_BYTES:
                self._cache.popitem(last=False)
            return self._cache[key]

    def __deepcopy__(self, memo: dict) -> BiasCache:
        """A copied network, in bfloat16 for example, has an empty cache; a lock cannot be
        copied."""
        return BiasCache()


def compute_attention_bias(slopes: torch.Tensor, sides: list[int], dtype: torch.dtype) -> torch.Tensor:
    """(1, heads, N, N): minus the slope of each head (heads,) times the distance between the
    centres of two patches, in sides of the largest patch. Grids of ``sides`` patches cover the
    same ground, so the coarsest grid has the largest patches."""
    import torch

    rows, columns = [], []
    for n in sides:
        line = (torch.arange(n, device=slopes.device, dtype=torch.float32) + 0.5) * (min(sides) / n)
        rows.append(line.repeat_interleave(n))
        columns.append(line.repeat(n))
    y, x = torch.cat(rows), torch.cat(columns)
    distance = torch.hypot(y[:, None] - y, x[:, None] - x)
    count = len(y)
    bias = torch.zeros(1, len(slopes), count, count + -count % 16, dtype=dtype, device=slopes.device)[..., :count]
    for head, slope in enumerate(slopes):
        bias[0, head] = -slope * distance
    return bias
