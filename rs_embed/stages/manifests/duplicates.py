"""Equal rows: different ROIs with equal pixels or vectors are a sign of a mistake, a repeated ROI
is not."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def find_equal_arrays(digests: array, ids: Sequence[str]) -> list[list[int]]:
    """Groups of rows with equal arrays, of at least two different ROIs, in the order of their
    first rows.

    Args:
        digests: of each row the first 8 bytes of its array's SHA-256, 0 where it has none.
        ids: the ROI of each row; rows of one repeated ROI alone are no group.
    """
    import numpy as np

    found = [group.tolist() for group in _groups(np.frombuffer(digests, np.uint64), skip=0)]
    return sorted(group for group in found if len({ids[i] for i in group}) > 1)


def find_repeated_rois(ids: Sequence[str]) -> list[list[int]]:
    """Groups of rows with the same ROI: the same geometry and window."""
    import numpy as np

    numbers = np.fromiter((int(i[:16], 16) for i in ids), np.uint64, len(ids))
    return sorted(group.tolist() for group in _groups(numbers))


def _groups(values: np.ndarray, skip: int | None = None) -> Iterator[np.ndarray]:
    import numpy as np

    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True])
    long = np.flatnonzero(np.diff(starts) > 1)
    for start, stop in zip(starts[long], starts[long + 1]):
        if skip is None or ordered[start] != skip:
            yield order[start:stop]
