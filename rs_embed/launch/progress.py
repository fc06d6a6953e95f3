"""Progress of a run: one bar per stage, counted in ROIs, from Snakemake's job events."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ..errors import StoreError
from ..runs.run import Run
from ..store import receipts

STAGES = ("fetch", "embed", "write", "merge")


class Progress:
    """Bars of the stages with remaining jobs. On a terminal or in a notebook tqdm draws them;
    elsewhere (a log file) there is a line for each finished job. When the terminal or pipe was
    closed, nothing is printed: the run continues."""

    def __init__(self, run: Run, show: bool) -> None:
        self.run, self.plan, self.show = run, run.plan, show
        self.totals = dict.fromkeys(STAGES, 0)
        self.done = dict.fromkeys(STAGES, 0)
        self.reused = dict.fromkeys(STAGES, 0)
        self._jobs: dict[int, tuple[str, int, str | None]] = {}
        self._bars: dict = {}

    def handle_event(self, event: Mapping) -> None:
        """Update the progress with one event of Snakemake."""
        try:
            self._handle_event(event)
        except OSError:
            self._silence()

    def print_line(self, line: str) -> None:
        """Print a line, where progress is shown."""
        try:
            if self.show:
                print(line, file=sys.stderr, flush=True)
        except OSError:
            self._silence()

    def _silence(self) -> None:
        self.show = False
        self._bars.clear()

    def _handle_event(self, event: Mapping) -> None:
        kind = event.get("event")
        if kind == "run_info":
            self._set_totals(event.get("stats") or {})
        elif kind == "job_info" and event.get("rule_name") in STAGES:
            self._jobs[event["jobid"]] = self._describe_job(event["rule_name"], event.get("wildcards") or {})
        elif kind == "job_finished" and (job := self._jobs.pop(event.get("job_id", -1), None)):
            stage, size, receipt = job
            self.reused[stage] += self._count_reused(receipt)
            self._advance(stage, size)

    def _describe_job(self, rule: str, wildcards: Mapping) -> tuple[str, int, str | None]:
        """Stage, number of ROIs and receipt of a job."""
        if rule == "merge":
            return rule, len(self.plan.roi_ids), None
        span = self.plan.parts[wildcards["part"]] if rule == "fetch" else self.plan.chunk[wildcards["chunk"]]
        folder = {"fetch": wildcards.get("source"), "embed": wildcards.get("unit")}.get(rule)
        size = span.stop - span.start
        if rule == "fetch":
            size = len(self.plan.rois_of(wildcards["source"], span.start, span.stop))
        return rule, size, f"{rule}/{folder}/{span.name}.json" if folder else None

    def _count_reused(self, receipt: str | None) -> int:
        """ROIs of a finished job that needed no work."""
        try:
            counts = receipts.read(self.run.dir / receipt) if receipt else {}
            return counts.get("reused", 0) + counts.get("restored", 0)
        except (OSError, StoreError):
            return 0  # the number is only displayed; readers of the receipt report the error

    def _set_totals(self, stats: Mapping) -> None:
        """Totals from the job counts; a stage that is only partly repeated is counted by its share
        of jobs."""
        plan, n = self.plan, len(self.plan.roi_ids)
        full = {
            "fetch": (
                sum(len(plan.parts_of(s.id)) for s in plan.sources),
                sum(len(plan.rois_of(s.id)) for s in plan.sources),
            ),
            "embed": (len(plan.embedded_units) * len(plan.chunks), n * len(plan.embedded_units)),
            "write": (len(plan.chunks), n),
            "merge": (1, n),
        }
        for stage, (jobs, rois) in full.items():
            count = stats.get(stage, 0)
            self.totals[stage] = rois if count >= jobs else round(rois * count / jobs)
            if self.show and self.totals[stage]:
                self._open_bar(stage)

    def _open_bar(self, stage: str) -> None:
        if not self._has_bars():
            return
        from tqdm.auto import tqdm

        total, position = self.totals[stage], len(self._bars)
        self._bars[stage] = tqdm(
            total=total, desc=f"{stage:5}", unit="ROI", position=position, leave=True, file=sys.stderr
        )

    def _advance(self, stage: str, size: int) -> None:
        self.done[stage] += size
        self.totals[stage] = max(self.totals[stage], self.done[stage])
        note = f"{self.reused[stage]} reused" if self.reused[stage] else ""
        if stage in self._bars:
            bar = self._bars[stage]
            bar.total = self.totals[stage]
            bar.set_postfix_str(note, refresh=False)
            bar.update(size)
        else:
            counts = f"{self.done[stage]}/{self.totals[stage]} ROIs"
            self.print_line(f"rs-embed: {stage} {counts}{f' ({note})' if note else ''}")

    @staticmethod
    def _has_bars() -> bool:
        return sys.stderr.isatty() or "ipykernel" in sys.modules

    def close(self) -> None:
        """Finish the bars."""
        with contextlib.suppress(OSError):
            for bar in self._bars.values():
                bar.close()
        self._bars.clear()


@contextmanager
def show_progress(run: Run, show: bool) -> Iterator[Progress]:
    """A :class:`Progress` that is closed at the end."""
    shown = Progress(run, show)
    try:
        yield shown
    finally:
        shown.close()
