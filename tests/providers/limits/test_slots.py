"""Slots of the requests in flight: between threads and processes that end, are killed, or wait for
a slot."""

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
from rs_embed.providers.limits import slots as slots_module
from rs_embed.providers.limits.quota import Quota
from rs_embed.providers.limits.slots import RequestSlots

from ...support.slot_holders import SlotThread, count_calls, hold_slot, run_code, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's list of sockets")


def test_threads_of_two_jobs_share_the_slots_and_all_of_them_enter(tmp_path):
    inside, most, entered, lock = [0], [0], Counter(), threading.Lock()
    jobs = [RequestSlots(Quota(tmp_path, 3, 1e6), workers) for workers in (2, 4)]

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
    assert other.try_lock("front"), "and everything is released"
    assert [other.try_lock_slot() for _ in range(4)].count(None) == 1


WORK = """
import os, random, sys, time
from concurrent.futures import ThreadPoolExecutor
from rs_embed.providers.limits.quota import Quota
from rs_embed.providers.limits.slots import RequestSlots
slots, ledger = RequestSlots(Quota(sys.argv[1], 3, 1e6), 2), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND)
def work(_):
    with slots:
        began = time.monotonic()  # of the machine
        time.sleep(random.random() * 0.01)
        os.write(ledger, f"{began} {time.monotonic()}\\n".encode())
with ThreadPoolExecutor(4) as pool:
    list(pool.map(work, range(int(sys.argv[3]))))
"""


def test_processes_use_no_more_slots_than_exist_and_a_killed_one_releases_its_slots(tmp_path):
    ledger = tmp_path / "ledger"
    ledger.touch()
    with (
        run_code(WORK, tmp_path / "q", ledger, 100_000) as killed,
        run_code(WORK, tmp_path / "q", ledger, 60) as one,
        run_code(WORK, tmp_path / "q", ledger, 60) as two,
    ):
        wait_until(lambda: len(ledger.read_text().splitlines()) > 20)
        killed.kill()
        assert one.wait(60) == two.wait(60) == 0
    times = [tuple(map(float, line.split())) for line in ledger.read_text().splitlines()]
    inside = most = 0
    for _, change in sorted([(began, 1) for began, _ in times] + [(ended, -1) for _, ended in times]):
        inside += change
        most = max(most, inside)
    assert most == 3
    other = Quota(tmp_path / "q", 3, 1e6)
    assert [other.try_lock_slot() for _ in range(4)].count(None) == 1


def test_slots_are_released_when_their_holder_is_killed(tmp_path):
    quota = Quota(tmp_path, 1, 100.0)
    with hold_slot(tmp_path, 1) as child:
        assert quota.try_lock_slot() is None
        waiting = SlotThread(RequestSlots(Quota(tmp_path, 1, 100.0), 1))
        child.kill()
        assert waiting.inside.wait(30), "a thread that waits already enters, too"
    assert quota.try_lock_slot() is None
    waiting.end()
    with RequestSlots(quota, 3):
        assert quota.try_lock_slot() is None
    assert quota.try_lock_slot() is not None


def test_a_job_without_slots_polls_seldom_in_one_thread_and_opens_no_file_twice(tmp_path, monkeypatch):
    other = Quota(tmp_path, 40, 1e6)
    locked = [other.try_lock_slot() for _ in range(40)]
    slots = RequestSlots(Quota(tmp_path, 40, 1e6), 16)
    calls = count_calls(monkeypatch)
    threads = [SlotThread(slots) for _ in range(16)]
    time.sleep(2)
    found = Counter(calls)
    assert found["open"] <= 41, "40 slots, and the head of the queue: 107,000 where each thread opened them"
    assert 41 <= found["flock"] <= 41 * 30, "a dozen polls"
    assert len([c for c in found if isinstance(c, SlotThread)]) == 1
    assert found["blocking"] == 0
    assert not any(t.inside.is_set() for t in threads)
    other.release(locked[0])
    for _ in range(16):  # the one slot goes from thread to thread
        wait_until(lambda: sum(t.inside.is_set() for t in threads) == 1)
        (inside,) = (t for t in threads if t.inside.is_set())
        inside.end()
        threads.remove(inside)
        if not threads:
            break
    assert calls["open"] == found["open"]
    assert other.try_lock_slot() == locked[0]


def test_a_thread_that_leaves_does_not_wait_for_the_polling_thread(tmp_path, monkeypatch):
    """On a network file system a poll can take very long."""
    with hold_slot(tmp_path, 2):
        slots = RequestSlots(Quota(tmp_path, 2, 1e6), 3)
        first = SlotThread(slots)
        assert first.inside.wait(30)
        reached, go, real = threading.Event(), threading.Event(), fcntl.flock

        def stuck(file, kind):
            if kind & fcntl.LOCK_NB:
                reached.set()
                go.wait()
            return real(file, kind)

        monkeypatch.setattr(fcntl, "flock", stuck)
        try:
            others = [SlotThread(slots), SlotThread(slots)]
            assert reached.wait(30)
            first.end()
            wait_until(lambda: any(t.inside.is_set() for t in others))
        finally:
            go.set()
        for thread in sorted(others, key=lambda t: not t.inside.is_set()):
            assert thread.inside.wait(30)
            thread.end()


def poll_never(monkeypatch) -> None:
    """After an attempt without success, a thread polls again only when it is woken."""
    monkeypatch.setattr(slots_module, "_POLL_S", (1000.0, 1000.0))


def is_listening(quota: Quota, what: str) -> bool:
    return f"@{quota.wakeup_address(what).decode()[1:]}\n" in Path("/proc/net/unix").read_text()


def test_a_returned_slot_wakes_a_thread_of_the_job_at_once(tmp_path, monkeypatch):
    poll_never(monkeypatch)
    slots = RequestSlots(Quota(tmp_path, 1, 1e6), 4)
    before = SlotThread(slots)
    assert before.inside.wait(30)
    waiting = [SlotThread(slots) for _ in range(3)]
    wait_until(lambda: slots._waiting == 3 and slots._polling)
    while waiting:
        before.end()
        wait_until(lambda: sum(t.inside.is_set() for t in waiting) == 1)
        (before,) = (t for t in waiting if t.inside.is_set())
        waiting.remove(before)
    before.end()
    assert Quota(tmp_path, 1, 1e6).try_lock_slot()


@linux
def test_a_returned_slot_wakes_the_next_job_of_the_machine_at_once(tmp_path, monkeypatch):
    poll_never(monkeypatch)
    quota = Quota(tmp_path, 1, 1e6)
    with hold_slot(tmp_path, 1) as child:
        first = SlotThread(RequestSlots(Quota(tmp_path, 1, 1e6), 1))
        wait_until(lambda: is_listening(quota, "slot"))
        second = SlotThread(RequestSlots(Quota(tmp_path, 1, 1e6), 1))
        wait_until(lambda: is_listening(quota, "front"))
        child.stdin.close()
        assert first.inside.wait(30)
        wait_until(lambda: is_listening(quota, "slot"))  # of the second job
        assert not is_listening(quota, "front") and not second.inside.is_set()
        first.end()
        assert second.inside.wait(30)
        second.end()
    assert not is_listening(quota, "slot")


def test_a_child_that_survives_its_parent_holds_only_its_own_slot(tmp_path):
    code = """
import os, sys, time
from rs_embed.providers.limits.quota import Quota
from rs_embed.providers.limits.slots import RequestSlots
quota = Quota(sys.argv[1], 2, 1e6)
quota.try_lock_slot()
if os.fork():
    time.sleep(60)
print(quota.try_lock_slot(), quota.try_lock_slot(), flush=True)
sys.stdin.readline()
"""
    quota = Quota(tmp_path, 2, 1e6)
    with run_code(code, tmp_path) as parent:
        own, none = parent.stdout.readline().split()
        assert own.startswith("slot-") and none == "None", "its parent holds the other"
        assert quota.try_lock_slot() is None
        parent.kill()
        parent.wait()
        wait_until(lambda: (slot := quota.try_lock_slot()) is not None and slot != own)
        assert quota.try_lock_slot() is None, "the child lives"
        parent.stdin.close()
        wait_until(quota.try_lock_slot)


def test_a_deleted_folder_is_created_again_for_all(tmp_path):
    one, two = (Quota(tmp_path / "q", 1, 1e6) for _ in range(2))
    one.release(one.try_lock_slot())
    two.release(two.try_lock_slot())
    shutil.rmtree(tmp_path / "q")
    assert (one.try_lock_slot(), two.try_lock_slot()) == ("slot-000", None)


def test_more_slots_than_files_may_be_open(tmp_path):
    quota, other = Quota(tmp_path, 300, 1e6), Quota(tmp_path, 300, 1e6)
    slots = [quota.try_lock_slot() for _ in range(300)]
    assert len(set(slots)) == 300 and quota.try_lock_slot() is other.try_lock_slot() is None
    assert len(other._files) == module._MAX_OPEN
    for slot in slots:
        quota.release(slot)
    assert len(quota._files) == module._MAX_OPEN
    assert other.try_lock_slot() is not None
