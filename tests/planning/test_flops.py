"""Operations of forward passes as the descriptions count them, against what torch counts on the
adapters' networks."""

from __future__ import annotations

import numpy as np
import pytest

from rs_embed import ModelError, OutputSpec
from rs_embed.engine import tile_layout
from rs_embed.engine.tiled_image import tile_image
from rs_embed.models import MODELS, get_adapter, get_model_info, prithvi, remoteclip, terrafm, thor
from rs_embed.models.base import Image
from rs_embed.planning.flops import InputShape
from rs_embed.planning.model_info import Prep
from rs_embed.request.fields import from_mapping
from rs_embed.weights.checkpoints import Checkpoint

#: Small networks of every family.
SMALL = [
    (remoteclip, "ViT-B-32", remoteclip.Variant(32, 192, 2, 3, 64)),
    (prithvi, "prithvi_eo_v2_100_tl", prithvi.Variant(192, 2, 3, 16, "100M", "0")),
    (prithvi, "prithvi_eo_v1_100", prithvi.Variant(192, 2, 3, 16, "100M", "0", conditioned=False)),
    (terrafm, "b", terrafm.Variant(96, 2, 3)),
    (thor, "tiny", thor.Variant(96, 2, 3, 32)),
]


def count(name: str, modality: str, given: dict, shape: InputShape) -> tuple[int, dict, tuple]:
    """(operations that torch counts, inputs of the network by name, shape of its grid) of one
    pass."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    adapter = get_adapter(name)
    options = from_mapping(adapter.info.options, given, "options", ModelError)
    bands = adapter.info.modalities[modality].sensor.bands
    network = adapter.load(options, modality, bands, Checkpoint(None))
    pixels = np.random.default_rng(0).integers(1, 4000, (shape.frames, len(bands), shape.height, shape.width))
    pixels = pixels.astype(np.uint16) if modality == "s2" else (pixels / 4000).astype(np.float32)
    dates = tuple(f"2022-0{i + 1}-01" for i in range(shape.frames))
    image = Image(modality, pixels, bands, shape.scale_m, 12.0, 51.0, dates, is_tile=shape.is_tile)
    made = adapter.preprocess(image, options)
    # torch counts no fused attention on CPUs
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        tokens = adapter.forward(network, {k: torch.from_numpy(v)[None] for k, v in made.items()}, options)
        adapter.pooled(tokens, OutputSpec.pooled(), options)
    grid = adapter.grid(tokens, OutputSpec.grid(), options)
    return counter.get_total_flops(), made, tuple(grid.shape[1:])


CASES = [
    ("remoteclip", "s2", {}, (224, 224)),
    ("prithvi", "s2", {"temporal_mode": "single"}, (100, 120)),
    ("prithvi", "s2", {"max_frames": 3}, (224, 224)),
    ("prithvi", "s2", {"variant": "v1_100", "max_frames": 2}, (224, 224)),
    ("terrafm", "s2", {}, (64, 64)),
    ("terrafm", "s1", {}, (64, 64)),
    ("thor", "s2", {"variant": "tiny"}, (96, 96)),
    ("thor", "s2", {"variant": "tiny", "patch_size": 16}, (90, 200)),
    ("thor", "s1", {"variant": "tiny"}, (128, 128)),
    ("mosaiks", "s2", {"features": 100, "patch_size": 5}, (50, 67)),
]


@pytest.mark.parametrize(("name", "modality", "given", "size"), CASES)
def test_the_formulas_are_what_torch_counts(name, modality, given, size, monkeypatch):
    for module, variant, sizes in SMALL:
        monkeypatch.setitem(module.VARIANTS, variant, sizes)
    given = given | ({} if name == "mosaiks" else {"weights": "random"})
    info = get_model_info(name)
    sensor = info.modalities[modality].sensor
    shape = InputShape(*size, given.get("max_frames", 1), len(sensor.bands), sensor.scale_m)
    cost = info.cost(from_mapping(info.options, given, "options", ModelError), modality, shape)
    flops, inputs, grid = count(name, modality, given, shape)
    assert cost.flops == pytest.approx(flops, rel=0.02)
    assert cost.input_values == sum(a.size for a in inputs.values())
    assert cost.grid == grid


def test_every_model_says_what_it_computes():
    assert all(get_model_info(name).cost is not None for name in MODELS)


def test_published_sizes_are_those_of_the_literature():
    """GFLOP of a 224 x 224 image; the papers count a multiplication and an addition as one
    (Dosovitskiy et al. 2021; open_clip's model_profile.csv: ViT-B-32 4.40 GMAC, ViT-L-14 81.1 with
    positions)."""
    cost = lambda options: remoteclip.INFO.cost(options, "s2", InputShape(224, 224, 1, 3, 10.0)).flops / 2e9  # noqa: E731
    assert cost(remoteclip.Options()) == pytest.approx(4.40, rel=0.02)
    assert cost(remoteclip.Options(variant="ViT-L-14")) == pytest.approx(81.1, rel=0.02)


@pytest.mark.parametrize("size", [(224, 224), (460, 700), (240, 500), (100, 100), (900, 224)])
@pytest.mark.parametrize("mode", ["tile", "auto", "resize"])
@pytest.mark.parametrize("output", ["pooled", "grid"])
def test_passes_are_the_pieces_that_the_engine_makes(size, mode, output):
    from types import SimpleNamespace

    from rs_embed.engine.image_cost import compute_image_cost

    adapter, options, prep = get_adapter("terrafm"), terrafm.Options(weights="random"), Prep(mode, 224)
    sensor = adapter.info.modalities["s2"].sensor
    unit = SimpleNamespace(model="terrafm", options=options, prep=prep, modality="s2", sensor=sensor)
    cost = compute_image_cost(unit, output, size, 1)
    pixels = np.ones((1, 12, *size), np.uint16)
    tiled = tile_image(
        adapter, options, prep, OutputSpec(output), 0, Image("s2", pixels, sensor.bands, 10.0, 12.0, 51.0)
    )
    assert cost.passes == tiled.count
    if output == "grid":
        layout = tile_layout.compute_layout(*size, prep, "grid")
        cells = [np.zeros((2, 14, 14), np.float32)] * tiled.count
        joined = layout.join_grids(cells).shape if tiled.count > 1 else (2, 14, 14)
        assert cost.embedding_values == 768 * joined[1] * joined[2]
    else:
        assert cost.embedding_values == 768
