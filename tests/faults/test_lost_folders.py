"""The work folder becomes unwritable, or vanishes, in the middle of a run; and a machine without
/dev/shm."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..support.exports import content
from .cases import LAYOUTS, Case, check_recovered, family, run, sentence, start, step_of
from .kills import SLOW
from .ledger import note
from .watch import Watcher

STEPS = ("fetch", "embed", "write", "merge")


def _in_the_middle(process: subprocess.Popen, step: str) -> None:
    end = time.monotonic() + 90
    while not any(step_of(p) == step for p in family(process)):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)
    time.sleep(0.1)


def _marked(layout: str, step: str):
    sample = (layout, step) == ("combined", "embed")
    return pytest.param(layout, step, marks=pytest.mark.heavy if sample else pytest.mark.faults)


def _ended(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=120)[0]
    assert process.returncode, output
    text = sentence(output)
    assert text.startswith(("rs_embed.errors.ExportError: ", "rs_embed.errors.StoreError: ")), output
    return text


@contextlib.contextmanager
def unwritable(folder: Path) -> Iterator[None]:
    """Nobody, root included, makes or removes files in a folder or in those below it; skips where
    that cannot be had."""
    folders = [str(folder), *(str(p) for p in folder.rglob("*/") if p.is_dir() and not p.is_symlink())]
    done = subprocess.run(["chattr", "+i", *folders], capture_output=True, text=True)
    try:
        if done.returncode:
            pytest.skip(f"a folder cannot be made unwritable for root here: {done.stderr.strip()[-200:]}")
        yield
    finally:
        subprocess.run(["chattr", "-i", *folders], capture_output=True)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("layout", "step"), [_marked(layout, step) for layout in LAYOUTS for step in STEPS])
def test_the_folder_becomes_unwritable(undisturbed, tmp_path, layout, step):
    case, folder = Case(layout), tmp_path / "run"
    folder.mkdir()
    with Watcher(folder) as watcher:
        process = start(case.command(folder), SLOW)
        _in_the_middle(process, step)
        for member in family(process):  # so that no file is made while the folders are changed
            member.suspend()
        try:
            with unwritable(folder):
                for member in family(process):
                    member.resume()
                text = _ended(process)
        finally:
            process.kill()
            process.communicate()
        assert "ot permitted" in text, text
        assert run(case.command(folder)) == (0, "")
    assert check_recovered(folder, undisturbed(case), layout) == 0
    note("folder", what="the folder becomes unwritable", step=step, layout=layout, files=watcher.seen)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("layout", "step"), [_marked(layout, step) for layout in LAYOUTS for step in STEPS])
def test_the_work_folder_vanishes(undisturbed, tmp_path, layout, step):
    case, folder = Case(layout), tmp_path / "run"
    folder.mkdir()
    with Watcher(folder, may_vanish=True) as watcher:
        process = start(case.command(folder), SLOW)
        _in_the_middle(process, step)
        (folder / ".rs_embed").rename(tmp_path / "elsewhere")  # as a whole, at once: a removed tree, or a lost mount
        shutil.rmtree(tmp_path / "elsewhere", ignore_errors=True)
        output = process.communicate(timeout=120)[0]
        if process.returncode:
            text = sentence(output)
            assert text.startswith(("rs_embed.errors.ExportError: ", "rs_embed.errors.StoreError: ")), output
        assert run(case.command(folder)) == (0, "")
    assert check_recovered(folder, undisturbed(case), layout) == 0
    note("folder", what="the work folder vanishes", step=step, layout=layout, files=watcher.seen)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "entry", [pytest.param("python", marks=pytest.mark.heavy), pytest.param("snakemake", marks=pytest.mark.faults)]
)
def test_there_is_no_dev_shm(undisturbed, tmp_path, entry):
    """Slim containers and some clusters have none, or one that is read-only."""
    hidden = 'mount -t tmpfs -o ro,size=4k tmpfs /dev/shm && ! touch /dev/shm/x 2>/dev/null && exec "$@"'
    private = ["unshare", "--mount", "sh", "-c", hidden, "sh"]
    if subprocess.run([*private, "true"], capture_output=True).returncode:
        pytest.skip("/dev/shm cannot be hidden here: unshare --mount is not permitted")
    case, folder = Case("combined", entry=entry), tmp_path / "run"
    folder.mkdir()
    status, output = run([*private, *case.command(folder)])
    assert status == 0, output
    assert content(folder) == content(undisturbed(case))
    note("folder", what="no /dev/shm", step="any", layout="combined", files=0)
