"""The caller's side of a run: start Snakemake in the child process and wait for it, with locks,
progress and interrupts.

Everything that Snakemake prints goes to ``logs/snakemake.log`` in the run's folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import IO

from ..errors import ExportError
from ..runs import cluster_queue
from ..runs.profiles import Profile, find_profile
from ..runs.run import Run
from ..runs.run_files import CONFIG, freeze_run
from ..stages.prepare import check_cluster_folder
from ..store import locks
from ..store.atomic_files import report_write_errors
from .child import Child
from .explain import explain_failure
from .progress import show_progress
from .report import print_result

#: Time in which a second interrupt counts, seconds.
_SECOND_INTERRUPT_S = 5.0


def workflow_folder() -> Path:
    """Folder of the Snakefile: the checkout this package lies in, or the copy in the wheel."""
    packaged = Path(__file__).parents[1] / "_workflow"
    return packaged if (packaged / "Snakefile").exists() else Path(__file__).parents[2]


def snakemake_arguments(run: Run, profile: Profile) -> list[str]:
    """Snakemake's arguments for a run."""
    config = run.request.config
    arguments = [
        *("--snakefile", str(workflow_folder() / "Snakefile")),
        *("--configfile", str(run.dir / CONFIG)),
        *("--workflow-profile", str(profile.folder)),
        "--nocolor",
        "--nolock",
    ]
    if config.profile is None:  # the user's own profile of Snakemake may name another one
        arguments += ["--executor", "local"]
    if config.cores or not profile.remote:  # on a cluster this would limit all jobs together
        arguments += ["--cores", str(config.cores or "all")]
    return arguments + (["--keep-going"] if config.continue_on_error else [])


def run_workflow(run: Run, child: Child) -> None:
    """Run the workflow to its end. On a cluster the run continues when this process ends, and the
    next call waits for it.

    Args:
        child: a child process without a task.

    Raises:
        PreviousRunEnded: this call has waited for an earlier run on this target, which has ended;
            plan again.
        RunLockedError: another live run works on this target.
        ExportError: the run failed; the text has the ROI, model and stage of the first failure and
            the log's path.
        KeyboardInterrupt: the user stopped the run; Snakemake and its jobs were stopped, finished
            objects are kept. On a cluster only a second interrupt stops it: notebooks interrupt a
            call when they are closed or restarted.
    """
    profile = find_profile(run.request.config.profile, os.getcwd(), workflow_folder())
    if profile.remote:
        check_cluster_folder(run)
    fresh = not run.request.config.resume
    with (
        locks.acquire_run_lock(run.dir, starting=True, detached=profile.remote, fresh=fresh) as lock,
        locks.acquire_shared_store_lock(run.store.root) as shared,
    ):
        log = run.dir / "logs" / "snakemake.log"
        with report_write_errors(run.dir):
            freeze_run(run)
            log.parent.mkdir(exist_ok=True)
        detached = {locks.DETACHED_VARIABLE: locks.FRESH_VALUE if fresh else "1"} if profile.remote else {}
        read, write = os.pipe()
        with os.fdopen(read) as events, os.fdopen(write, "w") as child_events:
            with report_write_errors(log), open(log, "w") as text:
                child.run(snakemake_arguments(run, profile), run.dir, detached, (child_events, text, lock, shared))
            child_events.close()
            failures, status = _wait_for_child(run, child, events, remote=profile.remote)
    if not status:
        print_result(run, only_unusual=not run.request.config.show_progress)
    else:
        with contextlib.suppress(OSError), open(log, "ab") as text:  # explain_failure reports a full disk
            text.write(child.read_early_output())
        raise ExportError(explain_failure(run, failures, log, status), log=str(log))


def _wait_for_child(run: Run, child: Child, events: IO[str], *, remote: bool) -> tuple[list[dict], int]:
    """Error events, and the child's status."""
    try:
        return _follow_events(run, events), child.wait()
    except BaseException:
        if not remote or _is_interrupted_again(run):
            child.stop(patience=60 if remote else 10)
            if remote:
                cluster_queue.cancel_jobs(run.dir)  # it may have submitted jobs after it was stopped
        raise


def _follow_events(run: Run, lines: IO[str]) -> list[dict]:
    """Show progress until the child closes its pipe; returns error events."""
    failures = []
    with show_progress(run, run.request.config.show_progress) as shown:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:  # the child was killed in the middle of a line
                break
            shown.handle_event(event)
            if event.get("event") in ("job_error", "error") or "message" in event:
                failures.append(event)
        if not failures and not any(shown.totals.values()):
            shown.print_line("rs-embed: the export is complete already, nothing was run")
    return failures


def _is_interrupted_again(run: Run) -> bool:
    """Whether the user interrupts again, which stops the run on the cluster and not only this
    call."""
    advice = "the run goes on, and the same call waits for it; to stop it and cancel its jobs, interrupt again now, or later: "
    command = f"rs-embed stop {shlex.quote(str(run.work))} --run {run.dir.name}"
    with contextlib.suppress(OSError):  # the terminal was closed
        print(f"rs-embed: {advice}{command}", file=sys.stderr, flush=True)
    try:
        time.sleep(_SECOND_INTERRUPT_S)
    except KeyboardInterrupt:
        return True
    return False
