"""Let Snakemake work on a run and wait for it: command, environment, locks, progress, interrupts. Everything it prints goes to
``logs/snakemake.log`` in the run's folder.
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
from ..runs.run import CONFIG, Run
from ..stages.prepare import check_remote
from ..store import locks
from ..store.store import writing
from .child import Child
from .explain import explain
from .progress import progress

#: Time for a second interrupt, seconds.
_TWICE_S = 5.0


def workflow_folder() -> Path:
    """Folder of the Snakefile: the checkout this package lies in, or the copy in the wheel."""
    packaged = Path(__file__).parents[1] / "_workflow"
    return packaged if (packaged / "Snakefile").exists() else Path(__file__).parents[2]


def command(run: Run, profile: Profile) -> list[str]:
    """Snakemake's arguments for a run."""
    config = run.request.config
    arguments = [
        *("--snakefile", str(workflow_folder() / "Snakefile")),
        *("--configfile", str(run.dir / CONFIG)),
        *("--workflow-profile", str(profile.folder)),
        "--nocolor",
        "--nolock",
    ]
    if config.profile is None:  # whatever the user's own profile of Snakemake says
        arguments += ["--executor", "local"]
    if config.cores or not profile.remote:  # of a cluster this would be a limit on all jobs together
        arguments += ["--cores", str(config.cores or "all")]
    return arguments + (["--keep-going"] if config.continue_on_error else [])


def execute(run: Run, child: Child) -> None:
    """Run the workflow to its end. On a cluster the run goes on when this process is gone, and the next call waits for it.

    Args:
        child: the process to do it, which can do it once.

    Raises:
        Waited: an earlier call's run on this target has ended meanwhile; plan again.
        RunLockedError: another live run works on this target.
        ExportError: it failed; the text has the ROI, model and stage of the first failure and the log's path.
        KeyboardInterrupt: the user stopped it; Snakemake and its jobs were stopped, finished objects are kept. On a cluster only
            a second interrupt stops it: notebooks interrupt what runs when they are closed or started anew.
    """
    profile = find_profile(run.request.config.profile, os.getcwd(), workflow_folder())
    if profile.remote:
        check_remote(run)
    fresh = not run.request.config.resume
    with (
        locks.acquire(run.dir, starting=True, left=profile.remote, fresh=fresh) as lock,
        locks.share(run.store.root) as shared,
    ):
        log = run.dir / "logs" / "snakemake.log"
        with writing(run.dir):
            run.freeze()
            log.parent.mkdir(exist_ok=True)
        left = {locks.LEFT: locks.FRESH if fresh else "1"} if profile.remote else {}
        read, write = os.pipe()
        with os.fdopen(read) as events, os.fdopen(write, "w") as its:
            with writing(log), open(log, "w") as text:
                child.run(command(run, profile), run.dir, left, (its, text, lock, shared))
            its.close()
            failures, status = _wait(run, child, events, remote=profile.remote)
    if status:
        with contextlib.suppress(OSError), open(log, "ab") as text:  # of a full disk the explanation knows
            text.write(child.words())
        raise ExportError(explain(run, failures, log, status), log=str(log))


def _wait(run: Run, child: Child, events: IO[str], *, remote: bool) -> tuple[list[dict], int]:
    """Error events, and the child's status."""
    try:
        return _follow(run, events), child.wait()
    except BaseException:
        if not remote or _again(run):
            child.stop(patience=60 if remote else 10)
            if remote:
                cluster_queue.cancel(run.dir)  # it may have submitted jobs since it was told to stop
        raise


def _follow(run: Run, lines: IO[str]) -> list[dict]:
    """Show progress until the child closes its pipe; returns error events."""
    failures = []
    with progress(run, run.request.config.show_progress) as shown:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:  # the child was killed in the middle of a line
                break
            shown.event(event)
            if event.get("event") in ("job_error", "error") or "message" in event:
                failures.append(event)
        if not failures and not any(shown.totals.values()):
            shown.say("rs-embed: the export is complete already, nothing was run")
    return failures


def _again(run: Run) -> bool:
    """Whether the user interrupts again, and so means the run on the cluster and not only this call."""
    said = "the run goes on, and the same call waits for it; to stop it and cancel its jobs, interrupt again now, or later: "
    command = f"rs-embed stop {shlex.quote(str(run.work))} --run {run.dir.name}"
    with contextlib.suppress(OSError):  # a terminal that is gone
        print(f"rs-embed: {said}{command}", file=sys.stderr, flush=True)
    try:
        time.sleep(_TWICE_S)
    except KeyboardInterrupt:
        return True
    return False
