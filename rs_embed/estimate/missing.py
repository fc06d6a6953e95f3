"""What a run's remaining jobs have to make: objects that the store has not, counted by the shape of their image.

Files are looked for and not opened, one after the other: nothing is kept but counts.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..planning.units import Source, Unit
from ..request.geometry import grid_shape
from ..runs.run import Run
from ..stages.shared.state import Jobs
from ..store import freed_chips

Shape = tuple[int, int]


@dataclass
class Lacking:
    """Objects to make, by the (height, width) of their images; and how many of the same jobs are there already.

    Attributes:
        shapes: of chips with the number of bands to fetch: (height, width, bands). back: the same of chips that were freed and
            are read back from an export that has them, if that is as it was.
        there, bytes_there: objects of the remaining jobs that the store has, and their bytes.
    """

    shapes: Counter = field(default_factory=Counter)
    back: Counter = field(default_factory=Counter)
    there: int = 0
    bytes_there: int = 0

    @property
    def count(self) -> int:
        return sum(self.shapes.values())


def missing(run: Run, jobs: Jobs) -> tuple[dict[str, Lacking], dict[str, Lacking]]:
    """(chips by source id, embeddings by unit id) that the jobs have to make. Places that are there twice count once."""
    with contextlib.ExitStack() as held:
        return _missing(run, jobs, held)


def _missing(run: Run, jobs: Jobs, held: contextlib.ExitStack) -> tuple[dict[str, Lacking], dict[str, Lacking]]:
    plan = run.plan
    chips = {s.id: Lacking() for s in plan.sources}
    made = {u.id: Lacking() for u in plan.embedded}
    to_fetch, to_embed = set(jobs.fetch), set(jobs.embed)
    for source in plan.sources:
        readers = [u for u in plan.embedded if u.source == source.id]
        embeddings = {u.id: run.store.embeddings(u.id).size for u in readers}
        chip = _chips(run, source)
        records = held.enter_context(_kept(run, source))
        for index, fetched, embedded in _places(run, source, readers, to_fetch, to_embed):
            name = plan.objects(source.id)[index]
            sizes = {u.id: embeddings[u.id](name) for u in readers}
            shape: Shape | None = None
            for unit in embedded:
                if sizes[unit.id] is None:
                    shape = shape or _shape(run, source, index)
                    made[unit.id].shapes[shape] += 1
                else:
                    made[unit.id].there += 1
                    made[unit.id].bytes_there += sizes[unit.id]
            if not fetched:
                continue
            need = set(source.bands)
            if not run.request.config.save_inputs:
                need = {b for u in readers if sizes[u.id] is None for b in u.sensor.bands}
            lacks, size = chip(name, need)
            if lacks:
                shape = shape or _shape(run, source, index)
                asked = lacks.difference(*(r.bands for r in records if r.find(name) is not None))
                to = chips[source.id].shapes if asked else chips[source.id].back
                to[*shape, len(asked or lacks)] += 1
            else:
                chips[source.id].there += 1
                chips[source.id].bytes_there += size
    return chips, made


@contextlib.contextmanager
def _kept(run: Run, source: Source) -> Iterator[list[freed_chips.Records]]:
    """What exports that are there have of freed chips."""
    with contextlib.ExitStack() as held:
        opened = (
            freed_chips.opened(p, run.store)
            for p in freed_chips.of_source(run.store, source.id)
            if not freed_chips.gone(p, run.store)
        )
        yield [held.enter_context(records) for records in opened if records is not None]


def _places(
    run: Run, source: Source, readers: list[Unit], to_fetch: set[str], to_embed: set[str]
) -> Iterator[tuple[int, bool, list[Unit]]]:
    """(ROI index, its chip is to be seen to, units to embed it with) of the places that remaining jobs are about."""
    plan, seen = run.plan, set()
    objects = plan.objects(source.id)
    repeated = len(set(objects)) < len(objects)
    for chunk in plan.chunks:
        units = [u for u in readers if f"embed/{u.id}/{chunk.name}.json" in to_embed]
        for part in chunk.parts:
            fetched = f"fetch/{source.id}/{part.name}.json" in to_fetch
            if not fetched and not units:
                continue
            for index in range(part.start, part.stop):
                if repeated:
                    if objects[index] in seen:
                        continue
                    seen.add(objects[index])
                yield index, fetched, units


def _chips(run: Run, source: Source) -> Callable[[str, set[str]], tuple[set[str], int]]:
    """(bands that no stored chip of a name has, bytes of those that are used), as ``Store.covering`` finds them."""
    held = [
        (set(bands), run.store.chips(source.id, bands).size) for bands in run.store.band_sets(source.id, source.bands)
    ]

    def find(name: str, need: set[str]) -> tuple[set[str], int]:
        lacks, used = set(need), 0
        for bands, size_of in held:
            if lacks & bands and (size := size_of(name)) is not None:
                lacks -= bands
                used += size
        return lacks, used

    return find


def _shape(run: Run, source: Source, index: int) -> Shape:
    about = source.identity
    return grid_shape(run.request.spatials[index], about["projection"], source.scale_m, square=about["square"])
