"""What the Snakefile needs of the package beside the plan: the run, and the environment its jobs run in."""

from __future__ import annotations

import datetime as dt
import gc
import importlib
import os
import sys
import threading
from typing import Any

from ..machine.cores import CORES
from ..runs.run import PACKAGE, Run, load_run, open_config
from ..stages.prepare import check

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


def end_soon() -> None:
    """When all jobs have ended: Snakemake wakes its scheduler once a second by a timer, and Python does not end before the last one
    has gone off, for which nobody waits any more; nor before it has looked through all objects for what refers to itself."""
    gc.freeze()
    for thread in threading.enumerate():
        # of Snakemake's scheduler, not of a plugin
        if isinstance(thread, threading.Timer) and _of_scheduler(thread):
            thread.cancel()


def _of_scheduler(timer: threading.Timer) -> bool:
    return (getattr(timer.function, "__module__", None) or "").startswith("snakemake.scheduling.")


def import_ahead() -> None:
    """Import, while the graph is built and the first jobs run, what Snakemake imports when the first one has ended, and all others
    wait for: pandas, to write down params (0.2 s)."""
    threading.Thread(target=importlib.import_module, args=("pandas",), daemon=True).start()


#: Threads that read and preprocess for a GPU, at most (``models/engine.py``).
_MOST_READERS = 8


def embed_threads(cores: int, jobs: int, gpus: int) -> int:
    """Threads of an embed job on a machine that runs ``jobs`` of them in all.

    On CPUs the cores are divided among the jobs that can run at a time: one thread each where there are enough jobs, so that
    what a job does alone (starting, loading) keeps no core waiting; all cores where there is one job. With GPUs as many jobs run
    as there are GPUs, threads only read and preprocess, and a share is left for fetching and writing.

    Args:
        gpus: that may be used at a time; 0: on CPUs.
    """
    jobs = max(1, jobs)
    if gpus:
        return max(1, min(_MOST_READERS, cores // (min(jobs, gpus) + 1)))
    return max(1, cores // min(jobs, cores))


def divide(cores: int | None) -> None:
    """Let the jobs of this process divide ``--cores`` among them; None: they run elsewhere."""
    os.environ.pop(CORES, None)
    if cores:
        os.environ[CORES] = str(cores)


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
