"""``python -m rs_embed``: the command line."""

import os
import sys

from .cli import main

status = main()
if "torch" in sys.modules:  # unloading torch costs every embed job a quarter of a second
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except OSError:  # a full disk: exit with Python's status for it
            status = status or 120
    os._exit(status)
sys.exit(status)
