"""Kill a run in the middle of every stage, in every way, then start the same request again in a
new process."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import psutil
import pytest

from ..support.exports import content, run_folder, steps
from ..support.killing import (
    CASES,
    CHIP,
    REQUEST,
    SHELL_WAYS,
    STAGES,
    VECTOR,
    WAYS,
    in_hand,
    kill_all,
    kill_in_the_middle,
    objects,
    prepare,
    python_call,
    receipts_of,
    shell_call,
    start,
    there,
    todo_after,
    tree,
    wait_until,
)

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> dict[str, Path]:
    """Undisturbed runs, by layout."""
    folders = {layout: tmp_path_factory.mktemp(layout) for layout in ("per_item", "combined")}
    for layout, folder in folders.items():
        finish(layout, folder)
    return folders


def finish(layout: str, folder: Path) -> None:
    process = start(python_call(layout, folder))
    _, output = process.communicate(timeout=120)
    assert process.returncode == 0, output


def the_run(stage, folder: Path) -> Path:
    return run_folder(folder / ("items" if stage.layout == "per_item" else "run"), stage.layout)


def check_the_next_start(stage, folder: Path, reference: Path, todo: dict[str, int]) -> None:
    """The same request ends well: equal files, nothing finished is made again, nothing is left
    behind."""
    before = objects(folder)
    finish(stage.layout, folder)
    after = objects(folder)
    redone = {k for k in before if after.get(k) != before[k]}
    assert redone <= in_hand(stage, before), "a finished object was made again"
    assert set(after) == set(objects(reference)), "as many objects as undisturbed"
    assert content(folder) == content(reference)
    assert steps(the_run(stage, folder)) == todo
    assert not [p for p in folder.rglob(".tmp-*")], "half files are left"
    assert not list(folder.glob(".rs_embed/runs/*/.snakemake/locks/*")), "something would have to be unlocked"


@pytest.mark.parametrize(("name", "way"), CASES, ids=[f"{w} in {s}" for s, w in CASES])
def test_killed_in_the_middle(undisturbed, tmp_path, name, way):
    stage, reference, folder = STAGES[name], undisturbed[STAGES[name].layout], tmp_path / "run"
    prepare(reference, folder, stage)
    output = kill_in_the_middle(python_call(stage.layout, folder), folder, stage, WAYS[way])
    if todo_after(name, way) == stage.todo and way != "SIGKILL to Snakemake":  # then its orphan finishes
        assert len(receipts_of(folder, stage)) == stage.first, "it was not killed in the middle"
    if "caller" not in way and "everything" not in way:
        assert "ExportError" in output
    if "SIGINT" in way:
        assert "KeyboardInterrupt" in output
    check_the_next_start(stage, folder, reference, todo_after(name, way))


@pytest.mark.parametrize("way", SHELL_WAYS)
def test_a_killed_snakemake_command(undisturbed, tmp_path, way):
    stage, reference, folder = STAGES["embed"], undisturbed["combined"], tmp_path / "run"
    prepare(reference, folder, stage)
    kill_in_the_middle(shell_call(), folder, stage, SHELL_WAYS[way], cwd=the_run(stage, folder))
    check_the_next_start(stage, folder, reference, todo_after("embed", way))


def test_a_job_that_outlives_its_run_does_not_block_the_next_start(undisturbed, tmp_path):
    stage, folder = STAGES["embed"], tmp_path / "run"
    prepare(undisturbed["combined"], folder, stage)
    victim = start(python_call("combined", folder), f"{stage.step} {stage.slow}")
    wait_until(lambda: bool(there(folder, stage.product)), victim, "in the middle of embed")
    family = tree(psutil.Process(victim.pid))
    orphans = [p for p in family if {"embed", "rs_embed"} <= set(p.cmdline()) and "python" in p.name()]
    assert orphans
    for process in family:
        if process.pid == victim.pid or "rs_embed.launch.child_main" in process.cmdline():
            process.kill()
    victim.communicate(timeout=20)  # ends at once, although the orphan runs on
    for job in orphans:
        job.suspend()  # it wakes up when the next start is done, and writes what is there already
    finish("combined", folder)
    for job in orphans:
        job.resume()
    psutil.wait_procs(family, timeout=60)
    assert content(folder) == content(undisturbed["combined"])
    finish("combined", folder)
    assert content(folder) == content(undisturbed["combined"])


def test_a_run_killed_while_it_freezes_a_new_generation(undisturbed, tmp_path):
    """``resume=False`` is remembered in a file of its own; half of one must not stay."""
    folder = tmp_path / "run"
    prepare(undisturbed["combined"], folder, STAGES["merge"])
    slow = "rs_embed.launch.child_main 4 */generations/*"
    victim = start(python_call("combined", folder, "anew"), slow)

    def snakemake_is_at_it() -> bool:
        half = there(folder, ".rs_embed/generations/.tmp-*")
        pids = {p.pid for p in psutil.Process(victim.pid).children()}
        return any(f"-{pid}-" in name for name in half for pid in pids)

    wait_until(snakemake_is_at_it, victim, "freezing")
    kill_all(psutil.Process(victim.pid))
    victim.communicate(timeout=20)
    finish("combined", folder)
    assert content(folder)["run.npz"] == content(undisturbed["combined"])["run.npz"]
    assert not [p for p in folder.rglob(".tmp-*")]


def test_at_full_speed(undisturbed, tmp_path):
    """Without a slow disk: many places, killed as soon as some are embedded."""
    code = REQUEST.replace("places(8)", "places(60)").replace('"features": 8', '"features": 8192')
    command = [sys.executable, "-c", code.replace("chunk_size=4", "chunk_size=30"), "combined"]
    victim = start([*command, str(tmp_path / "killed")])
    wait_until(lambda: len(there(tmp_path / "killed", VECTOR)) >= 10, victim, "embedding")
    kill_all(psutil.Process(victim.pid))
    victim.communicate(timeout=20)
    kept = objects(tmp_path / "killed")
    assert 60 + 10 <= len(kept) < 120, "killed in the middle"
    for folder in ("killed", "undisturbed"):
        process = start([*command, str(tmp_path / folder)])
        assert process.communicate(timeout=200) and process.returncode == 0
    after = objects(tmp_path / "killed")
    assert {k: after[k] for k in kept} == kept and len(after) == 120
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")
    assert not [p for p in tmp_path.rglob(".tmp-*")]


def test_ctrl_c_starts_no_new_requests(tmp_path):
    code = REQUEST.replace("places(8)", "places(64)").replace("chunk_size=4", "chunk_size=64")
    command = [sys.executable, "-c", code, "combined", str(tmp_path)]
    victim = start(command, "fetch 0.4 *.npy")
    wait_until(lambda: bool(there(tmp_path, CHIP)), victim, "in the middle of fetch")
    family, before = tree(psutil.Process(victim.pid)), len(there(tmp_path, CHIP))
    victim.send_signal(signal.SIGINT)
    _, output = victim.communicate(timeout=40)
    assert psutil.wait_procs(family, timeout=20)[1] == []
    assert "KeyboardInterrupt" in output
    assert len(there(tmp_path, CHIP)) <= before + 12, (
        "two were under way; a quarter of a minute would have made them all"
    )
