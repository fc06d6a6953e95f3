"""A provider that fails for one place, a third of them or all, twice or for ever; memory that does
not suffice for a batch."""

from __future__ import annotations

import json

import numpy as np
import pytest

from .cases import Case, N, check_recovered, objects, repeated, run, sentence
from .ledger import note
from .watch import Watcher

WHICH = {"one place": ["p00001"], "a third of the places": ["p00001", "p00004"], "all places": None}
#: kind: passes by itself (a time-out), final (no permission), or a bug of the provider.
CASES = [
    (which, kind, tolerant) for which in WHICH for kind in ("passing", "final", "bug") for tolerant in (False, True)
]


def _marked(case: tuple):
    sample = case == ("a third of the places", "passing", True)
    return pytest.param(*case, marks=pytest.mark.heavy if sample else pytest.mark.faults)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("which", "kind", "tolerant"), [_marked(c) for c in CASES])
def test_it_fails_for_ever(undisturbed, tmp_path, which, kind, tolerant):
    case, folder, names = Case("per_item"), tmp_path / "run", WHICH[which]
    folder.mkdir()
    faults = {"provider": {"names": names, "kind": kind, "times": None, "state": str(tmp_path)}}
    options = {"continue_on_error": tolerant, "max_retries": 1}
    with Watcher(folder) as watcher:
        status, output = run(case.command(folder, **options), faults)
        if tolerant:
            assert status == 0, output
            failed = _rows(folder)
            assert sorted(failed) == (names or [f"p{i:05d}" for i in range(N)])
            assert all(("the service refuses" in e) == (kind != "bug") for e in failed.values())
        else:
            assert status, output
            assert "fetch failed for ROI 'p0000" in sentence(output), output
            assert ("KeyError: 'a bug of the provider'" if kind == "bug" else "the service refuses") in sentence(output)
        before = objects(folder)
        assert run(case.command(folder)) == (0, "")
        lost = check_recovered(folder, undisturbed(case), case.layout)
        again = repeated(before, objects(folder))
        note("provider", which=which, kind=kind, lasts="for ever", lost=lost, repeated=again, files=watcher.seen)
        assert (lost, again) == (0, 0)


@pytest.mark.timeout(300)
@pytest.mark.faults
@pytest.mark.parametrize("which", WHICH)
def test_it_fails_twice(undisturbed, tmp_path, which):
    case, folder = Case("combined"), tmp_path / "run"
    folder.mkdir()
    faults = {"provider": {"names": WHICH[which], "kind": "passing", "times": 2, "state": str(tmp_path)}}
    assert run(case.command(folder), faults) == (0, ""), "three repetitions suffice"
    failures = len(list(tmp_path.glob("p0*-*")))
    assert failures == 2 * len(WHICH[which] or range(N))
    note("provider", which=which, kind="passing", lasts="twice", lost=0, repeated=0, files=0)
    assert check_recovered(folder, undisturbed(case), case.layout) == 0


def _rows(folder) -> dict[str, str]:
    """Failed ROIs and their errors."""
    manifests = [json.loads(p.read_text()) for p in folder.glob("items/p*.json")]
    return {m["name"]: m["models"][0]["error"] for m in manifests if m["status"] != "ok"}


@pytest.mark.timeout(300)
@pytest.mark.faults
def test_a_batch_finds_no_memory(tmp_path):
    case, folder, other = Case("combined"), tmp_path / "run", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    assert run(case.command(folder, infer_batch_size=4), {"memory": {"above": 1}}) == (0, "")
    assert run(case.command(other, infer_batch_size=1)) == (0, "")
    with np.load(folder / "run.npz") as halved, np.load(other / "run.npz") as alone:
        assert halved["embeddings__mosaiks"].tobytes() == alone["embeddings__mosaiks"].tobytes()
    (log, *_) = folder.glob(".rs_embed/runs/*/logs/embed/*/*.log")
    assert "mosaiks: out of memory with" in log.read_text()
    note("memory", what="a batch finds no memory", end="halved until it fits")


@pytest.mark.timeout(300)
@pytest.mark.faults
def test_not_even_one_image_finds_memory(undisturbed, tmp_path):
    case, folder = Case("combined"), tmp_path / "run"
    folder.mkdir()
    status, output = run(case.command(folder), {"memory": {"above": 0}})
    assert status
    assert "model mosaiks: RuntimeError: DefaultCPUAllocator" in sentence(output), output
    assert "embed failed for ROI 'p0000" in sentence(output), output
    assert run(case.command(folder)) == (0, "")
    assert check_recovered(folder, undisturbed(case), case.layout) == 0
    note(
        "memory",
        what="not even one image finds memory",
        end="the run stops and names ROI and model; the next one completes",
    )
