"""``rs-embed catalogue``: the first draft of a folder's catalogue. Files say what they can; the rest is asked for, once for
each kind of file (one folder, the same bands), on the terminal or by options."""

from __future__ import annotations

import fnmatch
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import ProviderError
from ...store.store import temporary_name
from . import catalogue
from .folder_scan import Found, scan

#: Offered, never assumed: the bands of Sentinel-2 and Sentinel-1 products with so many bands, in their usual order.
_S2 = "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12"
_OFFERED = {
    13: ("COPERNICUS/S2_HARMONIZED", _S2),
    12: ("COPERNICUS/S2_SR_HARMONIZED", _S2.replace("B10 ", "")),
    2: ("COPERNICUS/S1_GRD", "VV VH"),
}


def make_catalogue(
    folder: str,
    *,
    collections: Sequence[str] = (),
    bands: Sequence[str] = (),
    datetimes: Sequence[str] = (),
    replace: bool = False,
    ask: Callable[[str], str] | None = None,
) -> str:
    """Write ``catalogue.csv`` into a folder; returns its path.

    Args:
        collections, bands, datetimes: answers, ``VALUE`` for all files or ``PATTERN=VALUE`` for those whose path fits a shell pattern
            or lies in a folder of that name; the first that fits counts.
        replace: overwrite a catalogue that is there.
        ask: asks a person; None where nobody can be asked.

    Raises:
        ProviderError: something is missing and nobody can be asked, or the catalogue is there.
    """
    target = os.path.join(folder, catalogue.NAME)
    if os.path.exists(target) and not replace:
        raise ProviderError(f"catalogue: {target} is there already; allowed: --replace to write it again")
    found, refused = scan(folder)
    for sentence in refused:
        print(f"left out: {sentence}", file=sys.stderr)
    kinds: dict[tuple, list[Found]] = {}
    for file in found:
        answers = [_fitting(a, file.path) for a in (collections, bands, datetimes)]
        kinds.setdefault((*file.kind, *answers), []).append(file)
    rows = []
    for (_, count, named, *_), files in kinds.items():
        what = f"{len(files)} file{'s' * (len(files) > 1)} like {files[0].path} ({count} band{'s' * (count > 1)})"
        offered = _OFFERED.get(count, ("", ""))
        collection = _answer("collection", collections, files, what, offered[0], ask)
        given = () if named else tuple(_answer("bands", bands, files, what, offered[1], ask).split())
        if not named and len(given) != count:
            raise ProviderError(
                f"catalogue: bands: {' '.join(given)!r} does not name the {count} bands of {files[0].path}"
            )
        undated = [f for f in files if f.datetime is None]
        when = _answer("datetime", datetimes, undated, what, "", ask) if undated else ""
        for file in files:
            time = _fitting(datetimes, file.path) if file.datetime is None else file.datetime
            names = file.bands if file.named else given
            rows.append(catalogue.Row(0, file.path, collection, time or when, names, file.scene))
    temporary = temporary_name(Path(target))
    try:
        catalogue.write(str(temporary), sorted(rows, key=lambda r: r.path))
        read = catalogue.read(str(temporary))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"wrote {target}: {len(read)} files")
    for collection in dict.fromkeys(r.collection for r in read):
        days = sorted(r.date for r in read if r.collection == collection)
        print(f"  {collection}: {len(days)} files, {days[0]} to {days[-1]}")
    for where, number in Counter(f.where or "your answer" for f in found).items():
        print(f"  dates from {where}: {number} files")
    print(f"Check it, add cloud_cover or scale where they matter, and use it with  backend: local:{folder}")
    return target


def _fitting(answers: Sequence[str], path: str) -> str:
    """The first answer for a file."""
    for answer in answers:
        pattern, sep, value = answer.rpartition("=")
        if not sep or fnmatch.fnmatch(path, pattern) or path.startswith(pattern.rstrip("/") + "/"):
            return value.strip()
    return ""


def _answer(
    key: str,
    answers: Sequence[str],
    files: Sequence[Found],
    what: str,
    offered: str,
    ask: Callable[[str], str] | None,
) -> str:
    """What a person says about files of one kind."""
    said = _fitting(answers, files[0].path)
    if said:
        return said
    if ask is None:
        raise ProviderError(
            f"catalogue: --{key} is missing for {what}, and the files do not say it; allowed: --{key} VALUE, or --{key} FOLDER=VALUE"
        )
    while True:
        try:
            said = ask(f"{key} of {what}{f' [{offered}]' if offered else ''}: ").strip() or offered
        except EOFError:
            raise ProviderError(f"catalogue: no {key} was given for {what}; allowed: an answer, or --{key}") from None
        if said:
            return said
