"""The state of a run: which receipts are valid, which have to be withdrawn, and which jobs
Snakemake will therefore run."""

from __future__ import annotations

import functools
import os
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

from ...formats import manifest
from ...planning.plan import Chunk, Part, Plan
from ...planning.units import Source, Unit
from ...runs.run import Run
from ...store import receipts
from .chunk_files import are_records_intact, find_damaged_rois, next_repair_stamp
from .stored_objects import needed_bands


@dataclass
class ReceiptStates:
    """States of all receipts, and the stamp of the next repair for each write receipt with damaged
    files."""

    states: dict[str, str] = field(default_factory=dict)
    repairs: dict[str, str] = field(default_factory=dict)


def examine_receipts(run: Run) -> ReceiptStates:
    """Read every receipt, once: there can be hundreds with tens of thousands of rows."""
    plan, accept, found = run.plan, run.request.config.continue_on_error, ReceiptStates()
    chunk_of = {f"items/{c.name}.json": c for c in plan.chunks}
    for path, key in plan.receipts().items():
        state, receipt = receipts.read_state(run.dir / path, key, accept_failures=accept)
        if path in chunk_of and receipt is not None:
            if not are_records_intact(run, receipt):
                state = "stale"
            elif plan.layout == "per_item" and find_damaged_rois(run, chunk_of[path].name, receipt):
                found.repairs[path] = next_repair_stamp(run, chunk_of[path])
        found.states[path] = state
    found.states[plan.merge_receipt] = _merge_state(run)
    return found


def find_invalid_receipts(run: Run, found: ReceiptStates) -> list[str]:
    """Receipts that are no longer valid: of another request, unreadable, with failures to try
    again, or of final files or objects that are missing. Objects are only looked for where a
    remaining job may read them."""
    bad = [path for path, state in found.states.items() if state in ("stale", "retry")]
    if has_remaining_jobs(found, found.states):
        for chunk in run.plan.chunks:
            # a merge of all pixels reads every chunk; one that writes an index reads none
            if run.plan.layout == "combined" or has_remaining_jobs(found, run.plan.chunk_receipts(chunk)):
                bad += find_receipts_of_lost_objects(run, chunk, found.states)
    return list(dict.fromkeys(bad))


def has_remaining_jobs(found: ReceiptStates, paths: Iterable[str]) -> bool:
    """Whether a job or a repair remains for some receipts."""
    return any(found.states[path] != "good" or path in found.repairs for path in paths)


@dataclass(frozen=True)
class Jobs:
    """The jobs that Snakemake will run: their receipts by rule, in the order of the plan;
    ``repair``: stamps of repairs."""

    fetch: tuple[str, ...]
    embed: tuple[str, ...]
    write: tuple[str, ...]
    merge: tuple[str, ...]
    repair: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return sum(map(len, (self.fetch, self.embed, self.write, self.merge, self.repair)))


def list_remaining_jobs(run: Run, found: ReceiptStates, withdrawn: Iterable[str]) -> Jobs:
    """The jobs that remain once some receipts are withdrawn: those without a receipt, and, as in
    Snakemake, those with an input that is newer or will be created again."""
    withdrawn = set(withdrawn)
    modified = functools.cache(lambda path: os.stat(run.dir / path).st_mtime_ns)
    again: set[str] = set()
    by_rule: dict[str, list[str]] = {"fetch": [], "embed": [], "write": [], "merge": []}
    for rule, path, inputs in _list_jobs(run.plan):
        if (
            found.states[path] != "good"
            or path in withdrawn
            or any(i in again or modified(i) > modified(path) for i in inputs)
        ):
            again.add(path)
            by_rule[rule].append(path)
    repairs = tuple(stamp for path, stamp in found.repairs.items() if path not in withdrawn)
    return Jobs(**{rule: tuple(paths) for rule, paths in by_rule.items()}, repair=repairs)


def _list_jobs(plan: Plan) -> Iterator[tuple[str, str, list[str]]]:
    """(rule, receipt, receipts that it needs) of every job, each after those it needs."""
    for chunk in plan.chunks:
        fetched, embedded = plan.fetch_receipts(chunk), plan.embed_receipts(chunk)
        for path in fetched:
            yield "fetch", path, []
        for unit, path in zip(plan.embedded_units, embedded):
            yield "embed", path, plan.fetch_receipts(chunk, plan.unit_sources(unit))
        yield "write", f"items/{chunk.name}.json", [*embedded, *fetched]
    yield "merge", plan.merge_receipt, plan.items_receipts()


def _merge_state(run: Run) -> str:
    """State of the merge's receipt, which is also stale when a final file is missing or has
    changed."""
    path, key = run.dir / run.plan.merge_receipt, run.plan.merge_key
    state, receipt = receipts.read_state(path, key)
    if receipt is not None and state == "good" and any(manifest.is_damaged(r, str(run.dir)) for r in receipt["rows"]):
        return "stale"
    return state


def find_receipts_of_lost_objects(
    run: Run, chunk: Chunk, state: dict[str, str], freed: Container[str] = ()
) -> list[str]:
    """Good receipts of a chunk whose objects are missing, and the chunk's write receipt with them.

    Args:
        freed: kinds of objects (``chips``, ``embeddings``) that may be missing.
    """
    lost: list[str] = []
    for unit in run.plan.embedded_units if "embeddings" not in freed else ():
        path = f"embed/{unit.id}/{chunk.name}.json"
        if state[path] == "good" and _has_lost_embedding(run, unit, path):
            lost.append(path)
    for source in run.plan.sources if "chips" not in freed else ():
        band_sets = run.store.list_band_sets(source.id, source.bands)
        for part in (p for p in chunk.parts if p.name in run.plan.parts_of(source.id)):
            path = f"fetch/{source.id}/{part.name}.json"
            if state[path] == "good" and _has_lost_chip(run, source, part, band_sets):
                lost.append(path)
    return [*lost, f"items/{chunk.name}.json"] if lost else []


def _has_lost_embedding(run: Run, unit: Unit, path: str) -> bool:
    rows = receipts.read(run.dir / path)["rows"]
    group = run.store.embedding_group(unit.id)
    return not all(group.has(row["object"]) for row in rows if row["status"] != "failed")


def _has_lost_chip(run: Run, source: Source, part: Part, band_sets: list[tuple[str, ...]]) -> bool:
    """A chip, or a band of one, is missing that something in this run will read."""
    rows = receipts.read(run.dir / f"fetch/{source.id}/{part.name}.json")["rows"]
    for index, row in zip(run.plan.rois_of(source.id, part.start, part.stop), rows):
        needed = needed_bands(run, source, index)
        if row["status"] != "failed" and run.store.select_band_sets(source.id, needed, row["object"], band_sets)[1]:
            return True
    return False
