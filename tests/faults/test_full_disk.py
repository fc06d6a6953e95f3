"""A disk that is full in the middle of each stage: the store's, the target's, or the one that
holds everything."""

from __future__ import annotations

import random
import shutil

import pytest

from ..support.exports import content
from .cases import FORMATS, LAYOUTS, Case, check_recovered, copied, objects, repeated, run, sentence
from .disks import small_disk
from .ledger import note
from .watch import Watcher

#: What a step writes, in bytes, at most: the free space is a random share of it.
NEEDS = {"fetch": 200_000, "embed": 60_000, "write": 160_000, "merge": 90_000, "repair": 60_000}
CASES = [
    (layout, file_format, step)
    for file_format in FORMATS
    for layout in LAYOUTS
    for step in NEEDS
    if step != "repair" or layout == "per_item"
]
SAMPLE = [("combined", "npz", "merge")]
#: Bytes of free space that are tried one after the other, each in a run of its own: random shares.
TRIES = 3


def _marked(case: tuple):
    return pytest.param(*case, marks=pytest.mark.heavy if case in SAMPLE else pytest.mark.faults)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("layout", "file_format", "step"), [_marked(c) for c in CASES])
def test_a_disk_is_full(undisturbed, tmp_path, layout, file_format, step):
    case, rng = Case(layout, file_format, "python"), random.Random(f"{layout} {file_format} {step}")
    failed = 0
    with small_disk(tmp_path / "disk") as disk:
        folder = disk.folder / "run"
        for share in range(TRIES):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            if step != "fetch":
                copied(undisturbed(case), folder, step)
            most = 16_000 if (step, layout) == ("merge", "per_item") else NEEDS[step]  # of an index
            leave = int(rng.uniform(share, share + 1) / TRIES * most)
            before = objects(folder)
            with Watcher(folder) as watcher:
                disk.fill(leave)
                status, output = run(case.command(folder))
                disk.empty()
                if status:
                    failed += 1
                    check_message(output)
                assert run(case.command(folder)) == (0, "")
            lost = check_recovered(folder, undisturbed(case), layout)
            again = repeated(before, objects(folder))
            assert (lost, again) == (0, 0)
            note(
                "disk",
                step=step,
                layout=layout,
                format=file_format,
                disk="everything",
                failed=bool(status),
                files=watcher.seen,
            )
    assert failed, "the disk was never full"


def check_message(output: str) -> None:
    """One sentence about the disk, not a traceback of some library."""
    text = sentence(output)
    assert "No space left" in text or " kB left" in text, output
    assert text.startswith(("rs_embed.errors.ExportError: ", "rs_embed.errors.StoreError: ")), output


@pytest.mark.timeout(600)
@pytest.mark.faults
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("which", ["store", "target", "work"])
def test_one_of_the_disks_is_full(undisturbed, tmp_path, layout, which):
    """The store, the target or the work folder alone is on the small disk."""
    case = Case(layout)
    with small_disk(tmp_path / "disk") as disk:
        folder = tmp_path / "run"
        folder.mkdir()
        options = {}
        if which == "target":
            folder = disk.folder / "run"
            folder.mkdir()
            options = {"work_dir": str(tmp_path / "work")}
        else:
            options = {f"{which}_dir": str(disk.folder / "small")}
        failed = 0
        for leave in (0, 20_000, 50_000, 80_000):
            with Watcher(folder):
                disk.fill(leave)
                status, output = run(case.command(folder, **options))
                disk.empty()
            if status:
                failed += 1
                check_message(output)
            else:
                break
        assert failed
        assert run(case.command(folder, **options)) == (0, "")
        assert content(folder) == content(undisturbed(case))
        assert not [p for p in (*folder.rglob(".tmp-*"), *disk.folder.rglob(".tmp-*"))], "half files are left"
        note("disk", step="any", layout=layout, format="npz", disk=which, failed=True, files=0, count=failed)
