"""What happens once, before Snakemake decides what to run: checks, the lock, the frozen request, receipts that no
longer hold, and files that went missing. A dry run checks and looks, and changes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .. import receipts
from ..errors import ModelError
from ..formats import manifest
from ..locks import take
from ..run import Run
from .repair import damaged_rois, stamps


def check(run: Run) -> None:
    """Refuse what the provider knows to be impossible, naming the ROI."""
    run.provider.check(run.plan.sources, [run.roi(i) for i in range(len(run.plan.roi_ids))])


def prepare(run: Run, *, live: bool) -> list[str]:
    """Make the run's folder ready; returns the repair stamps to ask for.

    Args:
        live: False for a dry run.

    Raises:
        RunLockedError: another process works on this target. ModelError: Snakemake was told to work elsewhere.
    """
    if not os.path.samefile(".", run.dir):
        raise ModelError(
            f"--directory: {os.getcwd()!r} is not valid; allowed: no --directory, the work folder is export.work_dir"
        )
    if live:
        take(run.dir)
        _unlock(run.dir)
        run.freeze()
    accept = run.request.config.continue_on_error
    for path, key in [*run.plan.receipts().items(), ("merge.json", run.plan.merge_key)]:
        if live and receipts.state(run.dir / path, key, accept_failures=accept) in ("stale", "retry"):
            receipts.withdraw([run.dir / path])
    _check_artefacts(run, live=live)
    return repairs(run)


def _unlock(folder: Path) -> None:
    """Remove Snakemake's lock files: with our own lock held, the process that left them is dead."""
    for lock in (folder / ".snakemake" / "locks").glob("*.lock"):
        lock.unlink(missing_ok=True)


def _check_artefacts(run: Run, *, live: bool) -> None:
    """A final file that was changed since it was made is deleted, so that the merge makes it again."""
    try:
        receipt = receipts.read(run.dir / "merge.json", run.plan.merge_key)
    except (FileNotFoundError, receipts.StoreError):
        return
    for record in receipt["rows"]:
        path = run.dir / record["path"]  # absolute paths stay absolute
        if path.exists() and manifest.damaged(record, str(run.dir)):
            print(
                f"rs-embed: {path} differs from what was written; it {'is' if live else 'would be'} made again",
                file=sys.stderr,
            )
            if live:
                path.unlink()


def repairs(run: Run) -> list[str]:
    """One stamp for each chunk with damaged files; its number is the count of the chunk's repairs so far."""
    asked = []
    if run.plan.layout != "per_item":
        return asked
    for chunk in run.plan.chunks:
        try:
            receipt = receipts.read(run.dir / f"items/{chunk.name}.json", run.plan.items_key(chunk))
        except (FileNotFoundError, receipts.StoreError):
            continue
        if damaged_rois(run, chunk.name, receipt):
            done = stamps(run, chunk.name)
            number = int(done[-1].stem.rsplit("-", 1)[1]) + 1 if done else 0
            asked.append(f"repairs/{chunk.name}-{number}.json")
    return asked
