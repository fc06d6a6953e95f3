"""Band, scene and date in the name of a raster that belongs to no known product.

A date is only taken from a name where it is unambiguous: by the naming convention of a product, or
as the only date in the name of the file, else of the innermost folder that has one. Digits that
could be something else (a path and row, an orbit, a day of the year) are no date.
"""

from __future__ import annotations

import datetime as dt
import re

from ...products import date_in_name

#: Tags with the time of acquisition, as several tools write them.
_TAGS = ("datetime", "acquisition_datetime", "ACQUISITIONDATETIME", "ACQUISITION_DATE", "SENSING_TIME", "DATE_ACQUIRED")
#: The time of the file (TIFF 6.0: "date and time of image creation"), used where nothing else is.
FILE_TIME = "TIFFTAG_DATETIME"
_BAND = r"(?:^|[_.-])((?:(?:SR_|ST_)?(?:[Bb](?:0?[1-9]|1[0-2]|8[Aa]))|SCL|AOT|WVP|QA_PIXEL|Fmask)|VV|VH|HH|HV|vv|vh|hh|hv)(?=[_.-]|$)"
SIZE = r"_(\d{2})m$"
#: YYYYMMDD, or with one and the same separator, perhaps with a time.
_DAY = re.compile(
    r"(?<!\d)((?:19|20)\d\d)([-_.]?)(\d\d)\2(\d\d)(?:[T_ ]?([01]\d|2[0-3])([-:]?)([0-5]\d)\6([0-5]\d)(?:\.\d+)?(?=Z|\D|$))?(?!\d)"
)
#: A year and a day of it, which is as well a number of seven digits.
_DAY_OF_YEAR = re.compile(r"(?<!\d)((?:19|20)\d\d)([0-3]\d\d)(?!\d)")
AMBIGUOUS = "several dates"


def parse_band(path: str) -> tuple[str, str] | None:
    """Band and scene in the name of a file with one band: T32VNJ_20220701T104031_B02_10m.jp2 has
    B2."""
    folder, _, name = path.rpartition("/")
    stem = name.rpartition(".")[0]
    match = re.search(_BAND, stem)
    if not match:
        return None
    word = match.group(1) if match.group(1) in ("QA_PIXEL", "Fmask") else match.group(1).upper()
    band = re.sub(r"^B0(?=\d)", "B", word)
    remainder = re.sub(SIZE, "", stem[: match.start()] + stem[match.end() :]).strip("_.-")
    folders = [f for f in folder.split("/") if f and not re.fullmatch(r"R\d+m", f)]
    return band, "/".join([*folders, remainder]).rstrip("/") or folder or "."


def find_time(path: str, tags: dict[str, str]) -> tuple[str | None, str]:
    """Time of acquisition of a file, ISO 8601, and where it was found.

    Args:
        path: relative, with ``/``. tags: of the file.

    Returns:
        (None, :data:`AMBIGUOUS`) where a name has several dates; (None, "") where there is none.
    """
    parts = path.split("/")[::-1]
    parts[0] = parts[0].rpartition(".")[0] or parts[0]
    inner: set[str] = set()  # dates of names inside the one that follows a convention
    for part in parts:
        if when := date_in_name(part):
            return (None, AMBIGUOUS) if inner - {when[:10]} else (when, "naming convention")
        inner |= _dates(part).keys()
    for tag in _TAGS:
        if len(found := _dates(tags.get(tag, ""))) == 1:
            return found.popitem()[1], f"tag {tag}"
    for number, part in enumerate(parts):
        found = _dates(part)
        if len(found) > 1 or _other_days(part) - set(found):
            return None, AMBIGUOUS
        if found:
            return found.popitem()[1], "file name" if number == 0 else "folder name"
    found = _dates(tags.get(FILE_TIME, "").replace(":", "-", 2))
    return (found.popitem()[1], f"tag {FILE_TIME}") if len(found) == 1 else (None, "")


def _dates(text: str) -> dict[str, str]:
    """The plausible dates in a text, with the time where there is one, by day: of the calendar,
    and not in the future."""
    found: dict[str, str] = {}
    for match in _DAY.finditer(text):
        year, _, month, day, hour, _, minute, second = match.groups()
        try:
            date = dt.date(int(year), int(month), int(day))
        except ValueError:  # 31 February
            continue
        if date <= dt.datetime.now(dt.UTC).date():
            time = f"T{hour}:{minute}:{second}Z" if hour else ""
            found.setdefault(date.isoformat(), date.isoformat() + time)
    return found


def _other_days(text: str) -> set[str]:
    """Days that numbers of seven digits in a text would be, if they were days of a year."""
    days = set()
    for match in _DAY_OF_YEAR.finditer(text):
        year, number = int(match[1]), int(match[2])
        if 1 <= number <= 366:
            days.add((dt.date(year, 1, 1) + dt.timedelta(number - 1)).isoformat())
    return days
