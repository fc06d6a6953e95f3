"""What happens once, before Snakemake decides what to run: checks, the lock, the frozen request, receipts that no
longer hold, objects and files that went missing. A dry run looks and tells, and changes nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from .. import receipts
from ..errors import ModelError
from ..formats import manifest
from ..locks import take
from ..plan import Chunk
from ..run import Run
from ..store import clean
from .common import needed_bands
from .repair import damaged_rois, stamps


def check(run: Run) -> None:
    """Refuse a target that is somebody else's file."""
    path = _manifest(run)
    if run.request.config.save_manifest and os.path.exists(path) and not (manifest.is_own(path) or _broken(run, path)):
        raise ModelError(f"target.path: {path} is there and is not a manifest of an export; allowed: another path")


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
        _unlock(run)
        run.freeze()
        if _broken(run, path := _manifest(run)):
            os.unlink(path)  # while the receipt is there that says whose it is
        for folder in (run.dir, run.dir / "repairs", run.work / "generations"):  # where no later merge need come by
            if folder.is_dir():
                clean(folder)
    asked = repairs(run)
    withdrawn = _withdrawn(run, work_to_do=bool(asked))
    asked = [s for s in asked if f"items/{Path(s).name.split('-')[0]}.json" not in withdrawn]  # written anew as a whole
    if live:
        receipts.withdraw(run.dir / path for path in withdrawn)
    elif withdrawn:
        text = f"rs-embed: besides, {len(withdrawn)} finished jobs would be done again (failures, damage, lost files):"
        print(text, *withdrawn[:5], *(["..."] if len(withdrawn) > 5 else []), file=sys.stderr)
    return asked


def _unlock(run: Run) -> None:
    """Remove Snakemake's lock files: with our own lock held, the process that left them is dead."""
    for lock in (run.dir / ".snakemake" / "locks").glob("*.lock"):
        lock.unlink(missing_ok=True)


def _withdrawn(run: Run, *, work_to_do: bool) -> list[str]:
    """Receipts that no longer hold: of another request, unreadable, with failures to try again, or vouching for final
    files or objects that are gone. Objects are only looked for where something is left to do that may read them."""
    plan, accept = run.plan, run.request.config.continue_on_error
    state = {p: receipts.state(run.dir / p, key, accept_failures=accept) for p, key in plan.receipts().items()}
    state[plan.merge_receipt] = _merge_state(run)
    bad = [path for path, found in state.items() if found in ("stale", "retry")]
    if work_to_do or any(found != "good" for found in state.values()):
        for chunk in plan.chunks:
            bad += _lost(run, chunk, state)
    return list(dict.fromkeys(bad))


def _merge_state(run: Run) -> str:
    """State of the merge's receipt, which is stale, too, when a final file is gone or has changed."""
    path, key = run.dir / run.plan.merge_receipt, run.plan.merge_key
    state = receipts.state(path, key)
    if state == "good" and any(manifest.damaged(r, str(run.dir)) for r in receipts.read(path, key)["rows"]):
        return "stale"
    return state


def _lost(run: Run, chunk: Chunk, state: dict[str, str]) -> list[str]:
    """Good receipts of a chunk whose objects are gone, and the chunk's write receipt with them."""
    plan, store, lost = run.plan, run.store, []
    for unit in plan.embedded:
        path = f"embed/{unit.id}/{chunk.name}.json"
        if state[path] == "good":
            rows = receipts.read(run.dir / path)["rows"]
            if not all(store.embedding(unit.id, r["object"]).exists() for r in rows if r["status"] != "failed"):
                lost.append(path)
    for source in plan.sources:
        band_sets = store.band_sets(source.id, source.bands)
        for part in chunk.parts:
            path = f"fetch/{source.id}/{part.name}.json"
            if state[path] != "good":
                continue
            for row in receipts.read(run.dir / path)["rows"]:
                need = needed_bands(run, source, row["object"])
                if row["status"] != "failed" and store.covering(source.id, need, row["object"], band_sets)[1]:
                    lost.append(path)
                    break
    return [*lost, f"items/{chunk.name}.json"] if lost else []


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
