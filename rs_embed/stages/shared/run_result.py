"""The result of a run in numbers: its ROIs by status, and those with warnings by kind. The merge
counts them; the manifest and ``merge.json`` have them, and the end of a run prints them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ...errors import StoreError
from ...runs.run import Run
from ...store import receipts
from .quality import KINDS

#: Statuses of ROIs in the order of the summary, with its words.
_STATUSES = {"ok": "ok", "partial": "failed in part", "no_data": "no data", "failed": "failed"}


class ResultCounts:
    """Counts over the ROIs of a run, which are added one by one.

    Attributes:
        statuses: number of ROIs by status.
    """

    def __init__(self) -> None:
        self.statuses: dict[str, int] = {}
        self._warned = 0
        self._kinds = dict.fromkeys(KINDS, 0)

    def add(self, status: str, kinds: Iterable[str]) -> None:
        """Add a ROI.

        Args:
            kinds: of the warnings about its results, from :data:`~.quality.KINDS`.
        """
        self.statuses[status] = self.statuses.get(status, 0) + 1
        found = set(kinds)
        self._warned += bool(found)
        for kind in found:
            self._kinds[kind] = self._kinds.get(kind, 0) + 1

    def warnings(self) -> dict[str, Any]:
        """``rois``: number of ROIs with warnings; ``kinds``: by kind of warning, where there are
        any. A ROI with several kinds counts in each."""
        return {"rois": self._warned, "kinds": {k: n for k, n in self._kinds.items() if n}}

    def as_json(self) -> dict[str, Any]:
        """The counts for ``merge.json``, the input of :func:`format_result`."""
        return {"rois": sum(self.statuses.values()), "statuses": self.statuses, "warnings": self.warnings()}


def format_result(counts: Mapping[str, Any]) -> str:
    """One line, such as ``64 ROIs: 61 ok, 2 no data, 1 failed; 5 with warnings (3 partly filled, 2
    random weights)``."""
    statuses, warnings = counts["statuses"], counts["warnings"]
    parts = [f"{statuses[s]:,} {words}" for s, words in _STATUSES.items() if statuses.get(s)]
    line = f"{counts['rois']:,} {'ROI' if counts['rois'] == 1 else 'ROIs'}: {', '.join(parts)}"
    if not warnings["rois"]:
        return line
    kinds = ", ".join(f"{n:,} {KINDS.get(kind, kind)}" for kind, n in warnings["kinds"].items())
    return f"{line}; {warnings['rois']:,} with warnings ({kinds})"


def is_unusual(counts: Mapping[str, Any]) -> bool:
    """Whether a ROI has no result, or a warning."""
    return bool(counts["warnings"]["rois"]) or counts["statuses"].get("ok", 0) < counts["rois"]


def read_result(run: Run) -> dict[str, Any] | None:
    """The counts of a finished run; None where it is not finished, or an earlier version has
    written its final files."""
    try:
        receipt = receipts.read(run.dir / run.plan.merge_receipt, run.plan.merge_key)
    except (OSError, StoreError):
        return None
    return receipt.get("result")
