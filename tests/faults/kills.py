"""Kills at random moments: where they hit, whom, and how a chain of killed starts goes on. All of
it follows from a seed."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from .cases import STEPS, Case, check_recovered, copied, family, objects, repeated, run, sentence, start, step_of
from .watch import Watcher

#: Every rename of a job takes so long: a stage of six small places is else over before a signal
#: arrives.
SLOW = {"slow": {"*": 0.08}}
LOCKED = "another run is working on this target"


def _everything(process: subprocess.Popen, number: int, rng: random.Random) -> None:
    found = family(process)
    for member in found if number == signal.SIGKILL else []:  # so that none reacts to the end of another
        _signal(member, signal.SIGSTOP)
    for member in found:
        _signal(member, number)


def _caller(process: subprocess.Popen, number: int, rng: random.Random) -> None:
    _signal(psutil.Process(process.pid), number)


def _anyone(process: subprocess.Popen, number: int, rng: random.Random) -> None:
    _signal(rng.choice(family(process)), number)


def _job(process: subprocess.Popen, number: int, rng: random.Random) -> None:
    """As the kernel does when memory runs out."""
    found = family(process)
    _signal(rng.choice([p for p in found if step_of(p)] or found), number)


def _signal(process: psutil.Process, number: int) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


WHOM: dict[str, Callable] = {"everything": _everything, "the caller": _caller, "one process": _anyone, "a job": _job}


@dataclass
class Tally:
    """What a chain of kills came to."""

    kills: Counter = field(default_factory=Counter)  # by (step, signal)
    starts: int = 0
    refused: int = 0  # starts while something of the killed one still ran
    recovered: int = 0
    lost: int = 0
    repeated: int = 0
    overlapped: int = 0  # objects made twice because a job outlived its run and worked beside the next one
    files: int = 0  # final files that the watcher read
    messages: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Times:
    """Seconds of an undisturbed run, and of the longest job of each step, as processes live."""

    whole: float
    jobs: dict[str, float]


def measured(command: list[str]) -> Times:
    """Run undisturbed and look how long each step's processes are there."""
    began, first, last = time.monotonic(), {}, {}
    process = start(command, SLOW)
    while process.poll() is None:
        for member in family(process):
            step = step_of(member)
            if step:
                first.setdefault((step, member.pid), time.monotonic())
                last[step, member.pid] = time.monotonic()
        time.sleep(0.02)
    assert process.returncode == 0, process.communicate()[0]
    process.communicate()
    spans = {step: max(last[k] - first[k] for k in last if k[0] == step) for step, _ in last}
    return Times(time.monotonic() - began, spans)


class Chain:
    """One export that is killed again and again, and in the end let finish."""

    def __init__(self, seed: int, case: Case, finished: Path, folder: Path, spans: Times) -> None:
        self.rng, self.case, self.finished, self.folder, self.spans = random.Random(seed), case, finished, folder, spans
        self.tally = Tally()
        self.orphans: list[psutil.Process] = []
        self._before: dict = {}

    def prepare(self, step: str) -> None:
        """The state in which this step is what comes next: of an empty folder, or a finished
        export that lost something."""
        self._let_orphans_end()
        shutil.rmtree(self.folder, ignore_errors=True)
        lost = {"fetch": "everything", "any": "everything"}.get(step, step)
        if lost == "everything":
            self.folder.mkdir()
        else:
            copied(self.finished, self.folder, lost)
        self._before = objects(self.folder)

    def kill(self, aim: str) -> bool:
        """Start, and kill at a random moment of a step (``any``: of the whole run); False where it
        ended before."""
        process = start(self.case.command(self.folder), SLOW)
        self.tally.starts += 1
        if aim == "any":
            hit = self._sleep(process, self.rng.uniform(0, self.spans.whole))
        else:
            hit = self._wait_for(process, aim) and self._sleep(process, self.rng.uniform(0, self.spans.jobs[aim]))
        if not hit:
            output = process.communicate()[0]
            # what is still running has the target; no other process gets it
            if process.returncode and LOCKED in output:
                self.tally.refused += 1
                self._let_orphans_end()
                return self.kill(aim)
            assert process.returncode == 0, output
            self._count_repeated()
            return False
        found = family(process)
        steps = {step_of(p) for p in found} - {None}
        where = (
            self.rng.choice(sorted(steps)) if steps else "between jobs" if self._planned(found) else "before the jobs"
        )
        number = self.rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        name = self.rng.choice(sorted(WHOM))
        WHOM[name](process, number, self.rng)
        try:
            output, _ = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            # Snakemake's handler of SIGTERM takes a lock that the code it interrupts may hold: a
            # person would use SIGKILL then
            assert number == signal.SIGTERM
            for member in family(process):
                _signal(member, signal.SIGKILL)
            output, _ = process.communicate()
        self.tally.kills[where, signal.Signals(number).name] += 1
        self.tally.messages.append(
            f"{where}, {signal.Signals(number).name} to {name}: {process.returncode}: {sentence(output)}"
        )
        self.orphans += [p for p in found if p.is_running()]
        if self.rng.random() < 0.7:  # else the next start meets what is still running
            self._let_orphans_end()
        self._count_repeated()
        return True

    def _planned(self, found: list[psutil.Process]) -> bool:
        return bool(list(self.folder.glob(".rs_embed/runs/*/benchmarks/*")))

    def finish(self) -> None:
        """The last start is left alone, and ends equal to an undisturbed run."""
        self._let_orphans_end()
        status, output = run(self.case.command(self.folder))
        self.tally.starts += 1
        assert status == 0, output
        self._let_orphans_end()
        self._count_repeated()
        self.tally.lost += check_recovered(self.folder, self.finished, self.case.layout)
        self.tally.recovered += 1

    def _count_repeated(self) -> None:
        after = objects(self.folder)
        again = repeated(self._before, after)
        if any(p.is_running() for p in self.orphans):
            self.tally.overlapped += again
        else:
            self.tally.repeated += again
        self._before = after

    def _let_orphans_end(self) -> None:
        alive = psutil.wait_procs(self.orphans, timeout=60)[1]
        assert not alive, f"something runs on: {alive}"
        self.orphans = []

    def _sleep(self, process: subprocess.Popen, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and process.poll() is None:
            time.sleep(min(left, 0.01))
        return process.poll() is None

    def _wait_for(self, process: subprocess.Popen, step: str) -> bool:
        while process.poll() is None:
            if any(step_of(p) == step for p in family(process)):
                return True
            time.sleep(0.01)
        return False


def chain(seed: int, case: Case, finished: Path, folder: Path, spans: Times, kills: int) -> Tally:
    """``kills`` kills in chains of up to four before a start is let finish; the watcher looks on
    all the time."""
    done = Chain(seed, case, finished, folder, spans)
    rng = done.rng
    aims = [s for s in STEPS if s in spans.jobs or (s == "repair" and case.layout == "per_item")]
    while sum(done.tally.kills.values()) < kills:
        aim = rng.choice([*aims, "any"])
        done.prepare(aim)
        with Watcher(folder, may_vanish=aim == "any") as watcher:
            for _ in range(rng.randint(1, 4)):
                if not done.kill(aim):
                    break
                aim = rng.choice([aim, "any"])
            done.finish()
        done.tally.files += watcher.seen
    return done.tally
