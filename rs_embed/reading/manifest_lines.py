"""Manifests without reading all of them: lists with an entry for every ROI are left in the file until they are asked for.

``formats/manifest.py`` writes such an entry on a line of its own, so the end of a list is found by a search for a line, and an
entry by the number of its line. Any other JSON file is read whole.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, overload

#: Keys whose lists and mappings stay in the file.
_LISTS = (
    rb"names|roi_ids|spatials|windows|metas|rows|scenes|items|npz_keys|nc_variables|indices|repeated_rois|\w+_indices"
)
_LAZY = re.compile(rb'( *)"(?:(' + _LISTS + rb')": (\[)|(\w+_by_index)": (\{))\n')
_OURS = re.compile(rb'\{\n "schema_version": \d+,\n')
_BLOCK = 1 << 22


class Lines(Sequence):
    """A JSON list in a file, with an entry a line. Memory: 8 bytes an entry once one is asked for by its number."""

    def __init__(self, path: Path, state: tuple, start: int, stop: int) -> None:
        self._path, self._state, self._start, self._stop = path, state, start, stop
        self._offsets: array | None = None

    def _open(self) -> Any:
        file = open(self._path, "rb")  # noqa: SIM115 - the callers close it
        if _state(file.fileno()) != self._state:
            file.close()
            raise ValueError(f"{self._path} has changed since it was opened; call load_export again")
        return file

    def _starts(self) -> array:
        if self._offsets is None:
            found, at = array("Q"), self._start
            with self._open() as file:
                file.seek(at)
                while at < self._stop:
                    found.append(at)
                    at += len(file.readline())
            self._offsets = found
        return self._offsets

    def __len__(self) -> int:
        return len(self._starts())

    @overload
    def __getitem__(self, which: int) -> Any: ...

    @overload
    def __getitem__(self, which: slice) -> list: ...

    def __getitem__(self, which: int | slice) -> Any:
        starts = self._starts()
        if isinstance(which, slice):
            return [self[i] for i in range(*which.indices(len(starts)))]
        at = starts[which]
        with self._open() as file:
            file.seek(at)
            return json.loads(file.readline().rstrip(b",\n"))

    def __iter__(self) -> Iterator[Any]:
        left = self._stop - self._start
        with self._open() as file:
            file.seek(self._start)
            while left > 0:
                block = file.read(min(_BLOCK, left))
                block += file.readline() if len(block) < left else b""
                left -= len(block)
                yield from json.loads(b"[" + block.rstrip(b",\n") + b"]")

    def mapping(self) -> dict[str, Any]:
        """The entries of a mapping that was written in lines."""
        with self._open() as file:
            file.seek(self._start)
            return json.loads(b"{" + file.read(self._stop - self._start).rstrip(b",\n") + b"}")


def _state(file: int) -> tuple:
    stat = os.fstat(file)
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read(path: Path) -> dict:
    """A manifest; long lists of one of ours are :class:`Lines`.

    Raises:
        ValueError: it is no JSON mapping.
    """
    try:
        with open(path, "rb") as file:
            text, regions = _skeleton(file) if _OURS.match(file.read(40)) else (None, [])
            state = _state(file.fileno())
            if text is not None:
                lines = [Lines(path, state, *region) for region in regions]
                found = json.loads(text, object_hook=lambda m: lines[m["\0"]] if "\0" in m else m)
            else:
                file.seek(0)
                found = json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as a manifest ({error})") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} cannot be read as a manifest (it is no JSON object)")
    return found


def _skeleton(file: Any) -> tuple[bytes | None, list[tuple[int, int]]]:
    """The manifest with a number in the place of each long list, and where these are; None where entries are not on lines of
    their own: somebody has formatted the file anew."""
    parts, regions = [], []
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        at = 0
        while at < len(text):
            text.seek(at)
            line = text.readline()
            match = _LAZY.fullmatch(line)
            at += len(line)
            if match is None:
                parts.append(line)
                continue
            pad, bracket, key = match[1], match[3] or match[5], match[2] or match[4]
            end = text.find(b"\n" + pad + (b"]" if bracket == b"[" else b"}"), at - 1)
            if end < 0 or text.find(b"\n" + pad + b"  ", at - 1, end) >= 0:
                return None, []
            parts.append(pad + b'"' + key + b'": {"\\u0000": %d}' % len(regions))
            regions.append((at, end + 1))
            at = end + 1 + len(pad) + 1
    return b"".join(parts), regions


def as_list(found: Any) -> Sequence:
    """A list of a manifest, wherever it is; empty where there is none."""
    return found if isinstance(found, (list, Lines)) else ()


def by_index(found: Any) -> dict[int, Any]:
    """A mapping by ROI index: JSON has its keys as texts."""
    if isinstance(found, Lines):
        found = found.mapping()
    return {int(k): v for k, v in found.items()} if isinstance(found, dict) else {}
