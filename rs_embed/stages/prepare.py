"""What happens once, before Snakemake decides what to run: checks, the lock, the frozen request, receipts that no
longer hold, objects and files that went missing. A dry run looks and tells, and changes nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from .. import receipts
from ..errors import ModelError
from ..formats import manifest
from ..locks import hold, take
from ..plan import Chunk
from ..run import FREED, Run
from ..store import clean, writing
from . import records
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
        hold(run.store.root)
        with writing(run.dir):
            _unlock(run)
            run.freeze()
        if _broken(run, path := _manifest(run)):
            os.unlink(path)  # while the receipt is there that says whose it is
        for folder in (run.dir, run.dir / "repairs", run.work / "generations"):  # where no later merge need come by
            if folder.is_dir():
                clean(folder)
    found = _examined(run)
    withdrawn = _withdrawn(run, found)
    asked = [
        stamp for path, stamp in found.repairs.items() if path not in withdrawn
    ]  # others are written anew as a whole
    if live:
        config = run.request.config
        if _busy(found, found.states) and config.keep_work == "all" and config.store_limit_gb is None:
            (run.dir / FREED).unlink(missing_ok=True)  # from now on its objects are to be there
        receipts.withdraw(run.dir / path for path in withdrawn)
        find_weights(run, {p for p, state in found.states.items() if state == "good"}.difference(withdrawn))
    elif withdrawn:
        text = f"rs-embed: besides, {len(withdrawn)} finished jobs would be done again (failures, damage, lost files):"
        print(text, *withdrawn[:5], *(["..."] if len(withdrawn) > 5 else []), file=sys.stderr)
    return asked


def find_weights(run: Run, good: Container[str] | None = None) -> None:
    """Look for the weights of every model that has something to embed before anything is fetched for it, and download them
    here, where the network is likelier than on a cluster's nodes.

    Args:
        good: receipts that hold; None looks at them.

    Raises:
        ModelError: there are none, unless ``continue_on_error``: then the model's rows say so.
    """
    if good is None:
        good = {path for path, state in _examined(run).states.items() if state == "good"}
    for unit in run.plan.embedded:
        if all(f"embed/{unit.id}/{chunk.name}.json" in good for chunk in run.plan.chunks):
            continue
        if all(run.store.embedding(unit.id, name).exists() for name in run.plan.objects(unit.source)):
            continue
        try:
            run.checkpoint(unit, download=True)
        except ModelError as error:
            if not run.request.config.continue_on_error:
                raise ModelError(f"model {unit.label}: {error}") from None


@dataclass
class _Found:
    """What one pass over the receipts found: their states, and a repair stamp for each write receipt with damaged files."""

    states: dict[str, str] = field(default_factory=dict)
    repairs: dict[str, str] = field(default_factory=dict)


def _unlock(run: Run) -> None:
    """Remove Snakemake's lock files: with our own lock held, the process that left them is dead."""
    for lock in (run.dir / ".snakemake" / "locks").glob("*.lock"):
        lock.unlink(missing_ok=True)


def _examined(run: Run) -> _Found:
    """Every receipt, read once: there can be hundreds with ten thousands of rows."""
    plan, accept, found = run.plan, run.request.config.continue_on_error, _Found()
    chunk_of = {f"items/{c.name}.json": c for c in plan.chunks}
    for path, key in plan.receipts().items():
        state, receipt = receipts.examine(run.dir / path, key, accept_failures=accept)
        if path in chunk_of and receipt is not None:
            if not records.whole(run, receipt):
                state = "stale"
            elif plan.layout == "per_item" and damaged_rois(run, chunk_of[path].name, receipt):
                found.repairs[path] = _next_stamp(run, chunk_of[path])
        found.states[path] = state
    found.states[plan.merge_receipt] = _merge_state(run)
    return found


def _withdrawn(run: Run, found: _Found) -> list[str]:
    """Receipts that no longer hold: of another request, unreadable, with failures to try again, or vouching for final
    files or objects that are gone. Objects are only looked for where something is left to do that may read them."""
    bad = [path for path, state in found.states.items() if state in ("stale", "retry")]
    if _busy(found, found.states):
        for chunk in run.plan.chunks:
            # a merge of all pixels reads every chunk; one that writes an index reads none
            if run.plan.layout == "combined" or _busy(found, run.plan.receipts_of(chunk)):
                bad += lost(run, chunk, found.states)
    return list(dict.fromkeys(bad))


def _busy(found: _Found, paths: Iterable[str]) -> bool:
    """Something is left to do for some receipts."""
    return any(found.states[path] != "good" or path in found.repairs for path in paths)


def _merge_state(run: Run) -> str:
    """State of the merge's receipt, which is stale, too, when a final file is gone or has changed."""
    path, key = run.dir / run.plan.merge_receipt, run.plan.merge_key
    state, receipt = receipts.examine(path, key)
    if state == "good" and any(manifest.damaged(r, str(run.dir)) for r in receipt["rows"]):
        return "stale"
    return state


def lost(run: Run, chunk: Chunk, state: dict[str, str], freed: Container[str] = ()) -> list[str]:
    """Good receipts of a chunk whose objects are gone, and the chunk's write receipt with them.

    Args:
        freed: kinds of objects (``chips``, ``embeddings``) that are not missed.
    """
    plan, store, gone = run.plan, run.store, []
    for unit in plan.embedded if "embeddings" not in freed else ():
        path = f"embed/{unit.id}/{chunk.name}.json"
        if state[path] == "good":
            rows = receipts.read(run.dir / path)["rows"]
            if not all(store.embedding(unit.id, r["object"]).exists() for r in rows if r["status"] != "failed"):
                gone.append(path)
    for source in plan.sources if "chips" not in freed else ():
        band_sets = store.band_sets(source.id, source.bands)
        for part in chunk.parts:
            path = f"fetch/{source.id}/{part.name}.json"
            if state[path] != "good":
                continue
            for row in receipts.read(run.dir / path)["rows"]:
                need = needed_bands(run, source, row["object"])
                if row["status"] != "failed" and store.covering(source.id, need, row["object"], band_sets)[1]:
                    gone.append(path)
                    break
    return [*gone, f"items/{chunk.name}.json"] if gone else []


def _next_stamp(run: Run, chunk: Chunk) -> str:
    """The stamp of a chunk's next repair; its number is the count of its repairs so far."""
    done = stamps(run, chunk.name)
    return f"repairs/{chunk.name}-{int(done[-1].stem.rsplit('-', 1)[1]) + 1 if done else 0}.json"
