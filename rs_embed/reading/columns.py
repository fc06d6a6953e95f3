"""The arrays of one model and kind: stacked, an array per ROI in one file, or a file per ROI."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..formats import ArrayFile, open_arrays

if TYPE_CHECKING:
    import numpy as np


class Column(Protocol):
    """The inputs, or the embeddings, of one model: an array or None for each ROI."""

    def read(self, rows: Sequence[int]) -> list[np.ndarray | None]:
        """The arrays of some ROIs, in the stored dtype; None for a ROI without an array."""
        ...

    def read_all(self) -> np.ndarray | list[np.ndarray | None]:
        """The arrays of all ROIs; one array where they are stored as one."""
        ...


@dataclass(frozen=True)
class StackedArray:
    """One array with a row for each ROI, or for the ROIs in ``rois``.

    Attributes:
        n: number of ROIs of the export.
        rois: ROI of each row of the array; None: all ROIs, in order.
        missing: ROIs whose row contains fill values only.
    """

    path: Path
    key: str
    n: int
    rois: Sequence[int] | None = None
    missing: Collection[int] = ()

    def _check(self, file: ArrayFile) -> None:
        """Compare the file with its manifest."""
        if self.key not in file.keys():  # noqa: SIM118 - not a mapping
            raise ValueError(f"{self.path} does not fit its manifest: it has no array {self.key!r}")
        found, listed = file.shape(self.key)[0], self.n if self.rois is None else len(self.rois)
        if found != listed:
            raise ValueError(
                f"{self.path} does not fit its manifest: {self.key!r} has {found} rows, and the manifest lists {listed}"
            )

    def read(self, rows: Sequence[int]) -> list[np.ndarray | None]:
        row_of_roi = {roi: i for i, roi in enumerate(self.rois)} if self.rois is not None else None

        def has_array(roi: int) -> bool:
            return roi not in self.missing and (row_of_roi is None or roi in row_of_roi)

        stored = [r for r in rows if has_array(r)]
        with open_arrays(self.path) as file:
            self._check(file)
            arrays = iter(file.read(self.key, stored if row_of_roi is None else [row_of_roi[r] for r in stored]))
        return [next(arrays) if has_array(r) else None for r in rows]

    def read_all(self) -> np.ndarray | list[np.ndarray | None]:
        with open_arrays(self.path) as file:
            self._check(file)
            stacked = file.read(self.key)
        if self.rois is None and (not self.missing or stacked.dtype.kind == "f"):  # floats have NaN for missing ROIs
            return stacked
        out: list[np.ndarray | None] = [None] * self.n
        for roi, array in zip(range(self.n) if self.rois is None else self.rois, stacked):
            out[roi] = None if roi in self.missing else array
        return out


@dataclass
class ArrayPerRoi:
    """A separate array for each ROI that has one, in one file; ``load_keys`` returns their names
    by ROI."""

    path: Path
    load_keys: Callable[[], Mapping[int, str]] = field(repr=False)
    n: int

    @functools.cached_property
    def keys(self) -> Mapping[int, str]:
        """Names of the arrays, by ROI."""
        return self.load_keys()

    def read(self, rows: Sequence[int]) -> list[np.ndarray | None]:
        with open_arrays(self.path) as file:
            stored = set(file.keys())
            for row in rows:
                if row in self.keys and self.keys[row] not in stored:
                    raise ValueError(f"{self.path} does not fit its manifest: it has no array {self.keys[row]!r}")
            return [file.read(self.keys[r]) if r in self.keys else None for r in rows]

    def read_all(self) -> list[np.ndarray | None]:
        return self.read(range(self.n))


@dataclass(frozen=True)
class FilePerRoi:
    """A file for each ROI.

    Attributes:
        find_path: returns the array file of a ROI; None where the ROI has no file.
        usual_key: name of the array in most files.
        find_key: returns the name of a ROI's array in its manifest; None where the manifest lists
            none.
    """

    n: int
    find_path: Callable[[int], Path | None]
    usual_key: str
    find_key: Callable[[int], str | None] = field(repr=False)

    def read(self, rows: Sequence[int]) -> list[np.ndarray | None]:
        return [self._read_roi(row) for row in rows]

    def _read_roi(self, row: int) -> np.ndarray | None:
        path = self.find_path(row)
        if path is None:
            return None
        with open_arrays(path) as file:
            stored = file.keys()
            key = self.usual_key if self.usual_key in stored else self.find_key(row)
            return file.read(key) if key is not None and key in stored else None

    def read_all(self) -> list[np.ndarray | None]:
        return self.read(range(self.n))
