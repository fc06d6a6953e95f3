"""Child process of ``export_batch``: Snakemake's own command line, with its events as JSON lines on a pipe.

``python -m rs_embed.launch.child_main`` reads what to run from :mod:`rs_embed.launch.child`, on a socket that is its stdin.
It registers the logger plugin itself, so the plugin needs no distribution. Snakemake's text log goes to stderr as usual.
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

from ..store.locks import INHERITED, INHERITED_STORE, LEFT
from .child import FILES

#: What is passed on of an event; anything else stays in the log.
_FIELDS = (
    "event",
    "jobid",
    "job_id",
    "jobs",
    "rule_name",
    "wildcards",
    "log",
    "done",
    "total",
    "stats",
    "exception",
    "rule_msg",
)


def _register(pipe: IO[str]) -> None:
    """Make the logger plugin ``rsembed``, which writes one JSON object per event."""
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
            data = {k: _plain(getattr(record, k)) for k in _FIELDS if getattr(record, k, None) is not None}
            if record.levelname == "ERROR":
                data["message"] = record.getMessage()
            try:
                pipe.write(json.dumps(data) + "\n")
                pipe.flush()
            except BrokenPipeError:  # the parent is gone; the run goes on and can be picked up
                return

    module = types.ModuleType("snakemake_logger_plugin_rsembed")
    module.LogHandler = LogHandler
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_rsembed", module)


def _plain(value: Any) -> Any:
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(v) for v in value]
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _watch(parent: int) -> None:
    """Wait for the end of stdin, which is the parent's: when the caller is gone (killed, a notebook restarted), stop
    Snakemake and its jobs, as Ctrl-C would. What is finished is kept."""
    while os.read(parent, 1):
        continue
    os.killpg(0, signal.SIGINT)
    time.sleep(20)
    os.killpg(0, signal.SIGKILL)


def _told(parent: int) -> tuple[dict, dict[str, int]] | None:
    """What to run, and the files for it; None where the caller has nothing to run."""
    with socket.socket(fileno=os.dup(parent)) as there:
        first, descriptors, *_ = socket.recv_fds(there, 1, len(FILES))
        with there.makefile("rb") as lines:
            line = lines.readline() if first else b""
    return (json.loads(line), dict(zip(FILES, descriptors))) if line.endswith(b"\n") else None


def main() -> None:
    """Import Snakemake, wait to be told what to run, and hand over to it."""
    # a shell that starts something in the background makes it ignore SIGINT; ours is how the run is stopped
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.disable()
    with contextlib.suppress(Exception):  # what is wrong is said below, where there is a log
        importlib.import_module("snakemake.cli")
    gc.freeze()  # what was imported stays to the end: looking through it is a fifth of a start that finds nothing to do
    gc.enable()
    told = _told(0)
    if told is None:
        return
    task, files = told
    for stream in (1, 2):
        os.dup2(files["log"], stream)
    os.close(files["log"])
    os.chdir(task["folder"])
    os.environ.update(task["environment"])
    os.environ.update({INHERITED: str(files["run"]), INHERITED_STORE: str(files["store"])})
    os.set_inheritable(files["events"], False)  # an orphaned job must not keep the reader waiting
    if not os.environ.get(LEFT):  # on a cluster the run goes on, and the next call picks it up
        threading.Thread(target=_watch, args=(os.dup(0),), daemon=True).start()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    from snakemake.cli import main as snakemake

    _register(os.fdopen(files["events"], "w"))
    snakemake([*task["arguments"], "--logger", "rsembed"])


if __name__ == "__main__":
    main()
