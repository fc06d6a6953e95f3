"""Chunks of NetCDF-4 arrays, shuffled and deflated here and put into the file as they are.

NetCDF-4 is HDF5. Its own filter deflates with zlib in one thread, which is most of what writing pixels costs; ISA-L does the same in
a quarter of the time (docs/outputs.md), in as many threads as there are cores to use. What is in the file is the same: chunks behind
the filters shuffle and deflate, which every reader of NetCDF-4 knows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..parallel import ahead

if TYPE_CHECKING:
    import h5py
    import numpy as np

T = TypeVar("T")
#: Deflate level in ISA-L's count (0 to 3).
LEVEL = 2
#: Arrays from which on it is worth it, bytes: the file is opened once more for them.
WORTH = 1 << 20


class WriteError(OSError):
    """What the library says where it cannot write."""


def put(path: Path, arrays: Mapping[str, Iterable[tuple[int, np.ndarray]]], threads: int = 1) -> None:
    """Write declared arrays of an existing file that nobody has open.

    Args:
        arrays: by name their blocks, which are (index along the first axis, part of the array from there on that is whole in the
            other axes); each begins where a chunk begins, and ends where one ends, or the array.
        threads: that deflate. Bytes do not depend on it.

    Raises:
        WriteError: the library could not write it.
    """
    import h5py

    file = _tried(h5py.File, path, "r+")
    try:
        for key, blocks in arrays.items():
            _put(_tried(file.__getitem__, key), blocks, threads)
    finally:
        _tried(file.close)


def _put(array: h5py.Dataset, blocks: Iterable[tuple[int, np.ndarray]], threads: int) -> None:
    chunk, dtype = array.chunks, array.dtype

    def made(one: tuple[tuple[int, ...], np.ndarray]) -> tuple[tuple[int, ...], bytes]:
        return one[0], deflated(one[1].astype(dtype, copy=False), chunk)

    parts = ((offset, part) for first, block in blocks for offset, part in _cut(first, block, chunk))
    for offset, data in ahead(made, parts, threads, lambda one: one[1].nbytes):
        _tried(array.id.write_direct_chunk, offset, data)


def _tried(call: Callable[..., T], *arguments: Any) -> T:
    try:
        return call(*arguments)
    except (OSError, RuntimeError) as error:
        raise WriteError(str(error)) from None


def rows(path: Path, key: str) -> Iterator[Callable[[], np.ndarray]] | None:
    """Rows of an array of which each is a chunk, as :func:`put` writes it; None: it lies otherwise, or cannot be opened: where
    netCDF4 uses the same HDF5 library and has the file open, that refuses.

    Returns:
        Of each row, as it is read, a call that inflates it, by ISA-L; any thread may make it, beside any other.

    Raises:
        OSError, RuntimeError, KeyError, ValueError: the file is damaged; calls raise ValueError.
    """
    import h5py

    try:
        file = h5py.File(path, "r", locking=False)
    except OSError:
        return None
    try:
        array = file[key]
        plain = array.id.get_create_plist().get_nfilters() == 2 and array.shuffle and array.compression == "gzip"
        if plain and array.chunks == (1, *array.shape[1:]):
            return _raw(file, array)
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _raw(file: h5py.File, array: h5py.Dataset) -> Iterator[Callable[[], np.ndarray]]:
    shape, dtype, name = array.shape[1:], array.dtype, array.name
    try:
        for row in range(array.shape[0]):
            mask, data = array.id.read_direct_chunk((row, *(0 for _ in shape)))
            if mask:  # the library leaves out a filter that makes a chunk larger
                yield partial(_same, array[row])
            else:
                yield partial(_inflated, data, shape, dtype, f"row {row} of {name}")
    finally:
        file.close()


def _same(numbers: np.ndarray) -> np.ndarray:
    return numbers


def _inflated(data: bytes, shape: tuple[int, ...], dtype: np.dtype, called: str) -> np.ndarray:
    import numpy as np
    from isal import isal_zlib

    try:
        numbers = np.frombuffer(isal_zlib.decompress(data), np.uint8).reshape(dtype.itemsize, -1)
    except isal_zlib.error as error:
        raise ValueError(f"{called}: {error}") from None
    whole = np.empty((numbers.shape[1], dtype.itemsize), np.uint8)
    for i, part in enumerate(numbers):
        whole[:, i] = part
    return whole.view(dtype).reshape(shape)


def _cut(first: int, block: np.ndarray, chunk: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """The chunks of a block, with their offsets in the array."""
    for start in itertools.product(*(range(0, n, c) for n, c in zip(block.shape, chunk))):
        yield (first + start[0], *start[1:]), block[tuple(slice(s, s + c) for s, c in zip(start, chunk))]


def deflated(part: np.ndarray, chunk: tuple[int, ...]) -> bytes:
    """A chunk as it lies in the file: filled up at the edges of the array, the first bytes of all numbers, then the second ones,
    and so on (the filter shuffle), as a zlib stream (the filter deflate)."""
    import numpy as np
    from isal import isal_zlib

    if part.shape != chunk:
        whole = np.zeros(chunk, part.dtype)
        whole[tuple(map(slice, part.shape))] = part
        part = whole
    size = part.dtype.itemsize
    numbers = np.ascontiguousarray(part).reshape(math.prod(chunk)).view(np.uint8).reshape(-1, size)
    return isal_zlib.compress(np.ascontiguousarray(numbers.T), LEVEL)
