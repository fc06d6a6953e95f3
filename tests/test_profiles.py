"""``profile``: which folder a name means, what is refused, and that Snakemake is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rs_embed import ModelError
from rs_embed.profiles import find_profile
from rs_embed.runner import command, workflow_folder

from .conftest import CHECKOUT, combined, export, log_of, places, run_folder
from .factories import assert_refusal
from .work_folders import make


def test_a_name_is_one_of_the_workflow_and_anything_else_a_folder(tmp_path):
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
def test_a_profile_that_is_none_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ModelError) as found:
        find_profile(str(tmp_path), "/", CHECKOUT)
    assert_refusal(found.value, "config.profile", "allowed")


def test_no_profile_limits_gpus_which_are_counted_at_a_start():
    said = {
        name: yaml.safe_load((CHECKOUT / "profiles" / name / "config.yaml").read_text())
        for name in ("default", "slurm")
    }
    assert not [r for s in said.values() for r in s["resources"] if r.startswith("gpu")]
    assert "embed=4" in said["slurm"]["set-threads"], "on a machine threads follow from its cores"
    assert said["slurm"]["executor"] == "slurm" and "slurm-array-jobs" not in said["slurm"]
    shared = ("scheduler", "rerun-triggers", "rerun-incomplete", "show-failed-logs")
    assert all(said["slurm"][key] == said["default"][key] for key in shared)


def test_cores_are_given_to_a_machine_and_not_to_a_cluster(tmp_path):
    run = make(tmp_path, upto="fetch")
    assert command(run, find_profile(None, "/", workflow_folder()))[-2:] == ["--cores", "all"]
    assert "--cores" not in command(run, find_profile("slurm", "/", workflow_folder()))


def test_export_batch_runs_with_a_profile_of_the_users(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    said = {"cores": 1, "printshellcmds": True, "set-threads": {"embed": 3}}
    (tmp_path / "mine" / "config.yaml").write_text(yaml.safe_dump(said))
    monkeypatch.chdir(tmp_path)
    assert export(combined(Path("run")), places(2), profile="mine")["status"] == "ok"
    log = log_of(run_folder(tmp_path / "run"))
    assert "--threads 2" in log or "--threads 3" in log, "as many as there are cores"
    with pytest.raises(
        ModelError, match=r"config\.profile: 'yours' is not valid; allowed: 'default', 'slurm', or a folder"
    ):
        export(combined(Path("other")), places(2), profile="yours")
    assert not list((tmp_path / ".rs_embed" / "runs").glob("other*/fetch"))
