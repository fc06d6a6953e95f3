"""THOR against a plain float64 formulation; geometry, attention bias, published tensors,
errors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rs_embed import ModelError, OutputSpec
from rs_embed.models import get_adapter, get_model_info, thor
from rs_embed.models.base import Image
from rs_embed.models.shared import alibi, vit
from rs_embed.models.shared.alibi import BiasCache
from rs_embed.models.thor import ADAPTER, BANDS, VARIANTS, Options, Variant
from rs_embed.weights.checkpoints import Checkpoint

from ..support import oracle

SMALL = Variant(dim=24, depth=2, heads=3, band=4)
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
OTHERS = ["S2:CoastAerosal", "S2:WaterVapor", "S1:HV", "S1:HH"]
OTHERS += [f"S3:Oa{i:02d}_reflectance" for i in range(1, 22)] + [f"S3:S{i}_reflectance_an" for i in range(1, 7)]
OTHERS += [f"S3:S{i}_BT_in" for i in range(7, 10)]
VECTOR, VECTOR_MAX, GRID = OutputSpec.pooled(), OutputSpec.pooled("max"), OutputSpec.grid()


def shapes(v: Variant) -> dict[str, tuple[int, ...]]:
    """The encoder's published tensors."""
    own: dict[str, tuple[int, ...]] = {"encoder_slopes": (v.heads,), "norm.weight": (v.dim,), "norm.bias": (v.dim,)}
    for name in [p[0] for m in PLAIN.values() for p in m] + OTHERS:
        own[f"ind_patch_embed.patch_embed.{name}.weight"] = (v.dim, 1, 16, 16)
        own[f"ind_patch_embed.patch_embed.{name}.bias"] = (v.dim,)
    for i in range(10):
        own[f"band_embed.group{i}"] = (v.band,)
    for i in range(v.depth):
        own |= oracle.block_shapes(f"blocks.{i}", v.dim)
    return own


def image(seed: int, modality: str = "s2", height: int = 96, width: int | None = None, **changes) -> Image:
    rng, size = np.random.default_rng(seed), (1, len(BANDS[modality]), height, width or height)
    pixels = rng.integers(1, 12000, size) if modality == "s2" else rng.gamma(2, 0.05, size)
    one = Image(modality, pixels.astype(np.float32), BANDS[modality], 10.0, 9.84, 45.2, ("2022-07-17",))
    return replace(one, **changes)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(VARIANTS, "base", SMALL)


@pytest.fixture
def state():
    return oracle.random_state(shapes(SMALL), 5) | {"encoder_slopes": np.float32([0.9, 0.2, 0.03])}


@pytest.fixture
def load(small, state, tmp_path):
    def make(options: Options | None = None, modality: str = "s2"):
        torch.save({name: torch.from_numpy(values) for name, values in state.items()}, tmp_path / "weights.pt")
        return ADAPTER.load(options or Options(), modality, BANDS[modality], Checkpoint(tmp_path / "weights.pt"))

    return make


def tokens(network, items: list[dict], options: Options | None = None):
    with torch.inference_mode():
        batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
        return ADAPTER.forward(network, batch, options or Options())


def normalised(pixels: np.ndarray, modality: str, preset: str) -> np.ndarray:
    pixels = pixels.astype(np.float64)
    if modality == "s2":
        mean, std = (np.array(v)[:, None, None] for v in (S2_MEAN, S2_STD))
        return (np.clip(pixels, 0, 10000) / 10000 - mean) / std
    if preset == "official":
        decibels = 10 * np.log10(np.maximum(pixels, 1e-10))
        return (decibels - np.array([-12.9850, -20.6958])[:, None, None]) / np.array([5.0062, 5.8688])[:, None, None]
    logs = np.log1p(pixels)
    return np.clip(logs / np.percentile(logs, 99), 0, 1)


def snapped(pixels: np.ndarray, side: int, pad: str) -> np.ndarray:
    """(C, n, n) to a side, about the centre."""
    n = pixels.shape[1]
    if n >= side:
        start = (n - side) // 2
        return pixels[:, start : start + side, start : start + side]
    before, missing = (side - n) // 2, side - n
    return np.pad(pixels, [(0, 0)] + [(before, missing - before)] * 2, pad)


def by_hand(
    state: dict, pixels: np.ndarray, modality: str, scale: int, patch: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """All tokens (N, D), and the grid of each group (D, n, n), of normalised pixels (C, S, S)."""
    state = {name: values.astype(np.float64) for name, values in state.items()}
    ground, shrink = pixels.shape[1] * scale, oracle.bicubic_shrink(16, patch) if patch < 16 else np.eye(16)
    back = np.linalg.pinv(np.kron(shrink, shrink).T)  # of the matrix that has a resized unit image in every row
    by_group: dict[int, list[np.ndarray]] = {}
    gsds = {}
    for (name, _, gsd, group), band in zip(PLAIN[modality], pixels):
        kernel = state[f"ind_patch_embed.patch_embed.{name}.weight"].reshape(SMALL.dim, 256)
        kernel = np.stack([back @ k for k in kernel]).reshape(SMALL.dim, 1, patch, patch)
        at_gsd = oracle.bilinear(band[None], ground // gsd)
        bias = state[f"ind_patch_embed.patch_embed.{name}.bias"]
        by_group.setdefault(group, []).append(oracle.patches(at_gsd, kernel, bias))
        gsds[group] = gsd
    rows, centres = [], []
    for group, members in sorted(by_group.items()):
        size = oracle.sincos(SMALL.dim - SMALL.band, patch * gsds[group] / (4 * 10))
        cells = sum(members) / len(members) + np.concatenate([size, state[f"band_embed.group{group}"]])
        for r in range(len(cells)):
            for c in range(len(cells)):
                rows.append(cells[r, c])
                centres.append(((r + 0.5) * patch * gsds[group], (c + 0.5) * patch * gsds[group]))
    x, at = np.stack(rows), np.array(centres) / (patch * max(gsds.values()))
    distance = np.sqrt(((at[:, None] - at[None]) ** 2).sum(-1))
    for i in range(SMALL.depth):
        bias = -state["encoder_slopes"][:, None, None] * distance
        x = oracle.block(x, state, f"blocks.{i}", SMALL.heads, 1e-6, bias)
    grids, start = [], 0
    for _, members in sorted(by_group.items()):
        n = len(members[0])
        grids.append(x[start : start + n * n].reshape(n, n, -1).transpose(2, 0, 1))
        start += n * n
    return x, grids


@pytest.mark.parametrize("preset", ["official", "rs-embed"])
@pytest.mark.parametrize(
    ("modality", "height", "scale", "patch", "tile", "side"),
    [
        ("s2", 288, 10, 8, True, 288),
        ("s2", 100, 10, 8, False, 96),
        ("s2", 104, 10, 8, False, 96),  # as near to 112: the smaller one
        ("s2", 59, 10, 8, False, 64),
        ("s2", 60, 10, 16, True, 288),
        ("s2", 35, 20, 8, False, 32),
        ("s1", 70, 10, 8, False, 72),
        ("s1", 130, 10, 16, False, 128),
        ("s1", 50, 10, 16, True, 288),
    ],
)
def test_tokens_vectors_and_grids_are_those_of_the_formulas(
    load, state, modality, height, scale, patch, tile, side, preset
):
    options = Options(preset=preset, patch_size=patch)
    one = image(1, modality, height, scale_m=float(scale), is_tile=tile)
    pixels = one.pixels[0]
    if not tile:
        pixels = snapped(pixels, side, "edge" if preset == "official" else "constant")
    scaled = normalised(pixels, modality, preset)
    expected, grids = by_hand(state, oracle.bilinear(scaled, side) if tile else scaled, modality, scale, patch)
    found = tokens(load(options, modality), [ADAPTER.preprocess(one, options)], options)
    close = {"rtol": 0, "atol": 5e-5 if tile else 1e-5}  # stretched in float32, which torch does to 1e-5 only
    np.testing.assert_allclose(found[0][0].numpy(), expected, **close)
    np.testing.assert_allclose(ADAPTER.pooled(found, VECTOR, options)[0], expected.mean(0), **close)
    np.testing.assert_allclose(ADAPTER.pooled(found, VECTOR_MAX, options)[0], expected.max(0), **close)
    merged = np.mean([oracle.bilinear(g, len(grids[0][0])) for g in grids], 0)
    np.testing.assert_allclose(ADAPTER.grid(found, GRID, options)[0], merged, **close)
    assert merged.shape == (24, *[side * scale // (10 * patch)] * 2)


@pytest.mark.parametrize("modality", ["s2", "s1"])
def test_an_image_alone_and_at_any_position_of_a_batch_gives_the_same(load, modality):
    network = load(modality=modality)
    items = [ADAPTER.preprocess(image(i, modality), Options()) for i in range(7)]
    together, turned = tokens(network, items)[0], tokens(network, items[::-1])[0]
    for i, item in enumerate(items):
        alone = tokens(network, [item])[0][0]
        assert float((together[i] - alone).abs().max()) <= 1e-5
        assert float((turned[6 - i] - alone).abs().max()) <= 1e-5
    assert float((together[0] - together[1]).abs().max()) > 0.1


@pytest.mark.parametrize(
    ("modality", "shape", "scale", "patch", "side"),
    [
        ("s2", (288, 288), 10, 8, 288),
        ("s2", (295, 295), 10, 8, 288),
        ("s2", (297, 297), 10, 8, 304),
        ("s2", (296, 296), 10, 8, 288),
        ("s2", (300, 308), 10, 8, 304),
        ("s2", (300, 309), 10, 8, None),
        ("s2", (9, 9), 10, 8, 16),
        ("s2", (384, 384), 10, 8, 384),
        ("s2", (392, 392), 10, 8, 384),
        ("s2", (393, 393), 10, 8, None),
        ("s1", (277, 277), 10, 8, 280),
        ("s1", (276, 276), 10, 8, 272),
        ("s1", (384, 384), 10, 8, 384),
        ("s1", (400, 400), 10, 8, None),
        ("s2", (100, 100), 20, 8, 96),
        ("s2", (220, 220), 20, 8, None),  # 3781 tokens
        ("s2", (100, 100), 30, 8, 96),
        ("s2", (100, 100), 7, 8, 160),
        ("s2", (300, 300), 10, 16, 288),
        ("s2", (310, 310), 10, 16, 320),
    ],
)
def test_images_are_used_at_their_own_size_where_patches_fit(modality, shape, scale, patch, side):
    options, patches = Options(patch_size=patch), [patch * gsd for gsd in {"s2": (10, 20), "s1": (10,)}[modality]]
    assert thor._choose_native_side(shape, scale, modality, options) == side
    if side is None:
        return
    fitting = [n for n in range(1, 500) if all(n * scale % p == 0 for p in patches)]
    nearest = min(fitting, key=lambda n: (abs(n - min(shape)), n))
    assert side == nearest
    found = ADAPTER.preprocess(image(2, modality, *shape, scale_m=float(scale)), options)
    assert {n: a.shape for n, a in found.items()} == {
        name: (len(g.bands), *[side * scale // g.gsd] * 2) for name, g in thor.GROUPS[modality].items()
    }


@pytest.mark.parametrize("changes", [{"height": 60, "width": 120}, {"height": 60, "is_tile": True}, {"height": 400}])
def test_images_not_used_at_their_own_size_are_stretched(changes):
    one = image(3, **changes)
    square = oracle.bilinear(normalised(one.pixels[0], "s2", "official"), 288)
    found = ADAPTER.preprocess(one, Options())
    np.testing.assert_allclose(found["group0"], square[[0, 1, 2, 6]], rtol=0, atol=3e-4)
    halves = square.reshape(10, 144, 2, 144, 2).mean((2, 4))
    np.testing.assert_allclose(found["group1"], halves[[3, 4, 5, 7, 8, 9]], rtol=0, atol=3e-4)


@pytest.mark.parametrize("preset", ["official", "rs-embed"])
@pytest.mark.parametrize(
    ("modality", "height", "width", "side"), [("s2", 103, 97, 96), ("s2", 57, 60, 64), ("s1", 45, 51, 48)]
)
def test_a_nearly_square_image_is_cropped_then_cropped_or_padded(modality, height, width, side, preset):
    one = image(4, modality, height, width)
    n = min(height, width)
    top, left = (height - n) // 2, (width - n) // 2
    square = snapped(
        one.pixels[0][:, top : top + n, left : left + n], side, "edge" if preset == "official" else "constant"
    )
    found = ADAPTER.preprocess(one, Options(preset=preset))
    expected = normalised(square, modality, preset)
    if modality == "s1":
        np.testing.assert_allclose(found["group3"], expected, rtol=0, atol=2e-5)
    else:
        np.testing.assert_allclose(found["group0"], expected[[0, 1, 2, 6]], rtol=0, atol=1e-6)


def test_pixels_without_a_value_count_as_zero_and_the_image_is_not_changed():
    one, zeroed = image(5), image(5)
    one.pixels[0, 2, 3:9] = np.nan
    zeroed.pixels[0, 2, 3:9] = 0
    before = one.pixels.copy()
    found, expected = ADAPTER.preprocess(one, Options()), ADAPTER.preprocess(zeroed, Options())
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert one.pixels.tobytes() == before.tobytes()


def test_bands_are_used_by_position_and_not_by_name():
    one = image(6)
    other = replace(one, bands=tuple(f"band{i}" for i in range(10)))
    found, expected = ADAPTER.preprocess(other, Options()), ADAPTER.preprocess(one, Options())
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("modality", "changes", "message"),
    [
        ("s2", {"pixels": np.ones((1, 9, 16, 16), np.float32)}, "pixels of shape"),
        ("s2", {"pixels": np.ones((2, 10, 16, 16), np.float32)}, "pixels of shape"),
        ("s2", {"pixels": np.ones((10, 16, 16), np.float32)}, "pixels of shape"),
        ("s2", {"pixels": np.full((1, 10, 16, 16), "a")}, "dtype"),
        ("s2", {"pixels": np.zeros((1, 10, 16, 16), np.float32)}, "every value of the image is 0"),
        ("s2", {"pixels": np.full((1, 10, 16, 16), np.nan, np.float32)}, "no finite value"),
        ("s2", {"pixels": np.full((1, 10, 16, 16), 0.3, np.float32)}, "looks like reflectance"),
        ("s1", {"pixels": np.full((1, 2, 16, 16), -12.5, np.float32)}, "looks like decibel"),
        ("s1", {"pixels": np.zeros((1, 2, 16, 16), np.float32)}, "every value of the image is 0"),
        ("s1", {"pixels": np.full((1, 2, 16, 16), np.nan, np.float32)}, "no finite value"),
        ("s1", {"pixels": np.ones((1, 1, 16, 16), np.float32)}, "pixels of shape"),
        ("s2", {"scale_m": 10.5}, "whole metres"),
        ("s2", {"scale_m": 0.5}, "whole metres"),
        ("s2", {"scale_m": 7.0, "is_tile": True}, "whole patches"),
        ("s2", {"scale_m": 30.0, "is_tile": True}, "14580 patches"),
    ],
)
@pytest.mark.parametrize("preset", ["official", "rs-embed"])
def test_images_that_cannot_be_embedded_are_refused(modality, changes, message, preset):
    with pytest.raises(ModelError, match=message):
        ADAPTER.preprocess(image(1, modality, 16, **changes), Options(preset=preset))


@pytest.mark.parametrize(("dtype", "sides"), [(torch.float32, [36, 18]), (torch.bfloat16, [9]), (torch.float32, [7])])
def test_fused_kernels_use_the_attention_bias_without_a_copy(dtype, sides):
    bias, count = BiasCache().get(torch.tensor([0.5, 0.1]), sides, dtype), sum(n * n for n in sides)
    assert bias.shape == (1, 2, count, count)
    assert bias.stride()[-1] == 1
    assert all(stride % 16 == 0 for stride in bias.stride()[:-1])
    assert bias.to(dtype) is bias
    query = torch.randn(3, 2, count, 8, dtype=dtype)
    flash = torch._fused_sdp_choice(query, query, query, attn_mask=None)
    assert torch._fused_sdp_choice(query, query, query, attn_mask=bias) == flash != 0


def test_a_bias_is_computed_once_for_each_geometry_and_dtype_and_the_cache_is_bounded(monkeypatch):
    slopes, biases = torch.tensor([0.5, 0.1]), BiasCache()
    first = biases.get(slopes, [8, 4], torch.float32)
    assert biases.get(slopes, [8, 4], torch.float32) is first
    assert biases.get(slopes, [8, 4], torch.bfloat16).dtype == torch.bfloat16
    assert biases.get(slopes, [8, 4], torch.float32) is first
    monkeypatch.setattr(alibi, "MAX_BYTES", 3 * first.untyped_storage().nbytes())
    for n in (8, 9, 8, 10):
        biases.get(slopes, [n], torch.float32)
        assert sum(b.untyped_storage().nbytes() for b in biases._cache.values()) <= alibi.MAX_BYTES
    assert (8, torch.float32, slopes.device) in biases._cache, "the one in use stays"
    assert biases.get(slopes, [8, 4], torch.float32) is not first
    assert biases.get(slopes, [30], torch.float32) is biases.get(slopes, [30], torch.float32), (
        "larger than all the memory"
    )


def test_half_precision_stays_close_and_lowers_the_bias_once(load):
    network = load()
    items = [ADAPTER.preprocess(image(i), Options()) for i in range(2)]
    exact = tokens(network, items)[0]
    vit.lower_precision(network, torch.bfloat16)
    lowered = tokens(network, items)[0]
    assert lowered.dtype == torch.float32
    assert float(torch.cosine_similarity(exact.flatten(1), lowered.flatten(1)).min()) > 0.999
    assert [key[2] for key in network.biases._cache] == [torch.float32, torch.bfloat16]
    assert network.token_offset_group0.dtype == torch.float32
    names = {name.split(".")[0] for name, _ in network.named_parameters()}
    assert names == {"encoder_slopes", "encoder", "stems"}, "what the forward does not use is not kept"


@pytest.mark.parametrize("patch", [8, 16])
def test_kernels_respond_to_a_shrunk_image_as_the_published_ones_to_the_image(patch):
    shrink = oracle.bicubic_shrink(16, patch) if patch < 16 else np.eye(16)
    found = thor._compute_kernel_resize(patch).numpy()
    assert found.shape == (256, patch**2)
    np.testing.assert_allclose(found, np.linalg.pinv(np.kron(shrink, shrink).T).T, atol=1e-10)


REAL = {  # variant: (D, depth, heads, length of a group's embedding, published parameters and slopes)
    "tiny": (192, 12, 3, 32, 7.61),
    "small": (384, 12, 6, 64, 25.83),
    "base": (768, 12, 12, 128, 94.14),
    "large": (1024, 24, 16, 256, 314.42),
}


@pytest.mark.parametrize("modality", ["s2", "s1"])
@pytest.mark.parametrize("name", REAL)
def test_the_network_has_the_published_tensors_and_no_others(name, modality):
    dim, depth, heads, band, millions = REAL[name]
    options = Options(variant=name)
    published = shapes(Variant(dim, depth, heads, band))
    assert len(published) == 249 - 12 * 12 + 12 * depth
    numbers = sum(math.prod(shape) for shape in published.values())
    assert round(numbers / 1e6, 2) == millions
    assert name != "base" or numbers == 94_136_588
    with torch.device("meta"):
        network = ADAPTER.build(options, modality, BANDS[modality])
    renamed = {n: ADAPTER.rename(n, options, modality) for n in published}
    own = {new: published[n] for n, new in renamed.items() if new is not None}
    assert own == {n: tuple(p.shape) for n, p in network.named_parameters()}
    used = [p[0] for p in PLAIN[modality]]
    for n, new in renamed.items():
        unused = n.startswith(("norm.", "band_embed.", "ind_patch_embed.")) and not any(f".{b}." in n for b in used)
        assert unused or new is not None
    for ignored in (
        "decoder_embed.weight",
        "decoder_blocks.0.norm1.weight",
        "decode_head.bias",
        "pos_embed",
        "ref_pos_embed",
    ):
        assert ADAPTER.rename(ignored, options, modality) is None
    odd = ("ind_patch_embed.weight", "ind_patch_embed.patch_embed.S2:Red", "band_embed", "band_embed.group0.0")
    assert [ADAPTER.rename(name, options, modality) for name in odd] == [None] * 4, "parts that no published file has"
    assert ADAPTER.rename("cls_token", options, modality) not in own  # of another architecture: the loader refuses it
    assert get_model_info("thor").dim(options) == dim


def test_the_description_of_the_model():
    info = get_model_info("thor_1_0_base")
    assert info is get_model_info("THOR") is get_adapter("thor").info
    assert [m.sensor.bands for m in info.modalities.values()] == [BANDS["s2"], BANDS["s1"]]
    assert info.modalities["s1"].sensor.collection == "COPERNICUS/S1_GRD_FLOAT"
    assert all(m.sensor.scale_m == 10.0 for m in info.modalities.values())
    assert (info.size(Options()), info.square, info.rectangle_pooling) == (288, True, "cells")
    for name in REAL:
        weights = info.weights(Options(variant=name))
        assert (weights.repository, weights.file) == (f"FM4CS/THOR-1.0-{name}", f"thor_v1_vit_{name}.pt")
    with pytest.raises(ModelError, match=r"model_config.patch_size: 4 is not valid; allowed: one of 8, 16"):
        Options(patch_size=4)
