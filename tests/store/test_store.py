"""Objects and receipts: complete or missing, and damage is detected."""

from __future__ import annotations

import json
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rs_embed import ModelError, ProviderError, SpecError, StoreError
from rs_embed.runs.run_files import freeze_run
from rs_embed.store import receipts
from rs_embed.store.atomic_files import TEMP_PREFIX, remove_temporary_files, temporary_path
from rs_embed.store.objects import read_metadata, read_object, set_aside, write_object
from rs_embed.store.store import Store

META = {"status": "ok", "bands": ["B2"], "note": "ä", "valid": 1.0}


@settings(max_examples=60, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from(["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8"]),
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5),
    )
)
def test_an_object_is_read_back_as_written(array, tmp_path_factory):
    path = tmp_path_factory.mktemp("o") / "ab" / "x.npy"
    written = write_object(path, array, META)
    found = read_object(path)
    assert found.array.dtype == array.dtype
    assert np.array_equal(found.array, array, equal_nan=array.dtype.kind == "f")
    assert found.meta == META
    for form in (np.asfortranarray, lambda a: a.astype(a.dtype.newbyteorder(">")), lambda a: a[::-1].copy()[::-1]):
        other = write_object(path.with_name("y.npy"), form(array), META)
        assert other.sha256 == written.sha256
        assert other.array.flags.c_contiguous and other.array.dtype == array.dtype
    assert (
        (found.sha256, found.size)
        == (written.sha256, path.stat().st_size)
        == (read_metadata(path).sha256, read_metadata(path).size)
    )
    assert read_metadata(path).meta == META
    assert np.array_equal(np.load(path), array, equal_nan=array.dtype.kind == "f")


def test_every_changed_byte_and_every_truncation_is_detected(tmp_path):
    path = tmp_path / "x.npy"
    write_object(path, np.arange(6, dtype=np.float32), META)
    good = path.read_bytes()
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :])
        with pytest.raises(StoreError, match=r"damaged object .*x\.npy"):
            read_object(path)
        path.write_bytes(good[:i])
        with pytest.raises(StoreError, match="damaged object"):
            read_object(path)
        assert read_metadata(path) is None


def test_metadata_longer_than_a_block_can_be_read_alone(tmp_path):
    meta = {"status": "ok", "scenes": ["S2A_MSIL2A_20220715"] * 1000}
    write_object(tmp_path / "x.npy", np.zeros(3), meta)
    assert read_metadata(tmp_path / "x.npy").meta == meta


def test_two_writers_of_one_object_leave_one_complete_object(tmp_path):
    path = tmp_path / "aa" / "x.npy"
    threads = [
        threading.Thread(target=lambda i=i: [write_object(path, np.full(2000, i), META) for _ in range(20)])
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(read_object(path).array)) == 1
    assert [p.name for p in path.parent.iterdir()] == ["x.npy"]


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        write_object(tmp_path / "x.npy", np.zeros(2), {"valid": float("nan")})
    with pytest.raises(ValueError, match="Object arrays"):
        write_object(tmp_path / "x.npy", np.array([object()]), META)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_object_is_renamed(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"broken")
    assert set_aside(path).read_bytes() == b"broken"
    assert not path.exists()


def test_chips_of_several_band_sets_cover_a_request(tmp_path):
    store = Store(tmp_path)
    for bands in (("B2", "B3"), ("B8",)):
        store.declare_bands("s", bands)
        write_object(store.chip_path("s", bands, "r" * 32), np.zeros((len(bands), 2, 2)), META)
    assert store.chip_folder("s", ("B3", "B2")) == store.chip_folder("s", ("B2", "B3"))
    sets = store.list_band_sets("s")
    assert sets == [("B2", "B3"), ("B8",)]
    assert store.select_band_sets("s", ("B8", "B3", "B4"), "r" * 32, sets) == ([("B2", "B3"), ("B8",)], ["B4"])
    assert store.select_band_sets("s", ("B8",), "r" * 32, sets) == ([("B8",)], [])
    assert store.select_band_sets("s", ("B8",), "q" * 32, sets) == ([], ["B8"])


def test_only_temporary_files_of_dead_processes_are_removed(tmp_path):
    living = temporary_path(tmp_path / "a" / "x.npy")
    living.parent.mkdir()
    dead = living.with_name(living.name.replace(f"-{os.getpid()}-", "-4194305-"))
    elsewhere = living.with_name(f"{TEMP_PREFIX}another.host-1-1-x.npy")
    for path in (living, dead, elsewhere):
        path.write_bytes(b"")
    assert remove_temporary_files(tmp_path) == 0, "not below it"
    assert remove_temporary_files(tmp_path, below=True) == 1
    assert sorted(living.parent.iterdir()) == sorted([living, elsewhere])


def test_a_receipt_is_valid_only_for_its_key(tmp_path):
    path = tmp_path / "sub" / "r.json"
    assert receipts.read_state(path, "k")[0] == "missing"
    receipts.write(path, "embed", "k", [{"roi": "a", "status": "ok"}], embedded=1)
    assert receipts.read(path, "k")["embedded"] == 1
    assert receipts.read_state(path, "k")[0] == "good"
    assert receipts.read_state(path, "other")[0] == "stale"
    with pytest.raises(StoreError, match="made for another request"):
        receipts.read(path, "other")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"schema": 99, "rows": []}', '{"schema": 1, "rows": 3, "key": "k"}']
)
def test_an_unreadable_receipt_is_stale_and_the_error_tells_what_to_do(tmp_path, text):
    path = tmp_path / "r.json"
    path.write_text(text)
    assert receipts.read_state(path, "k")[0] == "stale"
    with pytest.raises(StoreError, match="delete it and run again"):
        receipts.read(path)


def test_receipts_with_rows_that_can_succeed_later_are_retried(tmp_path):
    path = tmp_path / "r.json"
    error = receipts.failure_row(TimeoutError("slow"), "fetch")
    assert error == {"status": "failed", "stage": "fetch", "error": "TimeoutError: slow", "retryable": True}
    receipts.write(path, "fetch", "k", [{"status": "ok"}, error])
    assert receipts.read_state(path, "k")[0] == "retry"
    receipts.write(path, "fetch", "k", [{"status": "ok"}, error | {"retryable": False}])
    assert receipts.read_state(path, "k")[0] == "good"
    assert receipts.read_state(path, "k", accept_failures=False)[0] == "retry"
    assert receipts.withdraw([path, tmp_path / "none.json"]) == [str(path)]


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ProviderError("busy", retryable=True), True),
        (ProviderError("no such band"), False),
        (ModelError("too small"), False),
        (SpecError("outside"), False),
        (StoreError("damaged"), True),
        (OSError("no space left on device"), True),
        (RuntimeError("out of memory"), True),
    ],
)
def test_temporary_failures_are_retried(error, passes):
    assert receipts.failure_row(error, "embed")["retryable"] is passes


@pytest.mark.parametrize("text", ["", "{", "3", '["B9"]'])
def test_a_damaged_band_declaration_is_skipped_and_repaired(tmp_path, text):
    store = Store(tmp_path)
    store.declare_bands("s", ("B2", "B3"))
    (store.chip_folder("s", ("B2", "B3")) / "bands.json").write_text(text)
    assert store.list_band_sets("s") == []
    assert store.list_band_sets("s", ("B3", "B2")) == [("B2", "B3")]
    store.declare_bands("s", ("B2", "B3"))
    assert store.list_band_sets("s") == [("B2", "B3")]


def test_receipts_are_strict_json(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        receipts.write(tmp_path / "r.json", "embed", "k", [{"x": float("inf")}])
    assert not (tmp_path / "r.json").exists()
    receipts.write(tmp_path / "r.json", "embed", "k", [])
    json.loads((tmp_path / "r.json").read_text(), parse_constant=lambda c: pytest.fail(c))


def test_the_environment_sets_the_store_of_runs_without_store_dir(tmp_path, monkeypatch):
    from rs_embed import ExportConfig
    from rs_embed.runs.run_files import load_run

    from ..support.rasters import at, catalogue, noise, run, write

    write(tmp_path / "a.tif", noise(0))
    catalogue(tmp_path, {"path": "a.tif"})
    monkeypatch.setenv("RS_EMBED_STORE", str(tmp_path / "shared"))
    made = run(tmp_path, [at(30, 30)])
    assert made.store.root == tmp_path / "shared"
    freeze_run(made)
    named = run(tmp_path, [at(30, 30)], config=ExportConfig(store_dir=str(tmp_path / "own")))
    assert named.store.root == tmp_path / "own"
    monkeypatch.setenv("RS_EMBED_STORE", str(tmp_path / "a.tif"))
    assert load_run(made.dir).store.root == tmp_path / "shared", "a job uses the store that its start has frozen"
    with pytest.raises(ModelError, match="RS_EMBED_STORE: "):
        run(tmp_path, [at(30, 30)])
