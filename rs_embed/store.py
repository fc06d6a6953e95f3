"""The store: one file per (source, bands, ROI) and per (unit, ROI), named by its identity, so *file exists = done*.

An object is a plain ``.npy`` file (``numpy.load`` reads it) followed by a footer: JSON metadata, its length, a magic
word and the SHA-256 of everything before. It is written to a unique temporary name and renamed: two writers of one
object are harmless, a dead writer leaves no half object, and a reader notices every changed byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import StoreError
from .identity import digest

if TYPE_CHECKING:
    import numpy as np

_MAGIC = b"RSEMBED1"
_FOOTER = struct.Struct("<Q8s32s")  # length of the JSON, magic, SHA-256 of all bytes before the digest
_counter = itertools.count()
#: Temporary files begin with this; ``clean`` removes those that dead processes left.
TEMP_PREFIX = ".tmp-"


def replace_file(path: str | Path, data: bytes, *, durable: bool = False) -> None:
    """Write a file so that readers see the old or the whole new content; survives two writers and a crash.

    Args:
        durable: survive a power loss, too (for the few small files that nothing else can restore).

    Raises:
        StoreError: it cannot be written, for example because the disk is full.
    """
    with writing(path):
        _replace_file(Path(path), data, durable)


def _replace_file(path: Path, data: bytes, durable: bool) -> None:
    temporary = temporary_name(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace_file(path, data, durable)
    except BaseException:
        with contextlib.suppress(OSError):  # the error that is on its way says more
            temporary.unlink()
        raise


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """What is done inside writes this file, or into this folder.

    Raises:
        StoreError: it cannot be written: one sentence with the path and the system's reason.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error)
        raise StoreError(f"{path} cannot be written ({why})") from error


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other thread, process or machine uses."""
    return path.with_name(f"{TEMP_PREFIX}{socket.gethostname()}-{os.getpid()}-{next(_counter)}-{path.name[-80:]}")


def clean(folder: Path) -> int:
    """Remove temporary files of dead processes of this machine directly in ``folder``; returns how many."""
    removed = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_leftover(entry.name):
                Path(entry.path).unlink(missing_ok=True)
                removed += 1
    return removed


def is_leftover(name: str) -> bool:
    """A file name is that of a temporary file of a dead process of this machine."""
    prefix = f"{TEMP_PREFIX}{socket.gethostname()}-"
    pid = name[len(prefix) :].split("-", 1)[0] if name.startswith(prefix) else ""
    return pid.isdigit() and not _alive(int(pid))


def _alive(pid: int) -> bool:
    """A process of this machine that can still write: one that only waits to be collected (in containers, for good) cannot."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:  # no such process, or no /proc
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True)
class Object:
    """What a stored file says.

    Attributes:
        array: the numbers, None when only the metadata was asked for.
        meta: provenance and quality; ``status`` is ``"ok"`` or ``"no_data"``.
        sha256: digest of the file's bytes up to the digest itself, hex.
        size: bytes of the file.
    """

    array: np.ndarray | None
    meta: dict
    sha256: str
    size: int


class Store:
    """Chips and embeddings under one folder."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def chip_dir(self, source_id: str, bands: tuple[str, ...]) -> Path:
        """Folder of the chips of a source that hold exactly these bands (in any order)."""
        return self.root / "chips" / source_id / digest(sorted(bands), 12)

    def chip(self, source_id: str, bands: tuple[str, ...], roi: str) -> Path:
        """File of a chip."""
        return self.chip_dir(source_id, bands) / roi[:2] / f"{roi}.npy"

    def embedding(self, unit_id: str, roi: str) -> Path:
        """File of an embedding."""
        return self.root / "embeddings" / unit_id / roi[:2] / f"{roi}.npy"

    def band_sets(self, source_id: str, wanted: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
        """The band sets that chips of a source were fetched with, largest first; each folder says its own.

        Args:
            wanted: a set whose folder is found by its name, whatever it says. A folder with a damaged declaration is
                passed over until it is declared again.
        """
        found = {tuple(sorted(wanted))} if wanted and self.chip_dir(source_id, wanted).is_dir() else set()
        for entry in (self.root / "chips" / source_id).glob("*/bands.json"):
            bands = self.declared(entry.parent)
            if bands:
                found.add(bands)
        return sorted(found, key=lambda b: (-len(b), b))

    def declared(self, folder: Path) -> tuple[str, ...] | None:
        """The bands that a chip folder says it holds; None where it says nothing that fits its name."""
        bands = self._declared(folder / "bands.json")
        return bands if bands and folder.name == self.chip_dir("", bands).name else None

    @staticmethod
    def _declared(path: Path) -> tuple[str, ...] | None:
        try:
            return tuple(sorted(json.loads(path.read_text())))
        except (OSError, ValueError, TypeError):
            return None

    def declare_bands(self, source_id: str, bands: tuple[str, ...]) -> None:
        """Say which bands a chip folder holds, before the first chip goes into it."""
        path = self.chip_dir(source_id, bands) / "bands.json"
        if self._declared(path) != tuple(sorted(bands)):
            replace_file(path, json.dumps(sorted(bands)).encode(), durable=True)

    def covering(
        self, source_id: str, bands: tuple[str, ...], roi: str, band_sets: list[tuple[str, ...]]
    ) -> tuple[list[tuple[str, ...]], list[str]]:
        """Which stored chips of a ROI together hold ``bands``, and which bands none holds."""
        missing, use = set(bands), []
        for held in band_sets:
            if missing & set(held) and self.chip(source_id, held, roi).exists():
                use.append(held)
                missing -= set(held)
        return use, [b for b in bands if b in missing]

    def register(self, work: Path) -> None:
        """Say that runs of a work folder use this store: ``prune`` counts what they refer to, wherever it is started."""
        path = os.path.relpath(os.path.realpath(work), os.path.realpath(self.root))
        text = json.dumps({"path": path}).encode()
        file = self.root / "works" / f"{digest(path, 16)}.json"
        if not file.exists() or file.read_bytes() != text:
            replace_file(file, text, durable=True)

    def works(self) -> dict[Path, Path | None]:
        """Registrations, and the work folder that each names; None for one that cannot be read."""
        return {file: self._work(file) for file in sorted((self.root / "works").glob("[0-9a-f]*.json"))}

    def _work(self, file: Path) -> Path | None:
        try:
            return Path(
                os.path.normpath(os.path.join(os.path.realpath(self.root), json.loads(file.read_text())["path"]))
            )
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def clean(self) -> int:
        """Remove temporary files that dead processes left anywhere in the store."""
        return sum(clean(Path(folder)) for folder, _, _ in os.walk(self.root))


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
    """Read and verify an object.

    Raises:
        FileNotFoundError: there is none. StoreError: it is damaged.
    """
    import numpy as np

    return _read(path, lambda data: np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))


def verify_object(path: Path) -> Object:
    """Verify all bytes of an object without making its array; raises like :func:`read_object`."""
    return _read(path, lambda data: None)


def _read(path: Path, decode: Callable[[bytes], np.ndarray | None]) -> Object:
    data = path.read_bytes()
    body = len(data) - _FOOTER.size
    try:
        length, magic, sha = _FOOTER.unpack_from(data, max(body, 0))
        if magic != _MAGIC or hashlib.sha256(memoryview(data)[:-32]).digest() != sha:
            raise ValueError("its digest does not fit its content")
        meta: dict[str, Any] = json.loads(data[body - length : body])
        array = decode(data)
    except (ValueError, struct.error, EOFError) as error:
        raise StoreError(f"damaged object {path}: {error}") from None
    return Object(array, meta, sha.hex(), len(data))


def peek(path: Path) -> Object | None:
    """Metadata and recorded digest of an object without reading or checking its numbers; None if there is none or its
    end is not a footer (a truncated file is as good as none: it is made again)."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - 4096, 0))
            tail = file.read()
            length, magic, sha = _FOOTER.unpack(tail[-_FOOTER.size :])
            if magic != _MAGIC:
                return None
            if length + _FOOTER.size > len(tail):
                file.seek(size - _FOOTER.size - length)
                tail = file.read()
            return Object(None, json.loads(tail[-_FOOTER.size - length : -_FOOTER.size]), sha.hex(), size)
    except (FileNotFoundError, ValueError, struct.error):
        return None


def dtype_of(path: Path) -> str:
    """The dtype of an object's numbers, as ``numpy.dtype`` takes it.

    Raises:
        OSError: there is none. ValueError: it does not begin as an object does.
    """
    import numpy as np

    with open(path, "rb") as file:
        np.lib.format.read_magic(file)
        return np.lib.format.read_array_header_1_0(file)[2].str


def set_aside(path: Path) -> Path:
    """Move a damaged object out of the way, keeping it for a look; returns its new name."""
    aside = path.with_name(path.name + ".damaged")
    os.replace(path, aside)
    return aside
