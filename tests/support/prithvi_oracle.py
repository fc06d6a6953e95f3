"""Prithvi in float64, one token after the other, and the tensors of its encoder.

Written from the authors' ``prithvi_mae.py`` (``get_3d_sincos_pos_embed``, ``TemporalEncoder``,
``LocationEncoder``, ``PrithviViT.forward_features``).
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import numpy as np

from . import oracle


@dataclass(frozen=True)
class Sizes:
    """Sizes of an encoder; ``conditioned``: it takes date and location."""

    dim: int
    depth: int
    heads: int
    patch: int
    conditioned: bool = True
    eps: float = 1e-5


def shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The encoder's published tensors but the table of positions."""
    d, p = sizes.dim, sizes.patch
    own: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, d),
        "patch_embed.proj.weight": (d, 6, 1, p, p),
        "patch_embed.proj.bias": (d,),
        "norm.weight": (d,),
        "norm.bias": (d,),
    }
    if sizes.conditioned:
        own |= {"temporal_embed_enc.scale": (1,), "location_embed_enc.scale": (1,)}
    for i in range(sizes.depth):
        own |= oracle.block_shapes(f"blocks.{i}", d)
    return own


def random_state(sizes: Sizes, seed: int) -> dict[str, np.ndarray]:
    """Tensors by name; the factors of date and location are large enough to matter."""
    state = oracle.random_state(shapes(sizes), seed)
    scales = {"temporal_embed_enc.scale": np.float32([0.7]), "location_embed_enc.scale": np.float32([-0.5])}
    return state | {name: values for name, values in scales.items() if name in state}


def tokens(
    sizes: Sizes,
    state: dict[str, np.ndarray],
    pixels: np.ndarray,
    dates: tuple[str, ...] = (),
    lat: float = 0.0,
    lon: float = 0.0,
) -> np.ndarray:
    """(T, h, w, D) patch tokens after the last norm, of normalised pixels (T, 6, 224, 224)."""
    state = {name: values.astype(np.float64) for name, values in state.items()}
    d, cells = sizes.dim, 224 // sizes.patch
    half, cell_dim, time_dim = d // 2, d // 16 * 6, d // 16 * 4
    sequence = [state["cls_token"][0, 0]]
    for t, frame in enumerate(pixels):
        patches = oracle.patches(frame, state["patch_embed.proj.weight"][:, :, 0], state["patch_embed.proj.bias"])
        condition = np.zeros(d)
        if sizes.conditioned:
            day = dt.date.fromisoformat(dates[t])
            number = (day - dt.date(day.year, 1, 1)).days + 1
            time = np.concatenate([oracle.sincos(half, day.year), oracle.sincos(half, number)])
            place = np.concatenate([oracle.sincos(half, lat), oracle.sincos(half, lon)])  # the latitude first
            condition = state["temporal_embed_enc.scale"] * time + state["location_embed_enc.scale"] * place
        for r in range(cells):
            for c in range(cells):
                position = np.concatenate(
                    [oracle.sincos(cell_dim, c), oracle.sincos(cell_dim, r), oracle.sincos(time_dim, t)]
                )
                sequence.append(patches[r, c] + position + condition)
    x = np.stack(sequence)
    for i in range(sizes.depth):
        x = oracle.block(x, state, f"blocks.{i}", sizes.heads, sizes.eps)
    x = oracle.norm(x, state["norm.weight"], state["norm.bias"], sizes.eps)
    return x[1:].reshape(len(pixels), cells, cells, d)
