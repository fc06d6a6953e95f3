"""Weights into a network: read safely, matched strictly."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..weights import Checkpoint

if TYPE_CHECKING:
    from torch import nn


def fill(
    network: nn.Module, weights: Checkpoint | None, rename: Callable[[str], str | None], prefixes: Sequence[str]
) -> dict:
    """Give a network on the meta device its weights; returns what the manifest says of them."""
    import numpy as np
    import torch

    if weights is None:
        raise ModelError("no weights")
    state = {}
    if weights.path is None:
        for name, parameter in network.named_parameters():
            key = [weights.seed, zlib.crc32(name.encode())]
            values = np.random.Generator(np.random.PCG64(key)).standard_normal(parameter.shape, dtype=np.float32)
            one = "norm" in name and name.endswith("weight")
            state[name] = torch.from_numpy(values * np.float32(0.02) + np.float32(one))
    else:
        for name, tensor in torch.load(weights.path, mmap=True, weights_only=True).items():
            if (own := rename(name)) is not None:
                state[own] = tensor
    network.load_state_dict(state, assign=True)
    return dict(weights.said)
