"""Receipts: what Snakemake sees of a job. One JSON file says for every ROI of the job what was made of it.

A receipt carries the key of the plan it was made for; another key means it vouches for nothing. Rows are ``ok``,
``failed`` (with error, stage, retryable) or ``no_data`` (an answer, not a failure).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import StoreError, can_pass
from .store import replace_file

SCHEMA = 2


def write(path: str | Path, step: str, key: str, rows: list[dict], **more: Any) -> None:
    """Write the receipt of a finished job.

    Args:
        path: the job's declared output.
        step: ``fetch``, ``embed``, ``items``, ``merge`` or ``repair``.
        key: the plan's key of the job.
        rows: one mapping per ROI, in the order of the job's ROIs.
        more: counts and times of the job.
    """
    data = {"schema": SCHEMA, "step": step, "key": key, **more, "rows": rows}
    replace_file(path, sealed(json.dumps(data, separators=(",", ":"), allow_nan=False)[:-1]).encode())


def sealed(body: str) -> str:
    """A receipt (JSON without its last brace) with its digest at the end: one with a changed digit must not vouch for anything,
    or get into a manifest."""
    return f'{body},"sha256":"{hashlib.sha256(body.encode()).hexdigest()}"}}'


def read(path: str | Path, key: str | None = None) -> dict:
    """Read a receipt.

    Raises:
        StoreError: it is unreadable, or made for another key.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        data = json.loads(text)
        if data["schema"] != SCHEMA or not isinstance(data["rows"], list):
            raise ValueError("unknown form")
        if text != sealed(text.rpartition(",")[0]):
            raise ValueError("its digest does not fit its content")
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"receipt {path} cannot be read ({error}); delete it and run again") from None
    if key is not None and data["key"] != key:
        raise StoreError(f"receipt {path} was made for another request; delete it and run again")
    return data


def examine(path: str | Path, key: str, *, accept_failures: bool = True) -> tuple[str, dict | None]:
    """What a receipt is worth now, and what it says if it is of the plan.

    Args:
        accept_failures: rows that failed for good are an answer (``continue_on_error``); otherwise they are tried again.

    Returns:
        ``"missing"``, ``"stale"`` (unreadable or of another key), ``"retry"`` (rows to try again) or ``"good"``; the receipt.
    """
    try:
        data = read(path, key)
    except FileNotFoundError:
        return "missing", None
    except StoreError:
        return "stale", None
    bad = [r for r in data["rows"] if r.get("status") in ("failed", "partial")]
    retry = any(r.get("retryable") for r in bad) or (bool(bad) and not accept_failures)
    return "retry" if retry else "good", data


def withdraw(paths: Iterable[str | Path]) -> list[str]:
    """Delete receipts, so that Snakemake makes them again; returns those that were there."""
    gone = []
    for path in paths:
        try:
            os.unlink(path)
            gone.append(str(path))
        except FileNotFoundError:
            continue
    return gone


def failure(error: Exception, stage: str) -> dict:
    """The row of a ROI (or model) that failed."""
    text = f"{type(error).__name__}: {error}"
    return {"status": "failed", "stage": stage, "error": text, "retryable": can_pass(error)}
