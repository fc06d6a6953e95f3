"""Packs that several processes read and write, or that a killed process has left."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rs_embed.store import packs
from rs_embed.store.groups import Group

from ..support.exports import CHECKOUT, python
from ..support.stored_groups import check_objects, make_values, write_loose

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
        assert group.read_metadata(name)
    rounds += 1
print(rounds)
"""


def test_two_packers_and_readers_at_once(tmp_path):
    values = make_values(150)
    write_loose(Group(tmp_path), values)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    commands = [
        [sys.executable, "-c", SEVERAL, what, str(tmp_path), *values] for what in ("pack", "pack", "read", "read")
    ]
    started = [subprocess.Popen(command, cwd=CHECKOUT, **pipes) for command in commands]
    assert [p.stdout.readline() for p in started] == ["ready\n"] * 4
    for process in started:
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [p.communicate(timeout=60) for p in started]
    assert [p.returncode for p in started] == [0] * 4, outputs
    assert all(int(out) > 0 for out, _ in outputs[2:])
    check_objects(tmp_path, values)
    assert not Group(tmp_path).loose_names() and not list(tmp_path.rglob(".tmp-*"))


# killed ------------------------------------------------------------------------------------------

#: Kills a process when it opens, renames or removes something for the k-th time, for every k until
#: it ends by itself; after each kill, a new reader checks all objects.
KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
from rs_embed.store.groups import Group
from tests.support.stored_groups import check_objects, make_values, write_loose

what, root = sys.argv[1], Path(sys.argv[2])
EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.listdir", "os.scandir"}

def work(folder):
    group, names = Group(folder), list(make_values(6))
    if what == "pack":
        group.pack(names)
    elif what == "unpack":
        group.unpack()
    elif what == "remove":
        group.remove(names[:2])
    else:
        group.set_aside(names[0])

def prepare(folder):
    group, values = Group(folder), make_values(6)
    write_loose(group, values)
    if what == "pack":  # half of it was packed before, and not all of that was deleted
        group.pack(list(values)[:3])
        write_loose(group, {n: values[n] for n in list(values)[2:3]})
    else:
        group.pack(values)
    if what == "set aside":
        (path,) = group.packs_folder.iterdir()
        data = bytearray(path.read_bytes())
        data[130] ^= 1
        path.write_bytes(data)

moments = 0
while True:
    folder = root / str(moments)
    folder.mkdir(parents=True)
    prepare(folder)
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
    good = dict(list(make_values(6).items())[{"remove": 2, "set aside": 1}.get(what, 0):])
    check_objects(folder, good)
    work(folder)  # another process completes it
    check_objects(folder, good)
    group = Group(folder)
    assert what != "pack" or not group.loose_names(), group.loose_names()
    assert what != "unpack" or group.loose_names() == set(good)
    assert what not in ("remove", "set aside") or not any(map(group.has, list(make_values(6))[: 6 - len(good)]))
    moments += 1
    if status == 0:
        break
    assert os.WTERMSIG(status) == signal.SIGKILL
print(json.dumps(moments))
"""


@pytest.mark.parametrize("what", ["pack", "unpack", "remove", "set aside"])
def test_no_object_is_lost_by_a_kill_at_any_time(tmp_path, what):
    done = subprocess.run(
        [sys.executable, "-c", KILLED, what, str(tmp_path)], cwd=CHECKOUT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) > 8, "number of kills"
    assert python(f"""
from rs_embed.store.atomic_files import remove_temporary_files
remove_temporary_files({str(tmp_path)!r}, below=True)
""", CHECKOUT).returncode == 0  # fmt: skip
    assert not list(tmp_path.rglob(".tmp-*")), "temporary files are removed as usual"


def test_a_pack_that_was_written_again_is_not_taken_for_the_broken_one(tmp_path):
    group, late = Group(tmp_path), Group(tmp_path)
    write_loose(group, make_values(4))
    group.pack(make_values(4))
    (pack,) = group.packs_folder.glob("*.pack")
    data = pack.read_bytes()
    pack.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    name = next(iter(make_values(4)))
    assert not late.has(name) and late.broken_packs() == [pack]
    again = Group(tmp_path)
    write_loose(again, make_values(4))
    again.pack(make_values(4))  # sets the broken one aside; the same content has the same name
    assert pack.read_bytes() == data
    assert late.has(name) and late.broken_packs() == []
    write_loose(late, make_values(2, start=9))
    late.pack(make_values(2, start=9))
    check_objects(tmp_path, make_values(4) | make_values(2, start=9))


def test_an_older_pack_that_another_packer_replaces_meanwhile_is_no_error(tmp_path, monkeypatch):
    group, (first, second) = Group(tmp_path), make_values(2)
    write_loose(group, {first: [7.0], second: make_values(2)[second]})
    group.pack([first, second])
    write_loose(group, {first: make_values(2)[first]})
    real, seen = Group._names_that_differ, []

    def replaced(self, file, *more):
        if not seen:  # listed, but deleted before it is opened: another pack has its objects
            seen.append(file)
            data = (self.packs_folder / file).read_bytes()
            (self.packs_folder / file).unlink()
            try:
                return real(self, file, *more)
            finally:
                (self.packs_folder / file).write_bytes(data)
        return real(self, file, *more)

    monkeypatch.setattr(Group, "_names_that_differ", replaced)
    assert group.pack([first]).objects == 1 and seen
    check_objects(tmp_path, make_values(2))


def test_two_packers_that_replace_an_older_copy_keep_the_new_one(tmp_path, monkeypatch):
    old, new, other = Group(tmp_path), Group(tmp_path), Group(tmp_path)
    (first, second) = make_values(2)
    write_loose(old, {first: [7.0]})
    old.pack([first])
    write_loose(new, make_values(2))  # a second run has fetched it, too: other bytes
    written = threading.Barrier(2)
    write = packs.write_pack

    def both(folder, objects):
        made = write(folder, objects)
        written.wait(10)  # both packs exist before either continues
        return made

    monkeypatch.setattr(packs, "write_pack", both)
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(new.pack, [first]), pool.submit(other.pack, [first, second])]
        [job.result() for job in done]
    check_objects(tmp_path, make_values(2))
