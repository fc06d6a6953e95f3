"""Load the run that was frozen in a folder: what every job of it works on."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import StoreError
from ..models import get_model_info
from ..planning.plan import make_plan
from ..providers import get_provider
from ..request import rois as table
from ..request.request import Request
from ..store.store import Store
from ..weights.checkpoints import Digests
from .run import Run
from .run_files import CONFIG, IMAGERY, ROIS, WEIGHTS, read_generation, read_sealed


def load_run(folder: str | Path) -> Run:
    """The run frozen in a folder. Its request has no geometries; :meth:`Run.roi` reads them from
    the table.

    Raises:
        StoreError: the folder contains no run, or what is frozen in it is damaged.
    """
    folder = Path(folder).resolve()
    request, rows = _read_request(folder)
    imagery = read_sealed(folder, IMAGERY, job=True)
    settings = {"gee": request.gee, "stac": request.stac}
    provider = get_provider(request.backend, str(folder), imagery.get("provider"), job=True, settings=settings)
    digests = Digests(read_sealed(folder, WEIGHTS, job=True).get("digests"), str(folder), job=True)
    work, store = (_frozen_path(folder, d) for d in (request.config.work_dir, request.config.store_dir))
    generation = read_generation(work, folder)
    plan = make_plan(
        request,
        [row["id"] for row in rows],
        describe=get_model_info,
        provider=provider.identity(),
        target=request.target.path,
        generation=generation,
        object_names=lambda source: imagery.get("keys", {}).get(source.id),
        digest_of=digests.sha256,
    )
    return Run(plan, folder, work, Store(store), provider, generation, digests, rows)


def _read_request(folder: Path) -> tuple[Request, tuple[Mapping, ...]]:
    """The frozen request, and the rows of its table."""
    import yaml

    try:
        config = yaml.safe_load((folder / CONFIG).read_text())
        with open(folder / ROIS, newline="", encoding="utf-8") as file:
            rows = tuple(csv.DictReader(file))
    except FileNotFoundError as error:
        raise StoreError(f"{folder} is not the folder of a run: {error.filename} is missing") from None
    # one ROI stands for all: the frozen table was validated when it was written, and a job needs
    # few of its rows
    first = table.RoiTable([table.parse_spatial(rows[0], "rois")])
    windows = table.parse_windows(rows)
    names = tuple(row["name"] for row in rows)
    return replace(Request.from_config(config, first), names=names, windows=windows), rows


def _frozen_path(folder: Path, relative: str | None) -> Path:
    if relative is None:
        raise StoreError(f"{folder / CONFIG} is damaged; start the run again")
    return Path(os.path.normpath(folder / relative))
