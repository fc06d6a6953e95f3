"""Whole runs that free their pixels after success, as they do by default, and what is asked of
them later: the provider is asked nothing, and the files are those of a run that kept
everything."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from rs_embed import ExportModelRequest, ExportTarget, SensorSpec, load_export

from ..support import killing
from ..support.change_cases import CHANGES, base
from ..support.exports import CHECKOUT, combined, content, export, jobs, log_of, made, places, run_folder, times
from ..support.gee_runs import S2, Archive, settings
from ..support.rasters import at, noise
from ..support.work_folders import make, objects
from .test_change import PATHS, of_roi, start

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(900)]  # up to sixteen runs each
ONE = ExportModelRequest("mosaiks", model_config={"features": 8})
TWO = ExportModelRequest("mosaiks", label="two", sensor=SensorSpec(S2, ("B3",)), model_config={"features": 4})


def renamed(model: ExportModelRequest, label: str) -> ExportModelRequest:
    return ExportModelRequest(model.name, label=label, sensor=model.sensor, model_config=model.model_config)


#: One after the other; each is the request from then on.
LATER = [
    {"models": [ONE, TWO]},
    {"models": [renamed(ONE, "first"), TWO]},
    {"save_inputs": "model"},
    {"format": "netcdf"},
    {"save_inputs": False},
    {"save_inputs": True},
    {"models": [TWO]},
    {"models": [ONE, TWO]},
]


@pytest.mark.parametrize("layout", PATHS)
def test_earth_engine_is_requested_once(tmp_path, layout):
    spots = [at(20, 20, 50), at(30, 30, 50), at(40, 40, 50)]
    archive = Archive(tmp_path / "files")
    archive.make(noise(0), "2022-07-01")
    with archive.served() as service:
        about = {"backend": "gee", "gee": settings(service), "sensor": SensorSpec(S2, ("B2", "B3")), "chunk_size": 2}

        def both(**more) -> dict[str, int]:
            """The same with both policies; returns what Earth Engine was asked by the one that
            frees."""
            about.update(more)
            for word, keep in (("kept", {"keep_work": "all"}), ("freed", {})):
                service.reset_counts()
                (tmp_path / word).mkdir(exist_ok=True)
                export(ExportTarget(layout, str(tmp_path / word / PATHS[layout])), spots, **about, **keep)
            assert content(tmp_path / "kept") == content(tmp_path / "freed")
            if about.get("save_inputs") is not False and about["models"] != [TWO]:  # all bands are saved
                assert not objects(tmp_path / "freed", "chips")
            return service.counts()

        assert both(models=[ONE])["pixels"] == 3
        for change in LATER:
            assert set(both(**change).values()) == {0}, change


@pytest.mark.parametrize("layout", PATHS)
def test_earth_engine_is_asked_for_what_is_lost_or_not_wanted_any_more(tmp_path, layout):
    path = tmp_path / PATHS[layout]
    archive = Archive(tmp_path / "files")
    archive.make(noise(0), "2022-07-01")
    with archive.served() as service:

        def asked(**more) -> int:
            service.reset_counts()
            about = {
                "backend": "gee",
                "gee": settings(service),
                "sensor": SensorSpec(S2, ("B2", "B3")),
                "chunk_size": 2,
            }
            spots = [at(20, 20, 50), at(30, 30, 50), at(40, 40, 50)]
            export(ExportTarget(layout, str(path)), spots, [ONE], **about | more)
            assert not objects(tmp_path, "chips")
            return service.counts()["pixels"]

        assert asked() == 3
        vectors = load_export(path).embedding("mosaiks")
        assert asked(resume=False) == 0 and made(run_folder(path, layout))["embedded"] == 3 + 3
        assert np.array_equal(load_export(path).embedding("mosaiks"), vectors)
        if layout == "per_item":
            (path / "p00000.npz").unlink()
            assert asked() == 1, "of its chunk the other place is read back"
        else:
            path.with_suffix(".npz").unlink()
            assert asked() == 3
        assert asked(resume=False, refetch=True) == 3, "these are not wanted any more"


@pytest.mark.parametrize("layout", PATHS)
def test_a_finished_run_is_complete_and_starts_at_no_cost(tmp_path, say, layout):
    target = ExportTarget(layout, str(tmp_path / PATHS[layout]))
    export(target, places(4), chunk_size=2)
    folder = run_folder(tmp_path / PATHS[layout], layout)
    assert not objects(tmp_path, "chips") and "GB were freed" in log_of(folder)
    assert say("status", tmp_path)[1]["runs"][0]["state"] == "complete"
    before = times(tmp_path, "**/*.*")
    export(target, places(4), chunk_size=2)
    changed = {k for k, v in times(tmp_path, "**/*.*").items() if before.get(k) != v}
    assert jobs(folder) == set() and not [k for k in changed if "store" in k or "/runs/" not in k], changed
    assert "freed" not in log_of(folder)
    assert say("verify", tmp_path)[0] == 0


@pytest.fixture(scope="session")
def freed(tmp_path_factory) -> dict[str, Path]:
    """The request of the change matrix, finished, with its pixels freed; tests copy it."""
    folders = {layout: tmp_path_factory.mktemp(f"freed_{layout}") for layout in PATHS}
    for layout, folder in folders.items():
        start(by_default(base()), layout, folder)
    return folders


def by_default(request: dict) -> dict:
    del request["export"]["keep_work"]
    return request


#: Of the change matrix, one of each kind that adds, takes away or moves pixels.
WHAT = (
    "a new ROI at the top",
    "a ROI in the middle deleted",
    "one ROI gets a window of its own",
    "a third model with one more band",
    "a model removed",
    "pixels not saved",
    "the folder moved elsewhere",
    "the other layout, at another path",
)
SOME = [c for c in CHANGES if c.what in WHAT]


@pytest.mark.parametrize("layout", PATHS)
@pytest.mark.parametrize("change", SOME, ids=[c.what for c in SOME])
def test_a_change_costs_what_it_costs_a_run_that_kept_everything(freed, tmp_path, change, layout):
    folder = Path(shutil.copytree(freed[layout], tmp_path / "copy", symlinks=True))
    files, request, path = content(folder), by_default(base()), None
    change.edit(request)
    if request.pop("moved", False):
        folder = Path(shutil.move(folder, tmp_path / "somewhere" / "else"))
    if request.pop("relayout", False):
        layout, path = {"combined": "per_item", "per_item": "combined"}[layout], "another"
    receipts = times(folder, ".rs_embed/runs/*/fetch/*/*.json")
    run = start(request, layout, folder, path)
    assert fetched(folder, receipts) == change.chips
    receipts = times(folder, ".rs_embed/runs/*/fetch/*/*.json")
    start(by_default(base()), layout if not path else {"combined": "per_item", "per_item": "combined"}[layout], folder)
    assert fetched(folder, receipts) == 0, "and the way back costs nothing"
    assert {k: of_roi(k, v) for k, v in content(folder).items() if k in files} == {
        k: of_roi(k, v) for k, v in files.items()
    }
    assert run.dir.exists()


def fetched(folder: Path, before: dict) -> int:
    """What fetch receipts that are new since ``before`` say was asked for."""
    import json

    now = times(folder, ".rs_embed/runs/*/fetch/*/*.json")
    return sum(json.loads((folder / k).read_text())["fetched"] for k, v in now.items() if before.get(k) != v)


# killed ------------------------------------------------------------------------------------------

REQUEST = """
import sys
from rs_embed import ExportModelRequest, ExportTarget
from tests.support.exports import export, places

layout, path, label = sys.argv[1:]
model = ExportModelRequest("mosaiks", label=label, model_config={"features": 8})
export(ExportTarget(layout, path), places(6), [model], chunk_size=3, writer_workers=1)
"""
#: Where the run with the new label is killed: what is slow, and the file that shows that it is
#: there.
MOMENTS = {
    "restoring": ("combined", "fetch 0.4 *.npy", ".rs_embed/store/chips/*/*/*/*.npy"),
    "writing": ("per_item", "write 0.4 */p0000[1-5].npz", "run/.tmp-*.npz"),
    "merging": ("combined", "merge 4 */run.npz", ".tmp-*-run.npz"),
    "between the files": ("combined", "merge 4 */run.json", ".tmp-*-run.json"),
    "its receipt": ("combined", "merge 4 *merge.json", ".rs_embed/runs/*/.tmp-*-merge.json"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_while_the_export_is_replaced_loses_nothing(tmp_path, moment):
    layout, slow, product = MOMENTS[moment]
    path = tmp_path / "here" / "run"

    def command(label: str) -> list[str]:
        return [sys.executable, "-c", REQUEST, layout, str(path), label]

    subprocess.run(command("old"), cwd=CHECKOUT, check=True)
    assert not objects(path.parent, "chips")
    victim = killing.start(command("new"), slow)
    caller = psutil.Process(victim.pid)
    killing.wait_until(lambda: bool(list(path.parent.glob(product))), victim, moment)
    family = killing.tree(caller)
    killing.kill_all(caller)
    psutil.wait_procs(family, timeout=40)
    victim.communicate()
    if layout == "combined":
        assert np.load(f"{path}.npz").files, "the old file, or the new one"
    folder = run_folder(path, layout)
    before = times(folder, "fetch/*/*.json")
    subprocess.run(command("new"), cwd=CHECKOUT, check=True)
    assert fetched_since(folder, before) == 0
    subprocess.run([*command("new")[:3], layout, str(tmp_path / "fresh" / "run"), "new"], cwd=CHECKOUT, check=True)
    assert content(path.parent) == content(tmp_path / "fresh")
    assert not objects(path.parent, "chips") and made(folder)["fetched"] in (0, 6)


def fetched_since(folder: Path, before: dict) -> int:
    import json

    now = times(folder, "fetch/*/*.json")
    return sum(json.loads((folder / k).read_text())["fetched"] for k, v in now.items() if before.get(k) != v)


FREEING = """
import os, sys, time
from pathlib import Path
from rs_embed.runs.run_files import load_run
from tests.support.work_folders import free

unlink = Path.unlink

def slowly(path, **more):
    unlink(path, **more)
    if path.suffix == ".npy":
        print("gone", flush=True)
        time.sleep(0.2)

Path.unlink = slowly
free(load_run(sys.argv[1]))
"""


@pytest.mark.parametrize("gone", [1, 3])
def test_a_kill_while_it_frees_loses_nothing(tmp_path, gone):
    run = make(tmp_path, slice(0, 5))
    chips = {o: (tmp_path / ".rs_embed" / "store" / o).read_bytes() for o in objects(tmp_path, "chips")}
    command = [sys.executable, "-c", FREEING, str(run.dir)]
    victim = subprocess.Popen(
        command,
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(CHECKOUT)},
    )
    for _ in range(gone):
        assert victim.stdout.readline() == "gone\n"
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    left = len(objects(tmp_path, "chips"))
    assert left < 5
    time.sleep(0.1)
    make(tmp_path, slice(0, 5), upto="fetch")
    assert {o: (tmp_path / ".rs_embed" / "store" / o).read_bytes() for o in objects(tmp_path, "chips")} == chips
    assert made(run.dir)["fetched"] == 0


def test_two_exports_on_one_store_at_different_times(tmp_path):
    """One is finished and frees; the other stopped in the middle keeps all of its own, and ends as
    ever."""
    export(combined(tmp_path / "reference" / "b"), places(9)[3:9])
    make(tmp_path, slice(3, 9), target="unused", upto="fetch")  # other places, of the same source
    export(combined(tmp_path / "a"), places(9)[:6])
    run = run_folder(tmp_path / "a")
    assert len(objects(tmp_path, "chips")) == 6 and made(run)["fetched"] == 6
    export(combined(tmp_path / "b"), places(9)[3:9])
    assert made(run_folder(tmp_path / "b"))["fetched"] == 3
    assert load_export(tmp_path / "b").embedding("mosaiks").tobytes() == (
        load_export(tmp_path / "reference" / "b").embedding("mosaiks").tobytes()
    )
