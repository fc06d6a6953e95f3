"""A real SLURM on this machine for the tests: ``python -m tests.slurm.cluster start | stop``.

One node with more CPUs and GPUs than the machine has: what is tested is who waits for whom, who is
killed and when, not speed. As root, with Debian's packages (installed where they are missing),
without systemd, cgroups and accounting.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
CPUS, MEMORY_MB, GPUS = 32, 100000, 4
#: State, pids and logs of this cluster.
HOME = Path("/var/lib/rs-embed-slurm")
#: The folder that SLURM's clients read: inside jobs they know no other one.
CONFIG = Path("/etc/slurm/slurm.conf")
MARK = "# Written by the tests of rs_embed."
_DAEMONS = ("slurmd", "slurmctld")

TEMPLATE = f"""{MARK}
ClusterName=test
SlurmctldHost={{host}}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
AccountingStorageType=accounting_storage/none
# Over its memory a job is killed, by looking every two seconds.
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=2
JobAcctGatherParams=OverMemoryKill
# A line for every finished job.
JobCompType=jobcomp/filetxt
JobCompLoc={{home}}/jobs.log
StateSaveLocation={{home}}/state
SlurmdSpoolDir={{home}}/spool
SlurmctldPidFile={{home}}/slurmctld.pid
SlurmdPidFile={{home}}/slurmd.pid
SlurmctldLogFile={{home}}/slurmctld.log
SlurmdLogFile={{home}}/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=5,sched_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
# squeue is asked how jobs ended, so they have to stay in it for a while.
MinJobAge=300
KillWait=2
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={{host}} NodeAddr=127.0.0.1 CPUs={CPUS} SocketsPerBoard=1 CoresPerSocket={CPUS} RealMemory={MEMORY_MB} Gres=gpu:{GPUS}
PartitionName=calm Nodes={{host}} Default=YES State=UP DefaultTime=10 MaxTime=60 PriorityTier=1 PreemptMode=OFF
PartitionName=low Nodes={{host}} State=UP DefaultTime=10 MaxTime=60 PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes={{host}} State=UP DefaultTime=10 MaxTime=60 PriorityTier=20 PreemptMode=OFF
"""


def start() -> None:
    """Install what is missing, start the daemons and wait until the node takes jobs; nothing where
    it does already."""
    if os.geteuid():
        raise SystemExit("a test cluster needs root (slurmd does)")
    if CONFIG.exists() and not CONFIG.read_text().startswith(MARK):
        raise SystemExit(f"{CONFIG} is there and is not of these tests: this machine has a SLURM of its own")
    if not all(map(shutil.which, (*_DAEMONS, "sbatch", "munged"))):
        _install()
    _configure()
    _start_munge()
    for daemon in reversed(_DAEMONS):
        if not _pid(daemon):
            _run(daemon)
    _wait_for("the node to take jobs", lambda: _node() in ("idle", "mixed", "allocated"), 60)


def stop() -> None:
    """Cancel all jobs and stop what was started."""
    if not running():
        return
    subprocess.run(["scancel", "--user=root"], capture_output=True, timeout=30)
    _wait_for("jobs to end", lambda: not squeue("%A"), 60)
    for daemon in _DAEMONS:
        _end(daemon)
    if (HOME / "munged.pid").exists():
        _end("munged")


def running() -> bool:
    """The cluster is up."""
    return _pid("slurmctld") is not None


def squeue(form: str, *more: str) -> list[str]:
    """Lines of squeue without its head: jobs that wait or run."""
    return _run("squeue", "-h", "-t", "pending,running,completing", "-o", form, *more).split("\n")[:-1]


def finished(folder: Path) -> list[dict[str, str]]:
    """The jobs below a folder that have ended, as SLURM's log of them has it."""
    log = HOME / "jobs.log"
    lines = log.read_text().splitlines() if log.exists() else []
    found = [dict(word.partition("=")[::2] for word in line.split() if "=" in word) for line in lines]
    return [job for job in found if job.get("WorkDir", "").startswith(f"{folder}/")]


def _install() -> None:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"],
                    ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):  # fmt: skip
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr[-2000:]}")


def _configure() -> None:
    for folder in (HOME / "state", HOME / "spool", HOME / "dev", CONFIG.parent):
        folder.mkdir(parents=True, exist_ok=True)
    for i in range(GPUS):  # slurmd wants a character device, and counts by the digit at the end of its name
        gpu = HOME / "dev" / f"gpu{i}"
        gpu.unlink(missing_ok=True)
        gpu.symlink_to("/dev/null")
    (CONFIG.parent / "gres.conf").write_text(f"AutoDetect=off\nName=gpu File={HOME}/dev/gpu[0-{GPUS - 1}]\n")
    CONFIG.write_text(TEMPLATE.format(host=_host(), home=HOME))


def _start_munge() -> None:
    if not subprocess.run("munge -n | unmunge", shell=True, capture_output=True).returncode:
        return
    key = Path("/etc/munge/munge.key")
    if not key.exists():
        _run("mungekey", "--create", "--force", "--keyfile", str(key))
    for folder, mode in (
        ("/run/munge", 0o755),
        ("/var/log/munge", 0o700),
        ("/var/lib/munge", 0o711),
        ("/etc/munge", 0o700),
    ):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder).chmod(mode)
        shutil.chown(folder, "munge", "munge")
    shutil.chown(key, "munge", "munge")
    key.chmod(0o400)
    _run("setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged")
    _wait_for("munge", Path("/run/munge/munged.pid").exists, 10)
    shutil.copy("/run/munge/munged.pid", HOME / "munged.pid")


def _node() -> str:
    done = subprocess.run(["sinfo", "-h", "-N", "-o", "%T"], capture_output=True, text=True, timeout=30)
    state = done.stdout.split()[0].strip("*") if done.stdout.split() else ""
    if state.startswith(("down", "drain")):  # as an earlier life left it
        subprocess.run(["scontrol", "update", f"nodename={_host()}", "state=resume"], capture_output=True, timeout=30)
    return state


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _pid(daemon: str) -> int | None:
    try:
        pid = int((HOME / f"{daemon}.pid").read_text())
        return pid if Path(f"/proc/{pid}/comm").read_text().strip() == daemon else None
    except (OSError, ValueError):
        return None


def _end(daemon: str) -> None:
    pid = _pid(daemon)
    if pid:
        os.kill(pid, signal.SIGTERM)
        _wait_for(f"{daemon} to end", lambda: _pid(daemon) is None, 20)
    (HOME / f"{daemon}.pid").unlink(missing_ok=True)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def _wait_for(what: str, happened, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s for {what}; see the logs in {HOME}")
        time.sleep(0.2)


if __name__ == "__main__":
    {"start": start, "stop": stop}[sys.argv[1]]()
