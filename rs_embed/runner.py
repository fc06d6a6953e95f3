"""Start Snakemake for a run and wait for it: command, environment, lock, progress, signals.

Snakemake runs as a child process in its own process group: its API changes the working directory and fails inside a
running event loop. Everything it prints goes to ``logs/snakemake.log`` in the run's folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from . import locks, queued
from .errors import ExportError
from .explain import explain
from .profiles import Profile, find_profile
from .progress import progress
from .run import CONFIG, Run
from .stages.prepare import check_remote
from .store import writing

#: Time for a second interrupt, seconds.
_TWICE_S = 5.0


def workflow_folder() -> Path:
    """Folder of the Snakefile: the checkout this package lies in, or the copy in the wheel."""
    packaged = Path(__file__).parent / "_workflow"
    return packaged if (packaged / "Snakefile").exists() else Path(__file__).parents[1]


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


def execute(run: Run) -> None:
    """Run the workflow to its end. On a cluster the run goes on when this process is gone, and the next call waits for it.

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
        _execute(run, profile, lock, shared)


def _execute(run: Run, profile: Profile, lock: IO[str], shared: IO[str]) -> None:
    read, write = os.pipe()
    try:
        log = run.dir / "logs" / "snakemake.log"
        with writing(run.dir):
            run.freeze()
            log.parent.mkdir(exist_ok=True)
        alone = {locks.LEFT: locks.FRESH if not run.request.config.resume else "1"} if profile.remote else {}
        held = {locks.INHERITED: str(lock.fileno()), locks.INHERITED_STORE: str(shared.fileno())}
        environment = os.environ | held | alone | {"PYTHONUNBUFFERED": "1"}
        with writing(log), open(log, "w") as text:
            child = subprocess.Popen(
                [sys.executable, "-m", "rs_embed._run", str(write), *command(run, profile)],
                stdin=subprocess.PIPE,  # its end tells the child that this process is gone
                stdout=text,
                stderr=subprocess.STDOUT,
                pass_fds=(write, lock.fileno(), shared.fileno()),
                start_new_session=True,
                cwd=run.dir,
                env=environment,
            )
        os.close(write)
        write = -1
        try:
            failures = _follow(run, read)
            status = child.wait()
        except BaseException:
            if not profile.remote or _again(run):
                _stop(child, patience=60 if profile.remote else 10)
                if profile.remote:
                    queued.cancel(run.dir)  # it may have submitted jobs since it was told to stop
            raise
        finally:
            child.stdin.close()
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    if status:
        raise ExportError(explain(run, failures, log, status), log=str(log))


def _follow(run: Run, read: int) -> list[dict]:
    """Show progress until the child closes its pipe; returns error events."""
    failures = []
    with os.fdopen(os.dup(read)) as lines, progress(run, run.request.config.show_progress) as shown:
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


def _stop(child: subprocess.Popen, *, patience: float) -> None:
    """Stop Snakemake and its jobs: SIGINT to the group, as a terminal would, then harder.

    Args:
        patience: seconds that it has to cancel its jobs.
    """
    for number, seconds in ((signal.SIGINT, patience), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(child.pid, number)
            child.wait(seconds)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
