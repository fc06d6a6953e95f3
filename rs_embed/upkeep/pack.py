"""``rs-embed pack``: moves the loose objects of finished chunks into packs, also beside live runs;
and back again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..planning.plan import Chunk
from ..runs.run import Run
from ..stages.shared.packing import list_chunk_groups
from ..store import locks, receipts
from ..store.groups import PACKS_FOLDER, Group
from ..store.packs import PackingResult
from ..store.store import Store
from .work_folder import LoadedRun, WorkFolder

#: From a total number of steps to a context with a function that receives how many more are done.
Progress = Callable[[int], contextlib.AbstractContextManager[Callable[[int], None]]]


@dataclass
class PackReport:
    """What ``pack`` or ``unpack`` has done.

    Attributes:
        packed: what was packed. loosened: number of objects that were unpacked. unreadable:
            damaged packs, which stay.
        notes: runs that were skipped, and why.
    """

    packed: PackingResult = field(default_factory=PackingResult)
    loosened: int = 0
    unreadable: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def pack(work: WorkFolder, progress: Progress) -> PackReport:
    """Pack the loose objects of every chunk with a valid write receipt, of all runs of a work
    folder.

    Raises:
        StoreError: a pack cannot be written; the packs before it stay.
    """
    done = PackReport()
    loose: dict[Path, set[str]] = {}
    found: list[tuple[Run, Chunk]] = []
    for entry in work.run_folders:
        if isinstance(entry, LoadedRun):
            found += [(entry.run, chunk) for chunk in _finished_chunks(entry.run)]
        elif entry.error:
            done.notes.append(f"{entry.name}: its request cannot be read, so its finished chunks are unknown")
    with contextlib.ExitStack() as held, progress(len(found)) as advance:
        for root in {run.store.root for run, _ in found}:
            held.enter_context(locks.acquire_shared_store_lock(root))
        for run, chunk in found:
            for group, names in list_chunk_groups(run, chunk):
                if group.folder not in loose:
                    loose[group.folder] = group.loose_names()
                remaining = loose[group.folder]
                if not remaining.isdisjoint(names):
                    done.packed += group.pack([n for n in names if n in remaining])
                    remaining.difference_update(names)
            advance(1)
    return done


def _finished_chunks(run: Run) -> Iterator[Chunk]:
    for chunk in run.plan.chunks:
        if receipts.read_state(run.dir / f"items/{chunk.name}.json", run.plan.items_key(chunk))[0] == "good":
            yield chunk


def unpack(work: WorkFolder, progress: Progress) -> PackReport:
    """Make every packed object in the stores of a work folder a file again.

    Raises:
        RunLockedError: a run is using a store. StoreError: an object cannot be written; its pack
            stays.
    """
    done = PackReport()
    with work.lock_stores("pack", "--undo"):
        groups = [group for shared in work.stores for group in _groups_with_packs(shared.store)]
        with progress(len(groups)) as advance:
            for group in groups:
                done.loosened += group.unpack()
                done.unreadable += group.broken_packs()
                advance(1)
    return done


def _groups_with_packs(store: Store) -> Iterator[Group]:
    for pattern in (f"chips/*/*/{PACKS_FOLDER}", f"embeddings/*/{PACKS_FOLDER}"):
        for folder in sorted(store.root.glob(pattern)):
            yield store.group(folder.parent)
