"""Why a run failed, in one sentence: from Snakemake's events, the logs of its jobs, and the state of the disks."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

from ..runs.run import Run

#: Longest part of a failed job's log that is looked at, lines.
_TAIL = 40
#: Bytes of a disk that is as good as full: a failed job has removed its half files since.
_LITTLE = 16 << 20
#: A line that ends a traceback, or that our own steps and Snakemake print for an error.
_ERROR = re.compile(r"^(?:(?:slurmstepd: )?error: |\w*Error: |\w*Exception: |\w*\.\w*Error: ).+$")
#: What SLURM says of a job that it does not take, and what is said of one that it ended; what to do where a resource was short.
_NOT_TAKEN = re.compile(r"\b(?:sbatch|srun): error: ([^\n']+)")
_ENDED = re.compile(r"SLURM status is: '(\w+)")
_SHORT = {"TIMEOUT": "runtime", "OUT_OF_MEMORY": "mem_mb"}
#: What Snakemake says of a command that failed.
_STATUS = re.compile(r"returned non-zero exit status (\d+)|died with <Signals\.(\w+)")


def explain(run: Run, failures: list[dict], log: Path, status: int) -> str:
    """One sentence of the first failed job, or of Snakemake itself; the end of its log where there is none."""
    lines, room = _last_lines(log), _room(run)
    logs = [(event, path) for event in failures for path in event.get("log") or ()]
    sentences = [_errors(_last_lines(run.dir / path))[-1:] for _, path in logs]
    # a job that says why comes before one that does not: that one may have succeeded, and Snakemake could not write it down
    for (event, path), said in sorted(zip(logs, sentences), key=lambda job: not job[1]):
        if sentence := said[0] if said else _wordless(run, event, path, lines):
            return f"{sentence}{room} (what was finished is kept: call again to go on; log: {run.dir / path})"
    said = _errors([line for event in failures for line in event.get("message", "").splitlines()]) or _errors(lines)
    if said:
        return f"{said[0]}{room} (log: {log})"
    if room or not lines:  # there was no room for its log either
        return f"Snakemake stopped with status {status}{room} (log: {log})"
    return "\n".join([f"Snakemake stopped with status {status}; the end of {log}:", *lines])


def _room(run: Run) -> str:
    """What there is to say of disks that are full, or of folders that are gone: then not even a log says why a job failed."""
    said = []
    for folder in (run.dir, run.store.root, Path(os.path.normpath(run.dir / run.plan.target)).parent):
        try:
            free = shutil.disk_usage(folder).free
        except OSError as error:
            said.append(f"{folder} cannot be looked at ({error.strerror})")
            continue
        if free < _LITTLE:
            said.append(f"the disk of {folder} has {free // 1024} kB left")
    return f"; {said[0]}" if said else ""


def _wordless(run: Run, event: dict, path: str, lines: list[str]) -> str | None:
    """The sentence of a failed job whose log has none, such as one that the kernel killed; None for other events."""
    if event.get("event") != "job_error":
        return None
    name, plan = Path(path).stem, run.plan
    piece = plan.parts.get(name) or plan.chunk.get(name.partition("-")[0])
    unit = plan.unit.get(Path(path).parent.name)
    what = f"the {event.get('rule_name', 'failed')} job"
    what += f" of the ROIs {plan.names[piece.start]!r} to {plan.names[piece.stop - 1]!r}" if piece else ""
    what += f", model {unit.label}," if unit else ""
    if cluster := _of_cluster(event):
        return f"{what} {cluster}"
    statuses = [m.groups() for line in reversed(lines) if path in line and (m := _STATUS.search(line))]
    if not statuses and (own := _errors(lines)):
        return f"after {what} Snakemake stopped: {own[0]}"
    (status, name), *_ = statuses or [(0, "")]
    try:
        name = name or (signal.Signals(int(status) - 128).name if int(status) > 128 else "")
    except ValueError:  # a status of the program's own
        name = ""
    if not name:
        return f"{what} ended with status {status} and without a message"
    return f"{what} was ended by {name}{', as the system does when memory runs out' if name == 'SIGKILL' else ''}"


def _of_cluster(event: dict) -> str:
    """What SLURM has said of a job; empty where it was not asked."""
    said, rule = event.get("rule_msg") or "", event.get("rule_name")
    if refused := _NOT_TAKEN.findall(said):
        return f"was not taken by SLURM: {'; '.join(dict.fromkeys(r.strip() for r in refused))} (see profiles/slurm)"
    if not (ended := _ENDED.search(said)):
        return ""
    short = _SHORT.get(ended[1])
    return f"was ended by SLURM: {ended[1]}" + (f" (a profile's set-resources: {rule}: {short}=...)" if short else "")


def _errors(lines: list[str]) -> list[str]:
    found, lines = [], [line.strip() for line in lines]
    for line, following in zip(lines, [*lines[1:], ""]):
        if line == "WorkflowError:":  # of a function of the Snakefile: the sentence is on the next line
            found.append(following)
        elif _ERROR.match(line):
            found.append(line.removeprefix("slurmstepd: ").removeprefix("error: "))
    return found


def _last_lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[-_TAIL:]
    except OSError:
        return []
