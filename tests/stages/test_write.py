"""``async_write`` and ``writer_workers``: how many files of ROIs are written at a time."""

from __future__ import annotations

import os
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rs_embed.formats import parallel as results
from rs_embed.formats.parallel import map_in_order

from ..support.exports import content
from ..support.factories import PROPERTY
from ..support.work_folders import make


@pytest.mark.parametrize(
    ("options", "most"),
    [({}, 2), ({"writer_workers": 4}, 4), ({"writer_workers": 4, "async_write": False}, 1), ({"writer_workers": 1}, 1)],
)
def test_so_many_files_are_written_at_a_time(tmp_path, monkeypatch, options, most):
    inside, seen, lock, replace = [0], [0], threading.Lock(), os.replace

    def slow(source, target, **more):
        """A disk on which each file takes a moment."""
        if not str(target).endswith(".npz"):
            return replace(source, target, **more)
        with lock:
            inside[0] += 1
            seen[0] = max(seen[0], inside[0])
        time.sleep(0.2)
        with lock:
            inside[0] -= 1
        return replace(source, target, **more)

    monkeypatch.setattr(os, "replace", slow)
    make(tmp_path / "slow", slice(0, 8), layout="per_item", chunk_size=8, **options)
    assert seen[0] == most
    monkeypatch.setattr(os, "replace", replace)
    make(tmp_path / "plain", slice(0, 8), layout="per_item", chunk_size=8)
    assert content(tmp_path / "slow") == content(tmp_path / "plain")


@PROPERTY
@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 5))
def test_results_come_in_order_and_few_are_held(sizes, threads):
    taken, given_out, most = [0], [0], results.MAX_BYTES
    results.MAX_BYTES = 100
    try:

        def items():
            for i, size in enumerate(sizes):
                held = sum(sizes[given_out[0] : i])
                assert i - given_out[0] <= 2 * threads and held <= 100 + max(sizes), "before the next one is read"
                taken[0] += 1
                yield i, size

        for i, found in enumerate(map_in_order(lambda item: item[0] * 2, items(), threads, lambda item: item[1])):
            assert found == 2 * i
            given_out[0] += 1
    finally:
        results.MAX_BYTES = most
    assert given_out[0] == taken[0] == len(sizes)


def test_an_error_is_raised_in_order():
    def call(i):
        return 1 // (i - 3)

    seen = []
    with pytest.raises(ZeroDivisionError):
        for value in map_in_order(call, range(100), 4, lambda _: 1):
            seen.append(value)
    assert len(seen) == 3
