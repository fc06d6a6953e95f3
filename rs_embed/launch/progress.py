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
    """Bars for the stages that have something to do. On a terminal or in a notebook they are drawn by tqdm; elsewhere
    (a log file) each stage says one line when it begins and one when it is done. Where nobody can read it any more (a terminal or
    a pipe that is gone) it is silent: no run ends for that."""

    def __init__(self, run: Run, show: bool) -> None:
        self.run, self.plan, self.show = run, run.plan, show
        self.totals = dict.fromkeys(STAGES, 0)
        self.done = dict.fromkeys(STAGES, 0)
        self.reused = dict.fromkeys(STAGES, 0)
        self._jobs: dict[int, tuple[str, int, str | None]] = {}
        self._bars: dict = {}

    def event(self, event: Mapping) -> None:
        """Take one event of Snakemake."""
        try:
            self._event(event)
        except OSError:
            self._hush()

    def say(self, line: str) -> None:
        """A line of its own, where progress is shown."""
        try:
            if self.show:
                print(line, file=sys.stderr, flush=True)
        except OSError:
            self._hush()

    def _hush(self) -> None:
        self.show = False
        self._bars.clear()

    def _event(self, event: Mapping) -> None:
        kind = event.get("event")
        if kind == "run_info":
            self._begin(event.get("stats") or {})
        elif kind == "job_info" and event.get("rule_name") in STAGES:
            self._jobs[event["jobid"]] = self._job(event["rule_name"], event.get("wildcards") or {})
        elif kind == "job_finished":
            stage, size, receipt = self._jobs.pop(event.get("job_id"), (None, 0, None))
            if stage:
                self.reused[stage] += self._reused(receipt)
                self._advance(stage, size)

    def _job(self, rule: str, wildcards: Mapping) -> tuple[str, int, str | None]:
        """Stage, number of ROIs and receipt of a job."""
        if rule == "merge":
            return rule, len(self.plan.roi_ids), None
        span = self.plan.parts[wildcards["part"]] if rule == "fetch" else self.plan.chunk[wildcards["chunk"]]
        folder = {"fetch": wildcards.get("source"), "embed": wildcards.get("unit")}.get(rule)
        return rule, span.stop - span.start, f"{rule}/{folder}/{span.name}.json" if folder else None

    def _reused(self, receipt: str | None) -> int:
        """How many ROIs of a finished job were there already."""
        try:
            said = receipts.read(self.run.dir / receipt) if receipt else {}
            return said.get("reused", 0) + said.get("restored", 0)
        except (OSError, StoreError):
            return 0  # only a number on the screen; the receipt's readers complain

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
        self.done[stage] += size
        self.totals[stage] = max(self.totals[stage], self.done[stage])
        note = f"{self.reused[stage]} were there" if self.reused[stage] else ""
        if stage in self._bars:
            bar = self._bars[stage]
            bar.total = self.totals[stage]
            bar.set_postfix_str(note, refresh=False)
            bar.update(size)
        else:
            self.say(
                f"rs-embed: {stage} {self.done[stage]}/{self.totals[stage]} ROIs{' (' + note + ')' if note else ''}"
            )

    @staticmethod
    def _pretty() -> bool:
        return sys.stderr.isatty() or "ipykernel" in sys.modules

    def close(self) -> None:
        """Finish the bars."""
        with contextlib.suppress(OSError):
            for bar in self._bars.values():
                bar.close()
        self._bars.clear()


@contextmanager
def progress(run: Run, show: bool) -> Iterator[Progress]:
    """A :class:`Progress` that is closed at the end."""
    shown = Progress(run, show)
    try:
        yield shown
    finally:
        shown.close()
