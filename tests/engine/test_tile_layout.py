"""Tiles: every pixel has one owner, no cell is doubled or lost, small excesses are scaled away."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_embed import ModelError
from rs_embed.engine import tile_layout
from rs_embed.planning.model_info import Prep

PROPERTY = settings(deadline=None)
SIZES = st.integers(1, 300)
TILE = st.integers(8, 64)
SNAP = st.sampled_from([0.0, 0.1, 0.5])


def build_layout(height, width, tile, snap=0.1):
    return tile_layout.compute_layout(height, width, Prep("tile", tile, max_tiles_hard=100_000, snap=snap), "grid")


@PROPERTY
@given(SIZES, SIZES, TILE, SNAP)
def test_every_pixel_is_owned_once_by_a_tile_that_contains_it(height, width, tile, snap):
    layout = build_layout(height, width, tile, snap)
    owners = np.zeros((layout.height, layout.width), int)
    for y, x in layout.tiles:
        assert y.start <= y.owned[0] < y.owned[1] <= y.stop <= layout.height
        assert x.start <= x.owned[0] < x.owned[1] <= x.stop <= layout.width
        assert y.stop - y.start == min(tile, layout.height)
        owners[y.owned[0] : y.owned[1], x.owned[0] : x.owned[1]] += 1
    assert (owners == 1).all()
    assert len(layout.tiles) == tile_layout.count_tiles(height, width, Prep("tile", tile, snap=snap))


@PROPERTY
@given(SIZES, TILE, SNAP)
def test_an_axis_is_only_scaled_down_and_by_little(length, tile, snap):
    short = tile_layout.snap_length(length, tile, snap)
    assert length - round(snap * tile) <= short <= length
    assert short == length or short % tile == 0


@PROPERTY
@given(SIZES, SIZES, TILE, st.integers(1, 16))
def test_cells_follow_the_image_without_repeats_or_gaps(height, width, tile, cells):
    """Cells that contain their position in the image: joined, positions rise by about a cell."""
    layout = build_layout(height, width, tile)
    size = tile / cells
    grids = []
    for y, x in layout.tiles:
        centres = (np.arange(cells) + 0.5) * size
        grids.append(np.stack(np.meshgrid(y.start + centres, x.start + centres, indexing="ij")))
    grid = layout.join_grids(grids)
    for positions, length in ((grid[0, :, 0], layout.height), (grid[1, 0], layout.width)):
        steps = np.diff(positions)
        assert (steps > 1e-6).all()
        assert (steps < 2 * size + 1e-9).all()
        assert positions[0] == pytest.approx(size / 2)
        assert positions[-1] + size / 2 >= length - 1e-6 or length < tile
        assert abs(len(positions) - length / size) <= len(layout.tiles) + 1
    if height % tile == width % tile == 0 and min(height, width) >= tile:
        assert grid.shape[1:] == (height // tile * cells, width // tile * cells)


@PROPERTY
@given(SIZES, SIZES, TILE, st.tuples(*[st.floats(0, 1)] * 4))
def test_vectors_are_weighted_with_owned_pixels_of_the_roi(height, width, tile, shares):
    y0, y1, x0, x1 = *sorted(shares[:2]), *sorted(shares[2:])
    layout = build_layout(height, width, tile)
    if (y1 - y0) * layout.height < 1 or (x1 - x0) * layout.width < 1:
        y0, y1, x0, x1 = 0.0, 1.0, 0.0, 1.0
    vectors = np.random.default_rng(tile).normal(size=(len(layout.tiles), 3)).astype(np.float32)
    weights = []
    for y, x in layout.tiles:  # by sub-pixels would be slower; overlaps of intervals are exact
        rows = max(0, min(y.owned[1], y1 * layout.height) - max(y.owned[0], y0 * layout.height))
        columns = max(0, min(x.owned[1], x1 * layout.width) - max(x.owned[0], x0 * layout.width))
        weights.append(rows * columns)
    expected = np.average(vectors.astype(float), axis=0, weights=weights)
    np.testing.assert_allclose(layout.join_vectors(vectors, "mean", (y0, y1, x0, x1)), expected, atol=1e-4)
    touched = vectors[np.array(weights) > 1e-3 * max(weights)].max(axis=0)
    assert (layout.join_vectors(vectors, "max", (y0, y1, x0, x1)) >= touched).all()


def test_a_short_side_is_padded_with_its_edge():
    layout = build_layout(4, 20, 10)
    pixels = np.arange(80.0).reshape(1, 4, 20)
    second = layout.cut_tile(pixels, 1)
    assert second.shape == (1, 10, 10)
    assert np.array_equal(second[:, :4], pixels[:, :, 10:])
    assert (second[0, 4:] == pixels[0, 3, 10:]).all()


@pytest.mark.parametrize(
    ("length", "tile", "starts", "owned"),
    [
        (448, 224, [0, 224], [(0, 224), (224, 448)]),
        (500, 224, [0, 224, 276], [(0, 224), (224, 362), (362, 500)]),
        (470, 224, [0, 224], [(0, 224), (224, 448)]),  # 22 px over two tiles: scaled down
        (471, 224, [0, 224, 247], [(0, 224), (224, 347), (347, 471)]),
    ],
)
def test_where_tiles_lie(length, tile, starts, owned):
    layout = build_layout(length, tile, tile)
    assert [s.start for s in layout.rows] == starts
    assert [s.owned for s in layout.rows] == owned


def test_more_tiles_than_allowed_are_refused():
    with pytest.raises(ModelError, match="3000 x 3000 pixels is 196 tiles of 224; allowed: at most 100"):
        tile_layout.compute_layout(3000, 3000, Prep("tile", 224, max_tiles_hard=100), "pooled")
