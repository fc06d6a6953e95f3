"""Operations that depend on the device: bfloat16 and its check, memory, moving batches."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

#: Cosine of an embedding in bfloat16 with the one in float32 below which the arithmetic counts as
#: wrong. Correct arithmetic gives 0.9999; a bfloat16 convolution of oneDNN was measured at 0.02.
LOWEST_COSINE = 0.999


def to_bfloat16(network: nn.Module) -> nn.Module:
    """A copy of the network with its matrix products in bfloat16; it shares every other tensor
    with the original."""
    import torch

    from ..models.shared.vit import lower_precision

    return lower_precision(_copy_modules(network), torch.bfloat16)


def keep_first_block(network: nn.Module) -> nn.Module:
    """A copy of the network with only the first block of its transformer, sharing its tensors:
    every kind of product that the network computes, at a fraction of the cost."""
    from ..models.shared.vit import Transformer

    short = _copy_modules(network)
    for module in short.modules():
        if isinstance(module, Transformer):
            module.blocks = module.blocks[:1]
    return short


def _copy_modules(network: nn.Module) -> nn.Module:
    """A copy of the modules around the same tensors."""
    return copy.deepcopy(network, {id(t): t for t in (*network.parameters(), *network.buffers())})


def check_precision(bfloat16: torch.Tensor, float32: torch.Tensor, device: str) -> None:
    """Compare the results of one image in both precisions, of any equal shape.

    Raises:
        ModelError: their cosine is below :data:`LOWEST_COSINE`.
    """
    import torch

    first, second = (result.double().flatten() for result in (bfloat16, float32))
    cosine = float(torch.nn.functional.cosine_similarity(first, second, dim=0))
    if not cosine >= LOWEST_COSINE:
        raise ModelError(
            f"bf16 on this device ({device}) gives other numbers than fp32: the cosine of the first image's embeddings is "
            f"{cosine:.4f}; allowed: precision='fp32'"
        )


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device, or the machine, did not have enough memory for a batch."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    messages = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in messages)


def release_memory(device: str) -> None:
    """Return memory that torch caches to the device."""
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def describe_device(device: str) -> dict:
    """The receipt's entries about the device: its type, and the name of a GPU."""
    import torch

    return {"device": device} | ({"card": torch.cuda.get_device_name()} if device == "cuda" else {})


def stack_on_device(arrays: Sequence[np.ndarray], device: str) -> torch.Tensor:
    """A batch of equal arrays as one tensor on the device; from page-locked memory where that is
    faster."""
    import numpy as np
    import torch

    batch = torch.from_numpy(np.ascontiguousarray(np.stack(arrays)))  # np.stack keeps the order in memory
    return batch.pin_memory().to(device, non_blocking=True) if device == "cuda" else batch.to(device)
