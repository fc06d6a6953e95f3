"""``python -m rs_embed``: the command line."""

import contextlib
import os
import sys

from .cli import main

status = main()
if "torch" in sys.modules:  # Python takes a quarter of a second, of every embed job, to take it apart
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # the log may lie on a full disk
            stream.flush()
    os._exit(status)
sys.exit(status)
