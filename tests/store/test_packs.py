"""Packs and groups, in one process: every object is found, and every changed byte is detected."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rs_embed import StoreError
from rs_embed.store import packs
from rs_embed.store.groups import Group
from rs_embed.store.store import Store

from ..support.factories import PROPERTY
from ..support.stored_groups import check_objects, list_files, make_values, write_loose

NAMES = st.binary(min_size=16, max_size=16).map(bytes.hex)


# the format --------------------------------------------------------------------------------------


@settings(PROPERTY, max_examples=60)
@given(
    values=st.dictionaries(NAMES, st.lists(st.floats(0, 1), max_size=4), max_size=30),
    others=st.lists(NAMES, max_size=5),
    data=st.data(),
)
def test_objects_are_found_loose_and_in_packs(tmp_path_factory, values, others, data):
    folder = tmp_path_factory.mktemp("g")
    group = Group(folder)
    written, left = write_loose(group, values), list(values)
    while left and data.draw(st.booleans()):
        chosen = data.draw(st.lists(st.sampled_from(left), unique=True, min_size=1))
        done = group.pack(chosen)
        assert (done.objects, done.packs, done.damaged) == (len(chosen), 1, [])
        left = [n for n in left if n not in chosen]
    assert group.loose_names() == set(left)
    for reader in (group, Group(folder)):
        for name, bytes_ in written.items():
            assert reader.has(name) and reader._read_bytes(name)[0] == bytes_
            assert reader.read_metadata(name).size == len(bytes_)
        for name in set(others) - set(values):
            assert not reader.has(name) and reader.read_metadata(name) is None
            with pytest.raises(FileNotFoundError):
                reader.read(name)
    assert group.unpack() == len(values) - len(left)
    assert {n: group.path(n).read_bytes() for n in values} == written
    assert not group.packs_folder.exists()


@settings(PROPERTY, max_examples=60)
@given(steps=st.lists(st.tuples(st.booleans(), st.sets(st.integers(0, 300), min_size=1, max_size=20)), max_size=12))
def test_an_index_has_the_objects_of_the_existing_packs(tmp_path_factory, steps):
    """For any sequence of written and deleted packs, with objects in several of them."""
    folder = tmp_path_factory.mktemp("p")
    known, there = packs.PackIndex(), {}
    for add, numbers in steps:
        if add:
            objects = {f"{n:032x}": os.urandom(40) for n in numbers}
            there[packs.write_pack(folder, objects.items()).name] = objects
        elif there:
            gone = sorted(there)[min(numbers) % len(there)]
            (folder / gone).unlink()
            del there[gone]
        known = known.updated(folder, packs.list_packs(folder))
        assert set(known.files) == set(there) and not known.broken
        assert len(known._entries) + len(known._packs) == 36 * sum(map(len, there.values()))
        for number in range(301):
            name = f"{number:032x}"
            holders = [file for file, objects in there.items() if name in objects]
            found = known.find(name)
            assert bool(holders) == bool(found)
            if found:
                file, entry = found
                assert packs.read_bytes(folder / file, entry.offset, entry.size) == there[file][name]


def test_every_changed_byte_and_every_truncation_of_a_pack_is_detected(tmp_path):
    values = make_values(3)
    group = Group(tmp_path)
    write_loose(group, values)
    group.pack(values)
    (path,) = group.packs_folder.iterdir()
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
        assert bool(reader.broken_packs()) == bool(lost)
        path.write_bytes(good[:i])
        with pytest.raises(StoreError, match="damaged pack"):
            packs.read_index(path)
        assert not any(map(Group(tmp_path).has, values))


def test_a_pack_has_the_documented_format(tmp_path):
    """Reads it without code of this package."""
    values = make_values(5)
    group = Group(tmp_path)
    written = write_loose(group, values)
    group.pack(reversed(values))
    (path,) = group.packs_folder.iterdir()
    data = path.read_bytes()
    count = int.from_bytes(data[-48:-40], "little")
    index = np.frombuffer(data[-48 - 32 * count : -48], [("name", "V16"), ("offset", "<u8"), ("size", "<u8")])
    assert [bytes(n).hex() for n in index["name"]] == sorted(values)
    assert {bytes(r["name"]).hex(): data[r["offset"] : r["offset"] + r["size"]] for r in index} == written
    assert data.startswith(written[list(values)[-1]]), "in the given order"


def test_damaged_objects_are_not_packed(tmp_path):
    values = make_values(4)
    group = Group(tmp_path)
    write_loose(group, values)
    first = next(iter(values))
    group.path(first).write_bytes(b"cut short")
    done = group.pack([*values, "ab" * 16])
    assert (done.objects, done.damaged) == (3, [group.path(first)])
    with pytest.raises(StoreError, match="damaged object"):
        group.read(first)
    assert group.pack(values).packs == 0 and list_files(tmp_path) == sorted(
        [f"packs/{p.name}" for p in group.packs_folder.iterdir()] + [str(group.path(first).relative_to(tmp_path))]
    )


def test_a_full_disk_leaves_everything_loose(tmp_path, monkeypatch):
    values = make_values(4)
    group = Group(tmp_path)
    write_loose(group, values)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match=r"packs cannot be written \(No space left"):
            group.pack(values)
    check_objects(tmp_path, values)
    assert group.loose_names() == set(values) and not list(group.packs_folder.iterdir())
    assert group.pack(values).objects == 4
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StoreError):
            group.remove(list(values)[:1])
    check_objects(tmp_path, values)


def test_a_loose_object_is_deleted_after_its_bytes_were_read_from_the_pack(tmp_path, monkeypatch):
    values = make_values(4)
    group = Group(tmp_path)
    write_loose(group, values)
    real = packs.write_pack

    def failing_disk(folder, objects):
        path = real(folder, objects)
        data = bytearray(path.read_bytes())
        data[130] ^= 1  # in the first object
        path.write_bytes(data)
        return path

    with monkeypatch.context() as patched:
        patched.setattr(packs, "write_pack", failing_disk)
        assert group.pack(values).objects == 3
    first = next(iter(values))
    assert group.loose_names() == {first}
    check_objects(tmp_path, values)
    assert group.pack(values).objects == 1, "the damaged copy is replaced"
    check_objects(tmp_path, values)
    assert not group.loose_names()


# readers, while objects move ---------------------------------------------------------------------


def test_a_reader_with_an_older_index_finds_moved_objects(tmp_path):
    reader, mover, values = Group(tmp_path), Group(tmp_path), make_values(12)
    write_loose(mover, values)
    names = list(values)
    for start in range(0, 12, 2):  # within the resolution of modification times
        assert all(map(reader.has, values))
        mover.pack(names[start : start + 2])
        assert reader.has(names[start]) and reader.read(names[start + 1]) and reader.read_metadata(names[start])
    assert not reader.has("ab" * 16)
    mover.remove(names[:1])
    assert not reader.has(names[0]) or reader.read_metadata(names[0]) is None
    assert reader.read(names[1]).array.tolist() == values[names[1]], "its pack was replaced"
    mover.unpack()
    assert all(reader.read(n).array.tolist() == values[n] for n in names[1:])


def test_a_folder_may_change_without_a_new_modification_time(tmp_path):
    reader, mover, values = Group(tmp_path), Group(tmp_path), make_values(2)
    write_loose(mover, values)
    first, second = values
    mover.pack([first])
    assert not reader.has("ab" * 16)
    before = os.stat(mover.packs_folder).st_mtime_ns
    mover.pack([second])
    os.utime(mover.packs_folder, ns=(before, before))
    assert reader.has(second)


def test_a_loose_object_has_priority_and_replaces_the_packed_one(tmp_path):
    group, values = Group(tmp_path), make_values(3)
    write_loose(group, values)
    group.pack(values)
    name = next(iter(values))
    write_loose(group, {name: [7, 7]})
    assert group.read(name).array.tolist() == [7, 7]
    assert group.pack(values).objects == 1
    check_objects(tmp_path, values | {name: [7, 7]})
    assert not group.loose_names()


def test_a_copy_that_a_killed_packer_left_is_deleted(tmp_path):
    group, values = Group(tmp_path), make_values(3)
    written = write_loose(group, values)
    group.pack(values)
    before = list_files(tmp_path)
    for name, data in written.items():
        group.path(name).parent.mkdir(exist_ok=True)
        group.path(name).write_bytes(data)
    done = group.pack(values)
    assert (done.objects, done.packs) == (3, 0) and list_files(tmp_path) == before


# damage ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5])
def test_a_damaged_object_is_set_aside_and_the_others_stay(tmp_path, count):
    group, values = Group(tmp_path), make_values(count)
    written = write_loose(group, values)
    group.pack(values)
    (path,) = group.packs_folder.iterdir()
    data = bytearray(path.read_bytes())
    data[100] ^= 1  # in the first object
    path.write_bytes(data)
    first, *rest = values
    aside = group.path(first).with_name(f"{first}.npy.damaged")
    assert group.set_aside(first) == [aside]
    assert aside.read_bytes() == bytes(data[: len(written[first])])
    assert group.set_aside(first) == [], "another thread was faster"
    check_objects(tmp_path, {n: values[n] for n in rest})
    assert not group.has(first) and not path.exists()
    assert len(list(tmp_path.rglob("*.pack"))) == (count > 1)
    write_loose(group, {first: values[first]})
    group.pack(values)
    check_objects(tmp_path, values)


def test_a_pack_with_a_broken_index_is_empty_and_set_aside_by_the_next_packing(tmp_path):
    group, values = Group(tmp_path), make_values(4)
    write_loose(group, values)
    group.pack(values)
    (path,) = group.packs_folder.iterdir()
    path.write_bytes(path.read_bytes()[:-10])
    reader = Group(tmp_path)
    assert not any(map(reader.has, values)) and reader.broken_packs() == [path]
    for known in (reader, group):  # one of them read it before the damage
        known.remove(list(values)[:1])
        assert known.unpack() == 0 and path.exists()
    write_loose(group, values)
    reader.pack(values)
    assert path.exists() and path.with_name(f"{path.name}.damaged").exists(), "the same objects make the same pack"
    check_objects(tmp_path, values)


def test_a_store_has_one_group_for_a_folder(tmp_path):
    store = Store(tmp_path)
    assert store.embedding_group("u") is store.embedding_group("u") is store.group(tmp_path / "embeddings" / "u")
    assert (
        store.chip_group("s", ("B2", "B3")) is store.chip_group("s", ("B3", "B2")) is not store.chip_group("s", ("B2",))
    )
