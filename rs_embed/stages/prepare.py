"""What happens once, before Snakemake decides what to run: checks, the lock, the frozen request, receipts that no
longer hold, objects and files that went missing. A dry run looks and tells, and changes nothing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Container

from ..errors import ModelError
from ..estimate import estimate
from ..estimate.summary import summary
from ..formats import manifest
from ..runs import cluster_queue
from ..runs.run import FREED, Run
from ..store import receipts
from ..store.locks import hold, take
from ..store.store import clean, writing
from .shared.state import Jobs, busy, examined, jobs, withdrawn


def check(run: Run) -> None:
    """Refuse a target that is somebody else's file."""
    path = _manifest(run)
    if run.request.config.save_manifest and os.path.exists(path) and not (manifest.is_own(path) or _broken(run, path)):
        raise ModelError(f"target.path: {path} is there and is not a manifest of an export; allowed: another path")


def check_remote(run: Run) -> None:
    """Refuse a run's folder that cannot be given to jobs on a cluster: Snakemake puts it unquoted into their command line."""
    if not re.fullmatch(r"[\w@%+=:,./-]+", str(run.dir)):
        raise ModelError(
            f"work_dir: {str(run.work)!r} is not valid on a cluster, a shell would read it otherwise; "
            "allowed: a path of letters, digits and / . , _ - + : @ % ="
        )


def _manifest(run: Run) -> str:
    return os.path.normpath(run.dir / run.plan.manifest_beside_target)


def _broken(run: Run, path: str) -> bool:
    """What is there is no JSON, and this run has written its manifest there: it was damaged since."""
    try:
        rows = receipts.read(run.dir / run.plan.merge_receipt)["rows"]
    except (FileNotFoundError, receipts.StoreError):
        return False
    written = any(os.path.normpath(run.dir / r["path"]) == path for r in rows)
    return written and os.path.exists(path) and not manifest.is_json(path)


def prepare(run: Run, *, live: bool, dry: bool = False, remote: bool = False) -> Jobs:
    """Make the run's folder ready; returns what is left to do, with the repair stamps to ask for.

    Args:
        live: False where nothing is to be changed. dry: say what the rest will cost. remote: jobs run on a cluster, where those of
            a Snakemake that is gone may be at work still.

    Raises:
        RunLockedError: another process works on this target. ModelError: Snakemake was told to work elsewhere.
    """
    if not os.path.samefile(".", run.dir):
        raise ModelError(
            f"--directory: {os.getcwd()!r} is not valid; allowed: no --directory, the work folder is export.work_dir"
        )
    if remote:
        check_remote(run)
    if live:
        take(run.dir)
        hold(run.store.root)
        with writing(run.dir):
            _unlock(run)
            run.freeze()
        if remote:
            cluster_queue.cancel(run.dir)  # before receipts are looked at
        if _broken(run, path := _manifest(run)):
            os.unlink(path)  # while the receipt is there that says whose it is
        for folder in (run.dir, run.dir / "repairs", run.work / "generations"):  # where no later merge need come by
            if folder.is_dir():
                clean(folder)
    found = examined(run)
    gone = withdrawn(run, found)
    todo = jobs(run, found, gone)  # a file to repair whose receipt goes is written anew as a whole
    if live:
        config = run.request.config
        if busy(found, found.states) and config.keep_work == "all" and config.store_limit_gb is None:
            (run.dir / FREED).unlink(missing_ok=True)  # from now on its objects are to be there
        receipts.withdraw(run.dir / path for path in gone)
        find_weights(run, {p for p, state in found.states.items() if state == "good"}.difference(gone))
    elif gone:
        text = f"rs-embed: besides, {len(gone)} finished jobs would be done again (failures, damage, lost files):"
        print(text, *gone[:5], *(["..."] if len(gone) > 5 else []), file=sys.stderr)
    if dry:
        print(summary(estimate(run, todo)), file=sys.stderr)
    return todo


def find_weights(run: Run, good: Container[str] | None = None) -> None:
    """Look for the weights of every model that has something to embed before anything is fetched for it, and download them
    here, where the network is likelier than on a cluster's nodes.

    Args:
        good: receipts that hold; None looks at them.

    Raises:
        ModelError: there are none, unless ``continue_on_error``: then the model's rows say so.
    """
    if good is None:
        good = {path for path, state in examined(run).states.items() if state == "good"}
    for unit in run.plan.embedded:
        if all(f"embed/{unit.id}/{chunk.name}.json" in good for chunk in run.plan.chunks):
            continue
        if all(run.store.embeddings(unit.id).has(name) for name in run.plan.objects(unit.source)):
            continue
        try:
            run.checkpoint(unit, download=True)
        except ModelError as error:
            if not run.request.config.continue_on_error:
                raise ModelError(f"model {unit.label}: {error}") from None


def _unlock(run: Run) -> None:
    """Remove Snakemake's lock files: with our own lock held, the process that left them is dead."""
    for lock in (run.dir / ".snakemake" / "locks").glob("*.lock"):
        lock.unlink(missing_ok=True)
