"""Plan a request into a run: its folders, provider, weights and plan, with everything checked that
can be before jobs run."""

from __future__ import annotations

import csv
import os
import secrets
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..engine.image_cost import estimate_seconds
from ..engine.size_checks import check_sizes
from ..errors import ModelError
from ..machine.devices import count_visible_gpus, gpus_wanted
from ..models import get_model_info
from ..planning.model_info import RANDOM
from ..planning.plan import Plan, make_plan
from ..planning.units import Generation, Source, Unit
from ..providers import Provider, Roi, get_provider
from ..request import rois as table
from ..request.config import ExportModelRequest
from ..request.gee_backend import resolve_gee_settings
from ..request.geometry import Grid, refuse_too_large
from ..request.identity import digest
from ..request.request import Request, check_keys
from ..store.store import Store
from ..weights.checkpoints import Digests
from .folders import locate_folders, target_path
from .run import Run, roi_grid
from .run_files import CONFIG, IMAGERY, ROIS, WEIGHTS, read_generation, read_sealed, shared_lookups_file

#: GPUs that chunks are cut for where the machine that starts a run has no GPU: those of a cluster.
ASSUMED_GPUS = (2, 4, 8, 16)
#: ROIs whose sizes represent all when the duration of jobs is estimated.
_SAMPLED_ROIS = 16


def open_config(config: Any, base: str, *, gpu: bool | None = None) -> Run:
    """Plan the request of a config mapping (a parsed config file); relative paths are relative to
    ``base``."""
    check_keys(config)
    return open_run(Request.from_config(config, table.read_rois(config["rois"], base)), base, gpu=gpu)


def open_run(request: Request, base: str, *, gpu: bool | None = None) -> Run:
    """Plan a request; relative paths are relative to ``base``. Writes nothing.

    Args:
        gpu: models will run on GPUs; None: as the request and this machine have it.

    Raises:
        SpecError, ModelError, ProviderError: the request is refused, with one sentence.
    """
    _refuse_random_weights(request)
    target = target_path(request, base)
    work, store, folder = locate_folders(request, target, base)
    request = resolve_gee_settings(request, base)
    provider = _find_provider(request, base, store, folder)
    models = tuple(_with_relative_weights(model, base, str(folder)) for model in request.models)
    request = replace(request, backend=provider.backend(str(folder)), models=models)
    digests = Digests(read_sealed(folder, WEIGHTS).get("digests"), str(folder))
    generation = _choose_generation(request, work, folder)
    imagery = _ImageryLookup(provider, _list_rois(request), strict=not request.config.continue_on_error)
    on_gpu = (gpus_wanted(request.device) > 0 if gpu is None else gpu) and request.config.save_embeddings
    plan = make_plan(
        request,
        [roi.id for roi in imagery.rois],
        describe=get_model_info,
        provider=provider.identity(),
        target=os.path.relpath(target, folder),
        generation=generation,
        object_names=imagery.look_up,
        digest_of=digests.sha256,
        hash_files=digests.compute_all,
        chunk_size=_last_chunk_size(folder, len(imagery.rois)),
        gpus=_gpus_to_plan_for() if on_gpu else (),
        pace=_estimate_pace(request, imagery.rois, gpu=on_gpu),
    )
    for unit in plan.embedded_units:
        for source in plan.unit_sources(unit):
            read = [(i, grid) for i, grid in imagery.grids[source] if plan.chip_source(unit, i) == source]
            names, grids = [plan.names[i] for i, _ in read], [grid for _, grid in read]
            check_sizes(unit, names, grids, strict=imagery.strict)
    largest = {source.id: imagery.largest_chip(plan, source) for source in plan.sources}
    return Run(replace(plan, largest_chips=largest), folder, work, Store(store), provider, generation, digests)


def _find_provider(request: Request, base: str, store: Path, folder: Path) -> Provider:
    """The provider, with what an earlier start of this run, or another run on this store, found
    out."""
    settings = {"gee": request.gee, "stac": request.stac}
    known = read_sealed(folder, IMAGERY).get("provider")
    provider = get_provider(request.backend, base, known, settings=settings)
    if known is None and provider.shared:
        known = read_sealed(*shared_lookups_file(store, provider)).get("provider")
        provider = get_provider(request.backend, base, known, settings=settings)
    return provider


def _refuse_random_weights(request: Request) -> None:
    """Refuse random weights with ``fail_on_bad_input``: every embedding would be an error. Only at
    a start, so that the frozen requests of earlier versions can be read."""
    if not (request.config.fail_on_bad_input and request.config.save_embeddings):
        return
    for model in request.models:
        if (model.model_config or {}).get("weights") == RANDOM:
            raise ModelError(
                f"models.{model.name}.model_config.weights: {RANDOM!r} is not valid with fail_on_bad_input, because such a model is "
                "not trained; allowed: null (the published file) or the path of a weights file, or fail_on_bad_input=False"
            )


def _with_relative_weights(model: ExportModelRequest, base: str, folder: str) -> ExportModelRequest:
    """A model request whose weights file is given relative to the run's folder."""
    options = model.model_config or {}
    given = options.get("weights")
    if not isinstance(given, str) or given == RANDOM:
        return model
    path = os.path.join(base, os.path.expanduser(given))
    return replace(model, model_config={**options, "weights": os.path.relpath(path, folder)})


def _choose_generation(request: Request, work: Path, folder: Path) -> Generation:
    """The tokens of the last ``resume=False``; new ones where this request has it."""
    last = read_generation(work, folder)
    if request.config.resume:
        return last
    token = secrets.token_hex(8)
    return Generation(token, token if request.config.refetch else last.chips)


def _list_rois(request: Request) -> list[Roi]:
    windows = map(request.window, range(len(request.spatials)))
    rows = enumerate(zip(request.names, request.spatials, windows))
    return [Roi(i, table.roi_id(spatial, window), name, spatial, window) for i, (name, spatial, window) in rows]


@dataclass
class _ImageryLookup:
    """What the provider has for the ROIs of a request.

    Attributes:
        rois: of the request, in order. grids: by source id, the index and the pixel grid of each
            of its ROIs.
        strict: a ROI without imagery is an error, and not a ``no_data`` row.
    """

    provider: Provider
    rois: Sequence[Roi]
    strict: bool
    grids: dict[str, list[tuple[int, Grid]]] = field(default_factory=dict)

    def look_up(self, plan: Plan, source: Source) -> list[str] | None:
        """The names under which a source's objects are stored, one per ROI; None where they are
        the ROIs' ids. A ROI of which the source has no chip has its id.

        Raises:
            SpecError, ProviderError: a chip is too large, or known to be missing; names the ROI.
        """
        rois = [self.rois[i] for i in plan.rois_of(source.id)]
        grids = [roi_grid(source, roi) for roi in rois]
        self.grids[source.id] = [(roi.index, grid) for roi, grid in zip(rois, grids)]
        for roi, grid in zip(rois, grids):
            refuse_too_large(grid, _planes(plan, source, roi.index), f"ROI {roi.name!r}")
        found = self.provider.resolve(source, rois, grids, strict=self.strict)
        if found is None:
            return None
        names = [roi.id for roi in self.rois]
        for roi, more in zip(rois, found):
            names[roi.index] = digest([roi.id, more])
        return names

    def largest_chip(self, plan: Plan, source: Source) -> int:
        """Values in the largest chip of a source."""
        return max(_planes(plan, source, i) * grid.height * grid.width for i, grid in self.grids[source.id])


def _planes(plan: Plan, source: Source, index: int) -> int:
    """Values per pixel of the chip of a ROI: bands of all frames."""
    return len(plan.read_bands(source, [index])) * source.frames.count


def _estimate_pace(request: Request, rois: Sequence[Roi], *, gpu: bool) -> Callable[[Unit, Source], float]:
    """A function that estimates the seconds that a core, or a GPU, takes for a ROI."""
    sample = rois[:: max(1, len(rois) // _SAMPLED_ROIS)]

    def estimate(unit: Unit, source: Source) -> float:
        shapes = ((grid.height, grid.width) for grid in (roi_grid(source, roi) for roi in sample))
        return statistics.fmean(estimate_seconds(unit, source, request.output.mode, s, gpu=gpu) for s in shapes)

    return estimate


def _gpus_to_plan_for() -> tuple[int, ...]:
    return (count,) if (count := count_visible_gpus()) else ASSUMED_GPUS


def _last_chunk_size(folder: Path, n: int) -> int | None:
    """The chunk size of the run's last start, if it had as many ROIs: with another one, chosen on
    a machine with other devices, every job would run again."""
    import yaml

    try:
        known = yaml.safe_load((folder / CONFIG).read_text())["export"]["chunk_size"]
        with open(folder / ROIS, newline="", encoding="utf-8") as file:
            rows = sum(1 for _ in csv.reader(file)) - 1
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError, csv.Error):
        return None
    return known if rows == n and isinstance(known, int) and known > 0 else None
