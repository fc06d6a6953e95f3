"""What ``load_export`` returns."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .columns import Column
from .manifest_records import Records

if TYPE_CHECKING:
    import numpy as np
    import pandas
    import xarray

KINDS = ("embeddings", "inputs")
#: Columns that begin with this are tensors of the network, called after it.
MODEL_INPUT = "model_inputs:"


@dataclass(frozen=True)
class Failure:
    """Why a ROI has no result: ``error``, the ``stage`` it happened in, and whether it may pass; None where that is unknown."""

    error: str | None = None
    stage: str | None = None
    retryable: bool | None = None


@dataclass(repr=False)
class ModelResult:
    """What one model made.

    Attributes:
        name: its label.
        status: ``ok``, ``partial`` or ``failed`` (``unknown`` without a manifest).
        error: the first failure, or None.
        n_items: number of ROIs.
        meta: one record per ROI, None where it failed; read when they are asked for.
        entry: what the manifest says of the model, without what it says of every ROI.
    """

    name: str
    status: str
    error: str | None
    n_items: int
    meta: Records
    entry: dict
    _columns: Mapping[str, Column | None]
    _failures: Callable[[], dict[int, Failure]]
    _statuses: Callable[[], Iterable[str]]

    def __repr__(self) -> str:
        return f"<ModelResult {self.name!r}: {self.status}, {self.n_items} ROIs>"

    @cached_property
    def embeddings(self) -> np.ndarray | list | None:
        """(N, D) or (N, D, h, w) float32 with NaN rows where there is none; a list of arrays (None where there is
        none) for grids of different sizes; None without embeddings. Read once and kept; see :meth:`rows` for a few."""
        return self._all("embeddings", "float32")

    @cached_property
    def inputs(self) -> np.ndarray | list | None:
        """(N, C, H, W) or (N, T, C, H, W) float32 pixels in ROI order, with the rules of :attr:`embeddings`."""
        return self._all("inputs", "float32")

    def raw_inputs(self, dtype: Any = None) -> np.ndarray | list | None:
        """Pixels in a dtype of your choice; None keeps the stored one (a list where ROIs without pixels have no NaN in it)."""
        return self._all("inputs", dtype)

    @cached_property
    def model_inputs(self) -> dict[str, np.ndarray | list]:
        """What entered the network, where it was saved (``save_inputs="model"``): tensors by name, (N, ...) float32, the image as
        ``pixels``; with an axis of tiles behind N where ROIs were cut into several. Missing rows as in :attr:`embeddings`."""
        names = [k.removeprefix(MODEL_INPUT) for k in self._columns if k.startswith(MODEL_INPUT)]
        return {name: self._all(MODEL_INPUT + name, None) for name in names}

    def rows(self, which: int | slice | Sequence[int], kind: str = "embeddings", dtype: Any = "float32") -> Any:
        """The arrays of some ROIs; the others are not read.

        Args:
            which: a row, a slice, or rows in any order; negative ones count from the end.
            kind: ``"embeddings"`` or ``"inputs"``.
            dtype: of the result; None keeps the stored one.

        Returns:
            (k, ...) in the order asked for, NaN where a ROI has none (a list where shapes differ, or where the dtype has no
            NaN); for a single row its array, or None. None where the model has none at all.

        Raises:
            IndexError: no such row. ModelError: another kind.
        """
        if kind not in KINDS:
            raise ModelError(f"kind: {kind!r} is not valid; allowed: {' or '.join(map(repr, KINDS))}")
        column, all_rows = self._columns.get(kind), range(self.n_items)
        if isinstance(which, slice):
            wanted = list(all_rows[which])
        elif hasattr(which, "__index__") and not getattr(which, "ndim", 0):
            wanted = [all_rows[operator.index(which)]]  # type: ignore[arg-type]
            array = column.read(wanted)[0] if column else None
            return array if array is None or dtype is None else array.astype(dtype, copy=False)
        else:
            wanted = [all_rows[operator.index(i)] for i in which]  # type: ignore[union-attr]
        return stack(column.read(wanted), dtype) if column else None

    def _all(self, kind: str, dtype: Any) -> np.ndarray | list | None:
        column = self._columns.get(kind)
        return None if column is None else stack(column.all(), dtype)

    @cached_property
    def failures(self) -> dict[int, Failure]:
        """Why ROIs failed, by row."""
        return self._failures()

    def statuses(self) -> list[str]:
        """``ok``, ``no_data`` or ``failed`` for each ROI."""
        out = list(self._statuses())
        for row in self.failures:
            out[row] = "failed"
        return out


def stack(rows: Any, dtype: Any) -> Any:
    """Rows of one shape as one array; a missing row is NaN. Rows of different shapes stay a list."""
    import numpy as np

    if isinstance(rows, np.ndarray):
        return rows if dtype is None else rows.astype(dtype, copy=False)
    there = [r for r in rows if r is not None]
    if not there:
        return None
    kind = np.dtype(dtype or np.result_type(*{r.dtype for r in there}))
    missing = len(there) < len(rows)
    if len({r.shape for r in there}) > 1 or (missing and kind.kind != "f"):
        return [r if r is None or dtype is None else r.astype(kind, copy=False) for r in rows]
    out = np.full((len(rows), *there[0].shape), np.nan if missing else 0, dtype=kind)
    for i, row in enumerate(rows):
        if row is not None:
            out[i] = row
    return out


@dataclass(repr=False)
class ExportResult:
    """An export that was opened.

    Attributes:
        layout: ``combined`` or ``per_item``.
        status: of the whole export: ``ok``, ``partial``, ``failed``; ``running`` for one that rs-embed did not finish, ``unknown``
            without a manifest.
        n_items: number of ROIs.
        temporal: the window of the run, or None.
        models: label to :class:`ModelResult`.
        notes: sentences about what is odd: an interrupted run, files that are left out.
        path: the array file, or the folder.
    """

    layout: str
    status: str
    n_items: int
    temporal: dict | None
    models: dict[str, ModelResult]
    path: Path
    notes: list[str] = field(default_factory=list)
    _manifest: dict = field(default_factory=dict)
    _manifest_path: Path | None = None
    _places: Callable[[str], Iterable] = lambda what: ()

    def __repr__(self) -> str:
        models = ", ".join(f"{m.name} ({m.status})" for m in self.models.values())
        return f"<ExportResult {self.path}: {self.layout}, {self.status}, {self.n_items} ROIs; {models}>"

    @cached_property
    def manifest(self) -> dict:
        """The whole manifest (combined) or the index (per_item; what ``rs-embed`` wrote has none, then that of its first ROI)."""
        if self._manifest_path is None:
            return {}
        return json.loads(self._manifest_path.read_text(encoding="utf-8"))

    @cached_property
    def names(self) -> list[str]:
        """Names of the ROIs, in order."""
        return list(self._places("names")) or [f"p{i:05d}" for i in range(self.n_items)]

    @cached_property
    def spatials(self) -> list[dict]:
        """Geometries of the ROIs as mappings, empty where it is unknown."""
        return list(self._places("spatials")) or [{} for _ in range(self.n_items)]

    @cached_property
    def windows(self) -> list[dict | None]:
        """The window of every ROI: its own, or the run's."""
        own = list(self._places("windows")) or [None] * self.n_items
        return [window(w) or self.temporal for w in own]

    @property
    def created_at(self) -> str | None:
        """When the manifest was written, RFC 3339."""
        said = self._manifest.get("created_at")
        return said.replace("+00:00Z", "Z") if isinstance(said, str) else None

    def embedding(self, model: str) -> np.ndarray | list:
        """Embeddings of a model by its label.

        Raises:
            ModelError: no such model, or it has none.
        """
        if model not in self.models:
            raise ModelError(f"model: {model!r} is not in this export; allowed: {', '.join(map(repr, self.models))}")
        found = self.models[model].embeddings
        if found is None:
            raise ModelError(
                f"model: {model!r} has no embeddings in this export ({self.models[model].error or 'none were saved'})"
            )
        return found

    @property
    def ok_models(self) -> list[str]:
        """Labels of the models that are ok."""
        return [m.name for m in self.models.values() if m.status == "ok"]

    @property
    def failed_models(self) -> list[str]:
        """Labels of the models that failed."""
        return [m.name for m in self.models.values() if m.status == "failed"]

    def items(self, *, per_model: bool = False) -> pandas.DataFrame:
        """A table of the ROIs: one line per ROI, or per ROI and model.

        Columns: ``row``, ``name``, ``lon``, ``lat`` (centre), ``west``, ``south``, ``east``, ``north`` (degrees), ``start``, ``end``
        (window, end excluded), ``status``, ``error``, ``stage``, ``retryable``, ``valid`` (0..1), ``constant_bands``, ``warnings``,
        ``duplicate_of`` (first row of another ROI with the same vector) and ``repeats`` (first row that asks for the same ROI); with
        ``per_model`` also ``model``, ``crs``, ``height``, ``width`` and ``fetched``. Of several models, a line per ROI is
        ``partial`` where some failed, and has the first error and the lowest ``valid``.
        """
        from .tables import items

        return items(self, per_model)

    def to_xarray(self, models: Sequence[str] | None = None, *, inputs: bool = False) -> xarray.Dataset:
        """The arrays as a ``Dataset`` over the dimension ``roi``, with names and places as coordinates.

        Variables are ``embedding_<m>`` (roi, dim_<m>[, y_<m>, x_<m>]) and with ``inputs`` also ``input_<m>`` (roi, [frame_<m>,] band_<m>,
        py_<m>, px_<m>), float32, ``<m>`` as in the names of the arrays. Grids and pixels of different sizes are filled up with NaN
        below and to the right; ``<variable>_size`` (roi, 2) has their own heights and widths.

        Args:
            models: labels; None for all.

        Raises:
            ModelError: no such model.
        """
        from .tables import dataset

        return dataset(self, models, inputs)


def window(said: Any) -> dict | None:
    """A window as manifests have it. rs-embed writes the text of a Python function as the year of a range."""
    if not isinstance(said, Mapping):
        return None
    out = dict(said)
    if out.get("mode") == "range" or not isinstance(out.get("year"), int):
        out["year"] = None
    return out
