"""Tiles and squares through the engine: results of the network, and how they become one
embedding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rs_embed import ModelError, OutputSpec
from rs_embed.engine.engine import Engine, resolve_settings
from rs_embed.machine.cores import CoreShare
from rs_embed.planning.model_info import Prep

from .test_engine import BANDS, Toy, ToyOptions, embedded, image, run

TILES = Prep("tile", 8, snap=0.1)


def whole(image, output, prep=TILES, options=None, adapter=None):
    return embedded([image], options or ToyOptions(), output, adapter or Toy(), prep=prep)[0]


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_tiles_become_one_grid_and_one_vector(pooling):
    one = image(1, 16, 20, frames=3)  # 2 x 3 tiles, of which the last column overlaps the one before it by half
    corners = [(y, x) for y in (0, 8) for x in (0, 8, 12)]
    parts = [replace(one, pixels=one.pixels[..., y : y + 8, x : x + 8]) for y, x in corners]
    cells, vectors = (
        [run([p], ToyOptions(), o, Toy())[0] for p in parts] for o in (OutputSpec.grid(), OutputSpec.pooled())
    )
    found = whole(one, OutputSpec.grid())
    # cells of 4 pixels; the third column of tiles owns pixels 14..19, the nearest cell edge to 14
    # is 16
    rows = [np.concatenate([cells[r], cells[r + 1], cells[r + 2][:, :, 1:]], axis=2) for r in (0, 3)]
    assert np.array_equal(found.array, np.concatenate(rows, axis=1))
    assert found.metadata == {
        "input_prep": {"mode": "tile", "tile_size": 8, "tiles": 6},
        "batch": 4,
        "cells": [0.0, 1.0, 0.0, 1.0],
        "grid": [4, 5],
    }
    pooled = whole(one, OutputSpec.pooled(pooling)).array
    weights = np.array([8 * 8, 8 * 6, 8 * 6] * 2)[:, None] / (16 * 20)
    expected = np.max(vectors, axis=0) if pooling == "max" else (np.stack(vectors) * weights).sum(0)
    np.testing.assert_allclose(pooled, expected, rtol=1e-6)


def test_a_roi_in_a_tiled_square_weights_the_tiles_it_touches():
    one = image(1, 16, 16, frames=3)
    inside = replace(one, roi=(0.0, 0.75, 0.5, 1.0))  # 12 rows of the right half
    parts = [replace(one, pixels=one.pixels[..., y : y + 8, 8:]) for y in (0, 8)]
    first, second = (run([p], ToyOptions(), OutputSpec.pooled(), Toy())[0] for p in parts)
    np.testing.assert_allclose(whole(inside, OutputSpec.pooled()).array, first * 2 / 3 + second / 3, rtol=1e-6)
    np.testing.assert_allclose(whole(inside, OutputSpec.pooled("max")).array, np.maximum(first, second), rtol=1e-6)
    found = whole(inside, OutputSpec.grid())
    assert np.array_equal(found.array, whole(one, OutputSpec.grid()).array[:, :3, 2:])
    assert (found.metadata["cells"], found.metadata["grid"]) == ([0.0, 0.75, 0.5, 1.0], [3, 2])


def test_an_image_slightly_larger_than_a_tile_is_scaled_down_to_one_tile():
    from rs_embed.models.shared.inputs import resize

    prep = Prep("tile", 20, snap=0.1)
    one = image(1, 22, 21, frames=3)
    found = whole(one, OutputSpec.grid(), prep, ToyOptions(size=20))
    down = replace(one, pixels=resize(one.pixels, 20, 20))
    assert np.array_equal(found.array, run([down], ToyOptions(size=20), OutputSpec.grid(), Toy())[0])
    assert found.metadata["input_prep"] == {"mode": "tile", "tile_size": 20, "tiles": 1, "scaled_to": [20, 20]}
    tall = image(2, 44, 8, frames=3)  # three tiles of which only the left part is there
    assert whole(tall, OutputSpec.grid(), prep, ToyOptions(size=20)).metadata["grid"] == [11, 2]


def test_auto_tiles_only_grids():
    one, many = image(1, 16, 16, frames=3), Prep("auto", 8, max_tiles=3)
    auto = Prep("auto", 8)
    assert whole(one, OutputSpec.grid(), auto).metadata["input_prep"]["tiles"] == 4
    assert whole(one, OutputSpec.grid(), many).metadata["input_prep"] == {"mode": "resize"}
    assert whole(one, OutputSpec.pooled(), auto).metadata["input_prep"] == {"mode": "resize"}
    assert whole(image(1, 8, 8, frames=3), OutputSpec.grid(), auto).metadata["input_prep"] == {"mode": "resize"}
    near = whole(image(1, 22, 20, frames=3), OutputSpec.pooled(), Prep("auto", 20), ToyOptions(size=20))
    assert near.metadata["input_prep"] == {"mode": "resize", "scaled_to": [20, 20]}


def test_too_many_tiles_are_an_error_of_their_image():
    found = embedded(
        [image(1, 40, 40, frames=3), image(2, 8, 8, frames=3)],
        ToyOptions(),
        adapter=Toy(),
        prep=Prep("tile", 8, max_tiles_hard=24),
    )
    assert "40 x 40 pixels is 25 tiles of 8; allowed: at most 24" in str(found[0])
    assert found[1].array.shape == (6,)


def test_tiles_have_the_centre_of_their_footprint_and_failures_are_reported_once():
    from rs_embed.request.geometry import Grid, centre_of_window

    seen = []

    class Watch(Toy):
        def preprocess(self, image, options):
            seen.append((image.lon, image.lat, image.is_tile, image.roi))
            if image.pixels.max() > 20000:
                raise ModelError("too bright")
            return super().preprocess(image, options)

    grid = Grid("EPSG:32633", (10.0, 0.0, 300000.0, 0.0, -10.0, 5700000.0), 16, 8)
    one = replace(image(1, 8, 16, frames=3), grid=grid, roi=(0.0, 0.5, 0.0, 1.0))
    whole(one, OutputSpec.pooled(), adapter=Watch())
    assert seen == [(*centre_of_window(grid, (0, 1, x, x + 0.5)), True, None) for x in (0, 0.5)]
    seen.clear()
    whole(replace(one, grid=None), OutputSpec.pooled(), adapter=Watch())
    assert {s[:2] for s in seen} == {(one.lon, one.lat)}
    bright = image(3, 16, 16, frames=3)
    bright.pixels[:] = 30000
    with Engine(
        Watch(),
        ToyOptions(),
        "s2",
        BANDS,
        OutputSpec.grid(),
        resolve_settings(Watch(), "cpu", 4, CoreShare(1)),
        prep=TILES,
    ) as engine:
        found = list(engine.run(enumerate([image(1, 16, 16, frames=3), bright, image(2, 16, 16, frames=3)])))
    assert sorted(k for k, _ in found) == [0, 1, 2]
    assert str(dict(found)[1]) == "too bright"
