"""Streaming npz: members are written row by row, the file appears whole or not at all, equal content gives equal bytes.

Embeddings are stored as they are (float32 hardly shrinks, and a reader can map them); pixels are deflated.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..store import temporary_name
from .arrays import Array, Row

if TYPE_CHECKING:
    import numpy as np

PATH, KEYS = "npz_path", "npz_keys"
#: Deflate level of pixels: 1 is several times faster than 6 and within a few percent of its size on 16-bit imagery.
LEVEL = 1
#: Bytes from which zip needs 64-bit sizes; known sizes decide per member, so small files stay plain.
_ZIP64 = 0x7FFFFFFF


class NpzWriter:
    """Write an ``.npz`` in a temporary file; leaving the ``with`` block without an error renames it to ``path``."""

    def __init__(self, path: str | Path, about: Callable | None = None) -> None:
        """``about`` is for formats that say more than numbers."""
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_name(self.path)
        self._file = open(self._temporary, "xb")  # noqa: SIM115 - closed in __exit__
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        self.keys: list[str] = []

    def __enter__(self) -> NpzWriter:
        return self

    def add(self, array: Array, shape: tuple[int, ...], dtype: np.dtype, rows: Iterable[Row]) -> None:
        """Write one array from rows along its first axis, or from the whole; memory holds one of them.

        Raises:
            ValueError: the rows do not add up to ``shape`` and ``dtype``.
        """
        import numpy as np

        key, deflate = array.key, array.kind == "input"
        info = zipfile.ZipInfo(f"{key}.npy")  # the default date of 1980: bytes depend on content alone
        info.compress_type = zipfile.ZIP_DEFLATED if deflate else zipfile.ZIP_STORED
        info.external_attr = 0o644 << 16
        if deflate:
            info._compresslevel = LEVEL  # type: ignore[attr-defined] - ZipFile.open has no argument for it
        expected = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        written = 0
        with self._zip.open(info, "w", force_zip64=expected > _ZIP64) as member:
            header = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": tuple(map(int, shape)),
            }
            np.lib.format.write_array_header_1_0(member, header)
            for piece, *_ in rows:
                if piece.dtype != dtype:
                    raise ValueError(f"{key}: a piece of dtype {piece.dtype} in an array of {dtype}")
                written += member.write(memoryview(np.ascontiguousarray(piece)).cast("B")) if piece.size else 0
        if written != expected:
            raise ValueError(f"{key}: {written} bytes for an array of {expected}")
        self.keys.append(key)

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


Writer = NpzWriter
