"""``rs-embed catalogue``: the first draft of a folder's catalogue. The files' metadata is used as
far as it goes, and files of known products need nothing else; what is missing comes from options
or is asked on the terminal, once for each kind of file (one folder, the same bands)."""

from __future__ import annotations

import fnmatch
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as replace_fields
from pathlib import Path

from ...errors import ProviderError
from ...products import COLLECTION_UNITS, sentinel2
from ...store.atomic_files import temporary_path
from . import catalogue
from .file_names import AMBIGUOUS, FILE_TIME
from .folder_scan import ScannedFile, count_of, scan_folder

#: Defaults in questions, never assumed: bands of Sentinel-2 and Sentinel-1 products by number of
#: bands, in their usual order.
_S2 = "B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12"
_SUGGESTED = {
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
        collections, bands, datetimes: answers, ``VALUE`` for all files or ``PATTERN=VALUE`` for
            those whose path matches a shell pattern or is in a folder of that name; the first
            match counts.
        replace: overwrite an existing catalogue.
        ask: asks the user; None where there is no terminal.

    Raises:
        ProviderError: information is missing and the user cannot be asked, or the catalogue
            exists.
    """
    target = os.path.join(folder, catalogue.FILE_NAME)
    if os.path.exists(target) and not replace:
        raise ProviderError(f"catalogue: {target} exists already; allowed: --replace to write it again")
    found, remarks = scan_folder(folder)
    for sentence in remarks.left_out:
        print(f"left out: {sentence}", file=sys.stderr)
    for sentence in remarks.doubts:
        print(f"note: {sentence}", file=sys.stderr)
    answers = {"collection": collections, "bands": bands, "datetime": datetimes}
    kinds: dict[tuple, list[ScannedFile]] = {}
    for file in found:
        key = (*file.kind, *(_matching_answer(a, file.path) for a in answers.values()))
        kinds.setdefault(key, []).append(file)
    rows = [row for files in kinds.values() for row in _rows_of_kind(files, answers, ask)]
    temporary = temporary_path(Path(target))
    try:
        catalogue.write_catalogue(str(temporary), sorted(rows, key=lambda r: r.path))
        written = catalogue.read_catalogue(str(temporary))
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    _print_summary(target, written, found)
    advice = (
        "Use it"
        if all(f.product for f in found)
        else "Check it, add cloud_cover or scale where they matter, and use it"
    )
    print(f"{advice} with  backend: local:{folder}")
    return target


def _rows_of_kind(
    files: Sequence[ScannedFile], answers: Mapping[str, Sequence[str]], ask: Callable[[str], str] | None
) -> list[catalogue.Row]:
    """The rows of files of one kind; what the files do not contain comes from the answers."""
    if files[0].product:
        return _rows_of_product(files, answers, ask)
    count, named = files[0].kind[1:]
    what = f"{len(files)} file{'s' * (len(files) > 1)} like {files[0].path} ({count} band{'s' * (count > 1)}{files[0].alpha})"
    suggested = _SUGGESTED.get(count, ("", ""))
    collection = _answer("collection", answers, files, what, suggested[0], ask)
    given = () if named else tuple(_answer("bands", answers, files, what, suggested[1], ask).split())
    if not named and len(given) != count and not (files[0].alpha and len(given) == count + 1):
        raise ProviderError(
            f"catalogue: bands: {' '.join(given)!r} does not name the {count} bands of {files[0].path}{files[0].alpha}"
        )
    default = _ask_datetime(files, answers, what, ask)
    if collection in sentinel2.HARMONIZED and (loose := [f for f in files if _is_loose(f)]):
        print(
            f"note: nothing says the processing baseline of {count_of(len(loose), 'file')} like {loose[0].path}; from 04.00 on their numbers are "
            "1000 too high for this collection, and the column subtract must be 1000",
            file=sys.stderr,
        )
    rows = []
    for file in files:
        time = _matching_answer(answers["datetime"], file.path) if file.datetime is None else file.datetime
        names = file.bands if file.named else given
        rows.append(catalogue.Row(0, file.path, collection, time or default, names, file.scene, nodata=file.nodata))
    return rows


def _is_loose(file: ScannedFile) -> bool:
    """A file of a Sentinel-2 tile without the folder and metadata of its product."""
    return re.match(sentinel2.LOOSE_FILE, os.path.basename(file.path)) is not None


def _ask_datetime(
    files: Sequence[ScannedFile], answers: Mapping[str, Sequence[str]], what: str, ask: Callable[[str], str] | None
) -> str:
    """The answer for the files without a date; "" where all have one."""
    undated = [f for f in files if f.datetime is None]
    if not undated:
        return ""
    if any(f.where == AMBIGUOUS for f in undated):
        what += f", whose names have several dates or numbers that may be dates: {undated[0].path}"
    return _answer("datetime", answers, undated, what, "", ask)


def _rows_of_product(
    files: Sequence[ScannedFile], answers: Mapping[str, Sequence[str]], ask: Callable[[str], str] | None
) -> list[catalogue.Row]:
    """The rows of files of a known product: nothing is asked. An answer replaces the name of the
    collection."""
    default = _ask_datetime(files, answers, f"{count_of(len(files), 'file')} like {files[0].path}", ask)
    rows = []
    for file in files:
        product = file.product
        assert product is not None
        collection = _matching_answer(answers["collection"], file.path) or product.collection
        row = catalogue.Row(0, file.path, collection, file.datetime or default, file.bands, file.scene)
        rows.append(
            replace_fields(
                row,
                cloud_cover=product.cloud_cover,
                scale=product.scale,
                offset=product.offset,
                nodata=file.nodata,
                orbit=product.orbit,
                subtract=0 if collection in sentinel2.AS_DELIVERED else product.subtract,
                note=product.note,
            )
        )
    return rows


def _print_summary(target: str, rows: Sequence[catalogue.Row], files: Sequence[ScannedFile]) -> None:
    print(f"wrote {target}: {count_of(len(rows), 'file')}")
    for collection in dict.fromkeys(r.collection for r in rows):
        of_it = [r for r in rows if r.collection == collection]
        days, scenes = sorted(r.date for r in of_it), {r.scene for r in of_it}
        units = f" ({COLLECTION_UNITS[collection]})" if collection in COLLECTION_UNITS else ""
        print(
            f"  {collection}{units}: {count_of(len(scenes), 'scene')}, {count_of(len(days), 'file')}, {days[0]} to {days[-1]}"
        )
        for value, number in Counter(r.subtract for r in of_it if r.subtract).items():
            print(f"  {value} is subtracted from the numbers of {count_of(number, 'file')}")
        for note in dict.fromkeys(r.note for r in of_it if r.note):
            print(f"  values are {note}")
    for where, number in Counter(f.where if f.datetime else "your answer" for f in files).items():
        doubt = ", which may be the time of the file: check it" if FILE_TIME in where else ""
        print(f"  dates from {where}: {count_of(number, 'file')}{doubt}")


def _matching_answer(answers: Sequence[str], path: str) -> str:
    """The first answer that matches a file."""
    for answer in answers:
        pattern, sep, value = answer.rpartition("=")
        if not sep or fnmatch.fnmatch(path, pattern) or path.startswith(pattern.rstrip("/") + "/"):
            return value.strip()
    return ""


def _answer(
    key: str,
    answers: Mapping[str, Sequence[str]],
    files: Sequence[ScannedFile],
    what: str,
    suggested: str,
    ask: Callable[[str], str] | None,
) -> str:
    """The answer of an option or of the user for files of one kind."""
    answer = _matching_answer(answers[key], files[0].path)
    if answer:
        return answer
    if ask is None:
        raise ProviderError(
            f"catalogue: --{key} is missing for {what}, and the files do not contain it; allowed: --{key} VALUE, or --{key} FOLDER=VALUE"
        )
    while not answer:
        try:
            answer = ask(f"{key} of {what}{f' [{suggested}]' if suggested else ''}: ").strip() or suggested
        except EOFError:
            raise ProviderError(f"catalogue: no {key} was given for {what}; allowed: an answer, or --{key}") from None
    return answer
