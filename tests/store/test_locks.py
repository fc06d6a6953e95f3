"""Locks on file systems without locks: the error names the folder."""

from __future__ import annotations

import errno
import fcntl
import os

import pytest

from rs_embed import StoreError
from rs_embed.store import locks

from ..support.exports import combined, export, places
from ..support.factories import assert_refusal
from ..support.work_folders import make


@pytest.fixture
def no_locks(monkeypatch):
    """A file system without locks, such as Lustre mounted without flock."""

    def flock(file, kind):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_an_export_names_the_folder_without_locks(tmp_path, no_locks):
    with pytest.raises(StoreError) as found:
        export(combined(tmp_path / "run"), places(2))
    assert_refusal(found.value, str(tmp_path / ".rs_embed" / "runs"), "Function not implemented", "allowed", "work_dir")
    assert not (tmp_path / "run.npz").exists()


@pytest.mark.parametrize(
    "acquire",
    [
        locks.acquire_run_lock,
        locks.acquire_shared_store_lock,
        locks.acquire_exclusive_store_lock,
        locks.read_lock_holder,
    ],
)
def test_every_lock_names_the_folder_without_locks(tmp_path, no_locks, acquire):
    (tmp_path / ".lock").touch()
    with pytest.raises(StoreError) as found:
        acquire(tmp_path)
    assert_refusal(found.value, f"{tmp_path} cannot be locked", "allowed", "store_dir")


def test_a_store_lock_that_cannot_be_upgraded_is_no_error(tmp_path, monkeypatch):
    """After success, space is freed if possible; an export does not fail otherwise."""
    run = make(tmp_path)
    locks.hold_store_lock(run.store.root)
    try:
        assert locks.upgrade_store_lock(run.store.root)
        monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EBADF, "read only")))
        assert not locks.upgrade_store_lock(run.store.root)
        monkeypatch.undo()
        with locks.acquire_shared_store_lock(tmp_path / "other"):
            assert not locks.upgrade_store_lock(tmp_path / "other"), "this process does not hold it"
    finally:
        locks._held_locks.pop(run.store.root.resolve()).close()
