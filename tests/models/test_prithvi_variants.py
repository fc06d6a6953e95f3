"""The published models of Prithvi: tensors, files, layouts of files, and the recipe of each."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from rs_embed import ModelError, TemporalSpec
from rs_embed.models import get_model_info
from rs_embed.models.base import Image
from rs_embed.models.prithvi import ADAPTER, Options
from rs_embed.models.prithvi_variants import BANDS, VARIANTS
from rs_embed.planning.flops import InputShape
from rs_embed.planning.model_info import Frames
from rs_embed.weights.checkpoints import Checkpoint

from ..support import oracle
from ..support import prithvi_oracle as formulas

PAGE = Path(__file__).parents[2] / "docs" / "models" / "prithvi.md"
#: Of config.json of the 2.0 models, and of 1.0-100M.
STATISTICS_2 = [1087.0, 1342.0, 1433.0, 2734.0, 1958.0, 1363.0], [2248.0, 2179.0, 2178.0, 1850.0, 1242.0, 1049.0]
STATISTICS_1 = (
    [
        775.2290211032589,
        1080.992780391705,
        1228.5855250417867,
        2497.2022620507532,
        2204.2139147975554,
        1610.8324823273745,
    ],
    [
        1281.526139861424,
        1270.0297974547493,
        1399.4802505642526,
        1368.3446143747644,
        1291.6764008585435,
        1154.505683480695,
    ],
)


@dataclass(frozen=True)
class Published:
    """What is known of one published model.

    ``size`` is that of its file in bytes (the hub's pages, other projects), with the decoder.
    """

    short: str
    sizes: formulas.Sizes
    file: str
    frames: int
    parameters: int
    size: int | None = None
    statistics: tuple = STATISTICS_2


PUBLISHED = {
    "prithvi_eo_v2_tiny_tl": Published(
        "tiny_tl", formulas.Sizes(192, 12, 3, 16), "Prithvi-EO-2.0-tiny-TL/Prithvi_EO_V2_tiny_TL.pt", 4, 5_634_050
    ),
    "prithvi_eo_v2_100_tl": Published(
        *("100m_tl", formulas.Sizes(768, 12, 12, 16), "Prithvi-EO-2.0-100M-TL/Prithvi_EO_V2_100M_TL.pt", 4, 86_237_186),
        454_660_610,
    ),
    "prithvi_eo_v2_300_tl": Published(
        *("300m_tl", formulas.Sizes(1024, 24, 16, 16), "Prithvi-EO-2.0-300M-TL/Prithvi_EO_V2_300M_TL.pt", 4),
        *(303_886_338, 1_326_660_716),
    ),
    "prithvi_eo_v2_600_tl": Published(
        *("600m_tl", formulas.Sizes(1280, 32, 16, 14), "Prithvi-EO-2.0-600M-TL/Prithvi_EO_V2_600M_TL.pt", 4),
        *(631_188_482, 2_638_217_218),
    ),
    "prithvi_eo_v2_300": Published(
        *("300m", formulas.Sizes(1024, 24, 16, 16, False), "Prithvi-EO-2.0-300M/Prithvi_EO_V2_300M.pt", 4),
        *(303_886_336, 1_326_658_396),
    ),
    "prithvi_eo_v2_600": Published(
        "600m", formulas.Sizes(1280, 32, 16, 14, False), "Prithvi-EO-2.0-600M/Prithvi_EO_V2_600M.pt", 4, 631_188_480
    ),
    "prithvi_eo_v1_100": Published(
        *("v1_100m", formulas.Sizes(768, 12, 12, 16, False, 1e-6), "Prithvi-EO-1.0-100M/Prithvi_EO_V1_100M.pt", 3),
        *(86_237_184, 453_671_052, STATISTICS_1),
    ),
}
EVERY = pytest.mark.parametrize("name", PUBLISHED)


def small(name: str) -> formulas.Sizes:
    """Sizes of a small encoder of the same kind."""
    return replace(PUBLISHED[name].sizes, dim=32, depth=2, heads=4, patch=56)


def load(name: str, monkeypatch, path: Path, file: dict[str, np.ndarray]):
    """A small network of a variant, from a file of these tensors."""
    sizes = small(name)
    monkeypatch.setitem(VARIANTS, name, replace(VARIANTS[name], dim=32, depth=2, heads=4, patch=56))
    torch.save({key: torch.from_numpy(values) for key, values in file.items()}, path)
    assert sizes.patch == VARIANTS[name].patch
    return ADAPTER.load(Options(variant=name), "s2", BANDS, Checkpoint(path))


def image(frames: int, **changes) -> Image:
    pixels = np.random.default_rng(frames).integers(1, 12000, (frames, 6, 224, 224)).astype(np.float32)
    dates = ("2019-02-28", "2019-05-01", "2020-12-31", "2021-01-01")[:frames]
    return replace(Image("s2", pixels, BANDS, 30.0, -71.5, 18.25, dates), **changes)


def run(network, one: Image, options: Options) -> torch.Tensor:
    inputs = ADAPTER.preprocess(one, options)
    with torch.inference_mode():
        return ADAPTER.forward(
            network, {key: torch.from_numpy(values)[None] for key, values in inputs.items()}, options
        )[0]


def test_these_are_all_variants():
    assert PUBLISHED.keys() == VARIANTS.keys()


@EVERY
def test_the_network_has_the_published_tensors_and_no_others(name):
    published, options = PUBLISHED[name], Options(variant=name)
    with torch.device("meta"):
        network = ADAPTER.build(options, "s2", BANDS)
    shapes = formulas.shapes(published.sizes)
    assert len(shapes) == 5 + 2 * published.sizes.conditioned + 12 * published.sizes.depth
    own = {ADAPTER.rename(key, options, "s2"): shape for key, shape in shapes.items()}
    assert own == {key: tuple(p.shape) for key, p in network.named_parameters()}
    assert sum(p.numel() for p in network.parameters()) == published.parameters
    norms = [m for m in network.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert {m.eps for m in norms} == {published.sizes.eps}
    assert len(norms) == 2 * published.sizes.depth + 1
    assert network.encoder.blocks[0].attn.heads == published.sizes.heads
    info = get_model_info("prithvi")
    assert info.dim(options) == published.sizes.dim
    assert info.smallest(options) == published.sizes.patch
    assert info.cost(options, "s2", InputShape(224, 224, 2, 6, 30.0)).grid[1] == 224 // published.sizes.patch


@pytest.mark.parametrize("name", [name for name, published in PUBLISHED.items() if published.size])
def test_the_size_of_the_published_file_is_that_of_its_parameters_and_frames(name):
    """Encoder and decoder (512 wide, 8 blocks) in float32, and a table of positions of each: their
    length is 1 + frames * cells. The rest of a file are the names."""
    published = PUBLISHED[name]
    dim, width, patch = published.sizes.dim, 512, published.sizes.patch

    def count(frames: int) -> int:
        block = 12 * width**2 + 13 * width
        decoder = dim * width + width + width + 8 * block + 2 * width + (width + 1) * 6 * patch**2
        tables = (1 + frames * (224 // patch) ** 2) * (dim + width)
        return published.parameters + decoder + 2 * published.sizes.conditioned + tables

    assert 0 < published.size - 4 * count(published.frames) < 200_000
    assert not 0 < published.size - 4 * count(published.frames - 1) < 200_000
    assert not 0 < published.size - 4 * count(published.frames + 1) < 200_000


@EVERY
def test_the_published_file_is_pinned(name):
    weights = get_model_info("prithvi").weights(Options(variant=name))
    assert f"{weights.repository}/{weights.file}" == f"ibm-nasa-geospatial/{PUBLISHED[name].file}"
    assert re.fullmatch("[0-9a-f]{40}", weights.revision)
    assert weights.sha256 is None or name == "prithvi_eo_v2_300_tl"
    page = PAGE.read_text()
    digest = VARIANTS[name].sha256 or VARIANTS[name].listed
    assert weights.repository.split("/")[1] in page and weights.revision in page
    assert digest is None or digest in page


@pytest.mark.parametrize("sha256", ["0" * 64, None])
def test_a_published_file_of_another_digest_is_used_with_a_warning(sha256):
    listed = VARIANTS["prithvi_eo_v2_100_tl"].listed
    record = {"repository": "ibm-nasa-geospatial/Prithvi-EO-2.0-100M-TL", "sha256": sha256 or listed}
    network = torch.nn.Identity()
    network.weights_record = record
    found = ADAPTER.describe_weights(network, Options())
    if sha256 is None:
        assert found == record
    else:
        assert found == record | {"warning": found["warning"]} and listed in found["warning"]
    network.weights_record = {"sha256": "1" * 64, "sha256_from": "local file"}
    assert ADAPTER.describe_weights(network, Options()) == network.weights_record


@EVERY
def test_every_spelling_is_one_identity(name):
    short = PUBLISHED[name].short
    for spelling in (short, short.upper(), short.replace("m", ""), name.upper()):
        assert Options(variant=spelling) == Options(variant=name)
    assert Options(variant=name).variant == name


@EVERY
@pytest.mark.parametrize("frames", [1, 3])
def test_tokens_are_those_of_the_authors_recipe(name, frames, monkeypatch, tmp_path):
    published, sizes = PUBLISHED[name], small(name)
    state = formulas.random_state(sizes, 5)
    # a class token of small values makes the eps of the norms matter
    state["cls_token"] *= np.float32(0.002)
    network = load(name, monkeypatch, tmp_path / "w.pt", {f"encoder.{key}": values for key, values in state.items()})
    one = image(frames)
    one.pixels[0, :, 5, 5] = 0
    mean, std = (np.array(values)[:, None, None] for values in published.statistics)
    normalised = np.where((one.pixels == 0).all(1, keepdims=True), 0.0001, (one.pixels - mean) / std)

    options = Options(variant=name)
    pixels = ADAPTER.preprocess(one, options)["pixels"].swapaxes(0, 1)
    np.testing.assert_allclose(pixels, normalised, rtol=2e-6, atol=1e-6)

    def expected(eps: float) -> np.ndarray:
        found = formulas.tokens(replace(sizes, eps=eps), state, normalised, one.dates, one.lat, one.lon)
        return found.reshape(frames, 16, 32)

    found = run(network, one, options).numpy()
    np.testing.assert_allclose(found, expected(sizes.eps), rtol=0, atol=2e-5)
    other = {1e-5: 1e-6, 1e-6: 1e-5}[sizes.eps]
    assert np.abs(found - expected(other)).max() > 1e-4


UNCONDITIONED = ["prithvi_eo_v2_300", "prithvi_eo_v2_600", "prithvi_eo_v1_100"]


@pytest.mark.parametrize("name", UNCONDITIONED)
def test_models_without_tl_take_no_date_and_no_location(name, monkeypatch, tmp_path):
    state = formulas.random_state(small(name), 6)
    network = load(name, monkeypatch, tmp_path / "w.pt", state)
    options, one = Options(variant=name), image(2)
    assert set(ADAPTER.preprocess(one, options)) == {"pixels"}
    nowhere = replace(one, dates=(), lat=None, lon=None)
    assert torch.equal(run(network, one, options), run(network, nowhere, options))


@pytest.mark.parametrize("name", ["prithvi_eo_v2_tiny_tl", "prithvi_eo_v2_100_tl"])
def test_models_with_tl_need_date_and_location(name):
    for changes in ({"dates": ()}, {"lat": None}):
        with pytest.raises(ModelError, match="which Prithvi needs"):
            ADAPTER.preprocess(image(1, **changes), Options(variant=name))


def decoder(sizes: formulas.Sizes) -> dict[str, np.ndarray]:
    """Some tensors of a decoder, by their names in prithvi_mae.py."""
    block = {f"decoder_blocks.0.{key[9:]}": shape for key, shape in oracle.block_shapes("blocks.0", 16).items()}
    shapes = block | {
        "mask_token": (1, 1, 16),
        "decoder_pos_embed": (1, 17, 16),
        "decoder_embed.weight": (16, sizes.dim),
        "decoder_norm.weight": (16,),
        "decoder_pred.bias": (6,),
    }
    if sizes.conditioned:
        shapes |= {"temporal_embed_dec.scale": (1,)}
    return {key: np.ones(shape, np.float32) for key, shape in shapes.items()}


@pytest.mark.parametrize(
    ("name", "encoder_prefix", "decoder_prefix"),
    [
        ("prithvi_eo_v2_tiny_tl", "encoder.", "decoder."),
        ("prithvi_eo_v2_300", "encoder.", "decoder."),
        ("prithvi_eo_v1_100", "encoder.", "decoder."),
        ("prithvi_eo_v1_100", "", ""),  # the first version of the file
        ("prithvi_eo_v1_100", "_timm_module.", "_timm_module."),
        ("prithvi_eo_v2_300", "encoder._timm_module.", "decoder._timm_module."),
    ],
)
def test_the_layouts_of_the_published_files_are_read(name, encoder_prefix, decoder_prefix, monkeypatch, tmp_path):
    sizes = small(name)
    state = formulas.random_state(sizes, 7)
    file = {encoder_prefix + key: values for key, values in state.items()}
    file[encoder_prefix + "pos_embed"] = np.zeros((1, 1 + 3 * 16, 32), np.float32)
    file |= {decoder_prefix + key: values for key, values in decoder(sizes).items()}
    network = load(name, monkeypatch, tmp_path / "w.pt", file)
    own = {ADAPTER.rename(key, Options(variant=name), "s2"): values for key, values in state.items()}
    loaded = dict(network.named_parameters())
    assert loaded.keys() == own.keys()
    assert all(np.array_equal(loaded[key].numpy(), values) for key, values in own.items())


@pytest.mark.parametrize(
    ("name", "other", "message"),
    [
        (
            "prithvi_eo_v2_300",
            "prithvi_eo_v2_300_tl",
            r"has 2 that this variant does not have \(encoder\.temporal_embed",
        ),
        ("prithvi_eo_v2_300_tl", "prithvi_eo_v2_300", r"lacks 2 of \d+ tensors \(temporal_embed_enc\.scale"),
        ("prithvi_eo_v2_100_tl", "prithvi_eo_v1_100", r"lacks 2 of \d+ tensors"),
    ],
)
def test_a_file_with_tl_is_not_one_without(name, other, message, monkeypatch, tmp_path):
    state = formulas.random_state(small(other), 8)
    with pytest.raises(ModelError, match=message):
        load(name, monkeypatch, tmp_path / "w.pt", {f"encoder.{key}": values for key, values in state.items()})


@EVERY
def test_a_long_window_has_as_many_frames_as_training(name):
    frames, year = PUBLISHED[name].frames, TemporalSpec.range("2022-01-01", "2023-01-01")
    options = Options(variant=name)
    assert options.max_frames == frames
    assert ADAPTER.info.frames(options, year) == Frames("equal", frames)
    assert ADAPTER.info.frames(Options(variant=name, max_frames=6), year) == Frames("equal", 6)
    with pytest.raises(ModelError, match=f"{frames + 1} frames are not valid; allowed: at most max_frames={frames}"):
        ADAPTER.preprocess(image(1, pixels=np.full((frames + 1, 6, 9, 9), 500.0, np.float32)), options)


def test_the_identity_of_the_default_is_not_that_of_its_spelling():
    """``max_frames`` only decides the frames, which the source has."""
    canonical = ADAPTER.info.canonical
    for name, published in PUBLISHED.items():
        found = {canonical(Options(variant=name, max_frames=n), "s2") for n in (None, 1, published.frames, 9)}
        assert found == {Options(variant=name)}
