"""A plain, slow implementation of vision transformers in float64, to compare adapters with.

It uses numpy, and loops where the package has optimized code.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from rs_embed.weights.checkpoints import Checkpoint


def sincos(dim: int, value: float) -> np.ndarray:
    """(dim,): sin(v w_i) for all i, then cos(v w_i), w_i = 10000^(-i / (dim / 2))."""
    angles = [value * 10000 ** (-i / (dim / 2)) for i in range(dim // 2)]
    return np.array([math.sin(a) for a in angles] + [math.cos(a) for a in angles])


def norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def quick_gelu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-1.702 * x))


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(x: np.ndarray, qkv: tuple, out: tuple, heads: int, bias: np.ndarray | None = None) -> np.ndarray:
    """Self-attention of one sequence, (N, D), head after head; (weight, bias) of both products;
    bias (heads, N, N)."""
    dim = x.shape[1]
    size = dim // heads
    mixed, three = np.empty_like(x), x @ qkv[0].T + qkv[1]
    for h in range(heads):
        q, k, v = (three[:, part * dim + h * size : part * dim + (h + 1) * size] for part in range(3))
        logits = q @ k.T / math.sqrt(size)
        mixed[:, h * size : (h + 1) * size] = softmax(logits if bias is None else logits + bias[h]) @ v
    return mixed @ out[0].T + out[1]


def block(x: np.ndarray, state: dict, at: str, heads: int, eps: float, bias: np.ndarray | None = None) -> np.ndarray:
    """One pre-norm block on one sequence (N, D); ``state`` has timm's names below ``at``."""

    def of(name: str) -> tuple:
        return state[f"{at}.{name}.weight"], state[f"{at}.{name}.bias"]

    x = x + attention(norm(x, *of("norm1"), eps), of("attn.qkv"), of("attn.proj"), heads, bias)
    (into, first), (back, second) = of("mlp.fc1"), of("mlp.fc2")
    return x + gelu(norm(x, *of("norm2"), eps) @ into.T + first) @ back.T + second


def patches(image: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """(C, H, W) and (D, C, p, p) -> (H / p, W / p, D): a convolution without overlap, patch by
    patch."""
    p = kernel.shape[-1]
    rows, columns = image.shape[1] // p, image.shape[2] // p
    out = np.empty((rows, columns, len(kernel)))
    flat = kernel.reshape(len(kernel), -1)
    for r in range(rows):
        for c in range(columns):
            out[r, c] = flat @ image[:, r * p : (r + 1) * p, c * p : (c + 1) * p].ravel() + bias
    return out


def bilinear(image: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
    """The last two axes resized, to a square by default: half-pixel centres, edges repeated, no
    antialiasing."""

    def along(n: int, size: int) -> np.ndarray:
        out = np.zeros((size, n))
        for i in range(size):
            at = max((i + 0.5) * n / size - 0.5, 0)
            low = min(int(at), n - 1)
            out[i, low] += 1 - (at - low)
            out[i, min(low + 1, n - 1)] += at - low
        return out

    across = along(image.shape[-1], width or height)
    return along(image.shape[-2], height) @ image.astype(np.float64) @ across.T


def bicubic_shrink(n: int, size: int) -> np.ndarray:
    """(size, n): antialiased cubic convolution (a = -0.5) of n values to fewer."""

    def cubic(t: float) -> float:
        t, a = abs(t), -0.5
        if t < 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * (t**3 - 5 * t**2 + 8 * t - 4) if t < 2 else 0.0

    step = n / size
    rows = [[cubic((j + 0.5 - (i + 0.5) * step) / step) for j in range(n)] for i in range(size)]
    return np.array([np.array(row) / sum(row) for row in rows])


def random_state(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Weights that make attention, norms and activations all matter: norms about 1, products of
    unit variance."""
    rng = np.random.default_rng(seed)
    state = {}
    for name, shape in shapes.items():
        values = rng.standard_normal(shape)
        if len(shape) > 1 and name.endswith("weight"):
            values *= 1.5 / math.sqrt(math.prod(shape[1:]))
        elif len(shape) == 1 and name.endswith("weight"):
            values = 1 + 0.2 * values
        else:
            values *= 0.2
        state[name] = values.astype(np.float32)
    return state


def block_shapes(at: str, dim: int) -> dict[str, tuple[int, ...]]:
    """Published tensors of one block, in timm's names."""
    return {
        f"{at}.norm1.weight": (dim,),
        f"{at}.norm1.bias": (dim,),
        f"{at}.attn.qkv.weight": (3 * dim, dim),
        f"{at}.attn.qkv.bias": (3 * dim,),
        f"{at}.attn.proj.weight": (dim, dim),
        f"{at}.attn.proj.bias": (dim,),
        f"{at}.norm2.weight": (dim,),
        f"{at}.norm2.bias": (dim,),
        f"{at}.mlp.fc1.weight": (4 * dim, dim),
        f"{at}.mlp.fc1.bias": (4 * dim,),
        f"{at}.mlp.fc2.weight": (dim, 4 * dim),
        f"{at}.mlp.fc2.bias": (dim,),
    }


#: Ends of the published names of tensors that add to the residual stream. Where they are small,
#: the eps of every norm changes the result.
FAINT = (
    *("cls_token", "pos_embed", "class_embedding", "positional_embedding", "conv1.weight"),
    *("proj1.weight", "proj3.weight", "proj3.bias", "ln_pre.weight", "ln_pre.bias"),
    *("attn.proj.weight", "attn.proj.bias", "attn.out_proj.weight", "attn.out_proj.bias"),
    *("mlp.fc2.weight", "mlp.fc2.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
)


def save_checkpoint(state: dict, path: Path) -> Checkpoint:
    """Write the tensors to a file with ``torch.save``."""
    import torch

    torch.save({n: torch.from_numpy(t) for n, t in state.items()}, path)
    return Checkpoint(path, 0, {"pretrained": True})
