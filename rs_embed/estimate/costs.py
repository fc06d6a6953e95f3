"""The costs of the remaining jobs of a run: of each source, of each model, and in all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SourceCost:
    """What the remaining jobs of one source cost.

    Attributes:
        id, collection, bands, scale_m, frames: of the source.
        jobs: fetch jobs. chips: chips to fetch. there: chips of these jobs that the store has.
        restored: chips to read back from an export that has them.
        requests: requests for pixels, at most; None where that depends on the files. lookups:
            other requests.
        sent: bytes that a service sends at most, uncompressed; None where that depends on the
            files.
        bytes: bytes of the chips in the store, at most.
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
    """What the remaining jobs of one model cost.

    Attributes:
        label, model: of the request.
        jobs: embed jobs. images: ROIs to embed. there: ROIs of these jobs whose embedding the
            store has.
        passes: forward passes of images or their tiles. flops: operations of all passes; None
            where the cost of the model is unknown.
        bytes: bytes of the embeddings in the store.
        seconds: time of one GPU or one core, including the start of the jobs; None where it is
            unknown.
        measured: ``seconds`` is computed from earlier jobs of this model in this work folder. how:
            the source of ``seconds``, as text.
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
class RunCost:
    """What the remaining jobs of a run cost.

    Attributes:
        rois, chunks, layout, format: of the run.
        jobs: remaining jobs by rule. jobs_in_all: jobs by rule of the same run from the start.
        sources, models: the cost of each source and model.
        bytes: bytes that are added, by kind: ``pixels`` and ``embeddings`` in the store, ``final``
            and ``manifests`` in the export, ``records`` in the run folder; and ``peak``, the free
            space that the disk must have.
        files: files after the run, by folder: ``export``, ``store``, ``run``, ``snakemake``.
        device: ``cuda``, ``mps`` or ``cpu``. card: model of the GPUs. parallel: GPUs or cores that
            work at a time.
        device_hours: of one GPU (``cuda``) or one core. wall_hours: of embedding on ``parallel``
            devices; a GPU runs one job at a time, and a job uses one GPU. gpu_hours: of one
            ``card``. None where the cost of a model is unknown.
        fetch_hours: at least, with the allowed requests per second; None without requests.
        must_say_cuda: the estimate is for GPUs that a start on this machine would not request.
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
