"""A slow disk for the tests: with this folder on PYTHONPATH, files that match a pattern take long to be renamed in the
jobs of one step. So a job can be met in the middle of its work, with a few small places and without luck."""

import fnmatch
import os
import sys
import time

_step, _, _rest = os.environ.get("RS_EMBED_SLOW_DISK", "").partition(" ")
_seconds, _, _pattern = _rest.partition(" ")

if _step and _step in sys.orig_argv and sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2].startswith("rs_embed"):
    _replace = os.replace

    def replace(source, target, **keywords):
        """Wait, then rename."""
        if fnmatch.fnmatch(str(target), _pattern):
            time.sleep(float(_seconds))
        _replace(source, target, **keywords)

    os.replace = replace
