"""``python -m rs_embed``: the command line."""

import os
import sys

from .cli import main

status = main()
if "torch" in sys.modules:  # Python takes a quarter of a second, of every embed job, to take it apart
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # a full disk; the status is the one that Python has for it
            status = status or 120
    os._exit(status)
sys.exit(status)
