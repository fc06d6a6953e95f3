"""One object: a plain ``.npy`` file (``numpy.load`` reads it) followed by a footer: JSON metadata, its length, a magic word and
the SHA-256 of everything before, so that a reader notices every changed byte. The same bytes lie in a file of their own or in
a pack (``packs.py``).
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..errors import StoreError
from .atomic_files import replace_file

if TYPE_CHECKING:
    import numpy as np

_MAGIC = b"RSEMBED1"
_FOOTER = struct.Struct("<Q8s32s")  # length of the JSON, magic, SHA-256 of all bytes before the digest


@dataclass(frozen=True)
class Object:
    """What a stored object says.

    Attributes:
        array: the numbers, None when only the metadata was asked for.
        meta: provenance and quality; ``status`` is ``"ok"`` or ``"no_data"``.
        sha256: digest of the object's bytes up to the digest itself, hex.
        size: bytes of the object.
    """

    array: np.ndarray | None
    meta: dict
    sha256: str
    size: int


def write_object(path: Path, array: np.ndarray, meta: dict) -> Object:
    """Store an array with its metadata (JSON values)."""
    data, sha = encoded(array, meta)
    replace_file(path, data)
    return Object(array, meta, sha, len(data))


def encoded(array: np.ndarray, meta: dict) -> tuple[memoryview, str]:
    """The bytes of an object, and its digest, hex."""
    import numpy as np

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.ascontiguousarray(array), allow_pickle=False)
    text = json.dumps(meta, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    buffer.write(text)
    buffer.write(struct.pack("<Q8s", len(text), _MAGIC))
    sha = hashlib.sha256(buffer.getbuffer()).digest()
    buffer.write(sha)
    return buffer.getbuffer(), sha.hex()


def read_object(path: Path) -> Object:
    """Read and verify the object that a file holds.

    Raises:
        FileNotFoundError: there is none. StoreError: it is damaged.
    """
    return decode(path.read_bytes(), str(path))


def verify_object(path: Path) -> Object:
    """Verify all bytes of an object without making its array; raises like :func:`read_object`."""
    return decode(path.read_bytes(), str(path), array=False)


def decode(data: bytes, called: str, *, array: bool = True) -> Object:
    """Verify the bytes of an object, and read it.

    Args:
        called: what it is called in the error.
        array: make its array.

    Raises:
        StoreError: it is damaged.
    """
    body = len(data) - _FOOTER.size
    try:
        length, _, sha = _FOOTER.unpack_from(data, max(body, 0))
        if sound(data) is None:
            raise ValueError("its digest does not fit its content")
        meta = json.loads(data[body - length : body])
        made = _array(data) if array else None
    except (ValueError, struct.error, EOFError) as error:
        raise StoreError(f"damaged object {called}: {error}") from None
    return Object(made, meta, sha.hex(), len(data))


def _array(data: bytes) -> np.ndarray:
    import numpy as np

    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def sound(data: bytes) -> bytes | None:
    """The digest of an object's bytes; None where it does not fit them."""
    if len(data) < _FOOTER.size:
        return None
    _, magic, sha = _FOOTER.unpack_from(data, len(data) - _FOOTER.size)
    return sha if magic == _MAGIC and hashlib.sha256(memoryview(data)[:-32]).digest() == sha else None


def peek(path: Path) -> Object | None:
    """Metadata and recorded digest of an object without reading or checking its numbers; None if there is none or its
    end is not a footer (a truncated file is as good as none: it is made again)."""
    try:
        with open(path, "rb") as file:
            return peek_in(file, 0, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        return None


def peek_in(file: IO[bytes], start: int, size: int) -> Object | None:
    """As :func:`peek`, of the object that lies at an offset of an open file."""
    length = 4096 - _FOOTER.size
    for _ in range(2):  # once more where the metadata are longer than that
        tail = _end(file, start, size, length + _FOOTER.size)
        try:
            said, magic, sha = _FOOTER.unpack(tail[-_FOOTER.size :])
            if magic != _MAGIC:
                return None
            if said <= length:
                return Object(None, json.loads(tail[-_FOOTER.size - said : -_FOOTER.size]), sha.hex(), size)
            length = said
        except (ValueError, struct.error):
            return None
    return None


def dtype_in(file: IO[bytes], start: int) -> str:
    """The dtype of the numbers of the object at an offset of an open file, as ``numpy.dtype`` takes it.

    Raises:
        ValueError: it does not begin as an object does.
    """
    import numpy as np

    file.seek(start)
    try:
        np.lib.format.read_magic(file)
        return np.lib.format.read_array_header_1_0(file)[2].str
    except (EOFError, SyntaxError, tokenize.TokenError, struct.error) as error:
        raise ValueError(str(error)) from None


def _end(file: IO[bytes], start: int, size: int, length: int) -> bytes:
    """The last ``length`` bytes, or all there are."""
    length = min(length, size)
    file.seek(start + size - length)
    return file.read(length)


def set_aside(path: Path) -> Path:
    """Move a damaged object out of the way, keeping it for a look; returns its new name."""
    aside = aside_of(path)
    with contextlib.suppress(FileNotFoundError):  # another thread was faster
        os.replace(path, aside)
    return aside


def aside_of(path: Path) -> Path:
    """Where a damaged object goes."""
    return path.with_name(path.name + ".damaged")
