"""`make bench-gee`: cost of the client for a patch of 12 bands and 224 x 224 pixels, as
computePixels in npy and as the values of sampleRectangle in JSON. A loopback Earth Engine in
another process (tests/support/earth_engine.py) answers both. Writes its table into docs/gee.md,
and fails if npy is not at least five times cheaper or the pixels differ."""

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

from common import CHECKOUT, cpu_name, write_table

sys.path.insert(0, str(CHECKOUT))
N, SIDE, BANDS = 30, 224, tuple(f"b{i}" for i in range(12))


def serve(folder: Path, address: Connection) -> None:
    """Run a service with one image until the other end of the pipe sends something."""
    from tests.support.earth_engine import serve_earth_engine
    from tests.support.ee_images import Scene
    from tests.support.rasters import noise, write

    path = write(folder / "a.tif", noise(0, (len(BANDS), 300, 300)))
    with serve_earth_engine(collections={"X": [Scene("a", path, "2022-07-01", BANDS)]}) as service:
        address.send(service.url)
        address.recv()


def measure(fetch: Callable[[int], object]) -> tuple[float, float]:
    """CPU and wall milliseconds of a patch, after a first one that is not measured."""
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
    from rs_embed.runs.open_run import open_run
    from tests.support.rasters import at, request

    parent_end, child_end = multiprocessing.Pipe()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        service = multiprocessing.Process(target=serve, args=(folder, child_end), daemon=True)
        service.start()
        settings = GeeSettings(project="bench-mark", url=parent_end.recv())
        requested: Request = request(
            folder, [at(150, 150, SIDE * 5)], backend="gee", gee=settings, collection="X", bands=BANDS
        )
        run = open_run(requested, str(folder))
        (source,), roi = run.plan.sources, run.roi(0)
        grid = make_grid(roi.spatial, "utm", 10.0)
        assert (grid.width, grid.height) == (SIDE, SIDE)
        run.provider.look_up(source, [(roi, grid)])
        ee = run.provider._client.connect()

        def fetch_npy(i: int) -> np.ndarray:
            return run.provider.fetch(source, BANDS, roi, grid).pixels

        def fetch_json(i: int) -> np.ndarray:
            left, bottom, right, top = grid.bounds
            rectangle = ee.Geometry.Rectangle([left, bottom, right, top], proj=grid.crs, geodesic=False)
            images = (
                ee.ImageCollection("X").filterBounds(rectangle).filterDate("2022-06-01", "2022-09-01").select(BANDS)
            )
            image = images.median().reproject(grid.crs, list(grid.affine))
            properties = image.sampleRectangle(region=rectangle, defaultValue=0).getInfo()["properties"]
            return np.stack([np.array(properties[b], np.float32) for b in BANDS])

        if not np.array_equal(fetch_npy(-1), fetch_json(-1)):
            sys.exit("the two ways give different pixels")
        found = {"`computePixels`, npy": measure(fetch_npy), "`sampleRectangle`, JSON": measure(fetch_json)}
        parent_end.send("stop")
        service.join()
    (fast, _), (slow, _) = found.values()
    rows = "\n".join(f"| {how} | {cpu:.1f} | {wall:.0f} |" for how, (cpu, wall) in found.items())
    text = f"""A patch of {len(BANDS)} bands and {SIDE} x {SIDE} pixels (means of {N}; the service on the same machine, on {os.cpu_count()} x
{cpu_name()}, Python {platform.python_version()}, earthengine-api {version("earthengine-api")}): npy costs the client {slow / fast:.0f} times less.

| request | CPU of the client, ms | wall, ms |
|---|---|---|
{rows}"""
    print(text)
    if slow < 5 * fast:
        sys.exit(f"npy is only {slow / fast:.1f} times cheaper")
    write_table("gee.md", "gee.py", text)


if __name__ == "__main__":
    main()
