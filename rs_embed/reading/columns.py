"""Where the rows of an array are: one stacked array, an array for each ROI in one file, or a file for each ROI."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..formats import open_arrays

if TYPE_CHECKING:
    import numpy as np


class Column(Protocol):
    """The inputs, or the embeddings, of one model: an array or nothing for each ROI."""

    def read(self, rows: Sequence[int]) -> list[np.ndarray | None]:
        """The arrays of some ROIs, in the stored dtype; None where there is none."""
        ...

    def all(self) -> np.ndarray | list[np.ndarray | None]:
        """Those of all ROIs; one array where they are stored as one."""
        ...


@dataclass(frozen=True)
class Stacked:
    """One array with a row for each ROI, or for those that ``rows`` names.

    Attributes:
        n: number of ROIs. rows: ROI of each row of the array; None: all, in order.
        missing: ROIs whose row only fills the place.
    """

    path: Path
    key: str
    n: int
    rows: Sequence[int] | None = None
    missing: Collection[int] = ()

    def _checked(self, file: Any) -> None:
        held = file.keys()
        if self.key not in held:
            raise ValueError(f"{self.path} does not fit its manifest: it has no array {self.key!r}")
        found, said = file.shape(self.key)[0], self.n if self.rows is None else len(self.rows)
        if found != said:
            raise ValueError(
                f"{self.path} does not fit its manifest: {self.key!r} has {found} rows, and the manifest speaks of {said}"
            )

    def read(self, rows: Sequence[int]) -> list[np.ndarray | None]:
        places = {roi: i for i, roi in enumerate(self.rows)} if self.rows is not None else None

        def has(row: int) -> bool:
            return row not in self.missing and (places is None or row in places)

        held = [r for r in rows if has(r)]
        with open_arrays(self.path) as file:
            self._checked(file)
            found = iter(file.read(self.key, held if places is None else [places[r] for r in held]))
        return [next(found) if has(r) else None for r in rows]

    def all(self) -> np.ndarray | list[np.ndarray | None]:
        with open_arrays(self.path) as file:
            self._checked(file)
            whole = file.read(self.key)
        if self.rows is None and (not self.missing or whole.dtype.kind == "f"):  # NaN says the same
            return whole
        out: list = [None] * self.n
        for roi, array in zip(range(self.n) if self.rows is None else self.rows, whole):
            out[roi] = None if roi in self.missing else array
        return out


@dataclass
class Single:
    """An array of its own for each ROI that has one, in one file; ``named`` gives their names by ROI."""

    path: Path
    named: Callable[[], Mapping[int, str]] = field(repr=False)
    n: int

    @functools.cached_property
    def keys(self) -> Mapping[int, str]:
        """Names of the arrays, by ROI."""
        return self.named()

    def read(self, rows: Sequence[int]) -> list[np.ndarray | None]:
        with open_arrays(self.path) as file:
            held = set(file.keys())
            for row in rows:
                if row in self.keys and self.keys[row] not in held:
                    raise ValueError(f"{self.path} does not fit its manifest: it has no array {self.keys[row]!r}")
            return [file.read(self.keys[r]) if r in self.keys else None for r in rows]

    def all(self) -> list[np.ndarray | None]:
        return self.read(range(self.n))


@dataclass(frozen=True)
class Files:
    """A file for each ROI.

    Attributes:
        path: from a ROI to its array file; None where it has none.
        usual: what the array is called in most files. key: what a ROI's is called by its manifest; None where it has none.
    """

    n: int
    path: Callable[[int], Path | None]
    usual: str
    key: Callable[[int], str | None] = field(repr=False)

    def read(self, rows: Sequence[int]) -> list[np.ndarray | None]:
        return [self._one(row) for row in rows]

    def _one(self, row: int) -> np.ndarray | None:
        path = self.path(row)
        if path is None:
            return None
        with open_arrays(path) as file:
            held = file.keys()
            key = self.usual if self.usual in held else self.key(row)
            return file.read(key) if key in held else None

    def all(self) -> list[np.ndarray | None]:
        return self.read(range(self.n))
