"""How far a run is: which receipts hold, which are to be withdrawn, and which jobs Snakemake will therefore run."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable
from dataclasses import dataclass, field
from functools import partial

from ...formats import manifest
from ...planning.plan import Chunk
from ...runs.run import Run
from ...store import receipts
from ..repair import damaged_rois, stamps
from . import chunk_records
from .common import needed_bands


@dataclass
class Found:
    """What one pass over the receipts found: their states, and a repair stamp for each write receipt with damaged files."""

    states: dict[str, str] = field(default_factory=dict)
    repairs: dict[str, str] = field(default_factory=dict)


def examined(run: Run) -> Found:
    """Every receipt, read once: there can be hundreds with ten thousands of rows."""
    plan, accept, found = run.plan, run.request.config.continue_on_error, Found()
    chunk_of = {f"items/{c.name}.json": c for c in plan.chunks}
    for path, key in plan.receipts().items():
        state, receipt = receipts.examine(run.dir / path, key, accept_failures=accept)
        if path in chunk_of and receipt is not None:
            if not chunk_records.whole(run, receipt):
                state = "stale"
            elif plan.layout == "per_item" and damaged_rois(run, chunk_of[path].name, receipt):
                found.repairs[path] = _next_stamp(run, chunk_of[path])
        found.states[path] = state
    found.states[plan.merge_receipt] = _merge_state(run)
    return found


def withdrawn(run: Run, found: Found) -> list[str]:
    """Receipts that no longer hold: of another request, unreadable, with failures to try again, or vouching for final
    files or objects that are gone. Objects are only looked for where something is left to do that may read them."""
    bad = [path for path, state in found.states.items() if state in ("stale", "retry")]
    if busy(found, found.states):
        for chunk in run.plan.chunks:
            # a merge of all pixels reads every chunk; one that writes an index reads none
            if run.plan.layout == "combined" or busy(found, run.plan.receipts_of(chunk)):
                bad += lost(run, chunk, found.states)
    return list(dict.fromkeys(bad))


def busy(found: Found, paths: Iterable[str]) -> bool:
    """Something is left to do for some receipts."""
    return any(found.states[path] != "good" or path in found.repairs for path in paths)


@dataclass(frozen=True)
class Jobs:
    """The jobs that Snakemake will run: receipts by rule, in the order of the plan; ``repair`` has the stamps asked for."""

    fetch: tuple[str, ...]
    embed: tuple[str, ...]
    write: tuple[str, ...]
    merge: tuple[str, ...]
    repair: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return sum(map(len, (self.fetch, self.embed, self.write, self.merge, self.repair)))


def jobs(run: Run, found: Found, gone: Iterable[str]) -> Jobs:
    """What is left to do once the receipts in ``gone`` are withdrawn: jobs without a receipt, and everything that depends on
    them or is older than what it was made of, as Snakemake has it."""
    plan, gone = run.plan, set(gone)
    written = partial(_written, {}, run)

    def due(path: str, needs: Iterable[str], again: set[str]) -> bool:
        if found.states[path] != "good" or path in gone:
            return True
        mine = written(path)
        return any(need in again or written(need) > mine for need in needs)

    again: set[str] = set()
    by_rule: dict[str, list[str]] = {"fetch": [], "embed": [], "write": [], "merge": []}

    def see(rule: str, path: str, needs: Iterable[str] = ()) -> None:
        if due(path, needs, again):
            again.add(path)
            by_rule[rule].append(path)

    for chunk in plan.chunks:
        for path in plan.fetch_receipts(chunk):
            see("fetch", path)
        for unit, path in zip(plan.embedded, plan.embed_receipts(chunk)):
            see("embed", path, plan.fetch_receipts(chunk, [unit.source]))
        see("write", f"items/{chunk.name}.json", [*plan.embed_receipts(chunk), *plan.fetch_receipts(chunk)])
    see("merge", plan.merge_receipt, plan.items_receipts())
    repairs = tuple(stamp for path, stamp in found.repairs.items() if path not in gone)
    return Jobs(*map(tuple, by_rule.values()), repairs)


def _written(known: dict[str, int], run: Run, path: str) -> int:
    if path not in known:
        known[path] = os.stat(run.dir / path).st_mtime_ns
    return known[path]


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
            if not all(store.embeddings(unit.id).has(r["object"]) for r in rows if r["status"] != "failed"):
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
