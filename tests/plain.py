"""Transformers in plain numpy, float64, loops and matrix products: the second opinion that tests compare adapters with."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from rs_embed.weights import Checkpoint


def norm(x, weight, bias, eps):
    """LayerNorm over the last axis, one vector at a time."""
    out = np.empty_like(x)
    for at in np.ndindex(x.shape[:-1]):
        v = x[at]
        deviation = v - v.sum() / len(v)
        out[at] = deviation / math.sqrt((deviation**2).sum() / len(v) + eps) * weight + bias
    return out


def gelu(x):
    """x times the normal distribution's cumulative function."""
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def quick_gelu(x):
    return x / (1 + np.exp(-1.702 * x))


def attention(x, qkv, qkv_bias, out, out_bias, heads):
    """Self-attention of one sequence, (N, D): head after head, query after query."""
    count, dim = x.shape
    q, k, v = ((x @ qkv.T + qkv_bias)[:, i * dim : (i + 1) * dim] for i in range(3))
    size = dim // heads
    mixed = np.zeros((count, dim))
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        for n in range(count):
            scores = k[:, part] @ q[n, part] / math.sqrt(size)
            weights = np.exp(scores - scores.max())
            mixed[n, part] = (weights / weights.sum()) @ v[:, part]
    return mixed @ out.T + out_bias


def patches(image, kernel, bias):
    """(C, H, W) and a kernel (D, C, p, p) to tokens (N, D), patch after patch, row by row."""
    p = kernel.shape[-1]
    tokens = []
    for y in range(0, image.shape[1], p):
        for x in range(0, image.shape[2], p):
            cut = image[:, y : y + p, x : x + p]
            tokens.append([(k * cut).sum() + b for k, b in zip(kernel, bias)])
    return np.array(tokens)


def tensors(shapes: dict, seed: int) -> dict:
    """Random float32 tensors of a published file, by name: weights of norms near 1, matrices of about unit gain."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes.items():
        spread = 0.2 if len(shape) < 2 else 1 / math.sqrt(math.prod(shape[1:]))
        values = rng.standard_normal(shape) * spread + (name.endswith("weight") and len(shape) == 1)
        made[name] = np.asarray(values, np.float32)
    return made


#: Ends of the published names of what writes into the stream of tokens: made small, the eps of every norm shows.
FAINT = (
    *("cls_token", "pos_embed", "class_embedding", "positional_embedding", "conv1.weight"),
    *("proj1.weight", "proj3.weight", "proj3.bias", "ln_pre.weight", "ln_pre.bias"),
    *("attn.proj.weight", "attn.proj.bias", "attn.out_proj.weight", "attn.out_proj.bias"),
    *("mlp.fc2.weight", "mlp.fc2.bias", "mlp.c_proj.weight", "mlp.c_proj.bias"),
)


def saved(state: dict, path: Path) -> Checkpoint:
    """The tensors in a file as torch writes it."""
    import torch

    torch.save({n: torch.from_numpy(t) for n, t in state.items()}, path)
    return Checkpoint(path, 0, {"pretrained": True})


def bilinear(image, height, width):
    """(C, H, W) to another size, one column and then one row after the other: half-pixel centres, edges repeated, no antialiasing."""

    def at(line, i, size):
        """Value i of ``size`` along the last axis."""
        where = max((i + 0.5) * line.shape[-1] / size - 0.5, 0)
        before = int(where)
        after = min(before + 1, line.shape[-1] - 1)
        return line[..., before] * (1 - (where - before)) + line[..., after] * (where - before)

    wide = np.stack([at(image, x, width) for x in range(width)], -1).swapaxes(1, 2)
    return np.stack([at(wide, y, height) for y in range(height)], -2)
