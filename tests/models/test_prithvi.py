"""Prithvi against a plain float64 formulation; frames, dates, and errors."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace

import numpy as np
import pytest
import torch

from rs_embed import ModelError, OutputSpec, TemporalSpec
from rs_embed.models import get_adapter, get_model_info
from rs_embed.models.base import Image
from rs_embed.models.prithvi import ADAPTER, BANDS, MEAN, STD, VARIANTS, Options, Variant
from rs_embed.models.shared import inputs
from rs_embed.planning.model_info import Frames
from rs_embed.weights.checkpoints import Checkpoint

from ..support import oracle
from ..support import prithvi_oracle as formulas

SMALL = Variant(dim=32, depth=2, heads=4, patch=56, size="", revision="")
SIZES = formulas.Sizes(dim=32, depth=2, heads=4, patch=56)
DATES = ("2021-12-31", "2022-02-14", "2024-12-31", "2022-07-17")
MEAN_OUT, MAX_OUT, GRID, GRID_MAX = (
    OutputSpec.pooled(),
    OutputSpec.pooled("max"),
    OutputSpec.grid(),
    OutputSpec.grid("max"),
)


def image(seed: int, frames: int = 1, height: int = 224, width: int = 224, **changes) -> Image:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(1, 12000, (frames, 6, height, width)).astype(np.float32)
    return replace(Image("s2", pixels, BANDS, 30.0, 9.84 + seed, 45.2 - seed, DATES[:frames]), **changes)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(VARIANTS, "prithvi_eo_v2_100_tl", SMALL)


@pytest.fixture
def state():
    return formulas.random_state(SIZES, 3)


@pytest.fixture
def network(small, state, tmp_path):
    tensors = {name: torch.from_numpy(values) for name, values in state.items()}
    torch.save(tensors | {"pos_embed": torch.zeros(1, 65, 32)}, tmp_path / "weights.pt")
    return ADAPTER.load(Options(), "s2", BANDS, Checkpoint(tmp_path / "weights.pt"))


def tokens(network, items: list[dict], options: Options | None = None) -> torch.Tensor:
    with torch.inference_mode():
        batch = {name: torch.from_numpy(np.stack([item[name] for item in items])) for name in items[0]}
        return ADAPTER.forward(network, batch, options or Options())


@pytest.mark.parametrize("preset", ["official", "rs-embed"])
@pytest.mark.parametrize("frames", [1, 3, 4])
def test_tokens_vectors_and_grids_are_those_of_the_formulas(network, state, frames, preset):
    options = Options(preset=preset)
    one = image(1, frames)
    if preset == "official":
        scaled = (one.pixels - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    else:
        scaled = np.clip(one.pixels / 10000, 0, 1)
    expected = formulas.tokens(SIZES, state, scaled, one.dates, one.lat, one.lon)
    found = tokens(network, [ADAPTER.preprocess(one, options)], options)
    close = {"rtol": 0, "atol": 1e-5}
    np.testing.assert_allclose(found[0].reshape(frames, 4, 4, 32).numpy(), expected, **close)
    np.testing.assert_allclose(ADAPTER.pooled(found, MEAN_OUT, options)[0], expected.mean((0, 1, 2)), **close)
    np.testing.assert_allclose(ADAPTER.pooled(found, MAX_OUT, options)[0], expected.max((0, 1, 2)), **close)
    np.testing.assert_allclose(ADAPTER.grid(found, GRID, options)[0], expected.mean(0).transpose(2, 0, 1), **close)
    np.testing.assert_allclose(ADAPTER.grid(found, GRID_MAX, options)[0], expected.max(0).transpose(2, 0, 1), **close)


def test_an_image_alone_and_at_any_position_of_a_batch_gives_the_same(network):
    items = [ADAPTER.preprocess(image(i, 2), Options()) for i in range(7)]
    together = tokens(network, items)
    turned = tokens(network, items[::-1])
    for i, item in enumerate(items):
        alone = tokens(network, [item])[0]
        assert float((together[i] - alone).abs().max()) <= 1e-5
        assert float((turned[6 - i] - alone).abs().max()) <= 1e-5
    assert float((together[0] - together[1]).abs().max()) > 0.1


def test_date_and_location_reach_the_network(network):
    def embed(**changes):
        return tokens(network, [ADAPTER.preprocess(image(1, **changes), Options())])[0]

    first = embed()
    for changes in ({"dates": ("2021-01-31",)}, {"dates": ("2020-12-31",)}, {"lat": 44.0}, {"lon": 11.0}):
        assert float((embed(**changes) - first).abs().max()) > 1e-3
    assert float((embed(lat=image(1).lon, lon=image(1).lat) - first).abs().max()) > 1e-3, "they are not the same"


def test_the_dates_are_those_of_the_images_and_for_rs_embed_the_middles_of_the_bins(small):
    one = image(1, 2, bin_dates=("2022-01-20", "2022-03-31"))
    middles = replace(one, dates=one.bin_dates, bin_dates=())
    for preset, same in (("official", one.dates), ("rs-embed", one.bin_dates)):
        found = ADAPTER.preprocess(one, Options(preset=preset))["time"]
        days = [dt.date.fromisoformat(date).timetuple() for date in same]
        expected = [np.concatenate([oracle.sincos(16, d.tm_year), oracle.sincos(16, d.tm_yday)]) for d in days]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    # an image without bins, as callers of the adapter may make it
    without = ADAPTER.preprocess(middles, Options(preset="rs-embed"))["time"]
    assert np.array_equal(without, ADAPTER.preprocess(one, Options(preset="rs-embed"))["time"])


def test_a_kept_frame_has_the_date_of_its_own_image(small):
    one = image(1, 3, bin_dates=("2022-01-20", "2022-03-31", "2022-06-10"))
    one.pixels[1] = one.pixels[0]
    for preset, dates in (("official", one.dates), ("rs-embed", one.bin_dates)):
        found = ADAPTER.preprocess(one, Options(preset=preset))["time"]
        two = replace(one, pixels=one.pixels[[0, 2]], dates=(dates[0], dates[2]), bin_dates=())
        assert np.array_equal(found, ADAPTER.preprocess(two, Options(preset=preset))["time"])


def test_the_latitude_comes_first():
    """``LocationEncoder`` of the authors' prithvi_mae.py; their inference.py passes the longitude
    first, which is not reproduced."""
    found = ADAPTER.preprocess(image(1, lat=47.5, lon=-122.25), Options())["place"]
    expected = np.concatenate([oracle.sincos(384, 47.5), oracle.sincos(384, -122.25)])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(224, 224), (100, 100), (60, 75), (31, 90)])
def test_pixels_are_squared_scaled_and_resized(small, height, width):
    one = image(4, 2, height, width)
    found = ADAPTER.preprocess(one, Options(preset="rs-embed"))["pixels"]
    assert found.dtype == np.float32
    assert found.shape == (6, 2, 224, 224)
    rows, columns = (
        mirrored(n, max(height, width), edge=max(height, width) >= 2 * min(height, width)) for n in (height, width)
    )
    square = one.pixels[:, :, rows][:, :, :, columns]
    expected = oracle.bilinear(np.clip(square / 10000, 0, 1), 224)
    np.testing.assert_allclose(found, expected.swapaxes(0, 1), rtol=0, atol=1e-5)


def mirrored(n: int, side: int, edge: bool) -> list[int]:
    """Which of n pixels is at each of ``side`` positions, n of them in the middle and the others
    about the first or last one."""
    positions = [i - (side - n) // 2 for i in range(side)]
    return [min(max(i, 0), n - 1) if edge else (n - 1) - abs(n - 1 - abs(i)) for i in positions]


def test_a_square_image_is_not_changed():
    pixels = image(1).pixels
    assert inputs.pad_to_square(pixels) is pixels


def test_pixels_without_data_are_the_authors_value_and_others_are_not_clipped(small):
    one = image(5)
    one.pixels[0, :, 3, 4] = 0
    one.pixels[0, :, 9, 9] = np.nan
    one.pixels[0, 2, 7, 8] = 0
    one.pixels[0, 1, 5, 5] = 25000
    found = ADAPTER.preprocess(one, Options())["pixels"][:, 0]
    assert np.all(found[:, 3, 4] == np.float32(0.0001))
    assert np.all(found[:, 9, 9] == np.float32(0.0001))
    np.testing.assert_allclose(found[2, 7, 8], -1433 / 2178, rtol=1e-6)
    np.testing.assert_allclose(found[1, 5, 5], (25000 - 1342) / 2179, rtol=1e-6)


@pytest.mark.parametrize("preset", ["official", "rs-embed"])
def test_equal_frames_are_dropped_and_the_first_keeps_its_date(small, preset):
    options, one = Options(preset=preset), image(6, 4)
    one.pixels[2] = one.pixels[0]
    one.pixels[3] = one.pixels[1]
    one.pixels[3, 0, 0, 0] += 1
    found = ADAPTER.preprocess(one, options)
    kept = replace(one, pixels=one.pixels[[0, 1, 3]], dates=(DATES[0], DATES[1], DATES[3]))
    for name, expected in ADAPTER.preprocess(kept, options).items():
        assert np.array_equal(found[name], expected)
    assert found["pixels"].shape[1] == len(found["time"]) == 3


def test_frames_that_differ_only_above_reflectance_1_are_equal_to_rs_embed(small):
    one = image(7, 2)
    one.pixels[1] = one.pixels[0]
    one.pixels[0, 0, 0, 0], one.pixels[1, 0, 0, 0] = 11000, 12000
    assert ADAPTER.preprocess(one, Options(preset="rs-embed"))["pixels"].shape[1] == 1
    assert ADAPTER.preprocess(one, Options())["pixels"].shape[1] == 2


def test_preprocessing_does_not_change_its_image(small):
    one = image(8, 2)
    one.pixels[0, 0, 0, 0] = np.nan
    before = one.pixels.copy()
    for preset in ("official", "rs-embed"):
        ADAPTER.preprocess(one, Options(preset=preset))
    assert one.pixels.tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pixels": np.ones((1, 5, 9, 9), np.float32)}, "pixels of 5 bands"),
        ({"pixels": np.ones((6, 9, 9), np.float32)}, "pixels of shape"),
        ({"pixels": np.full((1, 6, 9, 9), "a")}, "dtype"),
        ({"pixels": np.zeros((1, 6, 9, 9), np.float32)}, "every value of the image is 0"),
        ({"pixels": np.full((1, 6, 9, 9), np.nan, np.float32)}, "no finite value"),
        ({"pixels": np.full((1, 6, 9, 9), 0.4, np.float32)}, "looks like reflectance"),
        ({"dates": ()}, "0 dates for 1 frames"),
        ({"dates": ("2022-06-01", "2022-07-01")}, "2 dates for 1 frames"),
        ({"dates": ("July 2022",)}, "ISO dates"),
        ({"dates": (None,)}, "ISO dates"),
        ({"lon": float("nan")}, "the centre .nan"),
        ({"lat": None}, "the centre"),
        ({"lat": 91.0}, "the centre"),
        ({"lon": None}, "the centre"),
        ({"lon": 181.0}, "the centre"),
    ],
)
@pytest.mark.parametrize("preset", ["official", "rs-embed"])
def test_images_that_cannot_be_embedded_are_refused(changes, message, preset):
    with pytest.raises(ModelError, match=message):
        ADAPTER.preprocess(image(1, 1, 9, 9, **changes), Options(preset=preset))


def test_more_frames_than_asked_for_are_refused():
    with pytest.raises(ModelError, match="3 frames are not valid; allowed: at most max_frames=2"):
        ADAPTER.preprocess(image(1, 3, 9, 9), Options(max_frames=2))


COMPOSITE = Frames()


@pytest.mark.parametrize(
    ("start", "end", "options", "expected"),
    [
        ("2022-06-01", "2022-09-01", {}, Frames("equal", 3)),  # 92 days
        ("2022-01-01", "2023-01-01", {}, Frames("equal", 4)),
        ("2022-01-01", "2023-01-01", {"max_frames": 12}, Frames("equal", 12)),
        ("2022-01-01", "2023-01-01", {"max_frames": 1}, COMPOSITE),
        ("2022-06-01", "2022-07-27", {}, Frames("equal", 2)),  # 56 days
        ("2022-06-01", "2022-07-26", {}, COMPOSITE),  # 55 days
        ("2022-06-01", "2022-06-02", {}, COMPOSITE),
        ("2022-06-01", "2022-06-02", {"temporal_mode": "multi"}, Frames("equal", 1)),
        ("2022-06-01", "2022-09-01", {"temporal_mode": "single"}, COMPOSITE),
        ("2022-06-01", "2022-09-01", {"temporal_mode": "multi", "n_frames": 2}, Frames("equal", 2)),
        ("2022-06-01", "2022-09-21", {}, Frames("equal", 4)),  # 112 days
        ("2022-06-01", "2022-09-20", {}, Frames("equal", 3)),
    ],
)
def test_a_window_gives_a_frame_every_28_days(start, end, options, expected):
    assert ADAPTER.info.frames(Options(**options), TemporalSpec.range(start, end)) == expected


def test_without_a_window_there_is_one_composite():
    assert ADAPTER.info.frames(Options(), None) == COMPOSITE
    assert ADAPTER.info.needs_window


def test_two_spellings_of_an_option_are_one_identity():
    assert Options(variant="300_tl") == Options(variant="300M_TL") == Options(variant="prithvi_eo_v2_300_tl")
    assert Options(n_frames=3) == Options(max_frames=3) == Options(max_frames=3, n_frames=3)
    assert Options().variant == "prithvi_eo_v2_100_tl"
    with pytest.raises(ModelError, match=r"max_frames: 200000 is not valid; allowed: an integer >= 1 and <= 104"):
        Options(max_frames=200000)
    with pytest.raises(ModelError, match=r"n_frames: 2 contradicts max_frames=3"):
        Options(max_frames=3, n_frames=2)
    with pytest.raises(ModelError, match=r"model_config.variant: '200_tl' is not valid"):
        Options(variant="200_tl")


def test_the_large_variant_has_as_many_cells_as_positions(monkeypatch):
    monkeypatch.setitem(VARIANTS, "prithvi_eo_v2_600_tl", replace(SMALL, dim=80, heads=1, patch=14, depth=1))
    options = Options(variant="600_tl")
    network = ADAPTER.load(options, "s2", BANDS, Checkpoint(None))
    assert network.positions.shape == (4, 256, 80)
    found = tokens(network, [ADAPTER.preprocess(image(1), options)], options)
    assert ADAPTER.grid(found, GRID, options).shape == (1, 80, 16, 16)


def test_the_description_of_the_model():
    info = get_model_info("prithvi_eo_v2_s2_6b")
    assert info is get_model_info("PRITHVI") is ADAPTER.info
    assert get_adapter("prithvi") is ADAPTER
    sensor = info.modalities["s2"].sensor
    assert (sensor.bands, sensor.scale_m, info.size(Options()), info.square) == (BANDS, 30.0, 224, True)
    assert info.version == 2  # 1: the middle of the bin for every frame


def test_half_precision_stays_close(network):
    from rs_embed.models.shared import vit

    items = [ADAPTER.preprocess(image(i, 2), Options()) for i in range(2)]
    exact = tokens(network, items)
    vit.lower_precision(network, torch.bfloat16)
    lowered = tokens(network, items)
    assert lowered.dtype == torch.float32
    cosine = torch.cosine_similarity(exact.flatten(1), lowered.flatten(1))
    assert float(cosine.min()) > 0.999
