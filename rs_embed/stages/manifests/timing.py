"""What a run cost, from the receipts of the jobs that its results are made of."""

from __future__ import annotations

from collections.abc import Iterable

from ...runs.run import Run
from ...store import receipts

#: What is added up: seconds, and what the jobs counted.
_SUMS = ("seconds", "cpu_seconds", "load_seconds", "fetched", "restored", "embedded", "reused", "failed")


def timing(run: Run) -> tuple[dict, dict[str, dict]]:
    """What each stage took, and what embedding with each model took.

    Returns:
        ({stage: sums}, {unit key: sums}). Sums are ``jobs``, ``seconds`` (added up over jobs, which may have run side by
        side), ``cpu_seconds``, and the jobs' counts. A job that found everything in the store took the time to look.
    """
    plan = run.plan
    keys = plan.receipts()
    of = {u.key: _sums(keys, (f"embed/{u.id}/{c.name}.json" for c in plan.chunks)) for u in plan.embedded}
    stages = {
        "fetch": _sums(keys, (k for k in keys if k.startswith("fetch/"))),
        "embed": _added(of.values()),
        "write": _sums(keys, plan.items_receipts()),
    }
    return {k: v for k, v in stages.items() if v}, of


def _sums(keys: dict[str, str], paths: Iterable[str]) -> dict:
    found = (receipts.examine(path, keys[path])[1] for path in paths)
    return _added({"jobs": 1, **r} for r in found if r is not None)


def _added(parts: Iterable[dict]) -> dict:
    out: dict[str, float] = {}
    for part in parts:
        for key in ("jobs", *_SUMS):
            if key in part:
                out[key] = round(out.get(key, 0) + part[key], 3)
    return out
