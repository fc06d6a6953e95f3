"""Pack the objects of a finished chunk: one file per chunk and group instead of one per object (``packs.py``)."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from .. import locks
from ..errors import RSEmbedError
from ..plan import Chunk
from ..run import Run
from ..store import Group, Packed


def groups_of(run: Run, chunk: Chunk) -> Iterator[tuple[Group, Sequence[str]]]:
    """Where the objects of a chunk lie, and their names: its embeddings, and its chips in every band set."""
    plan, store = run.plan, run.store
    for unit in plan.embedded:
        yield store.embeddings(unit.id), plan.objects(unit.source)[chunk.start : chunk.stop]
    for source in plan.sources:
        for bands in store.band_sets(source.id, source.bands):
            yield store.chips(source.id, bands), plan.objects(source.id)[chunk.start : chunk.stop]


def pack_chunk(run: Run, chunk: Chunk) -> Packed:
    """What ``pack: true`` does at the end of a write job. A chunk does not fail for it: its objects are as good where they are."""
    packed = Packed()
    try:
        with locks.share(run.store.root):  # nobody unpacks or prunes, even where this job has outlived its run
            for group, names in groups_of(run, chunk):
                packed += group.pack(names)
    except (RSEmbedError, OSError) as error:
        print(f"write: the objects of the chunk were not all packed: {error}", file=sys.stderr)
    return packed
