"""THOR's network against a plain float64 formulation; attention bias, published tensors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from rs_embed import ModelError, OutputSpec
from rs_embed.engine.tiled_image import tile_image
from rs_embed.models import get_adapter, get_model_info, thor
from rs_embed.models.shared import alibi, vit
from rs_embed.models.shared.alibi import BiasCache
from rs_embed.models.thor import ADAPTER, BANDS, VARIANTS, Options, Variant
from rs_embed.planning.model_info import Prep
from rs_embed.weights.checkpoints import Checkpoint

from ..support import oracle
from ..support.thor_oracle import PLAIN, draw_image, encode, normalise, pool, snap

SMALL = Variant(dim=24, depth=2, heads=3, band=4)
SIZES = {"band": SMALL.band, "depth": SMALL.depth}
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
        ("s1", 71, 20, 8, False, 72),
        ("s1", 50, 20, 16, True, 288),
        ("s1", 60, 25, 8, False, 64),
        ("s1", 60, 30, 8, False, 56),
        ("s1", 40, 40, 8, False, 40),
        ("s1", 30, 60, 8, False, 28),
    ],
)
def test_tokens_vectors_and_grids_are_those_of_the_formulas(
    load, state, modality, height, scale, patch, tile, side, preset
):
    options = Options(preset=preset, patch_size=patch)
    one = draw_image(1, modality, height, scale_m=float(scale), is_tile=tile)
    pixels = one.pixels[0]
    if not tile:
        pixels = snap(pixels, side, "edge" if preset == "official" else "constant")
    scaled = normalise(pixels, modality, preset)
    told = modality == "s1" and preset == "official" and scale in (20, 30, 40)
    scaled = oracle.bilinear(scaled, side) if tile else scaled
    expected, grids = encode(state, scaled, modality, scale, patch, told=told, **SIZES)
    found = tokens(load(options, modality), [ADAPTER.preprocess(one, options)], options)
    resampled = tile or (modality == "s1" and scale in (25, 60))
    close = {"rtol": 0, "atol": 3e-4 if resampled else 1e-5}  # in float32, which torch does to 1e-5 of a pixel only
    np.testing.assert_allclose(found[0][0].numpy(), expected, **close)
    np.testing.assert_allclose(ADAPTER.pooled(found, VECTOR, options)[0], expected.mean(0), **close)
    np.testing.assert_allclose(ADAPTER.pooled(found, VECTOR_MAX, options)[0], expected.max(0), **close)
    merged = np.mean([oracle.bilinear(g, len(grids[0][0])) for g in grids], 0)
    np.testing.assert_allclose(ADAPTER.grid(found, GRID, options)[0], merged, **close)
    assert merged.shape == (24, *[side * scale // ((scale if told else 10) * patch)] * 2)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize("vector", ["tokens", "normed_tokens", "pooled_token"])
@pytest.mark.parametrize("preset", ["official", "rs-embed"])
def test_the_vector_is_that_of_the_definition_asked_for_and_the_grid_is_always_of_the_last_block(
    load, state, vector, preset, pooling
):
    options = Options(vector=vector, preset=preset)
    one = draw_image(2, height=64)
    scaled = normalise(one.pixels[0], "s2", preset)
    expected, grids = encode(state, scaled, "s2", 10, 8, **SIZES)
    found = tokens(load(options), [ADAPTER.preprocess(one, options)], options)
    made = ADAPTER.pooled(found, OutputSpec.pooled(pooling), options)
    np.testing.assert_allclose(made[0], pool(expected, state, vector, pooling), rtol=0, atol=1e-5)
    others = [pool(expected, state, v, pooling) for v in ("tokens", "normed_tokens", "pooled_token") if v != vector]
    assert all(np.abs(made[0].numpy() - other).max() > 0.05 for other in others)
    merged = np.mean([oracle.bilinear(g, 8) for g in grids], 0)
    np.testing.assert_allclose(ADAPTER.grid(found, GRID, options)[0], merged, rtol=0, atol=1e-5)


@pytest.mark.parametrize("preset", ["official", "rs-embed"])
def test_the_default_vector_is_the_mean_of_the_tokens_of_the_grid(preset):
    assert Options(preset=preset).vector == "tokens"
    with pytest.raises(ModelError, match=r"model_config.vector: 'cls' is not valid; allowed: one of 'tokens', 'normed"):
        Options(vector="cls")


@pytest.mark.parametrize(
    ("vector", "kind"), [("tokens", "grid"), ("normed_tokens", "pooled"), ("pooled_token", "pooled")]
)
def test_the_vector_of_a_rectangle_has_the_definition_asked_for(vector, kind):
    one = draw_image(3, height=64, roi=(0.25, 0.75, 0.0, 1.0))
    options, prep = Options(vector=vector), Prep("resize", 288)
    assert tile_image(ADAPTER, options, prep, VECTOR, 0, one).output_kind == kind
    assert tile_image(ADAPTER, options, prep, GRID, 0, one).output_kind == "grid"
    assert tile_image(ADAPTER, options, prep, VECTOR, 0, replace(one, roi=None)).output_kind == "pooled"


@pytest.mark.parametrize("scale", [20, 30, 40])
def test_radar_of_a_pixel_size_of_the_training_keeps_it_and_the_network_is_told(load, state, scale):
    network, one = load(modality="s1"), draw_image(4, "s1", 48, scale_m=float(scale))
    made = ADAPTER.preprocess(one, Options())
    assert (made["group3"].shape, made["gsd"].tolist()) == ((2, 48, 48), [scale])
    alone = tokens(network, [made])[0][0]
    fine = tokens(network, [{"group3": made["group3"]}])[0][0]
    assert float((alone - fine).abs().max()) > 0.05, "the same pixels as 10 m are another scene"
    other = ADAPTER.preprocess(draw_image(5, "s1", 48, scale_m=float({20: 30, 30: 40, 40: 20}[scale])), Options())
    together = tokens(network, [other, made])[0]
    assert float((together[1] - alone).abs().max()) <= 1e-5
    published = ADAPTER.preprocess(one, Options(preset="rs-embed"))
    assert {name: array.shape for name, array in published.items()} == {"group3": (2, *[48 * scale // 10] * 2)}


@pytest.mark.parametrize("modality", ["s2", "s1"])
def test_an_image_alone_and_at_any_position_of_a_batch_gives_the_same(load, modality):
    network = load(modality=modality)
    items = [ADAPTER.preprocess(draw_image(i, modality), Options()) for i in range(7)]
    together, turned = tokens(network, items)[0], tokens(network, items[::-1])[0]
    for i, item in enumerate(items):
        alone = tokens(network, [item])[0][0]
        assert float((together[i] - alone).abs().max()) <= 1e-5
        assert float((turned[6 - i] - alone).abs().max()) <= 1e-5
    assert float((together[0] - together[1]).abs().max()) > 0.1


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
    items = [ADAPTER.preprocess(draw_image(i), Options()) for i in range(2)]
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


@pytest.mark.parametrize("vector", ["tokens", "normed_tokens", "pooled_token"])
@pytest.mark.parametrize("modality", ["s2", "s1"])
@pytest.mark.parametrize("name", REAL)
def test_the_network_has_the_published_tensors_and_no_others(name, modality, vector):
    dim, depth, heads, band, millions = REAL[name]
    options = Options(variant=name, vector=vector)
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
    assert {renamed["norm.weight"], renamed["norm.bias"]} == (
        {None} if vector == "tokens" else {"norm.weight", "norm.bias"}
    )
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
    assert info.version == 2
    for name in REAL:
        weights = info.weights(Options(variant=name))
        assert (weights.repository, weights.file) == (f"FM4CS/THOR-1.0-{name}", f"thor_v1_vit_{name}.pt")
    with pytest.raises(ModelError, match=r"model_config.patch_size: 4 is not valid; allowed: one of 8, 16"):
        Options(patch_size=4)
