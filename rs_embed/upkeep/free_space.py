"""Frees space in the store after success: first objects that ``keep_work`` does not keep, then
what exceeds ``store_limit_gb``."""

from __future__ import annotations

import sys

from ..errors import RSEmbedError
from ..runs.run import Run
from ..store import locks
from . import freeable
from .contents import scan_store
from .prune import refuse_unreadable_runs
from .work_folder import WorkFolder, open_work_folder

GB = 1e9


def free_space(run: Run) -> None:
    """Free space in the store of a finished run. Reports on stderr what was done, or why not; a
    finished export does not fail for it."""
    config = run.request.config
    if config.store_limit_gb is None and (config.keep_work == "all" or freeable.is_tidied(run)):
        return
    if not locks.upgrade_store_lock(run.store.root):
        print(
            "rs-embed: the store is in use by another run, nothing was freed; the next success does it", file=sys.stderr
        )
        return
    try:
        freed = _free_objects(run, open_work_folder(run.work))
    except (RSEmbedError, OSError, RuntimeError, MemoryError) as error:  # for example, no thread can be started
        print(f"rs-embed: nothing was freed in the store: {error}", file=sys.stderr)
        return
    if freed:
        print(f"rs-embed: {freed / GB:.3g} GB were freed in the store {run.store.root}", file=sys.stderr)


def _free_objects(run: Run, work: WorkFolder) -> int:
    """Free objects of all finished runs on the store, also of those that could not do it while
    other runs used the store; then apply the limit. Returns the number of bytes."""
    refuse_unreadable_runs(work)
    freed, root = 0, run.store.root.resolve()
    shared = next(s for s in work.stores if s.store.root == root)
    selected, done = freeable.select_unkept(shared, scan_store(shared.store))
    freeable.mark_freed(selected, shared.runs)
    freed += freeable.remove_objects(selected)
    for entry in done:
        freeable.mark_tidied(entry.run)
    limit = run.request.config.store_limit_gb
    if limit is not None:
        selected = freeable.select_over_limit(shared, scan_store(shared.store), limit * GB)
        freeable.record_before_removal(
            selected, shared, (entry for entry in shared.runs if freeable.finish_time(entry) is not None)
        )
        freeable.mark_freed(selected, shared.runs)
        freed += freeable.remove_objects(selected)
    return freed
