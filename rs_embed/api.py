"""``export_batch``: the request as a Python call. It validates, freezes the request, runs the workflow, reads the manifest."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ModelError
from .request.config import ExportConfig, ExportModelRequest, ExportTarget
from .request.fields import nearest
from .request.gee_settings import GeeSettings
from .request.request import Request
from .request.rois import RoiTable, read_rois
from .request.specs import FetchSpec, InputPrepSpec, OutputSpec, SensorSpec, SpatialSpec, TemporalSpec

if TYPE_CHECKING:
    from .estimate import Estimate
    from .runs.run import Run


def export_batch(
    *,
    spatials: Sequence[SpatialSpec] | None = None,
    rois: Any = None,
    temporal: TemporalSpec | None,
    models: Sequence[str | ExportModelRequest],
    target: ExportTarget,
    config: ExportConfig | None = None,
    backend: str = "auto",
    device: str = "auto",
    output: OutputSpec = OutputSpec.pooled(),
    sensor: SensorSpec | None = None,
    fetch: FetchSpec | None = None,
    modality: str | None = None,
    input_prep: str | InputPrepSpec | None = None,
    gee: GeeSettings | Mapping[str, Any] | None = None,
    stac: Mapping | None = None,
    **options: Any,
) -> Any:
    """Embed every ROI with every model and export the result.

    Args:
        spatials: ROIs, one or many ``PointBuffer`` or ``BBox`` (WGS 84 degrees, metres).
        rois: instead of ``spatials``, a table: the path of a .csv, .geojson, .json or .gpkg file, a pandas DataFrame with the
            columns of a .csv table, a geopandas GeoDataFrame, or a list of rows; see docs/configuration.md. Names come from its
            column ``name``.
        temporal: the window, half-open, of all ROIs without one of their own (``start`` and ``end`` of ``rois``); None only
            where every ROI has its own, or for models that need none.
        models: ids, or :class:`ExportModelRequest` where one model differs.
        target: ``ExportTarget.combined(path)`` or ``ExportTarget.per_item(dir, names=...)``; relative to the working directory.
        config: run options; instead, single options may be given as keywords (``chunk_size=64``).
        backend: where pixels come from: ``"gee"`` or ``"gee:<project>"`` (Earth Engine; what ``"auto"`` means), ``"local:<folder>"``, ``"sample"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        output: pooled vectors (D,) or grids (D, h, w), float32.
        sensor, fetch: replace, or change, the imagery request of all models; not both.
        modality: input modality of all models.
        input_prep: shorthand for the option of that name.
        gee: settings of Earth Engine, for example ``{"project": "my-project"}``; see docs/gee.md.
        stac: what collections are called in a STAC API that is not known (``{"collections": {...}}``, docs/stac.md).

    Returns:
        The manifest (a dict) of a combined export, or the list of the ROIs' manifests, in ROI order, of a per_item one.

    Raises:
        SpecError, ModelError, ProviderError: the request is invalid; nothing was run or written.
        RunLockedError: another process works on this target.
        ExportError: a job failed; what was finished is kept, and the same call goes on from there.
    """
    from .launch.child import Child
    from .launch.launcher import execute
    from .runs.run import open_run
    from .stages.prepare import check, find_weights
    from .store.locks import Waited

    request = _request(
        spatials=spatials,
        rois=rois,
        temporal=temporal,
        models=models,
        target=target,
        config=config,
        backend=backend,
        device=device,
        output=output,
        sensor=sensor,
        fetch=fetch,
        modality=modality,
        input_prep=input_prep,
        gee=gee,
        stac=stac,
        options=options,
    )
    while True:
        with Child() as child:
            run = open_run(request, os.getcwd())
            check(run)
            # else the start of the workflow looks for them, and the model's rows say what is missing
            if not run.request.config.continue_on_error:
                find_weights(run)
            try:
                execute(run, child)
            except Waited as waited:
                if waited.fresh:  # what it made anew is what a call without resume asks for
                    request = replace(request, config=replace(request.config, resume=True, refetch=False))
                continue
        return _manifests(run)


def plan_batch(*, gpus: int | None = None, gpu: str | None = None, **arguments: Any) -> Estimate:
    """What :func:`export_batch` would do with the same arguments, and what that takes. Runs, downloads and writes nothing; the
    provider is asked what a start asks it.

    Args:
        arguments: those of :func:`export_batch`.
        gpus: GPUs that will work at a time; None: those of this machine.
        gpu: which GPUs, for example ``"A100"``; None: this machine's. With either, hours are those of GPUs where ``device`` is
            ``"auto"``.

    Returns:
        An :class:`~rs_embed.estimate.Estimate`: ``print`` it; ``.jobs``, ``.bytes``, ``.gpu_hours``, ``.to_dict()``.

    Raises:
        SpecError, ModelError, ProviderError: the request is invalid.
    """
    from .estimate import estimate
    from .runs.run import open_run
    from .stages.prepare import check

    bound = inspect.signature(export_batch).bind(**arguments)
    bound.apply_defaults()
    run = open_run(_request(**bound.arguments, here=False), os.getcwd(), gpu=True if gpus or gpu else None)
    check(run)
    return estimate(run, gpus=gpus, gpu=gpu)


def _request(
    *,
    spatials: Any,
    rois: Any,
    target: Any,
    config: Any,
    input_prep: Any,
    options: dict,
    here: bool = True,
    **others: Any,
) -> Request:
    """The arguments of :func:`export_batch`, all of them, as a request; ``here``: to be run on this machine."""
    from .launch.launcher import workflow_folder
    from .runs.profiles import find_profile

    if input_prep is not None:
        if config is not None:
            raise ModelError(
                f"input_prep: {input_prep!r} is given beside config; allowed: ExportConfig(input_prep=...)"
            )
        options["input_prep"] = input_prep
    if (spatials is None) == (rois is None):
        which = "neither is" if rois is None else "both are"
        raise ModelError(f"spatials, rois: {which} given; allowed: either spatials=[...] or rois=<table>")
    table = RoiTable(spatials) if rois is None else read_rois(rois, os.getcwd())
    request = Request.build(
        spatials=table.spatials,
        names=table.names,
        windows=table.windows,
        target=target,
        config=_fold(config, options),
        **others,
    )
    find_profile(request.config.profile, os.getcwd(), workflow_folder(), here=here)
    return request


def _fold(config: ExportConfig | None, options: dict) -> ExportConfig | None:
    """Single options into an ``ExportConfig``; beside a config they are refused, unknown ones are a TypeError."""
    for key in options:
        if key not in ExportConfig.keywords():
            raise TypeError(
                f"export_batch() got an unexpected keyword argument {key!r}{nearest(key, ExportConfig.keywords())}"
            )
    if config is not None and not isinstance(config, ExportConfig):
        raise ModelError(f"config: {config!r} is not valid; allowed: an ExportConfig or None")
    if options and config is not None:
        raise ModelError(f"config: given together with the option {next(iter(options))!r}; allowed: one or the other")
    return ExportConfig(**options) if options else config


#: Manifests parsed at a time: the parser keeps one copy of a key for all of them, and thousands of ROIs need half the memory.
_TOGETHER = 256


def _manifests(run: Run) -> Any:
    plan = run.plan
    if plan.layout == "combined":
        return _read([run.dir / plan.manifest])[0]
    paths = [run.dir / plan.item_manifest(i) for i in range(len(plan.roi_ids))]
    return [m for start in range(0, len(paths), _TOGETHER) for m in _read(paths[start : start + _TOGETHER])]


def _read(paths: Sequence[Path]) -> list[dict]:
    """Manifests with the paths in them made absolute."""
    manifests = json.loads(f"[{','.join(p.read_text(encoding='utf-8') for p in paths)}]")
    for path, manifest in zip(paths, manifests):
        for key in ("npz_path", "nc_path", "manifest_path"):
            if key in manifest:
                manifest[key] = os.path.join(path.parent, manifest[key])
    return manifests
