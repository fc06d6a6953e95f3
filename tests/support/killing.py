"""How the kill matrix catches a run in the middle of a stage, and what it demands of the next
start."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from .exports import CHECKOUT, snakemake_command, times

N, CHUNK = 8, 4  # two chunks of four places
REQUEST = f"""
import sys
from pathlib import Path
from rs_embed import ExportModelRequest, ExportTarget
from tests.support.exports import combined, export, places

layout, folder = sys.argv[1:3]
target = ExportTarget.per_item(folder + "/items") if layout == "per_item" else combined(Path(folder) / "run")
model = ExportModelRequest("mosaiks", model_config={{"features": 8, "patch_size": 5}})
more = {{"resume": False}} if sys.argv[3:] else {{}}
export(target, places({N}), [model], chunk_size={CHUNK}, num_workers=2, writer_workers=1, keep_work="all", **more)
"""


@dataclass(frozen=True)
class Stage:
    """Where a run is killed.

    Attributes:
        step: the step whose job is in the middle.
        lose: what a finished export loses so that this stage is what is left to do, as patterns
            below its folder.
        slow: seconds for, and pattern of, the files that take long then.
        product: the file that shows that the job is in the middle: one is there, and the job's
            receipt is not.
        receipts: the stage's receipts, as a pattern below the run's folder.
        first: how many of them are there at the kill: jobs that had finished.
        todo: jobs of the next start where the one in the middle left no receipt (a repair whose
            files were ready leaves none).
    """

    layout: str
    step: str
    lose: tuple[str, ...]
    slow: str
    product: str
    receipts: str
    first: int
    todo: dict[str, int]


RUN = ".rs_embed/runs/*"
EMBEDDED = ("run.*", ".rs_embed/store/embeddings", f"{RUN}/embed", f"{RUN}/items", f"{RUN}/merge.json")
WRITTEN = ("items", f"{RUN}/items", f"{RUN}/merge.json")
MERGED = ("run.*", f"{RUN}/merge.json")
CHIP, VECTOR = ".rs_embed/store/chips/*/*/*/*.npy", ".rs_embed/store/embeddings/*/*/*.npy"
REPAIRED = ("items/p00001.npz", "items/p0000[5-7].npz")
ALL = {"fetch": 2, "embed": 2, "write": 2, "merge": 1}
STAGES = {
    "fetch": Stage("per_item", "fetch", ("*",), "0.4 *.npy", CHIP, "fetch/*/*.json", 0, ALL),
    "embed": Stage(
        "combined", "embed", EMBEDDED, "0.4 *.npy", VECTOR, "embed/*/*.json", 0, {k: ALL[k] for k in list(ALL)[1:]}
    ),
    "write": Stage(
        *("per_item", "write", WRITTEN, "0.6 */p0000[4-7].npz", "items/p0000[4-7].npz", "items/*.json", 1),
        {"write": 1, "merge": 1},
    ),
    "merge": Stage("combined", "merge", MERGED, "4 */run.npz", ".tmp-*-run.npz", "merge.json", 0, {"merge": 1}),
    "merge, between the files": Stage(
        "combined", "merge", MERGED, "4 */run.json", ".tmp-*-run.json", "merge.json", 0, {"merge": 1}
    ),
    "merge, its receipt": Stage(
        "combined", "merge", MERGED, "4 *merge.json", f"{RUN}/.tmp-*-merge.json", "merge.json", 0, {"merge": 1}
    ),
    "repair": Stage(
        *("per_item", "repair", REPAIRED, "0.6 */p0000[4-7].npz", REPAIRED[1], "repairs/*.json", 1),
        {"repair": 1},
    ),
    "repair, its receipt": Stage(
        *("per_item", "repair", ("items/p00005.npz",), "4 *repairs/*", f"{RUN}/repairs/.tmp-*", "repairs/*.json", 0),
        {},
    ),
}


def tree(process: psutil.Process) -> list[psutil.Process]:
    return [*process.children(recursive=True), process]


def kill_all(caller: psutil.Process) -> None:
    """SIGKILL the process and everything it has started; stopped first, so that none reacts to the
    end of another."""
    family = tree(caller)
    for member in family:
        member.suspend()
    for member in family:
        member.kill()


def snakemake_of(caller: psutil.Process) -> psutil.Process:
    (found,) = (p for p in caller.children() if "rs_embed.launch.child_main" in p.cmdline())
    return found


#: What is done to whom. Each is called with the process that was started.
WAYS: dict[str, Callable[[psutil.Process], None]] = {
    "SIGKILL to everything": kill_all,
    "SIGTERM to the caller": lambda caller: caller.send_signal(signal.SIGTERM),
    "SIGINT to the caller": lambda caller: caller.send_signal(signal.SIGINT),
    "SIGTERM to Snakemake": lambda caller: snakemake_of(caller).send_signal(signal.SIGTERM),
    "SIGKILL to Snakemake": lambda caller: snakemake_of(caller).send_signal(signal.SIGKILL),
}
#: The same where a person has started `snakemake` (in a terminal, SIGINT goes to the whole group).
SHELL_WAYS: dict[str, Callable[[psutil.Process], None]] = {
    "SIGKILL to everything": kill_all,
    "SIGKILL": lambda started: started.kill(),
    "SIGTERM": lambda started: started.send_signal(signal.SIGTERM),
    "SIGINT": lambda started: os.killpg(started.pid, signal.SIGINT),
}


CASES = [
    (stage, way) for way in list(WAYS)[:3] for stage in STAGES if way == "SIGKILL to everything" or "," not in stage
]
CASES += [("embed", way) for way in list(WAYS)[3:]]


def todo_after(stage: str, way: str) -> dict[str, int]:
    """Jobs of the next start. Snakemake lets running jobs finish on SIGTERM, so the one in the
    middle is done; of embed jobs, which take a core each where there are more of them, two are."""
    todo = STAGES[stage].todo
    if way not in ("SIGTERM to Snakemake", "SIGTERM"):
        return todo
    left = todo | {stage: max(0, todo[stage] - (2 if stage == "embed" else 1))}
    return {rule: n for rule, n in left.items() if n}


def start(command: list[str], slow: str = "", cwd: Path = CHECKOUT) -> subprocess.Popen:
    """Start a process in a group of its own; ``slow`` is what the slow disk does."""
    slow_disk = os.pathsep.join([str(CHECKOUT / "tests" / "support" / "slow_disk"), str(CHECKOUT)])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RS_EMBED")} | {"PYTHONPATH": slow_disk}
    listen = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a CI in the background ignores it
    return subprocess.Popen(
        command,
        cwd=cwd,
        env=environment | ({"RS_EMBED_SLOW_DISK": slow} if slow else {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=listen,
        start_new_session=True,
    )


def python_call(layout: str, folder: Path, *more: str) -> list[str]:
    return [sys.executable, "-c", REQUEST, layout, str(folder), *more]


def shell_call() -> list[str]:
    """The same request with the ``snakemake`` command, in the run's folder, where its frozen
    config lies."""
    return snakemake_command("--configfile", "config.yaml", "--cores", "2")


def wait_until(true: Callable[[], bool], process: subprocess.Popen, what: str) -> None:
    """Poll; fails loudly when the process ends before, or nothing happens for long."""
    end = time.monotonic() + 90
    while not true():
        assert process.poll() is None, f"ended before {what}: {process.communicate()[1]}"
        assert time.monotonic() < end, f"never {what}"
        time.sleep(0.01)


def prepare(reference: Path, folder: Path, stage: Stage) -> None:
    """A copy of the finished export as it is when only this stage and those behind it are left to
    do."""
    shutil.copytree(reference, folder, symlinks=True)
    for pattern in stage.lose:
        for path in list(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def there(folder: Path, pattern: str) -> set[str]:
    """Files below a folder that match a pattern; half ones only where the pattern asks for
    them."""
    hidden = Path(pattern).name.startswith(".tmp-")
    found = {p for p in folder.glob(pattern) if hidden or not p.name.startswith(".tmp-")}
    return {str(p.relative_to(folder)) for p in found}


def receipts_of(folder: Path, stage: Stage) -> set[str]:
    return there(folder, f"{RUN}/{stage.receipts}")


def kill_in_the_middle(command: list[str], folder: Path, stage: Stage, way: Callable, cwd: Path = CHECKOUT) -> str:
    """Start a request, do something to it in the middle of a stage, wait until nothing of it runs;
    returns its output. Fails where the job was not in the middle."""
    victim = start(command, f"{stage.step} {stage.slow}", cwd)
    caller = psutil.Process(victim.pid)

    def in_the_middle() -> bool:
        return len(receipts_of(folder, stage)) >= stage.first and bool(there(folder, stage.product))

    wait_until(in_the_middle, victim, f"in the middle of {stage.step}")
    family = tree(caller)
    assert [p for p in family if {"rs_embed", stage.step} <= set(p.cmdline())], "no such job is running"
    assert len(receipts_of(folder, stage)) == stage.first, "its receipt is there already"
    way(caller)
    _, output = victim.communicate(timeout=40)
    alive = psutil.wait_procs(family, timeout=40)[1]
    assert alive == [], "something runs on"
    assert victim.returncode != 0, output
    return output


def objects(folder: Path) -> dict[str, tuple]:
    """What has to outlive a kill: stored objects and per-item files, with time and inode."""
    return times(folder, ".rs_embed/store/**/[0-9a-f]*.npy") | times(folder, "items/p*")


def in_hand(stage: Stage, before: dict) -> set[str]:
    """Files that the job in the middle is allowed to make again: all of its chunk in write, in
    repair those of places whose array file was still missing."""
    if stage.step == "write":
        return {k for k in before if k.startswith("items/") and int(Path(k).stem[1:]) >= CHUNK}
    if stage.step == "repair":
        return {k for k in before if k.endswith(".json") and k[:-5] + ".npz" not in before}
    return set()
