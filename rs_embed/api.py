"""``export_batch`` and ``plan_batch``: validate a request, run its workflow or estimate its cost,
and return the manifest."""

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
from .request.fields import suggest_nearest
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
    stac: Mapping[str, Any] | None = None,
    **options: Any,
) -> Any:
    """Embed every ROI with every model and export the result.

    Args:
        spatials: ROIs, one or many ``PointBuffer`` or ``BBox`` (WGS 84 degrees, metres).
        rois: instead of ``spatials``, a table: the path of a .csv, .geojson, .json or .gpkg file,
            a pandas DataFrame with the columns of a .csv table, a geopandas GeoDataFrame, or a
            list of rows; see docs/configuration.md. The column ``name`` has the names.
        temporal: the half-open window of all ROIs without a window in ``rois`` (columns ``start``
            and ``end``); None only if every ROI has a window, or for models that need none.
        models: ids, or an :class:`ExportModelRequest` for a model with other settings.
        target: ``ExportTarget.combined(path)`` or ``ExportTarget.per_item(dir, names=...)``;
            relative to the working directory.
        config: run options; single options may be given as keywords instead (``chunk_size=64``).
        backend: source of the pixels: ``"gee"`` or ``"gee:<project>"`` (Earth Engine; the meaning
            of ``"auto"``), ``"local:<folder>"``, ``"stac"``, ``"stac:<api>"`` or ``"sample"``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        output: pooled vectors (D,) or grids (D, h, w), float32.
        sensor, fetch: replace, or change, the imagery request of all models; at most one of them.
        modality: input modality of all models.
        input_prep: shorthand for the option ``input_prep``.
        gee: settings of Earth Engine, for example ``{"project": "my-project"}``; see docs/gee.md.
        stac: names of the collections in a STAC API that this package does not know
            (``{"collections": {...}}``, docs/stac.md).
        options: single options of :class:`ExportConfig`.

    Returns:
        The manifest (a dict) of a combined export; the manifests of the ROIs (a list of dicts in
        ROI order) of a per_item export.

    Raises:
        SpecError, ModelError, ProviderError: the request is invalid; nothing was run or written.
        RunLockedError: another process is working on this target.
        StoreError: a file of the work folder is damaged or cannot be used.
        ExportError: a job failed; finished work is kept, and the same call continues from there.
    """
    from .launch.child import Child
    from .launch.launcher import run_workflow
    from .runs.open_run import open_run
    from .stages.prepare import check_target, find_weights
    from .store.locks import PreviousRunEnded

    request = _build_request(
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
            check_target(run)
            # with continue_on_error the workflow looks for them, and missing weights fail the rows
            # of that model only
            if not run.request.config.continue_on_error:
                find_weights(run)
            try:
                run_workflow(run, child)
            except PreviousRunEnded as waited:
                if waited.fresh:  # the run that ended had resume=False, too: reuse its results
                    request = replace(request, config=replace(request.config, resume=True, refetch=False))
                continue
        return _read_manifests(run)


def plan_batch(*, gpus: int | None = None, gpu: str | None = None, **arguments: Any) -> Estimate:
    """Estimate what :func:`export_batch` would do with the same arguments: jobs, requests, bytes
    and hours.

    Runs, downloads and writes nothing. The provider gets the same look-ups as at the start of a
    run.

    Args:
        arguments: those of :func:`export_batch`.
        gpus: number of GPUs used at the same time; None: those of this machine.
        gpu: model of the GPUs, for example ``"A100"``; None: that of this machine. With ``gpus``
            or ``gpu``, and ``device="auto"``, hours are GPU hours.

    Returns:
        An :class:`~rs_embed.Estimate`: ``print`` it, or use ``.jobs``, ``.bytes``, ``.gpu_hours``,
        ``.to_dict()``.

    Raises:
        SpecError, ModelError, ProviderError: the request is invalid.
        StoreError: a file of the work folder is damaged or cannot be used.
    """
    from .estimate import estimate
    from .runs.open_run import open_run
    from .stages.prepare import check_target

    bound = inspect.signature(export_batch).bind(**arguments)
    bound.apply_defaults()
    run = open_run(_build_request(**bound.arguments, here=False), os.getcwd(), gpu=True if gpus or gpu else None)
    check_target(run)
    return estimate(run, gpus=gpus, gpu=gpu)


def _build_request(
    *,
    spatials: Any,
    rois: Any,
    target: Any,
    config: Any,
    input_prep: Any,
    options: dict[str, Any],
    here: bool = True,
    **others: Any,
) -> Request:
    """The request of all arguments of :func:`export_batch`; ``here``: it will run on this
    machine."""
    from .launch.launcher import workflow_folder
    from .runs.profiles import find_profile

    if input_prep is not None:
        if config is not None:
            raise ModelError(
                f"input_prep: {input_prep!r} is given together with config; allowed: ExportConfig(input_prep=...)"
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
        config=_merge_options(config, options),
        **others,
    )
    find_profile(request.config.profile, os.getcwd(), workflow_folder(), here=here)
    return request


def _merge_options(config: ExportConfig | None, options: dict[str, Any]) -> ExportConfig | None:
    """An ``ExportConfig`` of single options; options together with a config are refused, unknown
    ones are a TypeError."""
    for key in options:
        if key not in ExportConfig.keywords():
            raise TypeError(
                f"export_batch() got an unexpected keyword argument {key!r}{suggest_nearest(key, ExportConfig.keywords())}"
            )
    if config is not None and not isinstance(config, ExportConfig):
        raise ModelError(f"config: {config!r} is not valid; allowed: an ExportConfig or None")
    if options and config is not None:
        raise ModelError(f"config: given together with the option {next(iter(options))!r}; allowed: one or the other")
    return ExportConfig(**options) if options else config


#: Manifests parsed at a time: the parser keeps one copy of each key for all of them, which halves
#: the memory of many ROIs.
_BATCH = 256


def _read_manifests(run: Run) -> dict[str, Any] | list[dict[str, Any]]:
    """The manifest of a combined run, or the manifests of all ROIs of a per_item run."""
    plan = run.plan
    if plan.layout == "combined":
        return _parse_manifests([run.dir / plan.manifest])[0]
    paths = [run.dir / plan.item_manifest(i) for i in range(len(plan.roi_ids))]
    return [m for start in range(0, len(paths), _BATCH) for m in _parse_manifests(paths[start : start + _BATCH])]


def _parse_manifests(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The parsed manifests, with absolute paths in them."""
    manifests: list[dict[str, Any]] = json.loads(f"[{','.join(p.read_text(encoding='utf-8') for p in paths)}]")
    for path, manifest in zip(paths, manifests):
        for key in ("npz_path", "nc_path", "manifest_path"):
            if key in manifest:
                manifest[key] = os.path.join(path.parent, manifest[key])
    return manifests
