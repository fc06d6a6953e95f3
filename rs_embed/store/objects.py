"""The bytes of one object: a ``.npy`` file (``numpy.load`` reads it) followed by a footer.

The footer is JSON metadata, its length, a magic word and the SHA-256 of everything before it, so
that a reader detects every changed byte. The same bytes are stored in a file of their own or in a
pack (``packs.py``).
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
from typing import IO, TYPE_CHECKING, Any

from ..errors import StoreError
from .atomic_files import replace_file

if TYPE_CHECKING:
    import numpy as np

_MAGIC = b"RSEMBED1"
_FOOTER = struct.Struct("<Q8s32s")  # length of the JSON, magic, SHA-256 of all bytes before the digest


@dataclass(frozen=True)
class Object:
    """The content of a stored object.

    Attributes:
        array: the numbers; None if only the metadata was read.
        meta: provenance and quality; ``status`` is ``"ok"`` or ``"no_data"``.
        sha256: digest of the object's bytes up to the digest itself, hex.
        size: bytes of the object.
    """

    array: np.ndarray | None
    meta: dict[str, Any]
    sha256: str
    size: int


def write_object(path: Path, array: np.ndarray, meta: dict[str, Any]) -> Object:
    """Store an array with its metadata (JSON values); the result has the array as it is stored."""
    array = _arrange(array)
    data, sha = encode_object(array, meta)
    replace_file(path, data)
    return Object(array, meta, sha, len(data))


def encode_object(array: np.ndarray, meta: dict[str, Any]) -> tuple[memoryview, str]:
    """The bytes of an object, and its digest, hex. They depend on the values and their dtype, not
    on the order in memory."""
    import numpy as np

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, _arrange(array), allow_pickle=False)
    text = json.dumps(meta, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    buffer.write(text)
    buffer.write(struct.pack("<Q8s", len(text), _MAGIC))
    sha = hashlib.sha256(buffer.getbuffer()).digest()
    buffer.write(sha)
    return buffer.getbuffer(), sha.hex()


def _arrange(array: np.ndarray) -> np.ndarray:
    """The array in C order and little-endian; the array itself where it has both."""
    import numpy as np

    return np.asarray(array, array.dtype.newbyteorder("<"), order="C")


def read_object(path: Path) -> Object:
    """Read and verify the object in a file.

    Raises:
        FileNotFoundError: the file does not exist. StoreError: the object is damaged.
    """
    return decode_object(path.read_bytes(), str(path))


def verify_object(path: Path) -> Object:
    """Verify all bytes of an object without decoding its array; raises like
    :func:`read_object`."""
    return decode_object(path.read_bytes(), str(path), array=False)


def decode_object(data: bytes, label: str, *, array: bool = True) -> Object:
    """Verify and decode the bytes of an object.

    Args:
        label: name of the object in error messages.
        array: decode its array, not the metadata alone.

    Raises:
        StoreError: the object is damaged.
    """
    body = len(data) - _FOOTER.size
    try:
        length, _, sha = _FOOTER.unpack_from(data, max(body, 0))
        if verified_digest(data) is None:
            raise ValueError("its digest does not fit its content")
        meta = json.loads(data[body - length : body])
        numbers = _decode_array(data) if array else None
    except (ValueError, struct.error, EOFError) as error:
        raise StoreError(f"damaged object {label}: {error}") from None
    return Object(numbers, meta, sha.hex(), len(data))


def _decode_array(data: bytes) -> np.ndarray:
    import numpy as np

    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)


def verified_digest(data: bytes) -> bytes | None:
    """The digest at the end of an object's bytes; None if it does not fit them."""
    if len(data) < _FOOTER.size:
        return None
    _, magic, sha = _FOOTER.unpack_from(data, len(data) - _FOOTER.size)
    return sha if magic == _MAGIC and hashlib.sha256(memoryview(data)[:-32]).digest() == sha else None


def read_metadata(path: Path) -> Object | None:
    """Metadata and recorded digest of an object, without reading or checking its numbers.

    None if the file does not exist or does not end with a footer: a truncated object counts as
    missing and is created again.
    """
    try:
        with open(path, "rb") as file:
            return read_metadata_at(file, 0, os.fstat(file.fileno()).st_size)
    except FileNotFoundError:
        return None


def read_metadata_at(file: IO[bytes], start: int, size: int) -> Object | None:
    """Like :func:`read_metadata`, for the object at an offset of an open file."""
    length = 4096 - _FOOTER.size
    for _ in range(2):  # again if the metadata are longer than that
        tail = _read_end(file, start, size, length + _FOOTER.size)
        try:
            actual, magic, sha = _FOOTER.unpack(tail[-_FOOTER.size :])
            if magic != _MAGIC:
                return None
            if actual <= length:
                return Object(None, json.loads(tail[-_FOOTER.size - actual : -_FOOTER.size]), sha.hex(), size)
            length = actual
        except (ValueError, struct.error):
            return None
    return None


def read_dtype_at(file: IO[bytes], start: int) -> str:
    """The dtype of the object at an offset of an open file, as ``numpy.dtype`` accepts it.

    Raises:
        ValueError: the bytes there do not begin like an object.
    """
    import numpy as np

    file.seek(start)
    try:
        np.lib.format.read_magic(file)
        return np.lib.format.read_array_header_1_0(file)[2].str
    except (EOFError, SyntaxError, tokenize.TokenError, struct.error) as error:
        raise ValueError(str(error)) from None


def _read_end(file: IO[bytes], start: int, size: int, length: int) -> bytes:
    """The last ``length`` bytes of an object, or all if it is shorter."""
    length = min(length, size)
    file.seek(start + size - length)
    return file.read(length)


def set_aside(path: Path) -> Path:
    """Rename a damaged object, so that it can still be inspected; returns its new path."""
    aside = damaged_path(path)
    with contextlib.suppress(FileNotFoundError):  # another thread was faster
        os.replace(path, aside)
    return aside


def damaged_path(path: Path) -> Path:
    """The path that a damaged object is renamed to."""
    return path.with_name(path.name + ".damaged")
