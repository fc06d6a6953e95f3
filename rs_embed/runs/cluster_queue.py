"""Jobs of a run that are in SLURM's queue without a running Snakemake: it was killed, or stopped
while it submitted them.

They would repeat jobs of the next start, and delete receipts that it has just written: Snakemake
deletes the output of a job before the job starts, and after it has failed.
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

#: Time limits for an answer of SLURM and for the end of its jobs, and time between two queries,
#: seconds.
_ANSWER_S, _END_S, _PAUSE_S = 60, 120, 1.0
#: Letters of the user's prefix of job names that are kept (the executor allows 50 letters in all).
_PREFIX_LETTERS = 33


def name_jobs(settings: Any, folder: Path) -> None:
    """Let SLURM's executor put a tag of the run's folder into the names of its jobs.

    Args:
        settings: of the executor; unchanged for other executors.
    """
    if hasattr(settings, "jobname_prefix"):
        prefix = (settings.jobname_prefix or "")[:_PREFIX_LETTERS]
        settings.jobname_prefix = "-".join(filter(None, [prefix, _folder_tag(folder)]))


def _folder_tag(folder: Path) -> str:
    return digest(os.path.realpath(folder), 16)


def cancel_jobs(folder: Path) -> int:
    """Cancel the jobs of a run, and wait until they have ended; returns how many there were.
    Requires the lock of the run's folder, so that no other process starts jobs. Objects that the
    jobs have stored are kept.

    Returns 0 where SLURM is not installed. Where SLURM does not answer, or jobs do not end, a
    warning is printed to stderr.
    """
    if not shutil.which("squeue"):
        return 0
    try:
        found = _list_jobs(folder)
        if not found:
            return 0
        text = f"cancelling {len(found)} jobs of an earlier start that are in the queue; what they finished is kept"
        print(f"rs-embed: {text}", file=sys.stderr, flush=True)
        _run_command("scancel", *found)
        end = time.monotonic() + _END_S
        while left := _list_jobs(folder):
            if time.monotonic() > end:
                text = f"jobs {', '.join(left[:5])} have not ended {_END_S} s after scancel"
                print(f"rs-embed: {text}; see squeue --me", file=sys.stderr, flush=True)
                break
            time.sleep(_PAUSE_S)
        return len(found)
    except (OSError, subprocess.SubprocessError) as error:
        reason = " ".join(str(getattr(error, "stderr", None) or error).split())
        text = f"SLURM does not list the jobs in its queue ({reason}); jobs of an earlier start may be running"
        print(f"rs-embed: {text}: see squeue --me", file=sys.stderr, flush=True)
        return 0


def _list_jobs(folder: Path) -> list[str]:
    """Ids of this user's jobs in the queue that were submitted for a run, without the job of this
    process."""
    tag = _folder_tag(folder)
    lines = _run_command("squeue", "--noheader", "--user", str(os.getuid()), "--format", "%A|%j").splitlines()
    jobs = (line.strip().partition("|") for line in lines)
    return [job for job, _, name in jobs if tag in name and job != os.environ.get("SLURM_JOB_ID")]


def _run_command(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_S, check=True).stdout
