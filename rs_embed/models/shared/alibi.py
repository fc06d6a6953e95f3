"""Attention biases by distance (ALiBi) of grids of patches: made once for a geometry, in the layout that fused kernels take.

Source: Press et al. 2022, arXiv 2108.12409 (slopes); in two dimensions as THOR has it, Forgaard et al. 2026, arXiv 2601.16011.
"""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Attention biases of this many bytes are kept, and always the last one.
KEPT_BYTES = 2**30


class Biases:
    """The attention biases of a network, one for each geometry, computed on its device when first asked for.

    Each is (1, heads, N, N) in the dtype of the queries, so that it is never cast or copied by a block, in memory with rows of a
    multiple of 16 numbers: what the fused kernels of CPUs and GPUs take as it is.
    """

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[tuple, torch.Tensor] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get(self, slopes: torch.Tensor, sides: list[int], dtype: torch.dtype) -> torch.Tensor:
        """``-slope * distance``; ``sides`` are the grids' of one image, whose largest patch has side 1."""
        key = (*sides, dtype, slopes.device)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = attention_bias(slopes, sides, dtype)
            self._kept.move_to_end(key)
            while len(self._kept) > 1 and sum(b.untyped_storage().nbytes() for b in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
            return self._kept[key]

    def __deepcopy__(self, memo: dict) -> Biases:
        """A copied network, in bfloat16 for example, makes its own; a lock cannot be copied."""
        return Biases()


def attention_bias(slopes: torch.Tensor, sides: list[int], dtype: torch.dtype) -> torch.Tensor:
    """(1, heads, N, N): minus the slope of each head (heads,) times the distance of the centres of two patches, in sides of the
    largest patch. Grids of ``sides`` patches cover the same ground, so that the coarsest has the largest ones."""
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
