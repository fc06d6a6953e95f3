"""`make bench-noop`: cost of a start with no or almost no remaining jobs: 10,000 ROIs x 5 units, a
file per ROI.

A real run makes the finished export once (a few minutes); then three starts each of: nothing to
do, a dry run, one deleted file. It fails if a start does more than it should: any job, any changed
file in a dry run, more than one job.
Writes its table into docs/reliability.md.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from common import cpu_name, run_snakemake, write_rois, write_table

N, UNITS = 10_000, 5


def count_jobs(folder: Path) -> dict[str, int]:
    """Jobs of the last start by rule, from Snakemake's own table."""
    text = (folder / "log").read_text()
    rules = "fetch|embed|write|merge|repair|total"
    return {m[1]: int(m[2]) for m in re.finditer(rf"^({rules})\s+(\d+)$", text, re.MULTILINE)}


def list_files(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file, except the log of this script and Snakemake's own files."""
    out = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [f for f in folders if f != ".snakemake"]
        for name in names:
            path = os.path.join(parent, name)
            if os.path.islink(path) or path == str(folder / "log"):
                continue
            stat = os.stat(path)
            out[os.path.relpath(path, folder)] = (stat.st_size, stat.st_mtime_ns)
    return out


def measure(folder: Path, *arguments: str, before: Callable[[], None] = lambda: None) -> list[float]:
    """Medians of three starts: wall, CPU, MB."""
    found = []
    for _ in range(3):
        before()
        found.append(run_snakemake(folder, "--cores", "2", *arguments))
    return [statistics.median(f[i] for f in found) for i in range(3)]


def main() -> None:
    """Measure and write the table."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else N
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rois(folder / "rois.csv", n, 20)
        models = "".join(
            f"  - {{name: mosaiks, label: m{i}, model_config: {{features: 2, seed: {i}}}}}\n" for i in range(UNITS)
        )
        config = "rois: rois.csv\nbackend: sample\ndevice: cpu\ntarget: {layout: per_item, path: items}\n"
        (folder / "config.yaml").write_text(config + "models:\n" + models)
        whole = run_snakemake(folder, "--cores", "2")
        first, built = list_files(folder), count_jobs(folder)
        print(f"built: {whole[0]:.0f} s, jobs {built}, {len(first)} files", flush=True)

        lines = []

        def row(what: str, done: str, found: list[float]) -> None:
            lines.append(f"| {what} | {done} | {found[0]:.1f} / {found[1]:.1f} | {found[2]:.0f} |")
            print(lines[-1], flush=True)

        found = measure(folder)
        if count_jobs(folder) or "Nothing to be done" not in (folder / "log").read_text():
            sys.exit(f"the rerun did {count_jobs(folder)}")
        row("nothing to do", "no job", found)
        before = list_files(folder)
        found = measure(folder, "-n")
        changed = {k for k, v in list_files(folder).items() ^ before.items()}
        if changed or count_jobs(folder):
            sys.exit(f"the dry run did {count_jobs(folder)} and changed {sorted(changed)[:5]}")
        row("dry run", "no job, no file changed", found)
        victim = folder / "items" / f"p{n // 2:05d}.npz"
        found = measure(folder, before=victim.unlink)
        if count_jobs(folder) != {"repair": 1, "total": 2} or not victim.exists():  # `all` counts as a job
            sys.exit(f"the repair did {count_jobs(folder)}")
        row("one per-item file deleted", "one job: repair", found)
    text = f"""{n:,} ROIs x {UNITS} units, a file per ROI ({built["total"]:,} jobs, {len(first):,} files, created in {whole[0]:.0f} s with
`--cores 2`), on {os.cpu_count()} x {cpu_name()}, Python {platform.python_version()}, Snakemake {version("snakemake")}. Medians of three starts.

| start | what it did | seconds, wall / CPU | peak MB of a process |
|---|---|---|---|
{chr(10).join(lines)}"""
    write_table("reliability.md", "noop.py", text)
    print("wrote docs/reliability.md")


if __name__ == "__main__":
    main()
