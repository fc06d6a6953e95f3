"""From several images of a place to one, and from a window to the bins of several frames."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..planning.model_info import Frames
from ..request.specs import TemporalSpec

if TYPE_CHECKING:
    import numpy as np


def bins(window: TemporalSpec, frames: Frames) -> list[tuple[str, str]]:
    """Half-open (start, end) dates of every frame, earliest first, without gaps.

    ``equal``: ``count`` bins with bounds ``start + total_days * i // count``. ``fixed``: consecutive bins of ``days`` days, at most
    ``count``, the last one cut off at the end of the window; days after the last of ``count`` bins are left out if they are
    less than a bin, otherwise there are ``count`` equal bins instead. Both as rs-embed 0.3.1 has them (``tools/temporal.py``).
    """
    first, last = dt.date.fromisoformat(window.start), dt.date.fromisoformat(window.end)
    total = (last - first).days
    if frames.mode == "composite":
        cuts = [0, total]
    elif frames.mode == "fixed" and total - frames.count * frames.days < frames.days:
        count = min(frames.count, -(-total // frames.days))
        cuts = [*range(0, count * frames.days, frames.days), min(total, count * frames.days)]
    else:
        count = min(frames.count, total)  # a bin has a day at least
        cuts = [total * i // count for i in range(count + 1)]
    days = [(first + dt.timedelta(days=d)).isoformat() for d in cuts]
    return list(itertools.pairwise(days))


def midpoint(start: str, end: str) -> str:
    """The date in the middle of a half-open window: start + (end - start) / 2, without the time of day."""
    first = dt.date.fromisoformat(start)
    return (first + (dt.date.fromisoformat(end) - first) / 2).isoformat()


def stored_dtype(dtypes: Sequence[np.dtype], images: int, how: str, fill_value: float) -> np.dtype:
    """The dtype that holds a composite exactly: the images' own; of a median of several, which can lie between two
    integers, a float; and one that can hold ``fill_value``."""
    import numpy as np

    own = np.result_type(*dtypes)
    if how == "median" and images > 1 and own.kind in "iub":
        own = np.dtype(np.float32 if own.itemsize <= 2 else np.float64)
    if own.kind in "iu":
        limits = np.iinfo(own)
        if fill_value != int(fill_value) or not limits.min <= fill_value <= limits.max:
            own = np.dtype(np.float32 if own.itemsize <= 2 else np.float64)
    if own == np.float32 and abs(fill_value) > np.finfo(np.float32).max:
        own = np.dtype(np.float64)
    return own


def combine(
    images: Sequence[tuple[np.ndarray, np.ndarray]], how: str, fill_value: float
) -> tuple[np.ndarray, np.ndarray]:
    """One image of several of one grid, earliest first.

    Args:
        images: (values (C, H, W), valid (C, H, W) bool) each.
        how: ``"median"`` of the valid values of each pixel, or ``"mosaic"``: the latest valid one.
        fill_value: value of pixels without a valid one.

    Returns:
        (values (C, H, W) in :func:`stored_dtype`, valid (C, H, W) bool).
    """
    import numpy as np

    dtype = stored_dtype([v.dtype for v, _ in images], len(images), how, fill_value)
    any_valid = np.logical_or.reduce([valid for _, valid in images])
    if how == "mosaic" or len(images) == 1:
        out = np.full(images[0][0].shape, fill_value, dtype)
        for values, valid in images:
            np.copyto(out, values, where=valid, casting="same_kind")
        return out, any_valid
    out = np.empty(images[0][0].shape, dtype)
    for band in range(len(out)):  # a band at a time: memory for the images of one band, not for all
        stack = np.ma.masked_array([v[band] for v, _ in images], mask=[~m[band] for _, m in images])
        out[band] = _median(stack, dtype)
    out[~any_valid] = fill_value
    return out, any_valid


def replace_bands(
    made: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray], which: Sequence[bool]
) -> tuple[np.ndarray, np.ndarray]:
    """(values, valid) with some bands of another image."""
    import numpy as np

    choose = np.asarray(which)[:, None, None]
    return np.where(choose, other[0], made[0]), np.where(choose, other[1], made[1])


def coverage(valid: np.ndarray) -> tuple[float, ...]:
    """Share of valid pixels of each band of (C, H, W)."""
    return tuple(float(v) for v in valid.mean(axis=(1, 2)))


def frames(
    spans: Sequence[tuple[str, str]],
    scenes: Sequence[Sequence[str]],
    make: Callable[[int], tuple[np.ndarray, np.ndarray]],
    whole: Callable[[], tuple[np.ndarray, np.ndarray]],
    bands: int,
) -> tuple[np.ndarray, tuple[float, ...], list[dict], tuple[tuple[str, ...], ...]]:
    """One composite a bin. Where a bin has no imagery, or none of a band, the composite of the whole window stands in.

    Args:
        spans: dates of the bins. scenes: ids of the images in each.
        make: (values, valid) of the composite of a bin that has images. whole: the same of the whole window.

    Returns:
        (pixels (T, C, H, W), coverage of each band, what the provenance says of each frame, sentences about each band).
    """
    import numpy as np

    stand_in: tuple | None = None
    pixels, covered, records = [], [], []
    said: list[list[str]] = [[] for _ in range(bands)]
    for number, ((start, end), inside) in enumerate(zip(spans, scenes)):
        made = make(number) if inside else None
        empty = [made is None or not made[1][i].any() for i in range(bands)]
        if any(empty):
            stand_in = stand_in or whole()
            made = stand_in if made is None else replace_bands(made, stand_in, empty)
            for i in np.flatnonzero(empty):
                said[i].append(
                    f"frame {number} ({start}..{end}) has no imagery, the composite of the whole window stands in"
                )
        pixels.append(made[0])
        covered.append(coverage(made[1]))
        records.append({"start": start, "end": end, "scenes": list(inside), **({"empty": True} if all(empty) else {})})
    kind = np.result_type(*(p.dtype for p in pixels))
    stacked = np.stack([p.astype(kind, copy=False) for p in pixels])
    return stacked, tuple(float(v) for v in np.mean(covered, axis=0)), records, tuple(map(tuple, said))


def _median(stack: np.ma.MaskedArray, dtype: np.dtype) -> np.ndarray:
    """Median over the first axis of the values that are not masked; undefined where all are."""
    import numpy as np

    values = np.where(stack.mask, np.inf, stack.data.astype(np.promote_types(dtype, np.float32)))
    values.sort(axis=0)
    count = (~stack.mask).sum(axis=0)[None]
    low, high = (
        np.take_along_axis(values, np.clip(i, 0, len(values) - 1), 0)[0] for i in ((count - 1) // 2, count // 2)
    )
    with np.errstate(invalid="ignore"):  # infinities where nothing is valid
        return np.where(low == high, low, low + (high - low) / 2)
