"""A fast model that takes boxes as their enclosing squares, and a provider that counts."""

from __future__ import annotations

import contextlib
import sys
import threading
import types
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from rs_embed import BBox, ExportModelRequest, ExportTarget, PointBuffer, SensorSpec, models
from rs_embed.models import mosaiks
from rs_embed.providers.sample import SampleProvider
from rs_embed.request.config import ExportConfig
from rs_embed.request.request import Request
from rs_embed.runs.open_run import open_run
from rs_embed.runs.run import Run
from rs_embed.runs.run_files import freeze_run, load_run
from rs_embed.stages.embed import embed
from rs_embed.stages.fetch import fetch
from rs_embed.stages.merge import merge
from rs_embed.stages.write import write

from .exports import WINDOW, places

RGB = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B4", "B3", "B2"))
#: Takes boxes as they are; all four bands.
OWN = ExportModelRequest("mosaiks", model_config={"features": 16})
#: Takes boxes as squares; three bands.
SQUARE = ExportModelRequest("squared", sensor=RGB, model_config={"features": 16})


def register_square_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Add the model ``squared`` in this process: MOSAIKS with ``ModelInfo.square``."""

    class Squared(type(mosaiks.ADAPTER)):
        info = replace(mosaiks.ADAPTER.info, id="squared", aliases=(), square=True)

    module = types.ModuleType("rs_embed.models.squared")
    module.ADAPTER = Squared()
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(models.MODELS, "squared", "squared")
    for function in (models.get_adapter, models.get_model_info):
        getattr(function, "cache_clear", lambda: None)()


def points(n: int) -> list[PointBuffer]:
    return places(9, 160)[:n]


def boxes(n: int) -> list[BBox]:
    """Rectangles inside the sample scene, wider than high."""
    centres = [p.centre for p in places(9, 160)[9 - n :]]
    return [BBox(lon - 0.002, lat - 0.0008, lon + 0.002, lat + 0.0008) for lon, lat in centres]


class Counting(SampleProvider):
    """The sample scene; ``calls`` counts fetched chips by ROI name and whether the chip is of a
    square source. ``failing`` are such keys that fail."""

    def __init__(self, failing=()) -> None:
        super().__init__()
        self.calls: Counter = Counter()
        self.bands: dict = {}
        self.failing = set(failing)
        self._lock = threading.Lock()

    def fetch(self, source, bands, roi, grid):
        key = roi.name, source.identity["square"]
        with self._lock:
            self.calls[key] += 1
            self.bands[key] = tuple(bands)
        if key in self.failing:
            raise ValueError("broken on purpose")
        return super().fetch(source, bands, roi, grid)


def run_steps(
    folder: Path, spatials, requests=(OWN, SQUARE), *, target="run", layout="combined", failing=(), **options
):
    """What a run does, in this process; returns it with its counting provider."""
    chosen = ExportTarget.combined(target) if layout == "combined" else ExportTarget.per_item(target)
    request = Request.build(
        spatials=list(spatials),
        temporal=WINDOW,
        models=list(requests),
        target=chosen,
        backend="sample",
        config=ExportConfig(**{"chunk_size": 2, "retry_backoff_s": 0.01} | options),
    )
    folder.mkdir(exist_ok=True)
    opened = open_run(request, str(folder))
    freeze_run(opened)
    with contextlib.chdir(opened.dir):
        run: Run = replace(load_run("."), provider=Counting(failing))
        for source in run.plan.sources:
            [fetch(run, source.id, part) for part in run.plan.parts_of(source.id)]
        for unit in run.plan.embedded_units:
            [embed(run, unit.id, chunk) for chunk in run.plan.chunk]
        [write(run, chunk) for chunk in run.plan.chunk]
        merge(run)
    return run
