"""ROIs on the sample scene, exports through real Snakemake runs, and what they have done."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import rs_embed

from .manifest_schema import check_export

CHECKOUT = Path(__file__).resolve().parents[2]
WINDOW = rs_embed.TemporalSpec.range("2022-06-01", "2022-09-01")


def places(n: int, buffer_m: float = 160.0) -> list[rs_embed.PointBuffer]:
    """n different squares inside the sample scene."""
    from rs_embed.providers.sample import SCENE
    from rs_embed.request.geometry import get_transformer

    to = get_transformer(SCENE.crs, "EPSG:4326")
    left, bottom, right, top = SCENE.bounds
    side = int(n**0.5) + 1
    reach = buffer_m + 20
    out = []
    for i in range(n):
        x = left + reach + (right - left - 2 * reach) * (i % side) / side
        y = top - reach - (top - bottom - 2 * reach) * (i // side) / side
        out.append(rs_embed.PointBuffer(*to.transform(x, y), buffer_m))
    return out


def export(target: rs_embed.ExportTarget, spatials: list, models: list | None = None, **keywords):
    """``export_batch`` on the sample scene, quietly, with two cores; keywords are its own or
    single options."""
    keywords = {"show_progress": False, "cores": 2, "temporal": WINDOW, "backend": "sample"} | keywords
    if "config" in keywords:
        del keywords["show_progress"], keywords["cores"]
    manifests = rs_embed.export_batch(spatials=spatials, models=models or ["mosaiks"], target=target, **keywords)
    check_export(target)
    return manifests


def combined(path: Path) -> rs_embed.ExportTarget:
    return rs_embed.ExportTarget.combined(str(path))


def run_folder(target: Path, layout: str = "combined") -> Path:
    """The run's folder of a target with the default work folder."""
    (found,) = (target.parent / ".rs_embed" / "runs").glob(f"{target.name}-{layout}-*")
    return found


def times(folder: Path, pattern: str = "**/*.npy") -> dict[str, int]:
    """Modification time and inode of every file below a folder: equal means not made again."""
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_ino) for p in sorted(folder.glob(pattern))}


def log_of(folder: Path) -> str:
    return (folder / "logs" / "snakemake.log").read_text()


def steps(folder: Path) -> dict[str, int]:
    """How many jobs of each rule the last start of a run has finished."""
    rules = re.findall(r"Finished jobid: \d+ \(Rule: (\w+)\)", log_of(folder))
    return dict(Counter(rule for rule in rules if rule != "all"))


def jobs(folder: Path) -> set[str]:
    """Rules of which the last start of a run has finished a job."""
    return set(steps(folder))


def made(folder: Path) -> dict[str, int]:
    """Counts of fetched chips and embeddings in the receipts of a run."""
    read = [json.loads(p.read_text()) for p in folder.glob("[fe]*/*/*.json")]
    return {"fetched": sum(r.get("fetched", 0) for r in read), "embedded": sum(r.get("embedded", 0) for r in read)}


#: Keys of manifests with times.
_CLOCK = ("created_at", "completed_at", "fetched", "timing")


def content(folder: Path) -> dict[str, object]:
    """The user's files below a folder: arrays as bytes, manifests without the times in them."""
    files = [p for p in sorted(folder.rglob("*.*")) if ".rs_embed" not in p.parts and p.is_file()]
    timeless = lambda pairs: {k: v for k, v in pairs if k not in _CLOCK}  # noqa: E731
    return {
        str(p.relative_to(folder)): (
            json.loads(p.read_bytes(), object_pairs_hook=timeless) if p.suffix == ".json" else p.read_bytes()
        )
        for p in files
    }


def python(code: str, cwd: Path, **keywords) -> subprocess.CompletedProcess:
    """Run code in a new interpreter."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, **keywords)


def snakemake_command(*arguments: str, profile: str = "default") -> list[str]:
    """The snakemake command with the checkout's workflow, as a person would type it."""
    command = [Path(sys.executable).with_name("snakemake"), "--snakefile", CHECKOUT / "Snakefile"]
    return [*map(str, [*command, "--workflow-profile", CHECKOUT / "profiles" / profile]), *map(str, arguments)]


def snakemake(*arguments: str, cwd: Path, **keywords) -> subprocess.CompletedProcess:
    """Run the checkout's workflow."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RS_EMBED")}
    command = snakemake_command(*arguments)
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, env=environment, **keywords)
