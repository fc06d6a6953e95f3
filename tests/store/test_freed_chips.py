"""Rows of deflated arrays read alone, records of freed chips, and what they are worth: the parts of reading pixels back from an
export, in this process. Whole runs: ``test_read_back.py``."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rs_embed import SensorSpec, load_export
from rs_embed.errors import StoreError
from rs_embed.formats import deflate
from rs_embed.formats.arrays import Array, Row
from rs_embed.formats.npz import NpzReader, NpzWriter
from rs_embed.runs.run import FREED, TIDIED
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

SMALL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# rows of deflated arrays ---------------------------------------------------------------------------------------------

NUMBERS = st.sampled_from(["uint8", "<u2", "<i4", "float32"]).flatmap(
    lambda dtype: arrays.array_shapes(min_dims=2, max_dims=4, max_side=9).flatmap(
        lambda shape: arrays.arrays(dtype, shape, elements={"allow_nan": False} if dtype == "float32" else None)
    )
)


@SMALL
@given(NUMBERS, st.sampled_from(["input", "embedding"]))
def test_every_row_can_be_read_alone(tmp_path, numbers, kind):
    path = tmp_path / "a.npz"
    with NpzWriter(path) as file:
        file.add(Array("a", kind, "m", "m"), numbers.shape, numbers.dtype, map(Row, numbers))
        file.add(Array("b", kind, "m", "m"), numbers.shape, numbers.dtype, map(Row, numbers[::-1]))
    with np.load(path) as plain:
        assert plain["a"].tobytes() == numbers.tobytes() and plain["b"].tobytes() == numbers[::-1].tobytes()
    with NpzReader(path) as file:
        for key, wanted in (("a", numbers), ("b", numbers[::-1])):
            found = list(file.rows(key))
            assert [row.tobytes() for row, _ in found] == [row.tobytes() for row in wanted]
            assert None not in [mark for _, mark in found]
            for i in reversed(range(len(wanted))):
                assert file.row(key, i, found[i][1]).tobytes() == wanted[i].tobytes()


def test_rows_of_large_pieces_and_of_files_without_cuts(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 4000, (7, 3, 150, 151)).astype("uint16")
    numbers[3] = 0  # compresses to nothing
    numbers[4].flat[:1000] = np.frombuffer(b"\x00\x00\xff\xff" * 500, "uint16")  # looks like a cut
    with NpzWriter(tmp_path / "a.npz") as file:
        file.add(Array("a", "input", "m", "m"), numbers.shape, numbers.dtype, map(Row, numbers))
    np.savez_compressed(tmp_path / "plain.npz", a=numbers)
    with NpzReader(tmp_path / "a.npz") as file, NpzReader(tmp_path / "plain.npz") as plain:
        for (row, mark), (same, none), wanted in zip(file.rows("a"), plain.rows("a"), numbers, strict=True):
            assert np.array_equal(row, wanted) and np.array_equal(same, wanted)
            assert mark is not None and none is None
        *_, (_, last) = file.rows("a")
        with pytest.raises(ValueError, match="row 9 of the array 'a' is damaged"):
            file.row("a", 9, last + 1000)


def test_bytes_do_not_depend_on_the_threads_that_deflate(tmp_path):
    numbers = np.random.default_rng(0).integers(0, 4000, (40, 3, 50, 51)).astype("uint16")
    made = set()
    for threads in (1, 2, 5):
        with NpzWriter(tmp_path / "a.npz", None, threads) as file:
            file.add(Array("a", "input", "m", "m"), numbers.shape, numbers.dtype, map(Row, numbers))
        made.add((tmp_path / "a.npz").read_bytes())
    assert len(made) == 1
    with np.load(tmp_path / "a.npz") as plain:
        assert np.array_equal(plain["a"], numbers)


@SMALL
@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_is_a_value_error_or_other_numbers(tmp_path, place, change):
    path = tmp_path / "a.npz"
    numbers = np.arange(300, dtype="uint16").reshape(3, 100)
    with NpzWriter(path) as file:
        file.add(Array("a", "input", "m", "m"), numbers.shape, numbers.dtype, map(Row, numbers))
    with NpzReader(path) as file:
        marks = [mark for _, mark in file.rows("a")]
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= change
    path.write_bytes(data)
    for read in (
        lambda file: file.read("a"),
        lambda file: list(file.rows("a")),
        lambda file: [file.row("a", i, mark) for i, mark in enumerate(marks)],
    ):
        with contextlib.suppress(ValueError, KeyError, IndexError), NpzReader(path) as file:
            read(file)


def test_a_row_behind_the_end_of_its_stream_is_none(tmp_path):
    path = tmp_path / "a"
    made = deflate.ByRow(2)
    data = made.compress(b"a" * 1000) + made.flush()
    path.write_bytes(data + bytes(10_000_000))
    with open(path, "rb") as file:
        assert deflate.row_at(file, 0, 1000) == b"a" * 1000
        with pytest.raises(EOFError):
            deflate.row_at(file, 0, 1001)


# records -------------------------------------------------------------------------------------------------------------

NAMES = st.dictionaries(
    st.text("0123456789abcdef", min_size=32, max_size=32), st.text(max_size=9), min_size=1, max_size=40
)
HEAD = {"source": "s", "bands": ["B2", "B3"], "run": "r", "generation": None}


@SMALL
@given(NAMES, st.data())
def test_records_are_found_by_name_and_a_damaged_one_is_worth_nothing(tmp_path, said, data):
    store = Store(tmp_path / "store")
    path = freed_chips.path_of(store, "s", ("B3", "B2"), tmp_path / "runs" / "r")
    records = [{"object": n, "file": text, "of": [1, 2]} for n, text in said.items()]
    (tmp_path / "out").mkdir(exist_ok=True)
    assert freed_chips.write(path, store, HEAD, tmp_path / "out", data.draw(st.permutations(records))) == len(said)
    assert (
        freed_chips.of_source(store, "s")
        == freed_chips.of_run(store, tmp_path / "runs" / "r")
        == freed_chips.of_store(store)
        == [path]
    )
    with freed_chips.Records(path, store) as held:
        assert (held.count, held.bands, held.folder) == (len(said), ("B2", "B3"), tmp_path / "out")
        assert list(held) == sorted(records, key=lambda r: r["object"])
        assert all(held.find(r["object"]) == r for r in records)
        some = data.draw(st.sets(st.sampled_from(list(said.values()))))
        assert list(held.of_files(some)) == [r for r in held if r["file"] in some]
        assert held.find(data.draw(st.text("0123456789abcdef", min_size=32, max_size=32))) in (None, *records)
    assert not list(tmp_path.rglob(".tmp-*"))
    head, *lines = path.read_bytes().splitlines(keepends=True)
    i = data.draw(st.integers(0, len(lines) - 1))
    at_ = data.draw(st.integers(len(lines[i]) // 2, len(lines[i]) - 2))
    lines[i] = lines[i][:at_] + bytes([lines[i][at_] ^ 1]) + lines[i][at_ + 1 :]
    path.write_bytes(head + b"".join(lines))
    with freed_chips.Records(path, store) as held:
        whole = [held.find(r["object"]) == r for r in sorted(records, key=lambda r: r["object"])]
        assert whole == [j != i for j in range(len(lines))]


@pytest.mark.parametrize("content", [b"", b"\n", b"{}", b'{"schema":1}\n', b"\xff" * 99])
def test_records_that_cannot_be_read_are_none(tmp_path, content):
    store = Store(tmp_path)
    path = freed_chips.path_of(store, "s", ("B2",), tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="records"):
        freed_chips.Records(path, store)
    assert freed_chips.opened(path, store) is None and freed_chips.gone(path, store)


# chips ---------------------------------------------------------------------------------------------------------------


def stored(folder: Path, kind: str = "chips") -> dict[str, bytes]:
    return {o: (folder / ".rs_embed" / "store" / o).read_bytes() for o in objects(folder, kind)}


def counts(run) -> dict[str, int]:
    """What fetch jobs said, added up."""
    said = [json.loads(p.read_text()) for p in run.dir.glob("fetch/*/*.json")]
    return {k: sum(r[k] for r in said) for k in ("fetched", "restored", "reused")}


@pytest.mark.parametrize("format", ["npz", "netcdf"])
@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_chips_come_back_byte_for_byte(tmp_path, layout, format, say):
    """Of two models, one of which reads some of the other's bands in another order."""
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
    assert not objects(tmp_path, "chips"), "and go again"


def rasters(folder: Path) -> tuple[dict, list]:
    """Three places: a median of two images (floats), one image (integers), and none."""
    write(folder / "a.tif", noise(0))
    write(folder / "b.tif", noise(1, (2, 30, 60)))
    catalogue(folder, {"path": "a.tif"}, {"path": "b.tif", "datetime": "2022-07-02"})
    about = {"backend": f"local:{folder}", "sensor": SensorSpec("S2", ("B2", "B3"))}
    return about, [at(15, 15), at(45, 45), at(300, 300)]


def local(folder: Path, spots: list, about: dict, upto: str = "merge", target: str = "run", **options):
    """Like ``make``, of rasters."""
    from rs_embed import ExportTarget
    from rs_embed.request.config import ExportConfig
    from rs_embed.request.request import Request
    from rs_embed.runs.run import open_run

    from ..support.rasters import WINDOW

    chosen = ExportTarget.per_item(target) if options.pop("layout", "") == "per_item" else ExportTarget.combined(target)
    config = ExportConfig(**{"chunk_size": 2, "continue_on_error": True} | options)
    request = Request.build(spatials=spots, temporal=WINDOW, models=[ONE], target=chosen, config=config, **about)
    return do(open_run(request, str(folder)), upto)


@pytest.mark.parametrize("format", ["npz", "netcdf"])
def test_of_another_dtype_and_of_nothing(tmp_path, format):
    """Arrays of all places hold the widest dtype; what says that there is no imagery stays, and is not asked again."""
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


def test_places_of_different_shapes(tmp_path):
    about, _ = rasters(tmp_path / "rasters")
    spots = [at(45, 45), at(45, 45, 60), at(40, 40, 110)]
    run = local(tmp_path, spots, about)
    chips = stored(tmp_path)
    assert "input_chw__mosaiks__00001" in np.load(tmp_path / "run.npz").files
    free(run)
    assert not objects(tmp_path, "chips")
    assert counts(local(tmp_path, spots, about, "fetch"))["restored"] == 3 and stored(tmp_path) == chips


def test_a_place_that_is_there_twice_and_bands_that_were_fetched_apart(tmp_path):
    make(tmp_path, slice(0, 2), (TWO,), target="first", keep_work="all")
    run = make(tmp_path, slice(0, 3), (ONE, TWO), target="second")
    chips = stored(tmp_path)
    (tmp_path / ".rs_embed" / "runs" / next(p.name for p in run.dir.parent.glob("first*"))).rename(tmp_path / "gone")
    free(run)
    assert not objects(tmp_path, "chips"), "also those that another export made"
    again = make(tmp_path, slice(0, 3), (ONE, TWO), target="third", upto="fetch")
    assert counts(again) == {"fetched": 0, "restored": 3, "reused": 0}
    assert stored(tmp_path).items() <= chips.items()


def test_what_the_export_does_not_have_wholly_stays(tmp_path):
    make(tmp_path, models=(ONE,), target="all", save_inputs=False)  # four bands, saved nowhere
    run = make(tmp_path, models=(TWO,), target="rgb")  # three of them
    free(run)
    assert len(objects(tmp_path, "chips")) == 4
    shutil.rmtree(next(run.dir.parent.glob("all-*")))
    free(run)
    assert len(objects(tmp_path, "chips")) == 4, "also where nothing else refers to them: B8 would have to be fetched"


# what happens to the export ------------------------------------------------------------------------------------------


@pytest.fixture
def larger(monkeypatch):
    """Places whose rows are longer than what a reader of a header reads."""
    monkeypatch.setattr("tests.support.work_folders.SPOTS", places(9))


def damaged_at(path: Path, key: str, row: int) -> None:
    """Change a byte inside a row of a combined file, and keep the time."""
    stat = path.stat()
    data = bytearray(path.read_bytes())
    with NpzReader(path) as file:
        _, mark = list(file.rows(key))[row]
        member = file._member(key)
        with file._raw(member) as raw:
            data[raw.tell() + mark + 30] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_of_a_damaged_export_what_is_whole_comes_back(tmp_path, larger):
    run = make(tmp_path)
    chips = stored(tmp_path)
    free(run)
    damaged_at(tmp_path / "run.npz", "inputs_bchw__mosaiks", 2)
    again = make(tmp_path, upto="fetch")
    assert counts(again) == {"fetched": 1, "restored": 3, "reused": 0}
    now = stored(tmp_path)
    assert sum(now[k] == v for k, v in chips.items()) >= 3 and now.keys() == chips.keys()


@pytest.mark.parametrize("how", ["deleted", "another", "no zip", "empty", "other names", "flag", "method"])
def test_an_export_that_is_another_counts_for_nothing(tmp_path, how, capsys):
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
    elif how in ("flag", "method"):  # one bit of the directory: zipfile says encrypted, or an unknown method
        data = bytearray(path.read_bytes())
        data[data.find(b"PK\x01\x02") + (8 if how == "flag" else 10)] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(b"" if how == "empty" else b"PK" * 999)
    again = make(tmp_path, upto="fetch")
    assert counts(again) == {"fetched": 4, "restored": 0, "reused": 0}


@pytest.mark.parametrize("format", ["npz", "netcdf"])
def test_one_damaged_file_of_a_place_costs_that_place(tmp_path, format):
    about = {"layout": "per_item", "format": format}
    run = make(tmp_path, **about)
    free(run)
    flip(tmp_path / "run" / f"p00001{run.plan.suffix}")
    (tmp_path / "run" / f"p00002{run.plan.suffix}").unlink()
    assert counts(make(tmp_path, upto="fetch", **about)) == {"fetched": 2, "restored": 2, "reused": 0}


def test_a_touched_export_is_the_same(tmp_path):
    run = make(tmp_path)
    free(run)
    os.utime(tmp_path / "run.npz")
    free(make(tmp_path))  # merged anew, of restored chips
    os.utime(tmp_path / "run.npz")
    more = make(tmp_path, slice(4, 6), target="more")
    free(more)
    assert counts(make(tmp_path, target="third", upto="fetch"))["restored"] == 4


def test_a_moved_folder_is_read_from_where_it_is(tmp_path):
    (tmp_path / "here").mkdir()
    free(make(tmp_path / "here"))
    (tmp_path / "here").rename(tmp_path / "there")
    assert counts(make(tmp_path / "there", models=(ONE, TWO), upto="fetch"))["restored"] == 4


@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_links_on_the_way_to_the_export(tmp_path, layout):
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


def test_files_that_are_not_made_anew_keep_their_records(tmp_path):
    """One chunk of a folder is written anew, the other is not."""
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
        [embed(more, unit.id, more.plan.chunks[-1].name) for unit in more.plan.embedded]
        write_chunk(more, more.plan.chunks[-1].name)
        merge(more)
    assert len(objects(tmp_path, "chips")) == 1
    free(more)
    assert not objects(tmp_path, "chips")
    assert [len(p.read_bytes().splitlines()) for p in freed_chips.of_store(more.store)] == [1 + 5]
    assert counts(make(tmp_path, slice(0, 5), upto="fetch", **about))["fetched"] == 0


def test_a_second_project_reads_what_the_first_one_has(tmp_path):
    store = str(tmp_path / "store")
    free(make(tmp_path / "one", store_dir=store))
    assert not list((tmp_path / "store").glob("chips/*"))
    second = make(tmp_path / "two", slice(1, 5), target="other", store_dir=store)
    assert counts(second) == {"fetched": 1, "restored": 3, "reused": 0}
    free(second)
    assert not list((tmp_path / "store").glob("chips/*"))
    (tmp_path / "one" / "run.npz").unlink()
    third = make(tmp_path / "three", slice(0, 5), target="third", store_dir=store, upto="fetch")
    assert counts(third) == {"fetched": 1, "restored": 4, "reused": 0}, "the second one has the others"


# when they go --------------------------------------------------------------------------------------------------------


def test_nothing_of_an_unfinished_run_goes(tmp_path):
    make(tmp_path, slice(2, 6), target="other", upto="fetch")
    run = make(tmp_path, slice(0, 4))
    free(run)
    assert len(objects(tmp_path, "chips")) == 4 and not (run.dir / TIDIED).exists(), "two were held back"
    free(make(tmp_path, slice(2, 6), target="other"))
    assert not objects(tmp_path, "chips") and (run.dir / TIDIED).exists()


class Stopped(BaseException):
    """Instead of a kill."""


@pytest.mark.parametrize("left", range(0, 5))
def test_stopped_in_the_middle_of_freeing(tmp_path, monkeypatch, left):
    """Whatever goes, a durable record of it is there."""
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


def test_stopped_while_records_are_written(tmp_path, monkeypatch):
    run = make(tmp_path)

    def stop(*_, **__):
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(freed_chips.os, "fsync", stop)
        with pytest.raises(Stopped):
            free(run)
    assert len(objects(tmp_path, "chips")) == 4 and not list((tmp_path / ".rs_embed" / "store").rglob("kept/*/*/*"))


def test_a_second_time_nothing_is_read_again(tmp_path, monkeypatch):
    run = make(tmp_path)
    free(run)
    make(tmp_path, target="second", upto="fetch")  # brings them back
    monkeypatch.setattr(proving, "open_arrays", lambda path: pytest.fail(f"{path} is opened"))
    shutil.rmtree(next(run.dir.parent.glob("second-*")))
    free(run)  # remembers that there is nothing to do
    assert len(objects(tmp_path, "chips")) == 4
    (run.dir / TIDIED).unlink()
    free(run)
    assert not objects(tmp_path, "chips"), "the records still hold"


def test_an_export_that_was_changed_frees_nothing(tmp_path, larger):
    run = make(tmp_path)
    damaged_at(tmp_path / "run.npz", "inputs_bchw__mosaiks", 2)
    free(run)
    assert len(objects(tmp_path, "chips")) == 2, "those of the damaged row, and behind it"
    with open(tmp_path / "run.npz", "ab") as file:
        file.write(b"x")
    (run.dir / TIDIED).unlink()
    free(make(tmp_path, upto="fetch"))
    assert len(objects(tmp_path, "chips")) == 4


def test_an_export_without_cuts_keeps_its_chips(tmp_path):
    """One that an earlier version wrote: each row would cost the reading of all before it."""
    from rs_embed.formats import deflate

    class Plain(deflate.ByRow):
        def rows(self, rows, threads):
            self._one = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
            return rows

        def compress(self, data):
            return self._one.compress(data)

        def flush(self):
            return self._one.flush()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(deflate, "ByRow", Plain)
        run = make(tmp_path)
    free(run)
    assert len(objects(tmp_path, "chips")) == 4 and load_export(tmp_path / "run").embedding("mosaiks").shape == (4, 16)


# what only the old files had -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_what_is_not_asked_for_any_more_comes_back_before_the_file_goes(tmp_path, layout, say):
    free(make(tmp_path, layout=layout))
    chips_of = make(tmp_path, layout=layout, save_inputs=False)
    free(chips_of)
    assert len(objects(tmp_path, "chips")) == 4, "pixels that are saved nowhere else"
    saved = make(tmp_path, layout=layout)
    assert counts(saved)["fetched"] == 0
    free(saved)
    assert not objects(tmp_path, "chips")
    fewer = make(tmp_path, slice(0, 3), layout=layout)
    assert counts(fewer) == {"fetched": 0, "restored": 3, "reused": 0}
    free(fewer)
    left = {"combined": 1, "per_item": 0}[layout]  # the file of a place that is not asked for stays
    assert len(objects(tmp_path, "chips")) == left
    back = make(tmp_path, layout=layout)
    assert counts(back)["fetched"] == 0
    free(back)
    assert not objects(tmp_path, "chips") and say("verify", tmp_path)[0] == 0


def test_a_file_of_a_place_that_means_another_one(tmp_path):
    free(make(tmp_path, slice(0, 2), layout="per_item"))
    other = make(tmp_path, slice(2, 4), layout="per_item")  # the same names
    free(other)
    assert len(objects(tmp_path, "chips")) == 2
    assert counts(make(tmp_path, slice(0, 4), layout="per_item", upto="fetch"))["fetched"] == 0


def test_prune_removes_records_of_exports_that_are_gone(tmp_path, say):
    free(make(tmp_path))
    free(make(tmp_path, slice(4, 6), target="other"))
    assert len(freed_chips.of_store(Store(tmp_path / ".rs_embed" / "store"))) == 2
    assert say("prune", tmp_path)[1]["records"]["files"] == 0
    (tmp_path / "other.npz").unlink()
    assert "records of freed chips whose export is gone: 1 file" in say("prune", tmp_path, plain=True)[1]
    assert "records of freed chips whose export is gone: 1 file" in say("status", tmp_path, plain=True)[1]
    assert say("prune", tmp_path, "--yes")[1]["records"]["files"] == 1
    assert len(freed_chips.of_store(Store(tmp_path / ".rs_embed" / "store"))) == 1


def test_verify_counts_damaged_records_and_set_aside_leaves_freed_runs_alone(tmp_path, say):
    run = make(tmp_path)
    free(run)
    (path,) = freed_chips.of_store(run.store)
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
        "of its embeddings, and of its chunk"
    )
    assert counts(make(tmp_path, upto="fetch")) == {"fetched": 1, "restored": 3, "reused": 0}


def test_a_limit_frees_what_can_be_read_back(tmp_path, say):
    run = make(tmp_path, keep_work="all")
    assert say("prune", tmp_path, "--yes", "--max-gb", "0")[1]["spare"]["files"] == 8
    assert json.loads((run.dir / FREED).read_text()) == ["chips", "embeddings"]
    assert counts(make(tmp_path, upto="fetch"))["restored"] == 4


def test_the_lock_is_not_lost(tmp_path):
    run = make(tmp_path)
    free(run)
    assert run.store.root.resolve() not in locks._held
