"""npz files: written row by row, read by rows.

A file appears when it is complete; equal content gives equal bytes. Embeddings are stored without
compression (float32 hardly shrinks, and a reader can map them); pixels are deflated row by row
(``deflate.py``). The writer never seeks, so it computes the digest of the file as it writes. Of a
stored member, the reader reads the requested rows only; of a deflated one also everything before
them, unless it gets the mark of the row.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from ..store.atomic_files import temporary_path
from . import deflate
from .arrays import ArrayMetadata, Row

if TYPE_CHECKING:
    import numpy as np

PATH, KEYS = "npz_path", "npz_keys"
#: Deflate level of pixels, 0 to 3 as ISA-L counts.
LEVEL = 2
#: Size from which a member needs 64-bit sizes, bytes; the sizes are known, so small files do
#: without.
_ZIP64 = 0x70000000
#: Errors of zipfile, zlib and numpy's header parser for changed bytes: other versions, methods or
#: flags, a header that is not Python.
_DAMAGE_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    struct.error,
)


class _HashingFile:
    """A file for writing that computes the SHA-256 of its content.

    It cannot seek, so the zip file stores the sizes of a member after it instead of before.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.sha256 = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class NpzWriter:
    """Write an ``.npz`` in a temporary file; leaving the ``with`` block without an error renames
    it to ``path``.

    Attributes:
        keys: names of the arrays, in order.
        sha256: digest of the whole file, hex; None until the file is complete.
    """

    def __init__(self, path: str | Path, metadata: Callable | None = None, threads: int = 1) -> None:
        """
        Args:
            metadata: not used; other formats store metadata.
            threads: number of threads that deflate; the bytes do not depend on it.
        """
        self._threads = threads
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_path(self.path)
        self._file = open(self._temporary, "xb")  # noqa: SIM115 - closed in __exit__
        self._hashing = _HashingFile(self._file)
        self._zip = zipfile.ZipFile(self._hashing, "w", zipfile.ZIP_STORED)
        self.sha256: str | None = None
        self.keys: list[str] = []

    def __enter__(self) -> NpzWriter:
        return self

    def add(self, array: ArrayMetadata, shape: tuple[int, ...], dtype: np.dtype, rows: Iterable[Row]) -> None:
        """Write one array from rows along its first axis, or from the whole array.

        Memory contains one row, and the rows that threads deflate ahead
        (:mod:`rs_embed.formats.parallel`).

        Raises:
            ValueError: the rows do not add up to ``shape`` and ``dtype``.
        """
        import numpy as np

        key, is_pixels = array.key, array.kind == "input"
        info = zipfile.ZipInfo(f"{key}.npy")  # with the default date of 1980: bytes depend on content alone
        info.compress_type = zipfile.ZIP_DEFLATED if is_pixels else zipfile.ZIP_STORED
        info.external_attr = 0o644 << 16
        expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        written = 0
        with self._zip.open(info, "w", force_zip64=expected > _ZIP64) as member:
            buffers: Iterable[memoryview] = self._row_buffers(key, dtype, rows)
            if is_pixels:
                compressor = deflate.RowCompressor(LEVEL)
                buffers = compressor.compress_rows(buffers, self._threads)
                member._compressor = compressor  # type: ignore[attr-defined]  # ZipFile.open has no argument for it
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": tuple(map(int, shape)),
            }
            np.lib.format.write_array_header_1_0(member, header)
            for buffer in buffers:
                written += member.write(buffer)
        if written != expected:
            raise ValueError(f"{key}: {written} bytes for an array of {expected}")
        self.keys.append(key)

    @staticmethod
    def _row_buffers(key: str, dtype: np.dtype, rows: Iterable[Row]) -> Iterator[memoryview]:
        """The bytes of each row that is not empty."""
        import numpy as np

        for array, *_ in rows:
            if array.dtype != dtype:
                raise ValueError(f"{key}: a piece of dtype {array.dtype} in an array of {dtype}")
            if array.size:
                yield np.ascontiguousarray(array).reshape(-1).view(np.uint8).data

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
            self.sha256 = self._hashing.sha256.hexdigest()


@dataclass(frozen=True)
class _Member:
    """An array in the file: its header, and the offset of its numbers inside the member."""

    info: zipfile.ZipInfo
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return math.prod(self.shape[1:]) * self.dtype.itemsize


class NpzReader:
    """Read an ``.npz`` on demand; never unpickles.

    Raises:
        FileNotFoundError: the file does not exist. ValueError: it is not a zip file.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file = open(self.path, "rb")  # noqa: SIM115 - closed in __exit__
        try:
            self._zip = zipfile.ZipFile(self._file)
        except _DAMAGE_ERRORS as error:
            self._file.close()
            raise ValueError(f"{self.path} is damaged or not an .npz file ({error})") from None
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
        """An array, or some rows of it along the first axis, in the stored dtype and in the order
        of ``rows``.

        Raises:
            KeyError: the array does not exist. IndexError: the row does not exist.
            ValueError: the file is damaged, or contains Python objects.
        """
        import numpy as np

        member = self._member(key)
        try:
            index: Any = rows if rows is None or isinstance(rows, slice) else np.asarray(rows, np.intp)
            if rows is None or member.fortran or not member.shape:
                whole = self._read_whole(member)
                return whole if rows is None else whole[index]
            return self._read_rows(member, np.arange(member.shape[0])[index])
        except _DAMAGE_ERRORS as error:
            raise ValueError(f"{self.path}: the array {key!r} is damaged ({error})") from None

    def iter_rows(self, key: str, threads: int = 1) -> Iterator[tuple[np.ndarray, int | None]]:
        """Every row of an array, in order, with its mark for :meth:`read_row`; None for a row that
        cannot be read alone.

        Args:
            threads: not used; the mark of a row is known when the row before it is inflated.

        Raises:
            KeyError: the array does not exist. ValueError: the file is damaged.
        """
        import numpy as np

        member = self._member(key)
        if member.info.compress_type == zipfile.ZIP_STORED:
            for row in range(member.shape[0]):
                yield self.read(key, [row])[0], 0
            return
        with self._open_raw(member) as file:
            start = file.tell()
            inflated = deflate.iter_rows(file, start, start + member.info.compress_size, member.start, member.row_bytes)
            try:
                for data, mark in inflated:
                    array = np.frombuffer(data, member.dtype).reshape(member.shape[1:])
                    yield array, None if mark is None else mark - start
            except _DAMAGE_ERRORS as error:
                raise ValueError(f"{self.path}: the array {key!r} is damaged ({error})") from None

    def read_row(self, key: str, row: int, mark: int) -> np.ndarray:
        """One row, without reading the rows before it.

        Zip has checksums of whole arrays only, so the caller compares a digest.

        Args:
            mark: from :meth:`iter_rows`.

        Raises:
            KeyError: the array does not exist. IndexError: the row does not exist. ValueError: the
                file is damaged.
        """
        import numpy as np

        member = self._member(key)
        if member.info.compress_type == zipfile.ZIP_STORED:
            return self.read(key, [row])[0]
        try:
            with self._open_raw(member) as file:
                data = deflate.read_row(file, file.tell() + mark, member.row_bytes)
        except _DAMAGE_ERRORS as error:
            raise ValueError(f"{self.path}: row {row} of the array {key!r} is damaged ({error})") from None
        return np.frombuffer(data, member.dtype).reshape(member.shape[1:])

    def _member(self, key: str) -> _Member:
        """The header of an array, read once."""
        if key not in self._members:
            try:
                info = self._zip.getinfo(f"{key}.npy")
            except KeyError:
                raise KeyError(f"{key!r} is not in {self.path}") from None
            try:
                with self._zip.open(info) as file:
                    member = _read_header(info, file)
            except (OSError, ValueError, *_DAMAGE_ERRORS) as error:
                if isinstance(error, OSError) and error.errno != errno.EINVAL:  # an offset before the file
                    raise
                raise ValueError(f"{self.path}: the array {key!r} cannot be read ({error})") from None
            if member.dtype.hasobject:
                raise ValueError(f"{self.path}: the array {key!r} contains Python objects, which are not read")
            self._members[key] = member
        return self._members[key]

    def _read_whole(self, member: _Member) -> np.ndarray:
        """The whole array, through the zip reader, which compares the checksum."""
        import numpy as np

        out = np.empty(member.shape[::-1] if member.fortran else member.shape, member.dtype)
        with self._zip.open(member.info) as file:
            _skip(file, member.start)
            _fill(file, out)
            if file.read(1):
                raise EOFError("the data are longer than in its header")
        return out.T if member.fortran else out

    def _read_rows(self, member: _Member, wanted: np.ndarray) -> np.ndarray:
        """Some rows, in the order of ``wanted``."""
        import numpy as np

        out = np.empty((len(wanted), *member.shape[1:]), member.dtype)
        size = out[:1].nbytes if len(wanted) else 0
        if not size:
            return out
        is_stored = member.info.compress_type == zipfile.ZIP_STORED
        with self._open_stored(member) if is_stored else self._zip.open(member.info) as file:
            offset = file.tell()
            base = offset if is_stored else member.start
            previous = None
            for i in np.argsort(wanted, kind="stable"):  # a compressed member is read once, forwards
                row = int(wanted[i])
                if previous is not None and wanted[previous] == row:
                    out[i] = out[previous]
                    continue
                target = base + row * size
                if is_stored:
                    file.seek(target)
                else:
                    _skip(file, target - offset)
                _fill(file, out[i : i + 1])
                offset, previous = target + size, i
        return out

    def _open_stored(self, member: _Member) -> IO[bytes]:
        """The file, opened again, at the first number of a member that is not compressed."""
        file = self._open_raw(member)
        file.seek(member.start, os.SEEK_CUR)
        return file

    def _open_raw(self, member: _Member) -> IO[bytes]:
        """The file, opened again, at the first byte of a member, not inflated."""
        file = open(self.path, "rb")  # noqa: SIM115 - the caller closes it
        file.seek(member.info.header_offset)
        header = file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            file.close()
            raise EOFError("there is no zip member at its offset")
        names = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        file.seek(member.info.header_offset + 30 + names)
        return file


def _read_header(info: zipfile.ZipInfo, file: IO[bytes]) -> _Member:
    """Read the npy header at the beginning of a member."""
    import numpy as np

    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"version {version} of the npy format")
    shape, fortran, dtype = read(file)
    return _Member(info, shape, dtype, fortran and len(shape) > 1, file.tell())


def _skip(file: IO[bytes], count: int) -> None:
    """Read past some bytes of a file that cannot seek cheaply."""
    while count:
        block = file.read(min(count, 1 << 20))
        if not block:
            raise EOFError("the data end too early")
        count -= len(block)


def _fill(file: IO[bytes], out: np.ndarray) -> None:
    """Fill a contiguous array from a file."""
    if not out.size:
        return
    view, done = out.reshape(-1).view("u1").data, 0
    while done < len(view):
        count = file.readinto(view[done : done + (1 << 24)])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the data end too early")
        done += count


Writer, Reader = NpzWriter, NpzReader
