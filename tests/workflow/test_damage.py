"""Damage every kind of file of a finished export in every way; the next start puts back exactly
what is missing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import rs_embed
from rs_embed import ExportModelRequest, ExportTarget, SensorSpec
from rs_embed.store import receipts

from ..support.damage_cases import CASES, CUT, DAMAGES, DELETED, FLIPPED, After, Thing, cut
from ..support.exports import combined, content, export, places, run_folder, steps, times

STORED = ".rs_embed/store/**/[0-9a-f]*.npy"
RGB = SensorSpec("COPERNICUS/S2_SR_HARMONIZED", ("B4", "B3", "B2"))
MODELS = [
    ExportModelRequest("mosaiks", model_config={"features": 8}),
    ExportModelRequest("mosaiks", label="rgb", sensor=RGB, model_config={"features": 4}),
]


def again(folder: Path, layout: str, **options) -> Path:
    """Start the export again; returns the run's folder."""
    target = combined(folder / "run") if layout == "combined" else ExportTarget.per_item(str(folder / "items"))
    export(target, places(4), MODELS, chunk_size=2, keep_work="all", **options)
    return run_folder(folder / ("run" if layout == "combined" else "items"), layout)


@pytest.fixture(scope="session")
def both(tmp_path_factory) -> Path:
    """A finished export in both layouts on one store, with one repair behind it."""
    folder = tmp_path_factory.mktemp("both")
    again(folder, "per_item")
    (folder / "items" / "p00003.npz").unlink()
    again(folder, "per_item")
    again(folder, "combined")
    return folder


@pytest.fixture
def copy(both, tmp_path) -> Path:
    return Path(shutil.copytree(both, tmp_path / "copy", symlinks=True))


def made_again(before: dict, after: dict) -> dict[str, int]:
    """New or replaced objects of the store, by kind."""
    new = [k for k in after if after[k] != before.get(k)]
    return {kind: sum(k.startswith(f".rs_embed/store/{kind}/") for k in new) for kind in ("chips", "embeddings")}


@pytest.mark.heavy
@pytest.mark.parametrize(("things", "how"), CASES, ids=[f"{t[0].what}{' ...' * (len(t) > 1)}, {h}" for t, h in CASES])
def test_the_next_start_puts_back_what_is_missing(both, copy, things, how):
    after: After = things[0].cells[how]
    assert all(t.cells[how].steps == after.steps for t in things), "cases that share a start must not hide each other"
    victims = [min(copy.glob(t.path)) for t in things]
    files = user_files(copy)
    for victim in victims:
        DAMAGES[how](victim)
    damaged = {v: state(v) for v in victims}
    before = times(copy, STORED)
    (thing, layout) = (things[0], things[0].layout)
    if thing.besides:
        lost(copy, thing, victims[0]).unlink()
    if after.starts == 2:
        with pytest.raises(rs_embed.ExportError, match="run again to create it again"):
            again(copy, layout)
    run = again(copy, layout)
    assert steps(run) == after.steps
    assert made_again(before, times(copy, STORED)) == {"chips": after.chips, "embeddings": after.embeddings}
    for thing, victim in zip(things, victims):
        assert (state(victim) != damaged[victim]) == thing.cells[how].mended, thing.what
    if all(".rs_embed" in v.parts or t.cells[how].mended for t, v in zip(things, victims)):
        assert content(copy) == content(both)
    if after.steps == {"repair": 1}:
        touched = {k for k, v in user_files(copy).items() if files[k] != v}
        assert touched <= {"items/p00001.npz", "items/p00001.json"}, "nothing else was touched"
    if how == DELETED:
        again(copy, layout)
        assert steps(run) == {}, "and then there is nothing left to do"


def state(path: Path) -> bytes | bool:
    """Content of a file; whether a folder holds anything but what a start leaves in an empty store
    (lock, registration)."""
    if path.is_file():
        return path.read_bytes()
    return any(p.is_file() and p.name != ".lock" and p.parent.name != "works" for p in path.rglob("*"))


def user_files(folder: Path) -> dict[str, tuple]:
    return times(folder, "items/*") | times(folder, "run.*")


def lost(folder: Path, thing: Thing, victim: Path) -> Path:
    """What is deleted besides: the combined file, or a file made of the damaged object."""
    if "*" not in thing.besides:
        return folder / thing.besides
    index = json.loads((folder / "items" / "manifest.json").read_text())
    return folder / "items" / next(i["file"] for i in index["items"] if i["roi"] == victim.stem)


def test_every_changed_byte_of_a_receipt_is_noticed(tmp_path):
    path, row = tmp_path / "r.json", {"object": "0f", "status": "ok", "size": 3120, "sha256": "ab" * 32}
    receipts.write(path, "embed", "a key", [row, row | {"status": "failed", "retryable": False}], seconds=0.25)
    good = path.read_bytes()
    assert receipts.read_state(path, "a key")[0] == "good"
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        assert receipts.read_state(path, "a key")[0] == "stale", f"byte {at}, {chr(good[at])!r}"
        path.write_bytes(good[:at])
        assert receipts.read_state(path, "a key")[0] == "stale", f"cut at {at}"


@pytest.mark.heavy
def test_a_damaged_manifest_is_distinguished_from_another_programs_file(both, copy):
    cut(copy / "run.json")
    run = again(copy, "combined")
    assert content(copy) == content(both)
    (copy / "run.json").write_text('{"mine": 1}')  # JSON of another program
    with pytest.raises(rs_embed.ModelError, match=r"run\.json exists and is not a manifest of an export"):
        again(copy, "combined")
    (copy / "run.json").write_text("{")
    (run / "merge.json").unlink()  # then no receipt proves which program wrote it
    with pytest.raises(rs_embed.ModelError, match=r"run\.json exists and is not a manifest of an export"):
        again(copy, "combined")


@pytest.mark.heavy
@pytest.mark.parametrize(("how", "chips", "embeddings"), [(DELETED, 0, 0), (CUT, 4, 8), (FLIPPED, 0, 8)])
def test_a_damaged_generation_file_recomputes_everything(both, copy, how, chips, embeddings):
    """Deleted, it brings back what was there before ``resume=False``: the honest limit."""
    again(copy, "combined", resume=False)
    before = times(copy, STORED)
    DAMAGES[how](next((copy / ".rs_embed" / "generations").iterdir()))
    again(copy, "combined")
    assert made_again(before, times(copy, STORED)) == {"chips": chips, "embeddings": embeddings}
    assert content(copy)["run.npz"] == content(both)["run.npz"]
