"""Packs by themselves: every object is found as it was, every changed byte is noticed, and nobody who is killed loses one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_embed import StoreError
from rs_embed.store import packs
from rs_embed.store.groups import Group
from rs_embed.store.store import Store, write_object

from ..support.exports import CHECKOUT, python
from ..support.factories import PROPERTY

META = {"status": "ok", "bands": ["B2"]}
NAMES = st.binary(min_size=16, max_size=16).map(bytes.hex)


def fill(group: Group, values: dict[str, list[float]]) -> dict[str, bytes]:
    """Loose objects; their bytes."""
    for name, numbers in values.items():
        write_object(group.path(name), np.array(numbers), META)
    return {name: group.path(name).read_bytes() for name in values}


def some(count: int, start: int = 0) -> dict[str, list[float]]:
    return {f"{i * 0x0123456789ABCDEF0123456789AB + i:032x}": [i, 2 * i] for i in range(start, start + count)}


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def check(folder: Path, values: dict[str, list[float]]) -> None:
    """Somebody who comes now, and knows nothing, finds every object, whole."""
    group = Group(folder)
    for name, numbers in values.items():
        assert group.has(name) and group.read(name).array.tolist() == list(map(float, numbers))
        assert group.verify(name).meta == group.peek(name).meta == META


# the format ----------------------------------------------------------------------------------------------------------


@settings(PROPERTY, max_examples=60)
@given(
    values=st.dictionaries(NAMES, st.lists(st.floats(0, 1), max_size=4), max_size=30),
    others=st.lists(NAMES, max_size=5),
    data=st.data(),
)
def test_objects_are_found_wherever_they_lie(tmp_path_factory, values, others, data):
    folder = tmp_path_factory.mktemp("g")
    group = Group(folder)
    written, left = fill(group, values), list(values)
    while left and data.draw(st.booleans()):
        chosen = data.draw(st.lists(st.sampled_from(left), unique=True, min_size=1))
        done = group.pack(chosen)
        assert (done.objects, done.packs, done.damaged) == (len(chosen), 1, [])
        left = [n for n in left if n not in chosen]
    assert group.loose() == set(left)
    for reader in (group, Group(folder)):
        for name, bytes_ in written.items():
            assert reader.has(name) and reader._bytes(name)[0] == bytes_
            assert reader.peek(name).size == len(bytes_)
        for name in set(others) - set(values):
            assert not reader.has(name) and reader.peek(name) is None
            with pytest.raises(FileNotFoundError):
                reader.read(name)
    assert group.unpack() == len(values) - len(left)
    assert {n: group.path(n).read_bytes() for n in values} == written
    assert not group.packs.exists()


@settings(PROPERTY, max_examples=60)
@given(steps=st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 300), min_size=1, max_size=20)), max_size=12))
def test_a_directory_says_what_is_in_the_packs_that_are_there(tmp_path_factory, steps):
    """However they came and went, and whatever lies in two of them."""
    folder = tmp_path_factory.mktemp("p")
    known, there = packs.Directory(), {}
    for add, numbers in steps:
        if add:
            objects = {f"{n:032x}": os.urandom(40) for n in numbers}
            there[packs.write(folder, objects.items()).name] = objects
        elif there:
            gone = sorted(there)[min(numbers) % len(there)]
            (folder / gone).unlink()
            del there[gone]
        known = known.of(folder, packs.listed(folder))
        assert set(known.files) == set(there) and not known.broken
        assert len(known._index) + len(known._pack) == 36 * sum(map(len, there.values()))
        for number in range(301):
            name = f"{number:032x}"
            holders = [file for file, objects in there.items() if name in objects]
            found = known.find(name)
            assert bool(holders) == bool(found)
            if found:
                file, entry = found
                assert packs.read_at(folder / file, entry.offset, entry.size) == there[file][name]


def test_every_changed_byte_and_every_truncation_of_a_pack_is_noticed(tmp_path):
    values = some(3)
    group = Group(tmp_path)
    fill(group, values)
    group.pack(values)
    (path,) = group.packs.iterdir()
    good = path.read_bytes()
    size_of_objects = len(good) - 3 * 32 - 48
    for i in range(len(good)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1]) + good[i + 1 :])
        reader, lost, damaged = Group(tmp_path), 0, 0
        for name, numbers in values.items():
            try:
                assert reader.read(name).array.tolist() == numbers
            except FileNotFoundError:
                lost += 1
            except StoreError as error:
                assert f"{name}.npy in {path.name}" in str(error)
                damaged += 1
        assert (lost, damaged) == ((0, 1) if i < size_of_objects else (3, 0))
        assert bool(reader.broken()) == bool(lost)
        path.write_bytes(good[:i])
        with pytest.raises(StoreError, match="damaged pack"):
            packs.read_index(path)
        assert not any(map(Group(tmp_path).has, values))


def test_a_pack_can_be_read_as_its_description_says(tmp_path):
    """With nothing of this package."""
    values = some(5)
    group = Group(tmp_path)
    written = fill(group, values)
    group.pack(reversed(values))
    (path,) = group.packs.iterdir()
    data = path.read_bytes()
    count = int.from_bytes(data[-48:-40], "little")
    index = np.frombuffer(data[-48 - 32 * count : -48], [("name", "V16"), ("offset", "<u8"), ("size", "<u8")])
    assert [bytes(n).hex() for n in index["name"]] == sorted(values)
    assert {bytes(r["name"]).hex(): data[r["offset"] : r["offset"] + r["size"]] for r in index} == written
    assert data.startswith(written[list(values)[-1]]), "they lie in the order they were given in"


def test_what_cannot_be_packed_stays_as_it_is(tmp_path):
    values = some(4)
    group = Group(tmp_path)
    fill(group, values)
    first = next(iter(values))
    group.path(first).write_bytes(b"cut short")
    done = group.pack([*values, "ab" * 16])
    assert (done.objects, done.damaged) == (3, [group.path(first)])
    with pytest.raises(StoreError, match="damaged object"):
        group.read(first)
    assert group.pack(values).packs == 0 and files(tmp_path) == sorted(
        [f"packs/{p.name}" for p in group.packs.iterdir()] + [str(group.path(first).relative_to(tmp_path))]
    )


def test_a_full_disk_leaves_everything_loose(tmp_path, monkeypatch):
    values = some(4)
    group = Group(tmp_path)
    fill(group, values)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"packs cannot be written \(No space left"):
            group.pack(values)
    check(tmp_path, values)
    assert group.loose() == set(values) and not list(group.packs.iterdir())
    assert group.pack(values).objects == 4
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError):
            group.remove(list(values)[:1])
    check(tmp_path, values)


def test_a_loose_object_goes_only_when_its_bytes_were_read_in_the_pack(tmp_path, monkeypatch):
    values = some(4)
    group = Group(tmp_path)
    fill(group, values)
    real = packs.write

    def failing_disk(folder, objects):
        path = real(folder, objects)
        data = bytearray(path.read_bytes())
        data[130] ^= 1  # in the first object
        path.write_bytes(data)
        return path

    with monkeypatch.context() as patched:
        patched.setattr(packs, "write", failing_disk)
        assert group.pack(values).objects == 3
    first = next(iter(values))
    assert group.loose() == {first}
    check(tmp_path, values)
    assert group.pack(values).objects == 1, "the damaged copy gives way"
    check(tmp_path, values)
    assert not group.loose()


# readers, while objects move -----------------------------------------------------------------------------------------


def test_a_reader_that_has_looked_before_finds_what_moved_since(tmp_path):
    reader, mover, values = Group(tmp_path), Group(tmp_path), some(12)
    fill(mover, values)
    names = list(values)
    for start in range(0, 12, 2):  # faster than the clock of a file system ticks
        assert all(map(reader.has, values))
        mover.pack(names[start : start + 2])
        assert reader.has(names[start]) and reader.read(names[start + 1]) and reader.peek(names[start])
    assert not reader.has("ab" * 16)
    mover.remove(names[:1])
    assert not reader.has(names[0]) or reader.peek(names[0]) is None
    assert reader.read(names[1]).array.tolist() == values[names[1]], "its pack is another one now"
    mover.unpack()
    assert all(reader.read(n).array.tolist() == values[n] for n in names[1:])


def test_a_folder_that_was_changed_just_now_may_have_the_same_time_again(tmp_path):
    reader, mover, values = Group(tmp_path), Group(tmp_path), some(2)
    fill(mover, values)
    first, second = values
    mover.pack([first])
    assert not reader.has("ab" * 16)
    before = os.stat(mover.packs).st_mtime_ns
    mover.pack([second])
    os.utime(mover.packs, ns=(before, before))
    assert reader.has(second)


def test_a_loose_object_comes_first_and_replaces_the_packed_one(tmp_path):
    group, values = Group(tmp_path), some(3)
    fill(group, values)
    group.pack(values)
    name = next(iter(values))
    fill(group, {name: [7, 7]})
    assert group.read(name).array.tolist() == [7, 7]
    assert group.pack(values).objects == 1
    check(tmp_path, values | {name: [7, 7]})
    assert not group.loose()


def test_a_copy_that_a_killed_packer_left_is_deleted(tmp_path):
    group, values = Group(tmp_path), some(3)
    written = fill(group, values)
    group.pack(values)
    before = files(tmp_path)
    for name, data in written.items():
        group.path(name).parent.mkdir(exist_ok=True)
        group.path(name).write_bytes(data)
    done = group.pack(values)
    assert (done.objects, done.packs) == (3, 0) and files(tmp_path) == before


SEVERAL = """
import sys, time
from pathlib import Path
from rs_embed.store.groups import Group

what, folder, *names = sys.argv[1:]
group = Group(Path(folder))
print("ready", flush=True)
sys.stdin.readline()
if what == "pack":
    for start in range(0, len(names), 10):
        group.pack(names[start : start + 10])
    sys.exit()
end = time.monotonic() + 3
rounds = 0
while time.monotonic() < end:
    for name in names:
        assert group.has(name), f"{name} is not there"
        group.read(name)
        assert group.peek(name)
    rounds += 1
print(rounds)
"""


def test_two_packers_and_readers_at_once(tmp_path):
    values = some(150)
    fill(Group(tmp_path), values)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    commands = [
        [sys.executable, "-c", SEVERAL, what, str(tmp_path), *values] for what in ("pack", "pack", "read", "read")
    ]
    started = [subprocess.Popen(command, cwd=CHECKOUT, **pipes) for command in commands]
    assert [p.stdout.readline() for p in started] == ["ready\n"] * 4
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [p.communicate(timeout=60) for p in started]
    assert [p.returncode for p in started] == [0] * 4, said
    assert all(int(out) > 0 for out, _ in said[2:])
    check(tmp_path, values)
    assert not Group(tmp_path).loose() and not list(tmp_path.rglob(".tmp-*"))


# killed --------------------------------------------------------------------------------------------------------------

#: Kills a process at the k-th time that it opens, renames or removes something, for every k until it ends by itself; after each
#: kill, somebody else looks whether everything is there.
KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
from rs_embed.store.groups import Group
from tests.store.test_packs import check, fill, files, some

what, root = sys.argv[1], Path(sys.argv[2])
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir", "os.scandir"}

def work(folder):
    group, names = Group(folder), list(some(6))
    if what == "pack":
        group.pack(names)
    elif what == "unpack":
        group.unpack()
    elif what == "remove":
        group.remove(names[:2])
    else:
        group.set_aside(names[0])

def prepared(folder):
    group, values = Group(folder), some(6)
    fill(group, values)
    if what == "pack":  # half of it was packed before, and not all of that was deleted
        group.pack(list(values)[:3])
        fill(group, {n: values[n] for n in list(values)[2:3]})
    else:
        group.pack(values)
    if what == "set aside":
        (path,) = group.packs.iterdir()
        data = bytearray(path.read_bytes())
        data[130] ^= 1
        path.write_bytes(data)

moments = 0
while True:
    folder = root / str(moments)
    folder.mkdir(parents=True)
    prepared(folder)
    child = os.fork()
    if child == 0:
        left = moments
        def kill(event, arguments):
            global left
            if event in EVENTS:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        sys.addaudithook(kill)
        work(folder)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    good = dict(list(some(6).items())[{"remove": 2, "set aside": 1}.get(what, 0):])
    check(folder, good)
    work(folder)  # the next one does the rest
    check(folder, good)
    group = Group(folder)
    assert what != "pack" or not group.loose(), group.loose()
    assert what != "unpack" or group.loose() == set(good)
    assert what not in ("remove", "set aside") or not any(map(group.has, list(some(6))[: 6 - len(good)]))
    moments += 1
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
print(json.dumps(moments))
"""


@pytest.mark.parametrize("what", ["pack", "unpack", "remove", "set aside"])
def test_killed_at_any_moment_nothing_is_lost(tmp_path, what):
    said = subprocess.run(
        [sys.executable, "-c", KILLED, what, str(tmp_path)], cwd=CHECKOUT, capture_output=True, text=True, timeout=120
    )
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) > 8, "so many moments"
    assert python(f"""
from rs_embed.store.store import clean
clean({str(tmp_path)!r}, below=True)
""", CHECKOUT).returncode == 0  # fmt: skip
    assert not list(tmp_path.rglob(".tmp-*")), "what was half written is cleared away as everything is"


# damage --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
def test_a_damaged_object_goes_and_the_others_stay(tmp_path, count):
    group, values = Group(tmp_path), some(count)
    written = fill(group, values)
    group.pack(values)
    (path,) = group.packs.iterdir()
    data = bytearray(path.read_bytes())
    data[100] ^= 1  # in the first object
    path.write_bytes(data)
    first, *rest = values
    aside = group.path(first).with_name(f"{first}.npy.damaged")
    assert group.set_aside(first) == [aside]
    assert aside.read_bytes() == bytes(data[: len(written[first])])
    assert group.set_aside(first) == [], "another thread was faster"
    check(tmp_path, {n: values[n] for n in rest})
    assert not group.has(first) and not path.exists()
    assert len(list(tmp_path.rglob("*.pack"))) == (count > 1)
    fill(group, {first: values[first]})
    group.pack(values)
    check(tmp_path, values)


def test_a_pack_with_a_broken_index_holds_nothing_and_is_out_of_the_way_at_the_next_packing(tmp_path):
    group, values = Group(tmp_path), some(4)
    fill(group, values)
    group.pack(values)
    (path,) = group.packs.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    reader = Group(tmp_path)
    assert not any(map(reader.has, values)) and reader.broken() == [path]
    for known in (reader, group):  # somebody read it while it was whole
        known.remove(list(values)[:1])
        assert known.unpack() == 0 and path.exists()
    fill(group, values)
    reader.pack(values)
    assert path.exists() and path.with_name(f"{path.name}.damaged").exists(), "the same objects make the same pack"
    check(tmp_path, values)


def test_a_store_has_one_group_for_a_folder(tmp_path):
    store = Store(tmp_path)
    assert store.embeddings("u") is store.embeddings("u") is store.group(tmp_path / "embeddings" / "u")
    assert store.chips("s", ("B2", "B3")) is store.chips("s", ("B3", "B2")) is not store.chips("s", ("B2",))


# several processes ---------------------------------------------------------------------------------------------------


def test_a_pack_that_was_made_anew_is_not_taken_for_the_broken_one(tmp_path):
    group, late = Group(tmp_path), Group(tmp_path)
    fill(group, some(4))
    group.pack(some(4))
    (pack,) = group.packs.glob("*.pack")
    data = pack.read_bytes()
    pack.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    name = next(iter(some(4)))
    assert not late.has(name) and late.broken() == [pack]
    again = Group(tmp_path)
    fill(again, some(4))
    again.pack(some(4))  # sets the broken one aside; the same content has the same name
    assert pack.read_bytes() == data
    assert late.has(name) and late.broken() == []
    fill(late, some(2, start=9))
    late.pack(some(2, start=9))
    check(tmp_path, some(4) | some(2, start=9))


def test_an_older_copy_that_another_packer_replaces_at_this_moment_is_nobodys_error(tmp_path, monkeypatch):
    group, (first, second) = Group(tmp_path), some(2)
    fill(group, {first: [7.0], second: some(2)[second]})
    group.pack([first, second])
    fill(group, {first: some(2)[first]})
    real, seen = Group._others, []

    def replaced(self, file, *more):
        if not seen:  # listed, and gone when it is opened: another packer's pack has what it had
            seen.append(file)
            data = (self.packs / file).read_bytes()
            (self.packs / file).unlink()
            try:
                return real(self, file, *more)
            finally:
                (self.packs / file).write_bytes(data)
        return real(self, file, *more)

    monkeypatch.setattr(Group, "_others", replaced)
    assert group.pack([first]).objects == 1 and seen
    check(tmp_path, some(2))


def test_two_packers_that_replace_an_older_copy_leave_each_other_the_new_one(tmp_path, monkeypatch):
    old, new, other = Group(tmp_path), Group(tmp_path), Group(tmp_path)
    (first, second) = some(2)
    fill(old, {first: [7.0]})
    old.pack([first])
    fill(new, some(2))  # a second run had fetched it, too: other bytes
    written = threading.Barrier(2)
    write = packs.write

    def both(folder, objects):
        made = write(folder, objects)
        written.wait(10)  # nobody goes on before both packs are there
        return made

    monkeypatch.setattr(packs, "write", both)
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(new.pack, [first]), pool.submit(other.pack, [first, second])]
        [job.result() for job in done]
    check(tmp_path, some(2))
