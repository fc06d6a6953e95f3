"""What depends on the device: bfloat16 and the check that it computes what it should, memory, batches on it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ..errors import ModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Cosine of an embedding in bfloat16 with the one in float32 below which the arithmetic is taken for broken. Right
#: arithmetic gives 0.9999; a bfloat16 convolution of oneDNN was measured at 0.02.
LOWEST_COSINE = 0.999


def lowered(network: nn.Module) -> nn.Module:
    """The network with its matrix products in bfloat16; it shares every other tensor with the one in float32."""
    import torch

    from ..models.shared.vit import lower_precision

    return lower_precision(_sharing(network), torch.bfloat16)


def shortened(network: nn.Module) -> nn.Module:
    """The network with the first block of its transformer only, sharing its tensors: every kind of product that it computes,
    at a fraction of the cost."""
    from ..models.shared.vit import Transformer

    short = _sharing(network)
    for module in short.modules():
        if isinstance(module, Transformer):
            module.blocks = module.blocks[:1]
    return short


def _sharing(network: nn.Module) -> nn.Module:
    """A copy of the modules around the same tensors."""
    return copy.deepcopy(network, {id(t): t for t in (*network.parameters(), *network.buffers())})


def check(found: torch.Tensor, wanted: torch.Tensor, device: str) -> None:
    """Compare results of one image, of any equal shape.

    Raises:
        ModelError: they do not point the same way.
    """
    import torch

    cosine = float(torch.nn.functional.cosine_similarity(found.double().flatten(), wanted.double().flatten(), dim=0))
    if not cosine >= LOWEST_COSINE:
        raise ModelError(
            f"bf16 on this device ({device}) gives other numbers than fp32: the cosine of the first image's embeddings is "
            f"{cosine:.4f}; allowed: precision='fp32'"
        )


def out_of_memory(error: Exception) -> bool:
    """The device, or the machine, had not enough memory for a batch."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, RuntimeError) and any(w in str(error) for w in words)


def release(device: str) -> None:
    """Give memory that torch keeps for later back to the device."""
    import torch

    if device == "cuda":
        torch.cuda.empty_cache()
    elif device == "mps":
        torch.mps.empty_cache()


def said(device: str) -> dict:
    """What a receipt says of the device: its type, and what a GPU is called."""
    import torch

    return {"device": device} | ({"card": torch.cuda.get_device_name()} if device == "cuda" else {})


def placed(arrays: Any, device: str) -> torch.Tensor:
    """A batch of equal arrays as one tensor on the device; from page-locked memory where that is faster."""
    import numpy as np
    import torch

    batch = torch.from_numpy(np.stack(arrays))
    return batch.pin_memory().to(device, non_blocking=True) if device == "cuda" else batch.to(device)
