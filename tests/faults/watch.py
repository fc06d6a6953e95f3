"""A thread that reads every final file as it appears: none is ever half, and none vanishes that
was there."""

from __future__ import annotations

import io
import json
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType


def _npz(data: bytes) -> None:
    import numpy as np

    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        for name in file.namelist():
            np.lib.format.read_array(file.open(name), allow_pickle=False)


def _netcdf(data: bytes) -> None:
    import netCDF4

    with netCDF4.Dataset("whole.nc", memory=data) as file:
        for variable in file.variables.values():
            variable[...]


#: What reads a whole file of a format, or raises. A new format is one line here and one in
#: ``cases.FORMATS``.
WHOLE: dict[str, Callable[[bytes], None]] = {".npz": _npz, ".nc": _netcdf, ".json": json.loads}


class Watcher:
    """Use as a context manager around a run; ``faults`` are sentences about what was seen,
    ``seen`` counts versions read."""

    def __init__(self, folder: Path, *, may_vanish: bool = False) -> None:
        self.folder, self.may_vanish = folder, may_vanish
        self.faults: list[str] = []
        self.seen = 0
        self._known: dict[Path, tuple] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()
        self._look()
        if kind is None:
            assert not self.faults, self.faults

    def _watch(self) -> None:
        while not self._end.wait(0.005):
            self._look()

    def _finals(self) -> list[Path]:
        """Files under a name of their own, outside the work folder."""
        found = []
        for folder in (self.folder, self.folder / "items"):
            try:
                found += [p for p in folder.iterdir() if p.suffix in WHOLE and not p.name.startswith(".")]
            except OSError:  # the fault that is tried
                continue
        return found

    def _look(self) -> None:
        there = self._finals()
        for path in there:
            try:
                with open(path, "rb") as file:
                    stat = os.fstat(file.fileno())
                    stamp = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
                    if self._known.get(path) == stamp:
                        continue
                    data = file.read()
            except OSError:
                continue
            self._known[path] = stamp
            self.seen += 1
            try:
                WHOLE[path.suffix](data)
            except Exception as error:
                self.faults.append(f"{path.name} is not whole: {error!r}")
        if not self.may_vanish:
            for path in set(self._known) - set(there):
                self.faults.append(f"{path.name} has vanished")
                del self._known[path]
