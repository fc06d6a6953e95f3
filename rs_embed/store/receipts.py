"""Receipts: the output of a job for Snakemake. One JSON file has a row for every ROI of the job.

A receipt contains the key of the plan that it was written for; with another key it is not valid.
Rows are ``ok``, ``failed`` (with error, stage, retryable) or ``no_data`` (a result, not a
failure).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import StoreError, can_pass
from .atomic_files import replace_file

SCHEMA = 2


def write(path: str | Path, step: str, key: str, rows: list[dict[str, Any]], **more: Any) -> None:
    """Write the receipt of a finished job.

    Args:
        path: the job's declared output.
        step: ``fetch``, ``embed``, ``items``, ``merge`` or ``repair``.
        key: the plan's key of the job.
        rows: one mapping per ROI, in the order of the job's ROIs.
        more: counts and times of the job.
    """
    data = {"schema": SCHEMA, "step": step, "key": key, **more, "rows": rows}
    replace_file(path, append_digest(json.dumps(data, separators=(",", ":"), allow_nan=False)[:-1]).encode())


def append_digest(body: str) -> str:
    """JSON without its last brace, completed with its digest, so that changes are detected."""
    return f'{body},"sha256":"{hashlib.sha256(body.encode()).hexdigest()}"}}'


def read(path: str | Path, key: str | None = None) -> dict[str, Any]:
    """Read a receipt.

    Raises:
        StoreError: it cannot be read, or was written for another key.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
        data: dict[str, Any] = json.loads(text)
        if data["schema"] != SCHEMA or not isinstance(data["rows"], list):
            raise ValueError("unknown form")
        if text != append_digest(text.rpartition(",")[0]):
            raise ValueError("its digest does not fit its content")
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"receipt {path} cannot be read ({error}); delete it and run again") from None
    if key is not None and data["key"] != key:
        raise StoreError(f"receipt {path} was made for another request; delete it and run again")
    return data


def read_state(path: str | Path, key: str, *, accept_failures: bool = True) -> tuple[str, dict[str, Any] | None]:
    """The state of a receipt, and its content if it belongs to the plan.

    Args:
        accept_failures: rows with a permanent failure are a result (``continue_on_error``);
            otherwise they are retried.

    Returns:
        ``"missing"``, ``"stale"`` (unreadable or of another key), ``"retry"`` (has rows to retry)
        or ``"good"``; and the receipt.
    """
    try:
        data = read(path, key)
    except FileNotFoundError:
        return "missing", None
    except StoreError:
        return "stale", None
    failed = [r for r in data["rows"] if r.get("status") in ("failed", "partial")]
    retry = any(r.get("retryable") for r in failed) or (bool(failed) and not accept_failures)
    return "retry" if retry else "good", data


def withdraw(paths: Iterable[str | Path]) -> list[str]:
    """Delete receipts, so that Snakemake creates them again; returns those that existed."""
    deleted = []
    for path in paths:
        try:
            os.unlink(path)
            deleted.append(str(path))
        except FileNotFoundError:
            continue
    return deleted


def failure_row(error: Exception, stage: str) -> dict[str, Any]:
    """The row of a ROI (or model) that failed."""
    text = f"{type(error).__name__}: {error}"
    return {"status": "failed", "stage": stage, "error": text, "retryable": can_pass(error)}
