"""Array files, written and read, and manifests, written.

- ``arrays``: what a writer gets with the numbers: model, kind, ROIs, grid, dates.
- ``npz``, ``netcdf``: the formats.
- ``deflate``: deflate streams whose rows can be read one by one.
- ``parallel``: ordered results of a function that threads call.
- ``manifest``: manifests as JSON, and records of written files.
- ``record_defaults``: records without the values that most of them share.

A new format is a module or package here, named as in requests, and an entry in
``rs_embed.request.config.SUFFIX``. It defines ``PATH`` and ``KEYS``, the manifest keys of the file
and of the names of its arrays, and two classes for ``with``. ``Reader(path)`` has the methods of
:class:`ArrayFile`. ``Writer(path, metadata, threads)`` has the method ``add(array, shape, dtype,
rows)`` and the attributes ``keys``, names of arrays, and ``sha256``, digest of the file or None.
``metadata`` is a function that returns a :class:`~rs_embed.formats.arrays.FileMetadata`. The
writer uses a temporary name and renames the file when it is complete.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from ..request.config import SUFFIX

if TYPE_CHECKING:
    import numpy as np


class ArrayFile(Protocol):
    """An open array file; arrays and rows are read on demand."""

    def keys(self) -> list[str]: ...

    def shape(self, key: str) -> tuple[int, ...]: ...

    def dtype(self, key: str) -> np.dtype: ...

    def read(self, key: str, rows: slice | Sequence[int] | None = None) -> np.ndarray:
        """An array, or some rows of it along the first axis, in the stored dtype.

        Raises:
            KeyError: the array does not exist. IndexError: the row does not exist.
            ValueError: the file is damaged, or contains Python objects.
        """
        ...

    def iter_rows(self, key: str, threads: int = 1) -> Iterator[tuple[np.ndarray, int | None]]:
        """Every row of an array, in order, with its mark for :meth:`read_row`; None where a row
        cannot be read alone.

        Args:
            threads: number of threads that inflate, where the format supports it.
        """
        ...

    def read_row(self, key: str, row: int, mark: int) -> np.ndarray:
        """One row, without reading the rows before it; raises like :meth:`read`."""
        ...


def format_module(name: str) -> ModuleType:
    """The module of a format by its name in requests."""
    if name not in SUFFIX:
        raise ValueError(f"format: {name!r} is not valid; allowed: {', '.join(map(repr, SUFFIX))}")
    return importlib.import_module(f".{name}", __name__)


def open_arrays(path: str | Path) -> AbstractContextManager[ArrayFile]:
    """Open an array file by its suffix: ``.npz`` or ``.nc``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the suffix is unknown, or the content is not of this format.
    """
    suffix = Path(path).suffix.lower()
    for name, known in SUFFIX.items():
        if suffix == known:
            reader: AbstractContextManager[ArrayFile] = format_module(name).Reader(path)
            return reader
    raise ValueError(f"{path}: unknown suffix {suffix!r}; allowed: {', '.join(SUFFIX.values())}")
