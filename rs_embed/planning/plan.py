"""The plan: a pure function from a request to sources, units, parts, chunks, their keys and every file of a run.

Standard library only and fast (every cluster job makes it again): nothing here opens a file, imports a model or a
provider. Python and the Snakefile use this one plan. ROIs are known by id; their geometry is looked up by the stages.

- A *source* (``units.py``) is one imagery request without its bands; ``bands`` is the union over the models of this run.
- A *unit* (``units.py``) is one model request with its own bands and settings; its identity never depends on other models.
- A *chunk* is a run of consecutive ROIs (one embed job per unit, one write job); a *part* is a piece of a chunk
  (one fetch job per source). Their sizes appear in no identity.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ..errors import ModelError
from ..request.config import OUTPUT_OPTIONS, SUFFIX
from ..request.identity import digest
from ..request.request import Request
from .chunk_sizes import automatic_chunk_size
from .model_info import ModelInfo
from .units import Generation, Source, Unit, resolve_unit

#: ROIs of a part, at most; in chunks of more than four such parts a quarter of the chunk.
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
    """Everything a run will do. All paths are relative to the run's folder."""

    request: Request
    roi_ids: tuple[str, ...]
    names: tuple[str, ...]
    sources: tuple[Source, ...]
    units: tuple[Unit, ...]
    chunks: tuple[Chunk, ...]
    target: str  # the file (combined) or the folder (per_item)
    chunk_size: int
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by source id; see ``objects``
    # by unit id: seconds that a core, or a GPU, takes for a ROI, roughly; by source id: numbers of the largest chip
    pace: Mapping[str, float] = field(default_factory=dict)
    largest: Mapping[str, int] = field(default_factory=dict)

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
    def embedded(self) -> tuple[Unit, ...]:
        """The units that are run: none with ``save_embeddings=False``."""
        return self.units if self.request.config.save_embeddings else ()

    def objects(self, source_id: str) -> tuple[str, ...]:
        """What the chips of a source, and the embeddings made of them, are filed under: one name per ROI. The ROI's id,
        or, where its provider says what else decides the pixels (the files of a catalogue), a digest of both."""
        return self.keys.get(source_id, self.roi_ids)

    # keys: what a receipt covers -------------------------------------------------------------------------------

    def fetch_key(self, source: Source, part: Part) -> str:
        """Digest of what a fetch job makes."""
        return digest([source.id, sorted(source.bands), self.objects(source.id)[part.start : part.stop]])

    def embed_key(self, unit: Unit, chunk: Chunk) -> str:
        """Digest of what an embed job makes, and refuses."""
        objects = self.objects(unit.source)[chunk.start : chunk.stop]
        return digest([unit.id, objects, self.request.config.fail_on_bad_input])

    @cached_property
    def fingerprint(self) -> str:
        """Digest of what is computed: places, window and models, in order; not how, where to or under which names."""
        return digest([self._places(), [u.id for u in self.units]])

    def _places(self, start: int = 0, stop: int | None = None) -> list:
        """Everything that decides the pixels of some ROIs beside the sources."""
        return [self.roi_ids[start:stop], {s: k[start:stop] for s, k in self.keys.items()}]

    @cached_property
    def _output_part(self) -> list:
        options = {k: getattr(self.request.config, k) for k in OUTPUT_OPTIONS}
        return [self.layout, options, [[u.id, u.label] for u in self.units]]

    @cached_property
    def _said(self) -> list:
        """What manifests repeat of the request although it changes no number."""
        request = self.request
        window = None if request.temporal is None else request.temporal.to_dict()
        return [window, request.backend, request.device, request.output.grid_orientation]

    def _windows(self, start: int = 0, stop: int | None = None) -> list:
        """Which ROIs have a window of their own; its dates are in their ids already."""
        own = [w is not None for w in (self.request.windows or ())[start:stop]]
        return [own] if any(own) else []

    def items_key(self, chunk: Chunk) -> str:
        """Digest of what a write job makes; names and wording matter only where it writes the files."""
        more = None
        if self.layout == "per_item":
            more = [self.names[chunk.start : chunk.stop], self._said, *self._windows(chunk.start, chunk.stop)]
        return digest([self._output_part, chunk.start, self._places(chunk.start, chunk.stop), more])

    @cached_property
    def merge_key(self) -> str:
        """Digest of what the merge job makes."""
        more = [[c.name for c in self.chunks], *self._windows()]
        return digest([self._output_part, self._said, self._places(), self.names, *more])

    # files -----------------------------------------------------------------------------------------------------

    def fetch_receipts(self, chunk: Chunk, source_ids: Sequence[str] | None = None) -> list[str]:
        """Receipts of the fetch jobs that a chunk depends on."""
        ids = [s.id for s in self.sources] if source_ids is None else source_ids
        return [f"fetch/{s}/{p.name}.json" for s in ids for p in chunk.parts]

    def embed_receipts(self, chunk: Chunk) -> list[str]:
        """Receipts of the embed jobs of a chunk, in unit order."""
        return [f"embed/{u.id}/{chunk.name}.json" for u in self.embedded]

    def items_receipts(self) -> list[str]:
        """Receipts of all write jobs, in chunk order."""
        return [f"items/{c.name}.json" for c in self.chunks]

    def receipts_of(self, chunk: Chunk) -> list[str]:
        """Receipts of everything that is done for a chunk."""
        return [*self.fetch_receipts(chunk), *self.embed_receipts(chunk), f"items/{chunk.name}.json"]

    def receipts(self) -> dict[str, str]:
        """Every receipt of the run and the key it must carry, without :attr:`merge_receipt`."""
        keys = {f"fetch/{s.id}/{p.name}.json": self.fetch_key(s, p) for s in self.sources for p in self.parts.values()}
        keys |= {f"embed/{u.id}/{c.name}.json": self.embed_key(u, c) for u in self.embedded for c in self.chunks}
        return keys | {f"items/{c.name}.json": self.items_key(c) for c in self.chunks}

    @property
    def suffix(self) -> str:
        return SUFFIX[self.request.config.format]

    def item_file(self, index: int) -> str:
        """per_item: the array file of a ROI."""
        return f"{self.target}/{self.names[index]}{self.suffix}"

    def item_manifest(self, index: int) -> str:
        """per_item: the manifest of a ROI; kept in the run's folder where the user wants none."""
        return f"{self.target if self.request.config.save_manifest else 'manifests'}/{self.names[index]}.json"

    @property
    def manifest_beside_target(self) -> str:
        """Where the manifest of the run goes if the user wants one: combined the sidecar, per_item the index."""
        if self.layout == "combined":
            return self.target[: -len(self.suffix)] + ".json"
        return f"{self.target}/manifest.json"

    @property
    def manifest(self) -> str:
        """The manifest of the run; kept in the run's folder where the user wants none."""
        return self.manifest_beside_target if self.request.config.save_manifest else "manifest.json"

    @property
    def merge_receipt(self) -> str:
        """What the merge job declares. Not the final files: Snakemake deletes declared outputs before a job, and a
        finished export must not vanish while the next one is made."""
        return "merge.json"


def make_plan(
    request: Request,
    roi_ids: Sequence[str],
    *,
    describe: Callable[[str], ModelInfo],
    provider: dict,
    target: str,
    generation: Generation = Generation(),
    keys: Callable[[Source], Sequence[str] | None] = lambda source: None,
    digest_of: Callable[[str], str] = lambda path: path,
    chunk_size: int | None = None,
    gpus: Sequence[int] = (),
    pace: Callable[[Unit, Source], float] = lambda unit, source: 1.0,
) -> Plan:
    """Plan a request.

    Args:
        request: the validated request.
        roi_ids: :func:`rs_embed.request.rois.roi_id` of every ROI, in order.
        describe: from a model id or alias to its description; raises ``ModelError`` for an unknown one.
        provider: identity of the provider, with at least ``name``.
        target: path of the target, with its suffix, relative to the run's folder.
        generation: tokens that make embeddings, or chips too, anew (``resume=False``).
        digest_of: sha256 of a local weights file, from its path in the request.
        chunk_size: of chunks, where the request leaves it open.
        gpus: how many models run on, or may (several numbers); none: on CPUs. pace: seconds that a core, or a GPU, takes for a ROI, roughly.
            Both decide the size otherwise.
        keys: the names under which a source's objects are filed, one per ROI; None for the ROIs' ids.

    Raises:
        ModelError, SpecError: two models with one label, or what :func:`resolve_unit` refuses.
    """
    units: list[Unit] = []
    sources: dict[str, Source] = {}
    for model in request.models:
        unit, source = resolve_unit(model, request, describe(model.name), provider, generation, digest_of)
        taken = {u.key: u for u in units}
        if unit.key in taken:
            raise ModelError(
                f"models: {model.name!r} and another request both name their arrays {unit.key!r}; allowed: a different label= for each"
            )
        units.append(unit)
        known = sources.get(source.id)
        bands = source.bands if known is None else known.bands + tuple(b for b in source.bands if b not in known.bands)
        sources[source.id] = Source(source.id, source.identity, bands, source.frames)
    paces = {u.id: pace(u, sources[u.source]) for u in units} if request.config.save_embeddings else {}
    if not (chunk_size := request.config.chunk_size or chunk_size):
        chunk_size = automatic_chunk_size(len(roi_ids), gpus=gpus, paces=[*paces.values()] or [1.0])
    chunks = make_chunks(len(roi_ids), chunk_size)
    found = {s.id: tuple(k) for s in sources.values() if (k := keys(s)) is not None}
    return Plan(
        request,
        tuple(roi_ids),
        request.names,
        tuple(sources.values()),
        tuple(units),
        chunks,
        target,
        chunk_size,
        found,
        paces,
    )


def make_chunks(n: int, chunk_size: int) -> tuple[Chunk, ...]:
    """Cut ``n`` ROIs into chunks of ``chunk_size``, and chunks into even parts of at most 64, or a quarter of a chunk."""
    chunks = []
    for start in range(0, n, chunk_size):
        stop = min(start + chunk_size, n)
        count = math.ceil((stop - start) / max(PART_SIZE, math.ceil((stop - start) / 4)))
        cuts = [start + (stop - start) * i // count for i in range(count + 1)]
        name = f"{len(chunks):05d}"
        parts = tuple(Part(f"{name}-{i:02d}", a, b) for i, (a, b) in enumerate(itertools.pairwise(cuts)))
        chunks.append(Chunk(name, start, stop, parts))
    return tuple(chunks)
