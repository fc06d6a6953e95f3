"""``export_batch`` wherever Python runs: a notebook, an event loop, threads, again and again in
one process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from rs_embed import ExportModelRequest, RunLockedError, load_export

from ..support.exports import CHECKOUT, combined, export, places, times

#: Slow enough to be caught in the middle: an embedding takes about a tenth of a second.
SLOW = """
from tests.support.exports import *
from rs_embed import ExportModelRequest, load_export

model = ExportModelRequest("mosaiks", model_config={"features": 8192, "patch_size": 5})
def go(target, n=60):
    return export(combined(Path(target)), places(n), [model], chunk_size=30, cores=2, show_progress=True)["status"]
"""


def wait_until(true, what: str, patience: float = 90) -> None:
    end = time.monotonic() + patience
    while not true():
        assert time.monotonic() < end, f"no {what} in {patience} s"
        time.sleep(0.02)


def embedded(folder: Path) -> dict:
    return times(folder / ".rs_embed" / "store", "embeddings/**/[0-9a-f]*.npy")


# notebooks ---------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_in_a_notebook_with_its_event_loop_and_bars(tmp_path):
    """Executed in an interpreter of its own, whose warnings do not count."""
    notebook = f"""
import nbformat, nbclient
cells = [{SLOW!r}, "go('run', 3)", "go('other', 3)", "load_export('run.npz').embedding('mosaiks').shape"]
made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
nbclient.NotebookClient(made, timeout=200, kernel_name="python3").execute()
for cell in made.cells[1:]:
    for output in cell.outputs:
        print(output.get("data", output).get("text/plain", output.get("text")))
"""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "IPYTHONDIR": str(tmp_path / "ipython")}
    command = [sys.executable, "-c", notebook]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("'ok'") == 2
    assert "(3, 8192)" in done.stdout
    assert "merge: 100%" in done.stdout, "bars are drawn as in a terminal"
    assert (tmp_path / "run.npz").exists(), "paths are relative to the notebook"


@pytest.fixture
def kernel(tmp_path):
    """A running kernel, and a client to it."""
    from jupyter_client.manager import start_new_kernel

    environment = os.environ | {"PYTHONPATH": str(CHECKOUT), "IPYTHONDIR": str(tmp_path / "ipython")}
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(tmp_path), env=environment)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")  # of jupyter_client's sockets
def test_an_interrupted_cell_stops_the_run_and_the_next_one_goes_on(tmp_path, kernel):
    manager, client = kernel
    reply = client.execute_interactive(SLOW + "import os; os.getpid()", timeout=60, output_hook=lambda message: None)
    assert reply["content"]["status"] == "ok"
    asked = client.execute("go('run')", stop_on_error=False)  # or cells that are sent at once are dropped
    wait_until(lambda: len(embedded(tmp_path)) >= 3, "embeddings")
    pid = manager.provisioner.pid
    family = psutil.Process(pid).children(recursive=True)
    assert any("rs_embed.launch.child_main" in p.cmdline() for p in family)
    manager.interrupt_kernel()
    reply = client.get_shell_msg(timeout=40)
    assert reply["parent_header"]["msg_id"] == asked
    assert (reply["content"]["status"], reply["content"]["ename"]) == ("error", "KeyboardInterrupt")
    assert psutil.wait_procs(family, timeout=10)[1] == [], "nothing runs on"
    kept = embedded(tmp_path)
    assert 3 <= len(kept) < 60
    reply = client.execute_interactive("assert go('run') == 'ok'", timeout=200, output_hook=lambda message: None)
    assert reply["content"]["status"] == "ok", reply["content"]
    after = embedded(tmp_path)
    assert len(after) == 60
    assert {k: after[k] for k in kept} == kept, "no finished embedding was made again"


@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore")
def test_a_restarted_kernel_finds_the_target_free(tmp_path, kernel):
    manager, client = kernel
    client.execute(SLOW + "go('run')")
    wait_until(lambda: len(embedded(tmp_path)) >= 3, "embeddings")
    family = psutil.Process(manager.provisioner.pid).children(recursive=True)
    manager.restart_kernel(now=True)
    assert psutil.wait_procs(family, timeout=20)[1] == [], "the run went with its kernel"
    client.wait_for_ready(timeout=60)
    again = client.execute_interactive(SLOW + "assert go('run') == 'ok'", timeout=200, output_hook=lambda message: None)
    assert again["content"]["status"] == "ok", again["content"]
    assert len(embedded(tmp_path)) == 60


# event loops and threads -------------------------------------------------------------------------


@pytest.mark.heavy
def test_inside_a_running_event_loop_and_twice_in_one_process(tmp_path):
    here = Path.cwd()

    async def ask(name: str) -> dict:
        return export(combined(tmp_path / name), places(2))

    async def both() -> list[dict]:
        first = await ask("run")  # blocks the loop, and works
        return [first, await asyncio.to_thread(export, combined(tmp_path / "other"), places(2))]

    assert [m["status"] for m in asyncio.run(both())] == ["ok", "ok"]
    before = times(tmp_path, "**/*.np*")
    assert asyncio.run(ask("run"))["status"] == "ok"
    assert times(tmp_path, "**/*.np*") == before
    assert Path.cwd() == here, "the working directory is left alone"


def test_two_targets_from_two_threads(tmp_path):
    start = threading.Barrier(2)

    def go(name: str) -> dict:
        start.wait()
        return export(combined(tmp_path / name), places(4), cores=1)

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(go, ("one", "two")))
    assert [m["status"] for m in made] == ["ok", "ok"]
    one, two = (load_export(tmp_path / name) for name in ("one", "two"))
    assert (one.embedding("mosaiks") == two.embedding("mosaiks")).all()
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert not [p for p in tmp_path.rglob("*") if p.name.startswith(".tmp-")]


def test_one_target_from_two_threads_is_refused_the_second_time(tmp_path):
    slow = ExportModelRequest("mosaiks", model_config={"features": 8192, "patch_size": 5})
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(export, combined(tmp_path / "run"), places(12), [slow])
        wait_until(lambda: embedded(tmp_path) or first.done(), "embeddings")
        with pytest.raises(RunLockedError, match=r'another run is working on this target \(\{"pid": \d+'):
            export(combined(tmp_path / "run"), places(12), [slow])
        assert first.result()["status"] == "ok", "and is not disturbed"
    assert export(combined(tmp_path / "run"), places(12), [slow])["status"] == "ok"
