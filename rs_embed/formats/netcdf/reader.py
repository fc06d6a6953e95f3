"""Reading NetCDF files of ours: arrays whole or by rows, without what describes them."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import StoreError
from ..parallel import ahead
from . import hdf5

if TYPE_CHECKING:
    import netCDF4
    import numpy as np

#: How names of arrays begin; everything else in a file describes them.
ARRAYS = ("embedding", "input", "model_input")
#: The libraries below (HDF5, netCDF) bear one thread at a time, and netCDF4 releases the interpreter while it is in them. Held for
#: the whole life of a writer, and for each call of a reader.
LOCK = threading.RLock()


class NetcdfReader:
    """Read the arrays of a ``.nc`` of ours, whole or by rows; for ``with``.

    Raises:
        FileNotFoundError: there is no such file. StoreError: it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(os.path.abspath(path))

    def __enter__(self) -> NetcdfReader:
        import netCDF4

        with LOCK:
            try:
                self._file = netCDF4.Dataset(self.path, "r")
            except FileNotFoundError:
                raise FileNotFoundError(f"{self.path} is missing") from None
            except OSError as error:
                raise StoreError(f"{self.path} cannot be read as NetCDF ({error.strerror or error})") from None
        return self

    def __exit__(self, *error: object) -> None:
        with LOCK:
            self._file.close()

    def keys(self) -> list[str]:
        """Names of the arrays, without what describes them."""
        with LOCK:
            return [name for name in self._file.variables if name.split("__")[0].startswith(ARRAYS)]

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of an array."""
        with LOCK:
            return tuple(map(int, self._variable(key).shape))

    def dtype(self, key: str) -> np.dtype:
        """Dtype of an array."""
        with LOCK:
            return self._variable(key).dtype

    def read(self, key: str, rows: slice | Sequence[int] | None = None) -> np.ndarray:
        """An array, or some rows of its first axis, in the order in which they are asked for.

        Args:
            rows: a slice or row numbers (negative ones from the end, repeated ones too); None for all.

        Raises:
            KeyError: no such array. IndexError: no such row. StoreError: the file is damaged.
        """
        import numpy as np

        with LOCK:
            variable = self._variable(key)
            wanted: Any = slice(None) if rows is None else rows
            order: Any = slice(None)
            if not isinstance(wanted, slice):
                asked = np.asarray(wanted, np.int64).reshape(-1)
                n = variable.shape[0] if variable.ndim else 0
                if asked.size and not (-n <= asked.min() and asked.max() < n):
                    raise IndexError(f"{key}: rows {asked.min()} to {asked.max()} of {n}")
                wanted, order = np.unique(asked % max(n, 1), return_inverse=True)  # the library wants them sorted
                if not asked.size:
                    wanted = slice(0, 0)
            try:
                return np.ascontiguousarray(variable[wanted][order]) if variable.ndim else variable[...]
            except RuntimeError as error:
                raise StoreError(f"{self.path}: {key} cannot be read ({error})") from None

    def rows(self, key: str, threads: int = 1) -> Iterator[tuple[np.ndarray, int | None]]:
        """Every row of an array, in order, and what :meth:`row` has to be told: nothing, chunks are found by the library."""
        shape, itemsize = self.shape(key), self.dtype(key).itemsize
        raw = None
        if math.prod(shape) * itemsize >= hdf5.WORTH:
            with LOCK:
                raw = _tried(self.path, key, lambda: hdf5.rows(self.path, key))
        if raw is None:
            yield from ((self.read(key, [row])[0], 0) for row in range(shape[0]))
            return

        def inflated(call: Callable[[], np.ndarray]) -> np.ndarray:
            return _tried(self.path, key, call)

        with contextlib.closing(self._raw(key, raw)) as calls:
            for row in ahead(inflated, calls, threads, lambda _: math.prod(shape[1:]) * itemsize):
                yield row, 0

    def _raw(self, key: str, rows: Iterator[Callable[[], np.ndarray]]) -> Iterator[Callable[[], np.ndarray]]:
        """The same; the library is entered by one thread."""
        end = object()
        try:
            while True:
                with LOCK:
                    row = _tried(self.path, key, lambda: next(rows, end))
                if row is end:
                    return
                yield row
        finally:
            with LOCK:
                rows.close()

    def row(self, key: str, row: int, mark: int) -> np.ndarray:
        """One row; raises like :meth:`read`."""
        return self.read(key, [row])[0]

    def _variable(self, key: str) -> netCDF4.Variable:
        try:
            variable = self._file.variables[key]
        except KeyError:
            raise KeyError(f"{key} is not in {self.path}") from None
        variable.set_auto_maskandscale(False)
        return variable


def _tried(path: Path, key: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (OSError, RuntimeError, ValueError) as error:
        raise (
            error if isinstance(error, StoreError) else StoreError(f"{path}: {key} cannot be read ({error})")
        ) from None
