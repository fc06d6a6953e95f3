"""What a run has cost, from the receipts of the jobs that computed its results."""

from __future__ import annotations

from collections.abc import Iterable

from ...runs.run import Run
from ...store import receipts

#: What is summed: seconds, and the jobs' counts.
_SUMS = ("seconds", "cpu_seconds", "load_seconds", "fetched", "restored", "embedded", "reused", "failed")


def sum_timings(run: Run) -> tuple[dict, dict[str, dict]]:
    """The cost of each stage, and of embedding with each model.

    Returns:
        ({stage: sums}, {unit key: sums}). Sums are ``jobs``, ``seconds`` (over jobs, which may
        have run at the same time), ``cpu_seconds``, and the jobs' counts. A job that found
        everything in the store has the time of looking it up.
    """
    plan = run.plan
    keys = plan.receipts()
    of = {u.key: _sum_receipts(keys, (f"embed/{u.id}/{c.name}.json" for c in plan.chunks)) for u in plan.embedded_units}
    stages = {
        "fetch": _sum_receipts(keys, (k for k in keys if k.startswith("fetch/"))),
        "embed": _add_up(of.values()),
        "write": _sum_receipts(keys, plan.items_receipts()),
    }
    return {k: v for k, v in stages.items() if v}, of


def _sum_receipts(keys: dict[str, str], paths: Iterable[str]) -> dict:
    found = (receipts.read_state(path, keys[path])[1] for path in paths)
    return _add_up({"jobs": 1, **r} for r in found if r is not None)


def _add_up(parts: Iterable[dict]) -> dict:
    out: dict[str, float] = {}
    for part in parts:
        for key in ("jobs", *_SUMS):
            if key in part:
                out[key] = round(out.get(key, 0) + part[key], 3)
    return out
