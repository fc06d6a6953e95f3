"""The results of one model in an export: embeddings, inputs, records and failures per ROI."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from .columns import Column
from .manifest_records import Records

if TYPE_CHECKING:
    import numpy as np

KINDS = ("embeddings", "inputs")
#: Prefix of the columns with tensors that entered the network; the name of the tensor follows.
MODEL_INPUT_PREFIX = "model_inputs:"


@dataclass(frozen=True)
class Failure:
    """Why a ROI has no result: ``error``, the ``stage`` it occurred in, and whether a retry can
    help; None where unknown."""

    error: str | None = None
    stage: str | None = None
    retryable: bool | None = None


@dataclass(repr=False)
class ModelResult:
    """The results of one model.

    Attributes:
        name: label of the model.
        status: ``ok``, ``partial`` or ``failed`` (``unknown`` without a manifest).
        error: the first failure, or None.
        n_items: number of ROIs.
        meta: one record per ROI, None where the ROI failed; each is read on access.
        entry: the model's entry in the manifest, without the values per ROI.
    """

    name: str
    status: str
    error: str | None
    n_items: int
    meta: Records
    entry: dict[str, Any]
    _columns: Mapping[str, Column | None]
    _failures: Callable[[], dict[int, Failure]]
    _statuses: Callable[[], Iterable[str]]

    def __repr__(self) -> str:
        return f"<ModelResult {self.name!r}: {self.status}, {self.n_items} ROIs>"

    @cached_property
    def embeddings(self) -> np.ndarray | list[Any] | None:
        """(N, D) or (N, D, h, w) float32, NaN rows for ROIs without an embedding.

        A list of arrays (None where missing) for grids of different sizes; None without
        embeddings. Read once and cached; :meth:`rows` reads a few ROIs.
        """
        return self._read_all("embeddings", "float32")

    @cached_property
    def inputs(self) -> np.ndarray | list[Any] | None:
        """(N, C, H, W) or (N, T, C, H, W) float32 pixels in ROI order; missing rows as in
        :attr:`embeddings`."""
        return self._read_all("inputs", "float32")

    def raw_inputs(self, dtype: Any = None) -> np.ndarray | list[Any] | None:
        """Pixels in ``dtype``; None keeps the stored dtype (a list where ROIs lack pixels and the
        dtype has no NaN)."""
        return self._read_all("inputs", dtype)

    @cached_property
    def model_inputs(self) -> dict[str, np.ndarray | list[Any] | None]:
        """The tensors that entered the network, if they were saved (``save_inputs="model"``).

        Tensors by name, (N, ...) float32, the image as ``pixels``. ROIs that were cut into several
        tiles have an axis of tiles after N. Missing rows as in :attr:`embeddings`.
        """
        names = [k.removeprefix(MODEL_INPUT_PREFIX) for k in self._columns if k.startswith(MODEL_INPUT_PREFIX)]
        return {name: self._read_all(MODEL_INPUT_PREFIX + name, None) for name in names}

    def rows(self, which: int | slice | Sequence[int], kind: str = "embeddings", dtype: Any = "float32") -> Any:
        """Read the arrays of some ROIs only.

        Args:
            which: a row, a slice, or rows in any order; negative rows count from the end.
            kind: ``"embeddings"`` or ``"inputs"``.
            dtype: dtype of the result; None keeps the stored one.

        Returns:
            (k, ...) in the order of ``which``, NaN where a ROI has no array (a list where shapes
            differ, or where the dtype has no NaN). For a single row its array, or None. None if
            the model has no arrays of this kind.

        Raises:
            IndexError: the row does not exist. ModelError: ``kind`` is not valid.
        """
        if kind not in KINDS:
            raise ModelError(f"kind: {kind!r} is not valid; allowed: {' or '.join(map(repr, KINDS))}")
        column, all_rows = self._columns.get(kind), range(self.n_items)
        if isinstance(which, slice):
            wanted = list(all_rows[which])
        elif hasattr(which, "__index__") and not getattr(which, "ndim", 0):
            wanted = [all_rows[operator.index(which)]]
            array = column.read(wanted)[0] if column else None
            return array if array is None or dtype is None else array.astype(dtype, copy=False)
        else:
            wanted = [all_rows[operator.index(i)] for i in which]  # type: ignore[union-attr]
        return stack_rows(column.read(wanted), dtype) if column else None

    def _read_all(self, kind: str, dtype: Any) -> np.ndarray | list[Any] | None:
        column = self._columns.get(kind)
        return None if column is None else stack_rows(column.read_all(), dtype)

    @cached_property
    def failures(self) -> dict[int, Failure]:
        """Failures by row."""
        return self._failures()

    def statuses(self) -> list[str]:
        """``ok``, ``no_data`` or ``failed`` for each ROI."""
        out = list(self._statuses())
        for row in self.failures:
            out[row] = "failed"
        return out


def stack_rows(rows: Any, dtype: Any) -> Any:
    """Stack rows of one shape into one array, NaN where a row is missing; rows of different shapes
    stay a list."""
    import numpy as np

    if isinstance(rows, np.ndarray):
        return rows if dtype is None else rows.astype(dtype, copy=False)
    existing = [r for r in rows if r is not None]
    if not existing:
        return None
    result_dtype = np.dtype(dtype or np.result_type(*{r.dtype for r in existing}))
    missing = len(existing) < len(rows)
    if len({r.shape for r in existing}) > 1 or (missing and result_dtype.kind != "f"):
        return [r if r is None or dtype is None else r.astype(result_dtype, copy=False) for r in rows]
    out = np.full((len(rows), *existing[0].shape), np.nan if missing else 0, dtype=result_dtype)
    for i, row in enumerate(rows):
        if row is not None:
            out[i] = row
    return out
