"""Chunks, parts and keys: how a table is cut, and what a receipt covers."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rs_embed import ExportConfig, ExportModelRequest, ExportTarget, ModelError, TemporalSpec
from rs_embed.planning.chunk_sizes import choose_chunk_size, wall_seconds
from rs_embed.planning.plan import PART_SIZE, make_chunks

from ..support.exports import places as inside
from ..support.factories import PROPERTY, S2, assert_refusal, make_points, plan, request
from .test_plan import changed_keys, model, short_id

PER_ITEM = ExportTarget.per_item("out/run")


@PROPERTY
@given(st.integers(0, 5000), st.integers(1, 20_000))
@example(60_000, 512)
def test_chunks_and_parts_cut_the_table_without_gap_or_overlap(n, size):
    chunks = make_chunks(n, size)
    parts = [p for c in chunks for p in c.parts]
    assert [i for c in chunks for i in range(c.start, c.stop)] == list(range(n))
    assert [i for p in parts for i in range(p.start, p.stop)] == list(range(n))
    for chunk in chunks:
        lengths = [p.stop - p.start for p in chunk.parts]
        assert sum(lengths) == chunk.stop - chunk.start  # parts nest in their chunk
        most = max(PART_SIZE, -(-sum(lengths) // 4))
        assert 1 <= min(lengths) <= max(lengths) <= min(min(lengths) + 1, most)
        assert len(lengths) == -(-sum(lengths) // most)  # no more jobs than needed
    assert all(c.stop - c.start == size for c in chunks[:-1])
    # names are unique, and what the wildcards of the workflow match
    assert len({c.name for c in chunks}) == len(chunks) and len({p.name for p in parts}) == len(parts)
    assert all(re.fullmatch(r"[0-9]+", c.name) for c in chunks)
    assert all(re.fullmatch(r"[0-9]+-[0-9]+", p.name) for p in parts)


@PROPERTY
@given(st.integers(1, 2_000_000), st.lists(st.floats(1e-4, 60), min_size=1, max_size=5))
def test_a_chunk_is_large_enough_for_its_job_and_small_enough_for_many(n, paces):
    size = choose_chunk_size(n, paces=paces)
    seconds = sum(paces) / len(paces)
    assert 256 <= size <= 4096
    assert -(-n // size) <= 200 or size >= 1024
    # a job is long enough, or the only one, or the largest; and not larger than necessary
    assert size * seconds >= 16 or size >= n or size == 4096
    assert size == 256 or n > 100 * size or size / 2 * seconds < 16


@PROPERTY
@given(
    st.integers(1, 2_000_000), st.sampled_from([1, 2, 4, 8, 16]), st.lists(st.floats(1e-4, 60), min_size=1, max_size=5)
)
def test_gpus_are_done_nearly_as_soon_as_with_the_best_size(n, gpus, paces):
    """Jobs of several models in parallel; each free GPU starts the longest remaining job; a start
    takes 10 s."""

    def run_seconds(size: int) -> float:
        busy = [0.0] * gpus
        for each in sorted((10 + min(size, n - i) * p for p in paces for i in range(0, n, size)), reverse=True):
            busy[busy.index(min(busy))] += each
        return max(busy)

    chosen = choose_chunk_size(n, gpus=[gpus], paces=paces)
    allowed = [size for size in (256 * 2**i for i in range(8)) if n <= 200 * size] or [32_768]
    assert chosen in allowed
    best = min(map(run_seconds, allowed))
    assert run_seconds(chosen) <= 1.05 * best + 1e-6
    assert all(run_seconds(size) > 1.05 * best - 1e-6 for size in allowed if size < chosen), (
        "a smaller size is sufficient"
    )


def test_where_the_number_of_gpus_is_not_known_no_number_loses_much():
    """100,000 ROIs of `thor` on an A100: 16,384 is best for one GPU, and takes 16 of them 1.8
    times as long as 4,096."""
    assert choose_chunk_size(100_000, gpus=[1], paces=[0.0173]) == 16_384
    assert choose_chunk_size(100_000, gpus=[2, 4, 8, 16], paces=[0.0173]) == 4096


def test_a_free_worker_starts_the_longest_job():
    assert wall_seconds([3, 3, 2, 2, 2], 2) == 7  # 3 + 2 + 2, 3 + 2
    assert wall_seconds([], 4) == 0 and wall_seconds([5], 4) == 5


@pytest.mark.parametrize(("name", "size"), [("mosaiks", 1024), ("remoteclip", 256)])
def test_fast_models_have_larger_chunks(tmp_path, name, size):
    """1,024 ROIs of 64 x 64 pixels: mosaiks takes a hundredth of a second, a transformer more."""
    from rs_embed.request.request import Request
    from rs_embed.runs.open_run import open_run

    more = {"weights": "random"} if name == "remoteclip" else {}
    request = Request.build(
        spatials=inside(1024),
        temporal=TemporalSpec.range("2022-06-01", "2022-09-01"),
        models=[ExportModelRequest(name, model_config=more)],
        target=ExportTarget.combined("run"),
        backend="sample",
        device="cpu",
        config=ExportConfig(input_prep="resize"),
    )
    assert open_run(request, str(tmp_path)).plan.chunk_size == size


def test_a_plan_keeps_the_size_it_chose():
    made = plan(spatials=make_points(3))
    assert (made.chunk_size, made.request.config.chunk_size) == (256, None)
    assert plan(spatials=make_points(3), chunk_size=2).chunk_size == 2


@PROPERTY
@given(st.data())
def test_one_changed_roi_changes_the_keys_of_its_own_part_and_chunk_only(data):
    n = data.draw(st.integers(1, 300))
    size = data.draw(st.integers(1, 150))
    i = data.draw(st.integers(0, n - 1))
    spatials = make_points(n)
    before = plan(spatials=spatials, chunk_size=size, models=["alpha", "beta"])
    spatials[i] = replace(spatials[i], buffer_m=321)
    after = plan(spatials=spatials, chunk_size=size, models=["alpha", "beta"])
    (chunk,) = (c for c in before.chunks if c.start <= i < c.stop)
    (part,) = (p for p in chunk.parts if p.start <= i < p.stop)
    expected = {f"fetch/{s.id}/{part.name}.json" for s in before.sources} | {"merge.json"}
    assert changed_keys(before, after) == expected | {*before.embed_receipts(chunk), f"items/{chunk.name}.json"}


def test_more_rois_leave_the_finished_chunks_alone():
    few, more = (plan(spatials=make_points(1000)[:n], chunk_size=100) for n in (300, 350))
    assert not [p for p in changed_keys(few, more) if "00003" not in p and p != "merge.json"]


@pytest.mark.parametrize(
    ("before", "after", "stages"),
    [
        ({}, {"names": ["x", "y", "z"]}, {"merge"}),
        ({"target": PER_ITEM}, {"target": PER_ITEM, "names": ["x", "y", "z"]}, {"items", "merge"}),
        ({}, {"models": model(label="other")}, {"items", "merge"}),
        ({}, {"target": PER_ITEM}, {"items", "merge"}),
        ({}, {"save_manifest": False}, {"items", "merge"}),
        ({}, {"save_embeddings": False}, {"embed", "items", "merge"}),
        ({}, {"models": ["alpha", "beta"]}, {"fetch", "embed", "items", "merge"}),
        ({}, {"resume": False, "num_workers": 1, "max_retries": 0, "cores": 1}, set()),
        ({}, {"device": "cpu"}, {"merge"}),  # manifests contain it
        ({"target": PER_ITEM}, {"target": PER_ITEM, "device": "cpu"}, {"items", "merge"}),
        ({}, {"fail_on_bad_input": True}, {"embed"}),
        ({}, {"target": ExportTarget.combined("elsewhere"), "infer_batch_size": 5, "work_dir": "w"}, set()),
        ({"models": ["alpha", "beta"]}, {"models": ["beta", "alpha"]}, {"items", "merge"}),
    ],
    ids=short_id,
)
def test_a_key_changes_exactly_when_what_it_covers_does(before, after, stages):
    assert {re.split(r"[/.]", path)[0] for path in changed_keys(plan(**before), plan(**after))} == stages


def test_a_fingerprint_covers_what_is_computed_and_not_how():
    one = plan()
    same = [{"chunk_size": 1}, {"names": ["x", "y", "z"]}, {"target": PER_ITEM}, {"models": model(label="other")}]
    assert {plan(**changes).fingerprint for changes in [*same, {"device": "cpu"}]} == {one.fingerprint}
    assert plan(request(2)).fingerprint != one.fingerprint != plan(models=["beta"]).fingerprint


@pytest.mark.parametrize(
    ("key", "value"), [("orbit", "ASCENDING"), ("use_float_linear", False), ("s1_require_iw", False)]
)
def test_settings_of_sentinel_1_are_refused_elsewhere(key, value):
    with pytest.raises(ModelError) as refused:
        plan(sensor=replace(S2, **{key: value}))
    assert_refusal(refused.value, f"sensor.{key}", repr(value), "'s2'")


def test_another_model_leaves_the_embeddings_of_the_first_alone():
    one, both = plan(), plan(models=["alpha", "beta"])
    changed = {path for path in changed_keys(one, both) if path.startswith("embed/")}
    assert changed == {f"embed/{both.units[1].id}/00000.json"}
