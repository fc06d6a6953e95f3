"""Jobs of a run that are in SLURM's queue although no Snakemake watches them: it was killed, or stopped while it submitted more.

They would do again what the next start does, and take away receipts that it has just made: Snakemake deletes the output of a job
before the job begins, and after it failed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..request.identity import digest

#: How long SLURM may take for an answer, and its jobs for their end, seconds.
_ANSWER_S, _END_S, _PAUSE_S = 60, 120, 1.0
#: What is kept of the user's prefix of job names (the executor allows 50 letters in all).
_PREFIX = 33


def name_jobs(settings: Any, folder: Path) -> None:
    """Let SLURM's executor name a run's jobs so that they are known as such later.

    Args:
        settings: of the executor; left alone where they are another one's.
    """
    if hasattr(settings, "jobname_prefix"):
        settings.jobname_prefix = "-".join(filter(None, [(settings.jobname_prefix or "")[:_PREFIX], _tag(folder)]))


def _tag(folder: Path) -> str:
    return digest(os.path.realpath(folder), 16)


def cancel(folder: Path) -> int:
    """Cancel the jobs of a run, and wait until they are gone; returns how many there were. With its folder locked: nobody else
    starts any. What they have put into the store is kept.

    Where SLURM is not installed there are none. Where it does not answer, or jobs do not end, stderr says so, and it is on the
    caller's head to go on.
    """
    if not shutil.which("squeue"):
        return 0
    try:
        found = _jobs(folder)
        if not found:
            return 0
        print(
            f"rs-embed: cancelling {len(found)} jobs of an earlier start that are in the queue; what they finished is kept",
            file=sys.stderr,
            flush=True,
        )
        _ask("scancel", *found)
        end = time.monotonic() + _END_S
        while left := _jobs(folder):
            if time.monotonic() > end:
                said = f"jobs {', '.join(left[:5])} have not ended {_END_S} s after scancel"
                print(f"rs-embed: {said}; see squeue --me", file=sys.stderr, flush=True)
                break
            time.sleep(_PAUSE_S)
        return len(found)
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join(str(getattr(error, "stderr", None) or error).split())
        said = f"SLURM does not say which jobs are in its queue ({reason}); jobs of an earlier start may be at work"
        print(f"rs-embed: {said}: see squeue --me", file=sys.stderr, flush=True)
        return 0


def _jobs(folder: Path) -> list[str]:
    """Ids of this user's jobs in the queue that were submitted for a run; not the one that asks."""
    tag = _tag(folder)
    lines = _ask("squeue", "--noheader", "--user", str(os.getuid()), "--format", "%A|%j").splitlines()
    jobs = (line.strip().partition("|") for line in lines)
    return [job for job, _, name in jobs if tag in name and job != os.environ.get("SLURM_JOB_ID")]


def _ask(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=True)
    return done.stdout
