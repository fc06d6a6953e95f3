"""The transformer that the families share: pre-norm blocks, and patches as a matrix product.

    x = x + proj(attention(norm1(x)));  x = x + fc2(act(fc1(norm2(x))))

Parameter names are those of timm (``blocks.0.attn.qkv.weight``), so that most published files
match by name. Source of the block: Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words", arXiv
2010.11929, section 3.1 and eq. 1-4.

Precision: matrix products run in the dtype of their weights, everything between them (the residual
stream, norms, embeddings) in float32. :func:`lower_precision` is all that bfloat16 needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

#: Rotates queries and keys, (B, heads, N, head_dim) each, before attention: rotary embeddings.
Rotation = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Linear(nn.Linear):
    """A linear layer that accepts any float dtype and computes in that of its weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.to(self.weight.dtype), self.weight, self.bias)


class Patches(nn.Module):
    """Non-overlapping patches to tokens: (B, C, *sizes) -> (B, N, dim), row-major, for images or
    (T, H, W) volumes.

    The kernel of a strided convolution as one matrix product: equal to it and as fast. Unlike
    oneDNN's bfloat16 convolution its results are correct. Sizes must be multiples of the patch.
    """

    def __init__(self, channels: int, dim: int, patch: Sequence[int], *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(dim, channels, *patch))
        self.bias = nn.Parameter(torch.empty(dim)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(unfold(x, self.weight.shape[2:]).to(self.weight.dtype), self.weight.flatten(1), self.bias)


def unfold(x: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, C, *sizes) -> (B, N, C * patch): the values of each patch, channel first, in the order
    of a convolution's kernel."""
    cells = [n // p for n, p in zip(x.shape[2:], patch, strict=True)]
    split = x.reshape(*x.shape[:2], *(n for pair in zip(cells, patch) for n in pair))
    axes = len(patch)
    order = [0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2)]
    return split.permute(order).reshape(x.shape[0], -1, x.shape[1] * math.prod(patch))


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x). Source: OpenAI CLIP, ``clip/model.py``."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quickgelu": quick_gelu, "silu": F.silu}


class Attention(nn.Module):
    """Multi-head self-attention on torch's fused kernels."""

    def __init__(self, dim: int, heads: int, head_dim: int, *, qkv_bias: bool, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(dim, 3 * heads * head_dim, bias=qkv_bias)
        self.proj = Linear(heads * head_dim, dim, bias=bias)

    def forward(self, x: Tensor, bias: Tensor | None, rotate: Rotation | None) -> Tensor:
        batch, count, _ = x.shape
        q, k, v = self.qkv(x).view(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if rotate is not None:
            q, k = (t.to(v.dtype) for t in rotate(q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))
        return self.proj(mixed.transpose(1, 2).reshape(batch, count, -1))


class Mlp(nn.Module):
    """fc2(act(fc1 x)), or with a gate fc2(act(fc1 x) * fc3 x)."""

    def __init__(self, dim: int, hidden: int, activation: str, *, gated: bool, bias: bool) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.fc1 = Linear(dim, hidden, bias=bias)
        self.fc2 = Linear(hidden, dim, bias=bias)
        self.fc3 = Linear(dim, hidden, bias=bias) if gated else None

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.fc1(x))
        return self.fc2(hidden if self.fc3 is None else hidden * self.fc3(x))


class Block(nn.Module):
    """One pre-norm block; see :class:`Transformer` for the arguments."""

    def __init__(
        self,
        dim: int,
        heads: int,
        hidden: int,
        *,
        eps: float,
        qkv_bias: bool,
        bias: bool,
        activation: str,
        gated: bool,
        head_dim: int | None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps)
        self.attn = Attention(dim, heads, head_dim or dim // heads, qkv_bias=qkv_bias, bias=bias)
        self.norm2 = nn.LayerNorm(dim, eps)
        self.mlp = Mlp(dim, hidden, activation, gated=gated, bias=bias)

    def forward(self, x: Tensor, bias: Tensor | None, rotate: Rotation | None) -> Tensor:
        x = x + self.attn(self.norm1(x), bias, rotate)
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Blocks and, with ``final_norm``, a norm after them: (B, N, dim) -> (B, N, dim) float32.

    Args:
        dim, depth, heads: width, number of blocks, heads of each.
        hidden: width of the MLP.
        eps: of every LayerNorm.
        qkv_bias, bias: biases of queries, keys and values; of all other linear layers.
        activation, gated: of the MLP.
        head_dim: length of a head; None for ``dim / heads``.
        final_norm: a LayerNorm after the last block.
    """

    def __init__(
        self,
        dim: int,
        depth: int,
        heads: int,
        hidden: int,
        *,
        eps: float,
        qkv_bias: bool = True,
        bias: bool = True,
        activation: str = "gelu",
        gated: bool = False,
        head_dim: int | None = None,
        final_norm: bool = True,
    ) -> None:
        super().__init__()
        how: dict[str, Any] = {"eps": eps, "qkv_bias": qkv_bias, "bias": bias, "activation": activation, "gated": gated}
        self.blocks = nn.ModuleList(Block(dim, heads, hidden, head_dim=head_dim, **how) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps) if final_norm else None

    def forward(self, x: Tensor, bias: Tensor | None = None, rotate: Rotation | None = None) -> Tensor:
        """Tokens (B, N, dim) after all blocks.

        Args:
            bias: added to the scaled attention logits of every block, broadcastable to
                (B, heads, N, N).
            rotate: applied to queries and keys of every block.
        """
        for block in self.blocks:
            x = block(x, bias, rotate)
        return x if self.norm is None else self.norm(x)


class Network(nn.Module):
    """The parts of one model by the names that its adapter uses: modules, and parameters given by
    their shape.

    The computation is in the adapter's ``forward``, so that an adapter is one file that imports
    without torch.

    Attributes:
        weights_record: what manifests contain about the weights.
    """

    weights_record: dict

    def __init__(self, **parts: nn.Module | tuple[int, ...]) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part if isinstance(part, nn.Module) else nn.Parameter(torch.empty(part)))

    def register_derived(self, name: str, tensor: Tensor) -> None:
        """Register a tensor that is computed, not loaded; it moves to a device with the
        network."""
        self.register_buffer(name, tensor, persistent=False)


def lower_precision(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network with new weights for its matrix products, in ``dtype``; all other tensors stay
    float32."""
    for module in network.modules():
        if isinstance(module, (Linear, Patches)):
            for name, parameter in list(module.named_parameters(recurse=False)):
                setattr(module, name, nn.Parameter(parameter.to(dtype), requires_grad=False))
    return network


def sincos(dim: int, position: Tensor) -> Tensor:
    """(..., dim) float32: [sin(p * w), cos(p * w)], w_i = 10000^(-i / (dim / 2)), halves one after
    the other.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5, in the layout of MAE
    (``util/pos_embed.py``).
    """
    omega = 10000.0 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim / 2))
    angle = position.to(torch.float64)[..., None] * omega.to(position.device)
    return torch.cat([angle.sin(), angle.cos()], -1).to(torch.float32)
