"""The public names, the wheel, and files of the checkout that must agree."""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import rs_embed
from rs_embed import errors, version
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


def test_the_public_names_are_sorted_documented_and_importable():
    assert rs_embed.__all__ == sorted(set(rs_embed.__all__))
    assert set(rs_embed.__all__) <= set(dir(rs_embed))
    for name in rs_embed.__all__:
        assert getattr(rs_embed, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'export_bach'"):
        rs_embed.export_bach  # noqa: B018


def _documented_members() -> dict[str, tuple[list[str], str]]:
    """Annotations and docstring of every public function, and of every public field, method and
    property of the classes."""
    members = {}
    for name in rs_embed.__all__:
        value = getattr(rs_embed, name)
        if inspect.isfunction(value):
            members[name] = ([*map(str, value.__annotations__.values())], value.__doc__)
        if not inspect.isclass(value):
            continue
        fields = [str(kind) for field, kind in inspect.get_annotations(value).items() if not field.startswith("_")]
        members[name] = (fields, value.__doc__)
        for member, kind in vars(value).items():
            function = getattr(kind, "fget", None) or getattr(kind, "func", None) or getattr(kind, "__func__", kind)
            if inspect.isfunction(function) and not member.startswith("_"):
                annotations = [*map(str, function.__annotations__.values())]
                members[f"{name}.{member}"] = (annotations, function.__doc__ or "")
    return members


def test_classes_and_errors_of_public_functions_are_public():
    sources = [path.read_text() for path in (CHECKOUT / "rs_embed").rglob("*.py")]
    defined = {name for source in sources for name in re.findall(r"^class ([A-Z]\w+)", source, re.MULTILINE)}
    known = {*rs_embed.__all__, "Records"}  # of ModelResult.meta: to users a sequence
    members = _documented_members()
    assert {"plan_batch", "load_export", "ExportTarget.combined", "ExportResult.to_xarray", "Estimate"} <= set(members)
    for member, (kinds, text) in members.items():
        used = {word for kind in kinds for word in re.findall(r"\w+", kind)} & defined
        raised = {word for word in re.findall(r"\b[A-Z]\w*Error\b", text) if not hasattr(builtins, word)}
        assert used | raised <= known, member


def test_all_errors_are_public():
    own = [error for error in vars(errors).values() if inspect.isclass(error) and issubclass(error, Exception)]
    assert {error.__name__ for error in own} <= set(rs_embed.__all__)


def test_importing_the_package_imports_no_large_library(tmp_path):
    heavy = ["torch", "numpy", "snakemake", "pandas", "rasterio", "ee", "rs_embed.estimate", "rs_embed.engine"]
    code = f"import sys, rs_embed; print([m for m in {heavy} if m in sys.modules])"
    assert python(code, tmp_path).stdout == "[]\n"
    code = "import sys; from rs_embed import *; print(Estimate.__name__, 'torch' in sys.modules)"
    assert python(code, tmp_path).stdout == "Estimate False\n"


def test_type_checkers_see_every_public_name():
    tree = ast.parse((CHECKOUT / "rs_embed" / "__init__.py").read_text())
    imported = {a.asname or a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for a in node.names}
    declared = {node.target.id for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)}
    assert set(rs_embed.__all__) <= imported | declared
    assert (CHECKOUT / "rs_embed" / "py.typed").exists()


def test_the_version_is_that_of_the_distribution(tmp_path, capsys):
    assert rs_embed.__version__ == PROJECT["version"]
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"{PROJECT['name']} {PROJECT['version']}\n"
    assert PROJECT["name"] == version.DISTRIBUTION


def test_the_version_without_metadata_is_that_of_the_checkout_or_unknown(tmp_path):
    code = "import sys; sys.path.insert(0, sys.argv[1]); import rs_embed; print(rs_embed.__version__)"
    link, copy = tmp_path / "link", tmp_path / "copy"
    link.mkdir()
    (link / "rs_embed").symlink_to(CHECKOUT / "rs_embed")
    shutil.copytree(CHECKOUT / "rs_embed", copy / "rs_embed", ignore=shutil.ignore_patterns("__pycache__"))
    for folder, expected in ((link, PROJECT["version"]), (copy, version.UNKNOWN)):
        # -S: without the site-packages, which have the metadata
        done = subprocess.run([sys.executable, "-S", "-c", code, str(folder)], capture_output=True, text=True)
        assert done.stdout == f"{expected}\n", done.stderr


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
