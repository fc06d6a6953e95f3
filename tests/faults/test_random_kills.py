"""SIGKILL and SIGTERM at random moments of every stage, several in a row, each chain ended by a
start that is bit-identical."""

from __future__ import annotations

import pytest

from .cases import FORMATS, LAYOUTS, Case
from .kills import chain
from .ledger import note

#: Kills of one chain; seeds of the whole suite. A failure is repeated with
#: ``-k 'kills and seed-7'``.
KILLS, SEEDS = 8, range(16)
CASES = [
    Case(layout, file_format, entry)
    for file_format in FORMATS
    for layout in LAYOUTS
    for entry in ("python", "snakemake")
]


def _marked(seed: int):
    return pytest.param(seed, marks=pytest.mark.heavy if seed == 0 else pytest.mark.faults, id=f"seed-{seed}")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [_marked(s) for s in SEEDS])
def test_random_kills(undisturbed, spans, tmp_path, seed):
    case = CASES[seed % len(CASES)]
    tally = chain(seed, case, undisturbed(case), tmp_path / "run", spans(case), KILLS if seed else 4)
    for (where, signal), count in sorted(tally.kills.items()):
        note(
            "kill",
            seed=seed,
            layout=case.layout,
            format=case.format,
            entry=case.entry,
            where=where,
            signal=signal,
            count=count,
        )
    counts = {k: getattr(tally, k) for k in ("starts", "recovered", "lost", "repeated", "overlapped", "files")}
    note("chain", seed=seed, layout=case.layout, format=case.format, entry=case.entry, **counts)
    print(*tally.messages, sep="\n")
    assert tally.lost == 0
    assert tally.repeated == 0, "an object that was there was made again"
