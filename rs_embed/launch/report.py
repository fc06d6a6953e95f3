"""What is printed at the end of a run: how many ROIs have a result, and how many a warning."""

from __future__ import annotations

import contextlib
import os
import sys

from ..runs.run import Run
from ..stages.shared.run_result import format_result, is_unusual, read_result


def print_result(run: Run, *, only_unusual: bool = False) -> None:
    """Print the result of a finished run to stderr, if there is one; what was closed is no error.

    Args:
        only_unusual: print nothing about a run without failures, missing imagery and warnings.
    """
    counts = read_result(run)
    if counts is None or sys.stderr is None or (only_unusual and not is_unusual(counts)):
        return
    lines = [format_result(counts)]
    if is_unusual(counts):
        target = os.path.normpath(run.dir / run.plan.target)
        lines.append(f"load_export({target!r}).items() lists statuses, errors and warnings")
    with contextlib.suppress(OSError, ValueError):
        print("\n".join(f"rs-embed: {line}" for line in lines), file=sys.stderr, flush=True)
