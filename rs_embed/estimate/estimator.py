"""Estimates what the remaining jobs of a run cost. Nothing is run or written, and no service is
asked more than planning asks."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple
from typing import TypeVar

from ..engine.image_cost import GPU_READERS, READ_S, ImageCost, compute_image_cost, max_frames
from ..errors import ModelError
from ..machine.devices import count_visible_gpus, gpu_model_name, gpus_wanted
from ..models import get_model_info
from ..planning.chunk_sizes import wall_seconds
from ..planning.units import Source, Unit
from ..providers.base import FetchCost
from ..runs.run import Run
from ..stages.shared.state import Jobs, examine_receipts, find_invalid_receipts, list_remaining_jobs
from . import disk, measured, speeds
from .costs import ModelCost, RunCost, SourceCost
from .missing import MissingObjects, Shape, count_missing
from .summary import format_estimate

RULES = ("fetch", "embed", "write", "merge", "repair")
_Number = TypeVar("_Number", int, float)


class Estimate(RunCost):
    """What the remaining jobs of a run cost. ``str`` is a text for readers, :meth:`to_dict` JSON
    values; the attributes are those of :class:`~rs_embed.estimate.costs.RunCost`."""

    def to_dict(self) -> dict:
        """All of it as JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return format_estimate(self)


def estimate(run: Run, todo: Jobs | None = None, *, gpus: int | None = None, gpu: str | None = None) -> Estimate:
    """Estimate what the remaining jobs of an opened run cost.

    Args:
        todo: the remaining jobs; None: they are looked up.
        gpus: GPUs that will work at a time; None: those of this machine. gpu: their model, a name
            of ``speeds.CARDS``; None: this machine's. Either means GPUs where the request leaves
            the device open.

    Raises:
        ModelError: ``gpus`` or ``gpu`` is not valid, or given for a request with another device.
    """
    device, card, parallel = _choose_device(run, gpus, gpu)
    if todo is None:
        found = examine_receipts(run)
        todo = list_remaining_jobs(run, found, find_invalid_receipts(run, found))
    plan = run.plan
    chips, embeddings = count_missing(run, todo)
    sources = tuple(_source_cost(run, s, chips[s.id], todo) for s in plan.sources)
    models = tuple(_model_cost(run, u, embeddings[u.id], todo, device, card) for u in plan.embedded_units)
    hours = _hours([m.seconds for m in models])
    on_gpu = [_model_cost(run, u, embeddings[u.id], todo, "cuda", card).seconds for u in plan.embedded_units]
    wall_hours = None
    if hours is not None:
        wall_hours = _gpu_wall_hours(models, parallel) if device == "cuda" else hours / parallel
    chunks = len(plan.chunks)
    all_fetch_jobs = sum(len(plan.parts_of(source.id)) for source in plan.sources)
    all_jobs = all_fetch_jobs, len(plan.embedded_units) * chunks, chunks, 1, 0
    return Estimate(
        rois=len(plan.roi_ids),
        chunks=chunks,
        layout=plan.layout,
        format=plan.request.config.format,
        jobs={rule: len(getattr(todo, rule)) for rule in RULES},
        jobs_in_all=dict(zip(RULES, all_jobs)),
        sources=sources,
        models=models,
        bytes=disk.count_bytes(run, todo, sources, models),
        files=disk.count_files(run),
        device=device,
        card=card,
        parallel=parallel,
        device_hours=hours,
        wall_hours=wall_hours,
        gpu_hours=_hours(on_gpu),
        fetch_hours=_fetch_hours(run, sources),
        must_say_cuda=device == "cuda" and not gpus_wanted(run.request.device),
    )


def _sum_known(values: Sequence[_Number | None]) -> _Number | None:
    """The sum; None where a value is unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _hours(seconds: Sequence[float | None]) -> float | None:
    total = _sum_known(seconds)
    return None if total is None else total / 3600


def _gpu_wall_hours(models: Sequence[ModelCost], gpus: int) -> float:
    """Hours until the last job has ended, if each free GPU starts the longest remaining job. (On
    CPUs all cores are busy until the end, because the last jobs share them.)"""
    return wall_seconds((m.seconds / m.jobs for m in models if m.seconds for _ in range(m.jobs)), gpus) / 3600


def _fetch_hours(run: Run, sources: Sequence[SourceCost]) -> float | None:
    """Hours that all requests need at least, at the allowed rate; None without requests or a
    rate."""
    requests = _sum_known([s.requests for s in sources])
    if requests is None or run.request.gee is None:
        return None
    requests += sum(s.lookups for s in sources)
    return requests / run.request.gee.requests_per_second / 3600 if requests else None


def _choose_device(run: Run, gpus: int | None, gpu: str | None) -> tuple[str, str, int]:
    """(device, card, GPUs or cores at a time).

    Raises:
        ModelError: ``gpus`` or ``gpu`` is not valid, or given for a request with another device.
    """
    request = run.request
    if gpus is not None and (isinstance(gpus, bool) or not isinstance(gpus, int) or gpus < 1):
        raise ModelError(f"gpus: {gpus!r} is not valid; allowed: an integer >= 1")
    present = gpu_model_name()
    present_card = (present and (speeds.find_card(present) or present)) or speeds.REFERENCE_CARD
    card = present_card if gpu is None else speeds.parse_card(gpu)
    given = gpus is not None or gpu is not None
    if given and request.device in ("cpu", "mps"):
        raise ModelError(f"gpus: given for device {request.device!r}; allowed: device 'cuda' or 'auto'")
    if given or gpus_wanted(request.device):
        return "cuda", card, gpus or max(1, count_visible_gpus())
    is_apple = sys.platform == "darwin" and os.uname().machine == "arm64"
    if request.device == "mps" or (request.device == "auto" and is_apple):
        return "mps", card, 1
    return "cpu", card, request.config.cores or os.cpu_count() or 1


def _source_cost(run: Run, source: Source, missing: MissingObjects, todo: Jobs) -> SourceCost:
    def fetch_cost(shape: Shape) -> FetchCost:
        height, width, bands = shape
        return run.provider.fetch_cost(source, source.bands[:bands], height, width)

    costs = [(count, fetch_cost(shape)) for shape, count in missing.shapes.items()]
    frames, stored = max_frames(source), 0
    for shape, count in [*missing.shapes.items(), *missing.to_restore.items()]:
        stored += count * (math.prod(shape) * frames * fetch_cost(shape).itemsize + disk.OBJECT_OVERHEAD)
    job_count = sum(path.startswith(f"fetch/{source.id}/") for path in todo.fetch)
    return SourceCost(
        id=source.id,
        collection=str(source.identity["collection"]),
        bands=tuple(source.bands),
        scale_m=source.scale_m,
        frames=frames,
        jobs=job_count,
        chips=missing.count,
        there=missing.stored,
        restored=sum(missing.to_restore.values()),
        requests=_sum_known([None if c.requests is None else count * c.requests for count, c in costs]),
        lookups=job_count * run.provider.lookups if missing.count else 0,
        sent=_sum_known([None if c.sent is None else count * c.sent for count, c in costs]),
        bytes=stored,
    )


def _model_cost(run: Run, unit: Unit, missing: MissingObjects, todo: Jobs, device: str, card: str) -> ModelCost:
    job_count = sum(path.startswith(f"embed/{unit.id}/") for path in todo.embed)
    cost = _sum_image_costs(run, unit, missing.shapes)
    speed = measured.read_measured_speed(run, unit, device, card)
    if speed is not None:
        seconds: float | None = job_count * speed.start_s + missing.count * speed.image_s
        how = f"measured in this folder, {speed.images} images"
    else:
        seconds, how = _estimate_seconds(run, unit, cost, job_count, device, card)
    return ModelCost(
        label=unit.label,
        model=unit.model,
        jobs=job_count,
        images=missing.count,
        there=missing.stored,
        passes=missing.count if cost is None else cost.passes,
        flops=None if cost is None else cost.flops,
        bytes=4 * (cost.embedding_values if cost else 0) + missing.count * disk.OBJECT_OVERHEAD,
        seconds=seconds if missing.count else 0.0,
        measured=speed is not None,
        how=how,
    )


def _sum_image_costs(run: Run, unit: Unit, shapes: Mapping[Shape, int]) -> ImageCost | None:
    """The cost of all images of a unit, from their number by shape; None where the cost of the
    model is unknown."""
    frames, output = max_frames(run.plan.source[unit.source]), run.request.output.mode
    if get_model_info(unit.model).cost is None:
        return None
    total = ImageCost(0, 0, 0, 0)
    for (height, width), count in shapes.items():
        one = compute_image_cost(unit, output, (height, width), frames)
        if one is None:
            return None
        total = ImageCost(*(value + count * more for value, more in zip(astuple(total), astuple(one))))
    return total


def _estimate_seconds(
    run: Run, unit: Unit, cost: ImageCost | None, jobs: int, device: str, card: str
) -> tuple[float | None, str]:
    """(seconds of one GPU or core for all images and the start of the jobs, source of the number),
    without measurements."""
    if cost is None:
        return None, "not known: the model does not say what it computes"
    if device == "mps":
        return None, "not known for this device; a first run measures it"
    precision = run.request.config.precision
    speed = speeds.card_speed(card, precision) if device == "cuda" else speeds.core_speed(precision)
    computing = cost.flops / (1e9 * speed.gflops * get_model_info(unit.model).pace)
    reading = READ_S * cost.passes / (GPU_READERS if device == "cuda" else 1)
    starting = jobs * speeds.START_S[device]
    return starting + (max(computing, reading) if device == "cuda" else computing + reading), speed.how
