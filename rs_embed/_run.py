"""Child process of ``export_batch``: Snakemake's own command line, with its events as JSON lines on a pipe.

``python -m rs_embed._run <fd> <snakemake arguments>``. The logger plugin is registered from here, so that it needs no
distribution of its own; Snakemake's text log goes to stderr as always.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import types
from logging import LogRecord
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.registry import LoggerPluginRegistry

from .locks import LEFT

_pipe = None
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


class LogHandler(LogHandlerBase):
    """Writes one JSON object per event."""

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
            _pipe.write(json.dumps(data) + "\n")
            _pipe.flush()
        except BrokenPipeError:  # the parent is gone; the run goes on and can be picked up
            return


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


def main() -> None:
    """Register the plugin and hand over to Snakemake."""
    global _pipe
    # a shell that starts something in the background makes it ignore SIGINT; ours is how the run is stopped
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.set_inheritable(int(sys.argv[1]), False)  # an orphaned job must not keep the reader waiting
    _pipe = os.fdopen(int(sys.argv[1]), "w")
    if not os.environ.get(LEFT):  # on a cluster the run goes on, and the next call picks it up
        threading.Thread(target=_watch, args=(os.dup(0),), daemon=True).start()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    module = types.ModuleType("snakemake_logger_plugin_rsembed")
    module.LogHandler = LogHandler
    LoggerPluginRegistry().register_plugin("snakemake_logger_plugin_rsembed", module)
    from snakemake.cli import main as snakemake

    snakemake([*sys.argv[2:], "--logger", "rsembed"])


if __name__ == "__main__":
    main()
