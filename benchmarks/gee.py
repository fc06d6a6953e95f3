"""`make bench-gee`: what a patch of 12 bands and 224 x 224 pixels costs the client, as computePixels in npy and as the numbers of
sampleRectangle in JSON. One loopback Earth Engine (tests/support/earth_engine.py, in a process of its own) answers both. Writes its table
into docs/gee.md, and fails if npy is not at least five times cheaper or the pixels differ."""

from __future__ import annotations

import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

from common import CHECKOUT, processor, write_table

sys.path.insert(0, str(CHECKOUT))
N, SIDE, BANDS = 30, 224, tuple(f"b{i}" for i in range(12))


def serve(folder: Path, address: Connection) -> None:
    """A service with one image, until this process is ended."""
    from tests.support.earth_engine import served
    from tests.support.ee_graph import Scene
    from tests.support.rasters import noise, write

    path = write(folder / "a.tif", noise(0, (len(BANDS), 300, 300)))
    with served(collections={"X": [Scene("a", path, "2022-07-01", BANDS)]}) as service:
        address.send(service.url)
        address.recv()


def measure(fetch: Callable[[int], object]) -> tuple[float, float]:
    """CPU and wall milliseconds of a patch, after one that warms up."""
    fetch(-1)
    cpu, wall = time.process_time(), time.perf_counter()
    for i in range(N):
        fetch(i)
    return (time.process_time() - cpu) / N * 1000, (time.perf_counter() - wall) / N * 1000


def main() -> None:
    """Measure both and write the table."""
    import numpy as np

    from rs_embed.request.gee_settings import GeeSettings
    from rs_embed.request.geometry import make_grid
    from rs_embed.request.request import Request
    from rs_embed.runs.run import open_run
    from tests.support.rasters import at, request

    here, there = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        service = multiprocessing.Process(target=serve, args=(folder, there), daemon=True)
        service.start()
        settings = GeeSettings(project="bench-mark", url=here.recv())
        asked: Request = request(
            folder, [at(150, 150, SIDE * 5)], backend="gee", gee=settings, collection="X", bands=BANDS
        )
        run = open_run(asked, str(folder))
        (source,), roi = run.plan.sources, run.roi(0)
        grid = make_grid(roi.spatial, "utm", 10.0)
        assert (grid.width, grid.height) == (SIDE, SIDE)
        run.provider.expect(source, [(roi, grid)])
        ee = run.provider._client.ee()

        def npy(i: int) -> np.ndarray:
            return run.provider.fetch(source, BANDS, roi, grid).pixels

        def numbers(i: int) -> np.ndarray:
            left, bottom, right, top = grid.bounds
            place = ee.Geometry.Rectangle([left, bottom, right, top], proj=grid.crs, geodesic=False)
            images = ee.ImageCollection("X").filterBounds(place).filterDate("2022-06-01", "2022-09-01").select(BANDS)
            image = images.median().reproject(grid.crs, list(grid.affine))
            said = image.sampleRectangle(region=place, defaultValue=0).getInfo()["properties"]
            return np.stack([np.array(said[b], np.float32) for b in BANDS])

        if not np.array_equal(npy(-1), numbers(-1)):
            sys.exit("the two ways give different pixels")
        found = {"`computePixels`, npy": measure(npy), "`sampleRectangle`, JSON": measure(numbers)}
        here.send("enough")
        service.join()
    (fast, _), (slow, _) = found.values()
    rows = "\n".join(f"| {how} | {cpu:.1f} | {wall:.0f} |" for how, (cpu, wall) in found.items())
    text = f"""A patch of {len(BANDS)} bands and {SIDE} x {SIDE} pixels (means of {N}; the service on the same machine, on {os.cpu_count()} x
{processor()}, Python {platform.python_version()}, earthengine-api {version("earthengine-api")}): npy costs the client {slow / fast:.0f} times less.

| request | CPU of the client, ms | wall, ms |
|---|---|---|
{rows}"""
    print(text)
    if slow < 5 * fast:
        sys.exit(f"npy is only {slow / fast:.1f} times cheaper")
    write_table("gee.md", "gee.py", text)


if __name__ == "__main__":
    main()
