"""Freeing chips and restoring them from an export, in this process. Whole runs:
``test_read_back.py``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest

from rs_embed import SensorSpec, load_export
from rs_embed.formats import deflate
from rs_embed.formats.npz import NpzReader
from rs_embed.runs.run_files import FREED, TIDIED
from rs_embed.stages.embed import embed
from rs_embed.stages.fetch import fetch
from rs_embed.stages.merge import merge
from rs_embed.stages.write import write as write_chunk
from rs_embed.store import freed_chips, locks
from rs_embed.store.store import Store
from rs_embed.upkeep import exported_chips as proving

from ..support.exports import places
from ..support.rasters import at, catalogue, noise, write
from ..support.work_folders import ONE, TWO, do, flip, free, make, objects


def stored(folder: Path, kind: str = "chips") -> dict[str, bytes]:
    return {o: (folder / ".rs_embed" / "store" / o).read_bytes() for o in objects(folder, kind)}


def counts(run) -> dict[str, int]:
    """The sums of what the receipts of fetch jobs report."""
    receipts = [json.loads(p.read_text()) for p in run.dir.glob("fetch/*/*.json")]
    return {k: sum(r[k] for r in receipts) for k in ("fetched", "restored", "reused")}


@pytest.mark.parametrize("format", ["npz", "netcdf"])
@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_freed_chips_are_restored_byte_for_byte(tmp_path, layout, format, say):
    """With two models, one of which uses some of the other's bands in another order."""
    about = {"models": (TWO, ONE), "layout": layout, "format": format}
    run = make(tmp_path, **about)
    chips, embeddings = stored(tmp_path), stored(tmp_path, "embeddings")
    free(run)
    assert not objects(tmp_path, "chips") and stored(tmp_path, "embeddings") == embeddings
    assert say("verify", tmp_path)[0] == 0
    _, said = say("status", tmp_path)
    (held,) = said["stores"][0]["kept"]
    assert (held["chips"], held["there"], held["run"]) == (4, True, run.dir.name) and said["runs"][0]["freed"] == [
        "chips"
    ]
    assert "freed, read back from" in say("status", tmp_path, plain=True)[1]
    again = make(tmp_path, upto="fetch", **about)
    assert counts(again) == {"fetched": 0, "restored": 4, "reused": 0} and stored(tmp_path) == chips
    free(make(tmp_path, **about))
    assert not objects(tmp_path, "chips"), "and are freed again"


def rasters(folder: Path) -> tuple[dict, list]:
    """Three ROIs: a median of two images (floats), one image (integers), and no image."""
    write(folder / "a.tif", noise(0))
    write(folder / "b.tif", noise(1, (2, 30, 60)))
    catalogue(folder, {"path": "a.tif"}, {"path": "b.tif", "datetime": "2022-07-02"})
    about = {"backend": f"local:{folder}", "sensor": SensorSpec("S2", ("B2", "B3"))}
    return about, [at(15, 15), at(45, 45), at(300, 300)]


def local(folder: Path, spots: list, about: dict, upto: str = "merge", target: str = "run", **options):
    """Like ``make``, with local rasters."""
    from rs_embed import ExportTarget
    from rs_embed.request.config import ExportConfig
    from rs_embed.request.request import Request
    from rs_embed.runs.open_run import open_run

    from ..support.rasters import WINDOW

    chosen = ExportTarget.per_item(target) if options.pop("layout", "") == "per_item" else ExportTarget.combined(target)
    config = ExportConfig(**{"chunk_size": 2, "continue_on_error": True} | options)
    request = Request.build(spatials=spots, temporal=WINDOW, models=[ONE], target=chosen, config=config, **about)
    return do(open_run(request, str(folder)), upto)


@pytest.mark.parametrize("format", ["npz", "netcdf"])
def test_chips_of_different_dtypes_and_without_imagery(tmp_path, format):
    """Arrays of all ROIs have the widest dtype. Objects without imagery stay, and are not
    requested again."""
    about, spots = rasters(tmp_path / "rasters")
    (tmp_path / "two").mkdir()
    run = local(tmp_path / "two", spots[:2], about, format=format)
    chips = stored(tmp_path / "two")
    assert len({chip[:128] for chip in chips.values()}) == 2, "two dtypes"
    free(run)
    assert not objects(tmp_path / "two", "chips")
    assert counts(local(tmp_path / "two", spots[:2], about, "fetch", format=format))["restored"] == 2
    assert stored(tmp_path / "two") == chips

    for word, left in (("embeddings", 1), ("none", 1)):
        folder = tmp_path / word
        folder.mkdir()
        run = local(folder, spots, about, format=format, keep_work=word)
        chips = stored(folder)
        free(run)
        assert len(objects(folder, "chips")) == left
        again = local(folder, spots, about, "fetch", format=format, keep_work=word)
        assert counts(again) == {"fetched": 0, "restored": 2, "reused": 1} and stored(folder) == chips


def test_chips_of_different_shapes(tmp_path):
    about, _ = rasters(tmp_path / "rasters")
    spots = [at(45, 45), at(45, 45, 60), at(40, 40, 110)]
    run = local(tmp_path, spots, about)
    chips = stored(tmp_path)
    assert "input_chw__mosaiks__00001" in np.load(tmp_path / "run.npz").files
    free(run)
    assert not objects(tmp_path, "chips")
    assert counts(local(tmp_path, spots, about, "fetch"))["restored"] == 3 and stored(tmp_path) == chips


def test_chips_of_two_exports_and_bands_fetched_separately(tmp_path):
    make(tmp_path, slice(0, 2), (TWO,), target="first", keep_work="all")
    run = make(tmp_path, slice(0, 3), (ONE, TWO), target="second")
    chips = stored(tmp_path)
    (tmp_path / ".rs_embed" / "runs" / next(p.name for p in run.dir.parent.glob("first*"))).rename(tmp_path / "gone")
    free(run)
    assert not objects(tmp_path, "chips"), "also those that another export fetched"
    again = make(tmp_path, slice(0, 3), (ONE, TWO), target="third", upto="fetch")
    assert counts(again) == {"fetched": 0, "restored": 3, "reused": 0}
    assert stored(tmp_path).items() <= chips.items()


def test_chips_that_the_export_has_partly_stay(tmp_path):
    make(tmp_path, models=(ONE,), target="all", save_inputs=False)  # four bands, saved nowhere
    run = make(tmp_path, models=(TWO,), target="rgb")  # three of them
    free(run)
    assert len(objects(tmp_path, "chips")) == 4
    shutil.rmtree(next(run.dir.parent.glob("all-*")))
    free(run)
    assert len(objects(tmp_path, "chips")) == 4, "also if nothing else refers to them: B8 would have to be fetched"


# changes of the export ---------------------------------------------------------------------------


@pytest.fixture
def larger(monkeypatch):
    """ROIs whose rows are longer than what a reader of a header reads."""
    monkeypatch.setattr("tests.support.work_folders.SPOTS", places(9))


def damage_row(path: Path, key: str, row: int) -> None:
    """Change a byte inside a row of a combined file, and keep the time."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    with NpzReader(path) as file:
        _, mark = list(file.iter_rows(key))[row]
        member = file._member(key)
        with file._open_raw(member) as raw:
            data[raw.tell() + mark + 30] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_intact_rows_of_a_damaged_export_are_restored(tmp_path, larger):
    run = make(tmp_path)
    chips = stored(tmp_path)
    free(run)
    damage_row(tmp_path / "run.npz", "inputs_bchw__mosaiks", 2)
    again = make(tmp_path, upto="fetch")
    assert counts(again) == {"fetched": 1, "restored": 3, "reused": 0}
    now = stored(tmp_path)
    assert sum(now[k] == v for k, v in chips.items()) >= 3 and now.keys() == chips.keys()


@pytest.mark.parametrize("how", ["deleted", "another", "no zip", "empty", "other names", "flag", "method"])
def test_nothing_is_restored_from_another_export(tmp_path, how, capsys):
    run = make(tmp_path)
    free(run)
    path = tmp_path / "run.npz"
    if how == "deleted":
        path.unlink()
    elif how == "other names":
        np.savez(path, inputs=np.load(path)["inputs_bchw__mosaiks"])
    elif how == "another":
        other = make(tmp_path, slice(4, 8), target="other")
        shutil.copy(tmp_path / "other.npz", path)
        assert other
    elif how in ("flag", "method"):  # one bit of the directory: zipfile reports encryption, or an unknown method
        data = bytearray(path.read_bytes())
        data[data.find(b"PK\x01\x02") + (8 if how == "flag" else 10)] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(b"" if how == "empty" else b"PK" * 999)
    again = make(tmp_path, upto="fetch")
    assert counts(again) == {"fetched": 4, "restored": 0, "reused": 0}


@pytest.mark.parametrize("format", ["npz", "netcdf"])
def test_only_rois_with_damaged_files_are_fetched_again(tmp_path, format):
    about = {"layout": "per_item", "format": format}
    run = make(tmp_path, **about)
    free(run)
    flip(tmp_path / "run" / f"p00001{run.plan.suffix}")
    (tmp_path / "run" / f"p00002{run.plan.suffix}").unlink()
    assert counts(make(tmp_path, upto="fetch", **about)) == {"fetched": 2, "restored": 2, "reused": 0}


def test_an_export_with_a_new_time_is_still_used(tmp_path):
    run = make(tmp_path)
    free(run)
    os.utime(tmp_path / "run.npz")
    free(make(tmp_path))  # merged again, from restored chips
    os.utime(tmp_path / "run.npz")
    more = make(tmp_path, slice(4, 6), target="more")
    free(more)
    assert counts(make(tmp_path, target="third", upto="fetch"))["restored"] == 4


def test_chips_are_restored_in_a_moved_folder(tmp_path):
    (tmp_path / "here").mkdir()
    free(make(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert counts(make(tmp_path / "there", models=(ONE, TWO), upto="fetch"))["restored"] == 4


@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_symbolic_links_in_the_path_of_the_export(tmp_path, layout):
    for name in ("real", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    if layout == "per_item":
        (tmp_path / "real" / "run").symlink_to(tmp_path / "elsewhere")
    folder, about = tmp_path / "link", {"layout": layout, "chunk_size": 1}
    free(make(folder, **about))
    free(make(folder, slice(0, 5), **about))
    assert not objects(folder, "chips")
    assert counts(make(folder, slice(0, 5), models=(ONE, TWO), upto="fetch", **about))["fetched"] == 0


def test_files_that_are_not_written_again_keep_their_records(tmp_path):
    """One chunk of a folder is written again, the other is not."""
    from rs_embed.stages.prepare import prepare

    about = {"layout": "per_item", "chunk_size": 2}
    run = make(tmp_path, **about)
    free(run)
    more = make(tmp_path, slice(0, 5), upto=None, **about)
    with contextlib.chdir(more.dir):
        prepare(more, live=False)
        part = more.plan.chunks[-1].parts[0].name
        for source in more.plan.sources:
            fetch(more, source.id, part)
        [embed(more, unit.id, more.plan.chunks[-1].name) for unit in more.plan.embedded_units]
        write_chunk(more, more.plan.chunks[-1].name)
        merge(more)
    assert len(objects(tmp_path, "chips")) == 1
    free(more)
    assert not objects(tmp_path, "chips")
    assert [len(p.read_bytes().splitlines()) for p in freed_chips.list_all_records(more.store)] == [1 + 5]
    assert counts(make(tmp_path, slice(0, 5), upto="fetch", **about))["fetched"] == 0


def test_a_second_project_restores_chips_from_the_first(tmp_path):
    store = str(tmp_path / "store")
    free(make(tmp_path / "one", store_dir=store))
    assert not list((tmp_path / "store").glob("chips/*"))
    second = make(tmp_path / "two", slice(1, 5), target="other", store_dir=store)
    assert counts(second) == {"fetched": 1, "restored": 3, "reused": 0}
    free(second)
    assert not list((tmp_path / "store").glob("chips/*"))
    (tmp_path / "one" / "run.npz").unlink()
    third = make(tmp_path / "three", slice(0, 5), target="third", store_dir=store, upto="fetch")
    assert counts(third) == {"fetched": 1, "restored": 4, "reused": 0}, "the second project has the others"


# when chips are freed ----------------------------------------------------------------------------


def test_chips_of_an_unfinished_run_are_not_freed(tmp_path):
    make(tmp_path, slice(2, 6), target="other", upto="fetch")
    run = make(tmp_path, slice(0, 4))
    free(run)
    assert len(objects(tmp_path, "chips")) == 4 and not (run.dir / TIDIED).exists(), "two are needed by the other run"
    free(make(tmp_path, slice(2, 6), target="other"))
    assert not objects(tmp_path, "chips") and (run.dir / TIDIED).exists()


class Stopped(BaseException):
    """Raised instead of a kill."""


@pytest.mark.parametrize("left", range(0, 5))
def test_freeing_that_is_interrupted(tmp_path, monkeypatch, left):
    """Every deleted chip has a durable record."""
    run = make(tmp_path)
    chips = stored(tmp_path)
    unlink, count = Path.unlink, [left]

    def stopping(path: Path, **more) -> None:
        if path.suffix == ".npy":
            if not count[0]:
                raise Stopped
            count[0] -= 1
        unlink(path, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", stopping)
        if left < 4:
            with pytest.raises(Stopped):
                free(run)
        else:
            free(run)
    assert len(objects(tmp_path, "chips")) == 4 - left
    again = make(tmp_path, upto="fetch")
    assert counts(again) == {"fetched": 0, "restored": left, "reused": 4 - left} and stored(tmp_path) == chips
    free(make(tmp_path))
    assert not objects(tmp_path, "chips")


def test_writing_records_that_is_interrupted(tmp_path, monkeypatch):
    run = make(tmp_path)

    def stop(*_, **__):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(freed_chips.os, "fsync", stop)
        with pytest.raises(Stopped):
            free(run)
    assert len(objects(tmp_path, "chips")) == 4 and not list((tmp_path / ".rs_embed" / "store").rglob("kept/*/*/*"))


def test_an_export_is_not_compared_twice(tmp_path, monkeypatch):
    run = make(tmp_path)
    free(run)
    make(tmp_path, target="second", upto="fetch")  # restores them
    monkeypatch.setattr(proving, "open_arrays", lambda path: pytest.fail(f"{path} is opened"))
    shutil.rmtree(next(run.dir.parent.glob("second-*")))
    free(run)  # it is recorded that nothing is to be done
    assert len(objects(tmp_path, "chips")) == 4
    (run.dir / TIDIED).unlink()
    free(run)
    assert not objects(tmp_path, "chips"), "the records are still valid"


def test_chips_of_a_changed_export_are_not_freed(tmp_path, larger):
    run = make(tmp_path)
    damage_row(tmp_path / "run.npz", "inputs_bchw__mosaiks", 2)
    free(run)
    assert len(objects(tmp_path, "chips")) == 2, "those of the damaged row and of the rows after it"
    with open(tmp_path / "run.npz", "ab") as file:
        file.write(b"x")
    (run.dir / TIDIED).unlink()
    free(make(tmp_path, upto="fetch"))
    assert len(objects(tmp_path, "chips")) == 4


def test_chips_of_an_export_without_row_marks_are_not_freed(tmp_path):
    """An earlier version wrote such files: to read a row, all rows before it must be read."""

    class Plain(deflate.RowCompressor):
        def compress_rows(self, rows, threads):
            self._one = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
            return rows

        def compress(self, data):
            return self._one.compress(data)

        def flush(self):
            return self._one.flush()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deflate, "RowCompressor", Plain)
        run = make(tmp_path)
    free(run)
    assert len(objects(tmp_path, "chips")) == 4 and load_export(tmp_path / "run").embedding("mosaiks").shape == (4, 16)


# before a file is replaced -----------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_chips_are_restored_before_their_only_file_is_replaced(tmp_path, layout, say):
    free(make(tmp_path, layout=layout))
    without = make(tmp_path, layout=layout, save_inputs=False)
    free(without)
    assert len(objects(tmp_path, "chips")) == 4, "pixels that are saved nowhere else"
    saved = make(tmp_path, layout=layout)
    assert counts(saved)["fetched"] == 0
    free(saved)
    assert not objects(tmp_path, "chips")
    fewer = make(tmp_path, slice(0, 3), layout=layout)
    assert counts(fewer) == {"fetched": 0, "restored": 3, "reused": 0}
    free(fewer)
    left = {"combined": 1, "per_item": 0}[layout]  # the file of a ROI that is not requested stays
    assert len(objects(tmp_path, "chips")) == left
    back = make(tmp_path, layout=layout)
    assert counts(back)["fetched"] == 0
    free(back)
    assert not objects(tmp_path, "chips") and say("verify", tmp_path)[0] == 0


def test_a_file_that_is_replaced_by_that_of_another_roi(tmp_path):
    free(make(tmp_path, slice(0, 2), layout="per_item"))
    other = make(tmp_path, slice(2, 4), layout="per_item")  # the same names
    free(other)
    assert len(objects(tmp_path, "chips")) == 2
    assert counts(make(tmp_path, slice(0, 4), layout="per_item", upto="fetch"))["fetched"] == 0


def test_prune_removes_records_of_missing_exports(tmp_path, say):
    free(make(tmp_path))
    free(make(tmp_path, slice(4, 6), target="other"))
    assert len(freed_chips.list_all_records(Store(tmp_path / ".rs_embed" / "store"))) == 2
    assert say("prune", tmp_path)[1]["records"]["files"] == 0
    (tmp_path / "other.npz").unlink()
    assert "records of freed chips whose export is missing: 1 file" in say("prune", tmp_path, plain=True)[1]
    assert "records of freed chips whose export is missing: 1 file" in say("status", tmp_path, plain=True)[1]
    assert say("prune", tmp_path, "--yes")[1]["records"]["files"] == 1
    assert len(freed_chips.list_all_records(Store(tmp_path / ".rs_embed" / "store"))) == 1


def test_verify_counts_damaged_records_and_set_aside_skips_freed_runs(tmp_path, say):
    run = make(tmp_path)
    free(run)
    (path,) = freed_chips.list_all_records(run.store)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2].replace(b"EPSG", b"EPSH"), *lines[3:]]))
    code, said = say("verify", tmp_path)
    assert code == 0 and "3 chips are read back" in said["notes"][0] and "1 records of such" in said["notes"][0]
    before = sorted(p.name for p in run.dir.rglob("*.json"))
    victim = next((tmp_path / ".rs_embed" / "store" / "embeddings").rglob("*.npy"))
    flip(victim)
    code, said = say("verify", tmp_path, "--set-aside")
    assert code == 1 and len(said["set_aside"]) == 1
    assert [Path(p).parts[-3:-1] for p in said["withdrawn"] if "fetch" in p] == []
    assert len(before) - len(sorted(p.name for p in run.dir.rglob("*.json"))) == 2, (
        "those of its embeddings and its chunk"
    )
    assert counts(make(tmp_path, upto="fetch")) == {"fetched": 1, "restored": 3, "reused": 0}


def test_a_size_limit_frees_chips_that_can_be_restored(tmp_path, say):
    run = make(tmp_path, keep_work="all")
    assert say("prune", tmp_path, "--yes", "--max-gb", "0")[1]["spare"]["files"] == 8
    assert json.loads((run.dir / FREED).read_text()) == ["chips", "embeddings"]
    assert counts(make(tmp_path, upto="fetch"))["restored"] == 4


def test_the_lock_is_not_lost(tmp_path):
    run = make(tmp_path)
    free(run)
    assert run.store.root.resolve() not in locks._held_locks
