"""Pack the objects of a job that has ended: one file per part or chunk and group instead of one per object (``packs.py``)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from ...errors import RSEmbedError
from ...planning.plan import Chunk, Part
from ...planning.units import Source, Unit
from ...runs.run import Run
from ...store import locks
from ...store.store import Group, Packed


def groups_of(run: Run, chunk: Chunk) -> Iterator[tuple[Group, Sequence[str]]]:
    """Where the objects of a chunk lie, and their names: its embeddings, and its chips in every band set."""
    plan, store = run.plan, run.store
    for unit in plan.embedded:
        yield store.embeddings(unit.id), plan.objects(unit.source)[chunk.start : chunk.stop]
    for source in plan.sources:
        for bands in store.band_sets(source.id, source.bands):
            yield store.chips(source.id, bands), plan.objects(source.id)[chunk.start : chunk.stop]


def pack_chunk(run: Run, chunk: Chunk) -> Packed:
    """What ``pack: true`` does at the end of a write job: what lies loose of a chunk still, made by earlier starts."""
    return _packed(run, groups_of(run, chunk), "write")


def pack_part(run: Run, source: Source, part: Part) -> Packed:
    """What ``pack: true`` does at the end of a fetch job, so that never more chips lie loose than are being fetched."""
    names = run.plan.objects(source.id)[part.start : part.stop]
    groups = (run.store.chips(source.id, bands) for bands in run.store.band_sets(source.id, source.bands))
    return _packed(run, ((group, names) for group in groups), "fetch")


def pack_embeddings(run: Run, unit: Unit, chunk: Chunk) -> Packed:
    """What ``pack: true`` does at the end of an embed job."""
    names = run.plan.objects(unit.source)[chunk.start : chunk.stop]
    return _packed(run, [(run.store.embeddings(unit.id), names)], "embed")


def _packed(run: Run, groups: Iterable[tuple[Group, Sequence[str]]], stage: str) -> Packed:
    """A job does not fail for it: its objects are as good where they are."""
    packed = Packed()
    try:
        with locks.share(run.store.root):  # nobody unpacks or prunes, even where this job has outlived its run
            for group, names in groups:
                packed += group.pack(names)
    except (RSEmbedError, OSError) as error:
        print(f"{stage}: the objects were not all packed: {error}", file=sys.stderr)
    return packed
