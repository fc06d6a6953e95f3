"""What travels with the package: the wheel from an empty folder, and files that have to agree."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import rs_embed
from rs_embed.cli import main

from .support.exports import CHECKOUT, python

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


@pytest.mark.heavy
def test_the_wheel_exports_from_an_empty_folder(tmp_path):
    site, here = tmp_path / "site", tmp_path / "here"
    here.mkdir()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(CHECKOUT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    code = """
import rs_embed
from rs_embed.launch.launcher import workflow_folder
print(rs_embed.__file__, workflow_folder())
for name, given in {
    "run": {"spatials": [rs_embed.PointBuffer(12.41, 51.345, 200)]},
    "table": {"rois": "../plots.geojson"},
}.items():
    manifest = rs_embed.export_batch(
        **given, temporal=None, models=["mosaiks"], backend="sample", target=rs_embed.ExportTarget.combined("out/" + name))
    print(manifest["status"], rs_embed.load_export(f"out/{name}.npz").embedding("mosaiks").shape, manifest["names"])
"""
    properties = {"name": "here", "buffer_m": 200, "start": "2022-07-01", "end": "2022-08-01"}
    feature = {
        "type": "Feature",
        "properties": properties,
        "geometry": {"type": "Point", "coordinates": [12.41, 51.345]},
    }
    (tmp_path / "plots.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    done = python(code, cwd=here, env=os.environ | {"PYTHONPATH": str(site)})
    assert done.returncode == 0, done.stderr
    first, *made = done.stdout.splitlines()
    assert first == f"{site}/rs_embed/__init__.py {site}/rs_embed/_workflow"
    assert made == ["ok (1, 512) ['p00000']", "ok (1, 512) ['here']"]
    assert {p.name for p in here.iterdir()} == {"out"}
    assert (site / "rs_embed" / "formats" / "manifest.schema.json").exists()


def test_everything_public_is_importable_from_the_top():
    names = (
        "BBox PointBuffer TemporalSpec SensorSpec FetchSpec OutputSpec InputPrepSpec ExportTarget ExportConfig "
        "ExportModelRequest export_batch plan_batch load_export RSEmbedError SpecError ProviderError ModelError"
    )
    for name in names.split():
        assert name in rs_embed.__all__
        assert getattr(rs_embed, name).__doc__
    assert rs_embed.__all__ == sorted(rs_embed.__all__)


def _names(requirements: list[str]) -> set[str]:
    return {re.match(r"[A-Za-z0-9._-]+", r).group().lower() for r in requirements}


def test_dependencies_are_pinned_and_the_conda_environment_has_those_of_the_steps():
    lines = (CHECKOUT / "envs" / "constraints.txt").read_text().splitlines()
    pins = {p.split("==")[0].lower(): p.split("==")[1] for p in lines if not p.startswith("#")}
    wanted = _names(PROJECT["dependencies"]).union(*map(_names, PROJECT["optional-dependencies"].values()))
    assert wanted <= set(pins)
    assert pins["torch"] == "2.13.0"
    assert "://" not in (CHECKOUT / "envs" / "constraints.txt").read_text()
    conda = yaml.safe_load((CHECKOUT / "envs" / "environment.yaml").read_text())["dependencies"]
    steps = _names([d for d in conda if isinstance(d, str)]) | _names(conda[-1]["pip"])
    elsewhere = {"psutil", "pyogrio", "snakemake", "pandas", "xarray"}  # where jobs are started, or exports read
    called = {"pytorch": "torch", "python-isal": "isal"}
    assert {called.get(s, s) for s in steps} - {"python", "pip"} == _names(PROJECT["dependencies"]) - elsewhere


def test_the_documents_are_true_about_options_and_links():
    from rs_embed.request.config import ExportConfig

    table = (CHECKOUT / "docs" / "configuration.md").read_text()
    for name, field in ExportConfig.__dataclass_fields__.items():
        word = field.default if isinstance(field.default, str) else json.dumps(field.default)
        row = next((line for line in table.splitlines() if line.startswith(f"| `{name}` |")), None)
        assert row, f"{name} is not in docs/configuration.md"
        assert f"| `{word}` |" in row, (row, word)
    for document in [CHECKOUT / "README.md", *(CHECKOUT / "docs").glob("**/*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / link).exists(), f"{document.name}: {link}"
    version = PROJECT["version"]
    assert f"## {version}" in (CHECKOUT / "CHANGELOG.md").read_text()


def test_the_commands_of_the_readme_exist():
    readme = (CHECKOUT / "README.md").read_text()
    targets = re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:`|^    )make ([a-z-]+)", readme, re.MULTILINE):
        assert target in targets
    assert "make demo" in readme
    assert "make test" in readme


def test_models_are_listed_and_described(capsys):
    assert main(["models"]) == 0
    assert "mosaiks" in capsys.readouterr().out
    assert main(["models", "RCF"]) == 0
    assert '"patch_size"' in capsys.readouterr().out
    assert main(["models", "nope"]) == 1
    assert capsys.readouterr().err.startswith("error: models: 'nope' is unknown")


def test_a_step_in_the_wrong_folder_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["write", "--chunk", "00000"]) == 1
    assert "is not the folder of a run" in capsys.readouterr().err


def test_no_file_of_the_package_is_too_long():
    for path in [
        *(CHECKOUT / "rs_embed").rglob("*.py"),
        *(CHECKOUT / "workflow").rglob("*.smk"),
        CHECKOUT / "Snakefile",
    ]:
        assert len(Path(path).read_text().splitlines()) <= 400, path
