"""A clock that jumps, back and forth: between runs, between the jobs of one run, and file times
that lie in the future."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ..support.exports import run_folder, steps
from .cases import Case, check_recovered, copied, objects, repeated, run, start
from .kills import SLOW
from .ledger import note
from .test_lost_folders import _in_the_middle
from .watch import Watcher

DAY = 86400
JUMPS = {"ten years ahead": 3650 * DAY, "ten years back": -3650 * DAY, "an hour back": -3600}


@pytest.fixture(scope="session")
def clock(tmp_path_factory):
    """The environment of a process whose clock is off by what is in a file, and that file."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("clock")
    library, clock_file = folder / "clock.so", folder / "seconds"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    clock_file.write_text("86400000")
    environment = {"LD_PRELOAD": str(library), "RS_EMBED_TEST_CLOCK": str(clock_file)}
    code = "import time, datetime; print(time.time(), datetime.datetime.now().timestamp())"
    answer = subprocess.run([sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True)
    if not all(float(t) - time.time() > 80_000_000 for t in answer.stdout.split()):
        pytest.skip("the interpreter does not ask the C library for the time")
    return environment, clock_file


@pytest.mark.timeout(300)
@pytest.mark.parametrize("jump", [pytest.param(j, marks=pytest.mark.faults) for j in JUMPS])
def test_the_clock_jumps_between_jobs(undisturbed, clock, tmp_path, jump):
    environment, seconds = clock
    case, folder = Case("per_item"), tmp_path / "run"
    folder.mkdir()
    seconds.write_text("0")
    with Watcher(folder) as watcher:
        process = start(case.command(folder), SLOW, **environment)
        for number, step in enumerate(("fetch", "embed", "write")):
            _in_the_middle(process, step)
            seconds.write_text(str(JUMPS[jump] if number % 2 == 0 else 0))
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
        before = objects(folder)
        seconds.write_text("0")
        assert run(case.command(folder)) == (0, "")
    assert repeated(before, objects(folder)) == 0
    assert check_recovered(folder, undisturbed(case), case.layout) == 0
    note("clock", what=f"the clock jumps {jump}, and again, between jobs", files=watcher.seen)


@pytest.mark.timeout(300)
@pytest.mark.faults
@pytest.mark.parametrize("jump", JUMPS)
def test_the_clock_jumps_between_runs(undisturbed, clock, tmp_path, jump):
    environment, seconds = clock
    case, folder = Case("combined"), tmp_path / "run"
    copied(undisturbed(case), folder, "write")
    seconds.write_text(str(JUMPS[jump]))
    before = objects(folder)
    with Watcher(folder):
        assert run(case.command(folder), **environment) == (0, "")
    seconds.write_text("0")
    (folder / "run.npz").unlink()
    assert run(case.command(folder)) == (0, "")
    assert repeated(before, objects(folder)) == 0
    assert check_recovered(folder, undisturbed(case), case.layout) == 0
    note("clock", what=f"the clock of one run is {jump}", files=0)


def _shift(folder: Path, pattern: str, seconds: float) -> None:
    for path in folder.glob(pattern):
        if path.is_file():
            now = time.time() + seconds
            os.utime(path, (now, now))


@pytest.mark.timeout(300)
@pytest.mark.faults
@pytest.mark.parametrize(
    ("what", "pattern"),
    [("receipts of fetch", ".rs_embed/runs/*/fetch/**/*.json"), ("everything", "**/*")],
)
def test_files_of_the_future(undisturbed, tmp_path, what, pattern):
    """As a clock that was a day ahead leaves them: nothing is done for it, and not again at every
    start."""
    case, folder = Case("combined"), tmp_path / "run"
    shutil.copytree(undisturbed(case), folder, symlinks=True)
    _shift(folder, pattern, DAY)
    before = objects(folder)
    for _ in range(2):
        assert run(case.command(folder)) == (0, "")
        assert steps(run_folder(folder / "run")) == {}, "nothing was left to do"
    assert repeated(before, objects(folder)) == 0
    assert check_recovered(folder, undisturbed(case), case.layout) == 0
    note("clock", what=f"times of {what} lie a day ahead", files=0)
