"""What a run does when it has succeeded: free what ``keep_work`` does not keep, then what exceeds ``store_limit_gb``."""

from __future__ import annotations

import sys

from ..errors import RSEmbedError
from ..runs.run import Run
from ..store import locks
from .contents import survey
from .freeable import dropped, exceeding, finished, note, remove, settle, tidied, write_down
from .prune import refuse_broken
from .work_folder import Work, open_work

GB = 1e9


def tidy(run: Run) -> None:
    """Free the space; says on stderr what was done, or why not: a finished export does not fail for it."""
    config = run.request.config
    if config.store_limit_gb is None and (config.keep_work == "all" or tidied(run)):
        return
    if not locks.alone(run.store.root):
        print(
            "rs-embed: the store is in use by another run, nothing was freed; the next success does it", file=sys.stderr
        )
        return
    try:
        freed = _tidy(run, open_work(run.work))
    except (RSEmbedError, OSError, RuntimeError, MemoryError) as error:  # no thread can be started, for example
        print(f"rs-embed: nothing was freed in the store: {error}", file=sys.stderr)
        return
    if freed:
        print(f"rs-embed: {freed / GB:.3g} GB were freed in the store {run.store.root}", file=sys.stderr)


def _tidy(run: Run, work: Work) -> int:
    """What finished runs do not keep, of all runs on the store: one that could not do it, because others were at work, is made up
    for by the next. Then what exceeds the limit."""
    refuse_broken(work)
    freed, root = 0, run.store.root.resolve()
    shared = next(s for s in work.stores if s.store.root == root)
    contents = survey(shared.store)
    going, settled = dropped(shared, contents)
    note(going, shared.runs)
    freed += remove(going)
    for entry in settled:
        settle(entry.run)
    limit = run.request.config.store_limit_gb
    if limit is not None:
        going = exceeding(shared, survey(shared.store), limit * GB)
        write_down(going, shared, (entry for entry in shared.runs if finished(entry) is not None))
        note(going, shared.runs)
        freed += remove(going)
    return freed
