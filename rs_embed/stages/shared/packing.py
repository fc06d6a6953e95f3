"""Packing the objects of a finished job: one file per part or chunk and group instead of one per
object (``packs.py``)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence

from ...errors import RSEmbedError
from ...planning.plan import Chunk, Part
from ...planning.units import Source, Unit
from ...runs.run import Run
from ...store import locks
from ...store.groups import Group
from ...store.packs import PackingResult


def list_chunk_groups(run: Run, chunk: Chunk) -> Iterator[tuple[Group, Sequence[str]]]:
    """The groups with objects of a chunk, and their names: its embeddings, and its chips in every
    band set."""
    plan, store = run.plan, run.store
    for unit in plan.embedded_units:
        yield store.embedding_group(unit.id), plan.object_names(unit.source)[chunk.start : chunk.stop]
    for source in plan.sources:
        for bands in store.list_band_sets(source.id, source.bands):
            yield store.chip_group(source.id, bands), _chip_names(run, source, chunk)


def _chip_names(run: Run, source: Source, span: Part | Chunk) -> list[str]:
    names = run.plan.object_names(source.id)
    return [names[i] for i in run.plan.rois_of(source.id, span.start, span.stop)]


def pack_chunk(run: Run, chunk: Chunk) -> PackingResult:
    """Pack what is still loose of a chunk, from earlier starts; for ``pack: true`` at the end of a
    write job."""
    return _packed(run, list_chunk_groups(run, chunk), "write")


def pack_part(run: Run, source: Source, part: Part) -> PackingResult:
    """Pack a part's chips; for ``pack: true`` at the end of a fetch job, so that only chips being
    fetched are loose."""
    names = _chip_names(run, source, part)
    groups = (run.store.chip_group(source.id, bands) for bands in run.store.list_band_sets(source.id, source.bands))
    return _packed(run, ((group, names) for group in groups), "fetch")


def pack_embeddings(run: Run, unit: Unit, chunk: Chunk) -> PackingResult:
    """Pack a chunk's embeddings; for ``pack: true`` at the end of an embed job."""
    names = run.plan.object_names(unit.source)[chunk.start : chunk.stop]
    return _packed(run, [(run.store.embedding_group(unit.id), names)], "embed")


def _packed(run: Run, groups: Iterable[tuple[Group, Sequence[str]]], stage: str) -> PackingResult:
    """Pack groups; errors are printed and do not fail the job, because loose objects are as good
    as packed ones."""
    packed = PackingResult()
    try:
        # keeps the store from being unpacked or pruned, even if this job outlives its run
        with locks.acquire_shared_store_lock(run.store.root):
            for group, names in groups:
                packed += group.pack(names)
    except (RSEmbedError, OSError) as error:
        print(f"{stage}: the objects were not all packed: {error}", file=sys.stderr)
    return packed
