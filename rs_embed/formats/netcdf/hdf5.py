"""Chunks of NetCDF-4 arrays, shuffled and deflated here and put into the file unchanged.

NetCDF-4 is HDF5. Its own filter deflates with zlib in one thread, which is most of the cost of
writing pixels. ISA-L does the same in a quarter of the time (docs/outputs.md), in several threads.
The file has the same content: chunks behind the filters shuffle and deflate, which every reader of
NetCDF-4 supports.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..parallel import map_in_order

if TYPE_CHECKING:
    import h5py
    import numpy as np

    #: Offset of a chunk in its array, and its numbers.
    Part = tuple[tuple[int, ...], np.ndarray]

T = TypeVar("T")
#: Deflate level, 0 to 3 as ISA-L counts.
LEVEL = 2
#: Smallest array, in bytes, that is written this way: the file is opened once more for it.
MIN_BYTES = 1 << 20


class WriteError(OSError):
    """An error of the HDF5 library when it writes."""


def write_arrays(path: Path, arrays: Mapping[str, Iterable[tuple[int, np.ndarray]]], threads: int = 1) -> None:
    """Write declared arrays of an existing file that is not open elsewhere.

    Args:
        arrays: blocks of each array, by name. A block is (index along the first axis, part of the
            array from this index on, complete in the other axes); it begins and ends at chunk
            boundaries, or at the end of the array.
        threads: number of threads that deflate; the bytes do not depend on it.

    Raises:
        WriteError: the library could not write.
    """
    import h5py

    file = _call(h5py.File, path, "r+")
    try:
        for key, blocks in arrays.items():
            _write_blocks(_call(file.__getitem__, key), blocks, threads)
    finally:
        _call(file.close)


def _write_blocks(array: h5py.Dataset, blocks: Iterable[tuple[int, np.ndarray]], threads: int) -> None:
    chunk, dtype = array.chunks, array.dtype

    def deflate(part: Part) -> tuple[tuple[int, ...], bytes]:
        return part[0], deflate_chunk(part[1].astype(dtype, copy=False), chunk)

    parts = ((offset, part) for first, block in blocks for offset, part in _cut_into_chunks(first, block, chunk))
    for offset, data in map_in_order(deflate, parts, threads, lambda part: part[1].nbytes):
        _call(array.id.write_direct_chunk, offset, data)


def _call(function: Callable[..., T], *arguments: Any) -> T:
    """Call the library; its errors are raised as ``WriteError``."""
    try:
        return function(*arguments)
    except (OSError, RuntimeError) as error:
        raise WriteError(str(error)) from None


def iter_rows(path: Path, key: str) -> Generator[Callable[[], np.ndarray], None, None] | None:
    """Rows of an array of which each is a chunk, as :func:`write_arrays` writes it.

    Returns:
        For each row, after it is read, a function that inflates it with ISA-L; threads may call
        several at once. None for any other layout, or if the file cannot be opened: HDF5 refuses
        where netCDF4 uses the same library and has it open.

    Raises:
        OSError, RuntimeError, KeyError, ValueError: the file is damaged; the functions raise
            ValueError.
    """
    import h5py

    try:
        file = h5py.File(path, "r", locking=False)
    except OSError:
        return None
    try:
        array = file[key]
        has_filters = array.id.get_create_plist().get_nfilters() == 2 and array.shuffle and array.compression == "gzip"
        if has_filters and array.chunks == (1, *array.shape[1:]):
            return _iter_chunks(file, array)
    except BaseException:
        file.close()
        raise
    file.close()
    return None


def _iter_chunks(file: h5py.File, array: h5py.Dataset) -> Generator[Callable[[], np.ndarray], None, None]:
    shape, dtype, name = array.shape[1:], array.dtype, array.name
    try:
        for row in range(array.shape[0]):
            mask, data = array.id.read_direct_chunk((row, *(0 for _ in shape)))
            if mask:  # the library omits a filter that makes a chunk larger
                yield partial(_return_row, array[row])
            else:
                yield partial(_inflate_chunk, data, shape, dtype, f"row {row} of {name}")
    finally:
        file.close()


def _return_row(row: np.ndarray) -> np.ndarray:
    return row


def _inflate_chunk(data: bytes, shape: tuple[int, ...], dtype: np.dtype, label: str) -> np.ndarray:
    """The inverse of :func:`deflate_chunk`; ``label`` is for error messages."""
    import numpy as np
    from isal import isal_zlib

    try:
        shuffled = np.frombuffer(isal_zlib.decompress(data), np.uint8).reshape(dtype.itemsize, -1)
    except isal_zlib.error as error:  # type: ignore[misc]  # its stub declares an instance
        raise ValueError(f"{label}: {error}") from None
    numbers = np.empty((shuffled.shape[1], dtype.itemsize), np.uint8)
    for i, part in enumerate(shuffled):
        numbers[:, i] = part
    return numbers.view(dtype).reshape(shape)


def _cut_into_chunks(first: int, block: np.ndarray, chunk: tuple[int, ...]) -> Iterator[Part]:
    """The chunks of a block, with their offsets in the array."""
    for start in itertools.product(*(range(0, n, c) for n, c in zip(block.shape, chunk))):
        yield (first + start[0], *start[1:]), block[tuple(slice(s, s + c) for s, c in zip(start, chunk))]


def deflate_chunk(part: np.ndarray, chunk: tuple[int, ...]) -> bytes:
    """A chunk as the file stores it.

    It is padded at the edges of the array. The filter shuffle puts the first bytes of all numbers
    before the second ones, and so on; the filter deflate makes a zlib stream.
    """
    import numpy as np
    from isal import isal_zlib

    if part.shape != chunk:
        padded = np.zeros(chunk, part.dtype)
        padded[tuple(map(slice, part.shape))] = part
        part = padded
    size = part.dtype.itemsize
    numbers = np.ascontiguousarray(part).reshape(math.prod(chunk)).view(np.uint8).reshape(-1, size)
    return isal_zlib.compress(np.ascontiguousarray(numbers.T), LEVEL)
