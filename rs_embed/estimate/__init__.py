"""What a run will cost, before anything runs: jobs, requests, bytes, files and hours of what is left to do.

Every number is a count, an upper bound or an estimate; docs/scaling.md has the formulas. Nothing is run or written, and nobody
is asked anything beyond what planning asks.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..engine.image_cost import GPU_READERS, READ_S, frames_of, image
from ..errors import ModelError
from ..machine.devices import card as found_card
from ..machine.devices import gpus_wanted, visible_gpus
from ..models import describe
from ..planning.chunk_sizes import wall
from ..planning.units import Source, Unit
from ..runs.run import Run
from ..stages.shared.state import Jobs, examined, jobs, withdrawn
from . import disk, measured, speeds
from .missing import Lacking, missing

RULES = ("fetch", "embed", "write", "merge", "repair")


@dataclass(frozen=True)
class SourceCost:
    """What one imagery request has left to do.

    Attributes:
        id, collection, bands, scale_m, frames: of the source.
        jobs: fetch jobs. chips: to fetch. there: chips of these jobs that the store has.
        restored: chips to read back from an export that has them.
        requests: for pixels, at most; None where that depends on the files. lookups: other requests.
        sent: bytes that a service sends at most, uncompressed; None where that depends on the files.
        bytes: of the chips in the store, at most.
    """

    id: str
    collection: str
    bands: tuple[str, ...]
    scale_m: float
    frames: int
    jobs: int
    chips: int
    there: int
    restored: int
    requests: int | None
    lookups: int
    sent: int | None
    bytes: int


@dataclass(frozen=True)
class ModelCost:
    """What one model has left to do.

    Attributes:
        label, model: of the request.
        jobs: embed jobs. images: ROIs to embed. there: ROIs of these jobs whose embedding the store has.
        passes: pictures through the network: images, or their tiles. flops: of all of them; None where the model does not say.
        bytes: of the embeddings in the store.
        seconds: of one GPU or one core, with what starting the jobs takes; None without ``flops``.
        measured, how: whether seconds come from earlier jobs of this model in this work folder, and in words.
    """

    label: str
    model: str
    jobs: int
    images: int
    there: int
    passes: int
    flops: int | None
    bytes: int
    seconds: float | None
    measured: bool
    how: str


@dataclass(frozen=True)
class Estimate:
    """What a run has left to do, and what that takes. ``str`` is a text for people, :meth:`to_dict` plain values.

    Attributes:
        rois, chunks, layout, format: of the run.
        jobs: left to do, by rule. jobs_in_all: of the same run from nothing.
        sources, models: their shares.
        bytes: what is added, by kind: ``pixels`` and ``embeddings`` in the store, ``final`` and ``manifests`` (the export),
            ``records`` (the run's folder); and ``peak``, the most that the disk has to have free.
        files: there will be when the run is done, by place: ``export``, ``store``, ``run``, ``snakemake``.
        device: ``cuda``, ``mps`` or ``cpu``. card: whose GPU hours are said. parallel: GPUs or cores that work at a time.
        device_hours: of one GPU (``cuda``) or one core. wall_hours: of embedding, with ``parallel`` of them at work; a GPU has one
            job at a time, and a job one GPU. must_say_cuda: GPUs are planned for that a start here would not ask for.
        gpu_hours: of one ``card``. fetch_hours: that the allowed requests a second take at least; None without requests.
        None where a model does not say what it computes.
    """

    rois: int
    chunks: int
    layout: str
    format: str
    jobs: dict[str, int]
    jobs_in_all: dict[str, int]
    sources: tuple[SourceCost, ...]
    models: tuple[ModelCost, ...]
    bytes: dict[str, int]
    files: dict[str, int]
    device: str
    card: str
    parallel: int
    device_hours: float | None
    wall_hours: float | None
    gpu_hours: float | None
    fetch_hours: float | None
    must_say_cuda: bool = False

    def to_dict(self) -> dict:
        """All of it as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        from .summary import whole

        return whole(self)


def estimate(run: Run, todo: Jobs | None = None, *, gpus: int | None = None, gpu: str | None = None) -> Estimate:
    """What is left to do of an opened run.

    Args:
        todo: the jobs that are left; None looks.
        gpus: GPUs that will work at a time; None: those of this machine. gpu: which, a name of ``speeds.CARDS``; None: this
            machine's. Either means GPUs where the request leaves the device open.

    Raises:
        ModelError: ``gpus`` or ``gpu`` is not valid, or given for a request whose device is none.
    """
    device, card, parallel = _device(run, gpus, gpu)
    if todo is None:
        found = examined(run)
        todo = jobs(run, found, withdrawn(run, found))
    plan = run.plan
    chips, made = missing(run, todo)
    sources = tuple(_source(run, s, chips[s.id], todo) for s in plan.sources)
    models = tuple(_model(run, u, made[u.id], todo, device, card) for u in plan.embedded)
    hours = _hours([m.seconds for m in models])
    other = [_model(run, u, made[u.id], todo, "cuda", card).seconds for u in plan.embedded]
    requests = [s.requests for s in sources]
    asked = None if None in requests else sum(requests) + sum(s.lookups for s in sources)
    added = disk.added(run, todo, sources, models)
    return Estimate(
        rois=len(plan.roi_ids),
        chunks=len(plan.chunks),
        layout=plan.layout,
        format=plan.request.config.format,
        jobs={rule: len(getattr(todo, rule)) for rule in RULES},
        jobs_in_all={
            "fetch": len(plan.sources) * len(plan.parts),
            "embed": len(plan.embedded) * len(plan.chunks),
            "write": len(plan.chunks),
            "merge": 1,
            "repair": 0,
        },
        sources=sources,
        models=models,
        bytes=added,
        files=disk.files(run),
        device=device,
        card=card,
        parallel=parallel,
        device_hours=hours,
        wall_hours=None if hours is None else _wall(models, parallel) if device == "cuda" else hours / parallel,
        gpu_hours=_hours(other),
        fetch_hours=asked / run.request.gee.requests_per_second / 3600 if asked and run.request.gee else None,
        must_say_cuda=device == "cuda" and not gpus_wanted(run.request.device),
    )


def _hours(seconds: Sequence[float | None]) -> float | None:
    return None if None in seconds else sum(seconds) / 3600


def _wall(models: Sequence[ModelCost], gpus: int) -> float:
    """Hours until the last job has ended, if a GPU that is free takes the longest one left. (On CPUs all cores are at work until
    the end: the last jobs divide them.)"""
    return wall((m.seconds / m.jobs for m in models if m.seconds for _ in range(m.jobs)), gpus) / 3600


def _device(run: Run, gpus: int | None, gpu: str | None) -> tuple[str, str, int]:
    """(device, card, GPUs or cores at a time)."""
    request = run.request
    if gpus is not None and (isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 1):
        raise ModelError(f"gpus: {gpus!r} is not valid; allowed: an integer >= 1")
    here = found_card()
    card = speeds.named(gpu) if gpu is not None else (here and (speeds.known(here) or here)) or speeds.REFERENCE
    wanted = gpus is not None or gpu is not None
    if wanted and request.device in ("cpu", "mps"):
        raise ModelError(f"gpus: given for device {request.device!r}; allowed: device 'cuda' or 'auto'")
    if wanted or gpus_wanted(request.device):
        return "cuda", card, gpus or max(1, visible_gpus())
    apple = sys.platform == "darwin" and os.uname().machine == "arm64"
    if request.device == "mps" or (request.device == "auto" and apple):
        return "mps", card, 1
    return "cpu", card, request.config.cores or os.cpu_count() or 1


def _source(run: Run, source: Source, lacking: Lacking, todo: Jobs) -> SourceCost:
    requests, sent, stored = [], [], 0
    frames = frames_of(source)
    for (height, width, bands), count in lacking.shapes.items():
        asked = run.provider.asked(source, source.bands[:bands], height, width)
        requests.append(None if asked.requests is None else count * asked.requests)
        sent.append(None if asked.sent is None else count * asked.sent)
        stored += count * (height * width * bands * frames * asked.itemsize + disk.OBJECT)
    for (height, width, bands), count in lacking.back.items():
        size = run.provider.asked(source, source.bands[:bands], height, width).itemsize
        stored += count * (height * width * bands * frames * size + disk.OBJECT)
    job_count = sum(path.startswith(f"fetch/{source.id}/") for path in todo.fetch)
    return SourceCost(
        id=source.id,
        collection=str(source.identity["collection"]),
        bands=tuple(source.bands),
        scale_m=source.scale_m,
        frames=frames,
        jobs=job_count,
        chips=lacking.count,
        there=lacking.there,
        restored=sum(lacking.back.values()),
        requests=None if None in requests else sum(requests),
        lookups=job_count * run.provider.lookups if lacking.count else 0,
        sent=None if None in sent else sum(sent),
        bytes=stored,
    )


def _model(run: Run, unit: Unit, lacking: Lacking, todo: Jobs, device: str, card: str) -> ModelCost:
    frames, output = frames_of(run.plan.source[unit.source]), run.request.output.mode
    images = {shape: image(unit, output, shape, frames) for shape in lacking.shapes}
    job_count = sum(path.startswith(f"embed/{unit.id}/") for path in todo.embed)
    known = None not in images.values() and describe(unit.model).cost is not None
    total = lambda key: sum(n * getattr(images[s], key) for s, n in lacking.shapes.items()) if known else 0  # noqa: E731
    precision = run.request.config.precision
    before = measured.speed(run, unit, device, card)
    passes, flops = total("passes"), total("flops")
    starting = job_count * (before.start if before else speeds.START_S[device]) if lacking.count else 0.0
    seconds, how = None, "not known: the model does not say what it computes"
    if before is not None:
        seconds, how = starting + lacking.count * before.each, f"measured in this folder, {before.images} images"
    elif known and device != "mps":
        speed = speeds.of_card(card, precision) if device == "cuda" else speeds.of_core(precision)
        computing = flops / (1e9 * speed.gflops * describe(unit.model).pace)
        reading = READ_S * passes / (GPU_READERS if device == "cuda" else 1)
        seconds, how = starting + (max(computing, reading) if device == "cuda" else computing + reading), speed.how
    elif known:
        how = "not known for this device; a first run measures it"
    return ModelCost(
        label=unit.label,
        model=unit.model,
        jobs=job_count,
        images=lacking.count,
        there=lacking.there,
        passes=passes if known else lacking.count,
        flops=flops if known else None,
        bytes=4 * total("embedding") + lacking.count * disk.OBJECT,
        seconds=seconds if lacking.count else 0.0,
        measured=before is not None,
        how=how,
    )
