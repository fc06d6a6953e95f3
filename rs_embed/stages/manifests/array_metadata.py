"""What a file says of its arrays and its ROIs beside the numbers, for formats that can say it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...formats.arrays import About, Array, Places, Row
from ...models import describe
from ...planning.units import Unit
from ...request.geometry import lonlat_bounds
from ...runs.run import Run
from .documents import single_key, stacked_key, units_of

if TYPE_CHECKING:
    import numpy as np


def array(unit: Unit, kind: str, *, roi: int | None = None, all_rois: bool = False) -> Array:
    """One array of a unit.

    Args:
        roi: the ROI that it is of, in a combined file where each has an array of its own.
        all_rois: it is of all ROIs.
    """
    key = stacked_key(kind, unit.key) if all_rois else single_key(kind, unit.key)
    key += "" if roi is None else f"__{roi:05d}"
    more = {"bands": tuple(unit.sensor.bands), "units": units_of(unit)} if kind == "input" else {}
    return Array(key, kind, unit.key, unit.label, roi, **more)


def row(kind: str, numbers: np.ndarray, meta: dict) -> Row:
    """A stored array with what its object says of its grid: of its pixels, or of the cells of an embedding."""
    if kind == "input":
        return Row(numbers, meta.get("crs"), meta.get("affine"), meta.get("dates", ()))
    grid = meta.get("grid") or {}
    return Row(numbers, grid.get("crs"), grid.get("affine"))


def about(run: Run, indices: Sequence[int] | None = None) -> About:
    """What a file of some ROIs (None: of all) says of itself. That of one ROI says nothing that other ROIs of the request change."""
    import numpy as np

    plan, single = run.plan, indices is not None
    rois = [run.roi(i) for i in (range(len(plan.roi_ids)) if indices is None else indices)]
    windows = [None if roi.temporal is None else (roi.temporal.start, roi.temporal.end) for roi in rois]
    places = Places(
        [roi.name for roi in rois],
        [roi.id for roi in rois],
        np.array([roi.spatial.centre for roi in rois], np.float64),
        lonlat_bounds([roi.spatial for roi in rois], run.request.config.projection),
        windows,
    )
    labels = ", ".join(u.label for u in plan.units)
    collections = dict.fromkeys(str(s.identity["collection"]) for s in plan.sources)
    citations = dict.fromkeys(describe(u.model).citation for u in plan.units)
    said = {
        "title": f"Embeddings of {f'the region {rois[0].name}' if single else f'{len(rois)} regions'} by {labels}",
        "history": f"written by rs-embed-workflow {importlib.metadata.version('rs-embed-workflow')}",
        "source": f"{', '.join(collections)} from {run.provider.name}",
        "references": "; ".join(c for c in citations if c),
        "comment": "the manifest, the .json beside this file, has provenance, quality and digests",
        "output": run.request.output.mode,
        "projection": run.request.config.projection,
    }
    if not single:
        said["request_fingerprint"] = plan.fingerprint
    return About(places, single, said)
