"""Combine several images of one grid into one, and divide a window into the time bins of several
frames."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..planning.model_info import Frames
from ..request.specs import TemporalSpec

if TYPE_CHECKING:
    import numpy as np

#: End of the sentences about frames that the composite of the whole window replaces.
STANDS_IN = "the composite of the whole window stands in"
#: Values (C, H, W) and validity (C, H, W) of an image.
Masked = tuple["np.ndarray", "np.ndarray"]


def time_bins(window: TemporalSpec, frames: Frames) -> list[tuple[str, str]]:
    """Half-open (start, end) dates of every frame, earliest first, without gaps.

    ``equal``: ``count`` bins with bounds ``start + total_days * i // count``. ``fixed``:
    consecutive bins of ``days`` days, at most ``count``, the last one cut off at the end of the
    window. Days after the last of ``count`` bins are left out if they are fewer than one bin;
    otherwise the result is ``count`` equal bins. Both as in rs-embed 0.3.1
    (``tools/temporal.py``).
    """
    first, last = dt.date.fromisoformat(window.start), dt.date.fromisoformat(window.end)
    total = (last - first).days
    if frames.mode == "composite":
        cuts = [0, total]
    elif frames.mode == "fixed" and frames.days and total - frames.count * frames.days < frames.days:
        count = min(frames.count, -(-total // frames.days))
        cuts = [*range(0, count * frames.days, frames.days), min(total, count * frames.days)]
    else:
        count = min(frames.count, total)  # a bin has at least one day
        cuts = [total * i // count for i in range(count + 1)]
    days = [(first + dt.timedelta(days=d)).isoformat() for d in cuts]
    return list(itertools.pairwise(days))


def midpoint(start: str, end: str) -> str:
    """The date in the middle of a half-open window: start + (end - start) / 2, without the time of
    day."""
    first = dt.date.fromisoformat(start)
    return (first + (dt.date.fromisoformat(end) - first) / 2).isoformat()


def frame_dates(
    window: tuple[str, str] | None,
    bins: Sequence[tuple[str, str]],
    days: Sequence[str],
    empty: Sequence[bool] = (),
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The date of every frame, and what it is.

    Args:
        window: (start, end) of the request, or None.
        bins: dates of the frames' bins (:func:`time_bins`); empty without a window.
        days: ISO date of every image that was used.
        empty: frames that the composite of the whole window replaces.

    Returns:
        (dates, kinds): ``"acquisition"`` where all images of a frame are of one day;
        ``"bin_middle"`` otherwise, also for a replaced frame if all images are in one bin;
        ``"window_middle"`` for other replaced frames. () without a window, unless all images are
        of one day.
    """
    if window is None:
        return ((days[0],), ("acquisition",)) if len(set(days)) == 1 else ((), ())
    used = [b for b in bins if any(b[0] <= d < b[1] for d in days)]
    found = []
    for number, dates in enumerate(bins):
        replaced = number < len(empty) and empty[number]
        inside = set(days if replaced else (d for d in days if dates[0] <= d < dates[1]))
        if len(inside) == 1:
            found.append((inside.pop(), "acquisition"))
        elif replaced and len(used) != 1:
            found.append((midpoint(*window), "window_middle"))
        else:  # of a replaced frame, the bin that has all images
            found.append((midpoint(*(used[0] if replaced else dates)), "bin_middle"))
    return tuple(date for date, _ in found), tuple(kind for _, kind in found)


def composite_dtype(dtypes: Sequence[np.dtype], images: int, how: str, fill_value: float) -> np.dtype:
    """The dtype that represents a composite and ``fill_value`` exactly: that of the images, or a
    float for the median of several integer images, which can lie between two integers."""
    import numpy as np

    dtype = np.result_type(*dtypes)
    if dtype == np.float16:  # NetCDF has no such type
        dtype = np.dtype(np.float32)
    if how == "median" and images > 1 and dtype.kind in "iub":
        dtype = np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if fill_value != int(fill_value) or not limits.min <= fill_value <= limits.max:
            dtype = np.dtype(np.float32 if dtype.itemsize <= 2 else np.float64)
    if dtype == np.float32 and abs(fill_value) > np.finfo(np.float32).max:
        dtype = np.dtype(np.float64)
    return dtype


def combine(images: Sequence[Masked], how: str, fill_value: float) -> Masked:
    """Combine several images of one grid, earliest first, into one.

    Args:
        images: (values (C, H, W), valid (C, H, W) bool) each.
        how: ``"median"`` of the valid values of each pixel, or ``"mosaic"``: the latest valid one.
        fill_value: value of pixels without a valid one.

    Returns:
        (values (C, H, W) in :func:`composite_dtype`, valid (C, H, W) bool).
    """
    import numpy as np

    dtype = composite_dtype([v.dtype for v, _ in images], len(images), how, fill_value)
    any_valid = np.logical_or.reduce([valid for _, valid in images])
    if how == "mosaic" or len(images) == 1:
        out = np.full(images[0][0].shape, fill_value, dtype)
        for values, valid in images:
            np.copyto(out, values, where=valid, casting="same_kind")
        return out, any_valid
    out = np.empty(images[0][0].shape, dtype)
    for band in range(len(out)):  # band by band: memory for the images of one band only
        stack = np.ma.masked_array([v[band] for v, _ in images], mask=[~m[band] for _, m in images])
        out[band] = _masked_median(stack, dtype)
    out[~any_valid] = fill_value
    return out, any_valid


def replace_bands(image: Masked, other: Masked, which: Sequence[bool]) -> Masked:
    """(values, valid) of an image with some bands taken from another image."""
    import numpy as np

    choose = np.asarray(which)[:, None, None]
    return np.where(choose, other[0], image[0]), np.where(choose, other[1], image[1])


def band_coverage(valid: np.ndarray) -> tuple[float, ...]:
    """Share of valid pixels of each band of (C, H, W)."""
    return tuple(float(v) for v in valid.mean(axis=(1, 2)))


def composite_frames(
    bins: Sequence[tuple[str, str]],
    scenes: Sequence[Sequence[str]],
    composite_bin: Callable[[int], Masked],
    composite_window: Callable[[], Masked],
    bands: int,
) -> tuple[np.ndarray, tuple[float, ...], list[dict], tuple[tuple[str, ...], ...]]:
    """One composite for each time bin. Where a bin has no imagery, or no valid pixel of a band,
    the composite of the whole window is used.

    Args:
        bins: dates of the bins. scenes: ids of the images in each.
        composite_bin: (values, valid) of the composite of a bin that has images. composite_window:
            the same of the whole window.

    Returns:
        (pixels (T, C, H, W), coverage of each band, provenance of each frame, sentences about each
        band).
    """
    import numpy as np

    whole: Masked | None = None
    pixels, covered, records = [], [], []
    warnings: list[list[str]] = [[] for _ in range(bands)]
    for number, ((start, end), ids) in enumerate(zip(bins, scenes)):
        image = composite_bin(number) if ids else None
        empty = [image is None or not image[1][i].any() for i in range(bands)]
        if image is None or any(empty):
            whole = whole or composite_window()
            image = whole if image is None else replace_bands(image, whole, empty)
            for i in np.flatnonzero(empty):
                warnings[i].append(f"frame {number} ({start}..{end}) has no imagery, {STANDS_IN}")
        pixels.append(image[0])
        covered.append(band_coverage(image[1]))
        records.append({"start": start, "end": end, "scenes": list(ids), **({"empty": True} if all(empty) else {})})
    dtype = np.result_type(*(p.dtype for p in pixels))
    stacked = np.stack([p.astype(dtype, copy=False) for p in pixels])
    return stacked, tuple(float(v) for v in np.mean(covered, axis=0)), records, tuple(map(tuple, warnings))


def _masked_median(stack: np.ma.MaskedArray, dtype: np.dtype) -> np.ndarray:
    """Median over the first axis of the values that are not masked; undefined where all are."""
    import numpy as np

    values = np.where(stack.mask, np.inf, stack.data.astype(np.promote_types(dtype, np.float32)))
    values.sort(axis=0)
    count = (~stack.mask).sum(axis=0)[None]
    low, high = (
        np.take_along_axis(values, np.clip(i, 0, len(values) - 1), 0)[0] for i in ((count - 1) // 2, count // 2)
    )
    with np.errstate(invalid="ignore"):  # infinity where no value is valid
        return np.where(low == high, low, low + (high - low) / 2)
