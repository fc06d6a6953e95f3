"""Locks where the file system has none: one sentence that names the folder, and nothing that looks like a run."""

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
def without(monkeypatch):
    """A file system as Lustre is where it was mounted without flock."""

    def flock(file, kind):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_an_export_says_which_folder_has_no_locks(tmp_path, without):
    with pytest.raises(StoreError) as found:
        export(combined(tmp_path / "run"), places(2))
    assert_refusal(found.value, str(tmp_path / ".rs_embed" / "runs"), "Function not implemented", "allowed", "work_dir")
    assert not (tmp_path / "run.npz").exists()


@pytest.mark.parametrize("take", [locks.acquire, locks.share, locks.exclude, locks.holder])
def test_every_lock_says_so(tmp_path, without, take):
    (tmp_path / ".lock").touch()
    with pytest.raises(StoreError) as found:
        take(tmp_path)
    assert_refusal(found.value, f"{tmp_path} cannot be locked", "allowed", "store_dir")


def test_a_store_that_cannot_be_had_alone_is_nobodys_error(tmp_path, monkeypatch):
    """After success space is freed if it can be; an export does not fail for it."""
    run = make(tmp_path)
    locks.hold(run.store.root)
    try:
        assert locks.alone(run.store.root)
        monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.EBADF, "read only")))
        assert not locks.alone(run.store.root)
        monkeypatch.undo()
        with locks.share(tmp_path / "other"):
            assert not locks.alone(tmp_path / "other"), "this process does not hold it"
    finally:
        locks._held.pop(run.store.root.resolve()).close()
