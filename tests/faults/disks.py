"""Small disks: a tmpfs of a few megabytes that a ballast fills up to the last kilobytes. Root can
mount one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SIZE = 4 << 20


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Disk]:
    """A tmpfs on ``folder``; skips where this machine does not let us mount."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


class Disk:
    """A mounted disk, and the file that fills it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ballast = folder, folder / ".ballast"

    @property
    def free(self) -> int:
        """Bytes."""
        stat = os.statvfs(self.folder)
        return stat.f_bavail * stat.f_frsize

    def fill(self, leave: int) -> None:
        """Leave so many bytes, in whole pages."""
        self.ballast.write_bytes(bytes(max(0, self.free - leave)))

    def empty(self) -> None:
        """Free the space."""
        self.ballast.unlink(missing_ok=True)
