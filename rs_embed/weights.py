"""Where a model's weights are: a local file, a file of the hub at a pinned revision, or random numbers. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

#: Value of the option ``weights`` for random weights.
RANDOM = "random"


@dataclass(frozen=True)
class Checkpoint:
    """Weights as a job loads them.

    Attributes:
        path: checked local file, or None for random weights.
        seed: of random weights.
        said: what the manifest says of them: ``pretrained``, and ``sha256``, ``repository``, ``revision``, ``file`` where they apply.
    """

    path: Path | None
    seed: int = 0
    said: dict = field(default_factory=dict)
