"""The program of the child process: Snakemake's own command line, with its events as JSON lines on
a pipe.

``python -m rs_embed.launch.child_main`` reads its task, which :mod:`rs_embed.launch.child` sends,
from a socket that is its stdin. It registers the logger plugin itself, so the plugin needs no
distribution. Snakemake's text log goes to stderr as usual.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import threading
import time
import types
from logging import LogRecord
from typing import IO, Any

from ..store.locks import DETACHED_VARIABLE, RUN_LOCK_VARIABLE, STORE_LOCK_VARIABLE
from .child import FILES

#: Fields of an event that are passed on; the others are only in the log.
_JOB_FIELDS = ("event", "jobid", "job_id", "jobs", "rule_name", "wildcards", "log")
_FIELDS = (*_JOB_FIELDS, "done", "total", "stats", "exception", "rule_msg")


def _register_logger_plugin(pipe: IO[str]) -> None:
    """Register the logger plugin ``rsembed``, which writes one JSON object per event."""
    from snakemake_interface_logger_plugins.base import LogHandlerBase
    from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

    class LogHandler(LogHandlerBase):
        writes_to_stream = False
        writes_to_file = False
        has_filter = True
        has_formatter = True
        needs_rulegraph = False

        def emit(self, record: LogRecord) -> None:
            event = getattr(record, "event", None)
            if event is None and record.levelname != "ERROR":
                return
            data = {k: _to_json_values(getattr(record, k)) for k in _FIELDS if getattr(record, k, None) is not None}
            if record.levelname == "ERROR":
                data["message"] = record.getMessage()
            try:
                pipe.write(json.dumps(data) + "\n")
                pipe.flush()
            except BrokenPipeError:  # the caller has ended; the run continues, and the next call waits for it
                return

    module = types.ModuleType("snakemake_logger_plugin_rsembed")
    setattr(module, "LogHandler", LogHandler)  # noqa: B010 - a module has no such attribute for mypy
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_rsembed", module)


def _to_json_values(value: Any) -> Any:
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(k): _to_json_values(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_to_json_values(v) for v in value]
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _stop_with_caller(parent: int) -> None:
    """Wait for the end of stdin, which is the caller's socket. When the caller has ended (killed,
    a notebook restarted), stop Snakemake and its jobs, as Ctrl-C does. Finished objects are
    kept."""
    while os.read(parent, 1):
        continue
    os.killpg(0, signal.SIGINT)
    time.sleep(20)
    os.killpg(0, signal.SIGKILL)


def _receive_task(parent: int) -> tuple[dict, dict[str, int]] | None:
    """The task, and descriptors of its files; None where the caller sends none."""
    with socket.socket(fileno=os.dup(parent)) as caller:
        first, descriptors, *_ = socket.recv_fds(caller, 1, len(FILES))
        with caller.makefile("rb") as lines:
            line = lines.readline() if first else b""
    return (json.loads(line), dict(zip(FILES, descriptors))) if line.endswith(b"\n") else None


def main() -> None:
    """Import Snakemake, wait for the task, and call Snakemake's command line."""
    # a shell lets what it starts in the background ignore SIGINT, by which the run is stopped
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()
    with contextlib.suppress(Exception):  # the import below fails again, where the error gets into the log
        importlib.import_module("snakemake.cli")
    gc.freeze()  # imported objects stay to the end: collecting them is a fifth of a start without remaining jobs
    gc.enable()
    received = _receive_task(0)
    if received is None:
        return
    task, files = received
    _set_up_process(task, files)
    from snakemake.cli import main as snakemake

    _register_logger_plugin(os.fdopen(files["events"], "w"))
    snakemake([*task["arguments"], "--logger", "rsembed"])


def _set_up_process(task: dict, files: dict[str, int]) -> None:
    """Log, working directory, environment and stdin, as the task has them."""
    for stream in (1, 2):
        os.dup2(files["log"], stream)
    os.close(files["log"])
    os.chdir(task["folder"])
    os.environ.update(task["environment"])
    os.environ.update({RUN_LOCK_VARIABLE: str(files["run"]), STORE_LOCK_VARIABLE: str(files["store"])})
    os.set_inheritable(files["events"], False)  # a job that outlives Snakemake must not keep the caller waiting
    if not os.environ.get(DETACHED_VARIABLE):  # on a cluster the run continues, and the next call waits for it
        threading.Thread(target=_stop_with_caller, args=(os.dup(0),), daemon=True).start()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)


if __name__ == "__main__":
    main()
