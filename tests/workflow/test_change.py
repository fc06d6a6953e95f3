"""Change one thing in a finished request: what is made, what is left alone, and that the result is
that of a fresh run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from rs_embed.launch.child import Child
from rs_embed.launch.launcher import run_workflow
from rs_embed.runs.open_run import open_config
from rs_embed.runs.run import Run
from rs_embed.runs.run_files import freeze_run, load_run
from rs_embed.stages.embed import embed
from rs_embed.stages.fetch import fetch
from rs_embed.stages.merge import merge
from rs_embed.stages.prepare import check_target
from rs_embed.stages.write import write

from ..support.change_cases import CHANGES, base
from ..support.exports import content, jobs, snakemake, steps, times

pytestmark = pytest.mark.heavy
PATHS = {"combined": "run", "per_item": "items"}
OTHER = {"combined": "per_item", "per_item": "combined"}


def start(request: dict, layout: str, folder: Path, path: str | None = None) -> Run:
    """What ``export_batch`` does, with a config mapping."""
    run = open_config({**request, "target": {"layout": layout, "path": path or PATHS[layout]}}, str(folder))
    check_target(run)
    with Child() as child:
        run_workflow(run, child)
    return run


def fresh(request: dict, layout: str, folder: Path, monkeypatch, path: str | None = None) -> dict:
    """The files of the same request in an empty folder, made by the steps alone in this
    process."""
    folder.mkdir()
    run = open_config({**request, "target": {"layout": layout, "path": path or PATHS[layout]}}, str(folder))
    freeze_run(run)
    monkeypatch.chdir(run.dir)
    run = load_run(".")
    for source in run.plan.sources:
        [fetch(run, source.id, part) for part in run.plan.parts]
    for unit in run.plan.embedded_units:
        [embed(run, unit.id, chunk) for chunk in run.plan.chunk]
    [write(run, chunk) for chunk in run.plan.chunk]
    merge(run)
    monkeypatch.chdir(folder)
    return content(folder)


@pytest.fixture(scope="session")
def done(tmp_path_factory) -> dict[str, Path]:
    """The finished request, by layout; tests copy it."""
    folders = {layout: tmp_path_factory.mktemp(layout) for layout in PATHS}
    for layout, folder in folders.items():
        start(base(), layout, folder)
    return folders


def made(before: dict, after: dict, kind: str) -> int:
    return sum(k.startswith(f"{kind}/") and before.get(k) != v for k, v in after.items())


@pytest.mark.parametrize("layout", PATHS)
@pytest.mark.parametrize("change", CHANGES, ids=[c.what for c in CHANGES])
def test_only_what_changed_is_made(done, tmp_path, monkeypatch, change, layout):
    folder = Path(shutil.copytree(done[layout], tmp_path / "copy", symlinks=True))
    request, path = base(), None
    change.edit(request)
    if request.pop("moved", False):
        folder = Path(shutil.move(folder, tmp_path / "somewhere" / "else"))
    if request.pop("relayout", False):
        layout, path = OTHER[layout], "another"
    store, receipts = folder / ".rs_embed" / "store", times(folder, ".rs_embed/runs/*/[fe]*/*/*.json")
    before, files = times(store), content(folder)
    run = start(request, layout, folder, path)
    expected = change.per_item if layout == "per_item" and change.per_item is not None else change.steps
    assert steps(run.dir) == expected
    after = times(store)
    assert {k: after.get(k) for k in before} == before, "what was there is left alone"
    counts = {"fetched": made(before, after, "chips"), "embedded": made(before, after, "embeddings")}
    assert counts == {"fetched": change.chips, "embedded": change.embeddings}
    assert count_new(folder, receipts) == counts, "and receipts have the counts"
    found, wanted = content(folder), fresh(request, layout, tmp_path / "fresh", monkeypatch, path)
    assert {k: of_roi(k, found.get(k)) for k in wanted} == {k: of_roi(k, v) for k, v in wanted.items()}, (
        "as a fresh run"
    )
    gone = {k: v for k, v in files.items() if k not in wanted}
    assert {k: found.get(k) for k in gone} == gone, "files of removed ROIs stay"
    start(request, layout, folder, path)
    assert jobs(run.dir) == set(), "and then there is nothing to do"
    start(base(), OTHER[layout] if path else layout, folder)  # and back
    assert times(store) == after, "nothing is made on the way back"
    assert {k: v for k, v in content(folder).items() if k in files} == files


def of_roi(name: str, held: object) -> object:
    """A ROI's manifest has the fingerprint of the request that wrote it, which may have asked for
    other ROIs, too."""
    if isinstance(held, dict) and name.startswith(("items/", "another/")) and not name.endswith("/manifest.json"):
        return {k: v for k, v in held.items() if k != "request_fingerprint"}
    return held


def count_new(folder: Path, before: dict) -> dict[str, int]:
    """Counts of fetched chips and embeddings in the receipts that are new since ``before``."""
    now = times(folder, ".rs_embed/runs/*/[fe]*/*/*.json")
    new = [json.loads((folder / k).read_text()) for k, v in now.items() if before.get(k) != v]
    return {k: sum(r.get(k, 0) for r in new) for k in ("fetched", "embedded")}


def test_a_window_of_one_roi_in_a_table_on_the_command_line(done, tmp_path):
    folder = Path(shutil.copytree(done["combined"], tmp_path / "copy", symlinks=True))
    request = base() | {"rois": "places.csv", "target": {"layout": "combined", "path": "run"}}
    cells = [
        [*(str(v) for v in r.values()), *(("2022-06-01", "2022-08-01") if r["name"] == "d" else ("", ""))]
        for r in base()["rois"]
    ]
    (folder / "places.csv").write_text("\n".join(["name,lon,lat,buffer_m,start,end", *map(",".join, cells)]) + "\n")
    (folder / "my.yaml").write_text(yaml.safe_dump(request))
    before = times(folder / ".rs_embed" / "store")
    done_ = snakemake("--cores", "2", "--configfile", "my.yaml", cwd=folder)
    assert done_.returncode == 0, done_.stderr
    after = times(folder / ".rs_embed" / "store")
    assert {k: after.get(k) for k in before} == before
    assert (made(before, after, "chips"), made(before, after, "embeddings")) == (1, 2)
