"""Deflated rows that can be read one by one, made by ISA-L: five times the speed of zlib for 3 to 5 % more bytes (docs/outputs.md
has the table).

The stream is cut behind every row (a full flush): a reader begins there knowing nothing of what came before. It stays one ordinary
deflate stream, a few bytes longer. Where the cuts are is found by whoever reads all rows once.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import IO

from .parallel import ahead

#: What a flush ends with: the lengths of an empty stored block. It may occur elsewhere; a cut is one at which a row ends.
_CUT = b"\x00\x00\xff\xff"
_PIECE = 1 << 16


class ByRow:
    """A compressor for a zip member, whose stream is cut behind everything that is written at a time.

    Args:
        level: 0 to 3, in ISA-L's count.
    """

    def __init__(self, level: int) -> None:
        self._level, self._ready = level, b""

    def rows(self, rows: Iterable[memoryview], threads: int) -> Iterator[memoryview]:
        """The same rows, compressed by threads some rows ahead; each is to be written before the next is asked for."""
        for row, ready in ahead(lambda row: (row, self._cut(row)), rows, threads, len):
            self._ready = ready
            yield row

    def compress(self, data: memoryview | bytes) -> bytes:
        ready, self._ready = self._ready, b""
        return ready or self._cut(data)

    def flush(self) -> bytes:
        return self._stream().flush()

    def _cut(self, data: memoryview | bytes) -> bytes:
        stream = self._stream()  # knows nothing of what came before, as behind a cut
        return stream.compress(data) + stream.flush(zlib.Z_FULL_FLUSH)

    def _stream(self):  # noqa: ANN202 - a class of the library's
        from isal import isal_zlib

        return isal_zlib.compressobj(self._level, zlib.DEFLATED, -zlib.MAX_WBITS)


def row_at(file: IO[bytes], mark: int, size: int) -> bytes:
    """The row of ``size`` bytes that begins behind the cut at ``mark``.

    Raises:
        EOFError, zlib.error: there is none.
    """
    file.seek(mark)
    stream, data, row = zlib.decompressobj(-zlib.MAX_WBITS), b"", bytearray()
    while len(row) < size:
        more = file.read(_PIECE)
        data += more
        # never more than to the next cut: damage behind it is no business of this row
        while data and len(row) < size and (take := _next(data, more)):
            row += stream.decompress(data[:take], size - len(row))
            if stream.eof and len(row) < size:
                raise EOFError("the stream ends before the row")
            data = stream.unconsumed_tail + data[take:]
        if not more and len(row) < size:
            raise EOFError("it ends too early")
    return bytes(row)


def _next(data: bytes, more: bytes) -> int:
    """How many bytes reach to the next cut, or what may be one, which can lie across the end of what was read."""
    found = data.find(_CUT)
    return found + len(_CUT) if found >= 0 else max(len(data) - (len(_CUT) - 1 if more else 0), 0)


def rows(file: IO[bytes], start: int, stop: int, head: int, size: int) -> Iterator[tuple[bytearray, int | None]]:
    """All rows of a stream, and where each begins: behind its cut, or None where there is none.

    Args:
        start, stop: the stream's place in the file. head: bytes in front of the first row, inflated. size: bytes of a row.

    Raises:
        zlib.error: it is damaged.
    """
    from isal import isal_zlib

    file.seek(start)
    stream, mark = isal_zlib.decompressobj(-zlib.MAX_WBITS), None
    data, out, end = b"", bytearray(), start  # read, inflated, and where what was inflated ends in the file
    while True:
        more = file.read(min(_PIECE, stop - end - len(data)))
        data += more
        while data and (take := _next(data, more)):
            cut = data[:take].endswith(_CUT)
            try:
                out += stream.decompress(data[:take])
            except isal_zlib.error as error:
                raise zlib.error(str(error)) from None
            data, end = data[take:], end + take
            drop = min(head, len(out))
            del out[:drop]
            head -= drop
            while not head and len(out) >= size:
                yield out[:size], mark
                del out[:size]
                mark = None
            if stream.eof:
                return
            if cut and not head and not out:
                stream, mark = isal_zlib.decompressobj(-zlib.MAX_WBITS), end
        if not more:
            return
