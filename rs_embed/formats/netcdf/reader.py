"""Read the NetCDF files of this package: arrays, whole or by rows."""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...errors import StoreError
from ..parallel import map_in_order
from . import hdf5

if TYPE_CHECKING:
    import netCDF4
    import numpy as np

T = TypeVar("T")
#: Prefixes of the names of arrays; all other variables describe them.
ARRAY_PREFIXES = ("embedding", "input", "model_input")
#: HDF5 and netCDF support one thread at a time, and netCDF4 releases the GIL while it calls them.
#: A writer holds the lock from its beginning to its end, a reader during each call.
LOCK = threading.RLock()


class NetcdfReader:
    """Read the arrays of a ``.nc`` of this package; for ``with``.

    Raises:
        FileNotFoundError: the file does not exist. StoreError: it cannot be read.
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
        """Names of the arrays, without the variables that describe them."""
        with LOCK:
            return [name for name in self._file.variables if name.split("__")[0].startswith(ARRAY_PREFIXES)]

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of an array."""
        with LOCK:
            return tuple(map(int, self._variable(key).shape))

    def dtype(self, key: str) -> np.dtype:
        """Dtype of an array."""
        with LOCK:
            return self._variable(key).dtype

    def read(self, key: str, rows: slice | Sequence[int] | None = None) -> np.ndarray:
        """An array, or some rows of its first axis, in the order of ``rows``.

        Args:
            rows: a slice or row numbers (negative ones from the end, repeated ones too); None for
                all.

        Raises:
            KeyError: the array does not exist. IndexError: the row does not exist. StoreError: the
                file is damaged.
        """
        import numpy as np

        with LOCK:
            variable = self._variable(key)
            wanted: Any = slice(None) if rows is None else rows
            order: Any = slice(None)
            if not isinstance(wanted, slice):
                numbers = np.asarray(wanted, np.int64).reshape(-1)
                n = variable.shape[0] if variable.ndim else 0
                if numbers.size and not (-n <= numbers.min() and numbers.max() < n):
                    raise IndexError(f"{key}: rows {numbers.min()} to {numbers.max()} of {n}")
                wanted, order = np.unique(numbers % max(n, 1), return_inverse=True)  # the library requires sorted rows
                if not numbers.size:
                    wanted = slice(0, 0)
            try:
                return np.ascontiguousarray(variable[wanted][order]) if variable.ndim else variable[...]
            except RuntimeError as error:
                raise StoreError(f"{self.path}: {key} cannot be read ({error})") from None

    def iter_rows(self, key: str, threads: int = 1) -> Iterator[tuple[np.ndarray, int | None]]:
        """Every row of an array, in order, with the mark 0 for :meth:`read_row`: the library finds
        chunks itself."""
        shape, itemsize = self.shape(key), self.dtype(key).itemsize
        chunks = None
        if math.prod(shape) * itemsize >= hdf5.MIN_BYTES:
            with LOCK:
                chunks = self._call(key, lambda: hdf5.iter_rows(self.path, key))
        if chunks is None:
            yield from ((self.read(key, [row])[0], 0) for row in range(shape[0]))
            return

        def inflate(chunk: Callable[[], np.ndarray]) -> np.ndarray:
            return self._call(key, chunk)

        with contextlib.closing(self._iter_locked(key, chunks)) as locked:
            for row in map_in_order(inflate, locked, threads, lambda _: math.prod(shape[1:]) * itemsize):
                yield row, 0

    def _iter_locked(self, key: str, chunks: Generator[T, None, None]) -> Generator[T, None, None]:
        """The same chunks; one thread at a time enters the library."""
        try:
            while True:
                with LOCK:
                    chunk = self._call(key, lambda: next(chunks, None))
                if chunk is None:
                    return
                yield chunk
        finally:
            with LOCK:
                chunks.close()

    def read_row(self, key: str, row: int, mark: int) -> np.ndarray:
        """One row; raises like :meth:`read`."""
        return self.read(key, [row])[0]

    def _variable(self, key: str) -> netCDF4.Variable:
        try:
            variable = self._file.variables[key]
        except KeyError:
            raise KeyError(f"{key} is not in {self.path}") from None
        variable.set_auto_maskandscale(False)
        return variable

    def _call(self, key: str, function: Callable[[], T]) -> T:
        """Call the library; its errors are raised as ``StoreError``."""
        try:
            return function()
        except StoreError:
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise StoreError(f"{self.path}: {key} cannot be read ({error})") from None
