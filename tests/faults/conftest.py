"""Undisturbed exports that faults are compared with, by layout and format; made once, copied,
never changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from .cases import Case, copied, run
from .kills import Times, measured


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory):
    """(layout, format) to the folder of a finished export."""
    made: dict[tuple, Path] = {}

    def finished(case: Case) -> Path:
        key = (case.layout, case.format)
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{case.layout}-{case.format}")
            status, output = run(Case(*key).command(folder))
            assert status == 0, output
            made[key] = folder
        return made[key]

    return finished


@pytest.fixture(scope="session")
def spans(tmp_path_factory, undisturbed):
    """How long a case and its steps take without faults, with the slow renames."""
    found: dict[Case, Times] = {}

    def timed(case: Case) -> Times:
        if case not in found:
            folder = tmp_path_factory.mktemp("timed")
            whole = measured(case.command(folder))
            if case.layout == "per_item":
                other = tmp_path_factory.mktemp("timed") / "run"
                copied(undisturbed(case), other, "repair")
                whole = Times(whole.whole, whole.jobs | measured(case.command(other)).jobs)
            found[case] = whole
        return found[case]

    return timed
