"""MOSAIKS against a plain float64 formulation; what its values may be, and its options."""

from __future__ import annotations

from dataclasses import replace

import netCDF4
import numpy as np
import pytest

from rs_embed import ExportConfig, ModelError, OutputSpec, load_export
from rs_embed.models.mosaiks import ADAPTER, INFO, Options, draw_patches

from ..engine.test_engine import image, run
from ..support import rasters
from ..support.factories import assert_refusal
from ..support.work_folders import do


def by_hand(pixels: np.ndarray, options: Options) -> np.ndarray:
    """Features of every patch at every position in float64: (D, H-p+1, W-p+1)."""
    weight, p = draw_patches(options, 4).astype(np.float64), options.patch_size
    windows = np.lib.stride_tricks.sliding_window_view(
        pixels[0].astype(np.float64) * options.input_scale, (p, p), (1, 2)
    )
    response = np.einsum("khwij,fkij->fhw", windows, weight)
    if options.activation == "torchgeo":  # rcf.py: the bias belongs to the convolution
        return np.concatenate([np.maximum(response + options.bias, 0), np.maximum(-(response + options.bias), 0)])
    return np.concatenate([np.maximum(response - options.bias, 0), np.maximum(-response - options.bias, 0)])


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize(
    "options",
    [
        Options(features=10),
        Options(features=130, patch_size=5, seed=3, bias=0.5),
        Options(features=10, bias=-1.0),
        Options(features=10, bias=-1.0, activation="torchgeo"),
    ],
)
def test_pooled_features_are_those_of_a_plain_implementation(options, pooling):
    one = image(1)
    (found,) = run([one], options, OutputSpec.pooled(pooling)).values()
    maps = by_hand(one.pixels, options)
    expected = maps.mean((1, 2)) if pooling == "mean" else maps.max((1, 2))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("pooling", ["mean", "max"])
@pytest.mark.parametrize(("height", "width", "cell"), [(24, 20, 4), (25, 19, 8), (7, 7, 16), (9, 33, 5)])
def test_grid_cells_pool_the_responses_of_their_pixels(height, width, cell, pooling):
    options = Options(features=12, grid_cell=cell)
    one = image(2, height, width)
    (found,) = run([one], options, OutputSpec.grid(pooling)).values()
    # a response is centred on a pixel; those of the border take their nearest one
    maps = np.pad(by_hand(one.pixels, options), ((0, 0), (1, 1), (1, 1)), "edge")
    rows, columns = -(-height // cell), -(-width // cell)
    assert found.shape == (12, rows, columns)
    reduce = np.mean if pooling == "mean" else np.max
    for r in range(rows):
        for c in range(columns):
            block = maps[:, r * cell : (r + 1) * cell, c * cell : (c + 1) * cell]
            np.testing.assert_allclose(found[:, r, c], reduce(block, axis=(1, 2)), rtol=2e-5, atol=2e-5)


def test_patches_are_fixed_by_their_seed():
    same, other = draw_patches(Options(features=8), 4), draw_patches(Options(features=8, seed=1), 4)
    assert np.array_equal(same, draw_patches(Options(features=8), 4))
    assert not np.array_equal(same, other)
    assert same.shape == (4, 4, 3, 3)
    assert abs(float(draw_patches(Options(features=4096), 4).std()) - 1) < 0.01


def test_the_default_is_the_bias_of_the_paper_with_fewer_zeros_than_that_of_torchgeo():
    assert (Options().bias, Options().activation) == (0.0, "paper")
    images = [image(i) for i in range(4)]
    paper, torchgeo = (
        np.array([*run(images, options).values()]) for options in (Options(), Options(bias=-1.0, activation="torchgeo"))
    )
    assert (paper == 0).mean() < (torchgeo == 0).mean()


def test_both_definitions_of_the_features_agree_without_a_bias():
    paper, torchgeo = (run([image(1)], Options(features=16, activation=a))[0] for a in ("paper", "torchgeo"))
    assert paper.tobytes() == torchgeo.tobytes()
    assert INFO.canonical(Options(activation="torchgeo"), "s2") == Options()
    other = Options(activation="torchgeo", bias=-1.0)
    assert INFO.canonical(other, "s2") == other


def test_non_finite_pixels_count_as_zero():
    holed, zeroed = image(3), image(3)
    holed.pixels[0, 1, 4:9] = np.nan
    zeroed.pixels[0, 1, 4:9] = 0
    assert run([holed])[0].tobytes() == run([zeroed])[0].tobytes()


REFUSED = {
    "reflectance": (lambda r: r.random((1, 4, 20, 20)), {}, "0.9", "look like reflectance"),
    "reflectance in float64": (lambda r: r.random((1, 4, 20, 20)).astype("f8"), {}, "look like reflectance"),
    "an index": (lambda r: r.uniform(-1, 1, (1, 4, 20, 20)), {}, "look like reflectance"),
    "2, as the other models": (lambda r: r.integers(0, 3, (1, 4, 20, 20)), {}, "0..2", "look like reflectance"),
    "linear power": (lambda r: r.exponential(0.05, (1, 4, 20, 20)), {}, "look like reflectance"),
    "decibel": (lambda r: r.normal(-14, 4, (1, 4, 20, 20)), {}, "look like decibel"),
    "reflectance with another factor": (lambda r: r.random((1, 4, 20, 20)), {"input_scale": 1e-5}, "input_scale=1e-05"),
    "no data that is not declared": (lambda r: np.full((1, 4, 20, 20), -3.4e38), {}, "values for no data"),
    "one pixel of it": (lambda r: np.where(np.eye(20) * np.eye(20)[0] > 0, 1e30, np.ones((1, 4, 20, 20))), {}, "1e+30"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_the_factor_is_not_meant_for_are_refused(case):
    make, options, *words = REFUSED[case]
    pixels = make(np.random.default_rng(0)).astype("f8" if "64" in case else "f4")
    with pytest.raises(ModelError) as caught:
        ADAPTER.preprocess(replace(image(0), pixels=pixels), Options(features=2, **options))
    assert_refusal(caught.value, *words, "model_config.input_scale", "scale and offset of the local catalogue")


PASSING = {
    "DN": (lambda r: r.integers(0, 6000, (1, 4, 20, 20)), 1e-4),
    "DN of dark water": (lambda r: r.integers(0, 20, (1, 4, 20, 20)), 1e-4),
    "DN of dark water, many negative": (lambda r: r.integers(-20, 10, (1, 4, 20, 20)), 1e-4),
    "8 bits": (lambda r: r.integers(0, 256, (1, 4, 20, 20)), 1e-4),
    "32 bits": (lambda r: r.integers(0, 2**32, (1, 4, 20, 20)), 1e-4),
    "zeros": (lambda r: np.zeros((1, 4, 20, 20)), 1e-4),
    "reflectance, scaled": (lambda r: r.random((1, 4, 20, 20)), 1.0),
    "decibel, scaled": (lambda r: r.normal(-14, 4, (1, 4, 20, 20)), 0.05),
    "temperature": (lambda r: r.normal(290, 5, (1, 4, 20, 20)), 1.0),
}


@pytest.mark.parametrize("case", PASSING)
def test_other_values_pass(case):
    make, scale = PASSING[case]
    pixels = make(np.random.default_rng(0)).astype(np.float32)
    found = ADAPTER.preprocess(replace(image(0), pixels=pixels), Options(features=2, input_scale=scale))
    assert np.array_equal(found["pixels"], pixels[0] * np.float32(scale))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"features": 7}, "model_config.features: 7 is not valid; allowed: an even integer"),
        ({"patch_size": 4}, "model_config.patch_size: 4 is not valid; allowed: an odd integer"),
        ({"grid_cell": 0}, "model_config.grid_cell: 0 is not valid; allowed: an integer >= 1"),
        ({"seed": -1}, "model_config.seed: -1 is not valid; allowed: an integer >= 0"),
        ({"features": True}, "model_config.features: True is not valid; allowed: an integer"),
        ({"activation": "relu"}, "model_config.activation: 'relu' is not valid; allowed: one of 'paper', 'torchgeo'"),
        ({"preset": "mine"}, "model_config.preset: 'mine' is not valid; allowed: one of 'official', 'rs-embed'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ModelError, match=message):
        Options(**options)


@pytest.mark.parametrize("format", ["npz", "netcdf"])
def test_cells_that_the_image_cuts_off_lie_where_their_pixels_are(tmp_path, format):
    """An image of 40 x 40 pixels is 3 x 3 cells of 16 pixels, the last of 8: their affine is that
    of cells of 16 pixels, beyond the image."""
    pixels = rasters.noise(0, (2, 80, 80))
    rasters.write(tmp_path / "a.tif", pixels)
    rasters.catalogue(tmp_path, {"path": "a.tif"})
    about = {"output": OutputSpec.grid(), "config": ExportConfig(format=format)}
    do(rasters.run(tmp_path, [rasters.at(40, 40, 200)], **about))
    model = load_export(tmp_path / "out" / "run").models["mosaiks"]
    meta = model.meta[0]
    assert model.embeddings.shape[-2:] == (3, 3) and model.raw_inputs().shape[-2:] == (40, 40)
    assert meta["grid"]["crs"] == meta["crs"]
    assert meta["grid"]["affine"] == pytest.approx([160, 0, meta["affine"][2], 0, -160, meta["affine"][5]])
    if format == "netcdf":
        with netCDF4.Dataset(tmp_path / "out" / "run.nc") as file:
            assert np.allclose(file["x__mosaiks"][:], meta["affine"][2] + 80 + 160 * np.arange(3))


def test_reflectance_is_refused_and_scale_of_the_catalogue_is_the_remedy(tmp_path):
    numbers = rasters.noise(0, (2, 60, 60))
    rasters.write(tmp_path / "dn.tif", numbers)
    rasters.write(tmp_path / "reflectance.tif", (numbers / 1e4).astype("float32"))
    vectors = {}
    for name, row in (("dn", {}), ("scaled", {"path": "reflectance.tif", "scale": 10000}), ("bare", {})):
        folder = tmp_path / name
        file = {"dn": "dn.tif"}.get(name, "reflectance.tif")
        rasters.catalogue(folder, row | {"path": f"../{file}"})
        made = rasters.run(folder, [rasters.at(30, 30)], config=ExportConfig(continue_on_error=True))
        do(made)
        vectors[name] = load_export(folder / "out" / "run").models["mosaiks"]
    np.testing.assert_allclose(vectors["scaled"].embeddings, vectors["dn"].embeddings, rtol=1e-5, atol=1e-6)
    assert vectors["bare"].statuses() == ["failed"]
    (failure,) = vectors["bare"].failures.values()
    assert "look like reflectance" in str(failure) and "scale" in str(failure)
