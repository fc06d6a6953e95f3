"""A slow disk for the tests: with this folder on PYTHONPATH, files that match a pattern take long
to be renamed in the jobs of one step. So a job can be met in the middle of its work, with a few
small places and without luck.

``RS_EMBED_LATE_DISK``: the job goes on, and its file is seen so many seconds later, as on a
network file system."""

import fnmatch
import os
import subprocess
import sys
import time

_late = "RS_EMBED_LATE_DISK" in os.environ
_said = os.environ.get("RS_EMBED_LATE_DISK") or os.environ.get("RS_EMBED_SLOW_DISK", "")
_step, _, _rest = _said.partition(" ")
_seconds, _, _pattern = _rest.partition(" ")

_module = "".join(sys.orig_argv[sys.orig_argv.index("-m") + 1 :][:1]) if "-m" in sys.orig_argv else ""

if _step and _step in sys.orig_argv and _module.startswith("rs_embed"):
    _replace = os.replace

    def replace(source, target, **keywords):
        """Wait, then rename; or leave that to somebody else."""
        if fnmatch.fnmatch(str(target), _pattern):
            if _late:
                moving = ["sh", "-c", 'sleep "$0"; mv "$1" "$2"', _seconds, str(source), str(target)]
                subprocess.Popen(moving, start_new_session=True)
                return
            time.sleep(float(_seconds))
        _replace(source, target, **keywords)

    os.replace = replace
