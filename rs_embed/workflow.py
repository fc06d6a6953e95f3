"""What the Snakefile needs of the package beside the plan: the run, and the environment its jobs run in."""

from __future__ import annotations

import datetime as dt
import os
import sys
from typing import Any

from .run import PACKAGE, Run, load_run, open_config
from .stages.prepare import check

#: Tells a job on another machine where the request was frozen.
RUN_FOLDER = "RS_EMBED_RUN"


def enter(config: Any, *, main_process: bool) -> Run:
    """The run of a Snakemake process: planned from the config in the main process, loaded from the run's folder in jobs.

    Steps are started as ``python -m rs_embed``: the interpreter that runs Snakemake comes first on the path unless a
    software environment (conda) puts its own before it, and this package can be imported in either.

    Raises:
        SpecError, ModelError, ProviderError: the request cannot be met, in one sentence.
    """
    if main_process:
        run = open_config(config, base=os.getcwd())
        check(run)
    else:
        run = load_run(os.environ.get(RUN_FOLDER, "."))
    _prepend("PATH", os.path.dirname(sys.executable))
    _prepend("PYTHONPATH", str(run.dir / PACKAGE))
    os.environ[RUN_FOLDER] = str(run.dir)
    return run


def plain(config: Any) -> Any:
    """A config as JSON has it: a YAML loader turns an unquoted 2022-06-01 into a date, which no JSON schema knows."""
    if isinstance(config, dict):
        return {k: plain(v) for k, v in config.items()}
    if isinstance(config, list):
        return [plain(v) for v in config]
    return config.isoformat()[:10] if isinstance(config, dt.date) else config


def _prepend(variable: str, folder: str) -> None:
    known = [p for p in os.environ.get(variable, "").split(os.pathsep) if p]
    if known[:1] != [folder]:
        os.environ[variable] = os.pathsep.join([folder, *known])
