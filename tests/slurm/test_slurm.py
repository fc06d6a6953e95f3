"""Exports on a real SLURM through profiles/slurm: what goes well, what goes wrong, and the same
bits as on a workstation."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from ..support.exports import CHECKOUT, combined, content, export, places, snakemake_command, times
from ..support.exports import jobs as jobs_of
from ..support.gee_runs import Archive
from ..support.rasters import at, noise

pytestmark = pytest.mark.slurm

#: An embed job of two places that takes this long, so that it can be met.
SLOW = {"RS_EMBED_SLOW_DISK": "embed 6 *.npy"}


def wait_until(what, seconds: float = 90):
    """What comes out of ``what`` as soon as something does."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.2)
    return found


def jobs(slurm, site, rule: str, state: str = "R") -> list[str]:
    """Ids of a site's jobs of a rule."""
    lines = (line.split(" ", 3) for line in slurm.squeue("%A %t %k %Z"))
    return [
        job
        for job, now, about, where in lines
        if now == state and f"rule_{rule}" in about and where.startswith(f"{site.folder}/")
    ]


def same_as_here(site, name: str, n: int = 4) -> None:
    """The export of the cluster is that of this machine, bit for bit."""
    there = content(site.folder / name)
    there.pop("out", None)
    export_here(site.folder / "here", n)
    here = content(site.folder / "here")
    assert {k: v for k, v in there.items() if k.endswith(".npz")} == {
        k: v for k, v in here.items() if k.endswith(".npz")
    }
    assert there["run.json"]["models"] == here["run.json"]["models"]


def export_here(folder, n: int, chunk_size: int | None = None) -> None:
    from rs_embed import ExportModelRequest

    model = ExportModelRequest("mosaiks", model_config={"features": 32, "patch_size": 5})
    export(combined(folder / "run"), places(n), [model], chunk_size=chunk_size or n)


def test_an_export_through_the_profile(site, slurm):
    site.profile["set-resources"] = {"embed": {"gpu": 1}}
    output = site.wait(site.start("a"), "a")
    assert "status ok {'ok': 4}" in output
    same_as_here(site, "a")
    done = slurm.finished(site.folder)
    assert len(done) == 4, "2 fetch and 2 embed jobs; write and merge ran here"
    asked = [subprocess.check_output(["scontrol", "show", "job", job["JobId"]], text=True) for job in done]
    assert sum("TresPerJob=gres:gpu:1" in text for text in asked) == 2
    assert {job["JobState"] for job in done} == {"COMPLETED"}
    assert {job["Partition"] for job in done} == {"calm"}
    assert not list((site.run_folder("a") / "logs" / "slurm").rglob("*.log")), "of jobs that succeeded"
    assert "the export is complete already" in site.wait(site.start("a"), "a")
    assert len(slurm.finished(site.folder)) == 4
    store = times(site.folder / "a" / ".rs_embed" / "store")
    export_here(site.folder / "a", 4, chunk_size=2)
    assert jobs_of(site.run_folder("a")) == set(), "what the cluster has made is made for this machine, too"
    assert times(site.folder / "a" / ".rs_embed" / "store") == store


def test_jobs_that_are_cancelled_run_out_of_time_or_of_memory_are_done_again(site, slurm):
    site.profile["set-resources"] = {
        "fetch": {"mem_mb": "150 + 3000 * (attempt - 1)"},  # less than Snakemake itself takes
        "embed": {"runtime": "1 + 10 * (attempt - 1)"},
    }
    process = site.start("a", environment={"RS_EMBED_SLOW_DISK": "embed 35 *.npy"})
    victim = wait_until(lambda: jobs(slurm, site, "embed"), 180)[0]
    time.sleep(3)
    subprocess.run(["scancel", victim], check=True)
    output = site.wait(process, "a", 420)
    assert "status ok" in output
    states = [job["JobState"] for job in slurm.finished(site.folder)]
    assert "CANCELLED" in states and "TIMEOUT" in states and "FAILED" in states and states.count("COMPLETED") == 4
    same_as_here(site, "a")


def test_a_preempted_job_goes_on(site, slurm):
    site.profile |= {"default-resources": ["slurm_partition=low"], "set-resources": {"embed": {"gpu": 2}}}
    process = site.start("a", environment=SLOW)
    wait_until(lambda: len(jobs(slurm, site, "embed")) == 2, 120)
    urgent = subprocess.Popen(["srun", "-p", "high", "--gpus=2", "-n1", "--mem=100", "sleep", "1"])
    (victim,) = wait_until(lambda: jobs(slurm, site, "embed", "PD"))
    assert "Restarts=1" in subprocess.check_output(["scontrol", "show", "job", victim], text=True)
    urgent.wait(60)
    subprocess.run(["scontrol", "update", f"jobid={victim}", "starttime=now"], check=True)  # or SLURM waits two minutes
    site.wait(process, "a")
    assert "Trying to restart" not in site.log("a"), "for Snakemake it was the same job all the time"
    same_as_here(site, "a")


def test_a_run_goes_on_without_its_caller_and_is_picked_up(site, slurm):
    process = site.start("a", environment=SLOW)
    wait_until(lambda: jobs(slurm, site, "embed"), 120)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = site.start("a", environment=SLOW)
    output = site.wait(again, "a")
    assert "waiting for the run that an earlier call began" in output and "status ok" in output
    assert "complete already" in output, "nothing was left to do"
    same_as_here(site, "a")


def test_a_controlling_snakemake_that_is_killed_is_started_again(site, slurm):
    process = site.start("a", environment=SLOW)
    wait_until(lambda: jobs(slurm, site, "embed"), 120)
    (snakemake,) = (p for p in psutil.Process(process.pid).children() if "rs_embed.launch.child_main" in p.cmdline())
    snakemake.kill()
    assert process.wait(30) == 1
    left = jobs(slurm, site, "embed")
    assert left, "jobs of the cluster live on"
    assert "status ok" in site.wait(site.start("a"), "a")
    assert f"cancelling {len(left)} jobs of an earlier start" in site.log("a"), "or both would do the same"
    same_as_here(site, "a")


def test_a_file_that_is_seen_late(site):
    process = site.start("a", n=2, environment={"RS_EMBED_LATE_DISK": "embed 7 */embed/*/*.json"})
    site.wait(process, "a")
    same_as_here(site, "a", 2)


def test_all_jobs_together_keep_to_the_quota(site, tmp_path):
    archive = Archive(tmp_path / "files")
    (tmp_path / "files").mkdir()
    archive.make(noise(0), "2022-07-01")
    table = [
        {"lon": p.lon, "lat": p.lat, "buffer_m": 50}
        for p in (at(8 + 2 * i, 8 + 3 * j, 50) for i in range(8) for j in range(8))
    ]
    code = f"""
import json, sys
from rs_embed import ExportTarget, SensorSpec, TemporalSpec, export_batch
export_batch(rois={table!r}, temporal=TemporalSpec.range("2022-06-01", "2022-09-01"), models=["mosaiks"], backend="gee",
             sensor=SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B2", "B3")), target=ExportTarget.combined({str(tmp_path / "a" / "run")!r}),
             gee={{"project": "p", "url": sys.argv[1], "concurrency": 3}}, profile="slurm", chunk_size=16, num_workers=3)
"""
    with archive.served(latency=0.4) as service:
        done = subprocess.run(
            [sys.executable, "-c", code, service.url],
            cwd=CHECKOUT,
            env=site.environment(),
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr
        assert service.counts()["pixels"] == 64 and service.repeats == 0
        assert service.max_in_flight <= 3, "four jobs with three workers each"
    assert len(list(site.run_folder("a").glob("fetch/*/*.json"))) == 4


def test_an_interrupted_call_leaves_the_run_and_stop_ends_it_with_its_jobs(site, slurm):
    """A restarted notebook interrupts the cell first."""
    process = site.start("a", environment=SLOW)
    wait_until(lambda: jobs(slurm, site, "embed"), 120)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) not in (0, None)
    assert "the run goes on" in (site.folder / "a" / "out").read_text()
    assert jobs(slurm, site, "embed"), "nothing was cancelled"
    done = subprocess.run(
        [sys.executable, "-m", "rs_embed", "stop", str(site.folder / "a")],
        env=site.environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "was stopped" in done.stdout, done.stderr
    assert not jobs(slurm, site, "embed") and not jobs(slurm, site, "embed", "PD")
    assert "status ok" in site.wait(site.start("a"), "a")
    same_as_here(site, "a")


def test_a_second_interrupt_stops_the_run_and_its_jobs(site, slurm):
    process = site.start("a", environment=SLOW)
    wait_until(lambda: jobs(slurm, site, "embed"), 120)
    process.send_signal(signal.SIGINT)
    wait_until(lambda: "the run goes on" in (site.folder / "a" / "out").read_text(), 10)
    process.send_signal(signal.SIGINT)
    assert process.wait(90) not in (0, None)
    assert not jobs(slurm, site, "embed") and not jobs(slurm, site, "embed", "PD")


def test_an_unknown_partition_is_reported(site):
    site.profile["default-resources"] = ["slurm_partition=nowhere"]
    process = site.start("a")
    assert process.wait(120) == 1
    output = (site.folder / "a" / "out").read_text()
    assert (
        "the fetch job of the ROIs" in output
        and "was not taken by SLURM: invalid partition specified: nowhere" in output
    )


def test_a_folder_with_letters_of_the_shell_is_refused_before_anything_runs(site):
    process = site.start("a $(touch injected)")
    assert process.wait(60) == 1
    assert (
        "work_dir:" in (output := (site.folder / "a $(touch injected)" / "out").read_text())
        and "allowed: a path of" in output
    )
    assert not list(site.folder.rglob("injected")) and not (CHECKOUT / "injected").exists()


def test_jobs_of_a_command_line_that_was_killed_are_cancelled_by_the_next_start(site, slurm):
    """Its jobs work in the folder where it was started, and other runs may, too."""
    here = site.folder / "here"
    here.mkdir()
    (here / "rois.csv").write_text("lon,lat,buffer_m\n" + "".join(f"{p.lon},{p.lat},160\n" for p in places(4)))
    text = "rois: rois.csv\ntemporal: {start: 2022-06-01, end: 2022-09-01}\nbackend: sample\ntarget: {layout: combined, path: run}\n"
    text += "models:\n  - {name: mosaiks, model_config: {features: 32, patch_size: 5}}\nexport: {chunk_size: 2}\n"
    (here / "config.yaml").write_text(text)
    command = snakemake_command("--configfile", "config.yaml", profile="slurm")

    def start(**more: str) -> subprocess.Popen:
        return subprocess.Popen(command, cwd=here, env=site.environment(**more), stdout=-1, stderr=-2, text=True)

    with start(**SLOW) as first:
        left = wait_until(lambda: jobs(slurm, site, "embed"), 120)
        first.kill()
    with start() as second:
        output, _ = second.communicate(timeout=240)
    assert second.returncode == 0, output
    assert f"cancelling {len(left)} jobs of an earlier start" in output
    assert (here / "run.npz").exists()
