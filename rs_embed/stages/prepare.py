"""Prepare a run, once, before Snakemake decides which jobs to run: checks, locks, the frozen
request, receipts that are no longer valid, missing objects and files. A dry run only reports what
it finds, and changes nothing."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Container

from ..errors import ModelError, StoreError
from ..formats import manifest
from ..runs import cluster_queue
from ..runs.run import Run
from ..runs.run_files import FREED, freeze_run
from ..store import receipts
from ..store.atomic_files import remove_temporary_files, report_write_errors
from ..store.locks import hold_run_lock, hold_store_lock
from .shared.state import Jobs, examine_receipts, find_invalid_receipts, has_remaining_jobs, list_remaining_jobs


def check_target(run: Run) -> None:
    """Refuse a target beside which another program's file has the name of the manifest."""
    path = _manifest_path(run)
    if (
        run.request.config.save_manifest
        and os.path.exists(path)
        and not (manifest.is_manifest(path) or _is_damaged_manifest(run, path))
    ):
        raise ModelError(f"target.path: {path} exists and is not a manifest of an export; allowed: another path")


def check_cluster_folder(run: Run) -> None:
    """Refuse a run's folder that cannot be given to jobs on a cluster: Snakemake puts it unquoted
    into their command line."""
    if not re.fullmatch(r"[\w@%+=:,./-]+", str(run.dir)):
        raise ModelError(
            f"work_dir: {str(run.work)!r} is not valid on a cluster, because a shell would interpret it; "
            "allowed: a path of letters, digits and / . , _ - + : @ % ="
        )


def _manifest_path(run: Run) -> str:
    return os.path.normpath(run.dir / run.plan.manifest_beside_target)


def _is_damaged_manifest(run: Run, path: str) -> bool:
    """The file is not JSON, and this run has written its manifest there: it was damaged since."""
    try:
        rows = receipts.read(run.dir / run.plan.merge_receipt)["rows"]
    except (FileNotFoundError, StoreError):
        return False
    written = any(os.path.normpath(run.dir / r["path"]) == path for r in rows)
    return written and os.path.exists(path) and not manifest.is_json(path)


def prepare(run: Run, *, live: bool, remote: bool = False) -> Jobs:
    """Prepare the run's folder; returns the remaining jobs, with the stamps of the repairs to
    request.

    Args:
        live: False where nothing is to be changed. remote: jobs run on a cluster, where those of a
            Snakemake that has ended may still be running.

    Raises:
        RunLockedError: another process works on this target. ModelError: Snakemake was given
            another working directory.
    """
    if not os.path.samefile(".", run.dir):
        raise ModelError(
            f"--directory: {os.getcwd()!r} is not valid; allowed: no --directory, the work folder is export.work_dir"
        )
    if remote:
        check_cluster_folder(run)
    if live:
        _lock_and_freeze(run, remote=remote)
    found = examine_receipts(run)
    invalid = find_invalid_receipts(run, found)
    # a withdrawn write receipt needs no repair: its job writes all files
    todo = list_remaining_jobs(run, found, invalid)
    if live:
        config = run.request.config
        if has_remaining_jobs(found, found.states) and config.keep_work == "all" and config.store_limit_gb is None:
            (run.dir / FREED).unlink(missing_ok=True)  # from now on its objects must be in the store
        receipts.withdraw(run.dir / path for path in invalid)
        find_weights(run, {p for p, state in found.states.items() if state == "good"}.difference(invalid))
    elif invalid:
        text = f"rs-embed: besides, {len(invalid)} finished jobs would be done again (failures, damage, lost files):"
        print(text, *invalid[:5], *(["..."] if len(invalid) > 5 else []), file=sys.stderr)
    return todo


def _lock_and_freeze(run: Run, *, remote: bool) -> None:
    """Lock the run's folder and share the store, freeze the request, and remove what a killed
    start left."""
    hold_run_lock(run.dir)
    hold_store_lock(run.store.root)
    with report_write_errors(run.dir):
        _remove_snakemake_locks(run)
        freeze_run(run)
    if remote:
        cluster_queue.cancel_jobs(run.dir)  # before receipts are read
    if _is_damaged_manifest(run, path := _manifest_path(run)):
        os.unlink(path)  # while the receipt exists that proves that this run has written it
    # also here, because not every start ends with a merge
    for folder in (run.dir, run.dir / "repairs", run.work / "generations"):
        if folder.is_dir():
            remove_temporary_files(folder)


def find_weights(run: Run, good: Container[str] | None = None) -> None:
    """Find the weights of every model with remaining ROIs before any chip is fetched for it.
    Published weights are downloaded now: the nodes of a cluster may have no network.

    Args:
        good: valid receipts; None: they are read.

    Raises:
        ModelError: weights are missing; not with ``continue_on_error``, where the model's rows
            have the error.
    """
    if good is None:
        good = {path for path, state in examine_receipts(run).states.items() if state == "good"}
    for unit in run.plan.embedded_units:
        if all(f"embed/{unit.id}/{chunk.name}.json" in good for chunk in run.plan.chunks):
            continue
        if all(run.store.embedding_group(unit.id).has(name) for name in run.plan.object_names(unit.source)):
            continue
        try:
            run.checkpoint(unit, download=True)
        except ModelError as error:
            if not run.request.config.continue_on_error:
                raise ModelError(f"model {unit.label}: {error}") from None


def _remove_snakemake_locks(run: Run) -> None:
    """Remove Snakemake's lock files: while this process holds the run's lock, the process that
    left them is dead."""
    for lock in (run.dir / ".snakemake" / "locks").glob("*.lock"):
        lock.unlink(missing_ok=True)
