"""``rs-embed pack``: the loose objects of finished chunks into packs, beside any run; and back again, without one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..planning.plan import Chunk
from ..runs.run import Run
from ..stages.shared.packing import groups_of
from ..store import locks, receipts
from ..store.groups import PACKS
from ..store.store import Group, Packed, Store
from .work_folder import Work

#: From a number of chunks (or folders) to a context with a function that is told of some that are done.
Progress = Callable[[int], contextlib.AbstractContextManager]


@dataclass
class Packing:
    """What was done.

    Attributes:
        packed: what was packed. loosened: objects that are loose again. unreadable: packs that nobody can read, and which stay.
        notes: runs that were passed over, and why.
    """

    packed: Packed = field(default_factory=Packed)
    loosened: int = 0
    unreadable: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def pack(work: Work, progress: Progress) -> Packing:
    """Pack what lies loose of every chunk whose write receipt holds, of all runs of a work folder.

    Raises:
        StoreError: a pack cannot be written; what was packed before stays so.
    """
    done = Packing()
    loose: dict[Path, set[str]] = {}
    found: list[tuple[Run, Chunk]] = []
    for entry in work.runs:
        if entry.run is not None:
            found += [(entry.run, chunk) for chunk in _finished(entry.run)]
        elif entry.error:
            done.notes.append(f"{entry.name}: its request cannot be read, so nobody knows what is finished of it")
    with contextlib.ExitStack() as held, progress(len(found)) as advance:
        for root in {run.store.root for run, _ in found}:
            held.enter_context(locks.share(root))
        for run, chunk in found:
            for group, names in groups_of(run, chunk):
                if group.folder not in loose:
                    loose[group.folder] = group.loose()
                lying = loose[group.folder]
                if not lying.isdisjoint(names):
                    done.packed += group.pack([n for n in names if n in lying])
                    lying.difference_update(names)
            advance(1)
    return done


def _finished(run: Run) -> Iterator[Chunk]:
    for chunk in run.plan.chunks:
        if receipts.examine(run.dir / f"items/{chunk.name}.json", run.plan.items_key(chunk))[0] == "good":
            yield chunk


def unpack(work: Work, progress: Progress) -> Packing:
    """Make everything in the stores of a work folder loose again.

    Raises:
        RunLockedError: a run is using a store. StoreError: an object cannot be written; its pack stays.
    """
    done = Packing()
    with work.alone("pack", "--undo"):
        groups = [group for shared in work.stores for group in _groups(shared.store)]
        with progress(len(groups)) as advance:
            for group in groups:
                done.loosened += group.unpack()
                done.unreadable += group.broken()
                advance(1)
    return done


def _groups(store: Store) -> Iterator[Group]:
    """Those with packs."""
    for pattern in (f"chips/*/*/{PACKS}", f"embeddings/*/{PACKS}"):
        for folder in sorted(store.root.glob(pattern)):
            yield store.group(folder.parent)
