"""Bytes out: array files and manifests. Bytes in: array files.

A format is a module here and a line of ``config.SUFFIX``. The module has ``Writer``, ``Reader``, ``PATH`` and ``KEYS``: the names
under which manifests say the file and its arrays.
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

    def rows(self, key: str, threads: int = 1) -> Iterator[tuple[np.ndarray, int | None]]:
        """Every row of an array, in order, with a mark for :meth:`row`; None where a row cannot be read alone.

        Args:
            threads: that inflate ahead, where the format allows it.
        """
        ...

    def row(self, key: str, row: int, mark: int) -> np.ndarray:
        """One row, without reading those before it; raises like :meth:`read`."""
        ...


def module(name: str) -> ModuleType:
    """The module of a format by its name in requests."""
    if name not in SUFFIX:
        raise ValueError(f"format: {name!r} is not valid; allowed: {', '.join(map(repr, SUFFIX))}")
    return importlib.import_module(f".{name}", __name__)


def open_arrays(path: str | Path) -> AbstractContextManager[Arrays]:
    """Open an array file by its suffix: ``.npz`` or ``.nc``.

    Raises:
        FileNotFoundError: there is none. ValueError: another suffix, or no such file by its content.
    """
    suffix = Path(path).suffix.lower()
    for name, own in SUFFIX.items():
        if suffix == own:
            return module(name).Reader(path)
    raise ValueError(f"{path}: unknown suffix {suffix!r}; allowed: {', '.join(SUFFIX.values())}")
