"""THOR's input and network in plain float64, from the text of the authors' code.

``FM4CS/THOR``, commit 0d175b7: ``thor/data/thor_dataset_base.py`` (``NORMALIZATION``,
``clamp_5_sigma``, ``_build_transforms``, ``collate_fn``), ``thor/models/thor_vit.py``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rs_embed.models.base import Image

from . import oracle

_S2 = """Blue B2 10 0, Green B3 10 0, Red B4 10 0, RE1 B5 20 1, RE2 B6 20 1, RE3 B7 20 1, NIR B8 10 0, RE4 B8A 20 1,
SWIR1 B11 20 1, SWIR2 B12 20 1"""
#: published name, band, ground sampling distance, group; in the order in which the bands are
#: fetched
PLAIN = {
    "s2": [(f"S2:{n}", band, int(gsd), int(g)) for n, band, gsd, g in (line.split() for line in _S2.split(","))],
    "s1": [("S1:VV", "VV", 10, 3), ("S1:VH", "VH", 10, 3)],
}
S2_MEAN = (0.176620, 0.195923, 0.213948, 0.263378, 0.300818, 0.313144, 0.308133, 0.320993, 0.221550, 0.175772)
S2_STD = (0.264520, 0.252949, 0.259180, 0.272771, 0.248175, 0.235432, 0.226434, 0.223274, 0.171606, 0.156223)
S1_MEAN, S1_STD = (-12.9850, -20.6958), (5.0062, 5.8688)


def draw_image(seed: int, modality: str = "s2", height: int = 96, width: int | None = None, **changes) -> Image:
    """An image with values far above and below those of the training: clouds, and radar shadow."""
    rng = np.random.default_rng(seed)
    size = (1, len(PLAIN[modality]), height, width or height)
    pixels = rng.integers(-800, 24000, size) if modality == "s2" else rng.gamma(2, 0.05, size)
    if modality == "s1":
        pixels = pixels * 10 ** rng.uniform(-4, 3, size)
    bands = tuple(band for _, band, *_ in PLAIN[modality])
    one = Image(modality, pixels.astype(np.float32), bands, 10.0, 9.84, 45.2, ("2022-07-17",))
    return replace(one, **changes)


def normalise(pixels: np.ndarray, modality: str, preset: str) -> np.ndarray:
    """Input values of one image (C, H, W), float64."""
    pixels = pixels.astype(np.float64)
    return normalise_as_trained(pixels, modality) if preset == "official" else normalise_as_published(pixels, modality)


def normalise_as_trained(pixels: np.ndarray, modality: str) -> np.ndarray:
    """Standardised, clamped to five deviations; then the band's mean for what has no value."""
    mean, std = (S2_MEAN, S2_STD) if modality == "s2" else (S1_MEAN, S1_STD)
    everywhere = ~np.nan_to_num(pixels, nan=0, posinf=0, neginf=0).any(0)
    out = []
    for c, band in enumerate(pixels):
        absent = ~np.isfinite(band) | (everywhere if modality == "s2" else ~(band > 0))
        known = band[~absent]
        z = ((known / 10000 if modality == "s2" else 10 * np.log10(known)) - mean[c]) / std[c]
        z[z > 5], z[z < -5] = 5, -5
        filled = np.full(band.shape, z.mean() if len(z) else 0.0)
        filled[~absent] = z
        out.append(filled)
    return np.stack(out)


def normalise_as_published(pixels: np.ndarray, modality: str) -> np.ndarray:
    """What rs-embed 0.3.1 makes of it."""
    pixels = np.nan_to_num(pixels, nan=0, posinf=0, neginf=0)
    if modality == "s2":
        mean, std = (np.array(v)[:, None, None] for v in (S2_MEAN, S2_STD))
        return (np.clip(pixels, 0, 10000) / 10000 - mean) / std
    logs = np.log1p(np.maximum(pixels, 0))
    return np.clip(logs / np.percentile(logs, 99), 0, 1)


def snap(pixels: np.ndarray, side: int, pad: str) -> np.ndarray:
    """(C, n, n) to a side, about the centre."""
    n = pixels.shape[1]
    if n >= side:
        start = (n - side) // 2
        return pixels[:, start : start + side, start : start + side]
    before, missing = (side - n) // 2, side - n
    return np.pad(pixels, [(0, 0)] + [(before, missing - before)] * 2, pad)


def encode(
    state: dict, pixels: np.ndarray, modality: str, scale: int, patch: int, *, band: int, depth: int, told: bool = False
) -> tuple[np.ndarray, list[np.ndarray]]:
    """All tokens (N, D) of the last block, and the grid of each group (D, n, n), of normalised
    pixels (C, S, S).

    Args:
        band: length of a group's embedding. depth: blocks.
        told: the network is told the pixel size as the ground sampling distance.
    """
    state = {name: values.astype(np.float64) for name, values in state.items()}
    dim, slopes = len(state["norm.weight"]), state["encoder_slopes"]
    ground, shrink = pixels.shape[1] * scale, oracle.bicubic_shrink(16, patch) if patch < 16 else np.eye(16)
    back = np.linalg.pinv(np.kron(shrink, shrink).T)  # of the matrix that has a resized unit image in every row
    by_group: dict[int, list[np.ndarray]] = {}
    gsds = {}
    for (name, _, own, group), values in zip(PLAIN[modality], pixels):
        kernel = state[f"ind_patch_embed.patch_embed.{name}.weight"].reshape(dim, 256)
        kernel = np.stack([back @ k for k in kernel]).reshape(dim, 1, patch, patch)
        gsds[group] = gsd = scale if told else own
        at_gsd = oracle.bilinear(values[None], ground // gsd)
        bias = state[f"ind_patch_embed.patch_embed.{name}.bias"]
        by_group.setdefault(group, []).append(oracle.patches(at_gsd, kernel, bias))
    rows, centres = [], []
    for group, members in sorted(by_group.items()):
        size = oracle.sincos(dim - band, patch * gsds[group] / (4 * 10))
        cells = sum(members) / len(members) + np.concatenate([size, state[f"band_embed.group{group}"]])
        for r in range(len(cells)):
            for c in range(len(cells)):
                rows.append(cells[r, c])
                centres.append(((r + 0.5) * patch * gsds[group], (c + 0.5) * patch * gsds[group]))
    x, at = np.stack(rows), np.array(centres) / (patch * max(gsds.values()))
    distance = np.sqrt(((at[:, None] - at[None]) ** 2).sum(-1))
    for i in range(depth):
        x = oracle.block(x, state, f"blocks.{i}", len(slopes), 1e-6, -slopes[:, None, None] * distance)
    grids, start = [], 0
    for _, members in sorted(by_group.items()):
        n = len(members[0])
        grids.append(x[start : start + n * n].reshape(n, n, -1).transpose(2, 0, 1))
        start += n * n
    return x, grids


def pool(tokens: np.ndarray, state: dict, vector: str, pooling: str = "mean") -> np.ndarray:
    """The vector (D,) of the tokens (N, D) of the last block: of ``forward_intermediates``, of
    ``ThorViTEncoder.forward_encoder``, or ``cls_token`` of ``ThorMAE.forward_encoder``."""

    def norm(x: np.ndarray) -> np.ndarray:
        return oracle.norm(x, *(state[f"norm.{part}"].astype(np.float64) for part in ("weight", "bias")), 1e-6)

    over = np.max if pooling == "max" else np.mean
    if vector == "tokens":
        return over(tokens, 0)
    return over(norm(tokens), 0) if vector == "normed_tokens" else norm(over(norm(tokens), 0))
