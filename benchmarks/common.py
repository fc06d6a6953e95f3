"""Shared by the benchmarks: ROIs on the sample scene, a measured `snakemake`, the name of the
CPU."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
#: Width and height of images in pixels, and the models that are measured: model, modality,
#: options.
SIDE = 224
FOUNDATION = [
    ("remoteclip", "s2", {}),
    ("prithvi", "s2", {"temporal_mode": "single"}),
    ("terrafm", "s2", {}),
    ("terrafm", "s1", {}),
    ("thor", "s2", {"variant": "tiny"}),
    ("thor", "s1", {"variant": "tiny"}),
    ("thor", "s2", {"variant": "base"}),
]


def write_rois(path: Path, n: int, buffer_m: float) -> None:
    """Write a ROI table of n squares spread over the scene."""
    from rs_embed import PointBuffer
    from rs_embed.providers.sample import SCENE
    from rs_embed.request.geometry import get_transformer
    from rs_embed.request.rois import format_rois

    to = get_transformer(SCENE.crs, "EPSG:4326")
    left, bottom, right, top = SCENE.bounds
    side, edge = int(n**0.5) + 1, buffer_m + 10
    steps = [(i % side / side, i // side / side) for i in range(n)]
    squares = [
        PointBuffer(
            *to.transform(left + edge + (right - left - 2 * edge) * u, top - edge - (top - bottom - 2 * edge) * v),
            buffer_m,
        )
        for u, v in steps
    ]
    path.write_text(format_rois(squares, [f"p{i:05d}" for i in range(n)]))


def run_snakemake(folder: Path, *arguments: str) -> tuple[float, float, float]:
    """Run `snakemake` with the config.yaml of a folder; returns wall seconds, CPU seconds of all
    processes, and peak memory of the largest process, MB."""
    command = [str(Path(sys.executable).with_name("snakemake")), "--snakefile", str(CHECKOUT / "Snakefile")]
    command += [*arguments, "--configfile", "config.yaml"]
    with open(folder / "log", "w") as log:
        started = time.monotonic()
        child = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = status
    if status:
        sys.exit((folder / "log").read_text()[-3000:])
    return time.monotonic() - started, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def cpu_name() -> str:
    """The model of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def write_table(page: str, name: str, text: str) -> None:
    """Replace the table of ``docs/<page>`` between the marks of ``benchmarks/<name>``."""
    path = CHECKOUT / "docs" / page
    head, tail, before = f"<!-- written by benchmarks/{name}: begin -->", "<!-- end -->", path.read_text()
    begin = before.index(head)
    path.write_text(before[:begin] + f"{head}\n{text}\n{tail}" + before[before.index(tail, begin) + len(tail) :])


#: Delays a provider in every Python process that has this file as ``sitecustomize``: it replaces a
#: service, which keeps no core busy.
_DELAY = """
import importlib.util, sys, time
from importlib.abc import MetaPathFinder

class Delay(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "rs_embed.providers.{module}":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        def load(module):
            run(module)
            provider = module.{provider}
            original = provider.fetch
            def fetch(self, *arguments):
                time.sleep({seconds})
                return original(self, *arguments)
            provider.fetch, provider.cores = fetch, 0
        spec.loader.exec_module = load
        return spec

sys.meta_path.insert(0, Delay())
"""


def delay_provider(folder: Path, provider: str, seconds: float) -> dict[str, str]:
    """The environment of processes whose provider ``sample`` or ``local`` sleeps before each
    chip."""
    folder.mkdir(parents=True, exist_ok=True)
    module = {"local": "rasters.local"}.get(provider, provider)
    text = _DELAY.format(module=module, provider=f"{provider.title()}Provider", seconds=seconds)
    (folder / "sitecustomize.py").write_text(text)
    return {"PYTHONPATH": str(folder)}
