"""Deflate streams whose rows can be read one by one.

ISA-L compresses five times as fast as zlib, for 3 to 5 % more bytes (docs/outputs.md has the
table). The compressor makes a full flush after every row, so a reader can start there without the
data before. The result is still one ordinary deflate stream, a few bytes longer. The offsets of
the rows are found when all rows are read once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING

from .parallel import map_in_order

if TYPE_CHECKING:
    from isal import isal_zlib

#: The end of a full flush: the lengths of an empty stored block. Compressed data can contain the
#: same bytes, so a flush counts only where a row ends.
_FLUSH_MARK = b"\x00\x00\xff\xff"
_BLOCK = 1 << 16


class RowCompressor:
    """A compressor for a zip member, with a full flush after every call of :meth:`compress`.

    Args:
        level: 0 to 3, as ISA-L counts.
    """

    def __init__(self, level: int) -> None:
        self._level, self._compressed = level, b""

    def compress_rows(self, rows: Iterable[memoryview], threads: int) -> Iterator[memoryview]:
        """The same rows, compressed ahead by threads; pass each to :meth:`compress` before the
        next is requested."""
        for row, compressed in map_in_order(lambda row: (row, self._compress(row)), rows, threads, len):
            self._compressed = compressed
            yield row

    def compress(self, data: memoryview | bytes) -> bytes:
        compressed, self._compressed = self._compressed, b""
        return compressed or self._compress(data)

    def flush(self) -> bytes:
        return self._new_stream().flush()

    def _compress(self, data: memoryview | bytes) -> bytes:
        stream = self._new_stream()  # without a history, as after a full flush
        return stream.compress(data) + stream.flush(zlib.Z_FULL_FLUSH)

    def _new_stream(self) -> isal_zlib.Compress:
        from isal import isal_zlib

        return isal_zlib.compressobj(self._level, zlib.DEFLATED, -zlib.MAX_WBITS)


def read_row(file: IO[bytes], mark: int, size: int) -> bytes:
    """The row of ``size`` bytes whose compressed data begin at the offset ``mark``.

    Raises:
        EOFError, zlib.error: there is no such row.
    """
    file.seek(mark)
    stream, data, row = zlib.decompressobj(-zlib.MAX_WBITS), b"", bytearray()
    while len(row) < size:
        block = file.read(_BLOCK)
        data += block
        # never beyond the next flush: damage behind it does not affect this row
        while data and len(row) < size and (count := _bytes_to_flush(data, at_end=not block)):
            row += stream.decompress(data[:count], size - len(row))
            if stream.eof and len(row) < size:
                raise EOFError("the stream ends before the row")
            data = stream.unconsumed_tail + data[count:]
        if not block and len(row) < size:
            raise EOFError("the data end too early")
    return bytes(row)


def _bytes_to_flush(data: bytes, *, at_end: bool) -> int:
    """Number of bytes up to the next flush mark, or up to the last bytes, which can be the first
    part of one."""
    found = data.find(_FLUSH_MARK)
    return found + len(_FLUSH_MARK) if found >= 0 else max(len(data) - (0 if at_end else len(_FLUSH_MARK) - 1), 0)


def iter_rows(file: IO[bytes], start: int, stop: int, head: int, size: int) -> Iterator[tuple[bytearray, int | None]]:
    """All rows of a stream, and the offset of each for :func:`read_row`; None for a row without a
    flush before it.

    Args:
        start, stop: offsets of the stream in the file.
        head: inflated bytes before the first row.
        size: bytes of a row.

    Raises:
        zlib.error: the stream is damaged.
    """
    from isal import isal_zlib

    file.seek(start)
    stream = isal_zlib.decompressobj(-zlib.MAX_WBITS)
    mark: int | None = None
    data, out = b"", bytearray()  # not yet inflated, and inflated
    end = start  # offset up to which the file is inflated
    while True:
        block = file.read(min(_BLOCK, stop - end - len(data)))
        data += block
        while data and (count := _bytes_to_flush(data, at_end=not block)):
            is_flush = data[:count].endswith(_FLUSH_MARK)
            try:
                out += stream.decompress(data[:count])
            except isal_zlib.error as error:  # type: ignore[misc]  # its stub declares an instance
                raise zlib.error(str(error)) from None
            data, end = data[count:], end + count
            skipped = min(head, len(out))
            del out[:skipped]
            head -= skipped
            while not head and len(out) >= size:
                yield out[:size], mark
                del out[:size]
                mark = None
            if stream.eof:
                return
            if is_flush and not head and not out:
                stream, mark = isal_zlib.decompressobj(-zlib.MAX_WBITS), end
        if not block:
            return
