"""What ``verify --set-aside`` does: it makes one start of a request enough to make everything damaged or missing anew."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..stages.shared.state import lost
from ..store import locks, receipts
from ..store.store import set_aside
from .contents import survey
from .freeable import freed
from .problems import Report
from .verify import damage
from .work_folder import RunFolder, Work


def mend(work: Work, report: Report) -> None:
    """Move damaged objects aside, withdraw the receipts that vouch for objects that are gone (a start does not look for the
    objects of a finished export), and give damaged final files, which stay where they are, the time of now (a start reads
    only files whose time has changed): so one start makes all of it anew.

    Raises:
        RunLockedError: a run is using a store.
    """
    bad = {p.path for p in report.problems if not p.noticed}
    with work.alone("verify", "--set-aside"):
        for shared in work.stores:
            for group in survey(shared.store).groups:
                for name in group.objects:
                    if str(group.path(name)) in bad and damage(group, name):
                        report.aside += group.held.set_aside(name)
                report.aside += group.held.set_aside_broken()
                if group.declaration is not None and group.bands is None:
                    report.aside.append(set_aside(group.folder / "bands.json"))
        for entry in work.runs:
            if entry.run is not None and locks.holder(entry.folder) is None:
                report.withdrawn += receipts.withdraw(_void(entry))
        for path in bad & {p.path for p in report.problems if p.kind == "file"}:
            with contextlib.suppress(FileNotFoundError):
                os.utime(path)
                report.touched.append(path)


def _void(entry: RunFolder) -> list[Path]:
    """Receipts of a run that vouch for objects that are gone, and were not freed."""
    run, plan = entry.run, entry.run.plan
    state = {path: receipts.examine(run.dir / path, key)[0] for path, key in plan.receipts().items()}
    return [run.dir / path for chunk in plan.chunks for path in lost(run, chunk, state, freed(run.dir))]
