"""Digests of values: equal values have equal digests in every process and on every platform."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, ASCII, shortest float repr; NaN and unknown types
    raise an error."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def digest(value: Any, length: int = 32) -> str:
    """First ``length`` hex characters of the SHA-256 of the canonical JSON of ``value``."""
    return hashlib.sha256(canonical(value)).hexdigest()[:length]
