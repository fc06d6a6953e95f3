"""Equal rows: different ROIs with equal pixels or vectors are a sign of a mistake, a repeated ROI
is not."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence


def find_equal_arrays(digests: array, ids: Sequence[str]) -> list[list[int]]:
    """Groups of rows with equal arrays, of at least two different ROIs, in the order of their
    first rows.

    Args:
        digests: of each row the first 8 bytes of its array's SHA-256, 0 where it has none.
        ids: the ROI of each row; rows of one repeated ROI alone are no group.
    """
    return sorted(group for group in _group_rows(digests, skip=0) if len({ids[i] for i in group}) > 1)


def find_repeated_rois(ids: Sequence[str]) -> list[list[int]]:
    """Groups of rows with the same ROI: the same geometry and window."""
    return sorted(_group_rows(array("Q", (int(i[:16], 16) for i in ids))))


def _group_rows(values: array, skip: int = -1) -> Iterator[list[int]]:
    """Groups of at least two rows with equal values, without those of the value ``skip``."""
    import numpy as np

    order = np.argsort(values, kind="stable")
    ordered = np.asarray(values)[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True])
    long = np.flatnonzero(np.diff(starts) > 1)
    for start, stop in zip(starts[long], starts[long + 1]):
        if ordered[start] != skip:
            yield order[start:stop].tolist()
