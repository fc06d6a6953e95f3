"""Digests of the array files of exports from real runs:
``python -m tests.support.array_digests FOLDER > before.json``.

With two versions of the package on one machine, the outputs are equal unless a value has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from . import rasters
from .identities import MTIME, REQUESTS, SUMMER

BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
COLLECTION = "COPERNICUS/S2_SR_HARMONIZED"
MODELS = [
    *({"name": name, "model_config": {"weights": "random"}} for name in ("remoteclip", "prithvi", "terrafm")),
    {"name": "thor", "model_config": {"weights": "random", "variant": "tiny"}},
    {"name": "mosaiks", "model_config": {"features": 64}},
]


def exports() -> dict[str, dict]:
    """Configs by name: every model, both layouts and formats, local and sample imagery."""
    local = {"rois": "places.csv", "temporal": SUMMER, "models": MODELS, "backend": "local:rasters"}
    configs = {
        "pooled": local,
        "grid": local | {"output": {"mode": "grid"}, "export": {"input_prep": "tile"}},
        "mercator": local | {"export": {"projection": "web_mercator"}},
        "bf16": local | {"models": MODELS[:4], "export": {"precision": "bf16", "save_inputs": False}},
        "inputs": local | {"models": MODELS[4:], "export": {"save_inputs": "model", "save_embeddings": True}},
    }
    configs |= {n: c for n, c in REQUESTS.items() if n.startswith("sample") and "remoteclip" not in json.dumps(c)}
    out = {}
    every = [("combined", "npz"), ("per_item", "netcdf"), ("combined", "netcdf"), ("per_item", "npz")]
    for name, config in configs.items():
        for layout, kind in every if name in ("pooled", "sample mosaiks") else every[:2]:
            target = {"layout": layout, "path": f"{name.replace(' ', '_')}-{layout}-{kind}"}
            export = {"chunk_size": 2} | config.get("export", {}) | {"format": kind}
            out[target["path"]] = config | {"target": target, "export": export}
    return out


def main(folder: Path) -> int:
    """Make the exports and print the digests."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(1, 4000, (len(BANDS), 160, 160)).astype("uint16")
    raster = rasters.write(folder / "rasters" / "scene.tif", pixels, names=BANDS)
    os.utime(raster, (MTIME, MTIME))  # it is in the identity of chips
    row = {"path": "scene.tif", "collection": COLLECTION, "bands": " ".join(BANDS)}
    rasters.catalogue(folder / "rasters", row)
    rois = [rasters.at(60, 60, 400), rasters.at(80, 90, 480), rasters.at(100, 70, 520)]
    rows = [f"p{i},{p.lon},{p.lat},{p.buffer_m}" for i, p in enumerate(rois)]
    (folder / "places.csv").write_text("\n".join(["name,lon,lat,buffer_m", *rows, ""]))
    snakefile = Path(__file__).resolve().parents[2] / "Snakefile"
    for name, config in exports().items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
        command = [Path(sys.executable).with_name("snakemake"), "--snakefile", snakefile, "--cores", "2", "--quiet"]
        command += ["--workflow-profile", snakefile.with_name("profiles") / "default", "--configfile", f"{name}.yaml"]
        done = subprocess.run([*map(str, command)], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
        print(name, file=sys.stderr, flush=True)
    files = sorted(p for p in folder.rglob("*.n[pc]*") if ".rs_embed" not in p.parts)
    files += sorted(folder.glob(".rs_embed/store/**/*.npy"))
    digests = {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in files}
    print(json.dumps(digests, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
