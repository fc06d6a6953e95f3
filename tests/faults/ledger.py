"""What the suite has measured, a JSON line a row: written while it runs, made into the tables of
docs/reliability.md at the end."""

from __future__ import annotations

import json
import os
from pathlib import Path

#: Where ``make test-faults`` wants the rows; without it they are only printed.
LEDGER = "RS_EMBED_FAULT_LEDGER"


def note(table: str, /, **row: object) -> None:
    """A row of a table; ``pytest -s`` shows it, too."""
    line = json.dumps({"table": table, **row})
    print(line)
    if os.environ.get(LEDGER):
        with open(Path(os.environ[LEDGER]), "a") as file:
            file.write(line + "\n")
