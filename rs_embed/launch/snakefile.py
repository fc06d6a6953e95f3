"""Functions for the Snakefile: the run, the environment of its jobs, their threads, and a dry
run's estimate."""

from __future__ import annotations

import datetime as dt
import gc
import importlib
import os
import sys
import threading
from typing import Any

from ..runs.open_run import open_config
from ..runs.run import Run
from ..runs.run_files import PACKAGE, load_run
from ..stages.prepare import check_target
from ..stages.shared.state import Jobs

#: Environment variable with the run's folder, for jobs on other machines.
RUN_FOLDER = "RS_EMBED_RUN"


def open_or_load_run(config: Any, *, main_process: bool) -> Run:
    """The run of a Snakemake process: planned from the config in the main process, loaded from the
    run's folder in jobs.

    Steps are started as ``python -m rs_embed``: the interpreter that runs Snakemake comes first on
    the path unless a software environment (conda) puts its own before it, and this package can be
    imported in either.

    Raises:
        SpecError, ModelError, ProviderError: the request cannot be met, in one sentence.
    """
    if main_process:
        run = open_config(config, base=os.getcwd())
        check_target(run)
    else:
        run = load_run(os.environ.get(RUN_FOLDER, "."))
    _prepend_folder("PATH", os.path.dirname(sys.executable))
    _prepend_folder("PYTHONPATH", str(run.dir / PACKAGE))
    os.environ[RUN_FOLDER] = str(run.dir)
    return run


def print_estimate(run: Run, todo: Jobs) -> None:
    """Print what the remaining jobs cost, at the end of a dry run's messages on stderr."""
    from ..estimate import estimate
    from ..estimate.summary import format_summary

    print(format_summary(estimate(run, todo)), file=sys.stderr)


def skip_exit_delays() -> None:
    """Let the process end without delay when all jobs have ended: Python would wait for the last
    timer by which Snakemake wakes its scheduler once a second, and collect garbage among all
    objects."""
    gc.freeze()
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            module = getattr(thread.function, "__module__", None) or ""
            if module.startswith("snakemake.scheduling."):  # of Snakemake's scheduler, not of a plugin
                thread.cancel()


def import_pandas_in_background() -> None:
    """Import pandas while the graph is built and the first jobs run. Snakemake imports it to
    record params when the first job has ended, and all others would wait for it (0.2 s)."""
    threading.Thread(target=importlib.import_module, args=("pandas",), daemon=True).start()


def to_json_values(config: Any) -> Any:
    """A config with JSON types only: a YAML loader turns an unquoted 2022-06-01 into a date, which
    JSON schemas do not have."""
    if isinstance(config, dict):
        return {k: to_json_values(v) for k, v in config.items()}
    if isinstance(config, list):
        return [to_json_values(v) for v in config]
    return config.isoformat()[:10] if isinstance(config, dt.date) else config


def _prepend_folder(variable: str, folder: str) -> None:
    known = [p for p in os.environ.get(variable, "").split(os.pathsep) if p]
    if known[:1] != [folder]:
        os.environ[variable] = os.pathsep.join([folder, *known])
