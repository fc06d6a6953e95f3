"""Counts the objects that the remaining jobs of a run have to make, by the shape of their images.
Files are looked up and not opened."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..planning.units import Source, Unit
from ..request.geometry import grid_shape
from ..runs.run import Run
from ..stages.shared.state import Jobs
from ..store import freed_chips

#: (height, width) of images, or (height, width, bands) of chips.
Shape = tuple[int, ...]


@dataclass
class MissingObjects:
    """Number of objects of one source or unit that the remaining jobs have to make.

    Attributes:
        shapes: by (height, width) of the images to embed, or (height, width, number of bands) of
            the chips to fetch.
        to_restore: the same for freed chips that are read back from an export that has not
            changed.
        stored: objects of these jobs that the store has.
    """

    shapes: Counter[Shape] = field(default_factory=Counter)
    to_restore: Counter[Shape] = field(default_factory=Counter)
    stored: int = 0

    @property
    def count(self) -> int:
        return sum(self.shapes.values())


def count_missing(run: Run, jobs: Jobs) -> tuple[dict[str, MissingObjects], dict[str, MissingObjects]]:
    """(chips by source id, embeddings by unit id) that the jobs have to make. Repeated ROIs count
    once."""
    plan = run.plan
    chips = {s.id: MissingObjects() for s in plan.sources}
    embeddings = {u.id: MissingObjects() for u in plan.embedded_units}
    for source in plan.sources:
        _count_source(run, source, jobs, chips[source.id], embeddings)
    return chips, embeddings


def _count_source(
    run: Run, source: Source, jobs: Jobs, chips: MissingObjects, embeddings: dict[str, MissingObjects]
) -> None:
    """Count the chips of one source, and the embeddings of the units that read it."""
    has_embedding = {u.id: run.store.embedding_group(u.id).has for u in run.plan.embedded_units}
    find_missing_bands = _missing_bands_finder(run, source)
    objects = run.plan.object_names(source.id)
    find_shape = functools.lru_cache(1)(functools.partial(image_shape, run, source))
    with _open_records(run, source) as records:
        for index, is_fetched, units in _list_rois(run, source, jobs):
            name, readers = objects[index], run.plan.readers(source.id, index)
            lacking = {u.id for u in readers if u.id in has_embedding and not has_embedding[u.id](name)}
            for unit in units:
                if unit.id in lacking:
                    embeddings[unit.id].shapes[find_shape(index)] += 1
                else:
                    embeddings[unit.id].stored += 1
            if not is_fetched:
                continue
            save_all = run.request.config.save_inputs
            needed = {b for u in readers if save_all or u.id in lacking for b in u.sensor.bands}
            missing = find_missing_bands(name, needed)
            if missing:
                to_fetch = missing.difference(*(r.bands for r in records if r.find(name) is not None))
                counter = chips.shapes if to_fetch else chips.to_restore
                counter[*find_shape(index), len(to_fetch or missing)] += 1
            else:
                chips.stored += 1


@contextlib.contextmanager
def _open_records(run: Run, source: Source) -> Iterator[list[freed_chips.FreedChipRecords]]:
    """Records of freed chips of a source whose exports exist."""
    with contextlib.ExitStack() as held:
        opened = (
            freed_chips.open_records(p, run.store)
            for p in freed_chips.list_source_records(run.store, source.id)
            if not freed_chips.is_export_missing(p, run.store)
        )
        yield [held.enter_context(records) for records in opened if records is not None]


def _list_rois(run: Run, source: Source, jobs: Jobs) -> Iterator[tuple[int, bool, list[Unit]]]:
    """(ROI index, whether its chip is fetched, units that embed it) of the ROIs of a source in the
    remaining jobs."""
    plan, to_fetch, to_embed = run.plan, set(jobs.fetch), set(jobs.embed)
    seen: set[str] = set()
    objects = plan.object_names(source.id)
    has_repeated = len(set(objects)) < len(objects)
    for chunk in plan.chunks:
        to_embed_here = {u.id for u in plan.embedded_units if f"embed/{u.id}/{chunk.name}.json" in to_embed}
        for part in chunk.parts:
            is_fetched = f"fetch/{source.id}/{part.name}.json" in to_fetch
            if not is_fetched and not to_embed_here:
                continue
            for index in plan.rois_of(source.id, part.start, part.stop):
                units = [u for u in plan.readers(source.id, index) if u.id in to_embed_here]
                if not is_fetched and not units:
                    continue
                if has_repeated:
                    if objects[index] in seen:
                        continue
                    seen.add(objects[index])
                yield index, is_fetched, units


def _missing_bands_finder(run: Run, source: Source) -> Callable[[str, set[str]], set[str]]:
    """A function from an object's name and the needed bands to those that no stored chip has, as
    ``Store.select_band_sets``."""
    band_sets = run.store.list_band_sets(source.id, source.bands)
    stored = [(set(bands), run.store.chip_group(source.id, bands).has) for bands in band_sets]

    def find(name: str, needed: set[str]) -> set[str]:
        missing = set(needed)
        for bands, has in stored:
            if missing & bands and has(name):
                missing -= bands
        return missing

    return find


def image_shape(run: Run, source: Source, index: int) -> tuple[int, int]:
    """(height, width) of the image of a ROI."""
    identity = source.identity
    return grid_shape(run.request.spatials[index], identity["projection"], source.scale_m, square=identity["square"])
