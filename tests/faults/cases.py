"""The export that faults are tried on: a small request through both entry points, its undisturbed
result, and what recovery means."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from rs_embed.store.objects import verify_object

from ..support.exports import CHECKOUT, content, places, snakemake_command, times

N, CHUNK = 6, 3  # two chunks of three places
STEPS = ("fetch", "embed", "write", "repair", "merge")
LAYOUTS = ("combined", "per_item")
#: File formats that faults are tried with; ``watch.WHOLE`` knows how to read them.
FORMATS = ("npz", "netcdf")
HOOKS = CHECKOUT / "tests" / "faults" / "hooks"
RUN = ".rs_embed/runs/*"
#: What a finished export loses so that these jobs are left to do, as patterns below its folder.
LOST = {
    "everything": ("*",),
    "embed": ("run.*", "items", ".rs_embed/store/embeddings", f"{RUN}/embed", f"{RUN}/items", f"{RUN}/merge.json"),
    "write": ("items", f"{RUN}/items", f"{RUN}/merge.json"),
    "merge": ("run.*", "items/manifest.json", f"{RUN}/merge.json"),
    "repair": ("items/p00001.*", "items/p00004.*"),
}
PYTHON = """
import json, sys
from pathlib import Path
from rs_embed import ExportModelRequest, ExportTarget
from tests.support.exports import combined, export
from tests.faults.cases import spots

layout, folder, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
target = ExportTarget.per_item(folder + "/items") if layout == "per_item" else combined(Path(folder) / "run")
model = ExportModelRequest("mosaiks", model_config={"features": 8, "patch_size": 5})
export(target, spots(), [model], **options)
"""


def spots() -> list:
    return places(N)


@dataclass(frozen=True)
class Case:
    """One export: ``entry`` is ``python`` (``export_batch``) or ``snakemake`` (its command
    line)."""

    layout: str = "combined"
    format: str = "npz"
    entry: str = "python"

    @property
    def options(self) -> dict:
        return {
            "chunk_size": CHUNK,
            "num_workers": 2,
            "writer_workers": 1,
            "retry_backoff_s": 0.05,
            "keep_work": "all",  # stored objects are counted
            "format": self.format,
        }

    def command(self, folder: Path, **options) -> list[str]:
        """What starts it. Options are of ``ExportConfig``."""
        options = self.options | options
        if self.entry == "python":
            return [sys.executable, "-c", PYTHON, self.layout, str(folder), json.dumps(options)]
        path = folder.parent / f"{folder.name}.yaml"
        path.write_text(json.dumps(self._config(folder, options)))
        return snakemake_command("--configfile", path, "--cores", "2")

    def _config(self, folder: Path, options: dict) -> dict:
        target = str(folder / "items") if self.layout == "per_item" else str(folder / "run")
        return {
            "rois": [{"lon": p.lon, "lat": p.lat, "buffer_m": p.buffer_m} for p in spots()],
            "temporal": {"start": "2022-06-01", "end": "2022-09-01"},
            "models": [{"name": "mosaiks", "model_config": {"features": 8, "patch_size": 5}}],
            "target": {"layout": self.layout, "path": target},
            "backend": "sample",
            "export": options,
        }


def start(command: list[str], faults: dict | None = None, **environment: str) -> subprocess.Popen:
    """Start a process in a session of its own, with faults in its jobs (see ``hooks``)."""
    known = {k: v for k, v in os.environ.items() if not k.startswith("RS_EMBED")}
    known["PYTHONPATH"] = os.pathsep.join([str(HOOKS), str(CHECKOUT)])
    if faults:
        known["RS_EMBED_FAULTS"] = json.dumps(faults)
    return subprocess.Popen(
        command,
        cwd=CHECKOUT,
        env=known | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        start_new_session=True,
    )


def run(command: list[str], faults: dict | None = None, **environment: str) -> tuple[int, str]:
    """Run a command to its end; (status, output)."""
    process = start(command, faults, **environment)
    output, _ = process.communicate(timeout=180)
    return process.returncode, output


def sentence(output: str) -> str:
    """The error at the end of a run's output: of Python the message of its exception."""
    lines = [line for line in output.strip().splitlines() if line.strip()]
    named = [line for line in lines if "ExportError: " in line or ".errors." in line or "WorkflowError" in line]
    return named[-1] if named else "\n".join(lines[-3:])


def copied(finished: Path, folder: Path, lost: str = "merge") -> None:
    """A copy of a finished export that has lost something; see ``LOST``."""
    shutil.copytree(finished, folder, symlinks=True, dirs_exist_ok=True)
    for pattern in LOST[lost]:
        for path in list(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def objects(folder: Path) -> dict[str, tuple]:
    """Stored objects with time and inode."""
    return times(folder, ".rs_embed/store/**/[0-9a-f]*.npy")


def repeated(before: dict, after: dict) -> int:
    """Objects that were there and were made again."""
    return sum(k in after and after[k] != before[k] for k in before)


def lost_items(folder: Path, layout: str) -> int:
    """ROIs of a finished export that have no embedding."""
    path = folder / ("items/manifest.json" if layout == "per_item" else "run.json")
    manifest = json.loads(path.read_text())
    counts = manifest["items_by_status" if layout == "per_item" else "items"]
    return N - counts.get("ok", 0)


def check_recovered(folder: Path, reference: Path, layout: str) -> int:
    """A run that ended well is equal to the undisturbed one; returns the items it lost (0)."""
    assert content(folder) == content(reference), "the files are others than those of an undisturbed run"
    assert set(objects(folder)) == set(objects(reference)), "as many objects as undisturbed"
    for path in folder.glob(".rs_embed/store/**/[0-9a-f]*.npy"):
        verify_object(path)
    half = [str(p.relative_to(folder)) for p in folder.rglob(".tmp-*")]
    assert not half, f"half files are left: {half}"
    assert not list(folder.glob(".rs_embed/runs/*/.snakemake/locks/*")), "something would have to be unlocked"
    return lost_items(folder, layout)


def family(process: subprocess.Popen) -> list[psutil.Process]:
    """A process and all that it has started."""
    try:
        caller = psutil.Process(process.pid)
        return [caller, *caller.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def step_of(process: psutil.Process) -> str | None:
    """The step that a process works on."""
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None
    if words[1:3] == ["-m", "rs_embed"] and len(words) > 3:
        return words[3] if words[3] in STEPS else None
    return None
