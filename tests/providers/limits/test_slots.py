"""What jobs of a run may have in flight together: slots, between threads and processes that end, die, or look for one."""

from __future__ import annotations

import fcntl
import shutil
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

from rs_embed.providers.limits import quota as module
from rs_embed.providers.limits import slots as turns_module
from rs_embed.providers.limits.quota import Quota
from rs_embed.providers.limits.slots import Turns

from ...support.slot_holders import Thread, counted, holder, process, until

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's list of sockets")


def test_the_threads_of_two_jobs_share_the_slots_and_all_of_them_come_in(tmp_path):
    inside, most, entered, lock = [0], [0], Counter(), threading.Lock()
    jobs = [Turns(Quota(tmp_path, 3, 1e6), workers) for workers in (2, 4)]

    def work(which: int) -> None:
        for _ in range(10):
            with jobs[which]:
                with lock:
                    inside[0] += 1
                    most[0] = max(most[0], inside[0])
                    entered[which] += 1
                time.sleep(0.002)
                with lock:
                    inside[0] -= 1

    threads = [threading.Thread(target=work, args=(i % 2,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (most[0], entered) == (3, {0: 60, 1: 60})
    other = Quota(tmp_path, 3, 1e6)
    assert other.take("front"), "and give everything back"
    assert [other.free() for _ in range(4)].count(None) == 1


WORK = """
import os, random, sys, time
from concurrent.futures import ThreadPoolExecutor
from rs_embed.providers.limits.quota import Quota
from rs_embed.providers.limits.slots import Turns
turns, ledger = Turns(Quota(sys.argv[1], 3, 1e6), 2), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
def work(_):
    with turns:
        began = time.monotonic()  # of the machine
        time.sleep(random.random() * 0.01)
        os.write(ledger, f"{began} {time.monotonic()}\\n".encode())
with ThreadPoolExecutor(4) as pool:
    list(pool.map(work, range(int(sys.argv[3]))))
"""


def test_processes_are_never_more_inside_than_there_are_slots_and_one_that_is_killed_gives_its_slots_back(tmp_path):
    ledger = tmp_path / "ledger"
    ledger.touch()
    with (
        process(WORK, tmp_path / "q", ledger, 100_000) as killed,
        process(WORK, tmp_path / "q", ledger, 60) as one,
        process(WORK, tmp_path / "q", ledger, 60) as two,
    ):
        until(lambda: len(ledger.read_text().splitlines()) > 20)
        killed.kill()
        assert one.wait(60) == two.wait(60) == 0
    times = [tuple(map(float, line.split())) for line in ledger.read_text().splitlines()]
    inside = most = 0
    for _, change in sorted([(began, 1) for began, _ in times] + [(ended, -1) for _, ended in times]):
        inside += change
        most = max(most, inside)
    assert most == 3
    other = Quota(tmp_path / "q", 3, 1e6)
    assert [other.free() for _ in range(4)].count(None) == 1


def test_slots_are_free_again_when_their_holder_is_gone(tmp_path):
    quota = Quota(tmp_path, 1, 100.0)
    with holder(tmp_path, 1) as child:
        assert quota.free() is None
        waiting = Thread(Turns(Quota(tmp_path, 1, 100.0), 1))
        child.kill()
        assert waiting.inside.wait(30), "who waits already comes in, too"
    assert quota.free() is None
    waiting.end()
    with Turns(quota, 3):
        assert quota.free() is None
    assert quota.free() is not None


def test_a_starved_job_looks_seldom_by_one_thread_and_opens_no_file_twice(tmp_path, monkeypatch):
    other = Quota(tmp_path, 40, 1e6)
    slots = [other.free() for _ in range(40)]
    turns = Turns(Quota(tmp_path, 40, 1e6), 16)
    calls = counted(monkeypatch)
    threads = [Thread(turns) for _ in range(16)]
    time.sleep(2)
    found = Counter(calls)
    assert found["open"] <= 41, "40 slots, and the place in the queue: 107,000 where each thread opened them"
    assert 41 <= found["flock"] <= 41 * 30, "a dozen looks"
    assert len([c for c in found if isinstance(c, Thread)]) == 1
    assert found["blocking"] == 0
    assert not any(t.inside.is_set() for t in threads)
    other.give(slots[0])
    for _ in range(16):  # the one slot goes from thread to thread
        until(lambda: sum(t.inside.is_set() for t in threads) == 1)
        (inside,) = (t for t in threads if t.inside.is_set())
        inside.end()
        threads.remove(inside)
        if not threads:
            break
    assert calls["open"] == found["open"]
    assert other.free() == slots[0]


def test_who_ends_does_not_wait_for_one_who_looks(tmp_path, monkeypatch):
    """On a network's file system a look takes its time, or for ever."""
    with holder(tmp_path, 2):
        turns = Turns(Quota(tmp_path, 2, 1e6), 3)
        first = Thread(turns)
        assert first.inside.wait(30)
        reached, go, real = threading.Event(), threading.Event(), fcntl.flock

        def stuck(file, kind):
            if kind & fcntl.LOCK_NB:
                reached.set()
                go.wait()
            return real(file, kind)

        monkeypatch.setattr(fcntl, "flock", stuck)
        try:
            others = [Thread(turns), Thread(turns)]
            assert reached.wait(30)
            first.end()
            until(lambda: any(t.inside.is_set() for t in others))
        finally:
            go.set()
        for thread in sorted(others, key=lambda t: not t.inside.is_set()):
            assert thread.inside.wait(30)
            thread.end()


def never_again(monkeypatch) -> None:
    """Who has found nothing looks again only if somebody wakes him."""
    monkeypatch.setattr(turns_module, "_LOOK_S", (1000.0, 1000.0))


def listens(quota: Quota, what: str) -> bool:
    return f"@{quota.address(what).decode()[1:]}\n" in Path("/proc/net/unix").read_text()


def test_a_returned_slot_wakes_a_thread_of_the_job_at_once(tmp_path, monkeypatch):
    never_again(monkeypatch)
    turns = Turns(Quota(tmp_path, 1, 1e6), 4)
    before = Thread(turns)
    assert before.inside.wait(30)
    waiting = [Thread(turns) for _ in range(3)]
    until(lambda: turns._waiting == 3 and turns._looking)
    while waiting:
        before.end()
        until(lambda: sum(t.inside.is_set() for t in waiting) == 1)
        (before,) = (t for t in waiting if t.inside.is_set())
        waiting.remove(before)
    before.end()
    assert Quota(tmp_path, 1, 1e6).free()


@linux
def test_a_returned_slot_wakes_the_next_job_of_the_machine_at_once(tmp_path, monkeypatch):
    never_again(monkeypatch)
    quota = Quota(tmp_path, 1, 1e6)
    with holder(tmp_path, 1) as child:
        first = Thread(Turns(Quota(tmp_path, 1, 1e6), 1))
        until(lambda: listens(quota, "slot"))
        second = Thread(Turns(Quota(tmp_path, 1, 1e6), 1))
        until(lambda: listens(quota, "front"))
        child.stdin.close()
        assert first.inside.wait(30)
        until(lambda: listens(quota, "slot"))  # the second is now the first of those who want a slot
        assert not listens(quota, "front") and not second.inside.is_set()
        first.end()
        assert second.inside.wait(30)
        second.end()
    assert not listens(quota, "slot")


def test_a_child_that_lives_on_holds_no_slot_and_takes_its_own(tmp_path):
    code = """
import os, sys, time
from rs_embed.providers.limits.quota import Quota
from rs_embed.providers.limits.slots import Turns
quota = Quota(sys.argv[1], 2, 1e6)
quota.free()
if os.fork():
    time.sleep(60)
print(quota.free(), quota.free(), flush=True)
sys.stdin.readline()
"""
    quota = Quota(tmp_path, 2, 1e6)
    with process(code, tmp_path) as parent:
        own, none = parent.stdout.readline().split()
        assert own.startswith("slot-") and none == "None", "its parent has the other"
        assert quota.free() is None
        parent.kill()
        parent.wait()
        until(lambda: (slot := quota.free()) is not None and slot != own)
        assert quota.free() is None, "the child lives"
        parent.stdin.close()
        until(quota.free)


def test_a_folder_that_is_cleaned_away_is_made_again_for_all(tmp_path):
    one, two = (Quota(tmp_path / "q", 1, 1e6) for _ in range(2))
    one.give(one.free())
    two.give(two.free())
    shutil.rmtree(tmp_path / "q")
    assert (one.free(), two.free()) == ("slot-000", None)


def test_more_slots_than_files_may_be_open(tmp_path):
    quota, other = Quota(tmp_path, 300, 1e6), Quota(tmp_path, 300, 1e6)
    slots = [quota.free() for _ in range(300)]
    assert len(set(slots)) == 300 and quota.free() is other.free() is None
    assert len(other._files) == module._KEPT
    for slot in slots:
        quota.give(slot)
    assert len(quota._files) == module._KEPT
    assert other.free() is not None
