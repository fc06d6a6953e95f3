"""`make bench-outputs`: bytes against CPU of what files are written with, and of what `rs-embed` 0.3.1 writes by default.

Real pixels (the sample scene's four Sentinel-2 bands, 16 chips of 150 x 150, uint16) and vectors (256 x 768 float32 of noise,
which no compressor can shorten much: the worst case), through this project's own writers with other settings, CPU
seconds of the process, the best of five. Reading is the whole array by this project's own reader, opening included. Writes its table into
docs/outputs.md.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

from common import processor, write_table

KEYS = {"input": "inputs_bchw__m", "embedding": "embeddings__m"}


def pixels():  # noqa: ANN201
    """(16, 4, 150, 150) uint16."""
    import numpy as np

    from rs_embed.providers.sample import scene

    cuts = [scene()[:, y : y + 150, x : x + 150] for y in (0, 50, 100, 150) for x in (0, 50, 100, 150)]
    return np.stack(cuts)


def best(work: Callable[[], object]) -> float:
    """CPU seconds."""
    found = []
    for _ in range(5):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


@contextmanager
def zlib_npz(level: int):  # noqa: ANN201
    """The npz writer with zlib instead of ISA-L."""
    import zlib

    from isal import isal_zlib

    own = isal_zlib.compressobj
    isal_zlib.compressobj = lambda _, method, bits: zlib.compressobj(level, method, bits)
    try:
        yield
    finally:
        isal_zlib.compressobj = own


@contextmanager
def zlib_netcdf(level: int):  # noqa: ANN201
    """The NetCDF writer with its library's own filter, which is zlib."""
    from rs_embed.formats.netcdf import hdf5, variables

    own, hdf5.WORTH = hdf5.WORTH, 1 << 60
    before = variables.DEFLATED["complevel"]
    variables.DEFLATED["complevel"] = level
    try:
        yield
    finally:
        hdf5.WORTH, variables.DEFLATED["complevel"] = own, before


@contextmanager
def isal(name: str, level: int):  # noqa: ANN201
    """ISA-L with another level, in every array however small; ``name`` is the module that calls it."""
    from importlib import import_module

    from rs_embed.formats.netcdf import hdf5

    called = import_module(f"rs_embed.formats.{name}")
    own, called.LEVEL = called.LEVEL, level
    worth, hdf5.WORTH = hdf5.WORTH, 0
    try:
        yield
    finally:
        called.LEVEL, hdf5.WORTH = own, worth


def ours(path: Path, kind: str, array) -> None:  # noqa: ANN001
    """One array by the project's own writer."""
    import numpy as np

    from rs_embed.formats import module
    from rs_embed.formats.arrays import About, Array, Places, Row

    n = len(array)
    names = [f"p{i}" for i in range(n)]
    places = Places(names, names, np.zeros((n, 2)), np.zeros((n, 4)), [None] * n)
    format_ = "npz" if path.suffix == ".npz" else "netcdf"
    more = {"bands": tuple(f"B{i}" for i in range(array.shape[1])), "units": "DN"} if kind == "input" else {}
    about = About(places, False, {"title": "t"})
    with module(format_).Writer(path, lambda: about) as file:
        file.add(Array(KEYS[kind], kind, "m", "m", None, **more), array.shape, array.dtype, map(Row, array))


def reference(path: Path, kind: str, array) -> None:  # noqa: ANN001
    """What the published library does with an array, by default: float32, zlib's level 6 or no compression."""
    import numpy as np
    import xarray

    as_float = array.astype(np.float32)
    if path.suffix == ".npz":
        np.savez_compressed(path, **{KEYS[kind]: as_float})
    else:
        xarray.Dataset({KEYS[kind]: (tuple("abcd"[: array.ndim]), as_float)}).to_netcdf(path, engine="netcdf4")


def within(setting: Callable[[], object], path: Path, kind: str, array) -> None:  # noqa: ANN001
    """Our writer with another setting."""
    with setting():
        ours(path, kind, array)


def tries(kind: str) -> list[tuple[str, str, Callable]]:
    """(suffix, what it is, what writes it)."""
    out: list[tuple[str, str, Callable]] = [
        (".npz", "rs-embed 0.3.1, npz: float32, zlib 6", reference),
        (".nc", "rs-embed 0.3.1, NetCDF: float32, not compressed", reference),
    ]
    if kind == "input":
        out.append((".npz", "**npz: ISA-L 2**", ours))
        for level in (0, 1, 3):
            out.append((".npz", f"npz: ISA-L {level}", partial(within, partial(isal, "npz", level))))
        for level in (1, 6):
            out.append((".npz", f"npz: zlib {level}", partial(within, partial(zlib_npz, level))))
    else:
        out.append((".npz", "**npz: stored**", ours))
    out.append((".nc", "**NetCDF: ISA-L 2, shuffle**", partial(within, partial(isal, "netcdf.hdf5", 2))))
    for level in (0, 1, 3):
        out.append((".nc", f"NetCDF: ISA-L {level}, shuffle", partial(within, partial(isal, "netcdf.hdf5", level))))
    for level in (1, 4, 6):
        out.append((".nc", f"NetCDF: zlib {level}, shuffle", partial(within, partial(zlib_netcdf, level))))
    return out


def line(folder: Path, what: str, kind: str, array, suffix: str, label: str, write: Callable) -> str:  # noqa: ANN001
    """Measure one way."""
    import numpy as np

    from rs_embed.formats import open_arrays

    path, raw = folder / f"a{suffix}", array.nbytes / 1e6
    seconds = best(partial(write, path, kind, array))

    def read() -> np.ndarray:
        with open_arrays(path) as file:  # anew: HDF5 keeps what it has unpacked
            return file.read(KEYS[kind])

    if not np.array_equal(read(), array):
        raise SystemExit(f"{label}: other numbers")
    reading = best(read)
    share = path.stat().st_size / array.nbytes
    return f"| {what} | {label} | {share:.2f} | {raw / seconds:.0f} | {raw / reading:.0f} |"


def main() -> None:
    """Measure and write the table."""
    import numpy as np

    vectors = np.random.default_rng(0).standard_normal((256, 768), np.float32)
    lines = ["| what | written as | share of the raw bytes | write, MB/s | read, MB/s |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        for what, kind, array in (("pixels", "input", pixels()), ("vectors", "embedding", vectors)):
            for suffix, label, write in tries(kind):
                lines.append(line(Path(name), what, kind, array, suffix, label, write))
                print(lines[-1], flush=True)
    software = f"Python {platform.python_version()}, netCDF4 {version('netCDF4')}, h5py {version('h5py')}, isal {version('isal')}"
    text = f"""{os.cpu_count()} x {processor()}, {software}; one core; MB are of the array as it is (uint16, float32), digests
included. What is used is bold.

{chr(10).join(lines)}"""
    write_table("outputs.md", "outputs.py", text)


if __name__ == "__main__":
    main()
