"""``verify --set-aside``: prepares a work folder so that one start of a request creates everything
that is damaged or missing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..stages.shared.state import find_receipts_of_lost_objects
from ..store import locks, receipts
from ..store.objects import set_aside
from .contents import scan_store
from .freeable import freed_kinds
from .problems import VerifyReport
from .verify import describe_damage
from .work_folder import LoadedRun, WorkFolder


def set_damage_aside(work: WorkFolder, report: VerifyReport) -> None:
    """Prepare a work folder for a start that repairs it: move damaged objects aside; withdraw
    receipts whose objects are missing, because a start does not look for the objects of a finished
    export; set the time of damaged final files to now, because a start reads only files whose time
    has changed. The files stay where they are.

    Raises:
        RunLockedError: a run is using a store.
    """
    bad = {p.path for p in report.problems if not p.noticed}
    with work.lock_stores("verify", "--set-aside"):
        _set_objects_aside(work, bad, report)
        for entry in work.runs:
            if locks.read_lock_holder(entry.folder) is None:
                report.withdrawn += receipts.withdraw(_receipts_of_missing_objects(entry))
        for path in bad & {p.path for p in report.problems if p.kind == "file"}:
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)
                report.touched.append(path)


def _set_objects_aside(work: WorkFolder, bad: set[str], report: VerifyReport) -> None:
    """Move damaged objects, packs and declarations aside."""
    for shared in work.stores:
        for group in scan_store(shared.store).groups:
            for name in group.objects:
                if str(group.path(name)) in bad and describe_damage(group, name):
                    report.set_aside += group.store_group.set_aside(name)
            report.set_aside += group.store_group.set_aside_broken_packs()
            if group.declaration is not None and group.bands is None:
                report.set_aside.append(set_aside(group.folder / "bands.json"))


def _receipts_of_missing_objects(entry: LoadedRun) -> list[Path]:
    """Receipts of a run whose objects are missing and were not freed."""
    run, plan = entry.run, entry.run.plan
    state = {path: receipts.read_state(run.dir / path, key)[0] for path, key in plan.receipts().items()}
    return [
        run.dir / path
        for chunk in plan.chunks
        for path in find_receipts_of_lost_objects(run, chunk, state, freed_kinds(run.dir))
    ]
