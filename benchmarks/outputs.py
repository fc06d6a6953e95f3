"""`make bench-outputs`: size and CPU time of files in several formats and compressions, also of
those that `rs-embed` 0.3.1 writes by default.

Real pixels (four Sentinel-2 bands of the sample scene, 16 chips of 150 x 150, uint16) and vectors
(256 x 768 float32 of noise, which no compressor can shorten much: the worst case) pass through the
writers of this project with other settings; CPU seconds of the process, the best of five. Reading
means opening the file and reading the whole array with the reader of this project. Writes its
table into docs/outputs.md.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from common import cpu_name, write_table

if TYPE_CHECKING:
    import numpy as np

KEYS = {"input": "inputs_bchw__m", "embedding": "embeddings__m"}


def read_pixels() -> np.ndarray:
    """(16, 4, 150, 150) uint16."""
    import numpy as np

    from rs_embed.providers.sample import read_scene

    cuts = [read_scene()[:, y : y + 150, x : x + 150] for y in (0, 50, 100, 150) for x in (0, 50, 100, 150)]
    return np.stack(cuts)


def measure_seconds(work: Callable[[], object]) -> float:
    """CPU seconds, the best of five."""
    found = []
    for _ in range(5):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return min(found)


@contextmanager
def zlib_npz(level: int) -> Iterator[None]:
    """The npz writer with zlib instead of ISA-L."""
    import zlib

    from isal import isal_zlib

    original = isal_zlib.compressobj
    isal_zlib.compressobj = lambda _, method, bits: zlib.compressobj(level, method, bits)
    try:
        yield
    finally:
        isal_zlib.compressobj = original


@contextmanager
def zlib_netcdf(level: int) -> Iterator[None]:
    """The NetCDF writer with the filter of the netCDF library, which is zlib."""
    from rs_embed.formats.netcdf import hdf5, variables

    min_bytes, hdf5.MIN_BYTES = hdf5.MIN_BYTES, 1 << 60
    original = variables.COMPRESSION["complevel"]
    variables.COMPRESSION["complevel"] = level
    try:
        yield
    finally:
        hdf5.MIN_BYTES, variables.COMPRESSION["complevel"] = min_bytes, original


@contextmanager
def isal(name: str, level: int) -> Iterator[None]:
    """ISA-L with another level for arrays of any size; ``name`` is the module that calls it."""
    from importlib import import_module

    from rs_embed.formats.netcdf import hdf5

    module = import_module(f"rs_embed.formats.{name}")
    original, module.LEVEL = module.LEVEL, level
    min_bytes, hdf5.MIN_BYTES = hdf5.MIN_BYTES, 0
    try:
        yield
    finally:
        module.LEVEL, hdf5.MIN_BYTES = original, min_bytes


def write_array(path: Path, kind: str, array: np.ndarray) -> None:
    """Write one array with the writer of this project."""
    import numpy as np

    from rs_embed.formats import format_module
    from rs_embed.formats.arrays import ArrayMetadata, FileMetadata, RoiCoordinates, Row

    n = len(array)
    names = [f"p{i}" for i in range(n)]
    rois = RoiCoordinates(names, names, np.zeros((n, 2)), np.zeros((n, 4)), [None] * n)
    format_ = "npz" if path.suffix == ".npz" else "netcdf"
    more = {"bands": tuple(f"B{i}" for i in range(array.shape[1])), "units": "DN"} if kind == "input" else {}
    metadata = FileMetadata(rois, False, {"title": "t"})
    with format_module(format_).Writer(path, lambda: metadata) as file:
        file.add(ArrayMetadata(KEYS[kind], kind, "m", "m", None, **more), array.shape, array.dtype, map(Row, array))


def write_reference(path: Path, kind: str, array: np.ndarray) -> None:
    """Write one array as the published library does by default: float32, zlib level 6 or no
    compression."""
    import numpy as np
    import xarray

    as_float = array.astype(np.float32)
    if path.suffix == ".npz":
        np.savez_compressed(path, **{KEYS[kind]: as_float})
    else:
        xarray.Dataset({KEYS[kind]: (tuple("abcd"[: array.ndim]), as_float)}).to_netcdf(path, engine="netcdf4")


def write_with(setting: Callable[[], AbstractContextManager[None]], path: Path, kind: str, array: np.ndarray) -> None:
    """Write one array with the writer of this project and another setting."""
    with setting():
        write_array(path, kind, array)


def list_variants(kind: str) -> list[tuple[str, str, Callable]]:
    """(suffix, description, function that writes it)."""
    out: list[tuple[str, str, Callable]] = [
        (".npz", "rs-embed 0.3.1, npz: float32, zlib 6", write_reference),
        (".nc", "rs-embed 0.3.1, NetCDF: float32, not compressed", write_reference),
    ]
    if kind == "input":
        out.append((".npz", "**npz: ISA-L 2**", write_array))
        for level in (0, 1, 3):
            out.append((".npz", f"npz: ISA-L {level}", partial(write_with, partial(isal, "npz", level))))
        for level in (1, 6):
            out.append((".npz", f"npz: zlib {level}", partial(write_with, partial(zlib_npz, level))))
    else:
        out.append((".npz", "**npz: stored**", write_array))
    out.append((".nc", "**NetCDF: ISA-L 2, shuffle**", partial(write_with, partial(isal, "netcdf.hdf5", 2))))
    for level in (0, 1, 3):
        out.append((".nc", f"NetCDF: ISA-L {level}, shuffle", partial(write_with, partial(isal, "netcdf.hdf5", level))))
    for level in (1, 4, 6):
        out.append((".nc", f"NetCDF: zlib {level}, shuffle", partial(write_with, partial(zlib_netcdf, level))))
    return out


def measure_variant(
    folder: Path, what: str, kind: str, array: np.ndarray, suffix: str, label: str, write: Callable
) -> str:
    """A row of the table."""
    import numpy as np

    from rs_embed.formats import open_arrays

    path, raw = folder / f"a{suffix}", array.nbytes / 1e6
    seconds = measure_seconds(partial(write, path, kind, array))

    def read() -> np.ndarray:
        with open_arrays(path) as file:  # opened each time: HDF5 caches what it has inflated
            return file.read(KEYS[kind])

    if not np.array_equal(read(), array):
        raise SystemExit(f"{label}: other numbers")
    reading = measure_seconds(read)
    share = path.stat().st_size / array.nbytes
    return f"| {what} | {label} | {share:.2f} | {raw / seconds:.0f} | {raw / reading:.0f} |"


def main() -> None:
    """Measure and write the table."""
    import numpy as np

    vectors = np.random.default_rng(0).standard_normal((256, 768), np.float32)
    lines = ["| what | written as | share of the raw bytes | write, MB/s | read, MB/s |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as name:
        for what, kind, array in (("pixels", "input", read_pixels()), ("vectors", "embedding", vectors)):
            for suffix, label, write in list_variants(kind):
                lines.append(measure_variant(Path(name), what, kind, array, suffix, label, write))
                print(lines[-1], flush=True)
    software = f"Python {platform.python_version()}, netCDF4 {version('netCDF4')}, h5py {version('h5py')}, isal {version('isal')}"
    text = f"""{os.cpu_count()} x {cpu_name()}, {software}; one core; MB are of the raw array (uint16, float32), digests
included. The formats in use are bold.

{chr(10).join(lines)}"""
    write_table("outputs.md", "outputs.py", text)


if __name__ == "__main__":
    main()
