"""``profile``: which folder a name means, what is refused, and that Snakemake gets it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from rs_embed import ModelError
from rs_embed.launch.launcher import snakemake_arguments, workflow_folder
from rs_embed.runs.profiles import _find_file, find_profile

from ..support.exports import CHECKOUT, combined, export, log_of, places, python, run_folder
from ..support.factories import assert_refusal
from ..support.work_folders import make

SLURM = "snakemake_executor_plugin_slurm"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A module of SLURM's executor that can be found; whether it works is for tests/slurm."""
    (tmp_path / "site" / SLURM).mkdir(parents=True)
    (tmp_path / "site" / SLURM / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")


def test_a_name_is_one_of_the_workflow_and_anything_else_a_folder(tmp_path, plugin):
    own = CHECKOUT / "profiles"
    assert (find_profile(None, "/", CHECKOUT).folder, find_profile(None, "/", CHECKOUT).remote) == (
        own / "default",
        False,
    )
    assert (find_profile("slurm", "/", CHECKOUT).folder, find_profile("slurm", "/", CHECKOUT).remote) == (
        own / "slurm",
        True,
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("")
    for name in ("mine", "./mine", str(tmp_path / "mine")):
        assert find_profile(name, str(tmp_path), CHECKOUT).folder == (tmp_path / "mine").resolve()


@pytest.mark.parametrize("text", [None, "[", "- a", "executor: [", "\x00"])
def test_an_invalid_profile_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ModelError) as found:
        find_profile(str(tmp_path), "/", CHECKOUT)
    assert_refusal(found.value, "config.profile", "allowed")


#: Files of profiles, and the one that Snakemake 9 reads, where that does not hang on the order of
#: a folder.
FILES = {
    "seven and eight": ({"config.yaml": "cluster: sbatch", "config.v8+.yaml": "executor: slurm"}, "config.v8+.yaml"),
    "newer": ({"config.v8+.yaml": "executor: nothing", "config.v9+.yaml": "executor: slurm"}, "config.v9+.yaml"),
    "too new": ({"config.yaml": "executor: slurm", "config.v99+.yaml": "executor: nothing"}, "config.yaml"),
    "profile": ({"profile.yaml": "executor: slurm"}, "profile.yaml"),
    "nine": ({"config.v9+.yaml": "executor: slurm"}, "config.v9+.yaml"),
    "both": ({"config.yaml": "executor: nothing", "profile.v8+.yaml": "executor: slurm"}, "profile.v8+.yaml"),
    "equal": ({"profile.yaml": "executor: slurm", "config.yaml": "executor: slurm"}, None),
    "only too new": ({"config.v99+.yaml": "executor: slurm"}, None),
    "yml": ({"config.yml": "executor: slurm"}, None),
}


def test_the_file_is_the_one_that_snakemake_reads(tmp_path, plugin):
    """Snakemake's own function decides."""
    for name, (files, _) in FILES.items():
        (tmp_path / name).mkdir()
        for file, text in files.items():
            (tmp_path / name / file).write_text(text)
    asked = f"import json; from snakemake.cli import get_profile_dir as get; print(json.dumps([get(n) and get(n)[1].name for n in {list(FILES)}]))"
    for (name, (_, expected)), chosen in zip(FILES.items(), json.loads(python(asked, tmp_path).stdout)):
        folder = tmp_path / name
        assert _find_file(folder) == (folder / chosen if chosen else None), name
        assert expected in (None, chosen), name
        if chosen:
            assert find_profile(name, str(tmp_path), CHECKOUT).remote, name
            continue
        with pytest.raises(ModelError) as found:
            find_profile(name, str(tmp_path), CHECKOUT)
        assert_refusal(found.value, "config.profile", repr(name), "allowed")


@pytest.mark.parametrize(
    ("executor", "advice"),
    [
        ("slurm", "pip install 'rs-embed-workflow[slurm]'"),
        ("cluster-generic", "pip install snakemake-executor-plugin-cluster-generic"),
        ("no.such", "pip install snakemake-executor-plugin-no.such"),
    ],
)
def test_an_executor_that_is_not_installed_is_refused(tmp_path, monkeypatch, executor, advice):
    monkeypatch.setitem(sys.modules, SLURM, None)  # also where it is
    monkeypatch.setitem(sys.modules, "snakemake_executor_plugin_cluster_generic", None)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text(f"executor: {executor}")
    with pytest.raises(ModelError) as found:
        find_profile("mine", str(tmp_path), CHECKOUT)
    assert_refusal(found.value, "config.profile", "'mine'", repr(executor), "allowed", advice)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"config\.profile: 'mine'"):
        export(combined(Path("run")), places(2), profile="mine")
    assert not (tmp_path / ".rs_embed").exists()


def test_the_executors_of_snakemake_itself_need_nothing(tmp_path, monkeypatch):
    asked = """
from snakemake_interface_executor_plugins.registry import ExecutorPluginRegistry
from snakemake.executors import dryrun, local, touch
own = {dryrun.Executor, local.Executor, touch.Executor}
print(*(name for name, plugin in ExecutorPluginRegistry().plugins.items() if plugin.executor in own))
"""
    own = python(asked, tmp_path).stdout.split()
    assert set(own) == {"local", "dryrun", "touch"}
    monkeypatch.setenv("RS_EMBED_TEST_EXECUTOR", "local")
    for executor in (*own, "$RS_EMBED_TEST_EXECUTOR"):
        (tmp_path / "config.yaml").write_text(f"executor: {executor}")
        assert not find_profile(str(tmp_path), "/", CHECKOUT).remote
    (tmp_path / "config.yaml").write_text("__use_yte__: true\nexecutor: ?'sl' + 'urm'")
    assert find_profile(str(tmp_path), "/", CHECKOUT).remote, "Snakemake reports what is missing"


def test_no_profile_limits_gpus_which_are_counted_at_a_start():
    settings = {
        name: yaml.safe_load((CHECKOUT / "profiles" / name / "config.yaml").read_text())
        for name in ("default", "slurm")
    }
    assert not [r for s in settings.values() for r in s["resources"] if r.startswith("gpu")]
    assert "embed=4" in settings["slurm"]["set-threads"], "on a machine threads follow from its cores"
    assert settings["slurm"]["executor"] == "slurm" and "slurm-array-jobs" not in settings["slurm"]
    shared = ("scheduler", "rerun-triggers", "rerun-incomplete", "show-failed-logs")
    assert all(settings["slurm"][key] == settings["default"][key] for key in shared)


def test_cores_are_given_to_a_machine_and_not_to_a_cluster(tmp_path, plugin):
    run = make(tmp_path, upto="fetch")
    assert snakemake_arguments(run, find_profile(None, "/", workflow_folder()))[-2:] == ["--cores", "all"]
    assert "--cores" not in snakemake_arguments(run, find_profile("slurm", "/", workflow_folder()))


def test_export_batch_runs_with_a_profile_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    settings = {"cores": 1, "printshellcmds": True, "set-threads": {"embed": 3}}
    (tmp_path / "mine" / "config.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(tmp_path)
    assert export(combined(Path("run")), places(2), profile="mine")["status"] == "ok"
    log = log_of(run_folder(tmp_path / "run"))
    assert "--threads 2" in log or "--threads 3" in log, "as many as there are cores"
    with pytest.raises(
        ModelError, match=r"config\.profile: 'yours' is not valid; allowed: 'default', 'slurm', or a folder"
    ):
        export(combined(Path("other")), places(2), profile="yours")
    assert not list((tmp_path / ".rs_embed" / "runs").glob("other*/fetch"))
