"""The child process starts before the request is checked, and gets its task after that."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import psutil
import pytest

from rs_embed import ExportError, ExportModelRequest, ModelError
from rs_embed.launch.child import Child

from ..support.exports import CHECKOUT, combined, export, log_of, places, python, run_folder

BEGIN = (
    "import os, sys\nfrom rs_embed.launch.child import Child\nchild = Child()\nprint(child._process.pid, flush=True)\n"
)


def test_a_child_without_a_task_ends_with_its_context():
    with Child() as child:
        process = psutil.Process(child._process.pid)
        assert "rs_embed.launch.child_main" in process.cmdline()
    assert not process.is_running()


def test_a_refused_request_leaves_no_process_and_no_file(tmp_path):
    with pytest.raises(ModelError):
        export(combined(tmp_path / "run"), places(1), [ExportModelRequest("mosaik")])
    assert not [p for p in psutil.Process().children() if "rs_embed.launch.child_main" in p.cmdline()]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "sys.exit()"])
def test_a_child_without_a_task_ends_with_its_caller(end):
    found = subprocess.run([sys.executable, "-c", BEGIN + end], capture_output=True, text=True, timeout=60)
    try:
        psutil.Process(int(found.stdout)).wait(20)
    except psutil.NoSuchProcess:  # already
        return


def test_a_default_socket_timeout_of_the_caller_does_not_apply_to_the_child(tmp_path, monkeypatch):
    """Users of Earth Engine set one; the request is checked for longer than the child imports."""
    import rs_embed.stages.prepare as stage

    real = stage.check_target
    monkeypatch.setattr(stage, "check_target", lambda run: time.sleep(2) or real(run))
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(0.5)
    try:
        export(combined(tmp_path / "run"), places(1))
    finally:
        socket.setdefaulttimeout(before)
    assert "Exception in thread" not in log_of(run_folder(tmp_path / "run"))


def test_early_output_of_the_child_is_in_the_error(tmp_path, monkeypatch):
    """For example where the package is found by a notebook's own path alone."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text("import sys\nif '-P' in sys.orig_argv: sys.exit('no package here')\n")
    monkeypatch.setenv("PYTHONPATH", str(broken), prepend=os.pathsep)
    with pytest.raises(ExportError, match="no package here"):
        export(combined(tmp_path / "run"), places(1))


def test_an_import_error_of_the_child_is_in_the_error(tmp_path):
    """For example in an environment of another Python: the first import fails where there is no
    log yet."""
    broken = tmp_path / "broken" / "snakemake"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('made for another Python')")
    code = f"""
import os, sys
from pathlib import Path
import rs_embed
from tests.support.exports import combined, export, places
os.environ["PYTHONPATH"] = {str(broken.parent)!r} + os.pathsep + os.environ.get("PYTHONPATH", "")
try:
    export(combined(Path("run")), places(1))
except rs_embed.ExportError as error:
    print(error)
"""
    done = python(code, tmp_path, env=os.environ | {"PYTHONPATH": str(CHECKOUT)})
    assert "made for another Python" in done.stdout, done.stdout + done.stderr
    assert "snakemake.log" in done.stdout


def test_modules_of_the_working_directory_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "socket.py").write_text("raise SystemExit('imported')")
    (tmp_path / "snakemake.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    export(combined(tmp_path / "run"), places(1))
    assert (tmp_path / "run.npz").exists()


def test_a_step_that_has_used_torch_ends_with_its_status_and_output(tmp_path):
    """It ends without unloading torch, and not before its output is written."""
    code = "import runpy, sys, torch; sys.argv = ['rs_embed', 'status', 'nowhere']; runpy.run_module('rs_embed', run_name='__main__')"
    done = python(code, tmp_path)
    assert done.returncode == 1 and done.stderr.startswith("error: ") and "nowhere" in done.stderr
    code = (
        "import runpy, sys, torch; sys.argv = ['rs_embed', 'models']; runpy.run_module('rs_embed', run_name='__main__')"
    )
    assert "terrafm" in python(code, tmp_path).stdout
