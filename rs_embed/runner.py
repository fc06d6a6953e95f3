"""Start Snakemake for a run and wait for it: command, environment, lock, progress, signals, and a good exception.

Snakemake runs as a child process in its own process group: its API changes the working directory and fails inside a
running event loop. Everything it prints goes to ``logs/snakemake.log`` in the run's folder.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from . import locks
from .errors import ExportError
from .profiles import Profile, find_profile
from .progress import progress
from .run import CONFIG, Run
from .store import writing

#: Longest part of a failed job's log in an exception, lines.
_TAIL = 40
#: Bytes of a disk that is as good as full: a failed job has removed its half files since.
_LITTLE = 16 << 20


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
    if config.cores or not profile.remote:  # of a cluster this would be a limit on all jobs together
        arguments += ["--cores", str(config.cores or "all")]
    return arguments + (["--keep-going"] if config.continue_on_error else [])


def execute(run: Run) -> None:
    """Run the workflow to its end. On a cluster the run goes on when this process is gone, and the next call waits for it.

    Raises:
        Waited: an earlier call's run on this target has ended meanwhile; plan again.
        RunLockedError: another live run works on this target.
        ExportError: it failed; the text has the ROI, model and stage of the first failure and the log's path.
        KeyboardInterrupt: the user stopped it; Snakemake and its jobs were stopped, finished objects are kept.
    """
    profile = find_profile(run.request.config.profile, os.getcwd(), workflow_folder())
    with locks.acquire(run.dir, left=profile.remote) as lock, locks.share(run.store.root) as shared:
        _execute(run, profile, lock, shared)


def _execute(run: Run, profile: Profile, lock: IO[str], shared: IO[str]) -> None:
    read, write = os.pipe()
    try:
        log = run.dir / "logs" / "snakemake.log"
        with writing(run.dir):
            run.freeze()
            log.parent.mkdir(exist_ok=True)
        alone = {locks.LEFT: "1"} if profile.remote else {}
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
            _stop(child)
            raise
        finally:
            child.stdin.close()
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
    if status:
        raise ExportError(_explain(run, failures, log, status), log=str(log))


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
        if not failures and not any(shown.totals.values()) and run.request.config.show_progress:
            print("rs-embed: the export is complete already, nothing was run", file=sys.stderr)
    return failures


def _stop(child: subprocess.Popen) -> None:
    """Stop Snakemake and its jobs: SIGINT to the group, as a terminal would, then harder."""
    for number, patience in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(child.pid, number)
            child.wait(patience)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


#: A line that ends a traceback, or that our own steps and Snakemake print for an error.
_ERROR = re.compile(r"^(?:error: |\w*Error: |\w*Exception: |\w*\.\w*Error: ).+$")
#: What Snakemake says of a command that failed.
_STATUS = re.compile(r"returned non-zero exit status (\d+)|died with <Signals\.(\w+)")


def _explain(run: Run, failures: list[dict], log: Path, status: int) -> str:
    """One sentence of the first failed job, or of Snakemake itself; the end of its log where there is none."""
    lines, room = _last_lines(log), _room(run)
    for event in failures:
        for path in event.get("log") or ():
            said = _errors(_last_lines(run.dir / path))
            said = said[-1] if said else _wordless(run, event, path, lines)
            if said:
                return f"{said}{room} (what was finished is kept: call again to go on; log: {run.dir / path})"
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
    (status, name), *_ = [m.groups() for line in reversed(lines) if path in line and (m := _STATUS.search(line))] or [
        (0, "")
    ]
    try:
        name = name or (signal.Signals(int(status) - 128).name if int(status) > 128 else "")
    except ValueError:  # a status of the program's own
        name = ""
    if not name:
        return f"{what} ended with status {status} and without a message"
    return f"{what} was ended by {name}{', as the system does when memory runs out' if name == 'SIGKILL' else ''}"


def _errors(lines: list[str]) -> list[str]:
    found, lines = [], [line.strip() for line in lines]
    for line, following in zip(lines, [*lines[1:], ""]):
        if line == "WorkflowError:":  # of a function of the Snakefile: the sentence is on the next line
            found.append(following)
        elif _ERROR.match(line):
            found.append(line.removeprefix("error: "))
    return found


def _last_lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()[-_TAIL:]
    except OSError:
        return []
