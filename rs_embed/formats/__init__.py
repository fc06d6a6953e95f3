"""Bytes out: array files and manifests. Bytes in: array files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np


class Arrays(Protocol):
    """An open array file; what is asked for is read, and nothing else."""

    def keys(self) -> list[str]: ...

    def shape(self, key: str) -> tuple[int, ...]: ...

    def dtype(self, key: str) -> np.dtype: ...

    def read(self, key: str, rows: slice | Sequence[int] | None = None) -> np.ndarray:
        """An array, or some rows of it along the first axis, in the stored dtype.

        Raises:
            KeyError: no such array. IndexError: no such row. ValueError: the file is damaged, or holds Python objects.
        """
        ...


def open_arrays(path: str | Path) -> AbstractContextManager[Arrays]:
    """Open an array file by its suffix: ``.npz`` or ``.nc``.

    Raises:
        FileNotFoundError: there is none. ValueError: another suffix, or no such file by its content.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npz":
        from .npz import NpzReader

        return NpzReader(path)
    if suffix in (".nc", ".netcdf"):
        from .netcdf import NetcdfReader

        return NetcdfReader(path)
    raise ValueError(f"{path}: unknown suffix {suffix!r}; allowed: .npz or .nc")
