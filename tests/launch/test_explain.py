"""Why a run failed, in one sentence: of several failed jobs, and of a job that succeeded where
Snakemake could not record it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rs_embed.launch.explain import explain_failure

REFUSED = "PermissionError: [Errno 1] Operation not permitted: 'benchmarks/fetch/s/00000-00.tsv'"


@pytest.fixture
def run(tmp_path):
    part = SimpleNamespace(start=0, stop=3)
    plan = SimpleNamespace(
        target="out/run.npz", parts={"00000-00": part}, chunk={"00001": part}, unit={}, names=["a", "b", "c"]
    )
    (tmp_path / "out").mkdir()
    return SimpleNamespace(dir=tmp_path, plan=plan, store=SimpleNamespace(root=tmp_path))


def event(run, rule: str, name: str, text: str) -> dict:
    path = run.dir / f"{rule}-{name}" / f"{name}.log"
    path.parent.mkdir()
    path.write_text(text)
    return {"event": "job_error", "rule_name": rule, "log": [str(path.relative_to(run.dir))]}


def explain(run, failures, *lines: str) -> str:
    log = run.dir / "snakemake.log"
    log.write_text("\n".join(lines))
    return explain_failure(run, failures, log, 1)


def test_a_job_with_a_message_comes_before_one_without(run):
    quiet = event(run, "fetch", "00000-00", 'fetch: {"fetched": 3} in 1 s\n')
    loud = event(run, "embed", "00001", "error: embed failed for ROI 'b': no room\n")
    for failures in ([quiet, loud], [loud, quiet]):
        assert explain(run, failures).startswith("embed failed for ROI 'b': no room (what was finished is kept")


def test_a_job_that_ended_well_where_snakemake_could_not_write(run):
    quiet = event(run, "fetch", "00000-00", 'fetch: {"fetched": 3} in 1 s\n')
    found = explain(run, [quiet], "WorkflowError:", REFUSED, "Error in rule fetch:")
    assert found.startswith(f"after the fetch job of the ROIs 'a' to 'c' Snakemake stopped: {REFUSED} (what was")


def test_a_job_that_was_killed(run):
    quiet = event(run, "embed", "00001", "")
    line = f"Command '... > {quiet['log'][0]} 2>&1' died with <Signals.SIGKILL: 9>."
    found = explain(run, [quiet], "WorkflowError:", "something else", line)
    assert "the embed job of the ROIs 'a' to 'c' was ended by SIGKILL, as the system does" in found
    found = explain(run, [quiet], f"Command '... > {quiet['log'][0]}' returned non-zero exit status 3.")
    assert "ended with status 3 and without a message" in found


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "SLURM sbatch failed. The error message was 'sbatch: error: invalid partition specified: gpuu\n"
            "sbatch: error: Batch job submission failed: Invalid partition name specified'.\n    sbatch call:\n        sbatch -p gpuu",
            "the fetch job of the ROIs 'a' to 'c' was not taken by SLURM: invalid partition specified: gpuu; "
            "Batch job submission failed: Invalid partition name specified (see profiles/slurm)",
        ),
        (
            "SLURM-job '12' failed, SLURM status is: 'TIMEOUT'. Detailed failure reason unavailable.",
            "the fetch job of the ROIs 'a' to 'c' was ended by SLURM: TIMEOUT (a profile's set-resources: fetch: runtime=...)",
        ),
        ("SLURM-job '12' failed, SLURM status is: 'CANCELLED'.", "was ended by SLURM: CANCELLED (what was finished"),
    ],
)
def test_messages_of_a_cluster_are_in_the_sentence(run, message, sentence):
    quiet = event(run, "fetch", "00000-00", "") | {"rule_msg": message}
    assert sentence in explain(run, [quiet])
    quiet["log"] += [str(run.dir / "slurm.log")]
    (run.dir / "slurm.log").write_text("slurmstepd: error: Detected 1 oom_kill event in StepId=12.batch.\n")
    assert explain(run, [quiet]).startswith("Detected 1 oom_kill event in StepId=12.batch.")
