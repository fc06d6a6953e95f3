"""What ``verify --set-aside`` does: it makes one start of a request enough to make everything damaged or missing anew."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from .. import locks, receipts
from ..errors import RunLockedError
from ..stages.prepare import lost
from ..store import set_aside
from .contents import survey
from .report import Report
from .verify import damage, held_receipts
from .work import RunFolder, Work


def mend(work: Work, report: Report) -> None:
    """Move damaged objects aside and withdraw the receipts that vouch for what is damaged or gone, so that one start
    makes all of it anew: the receipts, too, because a start does not look for the objects of a finished export.

    Raises:
        RunLockedError: a run is using a store.
    """
    bad = {p.path for p in report.problems if not p.noticed}
    with contextlib.ExitStack() as held:
        for shared in work.stores:
            lock = locks.exclude(shared.store.root)
            if lock is None:
                raise RunLockedError(
                    f"verify: the store {shared.store.root} is in use by a run; wait for it, or stop it, and give --set-aside again"
                )
            held.enter_context(lock)
            for group in survey(shared.store).groups:
                report.aside += [
                    set_aside(group.path(n)) for n in group.objects if str(group.path(n)) in bad and damage(group, n)
                ]
                if group.declaration is not None and group.bands is None:
                    report.aside.append(set_aside(group.folder / "bands.json"))
        for entry in work.runs:
            if entry.run is not None and locks.holder(entry.folder) is None:
                report.withdrawn += receipts.withdraw(_void(entry, bad))


def _void(entry: RunFolder, bad: set[str]) -> list[Path]:
    """Receipts of a run that vouch for something that is damaged or gone."""
    run, plan, void = entry.run, entry.run.plan, []
    state = {path: receipts.examine(run.dir / path, key)[0] for path, key in plan.receipts().items()}
    for chunk in plan.chunks:
        void += lost(run, chunk, state)
    for path, receipt in held_receipts(entry, Report()):
        merged = path == plan.merge_receipt
        records = receipt["rows"] if merged else [r for row in receipt["rows"] for r in row.get("files", ())]
        base = run.dir if merged else run.dir / plan.target
        files = [base / r["path"] for r in records] + [run.dir / r["path"] for r in (receipt.get("records"),) if r]
        if any(os.path.normpath(file) in bad for file in files):
            void.append(path)
    return [run.dir / path for path in void]
