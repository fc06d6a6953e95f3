"""The plan: a pure function from a request to sources, units, parts, chunks, their keys and every
file of a run.

Standard library only and fast, because every cluster job computes it again: this module opens no
files and imports no models or providers. Python and the Snakefile use the same plan. It contains
the ids of the ROIs; the stages look up their geometry.

- A *source* (``units.py``) is one imagery request without its bands; ``bands`` is the union over
  the models of this run. Where some models take boxes as they are and the run also has points, a
  source contains only the ROIs of one of the two kinds.
- A *unit* (``units.py``) is one model request with its bands and settings; its identity does not
  depend on other models.
- A *chunk* is a sequence of consecutive ROIs (one embed job per unit, one write job); a *part* is
  a piece of a chunk (one fetch job per source). Their sizes are in no identity.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ..errors import ModelError
from ..request.config import OUTPUT_OPTIONS, SUFFIX
from ..request.identity import digest
from ..request.request import Request
from ..request.specs import BBox
from .chunk_sizes import choose_chunk_size
from .model_info import ModelInfo
from .units import Generation, Source, Unit, check_model, make_unit

#: Most ROIs of a part; in chunks of more than four such parts, a part is a quarter of the chunk.
PART_SIZE = 64


@dataclass(frozen=True)
class Part:
    """Consecutive ROIs ``start .. stop-1`` of the table, fetched by one job per source."""

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Chunk:
    """Consecutive ROIs, whole parts: one embed job per unit and one write job."""

    name: str
    start: int
    stop: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that a run does. All paths are relative to the run folder.

    Attributes:
        roi_ids, names: of the ROIs, in order.
        boxes: a byte per ROI, 1 for a box and 0 for a point.
        target: the file (combined) or the folder (per_item).
        names_by_source: names of the objects of a source, where they are not the ROI ids; see
            :meth:`object_names`.
        pace: approximate seconds per ROI on a core or a GPU, by unit id.
        largest_chips: number of values in the largest chip, by source id.
    """

    request: Request
    roi_ids: tuple[str, ...]
    names: tuple[str, ...]
    boxes: bytes
    sources: tuple[Source, ...]
    units: tuple[Unit, ...]
    chunks: tuple[Chunk, ...]
    target: str
    chunk_size: int
    names_by_source: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pace: Mapping[str, float] = field(default_factory=dict)
    largest_chips: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def parts(self) -> dict[str, Part]:
        return {p.name: p for c in self.chunks for p in c.parts}

    @cached_property
    def chunk(self) -> dict[str, Chunk]:
        return {c.name: c for c in self.chunks}

    @cached_property
    def source(self) -> dict[str, Source]:
        return {s.id: s for s in self.sources}

    @cached_property
    def unit(self) -> dict[str, Unit]:
        return {u.id: u for u in self.units}

    @property
    def layout(self) -> str:
        return self.request.target.layout

    @property
    def embedded_units(self) -> tuple[Unit, ...]:
        """The units with embed jobs: none with ``save_embeddings=False``."""
        return self.units if self.request.config.save_embeddings else ()

    def object_names(self, source_id: str) -> tuple[str, ...]:
        """Names in the store of the chips of a source, and of the embeddings of its models: one
        per ROI (:meth:`rois_of` are the ROIs with chips of the source).

        A name is the ROI id or, if the provider lists what else determines the pixels (such as the
        files of a catalogue), a digest of both.
        """
        return self.names_by_source.get(source_id, self.roi_ids)

    # which chips --------------------------------------------------------------------------------

    @cached_property
    def _kinds(self) -> frozenset[int]:
        """The kinds of ROIs in this run: 0 for points, 1 for boxes."""
        return frozenset(self.boxes)

    @cached_property
    def _readers(self) -> dict[tuple[str, int], tuple[Unit, ...]]:
        """The units that read a source, by its id and the kind of ROIs."""
        found: dict[tuple[str, int], tuple[Unit, ...]] = {(s.id, kind): () for s in self.sources for kind in (0, 1)}
        for unit in self.units:
            for kind in self._kinds:
                found[unit.source if kind else unit.point_source, kind] += (unit,)
        return found

    def readers(self, source_id: str, index: int) -> tuple[Unit, ...]:
        """The units that read the chip of a ROI from a source."""
        return self._readers[source_id, self.boxes[index]]

    def chip_source(self, unit: Unit, index: int) -> str:
        """Id of the source from which a unit reads the chip of a ROI."""
        return unit.source if self.boxes[index] else unit.point_source

    def unit_sources(self, unit: Unit) -> tuple[str, ...]:
        """Ids of the sources that a unit reads: one, or that of boxes and that of points."""
        return tuple(dict.fromkeys((unit.source, unit.point_source)))

    def rois_of(self, source_id: str, start: int = 0, stop: int | None = None) -> Sequence[int]:
        """The ROIs of which a source has chips, by index, among the ROIs ``start .. stop-1``."""
        rois = range(start, len(self.roi_ids) if stop is None else stop)
        read = {kind for kind in self._kinds if self._readers[source_id, kind]}
        return rois if read == self._kinds else [i for i in rois if self.boxes[i] in read]

    def parts_of(self, source_id: str) -> Mapping[str, Part]:
        """The parts with ROIs of a source, by name: one fetch job each."""
        return self._parts_by_source[source_id]

    @cached_property
    def _parts_by_source(self) -> dict[str, dict[str, Part]]:
        return {
            s.id: {name: p for name, p in self.parts.items() if self.rois_of(s.id, p.start, p.stop)}
            for s in self.sources
        }

    def read_bands(self, source: Source, indices: Sequence[int]) -> tuple[str, ...]:
        """The bands of a source that are read of some ROIs, in its order."""
        kinds = self._kinds if len(self._kinds) == 1 else {self.boxes[i] for i in indices}
        read = {b for kind in kinds for unit in self._readers[source.id, kind] for b in unit.sensor.bands}
        return tuple(b for b in source.bands if b in read)

    # keys of receipts ---------------------------------------------------------------------------

    def fetch_key(self, source: Source, part: Part) -> str:
        """Digest of what a fetch job stores."""
        rois = self.rois_of(source.id, part.start, part.stop)
        return digest([source.id, sorted(self.read_bands(source, rois)), self._chip_names(source.id, rois)])

    def embed_key(self, unit: Unit, chunk: Chunk) -> str:
        """Digest of what an embed job computes, and of what it rejects."""
        objects = self.object_names(unit.source)[chunk.start : chunk.stop]
        return digest([unit.id, objects, self.request.config.fail_on_bad_input])

    @cached_property
    def fingerprint(self) -> str:
        """Digest of what is computed (ROIs, windows and models, in order), without run options,
        paths and names."""
        return digest([self._chip_inputs(), [u.id for u in self.units]])

    def _chip_inputs(self, start: int = 0, stop: int | None = None) -> list[Any]:
        """Everything except the sources that determines the pixels of some ROIs."""
        rois = {s: self.rois_of(s, start, stop) for s in self.names_by_source}
        return [self.roi_ids[start:stop], {s: self._chip_names(s, some) for s, some in rois.items() if some}]

    def _chip_names(self, source_id: str, rois: Sequence[int]) -> Sequence[str]:
        names = self.object_names(source_id)
        return names[rois.start : rois.stop] if isinstance(rois, range) else [names[i] for i in rois]

    @cached_property
    def _output_part(self) -> list[Any]:
        config = self.request.config
        options = {k: getattr(config, k) for k in OUTPUT_OPTIONS}
        if config.fail_on_bad_input and not config.save_embeddings:
            options["fail_on_bad_input"] = True  # without embed jobs, write jobs reject bad input
        return [self.layout, options, [[u.id, u.label] for u in self.units]]

    @cached_property
    def _manifest_fields(self) -> list[Any]:
        """Fields of the request that manifests contain although they do not change the results."""
        request = self.request
        window = None if request.temporal is None else request.temporal.to_dict()
        return [window, request.backend, request.device, request.output.grid_orientation]

    def _windowed_rois(self, start: int = 0, stop: int | None = None) -> list[Any]:
        """Which ROIs have their own window (the ROI ids contain the dates); empty if none has."""
        own = [w is not None for w in (self.request.windows or ())[start:stop]]
        return [own] if any(own) else []

    def items_key(self, chunk: Chunk) -> str:
        """Digest of what a write job writes; names and manifest fields count only if it writes the
        final files."""
        start, stop, more = chunk.start, chunk.stop, None
        if self.layout == "per_item":
            more = [self.names[start:stop], self._manifest_fields, *self._windowed_rois(start, stop)]
        return digest([self._output_part, start, self._chip_inputs(start, stop), more])

    @cached_property
    def merge_key(self) -> str:
        """Digest of what the merge job writes."""
        more = [[c.name for c in self.chunks], *self._windowed_rois()]
        return digest([self._output_part, self._manifest_fields, self._chip_inputs(), self.names, *more])

    # files --------------------------------------------------------------------------------------

    def fetch_receipts(self, chunk: Chunk, source_ids: Sequence[str] | None = None) -> list[str]:
        """Receipts of the fetch jobs that a chunk depends on."""
        ids = [s.id for s in self.sources] if source_ids is None else source_ids
        return [f"fetch/{s}/{p.name}.json" for s in ids for p in chunk.parts if p.name in self.parts_of(s)]

    def embed_receipts(self, chunk: Chunk) -> list[str]:
        """Receipts of the embed jobs of a chunk, in unit order."""
        return [f"embed/{u.id}/{chunk.name}.json" for u in self.embedded_units]

    def items_receipts(self) -> list[str]:
        """Receipts of all write jobs, in chunk order."""
        return [f"items/{c.name}.json" for c in self.chunks]

    def chunk_receipts(self, chunk: Chunk) -> list[str]:
        """Receipts of all jobs of a chunk."""
        return [*self.fetch_receipts(chunk), *self.embed_receipts(chunk), f"items/{chunk.name}.json"]

    def receipts(self) -> dict[str, str]:
        """Every receipt of the run with the key that it must contain, without
        :attr:`merge_receipt`."""
        keys = {
            f"fetch/{s.id}/{p.name}.json": self.fetch_key(s, p)
            for s in self.sources
            for p in self.parts_of(s.id).values()
        }
        keys |= {f"embed/{u.id}/{c.name}.json": self.embed_key(u, c) for u in self.embedded_units for c in self.chunks}
        return keys | {f"items/{c.name}.json": self.items_key(c) for c in self.chunks}

    @property
    def suffix(self) -> str:
        return SUFFIX[self.request.config.format]

    def item_file(self, index: int) -> str:
        """per_item: the array file of a ROI."""
        return f"{self.target}/{self.names[index]}{self.suffix}"

    def item_manifest(self, index: int) -> str:
        """per_item: the manifest of a ROI; in the run folder with ``save_manifest=False``."""
        return f"{self.target if self.request.config.save_manifest else 'manifests'}/{self.names[index]}.json"

    @property
    def manifest_beside_target(self) -> str:
        """Path of the manifest with ``save_manifest``: the sidecar (combined) or the index
        (per_item)."""
        if self.layout == "combined":
            return self.target[: -len(self.suffix)] + ".json"
        return f"{self.target}/manifest.json"

    @property
    def manifest(self) -> str:
        """The manifest of the run; in the run folder with ``save_manifest=False``."""
        return self.manifest_beside_target if self.request.config.save_manifest else "manifest.json"

    @property
    def merge_receipt(self) -> str:
        """The declared output of the merge job.

        Not the final files: Snakemake deletes declared outputs before a job, and a finished export
        must not be missing while the next one is written.
        """
        return "merge.json"


def make_plan(
    request: Request,
    roi_ids: Sequence[str],
    *,
    describe: Callable[[str], ModelInfo],
    provider: dict[str, Any],
    target: str,
    generation: Generation = Generation(),
    boxes: Sequence[bool] | None = None,
    object_names: Callable[[Plan, Source], Sequence[str] | None] = lambda plan, source: None,
    digest_of: Callable[[str], str] = lambda path: path,
    hash_files: Callable[[Sequence[str]], None] = lambda paths: None,
    chunk_size: int | None = None,
    gpus: Sequence[int] = (),
    pace: Callable[[Unit, Source], float] = lambda unit, source: 1.0,
) -> Plan:
    """Plan a request.

    Args:
        request: the validated request.
        roi_ids: :func:`rs_embed.request.rois.roi_id` of every ROI, in order.
        describe: returns the description of a model id or alias; raises ``ModelError`` for an
            unknown one.
        provider: identity of the provider, with at least ``name``.
        target: path of the target, with its suffix, relative to the run folder.
        generation: tokens with which embeddings, or also chips, are computed again
            (``resume=False``).
        digest_of: sha256 of a local weights file, from its path in the request.
        hash_files: called with all local weights files after every model request is checked, so
            that they are hashed together, and only for valid requests.
        boxes: whether each ROI is a box; None: as in ``request``.
        object_names: names in the store of the objects of a source, one per ROI (those of
            :meth:`Plan.rois_of` count), from the plan without names; None for the ROI ids.
        chunk_size: size of the chunks, if the request does not set it.
        gpus: number of GPUs (several numbers if it is not known), empty for CPUs. pace:
            approximate seconds per ROI on a core or a GPU. Both determine the chunk size if it is
            not set.

    Raises:
        ModelError, SpecError: two models with one label, or an error of :func:`check_model` or
            :func:`make_unit`.
    """
    settings = [check_model(model, request, describe(model.name)) for model in request.models]
    hash_files([each.weights_file for each in settings if each.weights_file is not None])
    kinds = bytes(isinstance(s, BBox) for s in request.spatials) if boxes is None else bytes(map(bool, boxes))
    units: list[Unit] = []
    sources: dict[str, Source] = {}  # each with the bands of all its units
    for model, each in zip(request.models, settings):
        unit, (of_boxes, of_points) = make_unit(each, request, provider, generation, digest_of)
        if unit.key in {u.key for u in units}:
            raise ModelError(
                f"models: {model.name!r} and another request both name their arrays {unit.key!r}; allowed: a different label= for each"
            )
        read = [source for kind, source in enumerate((of_points, of_boxes)) if kind in kinds]
        unit = replace(unit, source=read[-1].id, point_source=read[0].id)
        units.append(unit)
        for source in read:
            known = sources.get(source.id, source).bands
            bands = known + tuple(b for b in source.bands if b not in known)
            sources[source.id] = replace(source, bands=bands)
    paces = {u.id: pace(u, sources[u.source]) for u in units} if request.config.save_embeddings else {}
    if not (chunk_size := request.config.chunk_size or chunk_size):
        chunk_size = choose_chunk_size(len(roi_ids), gpus=gpus, paces=[*paces.values()] or [1.0])
    plan = Plan(
        request=request,
        roi_ids=tuple(roi_ids),
        names=request.names,
        boxes=kinds,
        sources=tuple(sources.values()),
        units=tuple(units),
        chunks=make_chunks(len(roi_ids), chunk_size),
        target=target,
        chunk_size=chunk_size,
        pace=paces,
    )
    names = {s.id: tuple(n) for s in plan.sources if (n := object_names(plan, s)) is not None}
    for unit in units:  # a name is also that of the embedding, in the group of the unit
        if unit.source != unit.point_source and unit.source in names:
            both = zip(kinds, names[unit.source], names.get(unit.point_source, plan.roi_ids))
            names[unit.source] = tuple(of_box if is_box else of_point for is_box, of_box, of_point in both)
    return replace(plan, names_by_source=names)


def make_chunks(n: int, chunk_size: int) -> tuple[Chunk, ...]:
    """Cut ``n`` ROIs into chunks of ``chunk_size``, and chunks into even parts of at most 64 ROIs,
    or a quarter of a chunk."""
    chunks: list[Chunk] = []
    for start in range(0, n, chunk_size):
        stop = min(start + chunk_size, n)
        count = math.ceil((stop - start) / max(PART_SIZE, math.ceil((stop - start) / 4)))
        cuts = [start + (stop - start) * i // count for i in range(count + 1)]
        name = f"{len(chunks):05d}"
        parts = tuple(Part(f"{name}-{i:02d}", a, b) for i, (a, b) in enumerate(itertools.pairwise(cuts)))
        chunks.append(Chunk(name, start, stop, parts))
    return tuple(chunks)
