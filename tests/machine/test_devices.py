"""GPUs of embed jobs, with real processes, locks and Snakemake. Jobs compute on the CPU but lease
GPUs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rs_embed import ExportModelRequest, SensorSpec, StoreError
from rs_embed.machine import user_locks as user
from rs_embed.machine.cores import count_embed_threads
from rs_embed.machine.devices import lease_gpu, visible_devices

from ..support.exports import CHECKOUT, combined, export, log_of, places, run_folder, snakemake
from ..support.factories import assert_refusal

#: Leases a device, prints its name, and keeps it until stdin ends.
HOLD = """
import os, sys, time
from rs_embed.machine.devices import lease_gpu
with lease_gpu("auto") as name:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == name
    print(name, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with two GPUs, with locks in a folder of the test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8932f937")
    for name in user._ALLOCATION_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield tmp_path / "tmp"
    monkeypatch.undo()


class Holder:
    """A process that leases a device; ``name`` waits for it."""

    def __init__(self, before: str = "", **environment: str) -> None:
        given = os.environ | {"PYTHONPATH": str(CHECKOUT)} | environment
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + HOLD], stdin=-1, stdout=-1, stderr=-1, text=True, env=given
        )

    @property
    def name(self) -> str:
        return self.process.stdout.readline().strip()

    def waits(self) -> bool:
        return "waiting for a GPU, other jobs have" in self.process.stderr.readline()

    def end(self) -> None:
        self.process.communicate()


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("0,1", ("0", "1")),
        ("2, 5", ("2", "5")),
        ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6,MIG-ea7e92f7", ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-ea7e92f7")),
        ("2,2", ("2",)),
        ("1,-1,0", ("1",)),
        ("", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
    ],
)  # fmt: skip
def test_visible_devices_are_those_of_cuda(monkeypatch, named, expected):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_devices() == expected


def test_processes_get_different_devices_and_the_third_waits(machine):
    first, second = Holder(), Holder()
    taken = [first.name, second.name]
    assert sorted(taken) == ["3", "GPU-8932f937"]
    third = Holder()
    assert third.waits()
    first.end()
    assert third.name == taken[0], "the released device"
    second.process.kill()  # the kernel releases its lock
    second.process.communicate()
    fourth = Holder()
    assert fourth.name == taken[1]
    third.end()
    fourth.end()


def test_a_single_visible_device_is_used_without_waiting(machine):
    holder = Holder()
    (other,) = {"3", "GPU-8932f937"} - {holder.name}
    for _ in range(2):  # a cluster has chosen it
        chosen = Holder(CUDA_VISIBLE_DEVICES="3")
        assert chosen.name == "3"
        chosen.end()
    alone = Holder(CUDA_VISIBLE_DEVICES=other)
    assert alone.name == other
    waiting = Holder()
    assert waiting.waits(), "what another run has chosen is not free"
    alone.end()
    assert waiting.name == other
    waiting.end()
    holder.end()


def test_allocations_do_not_share_locks(machine):
    mine, other = Holder(SLURM_JOB_ID="1"), Holder(SLURM_JOB_ID="2")
    assert (mine.name, other.name) == ("3", "3"), "a cluster numbers the devices of each job from its own list"
    mine.end()
    other.end()


def test_an_allocation_leaves_no_folder_on_the_node(machine):
    """The folder exists as long as one of its jobs runs."""
    mine = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}
    folder = machine / f"rs-embed-{os.getuid()}" / "gpus-7-0"
    first, second = Holder(**mine), Holder(**mine)
    taken = [first.name, second.name]
    assert len(list(folder.iterdir())) == 2
    first.end()
    assert len(list(folder.iterdir())) == 1, "that of the second"
    third = Holder(**mine)
    assert third.name == taken[0]
    fourth = Holder(**mine)
    assert fourth.waits()
    for holder in (second, third):
        holder.end()
    assert fourth.name in taken
    fourth.end()
    assert not folder.exists()
    outside = Holder()
    assert outside.name == "3"
    outside.end()
    assert (folder.parent / "gpus" / "gpu-3.lock").exists(), "the locks of the machine stay"


#: Waits for a line of stdin after opening the first lock file and before locking it.
PAUSE = """
import sys
paused = []
def pause(event, arguments):
    if event == "fcntl.flock" and not paused:
        paused.append(True)
        print("opened", flush=True)
        sys.stdin.readline()
sys.addaudithook(pause)
"""


@pytest.mark.parametrize("others", [True, False])
def test_a_lock_file_that_was_removed_before_locking_is_not_used(machine, others):
    mine = {"SLURM_JOB_ID": "7"}
    first = Holder(**mine)
    taken = first.name
    second = Holder(**mine) if others else None
    assert second is None or second.name != taken
    late = Holder(PAUSE, **mine)
    assert late.name == "opened"
    first.end()  # removes the file, or the folder
    third = Holder(**mine) if others else None
    assert third is None or third.name == taken
    late.process.stdin.write("\n")
    late.process.stdin.flush()
    assert late.waits() if others else late.name == taken
    for holder in filter(None, (second, third)):
        holder.end()
    late.end()
    assert not list(machine.glob("rs-embed-*/*"))


#: Leases many times, and checks that no other process has the same device.
OFTEN = """
import os, sys
from rs_embed.machine import devices
devices._POLL_S = 0.001
for _ in range(150):
    with devices.lease_gpu("auto") as name:
        os.close(os.open(f"{sys.argv[1]}/has-{name}", os.O_CREAT | os.O_EXCL))
        os.unlink(f"{sys.argv[1]}/has-{name}")
"""


def test_lock_files_that_are_removed_and_created_all_the_time(machine):
    """The folder is removed and created while other jobs try to get a device."""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "SLURM_JOB_ID": "7"}
    command = [sys.executable, "-c", OFTEN, str(machine)]
    started = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    errors = [process.communicate(timeout=120)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 4, errors
    assert not list(machine.glob("rs-embed-*/*"))


def test_the_environment_is_restored(machine, monkeypatch):
    with lease_gpu("cuda") as name:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == name
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,GPU-8932f937"
    with lease_gpu("cpu") as name, lease_gpu("mps") as other:
        assert (name, other) == (None, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with lease_gpu("auto") as name:
        assert name is None


@pytest.mark.parametrize("kind", ["link", "everybody's"])
def test_a_folder_that_others_can_write_to_is_refused(machine, kind):
    folder = machine / f"rs-embed-{os.getuid()}"
    if kind == "link":
        (machine / "elsewhere").mkdir()
        folder.symlink_to(machine / "elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    with pytest.raises(StoreError) as found, lease_gpu("auto"):
        pass
    assert_refusal(found.value, str(folder))


@pytest.mark.parametrize(
    ("cores", "jobs", "gpus", "expected"),
    [
        (16, 1, 0, 16),
        (16, 5, 0, 3),
        (16, 200, 0, 1),
        (2, 2, 0, 1),
        (2, 1, 0, 2),
        (1, 9, 0, 1),
        (16, 200, 1, 8),
        (16, 200, 4, 3),
        (16, 1, 8, 8),
        (64, 200, 2, 8),
        (4, 200, 8, 1),
        (8, 0, 0, 8),
    ],
)
def test_cores_are_divided_among_concurrent_jobs(cores, jobs, gpus, expected):
    assert count_embed_threads(cores, jobs, gpus) == expected
    assert gpus or expected * min(max(1, jobs), cores) <= cores


class Watch(threading.Thread):
    """Records which devices are locked at a time, from the kernel's list of locks."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.seen, self.over = folder, set(), threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.01):
            names = {p.stat().st_ino: p.stem.removeprefix("gpu-") for p in self.folder.glob("*/gpus/gpu-*.lock")}
            locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
            held = [int(x[5].rpartition(":")[2]) for x in locks if x[1] == "FLOCK"]
            self.seen.add(tuple(sorted(names[i] for i in held if i in names)))


MODELS = [ExportModelRequest("mosaiks", label=f"m{i}", model_config={"features": 8, "seed": i}) for i in range(2)]


def receipts(folder: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in folder.glob("embed/*/*.json")]


@pytest.mark.heavy
@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the kernel's list of locks")
def test_snakemakes_limit_of_gpus_is_respected(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    rows = [{"name": f"a{i}", "lon": p.lon, "lat": p.lat, "buffer_m": p.buffer_m} for i, p in enumerate(places(12))]
    models = [{"name": "mosaiks", "label": m.label, "model_config": m.model_config} for m in MODELS]
    config = {"rois": rows, "models": models, "backend": "sample", "target": {"layout": "combined", "path": "run"}}
    (tmp_path / "config.json").write_text(json.dumps(config | {"export": {"chunk_size": 3}}))
    watch = Watch(tmp_path / "tmp")
    watch.start()
    arguments = ("--cores", "8", "--resources", "gpu=2", "fetch=4", "gee=100", "--configfile", "config.json")
    done = snakemake(*arguments, cwd=tmp_path)
    watch.over.set()
    watch.join()
    assert done.returncode == 0, done.stderr
    assert max(map(len, watch.seen)) == 2, watch.seen
    assert watch.seen - {()} <= {("2",), ("5",), ("2", "5")}, "each device once, and the third one never"
    folder = run_folder(tmp_path / "run")
    assert len(receipts(folder)) == 8
    assert {r["gpu"] for r in receipts(folder)} == {"2", "5"}
    assert {r["device"] for r in receipts(folder)} == {"cpu"}, "torch finds none"
    for log in folder.glob("logs/embed/*/*.log"):
        assert re.search(r"^embed: has GPU [25]$", log.read_text(), re.MULTILINE)
    assert _most_at_once(done.stderr) == 2


def _most_at_once(log: str) -> int:
    """Most embed jobs that Snakemake ran at a time."""
    running = most = 0
    for line in log.splitlines():
        running += bool(re.search(r"Embedding chunk", line)) - bool(
            re.search(r"Finished jobid: \d+ \(Rule: embed\)", line)
        )
        most = max(most, running)
    return most


@pytest.mark.heavy
def test_without_a_limit_all_visible_gpus_are_used(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5,7")
    export(combined(tmp_path / "run"), places(12), MODELS, chunk_size=3, cores=8)
    folder = run_folder(tmp_path / "run")
    assert _most_at_once(log_of(folder)) == 3
    assert {r["gpu"] for r in receipts(folder)} == {"2", "5", "7"}
    assert {r["threads"] for r in receipts(folder)} == {2}, "8 cores in shares: three jobs, and fetching"
    assert re.search(r"Provided resources: .*gpu.*3", log_of(folder))


@pytest.mark.heavy
def test_fetching_goes_on_while_models_compute(tmp_path):
    """Under the default profile with two cores, embed jobs start before the last fetch job has
    ended, with a provider that is waited for (0 cores) and with one that computes."""
    from ..support.gee_runs import Archive, settings
    from ..support.rasters import at, noise

    archive = Archive(tmp_path / "archive")
    archive.folder.mkdir()
    archive.make(noise(1), "2022-07-01")
    sensor = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B2", "B3"))
    model = [ExportModelRequest("mosaiks", sensor=sensor, model_config={"features": 8})]
    spots = [at(15 + i, 30, 60) for i in range(24)]
    with archive.served(latency=0.3) as service:
        given = {"backend": "gee", "gee": settings(service), "chunk_size": 3, "num_workers": 1}
        export(combined(tmp_path / "gee" / "run"), spots, model, cores=2, **given)
    export(combined(tmp_path / "sample" / "run"), places(24), MODELS[:1], cores=2, chunk_size=3)
    for name in ("gee", "sample"):
        lines = log_of(run_folder(tmp_path / name / "run")).splitlines()
        begun = next(i for i, line in enumerate(lines) if "Embedding chunk" in line)
        fetched = [i for i, line in enumerate(lines) if re.search(r"Finished jobid: \d+ \(Rule: fetch\)", line)]
        assert len(fetched) == 8
        assert begun < fetched[-1], name
        assert sum(i > begun for i in fetched) >= 4, "half of the fetch jobs end after the first model has begun"


@pytest.mark.heavy
def test_a_finished_run_is_not_divided_again_on_a_machine_with_other_devices(tmp_path, monkeypatch):
    spots, models = places(300, buffer_m=20), [ExportModelRequest("mosaiks", model_config={"features": 2})]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    export(combined(tmp_path / "run"), spots, models)
    written = (tmp_path / "run.npz").stat().st_mtime_ns
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    export(combined(tmp_path / "run"), spots, models)
    assert (tmp_path / "run.npz").stat().st_mtime_ns == written
    assert "Nothing to be done" in log_of(run_folder(tmp_path / "run"))
    check_one_target_by_hand(tmp_path)


def check_one_target_by_hand(folder: Path) -> None:
    """A dry run of a single target succeeds, although the remaining jobs were not counted."""
    frozen = run_folder(folder / "run") / "config.yaml"
    (frozen.parent / "merge.json").unlink()
    for receipt in frozen.parent.glob("embed/*/*.json"):
        receipt.unlink()
    done = snakemake("--configfile", frozen.name, "--cores", "2", "-n", "merge.json", cwd=frozen.parent)
    assert done.returncode == 0 and "embed" in done.stdout, done.stdout[-2000:] + done.stderr


def test_jobs_use_no_gpu_if_none_was_requested(machine, monkeypatch):
    """On a cluster with ``device: auto`` the main process decides; GPUs of a node may belong to
    other jobs."""
    import rs_embed.machine.devices as devices

    monkeypatch.setattr(devices.glob, "glob", lambda pattern: ["/dev/nvidia0"] if seen else [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv(devices._DECISION_VARIABLE, "1")
    seen = False
    devices.record_gpu_decision("auto")
    assert os.environ[devices._DECISION_VARIABLE] == "0"
    seen = True  # in a job on another machine
    assert devices.gpus_wanted("auto") == 0 and devices.gpus_wanted("cuda") == 1
    with lease_gpu("auto") as name:
        assert (name, os.environ["CUDA_VISIBLE_DEVICES"]) == (None, "")
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    monkeypatch.setenv("SLURM_JOB_GPUS", "0")  # allocated, without CUDA_VISIBLE_DEVICES
    assert devices.gpus_wanted("auto") == 1
    monkeypatch.delenv("SLURM_JOB_GPUS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")  # requested by the site's profile
    assert devices.gpus_wanted("auto") == 1
    with lease_gpu("auto") as name:
        assert name == "3"
