"""``async_write`` and ``writer_workers``: how many files of ROIs are written at a time."""

from __future__ import annotations

import os
import threading
import time

import pytest

from .conftest import content
from .work_folders import make


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
