"""Why a run failed, in one sentence: from Snakemake's events, the logs of its jobs, and the state
of the disks."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

from ..runs.run import Run

#: Last lines of a log that are read.
_TAIL_LINES = 40
#: Free bytes below which a disk counts as full: a failed job has removed its unfinished files.
_FULL_BYTES = 16 << 20
#: A line that ends a traceback, or that the steps or Snakemake print for an error.
_ERROR = re.compile(r"^(?:(?:slurmstepd: )?error: |\w*Error: |\w*Exception: |\w*\.\w*Error: ).+$")
#: Messages about a job that SLURM refused, and one that it ended; the resource of a profile that
#: such a job has exceeded.
_REFUSED = re.compile(r"\b(?:sbatch|srun): error: ([^\n']+)")
_ENDED = re.compile(r"SLURM status is: '(\w+)")
_EXCEEDED = {"TIMEOUT": "runtime", "OUT_OF_MEMORY": "mem_mb"}
#: Snakemake's messages about a command that failed.
_EXIT_STATUS = re.compile(r"returned non-zero exit status (\d+)|died with <Signals\.(\w+)")


def explain_failure(run: Run, failures: list[dict], log: Path, status: int) -> str:
    """One sentence about the first failed job, or about Snakemake; the end of its log where it has
    no error message.

    Args:
        failures: Snakemake's error events. log: of Snakemake. status: its exit status.
    """
    lines, disks = _last_lines(log), _describe_disks(run)
    logs = [(event, path) for event in failures for path in event.get("log") or ()]
    sentences = [_find_errors(_last_lines(run.dir / path))[-1:] for _, path in logs]
    # jobs with a message come first: one without may have succeeded, where Snakemake could not
    # record it
    for (event, path), found in sorted(zip(logs, sentences), key=lambda job: not job[1]):
        if sentence := found[0] if found else _describe_silent_job(run, event, path, lines):
            return f"{sentence}{disks} (what was finished is kept: call again to go on; log: {run.dir / path})"
    messages = [line for event in failures for line in event.get("message", "").splitlines()]
    if errors := _find_errors(messages) or _find_errors(lines):
        return f"{errors[0]}{disks} (log: {log})"
    if disks or not lines:  # the log could not be written either
        return f"Snakemake stopped with status {status}{disks} (log: {log})"
    return "\n".join([f"Snakemake stopped with status {status}; the end of {log}:", *lines])


def _describe_disks(run: Run) -> str:
    """A clause about a full disk or a missing folder, if any: then logs may have no error
    message."""
    problems = []
    for folder in (run.dir, run.store.root, Path(os.path.normpath(run.dir / run.plan.target)).parent):
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            problems.append(f"{folder} cannot be read ({error.strerror})")
            continue
        if free < _FULL_BYTES:
            problems.append(f"the disk of {folder} has {free // 1024} kB left")
    return f"; {problems[0]}" if problems else ""


def _describe_silent_job(run: Run, event: dict, path: str, lines: list[str]) -> str | None:
    """A sentence about a failed job without a message, such as one that the kernel killed; None
    for other events."""
    if event.get("event") != "job_error":
        return None
    job = _describe_job(run, event, path)
    if cluster := _describe_cluster_failure(event):
        return f"{job} {cluster}"
    statuses = [m.groups() for line in reversed(lines) if path in line and (m := _EXIT_STATUS.search(line))]
    if not statuses and (errors := _find_errors(lines)):
        return f"after {job} Snakemake stopped: {errors[0]}"
    (status, name), *_ = statuses or [(0, "")]
    try:
        name = name or (signal.Signals(int(status) - 128).name if int(status) > 128 else "")
    except ValueError:  # a status of the program, not of a signal
        name = ""
    if not name:
        return f"{job} ended with status {status} and without a message"
    return f"{job} was ended by {name}{', as the system does when memory runs out' if name == 'SIGKILL' else ''}"


def _describe_job(run: Run, event: dict, path: str) -> str:
    """Rule, ROIs and model of a job, from its log's path."""
    name, plan = Path(path).stem, run.plan
    span = plan.parts.get(name) or plan.chunk.get(name.partition("-")[0])
    unit = plan.unit.get(Path(path).parent.name)
    job = f"the {event.get('rule_name', 'failed')} job"
    job += f" of the ROIs {plan.names[span.start]!r} to {plan.names[span.stop - 1]!r}" if span else ""
    return job + (f", model {unit.label}," if unit else "")


def _describe_cluster_failure(event: dict) -> str:
    """SLURM's message about a job; empty for a job that did not run on a cluster."""
    message, rule = event.get("rule_msg") or "", event.get("rule_name")
    if refused := _REFUSED.findall(message):
        return f"was not taken by SLURM: {'; '.join(dict.fromkeys(r.strip() for r in refused))} (see profiles/slurm)"
    if not (ended := _ENDED.search(message)):
        return ""
    short = _EXCEEDED.get(ended[1])
    return f"was ended by SLURM: {ended[1]}" + (f" (a profile's set-resources: {rule}: {short}=...)" if short else "")


def _find_errors(lines: list[str]) -> list[str]:
    found, lines = [], [line.strip() for line in lines]
    for line, following in zip(lines, [*lines[1:], ""]):
        if line == "WorkflowError:":  # of a function of the Snakefile: the sentence is on the next line
            found.append(following)
        elif _ERROR.match(line):
            found.append(line.removeprefix("slurmstepd: ").removeprefix("error: "))
    return found


def _last_lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[-_TAIL_LINES:]
    except OSError:
        return []
