"""Manifests that are not read whole: long lists stay in the file until an entry is read.

``formats/manifest.py`` writes each entry of a list over all ROIs on a line of its own. The end of
a list is found by a search for its closing line, an entry by its line number. Any other JSON file
is read whole.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, overload

#: Keys whose lists stay in the file.
_LISTS = (
    rb"names|roi_ids|spatials|windows|metas|rows|scenes|items|npz_keys|nc_variables|indices|repeated_rois|\w+_indices"
)
#: First line of a list or mapping that stays in the file.
_FIRST_LINE = re.compile(rb'( *)"(?:(' + _LISTS + rb')": (\[)|(\w+_by_index)": (\{))\n')
#: Beginning of a manifest written by ``formats/manifest.py``.
_MANIFEST_START = re.compile(rb'\{\n "schema_version": \d+,\n')
_BLOCK = 1 << 22


class LineList(Sequence[Any]):
    """A JSON list in a file, one entry per line.

    Memory: 8 bytes per entry after the first access by number.

    Args:
        state: of the file when it was opened, see :func:`_file_state`.
        start, stop: offsets of the first entry and behind the last one.
    """

    def __init__(self, path: Path, state: tuple[int, int, int], start: int, stop: int) -> None:
        self._path, self._state, self._start, self._stop = path, state, start, stop
        self._offsets: array[int] | None = None

    def _open(self) -> IO[bytes]:
        file = open(self._path, "rb")  # noqa: SIM115 - the callers close it
        if _file_state(file.fileno()) != self._state:
            file.close()
            raise ValueError(f"{self._path} has changed since it was opened; call load_export again")
        return file

    def _entry_offsets(self) -> array[int]:
        if self._offsets is None:
            found, offset = array("Q"), self._start
            with self._open() as file:
                file.seek(offset)
                while offset < self._stop:
                    found.append(offset)
                    offset += len(file.readline())
            self._offsets = found
        return self._offsets

    def __len__(self) -> int:
        return len(self._entry_offsets())

    @overload
    def __getitem__(self, which: int) -> Any: ...

    @overload
    def __getitem__(self, which: slice) -> list[Any]: ...

    def __getitem__(self, which: int | slice) -> Any:
        offsets = self._entry_offsets()
        if isinstance(which, slice):
            return [self[i] for i in range(*which.indices(len(offsets)))]
        offset = offsets[which]
        with self._open() as file:
            file.seek(offset)
            return json.loads(file.readline().rstrip(b",\n"))

    def __iter__(self) -> Iterator[Any]:
        remaining = self._stop - self._start
        with self._open() as file:
            file.seek(self._start)
            while remaining > 0:
                block = file.read(min(_BLOCK, remaining))
                block += file.readline() if len(block) < remaining else b""
                remaining -= len(block)
                yield from json.loads(b"[" + block.rstrip(b",\n") + b"]")

    def read_mapping(self) -> dict[str, Any]:
        """The entries as a mapping, for a mapping that was written in lines."""
        with self._open() as file:
            file.seek(self._start)
            mapping: dict[str, Any] = json.loads(b"{" + file.read(self._stop - self._start).rstrip(b",\n") + b"}")
        return mapping


def _file_state(file: int) -> tuple[int, int, int]:
    """Inode, size and modification time: a file that was replaced or changed has another state."""
    stat = os.fstat(file)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest; long lists of a manifest of this package are :class:`LineList`.

    Raises:
        ValueError: the file is not a JSON mapping.
    """
    try:
        with open(path, "rb") as file:
            text, regions = _cut_out_lists(file) if _MANIFEST_START.match(file.read(40)) else (None, [])
            state = _file_state(file.fileno())
            if text is not None:
                lists = [LineList(path, state, *region) for region in regions]
                manifest = json.loads(text, object_hook=lambda m: lists[m["\0"]] if "\0" in m else m)
            else:
                file.seek(0)
                manifest = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a manifest ({error})") from None
    if not isinstance(manifest, dict):
        raise ValueError(f"{path} cannot be read as a manifest (it is no JSON object)")
    return manifest


def _cut_out_lists(file: IO[bytes]) -> tuple[bytes | None, list[tuple[int, int]]]:
    """The manifest with a number in place of each long list, and the (start, stop) offsets of the
    lists.

    None where entries are not on lines of their own: another program has formatted the file.
    """
    parts: list[bytes] = []
    regions: list[tuple[int, int]] = []
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        offset = 0
        while offset < len(text):
            text.seek(offset)
            line = text.readline()
            match = _FIRST_LINE.fullmatch(line)
            offset += len(line)
            if match is None:
                parts.append(line)
                continue
            pad, bracket, key = match[1], match[3] or match[5], match[2] or match[4]
            end = text.find(b"\n" + pad + (b"]" if bracket == b"[" else b"}"), offset - 1)
            if end < 0 or text.find(b"\n" + pad + b"  ", offset - 1, end) >= 0:
                return None, []
            parts.append(pad + b'"' + key + b'": {"\\u0000": %d}' % len(regions))
            regions.append((offset, end + 1))
            offset = end + 1 + len(pad) + 1
    return b"".join(parts), regions


def as_list(value: Any) -> Sequence[Any]:
    """A list of a manifest, in memory or in the file; empty for anything else."""
    return value if isinstance(value, (list, LineList)) else ()


def parse_index_keys(value: Any) -> dict[int, Any]:
    """A mapping by ROI index; JSON stores its keys as texts. Empty for anything else."""
    if isinstance(value, LineList):
        value = value.read_mapping()
    return {int(k): v for k, v in value.items()} if isinstance(value, dict) else {}


def read_statuses(entry: Mapping[str, Any], n: int) -> list[str]:
    """``ok`` or ``no_data`` for each ROI of a model's entry; failures are listed separately."""
    statuses = ["ok"] * n
    for i in as_list(entry.get("no_data_indices")):
        statuses[i] = "no_data"
    return statuses
