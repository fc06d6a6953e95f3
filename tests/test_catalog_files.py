"""The files that make the project findable and citable: the Snakemake workflow catalogue,
CITATION.cff, the metadata."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml

from .support.exports import CHECKOUT

PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def usage() -> dict:
    (key, usage) = yaml.safe_load((CHECKOUT / ".snakemake-workflow-catalog.yml").read_text()).popitem()
    assert key == "usage"
    return usage


def test_the_catalogue_file_has_the_keys_that_the_catalogue_reads(usage):
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert set(usage["software-stack-deployment"]) == {"conda", "apptainer", "apptainer+conda"}
    assert {type(value) for value in usage["software-stack-deployment"].values()} == {bool}


def test_the_catalogue_finds_the_files_it_requires():
    readme = (CHECKOUT / "README.md").read_text().lower()
    assert "snakemake" in readme
    assert "workflow" in readme
    for path in ("workflow/Snakefile", "config/README.md", "config/config.yaml", "envs/environment.yaml"):
        assert (CHECKOUT / path).is_file(), path
    assert list((CHECKOUT / "workflow" / "rules").glob("*.smk"))


def test_every_rule_that_runs_a_job_has_the_conda_environment(usage):
    assert usage["software-stack-deployment"]["conda"]
    for path in (CHECKOUT / "workflow" / "rules").glob("*.smk"):
        text = path.read_text()
        rules = len(re.findall(r"^rule ", text, re.MULTILINE))
        assert text.count('"../../envs/environment.yaml"') == rules, path.name


def test_the_root_snakefile_is_the_same_workflow():
    included = re.findall(r'^include: "(.+)"', (CHECKOUT / "Snakefile").read_text(), re.MULTILINE)
    assert included == ["workflow/Snakefile"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_module_from_a_repository_plans_the_jobs(tmp_path):
    """What ``snakedeploy deploy-workflow`` writes, with a local repository in place of one on a
    hosting service."""
    repository, folder = tmp_path / "repository", tmp_path / "folder"
    for name in ("workflow", "envs", "config"):
        shutil.copytree(CHECKOUT / name, repository / name)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    for arguments in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "test"]):
        subprocess.run(["git", "-C", repository, *arguments], check=True, timeout=60)
    shutil.copytree(CHECKOUT / "config", folder / "config")
    (folder / "workflow").mkdir()
    (folder / "workflow" / "Snakefile").write_text(
        'configfile: "config/config.yaml"\n'
        f'module rs_embed_workflow:\n    snakefile: "git+file://{repository}/workflow/Snakefile@HEAD"\n    config: config\n'
        "use rule * from rs_embed_workflow\n"
    )
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--dry-run", "--quiet", "rules"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    assert re.search(r"^total +5$", output, re.MULTILINE), output


def test_the_configuration_page_describes_every_key():
    text = (CHECKOUT / "config" / "README.md").read_text()
    schema = yaml.safe_load((CHECKOUT / "workflow" / "schemas" / "config.schema.yaml").read_text())
    keys = set(yaml.safe_load((CHECKOUT / "config" / "config.yaml").read_text()))
    assert keys <= set(schema["properties"])
    for key in keys:
        assert f"\n| `{key}` |" in text, f"config/README.md does not describe {key}"


@pytest.mark.parametrize("page", ["config/README.md", "CONTRIBUTING.md"])
def test_links_lead_to_files(page):
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (CHECKOUT / page).read_text()):
        assert ((CHECKOUT / page).parent / link).exists(), link


def test_the_citation_agrees_with_the_project():
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)  # required by the schema of CFF 1.2.0
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == [{"name": "rs_embed developers"}]


def test_classifiers_are_true():
    classifiers = PROJECT["classifiers"]
    minimum = int(re.fullmatch(r">=3\.(\d+)", PROJECT["requires-python"]).group(1))
    versions = [int(v) for v in re.findall(r":: 3\.(\d+)$", "\n".join(classifiers), re.MULTILINE)]
    assert min(versions) == minimum
    assert (CHECKOUT / "rs_embed" / "py.typed").exists() == ("Typing :: Typed" in classifiers)
    # an SPDX expression replaces licence classifiers (PEP 639)
    assert not [c for c in classifiers if c.startswith("License ::")]
