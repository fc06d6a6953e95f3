"""RemoteCLIP against a plain float64 formulation; resizing as in Pillow, published tensors,
errors."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest

from rs_embed import ModelError, OutputSpec
from rs_embed.models import get_adapter, remoteclip
from rs_embed.models.base import Image
from rs_embed.models.remoteclip import ADAPTER, INFO, VARIANTS, Options, Variant
from rs_embed.models.shared import byte_images
from rs_embed.weights.checkpoints import Checkpoint

from ..support import oracle

BANDS = ("B4", "B3", "B2")
TINY = Variant(patch=32, width=24, depth=2, heads=3, out=10)
RANDOM = Checkpoint(None, 0, {"pretrained": False})


def image(seed: int, height: int = 224, width: int = 224) -> Image:
    pixels = np.random.default_rng(seed).integers(0, 4000, (1, 3, height, width)).astype(np.float32)
    return Image("s2", pixels, BANDS, 10.0, 12.4, 51.3)


def visual(v: Variant) -> dict[str, tuple]:
    """Names and shapes of the image tower in the published state dicts."""
    d = v.width
    shapes = {
        "class_embedding": (d,),
        "positional_embedding": ((224 // v.patch) ** 2 + 1, d),
        "proj": (d, v.out),
        "conv1.weight": (d, 3, v.patch, v.patch),
    }
    for name in ("ln_pre", "ln_post"):
        shapes |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    return {f"visual.{n}": s for n, s in (shapes | blocks("transformer", d, v.depth)).items()}


def blocks(under: str, d: int, depth: int) -> dict[str, tuple]:
    shapes = {}
    for i in range(depth):
        at = f"{under}.resblocks.{i}"
        for name in ("ln_1", "ln_2"):
            shapes |= {f"{at}.{name}.weight": (d,), f"{at}.{name}.bias": (d,)}
        for name, rows, columns in (("attn.out_proj.", d, d), ("mlp.c_fc.", 4 * d, d), ("mlp.c_proj.", d, 4 * d)):
            shapes |= {f"{at}.{name}weight": (rows, columns), f"{at}.{name}bias": (rows,)}
        shapes |= {f"{at}.attn.in_proj_weight": (3 * d, d), f"{at}.attn.in_proj_bias": (3 * d,)}
    return shapes


def text(d: int) -> dict[str, tuple]:
    """Names and shapes of the text tower: 12 blocks, 49408 words, 77 positions."""
    head = {"positional_embedding": (77, d), "text_projection": (d, d), "logit_scale": ()}
    head |= {"token_embedding.weight": (49408, d), "ln_final.weight": (d,), "ln_final.bias": (d,)}
    return head | blocks("transformer", d, 12)


def tower(state: dict, pixels: np.ndarray, v: Variant, activation) -> np.ndarray:
    """Tokens of the last block for one image, (1 + N, width), by the formulas."""
    w = {n.removeprefix("visual."): t.astype(np.float64) for n, t in state.items()}
    x = oracle.patches(pixels.astype(np.float64), w["conv1.weight"], np.zeros(v.width)).reshape(-1, v.width)
    x = np.vstack([w["class_embedding"], x]) + w["positional_embedding"]
    x = oracle.norm(x, w["ln_pre.weight"], w["ln_pre.bias"], 1e-5)
    for i in range(v.depth):
        b = {n.removeprefix(f"transformer.resblocks.{i}."): t for n, t in w.items()}
        y = oracle.norm(x, b["ln_1.weight"], b["ln_1.bias"], 1e-5)
        into, out = (tuple(b[f"attn.{n}{part}"] for part in ("weight", "bias")) for n in ("in_proj_", "out_proj."))
        x = x + oracle.attention(y, into, out, v.heads)
        y = oracle.norm(x, b["ln_2.weight"], b["ln_2.bias"], 1e-5)
        y = activation(y @ b["mlp.c_fc.weight"].T + b["mlp.c_fc.bias"])
        x = x + y @ b["mlp.c_proj.weight"].T + b["mlp.c_proj.bias"]
    return x


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A small tower in a file with the published names, beside tensors of a text tower: (state,
    checkpoint)."""
    monkeypatch.setitem(VARIANTS, "ViT-B-32", TINY)
    state = oracle.random_state(visual(TINY), 1)
    others = {"logit_scale": (), "transformer.resblocks.0.ln_1.weight": (8,), "token_embedding.weight": (5, 8)}
    return state, oracle.save_checkpoint(oracle.random_state(others, 2) | state, tmp_path / "RemoteCLIP-ViT-B-32.pt")


def embed(network, images, options):
    """Pooled vectors and grids of images in one batch."""
    import torch

    with torch.inference_mode():
        batch = {"pixels": torch.from_numpy(np.stack([ADAPTER.preprocess(i, options)["pixels"] for i in images]))}
        tokens = ADAPTER.forward(network, batch, options)
        grid = ADAPTER.grid(tokens, OutputSpec.grid(), options)
        return ADAPTER.pooled(tokens, OutputSpec.pooled("max"), options).numpy(), grid.numpy()


@pytest.mark.parametrize(
    ("given", "function"),
    [
        ({}, oracle.quick_gelu),
        ({"preset": "rs-embed"}, oracle.gelu),
        ({"activation": "gelu"}, oracle.gelu),
        ({"preset": "rs-embed", "activation": "quickgelu"}, oracle.quick_gelu),
    ],
    ids=["official", "rs-embed", "gelu", "rs-embed-quickgelu"],
)
def test_the_tower_is_that_of_a_plain_implementation(tiny, given, function):
    state, checkpoint = tiny
    options = Options(**given)
    network = ADAPTER.load(options, "s2", BANDS, checkpoint)
    one = image(1)
    pooled, grid = embed(network, [one], options)
    tokens = tower(state, ADAPTER.preprocess(one, options)["pixels"], TINY, function)
    top = oracle.norm(tokens[:1], state["visual.ln_post.weight"], state["visual.ln_post.bias"], 1e-5)
    np.testing.assert_allclose(pooled[0], (top @ state["visual.proj"])[0], atol=1e-5)
    assert (pooled.shape, grid.shape) == ((1, 10), (1, 24, 7, 7))
    for row in range(7):
        for column in range(7):
            np.testing.assert_allclose(grid[0, :, row, column], tokens[1 + 7 * row + column], atol=1e-5)
    assert pooled.std() > 0.3, "the values vary"
    (other,) = {oracle.gelu, oracle.quick_gelu} - {function}
    there = tower(state, ADAPTER.preprocess(one, options)["pixels"], TINY, other)
    assert np.abs(grid[0].reshape(24, 49).T - there[1:]).max() > 1e-3, "the activations are told apart"


def test_options_that_name_the_activation_of_the_preset_are_the_same_request():
    def same(one: dict, other: dict) -> bool:
        return INFO.canonical(Options(**one), "s2") == INFO.canonical(Options(**other), "s2")

    assert same({}, {"activation": "quickgelu"})
    assert same({"preset": "rs-embed"}, {"preset": "rs-embed", "activation": "gelu"})
    assert not same({}, {"activation": "gelu"})
    assert not same({"preset": "rs-embed"}, {"preset": "rs-embed", "activation": "quickgelu"})


@pytest.mark.parametrize(("height", "width"), [(224, 224), (61, 61), (48, 75)])
def test_pixels_are_contiguous(height, width):
    one = image(1, height, width)
    for pixels in (one.pixels, np.asfortranarray(one.pixels)):
        made = ADAPTER.preprocess(replace(one, pixels=pixels), Options())["pixels"]
        assert made.flags.c_contiguous
        assert np.array_equal(made, ADAPTER.preprocess(one, Options())["pixels"])


def test_norms_of_faint_tokens_have_the_published_eps(tiny, tmp_path):
    faint = {n: t * np.float32(0.002 if n.endswith(oracle.FAINT) else 1) for n, t in tiny[0].items()}
    network = ADAPTER.load(Options(), "s2", BANDS, oracle.save_checkpoint(faint, tmp_path / "faint.pt"))
    pooled, grid = embed(network, [image(1)], Options())
    tokens = tower(faint, ADAPTER.preprocess(image(1), Options())["pixels"], TINY, oracle.quick_gelu)
    top = oracle.norm(tokens[:1], faint["visual.ln_post.weight"], faint["visual.ln_post.bias"], 1e-5)
    np.testing.assert_allclose(pooled[0], (top @ faint["visual.proj"])[0], atol=1e-5)
    np.testing.assert_allclose(grid[0].reshape(24, 49).T, tokens[1:], atol=1e-5)


def test_a_vector_does_not_depend_on_other_images_of_the_batch(tiny):
    options = Options()
    network = ADAPTER.load(options, "s2", BANDS, tiny[1])
    one, others = image(1), [image(i) for i in range(2, 8)]
    alone = embed(network, [one], options)
    for position in range(7):
        together = embed(network, [*others[:position], one, *others[position:]], options)
        for a, b in zip(alone, together):
            np.testing.assert_allclose(b[position], a[0], atol=1e-5)


# Images ------------------------------------------------------------------------------------------


def draw_image(height: int, width: int) -> np.ndarray:
    """An image computed from integers only, (3, H, W) uint8."""
    y, x, c = np.arange(height)[:, None], np.arange(width), np.arange(3)[:, None, None]
    return ((x * x * 7 + y * 13 + c * 29 + (x * y) % 251 + (x // 3 + y // 5) % 2 * 120) % 256).astype(np.uint8)


def digest(pixels: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(pixels.transpose(1, 2, 0)).tobytes()).hexdigest()[:16]


# Digests of ``resize_and_crop(draw_image(n, n), 224)``, the same with Pillow 11, 12 and 13: a
# Pillow that resizes differently changes embeddings, and must not come unnoticed.
PILLOW = {
    224: "b97a5fa66458813d",
    300: "942e8d2b44c9aa99",
    500: "fa72f92504df47ff",
    448: "af8a407eeedd3a3e",
    100: "2a2610c8eb148ae2",
    225: "ee044ecf625f2b3b",
}


@pytest.mark.parametrize("side", PILLOW)
def test_an_image_is_resized_to_known_bytes(side):
    made = byte_images.resize_and_crop(draw_image(side, side), 224)
    assert (made.shape, made.dtype) == ((3, 224, 224), np.uint8)
    assert digest(made) == PILLOW[side]


def resized(line: np.ndarray, size: int) -> np.ndarray:
    """Bytes along the last axis to another length, in integers, one output value at a time."""
    count = line.shape[-1]
    scale = count / size
    stretch = max(scale, 1.0)
    out = np.empty((*line.shape[:-1], size), np.uint8)
    for i in range(size):
        middle = (i + 0.5) * scale
        taps = range(max(int(middle - 2 * stretch + 0.5), 0), min(int(middle + 2 * stretch + 0.5), count))
        kernel = []
        for j in taps:
            d = abs(j - middle + 0.5) / stretch
            value = 1.5 * d**3 - 2.5 * d**2 + 1 if d < 1 else -0.5 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0
            kernel.append(value)
        total = 1 << 21
        for j, value in zip(taps, kernel):
            share = value / sum(kernel) * (1 << 22)
            total = total + line[..., j].astype(np.int64) * int(share + math.copysign(0.5, share))
        out[..., i] = np.clip(total >> 22, 0, 255)
    return out


@pytest.mark.parametrize("height, width", [(224, 224), (300, 300), (61, 61), (48, 75), (75, 48), (225, 224)])
def test_preprocessing_is_that_of_a_plain_implementation(height, width):
    one = image(3, height, width)
    one.pixels[0, :, :5] *= 5  # brighter than 1
    one.pixels[0, 1, 7:9, 7:9] = np.nan
    one.pixels[0, 2, 9:12] = -50
    bytes_ = np.nan_to_num(one.pixels[0]).astype(np.float32) / np.float32(10000)
    bytes_ = np.array([[[int(min(max(v, 0), 1) * np.float32(255)) for v in r] for r in b] for b in bytes_], np.uint8)
    new = (224 * max(height, width) // width, 224 * max(height, width) // height)
    bytes_ = resized(bytes_, new[1])
    bytes_ = resized(bytes_.transpose(0, 2, 1), new[0]).transpose(0, 2, 1)
    top, left = round((new[0] - 224) / 2), round((new[1] - 224) / 2)
    shown = bytes_[:, top : top + 224, left : left + 224].astype(np.float64) / 255
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    expected = [(p - m) / d for p, m, d in zip(shown, mean, deviation)]
    found = ADAPTER.preprocess(one, Options())["pixels"]
    assert (found.shape, found.dtype) == ((3, 224, 224), np.float32)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:, :2], r"pixels of shape \(1, 2, 224, 224\) are not valid for 3 bands"),
        (lambda p: p[0], r"pixels of shape \(3, 224, 224\) are not valid"),
        (lambda p: p.astype(complex), "pixels of dtype complex128 are not valid; allowed: integers or floats"),
        (lambda p: p * 0, "every value of the image is 0"),
        (lambda p: p * np.nan, "the image has no finite value"),
        (lambda p: p / 10000, "looks like reflectance; allowed: DN"),
    ],
)
def test_invalid_images_are_refused(change, message):
    one = image(1)
    with pytest.raises(ModelError, match=message):
        ADAPTER.preprocess(Image("s2", change(one.pixels), BANDS, 10.0, 0.0, 0.0), Options())


# Published files ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "words", "names", "numbers", "seen"),
    [("ViT-B-32", 512, 302, 151_277_313, 87.85e6), ("ViT-L-14", 768, 446, 427_616_513, 303.97e6)],
)
def test_every_published_tensor_is_used_or_ignored(variant, words, names, numbers, seen):
    import torch

    options = Options(variant=variant)
    images, captions = visual(VARIANTS[variant]), text(words)
    published = images | captions
    assert (len(published), sum(math.prod(s) for s in published.values())) == (names, numbers)
    with torch.device("meta"):
        network = ADAPTER.build(options, "s2", BANDS)
    own = {n: tuple(p.shape) for n, p in network.named_parameters()}
    assert {ADAPTER.rename(n, options, "s2"): s for n, s in images.items()} == own
    assert {ADAPTER.rename(n, options, "s2") for n in captions} == {None}
    assert sum(math.prod(s) for s in own.values()) == pytest.approx(seen, abs=5e3)
    for strange in ("visual.transformer.resblocks.24.ln_1.weight", "visual.layer1.0.conv1.weight", "visual.attnpool.k"):
        assert ADAPTER.rename(strange, options, "s2") not in {None, *own}, "the file of another tower is noticed"
    assert set(ADAPTER.prefixes) == {"", "model."}


def test_the_published_size_runs():
    options = Options()
    network = ADAPTER.load(options, "s2", BANDS, RANDOM)
    pooled, grid = embed(network, [image(1)], options)
    assert (pooled.shape, grid.shape, pooled.dtype) == ((1, 512), (1, 768, 7, 7), np.float32)
    assert np.isfinite(pooled).all()
    assert np.isfinite(grid).all()


def test_the_description_of_the_model():
    assert get_adapter("remoteclip_s2rgb") is get_adapter("RemoteCLIP") is ADAPTER
    small, large = Options(), Options(variant="vit-l-14")
    assert (INFO.dim(small), INFO.dim(large)) == (512, 768)
    assert (INFO.smallest(small), INFO.smallest(large)) == (32, 14)
    assert (INFO.size(small), INFO.square, INFO.rectangle_pooling) == (224, True, "own")
    assert INFO.modalities["s2"].sensor.bands == BANDS
    for options in (small, large):
        weights = INFO.weights(options)
        assert weights.file == f"RemoteCLIP-{options.variant}.pt"
        assert len(weights.revision) == 40
        assert len(weights.sha256) == 64
    with pytest.raises(ModelError, match=r"model_config.variant: 'RN50' is not valid"):
        Options(variant="RN50")
    with pytest.raises(ModelError, match=r"activation: 'relu' is not valid; allowed: one of 'gelu', 'quickgelu', null"):
        Options(activation="relu")
    assert INFO.version == 2
    assert remoteclip.SIDE == 224
