"""Which source has the chip of which ROI: points are fetched once for all models, boxes once for
models that need a square and once for the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rs_embed import BBox, ExportTarget
from rs_embed.planning.plan import make_plan
from rs_embed.request.rois import roi_id

from ..support.factories import MODELS, PROVIDER, WINDOW, make_points, plan, request

POINTS = make_points(6)
BOXES = [BBox(10 + i, 50, 10.1 + i, 50.05) for i in range(6)]
#: Every order of points and boxes that matters: one kind, both, and both in one part.
TABLES = {
    "points": POINTS,
    "boxes": BOXES,
    "mixed": [*POINTS[:3], *BOXES[:3]],
    "alternating": [POINTS[0], BOXES[0]] * 2,
}
BOTH = ["alpha", "fixed"]  # without and with ModelInfo.square


def made(spatials, models=BOTH, names=None, **changes):
    given = request(spatials=spatials, models=models, chunk_size=2, **changes)
    return make_plan(
        given,
        [roi_id(s, WINDOW) for s in spatials],
        describe=MODELS.__getitem__,
        provider=PROVIDER,
        target="/x.npz",
        object_names=names or (lambda plan, source: None),
    )


def test_points_have_one_source_and_one_fetch_job_for_all_models():
    one = made(POINTS)
    (source,) = one.sources
    assert source.bands == ("B2", "B3", "B4", "B8")
    assert [(u.source, u.point_source) for u in one.units] == [(source.id,) * 2] * 2
    assert len([r for r in one.receipts() if r.startswith("fetch/")]) == len(one.parts) == 3
    assert [made(POINTS, [m]).sources[0].id for m in BOTH] == [source.id] * 2, "it depends on no other model"


def test_boxes_have_a_source_for_each_footprint():
    both = made(BOXES)
    assert [s.identity["square"] for s in both.sources] == [False, True]
    assert [s.bands for s in both.sources] == [("B2", "B3", "B4"), ("B8", "B4")]
    assert [u.source for u in both.units] == [u.point_source for u in both.units] == [s.id for s in both.sources]


@pytest.mark.parametrize("table", ["mixed", "alternating"])
def test_a_chip_of_a_source_exists_once(table):
    spatials = TABLES[table]
    both = made(spatials)
    points = [i for i, s in enumerate(spatials) if not isinstance(s, BBox)]
    boxes = [i for i, s in enumerate(spatials) if isinstance(s, BBox)]
    (alpha, fixed) = both.units
    whole, square = both.source[alpha.source], both.source[fixed.source]
    assert (whole.identity["square"], square.identity["square"]) == (False, True)
    assert (alpha.point_source, fixed.point_source) == (square.id, square.id)
    assert list(both.rois_of(whole.id)) == boxes
    assert list(both.rois_of(square.id)) == list(range(len(spatials)))
    for i in points:
        assert both.readers(square.id, i) == (alpha, fixed)
        assert both.readers(whole.id, i) == ()
        assert both.read_bands(square, [i]) == square.bands
    for i in boxes:
        assert both.readers(whole.id, i) == (alpha,)
        assert both.readers(square.id, i) == (fixed,)
        assert both.read_bands(square, [i]) == tuple(b for b in square.bands if b in ("B8", "B4"))
    assert both.unit_sources(alpha) == (whole.id, square.id)
    assert both.unit_sources(fixed) == (square.id,)
    with_boxes = {p.name for p in both.parts.values() if any(p.start <= i < p.stop for i in boxes)}
    assert set(both.parts_of(whole.id)) == with_boxes
    assert set(both.parts_of(square.id)) == set(both.parts)
    chunk = both.chunks[0]
    assert both.fetch_receipts(chunk) == [r for r in both.receipts() if r.startswith("fetch/") and "/00000-" in r]


def test_one_model_alone_reads_a_table_of_both_kinds():
    only = made(TABLES["mixed"], ["fixed"])
    assert len(only.sources) == 1, "an enclosing square, and the square of a point"
    other = made(TABLES["mixed"], ["alpha"])
    assert [list(other.rois_of(s.id)) for s in other.sources] == [[0, 1, 2], [3, 4, 5]]


def test_embeddings_keep_their_identities_whatever_else_is_in_the_table():
    plans = [made(spatials) for spatials in TABLES.values()]
    assert len({tuple(u.id for u in p.units) for p in plans}) == 1
    for unit in plans[0].units:
        assert unit.identity["source"]["square"] is MODELS[unit.model].square


def keys_of(one, chunk: int) -> dict[str, str]:
    """Keys of the jobs of a chunk."""
    wanted = one.chunk_receipts(one.chunks[chunk])
    return {path: key for path, key in one.receipts().items() if path in wanted}


@pytest.mark.parametrize("by_catalogue", [False, True])
@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_a_box_that_is_added_later_changes_no_job_of_the_points(layout, by_catalogue):
    names = (lambda plan, source: [roi_id(s, None) for s in plan.request.spatials]) if by_catalogue else None
    target = ExportTarget.combined("out/x") if layout == "combined" else ExportTarget.per_item("out/x")
    before = made(POINTS, names=names, target=target)
    after = made([*POINTS, BOXES[0], BOXES[1]], names=names, target=target)
    for chunk in range(3):
        assert keys_of(before, chunk) == keys_of(after, chunk)
    assert len(after.sources) == 2
    # nor a point those of boxes
    first = made(BOXES, names=names, target=target)
    later = made([*BOXES, *POINTS[:2]], names=names, target=target)
    for chunk in range(3):
        assert keys_of(first, chunk) == keys_of(later, chunk)


def test_a_catalogues_name_of_a_point_is_the_same_in_both_sources():
    def names(plan, source):
        return [f"{'square' if source.identity['square'] else 'own'} {i}" for i in range(len(plan.roi_ids))]

    both = made(TABLES["alternating"], names=names)
    alpha, fixed = both.units
    assert both.object_names(fixed.source) == ("square 0", "square 1", "square 2", "square 3")
    assert both.object_names(alpha.source) == ("square 0", "own 1", "square 2", "own 3")
    one = made([POINTS[0], POINTS[0]], names=names)
    assert one.object_names(one.units[0].source)[0] == "square 0"


def test_the_kinds_of_rois_are_given_where_the_request_has_no_geometries():
    given = request(spatials=TABLES["mixed"], models=BOTH)
    ids = [roi_id(s, WINDOW) for s in given.spatials]
    about = {"describe": MODELS.__getitem__, "provider": PROVIDER, "target": "/x.npz"}
    frozen = make_plan(replace(given, spatials=given.spatials[:1]), ids, boxes=[False] * 3 + [True] * 3, **about)
    assert frozen.receipts() == make_plan(given, ids, **about).receipts()
    assert frozen.sources == make_plan(given, ids, **about).sources


def test_a_model_that_reads_other_bands_of_the_points_widens_only_their_jobs():
    """``sorted(read_bands)`` is in the key of a fetch job."""
    boxes, mixed = (plan(request(spatials=s, models=BOTH, chunk_size=2)) for s in (BOXES[:2], [*BOXES[:2], POINTS[0]]))
    whole = boxes.units[0].source
    assert mixed.source[whole].bands == boxes.source[whole].bands
    square = mixed.units[1].source
    assert sorted(mixed.source[square].bands) == ["B2", "B3", "B4", "B8"]
    part = mixed.chunks[0].parts[0]
    assert mixed.fetch_key(mixed.source[square], part) == boxes.fetch_key(
        boxes.source[square], boxes.chunks[0].parts[0]
    )
