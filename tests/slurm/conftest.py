"""The cluster of the tests, and requests that run on it in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ..support.exports import CHECKOUT
from . import cluster

#: Where `make test-slurm` puts the executor plugin. Not among the other packages: with SLURM's
#: clients installed and no SLURM running, it makes every start of Snakemake wait.
PLUGIN = Path(sys.prefix) / "slurm"

REQUEST = """
import json, sys
from pathlib import Path
from tests.support.exports import combined, export, places
from rs_embed import ExportModelRequest

folder, n, more = Path(sys.argv[1]), int(sys.argv[2]), json.loads(sys.argv[3])
model = ExportModelRequest("mosaiks", model_config={"features": 32, "patch_size": 5})
manifest = export(combined(folder / "run"), places(n), [model], cores=None, show_progress=True, **more)
print("status", manifest["status"], manifest["items"])
"""


@pytest.fixture(scope="session")
def slurm():
    """The cluster, which is stopped only if it was started here: not where several workers use
    it."""
    if not PLUGIN.exists():
        pytest.skip("the executor plugin is not installed: make test-slurm")
    running = cluster.running()
    if not running and "PYTEST_XDIST_WORKER" in os.environ:
        pytest.fail("the cluster is to be started before the workers: python -m tests.slurm.cluster start")
    if not running:
        cluster.start()
    yield cluster
    if not running:
        cluster.stop()


class Site:
    """A user on the cluster: a profile of the site beside the project's own, and requests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.profile = {
            "slurm-status-command": "squeue",
            "slurm-init-seconds-before-status-checks": 8,
            "default-resources": ["slurm_partition=calm"],
        }

    def environment(self, **more: str) -> dict[str, str]:
        profile = self.folder / "site"
        profile.mkdir(exist_ok=True)
        (profile / "config.yaml").write_text(yaml.safe_dump(self.profile))
        paths = [PLUGIN, CHECKOUT / "tests" / "support" / "slow_disk", CHECKOUT]
        keep = {k: v for k, v in os.environ.items() if not k.startswith("RS_EMBED")}
        return keep | {"SNAKEMAKE_PROFILE": str(profile), "PYTHONPATH": os.pathsep.join(map(str, paths))} | more

    def start(self, name: str, n: int = 4, *, environment: dict | None = None, **request) -> subprocess.Popen:
        """A process that exports n places to ``<folder>/<name>/run`` and ends with the export."""
        target = self.folder / name
        target.mkdir(exist_ok=True)
        given = json.dumps({"profile": "slurm", "chunk_size": 2} | request)
        command = [sys.executable, "-c", REQUEST, str(target), str(n), given]
        around = self.environment(**(environment or {}))
        with open(target / "out", "a") as out:
            return subprocess.Popen(
                command,
                cwd=CHECKOUT,
                env=around,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a CI in the background ignores it
            )

    def wait(self, process: subprocess.Popen, name: str, seconds: float = 240) -> str:
        """The output of the process, which must have succeeded."""
        code = process.wait(seconds)
        output = (self.folder / name / "out").read_text()
        assert code == 0, output + self.log(name)
        return output

    def run_folder(self, name: str) -> Path:
        (found,) = (self.folder / name / ".rs_embed" / "runs").glob("*")
        return found

    def log(self, name: str) -> str:
        return (self.run_folder(name) / "logs" / "snakemake.log").read_text()


@pytest.fixture
def site(tmp_path, slurm):
    return Site(tmp_path)
