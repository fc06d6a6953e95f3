"""Every manifest that a test's export writes is held against the published schema."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from rs_embed.formats.manifest import SCHEMA


@functools.cache
def _validator(kind: str) -> Draft202012Validator:
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator({**schema, "oneOf": [{"$ref": f"#/$defs/{kind}"}]} if kind else schema)


def check_manifest(path: Path) -> dict:
    """A manifest is strict JSON, fits the schema, and has one row for each ROI wherever it has
    rows."""
    manifest = json.loads(
        path.read_text(encoding="utf-8"), parse_constant=lambda c: pytest.fail(f"{path}: not JSON: {c}")
    )
    kind = "item" if "point_index" in manifest else "combined" if manifest["layout"] == "combined" else "index"
    errors = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:300]}" for e in _deep(_validator(kind), manifest)]
    assert not errors, f"{path}: {errors[:5]}"
    n = manifest.get("n_items")
    rows = {k: len(manifest[k]) for k in ("names", "roi_ids", "spatials", "windows") if k in manifest}
    rows |= {f"imagery of {k}": len(v["rows"]) for k, v in manifest["imagery"].items()} if kind == "combined" else {}
    rows |= {f"metas of {m['model']}": len(m["metas"]) for m in manifest["models"]} if kind == "combined" else {}
    rows |= {"items": len(manifest["items"])} if kind == "index" else {}
    assert all(v == n for v in rows.values()), (path, n, rows)
    return manifest


def _deep(validator, manifest):
    """Errors of the parts, where the error of the whole only is that no alternative fits."""
    for error in validator.iter_errors(manifest):
        while error.context:
            error = max(error.context, key=lambda e: len(e.absolute_path))
        yield error


def check_export(target, base: Path = Path()) -> None:
    """Check what an export has written at its target: all manifests that its run vouches for."""
    path = base / target.path
    if target.layout == "combined":
        for suffix in (".npz", ".nc", ""):
            sidecar = Path(str(path).removesuffix(suffix) + ".json")
            if sidecar.exists():
                check_manifest(sidecar)
                return
    elif (path / "manifest.json").exists():
        index = check_manifest(path / "manifest.json")
        for item in index["items"]:
            check_manifest((path / item["file"]).with_suffix(".json"))
