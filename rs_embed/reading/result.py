"""``ExportResult``: what ``load_export`` returns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .model_result import Failure, ModelResult
from .tables import Rois, build_dataset, build_items_table

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import xarray

__all__ = ["ExportResult", "Failure", "ModelResult", "parse_window"]


@dataclass(repr=False)
class ExportResult:
    """An opened export.

    Attributes:
        layout: ``combined`` or ``per_item``.
        status: of the whole export: ``ok``, ``partial`` or ``failed``; ``running`` for an
            unfinished export of rs-embed, ``unknown`` without a manifest.
        n_items: number of ROIs.
        temporal: the window of the run, or None.
        models: :class:`ModelResult` by label.
        notes: sentences about irregularities: an interrupted run, files that are left out.
        path: the array file, or the folder.
    """

    layout: str
    status: str
    n_items: int
    temporal: dict[str, Any] | None
    models: dict[str, ModelResult]
    path: Path
    notes: list[str] = field(default_factory=list)
    _manifest: dict[str, Any] = field(default_factory=dict)
    _manifest_path: Path | None = None
    _roi_values: Callable[[str], Iterable[Any]] = lambda key: ()

    def __repr__(self) -> str:
        models = ", ".join(f"{m.name} ({m.status})" for m in self.models.values())
        return f"<ExportResult {self.path}: {self.layout}, {self.status}, {self.n_items} ROIs; {models}>"

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The whole manifest (combined) or the index (per_item).

        A per_item export of ``rs-embed`` has no index; this is then the manifest of its first ROI.
        """
        if self._manifest_path is None:
            return {}
        manifest: dict[str, Any] = json.loads(self._manifest_path.read_text(encoding="utf-8"))
        return manifest

    @cached_property
    def names(self) -> list[str]:
        """Names of the ROIs, in order."""
        return list(self._roi_values("names")) or [f"p{i:05d}" for i in range(self.n_items)]

    @cached_property
    def spatials(self) -> list[dict[str, Any]]:
        """Geometries of the ROIs as mappings, empty where unknown."""
        return list(self._roi_values("spatials")) or [{} for _ in range(self.n_items)]

    @cached_property
    def windows(self) -> list[dict[str, Any] | None]:
        """The window of every ROI: its own, or that of the run."""
        windows = list(self._roi_values("windows")) or [None] * self.n_items
        return [parse_window(w) or self.temporal for w in windows]

    @property
    def created_at(self) -> str | None:
        """Time at which the manifest was written, RFC 3339."""
        text = self._manifest.get("created_at")
        return text.replace("+00:00Z", "Z") if isinstance(text, str) else None

    def embedding(self, model: str) -> np.ndarray | list[Any]:
        """Embeddings of a model by its label.

        Raises:
            ModelError: the export does not contain the model, or the model has no embeddings.
        """
        if model not in self.models:
            raise ModelError(f"model: {model!r} is not in this export; allowed: {', '.join(map(repr, self.models))}")
        embeddings = self.models[model].embeddings
        if embeddings is None:
            raise ModelError(
                f"model: {model!r} has no embeddings in this export ({self.models[model].error or 'none were saved'})"
            )
        return embeddings

    @property
    def ok_models(self) -> list[str]:
        """Labels of the models with status ``ok``."""
        return [m.name for m in self.models.values() if m.status == "ok"]

    @property
    def failed_models(self) -> list[str]:
        """Labels of the models that failed."""
        return [m.name for m in self.models.values() if m.status == "failed"]

    def items(self, *, per_model: bool = False) -> pandas.DataFrame:
        """A table with a line per ROI, or per ROI and model.

        Columns: ``row``, ``name``, ``lon``, ``lat`` (centre), ``west``, ``south``, ``east``,
        ``north`` (degrees), ``start``, ``end`` (window, end excluded), ``status``, ``error``,
        ``stage``, ``retryable``, ``valid`` (0..1), ``constant_bands``, ``warnings`` (sentences),
        ``warning_kinds`` (docs/outputs.md#warnings; empty in exports of earlier versions),
        ``duplicate_of`` (first row of another ROI with the same vector) and ``repeats`` (first row
        that requests the same ROI); with ``per_model`` also ``model``, ``crs``, ``height``,
        ``width`` and ``fetched``. With several models, the line of a ROI is ``partial`` if some
        failed, and has the first error and the lowest ``valid``.
        """
        models, repeated = list(self.models.values()), self._manifest.get("repeated_rois")
        return build_items_table(self._rois, models, repeated, per_model=per_model)

    def to_xarray(self, models: Sequence[str] | None = None, *, inputs: bool = False) -> xarray.Dataset:
        """The arrays as a ``Dataset`` over the dimension ``roi``, with names and coordinates of
        the ROIs.

        Variables are ``embedding_<m>`` (roi, dim_<m>[, y_<m>, x_<m>]) and, with ``inputs``,
        ``input_<m>`` (roi, [frame_<m>,] band_<m>, py_<m>, px_<m>), float32, ``<m>`` as in the
        names of the arrays. Grids and pixels of different sizes are padded with NaN at the bottom
        and right; ``<variable>_size`` (roi, 2) has their heights and widths.

        Args:
            models: labels; None for all.

        Raises:
            ModelError: the export does not contain the model.
        """
        for label in models or ():
            if label not in self.models:
                known = ", ".join(map(repr, self.models))
                raise ModelError(f"models: {label!r} is not in this export; allowed: {known}")
        attributes = {"layout": self.layout, "status": self.status, "created_at": self.created_at or ""}
        selected = [self.models[label] for label in models or self.models]
        return build_dataset(self._rois, selected, attributes, inputs=inputs)

    @property
    def _rois(self) -> Rois:
        return Rois(self.names, self.spatials, self.windows, self._manifest.get("projection", "web_mercator"))


def parse_window(value: Any) -> dict[str, Any] | None:
    """A window of a manifest.

    rs-embed writes the text of a Python function as the year of a range; the year is then None.
    """
    if not isinstance(value, Mapping):
        return None
    window = dict(value)
    if window.get("mode") == "range" or not isinstance(window.get("year"), int):
        window["year"] = None
    return window
