"""`make demo`: embeds 16 ROIs of the sample scene once, and exports them combined and as one file
per ROI."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

import rs_embed
from rs_embed.request.rois import read_rois

HERE = Path(__file__).resolve().parent
OUT = HERE / "exports" / "demo"


def main() -> int:
    """Run both exports, read them back, and print what was written."""
    spatials, names, _ = read_rois("config/rois.csv", str(HERE))
    request = {
        "spatials": spatials,
        "temporal": rs_embed.TemporalSpec.range("2022-06-01", "2022-09-01"),
        "models": ["mosaiks"],
        "backend": "sample",
    }
    started = time.monotonic()
    print(f"1. Embedding {len(spatials)} ROIs with mosaiks, all in one file ...", flush=True)
    combined = rs_embed.export_batch(target=rs_embed.ExportTarget.combined(str(OUT / "all"), names=names), **request)
    print("2. The same request, one file per ROI; nothing is fetched or embedded again ...", flush=True)
    target = rs_embed.ExportTarget.per_item(str(OUT / "places"), names=names)
    items = rs_embed.export_batch(target=target, **request)

    one = rs_embed.load_export(OUT / "all.npz")
    many = rs_embed.load_export(OUT / "places")
    vectors = one.embedding("mosaiks")
    equal = np.array_equal(vectors, many.embedding("mosaiks")) and np.array_equal(
        one.models["mosaiks"].inputs, many.models["mosaiks"].inputs
    )
    runs = sorted((OUT / ".rs_embed" / "runs").glob("places-*/embed/*/*.json"))
    again = sum(json.loads(r.read_text())["embedded"] for r in runs)
    folder = OUT.relative_to(Path.cwd()) if OUT.is_relative_to(Path.cwd()) else OUT
    print(f"""
Wrote in {time.monotonic() - started:.0f} s:
  {folder}/all.npz, all.json   embeddings {vectors.shape} {vectors.dtype}, the pixels, and the manifest ({combined["status"]})
  {folder}/places/             {len(items)} files with their manifests, and the index manifest.json
  {folder}/.rs_embed/          the work folder: its objects are never made twice
The second export embedded {again} ROIs again; both read back {"equal" if equal else "DIFFERENT"}.

Load it:
  import rs_embed
  export = rs_embed.load_export("{folder}/all.npz")
  export.embedding("mosaiks")           # {vectors.shape}, rows in the order of config/rois.csv
  export.models["mosaiks"].inputs       # {one.models["mosaiks"].inputs.shape} pixels
  export.names[:3]                      # {one.names[:3]}""")
    return 0 if equal and not again and combined["status"] == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
