"""What enters THOR, against a plain float64 formulation of the authors' code; sizes, errors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rs_embed import ModelError, OutputSpec
from rs_embed.engine.tiled_image import tile_image
from rs_embed.models.base import Image, ValueRange
from rs_embed.models.thor import ADAPTER, Options
from rs_embed.models.thor_inputs import BANDS, GROUPS, choose_native_side
from rs_embed.planning.flops import InputShape
from rs_embed.planning.model_info import Prep

from ..support import oracle
from ..support.thor_oracle import S1_MEAN, S1_STD, S2_MEAN, S2_STD, draw_image, normalise, snap


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
    assert choose_native_side(shape, scale, modality, options) == side
    if side is None:
        return
    fitting = [n for n in range(1, 500) if all(n * scale % p == 0 for p in patches)]
    nearest = min(fitting, key=lambda n: (abs(n - min(shape)), n))
    assert side == nearest
    found = ADAPTER.preprocess(draw_image(2, modality, *shape, scale_m=float(scale)), options)
    assert {n: a.shape for n, a in found.items()} == {
        name: (len(g.bands), *[side * scale // g.gsd] * 2) for name, g in GROUPS[modality].items()
    }


@pytest.mark.parametrize("changes", [{"height": 60, "width": 120}, {"height": 60, "is_tile": True}, {"height": 400}])
def test_images_not_used_at_their_own_size_are_stretched(changes):
    one = draw_image(3, **changes)
    square = oracle.bilinear(normalise(one.pixels[0], "s2", "official"), 288)
    found = ADAPTER.preprocess(one, Options())
    np.testing.assert_allclose(found["group0"], square[[0, 1, 2, 6]], rtol=0, atol=3e-4)
    halves = square.reshape(10, 144, 2, 144, 2).mean((2, 4))
    np.testing.assert_allclose(found["group1"], halves[[3, 4, 5, 7, 8, 9]], rtol=0, atol=3e-4)


@pytest.mark.parametrize("preset", ["official", "rs-embed"])
@pytest.mark.parametrize(
    ("modality", "height", "width", "side"), [("s2", 103, 97, 96), ("s2", 57, 60, 64), ("s1", 45, 51, 48)]
)
def test_a_nearly_square_image_is_cropped_then_cropped_or_padded(modality, height, width, side, preset):
    one = draw_image(4, modality, height, width)
    n = min(height, width)
    top, left = (height - n) // 2, (width - n) // 2
    square = snap(
        one.pixels[0][:, top : top + n, left : left + n], side, "edge" if preset == "official" else "constant"
    )
    found = ADAPTER.preprocess(one, Options(preset=preset))
    expected = normalise(square, modality, preset)
    if modality == "s1":
        np.testing.assert_allclose(found["group3"], expected, rtol=0, atol=2e-5)
    else:
        np.testing.assert_allclose(found["group0"], expected[[0, 1, 2, 6]], rtol=0, atol=1e-6)


def planes(found: dict[str, np.ndarray], modality: str) -> dict[str, np.ndarray]:
    """The bands by name, at the ground sampling distances of their groups."""
    return {band: plane for name, g in GROUPS[modality].items() for band, plane in zip(g.bands, found[name])}


def flat(modality: str, values: tuple[float, ...]) -> Image:
    """An image whose bands are constant, but for one pixel of ordinary imagery."""
    one = draw_image(7, modality, 16)
    one.pixels[0] = np.array(values, np.float32)[:, None, None]
    one.pixels[0, :, 0, 0] = 1500 if modality == "s2" else 0.05
    return one


@pytest.mark.parametrize("number", [-1000, 1, 9999, 10001, 12000, 14500, 16000, 65535])
def test_reflectance_is_standardised_and_clamped_and_never_clipped(number):
    found = planes(ADAPTER.preprocess(flat("s2", (number,) * 10), Options()), "s2")
    for band, mean, std in zip(BANDS["s2"], S2_MEAN, S2_STD):
        assert found[band][-1, -1] == pytest.approx(min(max((number / 10000 - mean) / std, -5), 5), abs=1e-5)
    published = planes(ADAPTER.preprocess(flat("s2", (number,) * 10), Options(preset="rs-embed")), "s2")
    for band, mean, std in zip(BANDS["s2"], S2_MEAN, S2_STD):
        clipped = min(max(number, 0), 10000) / 10000
        assert published[band][-1, -1] == pytest.approx((clipped - mean) / std, abs=1e-5)


@pytest.mark.parametrize("decibels", [-90, -60, -50.5, -45, -38.1, -37.9, -20, 0, 8.6, 8.7, 12, 12.1, 30])
def test_radar_is_standardised_and_clamped(decibels):
    found = planes(ADAPTER.preprocess(flat("s1", (10 ** (decibels / 10),) * 2), Options()), "s1")
    for band, mean, std in zip(BANDS["s1"], S1_MEAN, S1_STD):
        assert found[band][-1, -1] == pytest.approx(min(max((decibels - mean) / std, -5), 5), abs=1e-5)


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float64])
def test_numbers_above_10000_enter_whatever_their_dtype(dtype):
    one = draw_image(8, height=32)
    one = replace(one, pixels=np.abs(one.pixels).astype(dtype))
    found = ADAPTER.preprocess(one, Options())
    np.testing.assert_allclose(
        found["group0"], normalise(one.pixels[0], "s2", "official")[[0, 1, 2, 6]], rtol=0, atol=1e-6
    )


@pytest.mark.parametrize(("preset", "highest"), [("official", 14000), ("rs-embed", 10000)])
def test_scaling_to_whole_tiles_clips_for_rs_embed_alone(preset, highest):
    pixels = np.full((1, 10, 300, 300), 14000, np.uint16)
    one = Image("s2", pixels, BANDS["s2"], 10.0, 9.8, 45.2)
    tiled = tile_image(ADAPTER, Options(preset=preset), Prep("tile", 288), OutputSpec.pooled(), 0, one)
    assert tiled.tile(0).pixels.shape == (1, 10, 288, 288)
    assert tiled.tile(0).pixels.max() == highest


@pytest.mark.parametrize("changes", [{}, {"is_tile": True}])
@pytest.mark.parametrize("modality", ["s2", "s1"])
def test_pixels_without_data_get_the_mean_of_their_band_in_the_image(modality, changes):
    one = draw_image(5, modality, 32, **changes)
    one.pixels[0, :, 3:9, :7] = 0
    one.pixels[0, 1, 12, 12:15] = [np.nan, np.inf, -np.inf]
    one.pixels[0, 1, 20, 20] = 0  # a dark pixel in Sentinel-2, none in Sentinel-1
    before = one.pixels.copy()
    found = ADAPTER.preprocess(one, Options())
    scaled = normalise(one.pixels[0], modality, "official")
    expected = oracle.bilinear(scaled, 288) if changes else scaled
    first = found["group0" if modality == "s2" else "group3"][:2]
    np.testing.assert_allclose(first, expected[:2], rtol=0, atol=3e-4 if changes else 2e-5)
    assert one.pixels.tobytes() == before.tobytes(), "the image is not changed"


def test_a_tile_without_data_gets_the_mean_of_the_training():
    whole = draw_image(9, height=32, is_tile=True)
    tile = replace(whole, pixels=np.zeros_like(whole.pixels), whole_range=ValueRange(0, 9000, 0))
    found = ADAPTER.preprocess(tile, Options())
    assert all(not array.any() for array in found.values())


def test_without_data_pixels_are_zero_for_rs_embed():
    one, zeroed = draw_image(5), draw_image(5)
    one.pixels[0, 2, 3:9] = np.nan
    zeroed.pixels[0, 2, 3:9] = 0
    options = Options(preset="rs-embed")
    found, expected = ADAPTER.preprocess(one, options), ADAPTER.preprocess(zeroed, options)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    scaled = normalise(zeroed.pixels[0], "s2", "rs-embed")
    np.testing.assert_allclose(found["group0"], scaled[[0, 1, 2, 6]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [5, 10, 15, 20, 25, 30, 40, 50, 60])
def test_radar_is_resampled_to_10_m_except_from_pixel_sizes_of_the_training(scale):
    one = draw_image(10, "s1", 48, scale_m=float(scale))
    for preset, kept in (("official", (20, 30, 40)), ("rs-embed", ())):
        found = ADAPTER.preprocess(one, Options(preset=preset))
        n = 48 if scale in kept else 48 * scale // 10
        shapes = {"group3": (2, n, n)} | ({"gsd": (1,)} if scale in kept else {})
        assert {name: array.shape for name, array in found.items()} == shapes


@pytest.mark.parametrize("scale", [20, 30, 40, 60])
def test_optical_bands_have_the_distances_of_their_groups_at_every_pixel_size(scale):
    found = ADAPTER.preprocess(draw_image(11, height=48, scale_m=float(scale)), Options())
    assert {name: a.shape for name, a in found.items()} == {
        "group0": (4, *[48 * scale // 10] * 2),
        "group1": (6, *[48 * scale // 20] * 2),
    }


@pytest.mark.parametrize("preset", ["official", "rs-embed"])
@pytest.mark.parametrize(
    ("modality", "height", "scale", "tile"),
    [("s1", 48, 20, False), ("s1", 48, 40, False), ("s1", 50, 20, True), ("s1", 48, 60, False), ("s2", 48, 20, False)],
)
def test_the_cost_counts_what_enters(modality, height, scale, tile, preset):
    options, info = Options(preset=preset, patch_size=16), ADAPTER.info
    one = draw_image(13, modality, height, scale_m=float(scale), is_tile=tile)
    found = ADAPTER.preprocess(one, options)
    shape = InputShape(height, height, 1, len(one.bands), float(scale), tile)
    cost = info.cost(options, modality, shape)
    assert cost.input_values == sum(array.size for array in found.values())
    side = max(array.shape[-1] for array in found.values() if array.ndim == 3) // 16
    assert cost.grid == (768, side, side)


def test_inputs_are_contiguous_float32():
    for one in (draw_image(12), draw_image(12, "s1", scale_m=20.0), draw_image(12, height=50, width=80)):
        turned = replace(one, pixels=np.asfortranarray(one.pixels))
        for preset in ("official", "rs-embed"):
            found = ADAPTER.preprocess(turned, Options(preset=preset)).values()
            assert all(a.flags.c_contiguous and a.dtype == np.float32 for a in found)


def test_bands_are_used_by_position_and_not_by_name():
    one = draw_image(6)
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
        ADAPTER.preprocess(draw_image(1, modality, 16, **changes), Options(preset=preset))
