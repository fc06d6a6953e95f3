"""Metadata of array files, for formats that can store it: of the arrays, their grids, and the
ROIs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ...formats.arrays import ArrayMetadata, FileMetadata, RoiCoordinates, Row
from ...models import get_model_info
from ...planning.units import Unit
from ...request.geometry import lonlat_bounds
from ...runs.run import Run
from ...version import package_version
from .documents import single_key, stacked_key, units_of_measure

if TYPE_CHECKING:
    import numpy as np


def describe_array(unit: Unit, kind: str, *, roi: int | None = None, all_rois: bool = False) -> ArrayMetadata:
    """Metadata of one array of a unit.

    Args:
        roi: index of its ROI, in a combined file with an array per ROI.
        all_rois: the array has a row for every ROI.
    """
    key = stacked_key(kind, unit.key) if all_rois else single_key(kind, unit.key)
    key += "" if roi is None else f"__{roi:05d}"
    if kind != "input":
        return ArrayMetadata(key, kind, unit.key, unit.label, roi)
    return ArrayMetadata(key, kind, unit.key, unit.label, roi, tuple(unit.sensor.bands), units_of_measure(unit))


def describe_row(kind: str, numbers: np.ndarray, meta: dict) -> Row:
    """A stored array with the grid from its object's metadata: of its pixels, or of the cells of
    an embedding."""
    if kind == "input":
        return Row(numbers, meta.get("crs"), meta.get("affine"), meta.get("dates", ()))
    grid = meta.get("grid") or {}
    return Row(numbers, grid.get("crs"), grid.get("affine"))


def describe_file(run: Run, indices: Sequence[int] | None = None) -> FileMetadata:
    """Metadata of the file of some ROIs (None: of all). Other ROIs of the request change nothing
    in that of one ROI."""
    import numpy as np

    plan, single = run.plan, indices is not None
    rois = [run.roi(i) for i in (range(len(plan.roi_ids)) if indices is None else indices)]
    windows = [None if roi.temporal is None else (roi.temporal.start, roi.temporal.end) for roi in rois]
    coordinates = RoiCoordinates(
        [roi.name for roi in rois],
        [roi.id for roi in rois],
        np.array([roi.spatial.centre for roi in rois], np.float64),
        lonlat_bounds([roi.spatial for roi in rois], run.request.config.projection),
        windows,
    )
    labels = ", ".join(u.label for u in plan.units)
    collections = dict.fromkeys(str(s.identity["collection"]) for s in plan.sources)
    citations = dict.fromkeys(get_model_info(u.model).citation for u in plan.units)
    attributes = {
        "title": f"Embeddings of {f'the region {rois[0].name}' if single else f'{len(rois)} regions'} by {labels}",
        "history": f"written by rs-embed-workflow {package_version()}",
        "source": f"{', '.join(collections)} from {run.provider.name}",
        "references": "; ".join(c for c in citations if c),
        "comment": "the manifest, the .json beside this file, has provenance, quality and digests",
        "output": run.request.output.mode,
        "projection": run.request.config.projection,
    }
    if not single:
        attributes["request_fingerprint"] = plan.fingerprint
    return FileMetadata(coordinates, single, attributes)
