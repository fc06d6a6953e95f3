"""Progress of a run: one bar per stage, counted in ROIs, from Snakemake's job events."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from .plan import Plan

STAGES = ("fetch", "embed", "write", "merge")


class Progress:
    """Bars for the stages that have something to do. On a terminal or in a notebook they are drawn by tqdm; elsewhere
    (a log file) each stage says one line when it begins and one when it is done."""

    def __init__(self, plan: Plan, show: bool) -> None:
        self.plan, self.show = plan, show
        self.totals = dict.fromkeys(STAGES, 0)
        self.done = dict.fromkeys(STAGES, 0)
        self._jobs: dict[int, tuple[str, int]] = {}
        self._bars: dict = {}

    def event(self, event: Mapping) -> None:
        """Take one event of Snakemake."""
        kind = event.get("event")
        if kind == "run_info":
            self._begin(event.get("stats") or {})
        elif kind == "job_info" and event.get("rule_name") in STAGES:
            self._jobs[event["jobid"]] = (
                event["rule_name"],
                self._size(event["rule_name"], event.get("wildcards") or {}),
            )
        elif kind == "job_finished":
            stage, size = self._jobs.pop(event.get("job_id"), (None, 0))
            if stage:
                self._advance(stage, size)

    def _size(self, rule: str, wildcards: Mapping) -> int:
        """ROIs of a job."""
        if rule == "merge":
            return len(self.plan.roi_ids)
        span = self.plan.parts[wildcards["part"]] if rule == "fetch" else self.plan.chunk[wildcards["chunk"]]
        return span.stop - span.start

    def _begin(self, stats: Mapping) -> None:
        """Totals from the job counts; a stage that is only partly repeated is counted by its share of jobs."""
        plan, n = self.plan, len(self.plan.roi_ids)
        full = {
            "fetch": (len(plan.sources) * len(plan.parts), n * len(plan.sources)),
            "embed": (len(plan.embedded) * len(plan.chunks), n * len(plan.embedded)),
            "write": (len(plan.chunks), n),
            "merge": (1, n),
        }
        for stage, (jobs, rois) in full.items():
            count = stats.get(stage, 0)
            self.totals[stage] = rois if count >= jobs else round(rois * count / jobs)
            if self.show and self.totals[stage]:
                self._open(stage)

    def _open(self, stage: str) -> None:
        if not self._pretty():
            return
        from tqdm.auto import tqdm

        self._bars[stage] = tqdm(
            total=self.totals[stage],
            desc=f"{stage:5}",
            unit="ROI",
            position=len(self._bars),
            leave=True,
            file=sys.stderr,
        )

    def _advance(self, stage: str, size: int) -> None:
        self.done[stage] = min(self.done[stage] + size, max(self.totals[stage], size))
        if stage in self._bars:
            bar = self._bars[stage]
            bar.update(min(size, max(bar.total - bar.n, 0)))
        elif self.show:
            print(
                f"rs-embed: {stage} {self.done[stage]}/{max(self.totals[stage], self.done[stage])} ROIs",
                file=sys.stderr,
                flush=True,
            )

    @staticmethod
    def _pretty() -> bool:
        return sys.stderr.isatty() or "ipykernel" in sys.modules

    def close(self) -> None:
        """Finish the bars."""
        for bar in self._bars.values():
            bar.close()
        self._bars.clear()


@contextmanager
def progress(plan: Plan, show: bool) -> Iterator[Progress]:
    """A :class:`Progress` that is closed at the end."""
    shown = Progress(plan, show)
    try:
        yield shown
    finally:
        shown.close()
