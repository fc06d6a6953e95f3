"""Streaming npz: members are written row by row, the file appears whole or not at all, equal content gives equal bytes.

Embeddings are stored as they are (float32 hardly shrinks, and a reader can map them); pixels are deflated row by row
(``deflate.py``). The file is never sought in, so its digest is made of what is written. The reader reads the rows that are asked
for: of a stored member those bytes alone, of a deflated one everything before them, too, unless it is told where the row begins.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING

from ..store.store import temporary_name
from . import deflate
from .arrays import Array, Row

if TYPE_CHECKING:
    import numpy as np

PATH, KEYS = "npz_path", "npz_keys"
#: Deflate level of pixels, in ISA-L's count (0 to 3).
LEVEL = 2
#: Bytes from which zip needs 64-bit sizes; known sizes decide per member, so small files stay plain.
_ZIP64 = 0x70000000
#: What zipfile, zlib and numpy's parser of headers raise for changed bytes: other versions, methods or flags, a header that is no
#: Python.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
)


class _Hashed:
    """A file that is only written to, from its begin to its end, and the SHA-256 of that. It cannot seek, so a zip file says the
    sizes of a member after it instead of going back."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


class NpzWriter:
    """Write an ``.npz`` in a temporary file; leaving the ``with`` block without an error renames it to ``path``.

    Attributes:
        sha256: digest of the whole file, hex; None until it is there.
    """

    def __init__(self, path: str | Path, about: Callable | None = None, threads: int = 1) -> None:
        """
        Args:
            about: for formats that say more than numbers.
            threads: that deflate. Bytes do not depend on it.
        """
        self._threads = threads
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_name(self.path)
        self._file = open(self._temporary, "xb")  # noqa: SIM115 - closed in __exit__
        self._hashed = _Hashed(self._file)
        self._zip = zipfile.ZipFile(self._hashed, "w", zipfile.ZIP_STORED)
        self.sha256: str | None = None
        self.keys: list[str] = []

    def __enter__(self) -> NpzWriter:
        return self

    def add(self, array: Array, shape: tuple[int, ...], dtype: np.dtype, rows: Iterable[Row]) -> None:
        """Write one array from rows along its first axis, or from the whole; memory holds one of them, and what threads
        deflate ahead (:mod:`rs_embed.formats.parallel`).

        Raises:
            ValueError: the rows do not add up to ``shape`` and ``dtype``.
        """
        import numpy as np

        key, pixels = array.key, array.kind == "input"
        info = zipfile.ZipInfo(f"{key}.npy")  # the default date of 1980: bytes depend on content alone
        info.compress_type = zipfile.ZIP_DEFLATED if pixels else zipfile.ZIP_STORED
        info.external_attr = 0o644 << 16
        expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        written = 0
        with self._zip.open(info, "w", force_zip64=expected > _ZIP64) as member:
            pieces: Iterable[memoryview] = self._pieces(key, dtype, rows)
            if pixels:
                by_row = deflate.ByRow(LEVEL)
                pieces = by_row.rows(pieces, self._threads)
                member._compressor = by_row  # type: ignore[attr-defined] - ZipFile.open has no argument for it
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": tuple(map(int, shape)),
            }
            np.lib.format.write_array_header_1_0(member, header)
            for piece in pieces:
                written += member.write(piece)
        if written != expected:
            raise ValueError(f"{key}: {written} bytes for an array of {expected}")
        self.keys.append(key)

    @staticmethod
    def _pieces(key: str, dtype: np.dtype, rows: Iterable[Row]) -> Iterator[memoryview]:
        import numpy as np

        for piece, *_ in rows:
            if piece.dtype != dtype:
                raise ValueError(f"{key}: a piece of dtype {piece.dtype} in an array of {dtype}")
            if piece.size:
                yield memoryview(np.ascontiguousarray(piece)).cast("B")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._zip.close()
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
            if kind is not None:
                self._temporary.unlink(missing_ok=True)
        if kind is None:
            os.replace(self._temporary, self.path)
            self.sha256 = self._hashed.sha256.hexdigest()


@dataclass(frozen=True)
class _Member:
    """An array in the file: what its header says, and where its numbers begin inside the member."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int


class NpzReader:
    """Read an ``.npz`` lazily; never unpickles.

    Raises:
        FileNotFoundError: there is none. ValueError: it is no zip file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = open(self.path, "rb")  # noqa: SIM115 - closed in __exit__
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _DAMAGE as error:
            self._file.close()
            raise ValueError(f"{self.path} is damaged or no .npz file ({error})") from None
        self._members: dict[str, _Member] = {}

    def __enter__(self) -> NpzReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def keys(self) -> list[str]:
        """Names of the arrays, in the order of the file."""
        return [n.removesuffix(".npy") for n in self._zip.namelist()]

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of an array; reads its header."""
        return self._member(key).shape

    def dtype(self, key: str) -> np.dtype:
        """Stored dtype of an array; reads its header."""
        return self._member(key).dtype

    def read(self, key: str, rows: slice | Sequence[int] | None = None) -> np.ndarray:
        """An array, or some rows of it along the first axis, in the stored dtype and in the order asked for.

        Raises:
            KeyError: no such array. IndexError: no such row. ValueError: the file is damaged, or holds Python objects.
        """
        import numpy as np

        member = self._member(key)
        try:
            if rows is None or member.fortran or not member.shape:
                whole = self._whole(member)
                return whole if rows is None else whole[rows if isinstance(rows, slice) else np.asarray(rows, np.intp)]
            wanted = np.arange(member.shape[0])[rows if isinstance(rows, slice) else np.asarray(rows, np.intp)]
            return self._rows(member, wanted)
        except _DAMAGE as error:
            raise ValueError(f"{self.path}: the array {key!r} is damaged ({error})") from None

    def rows(self, key: str, threads: int = 1) -> Iterator[tuple[np.ndarray, int | None]]:
        """Every row of an array, in order, and what :meth:`row` has to be told to read it alone; None: it cannot.

        Args:
            threads: not used; where a row begins is known when the one before it is inflated.

        Raises:
            KeyError: no such array. ValueError: the file is damaged.
        """
        import numpy as np

        member = self._member(key)
        shape, size = member.shape[1:], self._size(member)
        if member.info.compress_type == zipfile.ZIP_STORED:
            for row in range(member.shape[0]):
                yield self.read(key, [row])[0], 0
            return
        with self._raw(member) as file:
            start = file.tell()
            found = deflate.rows(file, start, start + member.info.compress_size, member.start, size)
            try:
                for row, mark in found:
                    yield np.frombuffer(row, member.dtype).reshape(shape), None if mark is None else mark - start
            except _DAMAGE as error:
                raise ValueError(f"{self.path}: the array {key!r} is damaged ({error})") from None

    def row(self, key: str, row: int, mark: int) -> np.ndarray:
        """One row; what comes before it is not read. Checksums are of whole arrays: the caller compares a digest.

        Args:
            mark: what :meth:`rows` said.

        Raises:
            KeyError: no such array. IndexError: no such row. ValueError: the file is damaged.
        """
        import numpy as np

        member = self._member(key)
        if member.info.compress_type == zipfile.ZIP_STORED:
            return self.read(key, [row])[0]
        try:
            with self._raw(member) as file:
                data = deflate.row_at(file, file.tell() + mark, self._size(member))
        except _DAMAGE as error:
            raise ValueError(f"{self.path}: row {row} of the array {key!r} is damaged ({error})") from None
        return np.frombuffer(data, member.dtype).reshape(member.shape[1:])

    @staticmethod
    def _size(member: _Member) -> int:
        """Bytes of a row."""
        import numpy as np

        return int(np.prod(member.shape[1:], dtype=np.int64)) * member.dtype.itemsize

    def _member(self, key: str) -> _Member:
        import numpy as np

        if key not in self._members:
            try:
                info = self._zip.getinfo(f"{key}.npy")
            except KeyError:
                raise KeyError(f"{key!r} is not in {self.path}") from None
            try:
                with self._zip.open(info) as file:
                    version = np.lib.format.read_magic(file)
                    read = {
                        (1, 0): np.lib.format.read_array_header_1_0,
                        (2, 0): np.lib.format.read_array_header_2_0,
                    }.get(version)
                    if read is None:
                        raise ValueError(f"version {version} of the npy format")
                    shape, fortran, dtype = read(file)
                    start = file.tell()
            except (ValueError, *_DAMAGE) as error:
                raise ValueError(f"{self.path}: the array {key!r} cannot be read ({error})") from None
            if dtype.hasobject:
                raise ValueError(f"{self.path}: the array {key!r} holds Python objects, which are not read")
            self._members[key] = _Member(info, shape, dtype, fortran and len(shape) > 1, start)
        return self._members[key]

    def _whole(self, member: _Member) -> np.ndarray:
        """Everything, through the zip reader, which compares the checksum."""
        import numpy as np

        out = np.empty(member.shape[::-1] if member.fortran else member.shape, member.dtype)
        with self._zip.open(member.info) as file:
            _skip(file, member.start)
            _fill(file, out)
            if file.read(1):
                raise EOFError("it is longer than its header says")
        return out.T if member.fortran else out

    def _rows(self, member: _Member, wanted: np.ndarray) -> np.ndarray:
        import numpy as np

        out = np.empty((len(wanted), *member.shape[1:]), member.dtype)
        size = out[:1].nbytes if len(wanted) else 0
        if not size:
            return out
        stored = member.info.compress_type == zipfile.ZIP_STORED
        with self._stored(member) if stored else self._zip.open(member.info) as file:
            at = file.tell()
            base = at if stored else member.start
            order = np.argsort(wanted, kind="stable")  # a compressed member is read once, forwards
            previous = None
            for place in order:
                row = int(wanted[place])
                if previous is not None and wanted[previous] == row:
                    out[place] = out[previous]
                    continue
                target = base + row * size
                if stored:
                    file.seek(target)
                else:
                    _skip(file, target - at)
                _fill(file, out[place : place + 1])
                at, previous = target + size, place
        return out

    def _stored(self, member: _Member) -> IO[bytes]:
        """A file of its own at the first number of a member that is not compressed."""
        file = self._raw(member)
        file.seek(member.start, os.SEEK_CUR)
        return file

    def _raw(self, member: _Member) -> IO[bytes]:
        """A file of its own where the bytes of a member begin, as they lie there."""
        file = open(self.path, "rb")  # noqa: SIM115 - the caller closes it
        file.seek(member.info.header_offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            file.close()
            raise EOFError("its place in the file holds something else")
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        file.seek(member.info.header_offset + 30 + names)
        return file


def _skip(file: IO[bytes], count: int) -> None:
    while count:
        piece = file.read(min(count, 1 << 20))
        if not piece:
            raise EOFError("it ends too early")
        count -= len(piece)


def _fill(file: IO[bytes], out: np.ndarray) -> None:
    """Fill a contiguous array from a file."""
    if not out.size:
        return
    view, done = memoryview(out.reshape(-1).view("u1")), 0
    while done < len(view):
        count = file.readinto(view[done : done + (1 << 24)])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("it ends too early")
        done += count


Writer, Reader = NpzWriter, NpzReader
