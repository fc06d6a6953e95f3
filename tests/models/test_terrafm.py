"""TerraFM against a plain float64 formulation for each stem; inputs, published tensors, errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rs_embed import ModelError, OutputSpec
from rs_embed.models import get_adapter
from rs_embed.models.base import Image
from rs_embed.models.terrafm import ADAPTER, BANDS, INFO, VARIANTS, Options, Variant
from rs_embed.weights.checkpoints import Checkpoint

from ..support import oracle

RADAR = ("VV", "VH")
TINY = Variant(width=12, depth=2, heads=3)
#: torch computes where a pixel is in float32: up to 2e-5 pixels off at 224, and neighbours here
#: differ by up to 1.
COORDINATES = 3e-5
STEMS = {"s2_l2a": 12, "s2_l1c": 12, "s1": 2}


def optical(seed: int, height: int = 224, width: int = 224) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 6000, (1, 12, height, width)).astype(np.float32)
    return Image("s2", pixels, BANDS, 10.0, 12.4, 51.3)


def radar(seed: int, height: int = 224, width: int = 224) -> Image:
    pixels = np.random.default_rng(seed).gamma(4, 0.03, (1, 2, height, width)).astype(np.float32)
    return Image("s1", pixels, RADAR, 10.0, 12.4, 51.3)


def published(v: Variant) -> dict[str, tuple]:
    """Names and shapes of the published state dict."""
    d, wide = v.width, 3 * v.width
    shapes = {"cls_token": (1, 1, d), "pos_embed": (1, 197, d), "norm.weight": (d,), "norm.bias": (d,)}
    for stem, bands in STEMS.items():
        at = f"patch_embed.conv2d_{stem}"
        shapes |= {f"{at}.weight": (wide, bands, 16, 16), f"{at}.bias": (wide,), f"patch_embed.{stem}_embed": (1, wide)}
    at = "patch_embed.projection"
    shapes |= {f"{at}.proj1.weight": (wide, wide), f"{at}.proj2.weight": (wide, wide), f"{at}.proj3.weight": (d, wide)}
    shapes |= {f"{at}.norm_input.weight": (wide,), f"{at}.norm_input.bias": (wide,)}
    shapes |= {f"{at}.proj2.bias": (wide,), f"{at}.proj3.bias": (d,)}
    for i in range(v.depth):
        at = f"blocks.{i}"
        for name in ("norm1", "norm2"):
            shapes |= {f"{at}.{name}.weight": (d,), f"{at}.{name}.bias": (d,)}
        for name, out, inner in (
            ("attn.qkv", 3 * d, d),
            ("attn.proj", d, d),
            ("mlp.fc1", 4 * d, d),
            ("mlp.fc2", d, 4 * d),
        ):
            shapes |= {f"{at}.{name}.weight": (out, inner), f"{at}.{name}.bias": (out,)}
    return shapes


def encoder(state: dict, pixels: np.ndarray, v: Variant, stem: str) -> np.ndarray:
    """Normed tokens of one image, (197, width), by the formulas."""
    w = {n: t.astype(np.float64) for n, t in state.items()}
    kernel = w[f"patch_embed.conv2d_{stem}.weight"], w[f"patch_embed.conv2d_{stem}.bias"]
    x = oracle.patches(pixels.astype(np.float64), *kernel).reshape(-1, 3 * v.width) + w[f"patch_embed.{stem}_embed"]
    p = {n.removeprefix("patch_embed.projection."): t for n, t in w.items()}
    x = oracle.norm(x @ p["proj1.weight"].T, p["norm_input.weight"], p["norm_input.bias"], 1e-5)
    x = (x @ p["proj2.weight"].T + p["proj2.bias"]) @ p["proj3.weight"].T + p["proj3.bias"]
    x = np.vstack([w["cls_token"][0], x]) + w["pos_embed"][0]
    for i in range(v.depth):
        x = oracle.block(x, w, f"blocks.{i}", v.heads, 1e-6)
    return oracle.norm(x, w["norm.weight"], w["norm.bias"], 1e-6)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A small encoder in a file with the published names, and a head beside it: (state,
    checkpoint)."""
    monkeypatch.setitem(VARIANTS, "b", TINY)
    state = oracle.random_state(published(TINY), 1)
    head = oracle.random_state({"head.mlp.0.weight": (5, 12), "head.last_layer.weight_g": (5, 1)}, 2)
    return state, oracle.save_checkpoint(state | head, tmp_path / "TerraFM-B.pth")


def load(checkpoint, options, modality="s2"):
    return ADAPTER.load(options, modality, INFO.modalities[modality].sensor.bands, checkpoint)


def embed(network, images, options):
    """Pooled vectors and grids of images in one batch."""
    import torch

    with torch.inference_mode():
        batch = {"pixels": torch.from_numpy(np.stack([ADAPTER.preprocess(i, options)["pixels"] for i in images]))}
        tokens = ADAPTER.forward(network, batch, options)
        grid = ADAPTER.grid(tokens, OutputSpec.grid(), options)
        return ADAPTER.pooled(tokens, OutputSpec.pooled("max"), options).numpy(), grid.numpy()


@pytest.mark.parametrize(
    ("given", "one", "stem"),
    [
        ({}, optical(1), "s2_l2a"),
        ({"preset": "rs-embed"}, optical(1), "s2_l1c"),
        ({"stem": "l1c"}, optical(1), "s2_l1c"),
        ({"preset": "rs-embed", "stem": "l2a"}, optical(1), "s2_l2a"),
        ({}, radar(1), "s1"),
        ({"preset": "rs-embed", "stem": "l2a"}, radar(1), "s1"),
    ],
    ids=["official", "rs-embed", "l1c", "rs-embed-l2a", "s1", "rs-embed-s1"],
)
def test_the_encoder_is_that_of_a_plain_implementation(tiny, given, one, stem):
    state, checkpoint = tiny
    options = Options(**given)
    pooled, grid = embed(load(checkpoint, options, one.modality), [one], options)
    tokens = encoder(state, ADAPTER.preprocess(one, options)["pixels"], TINY, stem)
    assert (pooled.shape, grid.shape) == ((1, 12), (1, 12, 14, 14))
    np.testing.assert_allclose(pooled[0], tokens[0], atol=1e-5)
    for row in range(14):
        for column in range(14):
            np.testing.assert_allclose(grid[0, :, row, column], tokens[1 + 14 * row + column], atol=1e-5)
    assert pooled.std() > 0.3, "the values vary"


def test_norms_of_faint_tokens_have_the_published_eps(tiny, tmp_path):
    faint = {n: t * np.float32(0.002 if n.endswith(oracle.FAINT) else 1) for n, t in tiny[0].items()}
    pooled, grid = embed(
        load(oracle.save_checkpoint(faint, tmp_path / "faint.pth"), Options()), [optical(1)], Options()
    )
    tokens = encoder(faint, ADAPTER.preprocess(optical(1), Options())["pixels"], TINY, "s2_l2a")
    np.testing.assert_allclose(pooled[0], tokens[0], atol=1e-5)
    np.testing.assert_allclose(grid[0].reshape(12, 196).T, tokens[1:], atol=1e-5)


@pytest.mark.parametrize("make", [optical, radar])
def test_a_vector_does_not_depend_on_other_images_of_the_batch(tiny, make):
    options = Options()
    one, others = make(1), [make(i) for i in range(2, 8)]
    network = load(tiny[1], options, one.modality)
    alone = embed(network, [one], options)
    for position in range(7):
        together = embed(network, [*others[:position], one, *others[position:]], options)
        for a, b in zip(alone, together):
            np.testing.assert_allclose(b[position], a[0], atol=1e-5)


# Inputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "preset"),
    [(224, 224, "official"), (61, 61, "official"), (61, 61, "rs-embed"), (230, 190, "official")],
)
def test_optical_pixels_are_reflectance_at_the_model_s_size(height, width, preset):
    one = optical(3, height, width)
    one.pixels[0, :, :5] *= 5  # brighter than 1
    one.pixels[0, 1, 7:9, 7:9] = np.nan
    one.pixels[0, 2, 9:12] = -50
    expected = np.clip(np.nan_to_num(one.pixels[0].astype(np.float64)) / 10000, 0, 1)
    found = ADAPTER.preprocess(one, Options(preset=preset))["pixels"]
    assert (found.shape, found.dtype) == ((12, 224, 224), np.float32)
    np.testing.assert_allclose(found, oracle.bilinear(expected, 224, 224), atol=COORDINATES)


@pytest.mark.parametrize(
    ("height", "width", "preset"),
    [(224, 224, "official"), (61, 61, "official"), (61, 61, "rs-embed"), (230, 190, "official")],
)
def test_radar_pixels_are_logarithms_over_their_99th_percentile(height, width, preset):
    one = radar(3, height, width)
    one.pixels[0, 0, 3:5] = np.nan
    one.pixels[0, 1, 0, :9] = -0.001  # noise removed from noise
    power = np.maximum(np.nan_to_num(one.pixels[0].astype(np.float64)), 0)
    logs = np.log(1 + power)
    ranked = np.sort(logs.ravel())
    at = 0.99 * (len(ranked) - 1)
    low, share = int(at), at - int(at)
    top = ranked[low] * (1 - share) + ranked[low + 1] * share
    found = ADAPTER.preprocess(one, Options(preset=preset))["pixels"]
    assert (found.shape, found.dtype) == ((2, 224, 224), np.float32)
    np.testing.assert_allclose(found, oracle.bilinear(np.minimum(logs / top, 1), 224, 224), atol=COORDINATES)


@pytest.mark.parametrize("make", [optical, radar])
@pytest.mark.parametrize("side", [224, 61])
def test_pixels_are_contiguous(make, side):
    one = make(1, side, side)
    turned = Image(one.modality, np.asfortranarray(one.pixels), one.bands, 10.0, 12.4, 51.3)
    found = ADAPTER.preprocess(turned, Options())["pixels"]
    assert found.flags.c_contiguous
    assert np.array_equal(found, ADAPTER.preprocess(one, Options())["pixels"])


def test_radar_pixels_that_are_nearly_all_empty_keep_their_logarithms():
    one = radar(3)
    one.pixels[0, :, 1:] = 0
    found = ADAPTER.preprocess(one, Options())["pixels"]
    np.testing.assert_allclose(found, np.minimum(np.log1p(one.pixels[0]), 1), atol=1e-6)


@pytest.mark.parametrize(
    ("one", "change", "message"),
    [
        (optical(1), lambda p: p[:, :11], r"pixels of shape \(1, 11, 224, 224\) are not valid for 12 bands"),
        (optical(1), lambda p: p[0], r"pixels of shape \(12, 224, 224\) are not valid"),
        (optical(1), lambda p: p > 5, "pixels of dtype bool are not valid; allowed: integers or floats"),
        (optical(1), lambda p: p * 0, "every value of the image is 0"),
        (optical(1), lambda p: p * np.nan, "the image has no finite value"),
        (optical(1), lambda p: p / 10000, "looks like reflectance; allowed: DN"),
        (radar(1), lambda p: p[:, :1], r"pixels of shape \(1, 1, 224, 224\) are not valid for 2 bands"),
        (radar(1), lambda p: p.astype(complex), "pixels of dtype complex128 are not valid"),
        (radar(1), lambda p: p * 0, "every value of the image is 0"),
        (radar(1), lambda p: p * np.inf, "the image has no finite value"),
        (radar(1), lambda p: 10 * np.log10(p), "looks like decibel; allowed: linear power"),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_invalid_images_are_refused(one, change, message):
    bad = Image(one.modality, change(one.pixels), one.bands, 10.0, 0.0, 0.0)
    with pytest.raises(ModelError, match=message):
        ADAPTER.preprocess(bad, Options())


# Published files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("modality", ["s2", "s1"])
@pytest.mark.parametrize(("variant", "names", "numbers"), [("b", 164, 112_951_296), ("l", 308, 345.0e6)])
def test_every_published_tensor_is_used_or_belongs_to_another_stem(variant, names, numbers, modality):
    import torch

    options = Options(variant=variant, weights="random")
    tensors = published(VARIANTS[variant])
    count = sum(math.prod(s) for s in tensors.values())
    assert len(tensors) == names
    assert count == pytest.approx(numbers, abs=0 if variant == "b" else 5e4)
    with torch.device("meta"):
        network = ADAPTER.build(options, modality, INFO.modalities[modality].sensor.bands)
    own = {n: tuple(p.shape) for n, p in network.named_parameters()}
    placed = {ADAPTER.rename(n, options, modality): s for n, s in tensors.items()}
    left = [n for n in tensors if ADAPTER.rename(n, options, modality) is None]
    placed.pop(None)
    assert placed == own
    mine = "s1" if modality == "s1" else "s2_l2a"
    others = [s for s in STEMS if s != mine]
    ends = ("conv2d_{}.weight", "conv2d_{}.bias", "{}_embed")
    assert sorted(left) == sorted(f"patch_embed.{end.format(s)}" for s in others for end in ends)
    assert ADAPTER.rename("head.mlp.0.weight", options, modality) is None
    for strange in ("blocks.24.norm1.weight", "patch_embed.proj.weight", "patch_embed.projection.query"):
        assert ADAPTER.rename(strange, options, modality) not in {None, *own}, "the file of another model is noticed"


def test_the_published_size_runs():
    options = Options()
    pooled, grid = embed(load(Checkpoint(None, 0, {}), options, "s1"), [radar(1)], options)
    assert (pooled.shape, grid.shape, pooled.dtype) == ((1, 768), (1, 768, 14, 14), np.float32)
    assert np.isfinite(pooled).all()
    assert np.isfinite(grid).all()


def test_the_description_of_the_model():
    assert get_adapter("terrafm_b") is get_adapter("TerraFM") is ADAPTER
    base, large = Options(), Options(variant="L", weights="random")
    assert (INFO.dim(base), INFO.dim(large)) == (768, 1024)
    assert (INFO.size(base), INFO.smallest(base), INFO.square, INFO.rectangle_pooling) == (224, 16, True, "cells")
    assert list(INFO.modalities) == ["s2", "s1"]
    assert "B10" not in BANDS
    assert INFO.weights(base).file == "TerraFM-B.pth"
    assert INFO.weights(large) is None
    with pytest.raises(ModelError, match=r"model_config.weights: null is not valid with variant 'l'"):
        Options(variant="l")
    with pytest.raises(ModelError, match=r"model_config.stem: 's1' is not valid; allowed: one of 'l2a', 'l1c', null"):
        Options(stem="s1")
