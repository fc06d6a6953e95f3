"""The rate of requests of all jobs of a run: between threads, processes, and nodes whose clocks
differ."""

from __future__ import annotations

import random
import struct
import threading
import time

import pytest

from rs_embed.providers.limits import quota as module
from rs_embed.providers.limits.quota import Quota

from ...support.slot_holders import count_calls, run_code


@pytest.fixture
def naps(monkeypatch) -> list[float]:
    """Recorded arguments of time.sleep, which returns at once, seconds."""
    made: list[float] = []
    monkeypatch.setattr(time, "sleep", made.append)
    return made


def test_requests_start_no_faster_than_the_rate(tmp_path):
    quotas = [Quota(tmp_path / "quota", 4, 50.0) for _ in range(2)]
    started = time.monotonic()
    for i in range(30):
        quotas[i % 2].throttle()
    taken = time.monotonic() - started
    assert taken >= 0.45, "29 requests of a bucket of 5, at 50 a second"


@pytest.mark.parametrize(("concurrency", "per_second"), [(40, 0.1), (2, 0.005), (200, 1.0)])
def test_a_long_backlog_stays_valid_when_as_many_were_killed_while_waiting(tmp_path, naps, concurrency, per_second):
    quota = Quota(tmp_path, concurrency, per_second)
    for _ in range(2 * concurrency):
        quota.throttle()
    assert [round(nap * per_second) for nap in naps] == list(range(2 * concurrency)), "one interval after the other"


def test_nodes_whose_clocks_differ_share_the_rate(tmp_path):
    code = """
import sys, time
real, naps = time.time, []
time.time = lambda: real() + float(sys.argv[2])
time.sleep = naps.append
from rs_embed.providers.limits.quota import Quota
for _ in range(4):
    Quota(sys.argv[1], 40, 0.01).throttle()
print(*(round(nap * 0.01) for nap in naps))
"""
    waits = []
    for shift in (200, -30, 0, -86400, 1e6):
        with run_code(code, tmp_path, shift) as node:
            waits += map(int, node.communicate()[0].split())
    assert waits == list(range(20))


def test_coarse_file_times_cost_no_more_than_their_resolution(tmp_path, naps, monkeypatch):
    dice, clock, resolution = random.Random(1), [1.7e9], [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(
        Quota,
        "_server_time",
        staticmethod(lambda _: clock[0] // resolution[0] * resolution[0] if resolution[0] else clock[0]),
    )
    exact, coarse = (Quota(tmp_path / name, 40, 10.0) for name in "ab")
    starts = []
    for i in range(2000):
        clock[0] += dice.expovariate(12 if i % 500 < 300 else 5)  # faster or slower
        for resolution[0], quota in ((0.0, exact), (2.0, coarse)):
            quota.throttle()
        best, wait = naps[-2:]
        assert wait <= best + 2.001
        starts.append(clock[0] + wait)
    starts.sort()
    for i, start in enumerate(starts):
        for n in (20, 50, 200):
            if i + n < len(starts):
                assert n <= 10.0 * (starts[i + n] - start + 2.0 + module._BURST_S) + 1.001


def test_a_server_whose_clock_is_set_back_does_not_stop_a_run(tmp_path, naps, monkeypatch):
    clock = [1.7e9]
    monkeypatch.setattr(Quota, "_server_time", staticmethod(lambda _: clock[0]))
    quota = Quota(tmp_path, 4, 1.0)
    quota.throttle()
    clock[0] -= 86400
    quota.throttle()
    assert 0 < naps[-1] <= 2 * 4 + module._COARSE_S
    clock[0] += 60
    quota.throttle()
    assert naps[-1] == 0


@pytest.mark.parametrize("found", [b"damaged", b"", struct.pack("<d", float("nan")), struct.pack("<d", 1e300)])
def test_a_damaged_file_is_replaced(tmp_path, naps, found):
    (tmp_path / "next").write_bytes(found)
    quota = Quota(tmp_path, 1, 0.01)
    for _ in range(3):
        quota.throttle()
    assert max(naps) <= 202
    assert Quota._server_time(quota._files["next"]) < struct.unpack("<d", (tmp_path / "next").read_bytes())[0] < 1e10


def test_no_thread_blocks_on_the_lock_of_the_bucket(tmp_path, monkeypatch):
    """An NFS client that blocks polls at intervals of up to half a minute."""
    other = Quota(tmp_path, 8, 1e6)
    assert other.try_lock("next")
    calls = count_calls(monkeypatch)
    quota = Quota(tmp_path, 8, 1e6)
    threads = [threading.Thread(target=quota.throttle) for _ in range(8)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    assert 2 <= calls["flock"] <= 100 and calls["open"] == 1, "one thread polls, at growing intervals"
    assert len([c for c in calls if isinstance(c, threading.Thread)]) == 1
    other.release("next")
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert calls["blocking"] == 0
    assert calls["open"] == 1
