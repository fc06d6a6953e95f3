"""The NetCDF writer and reader: names, coordinates, bytes, errors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from unittest import mock

import numpy as np
import pytest
import xarray
from hypothesis import given
from hypothesis import strategies as st

from rs_embed import BBox, PointBuffer, StoreError
from rs_embed.formats import format_module
from rs_embed.formats.arrays import ArrayMetadata, FileMetadata, RoiCoordinates, Row
from rs_embed.formats.netcdf import hdf5, layout
from rs_embed.formats.netcdf.reader import NetcdfReader
from rs_embed.formats.netcdf.writer import NetcdfWriter
from rs_embed.request.geometry import lonlat_bounds

from ..support.exports import CHECKOUT, python
from ..support.factories import PROPERTY

UTM = "EPSG:32633"
DTYPES = [np.dtype(t) for t in ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8")]


def affine(column: float = 0, size: float = 10) -> tuple:
    return (size, 0.0, 300000.0 + column, 0.0, -size, 5700000.0)


def file_metadata(n: int, *, single: bool = False) -> FileMetadata:
    rois = RoiCoordinates(
        [f"plot-{i}" for i in range(n)],
        [f"{i:032x}" for i in range(n)],
        np.arange(2.0 * n).reshape(n, 2),
        np.arange(4.0 * n).reshape(n, 4),
        [("2022-06-01", "2022-09-01") if i != 1 else None for i in range(n)],
    )
    return FileMetadata(rois, single, {"title": "a test"})


def write(path, n, arrays, *, single=False, threads=1):
    """Write ``(array, rows)`` pairs; stacked where the array is not that of one ROI."""
    with NetcdfWriter(path, lambda: file_metadata(n, single=single), threads) as file:
        for array, rows in arrays:
            one = rows[0].array
            whole = one.shape if single or array.roi is not None else (len(rows), *one.shape)
            file.add(array, whole, one.dtype, iter(rows))
    return path


def opened(path, **keywords) -> xarray.Dataset:
    """The file in xarray, every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xarray.open_dataset(path, **keywords) as file:
            return file.load()


def pixels(n: int, *, bands=("B2", "B3", "B11"), size=(5, 4), crs=UTM, spread=50.0, kind="input", frames=0):
    """n different images, side by side."""
    shape = (*([frames] if frames else []), len(bands), *size)
    dates = [f"2022-06-{d + 1:02d}" for d in range(frames or 1)]
    numbers = [np.arange(np.prod(shape), dtype="u2").reshape(shape) + np.uint16(i) for i in range(n)]
    return [Row(a, crs, affine(spread * i), dates) for i, a in enumerate(numbers)]


def test_everything_a_reader_needs_is_in_the_combined_file(tmp_path):
    array = ArrayMetadata("inputs_bchw__m", "input", "m", "m", bands=("B2", "B3", "B11"), units="DN")
    cells = ArrayMetadata("embeddings__m", "embedding", "m", "m")
    grids = [Row(np.full((6, 2, 3), i, "f4"), UTM, affine(50 * i, 20)) for i in range(3)]
    path = write(tmp_path / "run.nc", 3, [(array, pixels(3)), (cells, grids)])
    found = opened(path)
    assert set(found.data_vars) == {"inputs_bchw__m", "embeddings__m"}, "everything else is a coordinate"
    taken = found["inputs_bchw__m"]
    assert taken.dims == ("roi", "band__m", "y_in__m", "x_in__m")
    assert taken.attrs["units"] == "DN"
    assert taken.attrs["grid_mapping"] == "grid_mapping_in__m"
    assert (taken.encoding["zlib"], taken.encoding["shuffle"]) == (True, True)
    assert {"name", "roi_id", "lon", "lat", "time", "crs_in__m", "band__m", "x_in__m"} <= set(taken.coords)
    assert found["embeddings__m"].dims == ("roi", "dim__m", "y__m", "x__m")
    assert np.array_equal(taken.sel(band__m="B11").values, np.stack([r.array[2] for r in pixels(3)]))
    one = found.set_xindex("name").sel(name="plot-2")
    assert np.array_equal(one["inputs_bchw__m"], pixels(3)[2].array)
    # the axes are distances from the ROI's corner; the affine has the corner
    x = one["affine_in__m"].values[2] + found["x_in__m"].values
    assert x.tolist() == [300105.0, 300115.0, 300125.0, 300135.0]
    assert found["time_bnds"].values[0].astype("datetime64[D]").astype(str).tolist() == ["2022-06-01", "2022-09-01"]
    assert np.isnat(found["time"].values[1]), "a ROI without a window"
    assert found.attrs["Conventions"].startswith("CF-1.")
    assert opened(path, decode_coords="all")["inputs_bchw__m"].coords["grid_mapping_in__m"].attrs["spatial_ref"]


def test_rois_in_several_zones_have_a_crs_each_and_no_common_mapping(tmp_path):
    array = ArrayMetadata("inputs_bchw__m", "input", "m", "m")
    rows = [*pixels(2), *pixels(1, crs="EPSG:5041")]
    found = opened(write(tmp_path / "run.nc", 3, [(array, rows)]))
    assert found["crs_in__m"].values.tolist() == [UTM, UTM, "EPSG:5041"]
    assert "grid_mapping" not in found["inputs_bchw__m"].attrs
    assert found["affine_in__m"].shape == (3, 6)


def test_rois_on_one_grid_have_its_coordinates(tmp_path):
    array = ArrayMetadata("inputs_bchw__m", "input", "m", "m")
    found = opened(write(tmp_path / "run.nc", 2, [(array, pixels(2, spread=0))]), decode_coords="all")
    assert found["x_in__m"].attrs["standard_name"] == "projection_x_coordinate"
    assert found["x_in__m"].values.tolist() == [300005.0, 300015.0, 300025.0, 300035.0]
    assert found["grid_mapping_in__m"].attrs["GeoTransform"] == "300000.0 10.0 0.0 5700000.0 0.0 -10.0"


def test_single_arrays_have_axes_of_their_own_and_large_files_share_them(tmp_path, monkeypatch):
    small = [Row(np.zeros((3, 4 + i, 5), "u2"), UTM, affine(i), ["2022-06-01"]) for i in range(3)]
    arrays = [
        (ArrayMetadata(f"input_chw__m__{i:05d}", "input", "m", "m", i, ("a", "b", "c")), [r])
        for i, r in enumerate(small)
    ]
    found = opened(write(tmp_path / "a.nc", 3, arrays), decode_coords="all")
    one = found["input_chw__m__00002"]
    assert one.dims == ("band__m", "y_in__m__00002", "x_in__m__00002")
    assert one["y_in__m__00002"].values[0] == 5699995.0
    assert (one.attrs["roi"], one.attrs["roi_index"], one.attrs["dates"]) == ("plot-2", 2, "2022-06-01")
    assert one.encoding["grid_mapping"] == "grid_mapping__EPSG_32633"
    monkeypatch.setattr("rs_embed.formats.netcdf.writer.MAX_ROIS_WITH_AXES", 2)
    found = opened(write(tmp_path / "b.nc", 3, arrays))
    assert found["input_chw__m__00002"].dims == ("band__m", "y_in__m__n6", "x_in__m__n5")
    assert found["input_chw__m__00002"].attrs["affine"].tolist() == list(affine(2))


@pytest.mark.parametrize("single", [True, False])
def test_frames_have_dates(tmp_path, single):
    rows = pixels(1 if single else 2, frames=3)
    key = "input_chw__m" if single else "inputs_bchw__m"
    found = opened(write(tmp_path / "a.nc", len(rows), [(ArrayMetadata(key, "input", "m", "m"), rows)], single=single))
    assert found[key].dims[-4:] == ("frame__m", "band__m", "y_in__m", "x_in__m")
    assert found["frame_time__m"].dims == found[key].dims[:-3]
    assert found["frame_time__m"].values.ravel()[2].astype("datetime64[D]").astype(str) == "2022-06-03"


@pytest.mark.parametrize("crs", [UTM, "EPSG:32736", "EPSG:3857", "EPSG:5042"])
def test_gdal_finds_crs_and_transform_in_the_file_of_one_roi(tmp_path, crs):
    path = write(
        *(tmp_path / "a.nc", 1),
        [
            (ArrayMetadata("input_chw__m", "input", "m", "m", bands=("B2", "B3", "B11")), pixels(1, crs=crs)),
            (
                ArrayMetadata("embedding__m", "embedding", "m", "m"),
                [Row(np.zeros((8, 1, 2), "f4"), crs, affine(0, 20))],
            ),
        ],
        single=True,
    )
    code = f"""
import rasterio
from rasterio.env import Env
with Env() as env:
    if "netCDF" not in env.drivers():
        print("no driver")
    else:
        for name in ("input_chw__m", "embedding__m"):
            with rasterio.open("netcdf:{path}:" + name) as file:
                assert file.crs == rasterio.crs.CRS.from_string({crs!r}), file.crs.to_wkt()
                print(file.count, *file.shape, *file.transform[:6], int(file.read().sum()))
"""
    done = python(code, cwd=tmp_path)  # in another process: GDAL loads another HDF5
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("no driver"):
        pytest.skip("this GDAL has no netCDF driver")
    assert done.stdout.splitlines() == [
        f"3 5 4 10.0 0.0 300000.0 0.0 -10.0 5700000.0 {pixels(1)[0].array.sum()}",
        "8 1 2 20.0 0.0 300000.0 0.0 -20.0 5700000.0 0",
    ]


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=4).map(tuple)


@PROPERTY
@given(st.data())
def test_numbers_are_read_back_in_every_shape_and_dtype(tmp_path_factory, data):
    kind = data.draw(st.sampled_from(["input", "embedding"]))
    shape, dtype, n = data.draw(shapes), data.draw(st.sampled_from(DTYPES)), data.draw(st.integers(1, 4))
    form = data.draw(st.sampled_from(["stacked", "ragged", "single"]))
    n = 1 if form == "single" else n
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = [rng.integers(0, 256, (*shape, dtype.itemsize), "u1").view(dtype)[..., 0] for _ in range(n)]
    rows = [Row(v, UTM, affine(i)) for i, v in enumerate(values)]
    key = f"{kind}__m"
    arrays = [(ArrayMetadata(key, kind, "m", "m"), rows)]
    if form == "ragged":
        arrays = [(ArrayMetadata(f"{key}__{i:05d}", kind, "m", "m", i), [r]) for i, r in enumerate(rows)]
    path = tmp_path_factory.getbasetemp() / "property.nc"
    with (
        mock.patch.object(hdf5, "MIN_BYTES", data.draw(st.sampled_from([0, hdf5.MIN_BYTES]))),
        mock.patch.object(layout, "SHARED_CHUNK_BYTES", data.draw(st.sampled_from([64, layout.SHARED_CHUNK_BYTES]))),
        mock.patch.object(layout, "MAX_CHUNK_BYTES", data.draw(st.sampled_from([64, layout.MAX_CHUNK_BYTES]))),
    ):
        write(path, n, arrays, single=form == "single", threads=data.draw(st.integers(1, 3)))
    wanted = np.stack(values) if form == "stacked" else values[0]
    with NetcdfReader(path) as file:
        assert file.keys() == [a.key for a, _ in arrays]
        key = arrays[0][0].key
        assert (file.shape(key), file.dtype(key)) == (wanted.shape, dtype)
        assert file.read(key).tobytes() == wanted.tobytes(), "bit for bit, NaN payloads too"
        asked = data.draw(st.lists(st.integers(-len(wanted), len(wanted) - 1), max_size=5))
        assert file.read(key, asked).tobytes() == wanted[np.array(asked, int)].tobytes()
        assert file.read(key, slice(1, None)).tobytes() == wanted[1:].tobytes()
    seen = opened(path, decode_cf=False)[key]
    assert seen.values.tobytes() == wanted.tobytes()
    own = None if form != "ragged" else 0
    names = layout.dimension_names(ArrayMetadata(key, kind, "m", "m", own), shape)
    assert seen.dims == (*(["roi"] if form == "stacked" else []), *names)


def test_names_of_dimensions_do_not_depend_on_other_models_or_their_order(tmp_path):
    arrays = [
        (ArrayMetadata(f"inputs_bchw__{m}", "input", m, m), pixels(2, size=s))
        for m, s in (("a", (3, 4)), ("b", (5, 6)))
    ]
    one, two = (opened(write(tmp_path / f"{i}.nc", 2, a)) for i, a in enumerate((arrays, arrays[::-1])))
    assert {k: v.dims for k, v in one.data_vars.items()} == {k: v.dims for k, v in two.data_vars.items()}


def test_equal_content_gives_equal_bytes_also_from_several_threads(tmp_path):
    def make(name: str) -> None:
        arrays = [
            (ArrayMetadata("input_chw__m", "input", "m", "m", bands=("B2", "B3", "B11")), pixels(1, size=(64, 64)))
        ]
        write(tmp_path / name, 1, arrays, single=True)

    threads = [threading.Thread(target=lambda i=i: [make(f"{i}-{k}.nc") for k in range(8)]) for i in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    files = list(tmp_path.glob("*.nc"))
    assert (len(files), len({p.read_bytes() for p in files})) == (32, 1)


def test_bytes_do_not_depend_on_the_threads_that_deflate(tmp_path):
    made = set()
    for threads in (1, 2, 5):
        arrays = [(ArrayMetadata("inputs_bchw__m", "input", "m", "m"), pixels(50, size=(100, 100)))]
        arrays += [
            (ArrayMetadata("embeddings__m", "embedding", "m", "m"), [Row(np.full(9000, i, "f4")) for i in range(50)])
        ]
        arrays += [(ArrayMetadata("input_chw__k__00003", "input", "k", "k", 3), pixels(1, size=(500, 400)))]
        made.add(write(tmp_path / f"{threads}.nc", 50, arrays, threads=threads).read_bytes())
    assert len(made) == 1
    seen = opened(tmp_path / "5.nc")
    assert (seen["embeddings__m"].values == np.arange(50)[:, None]).all()
    assert (seen["inputs_bchw__m"].values == np.stack([row.array for row in pixels(50, size=(100, 100))])).all()


@pytest.mark.parametrize("form", ["deflated here", "deflated by the library", "shared chunks"])
def test_rows_one_after_the_other(tmp_path, monkeypatch, form):
    size = (4, 4) if form == "shared chunks" else (300, 200)
    if form == "deflated by the library":
        monkeypatch.setattr(hdf5, "MIN_BYTES", 1 << 40)
    path = write(tmp_path / "a.nc", 20, [(ArrayMetadata("inputs_bchw__m", "input", "m", "m"), pixels(20, size=size))])
    monkeypatch.undo()
    with NetcdfReader(path) as file:
        found = list(file.iter_rows("inputs_bchw__m"))
        assert [mark for _, mark in found] == [0] * 20
        assert all((a == row.array).all() for (a, _), row in zip(found, pixels(20, size=size), strict=True))
        assert len(next(file.iter_rows("inputs_bchw__m"))) == 2, "and a reader may stop anywhere"


def test_damaged_rows_are_reported(tmp_path):
    noise = [Row(a, UTM, affine()) for a in np.random.default_rng(0).integers(0, 9999, (9, 3, 300, 200)).astype("u2")]
    path = write(tmp_path / "a.nc", 9, [(ArrayMetadata("inputs_bchw__m", "input", "m", "m"), noise)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    with NetcdfReader(path) as file, pytest.raises(StoreError, match="inputs_bchw__m cannot be read"):
        list(file.iter_rows("inputs_bchw__m"))


def test_a_wrong_row_is_refused_and_the_file_removed(tmp_path):
    for rows, shape in ((pixels(2), (3, 3, 5, 4)), (pixels(3), (2, 3, 5, 4)), (pixels(2, size=(4, 4)), (2, 3, 5, 4))):
        with (
            pytest.raises(ValueError, match="inputs_bchw__m: "),
            NetcdfWriter(tmp_path / "a.nc", lambda: file_metadata(2)) as file,
        ):
            file.add(ArrayMetadata("inputs_bchw__m", "input", "m", "m"), shape, np.dtype("u2"), iter(rows))
    with pytest.raises(ValueError, match="cannot store complex64"):
        write(
            tmp_path / "a.nc",
            1,
            [(ArrayMetadata("embedding__m", "embedding", "m", "m"), [Row(np.zeros(2, "c8"))])],
            single=True,
        )
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, signal, sys
import numpy as np
from tests.formats.test_netcdf import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]),) * 2)
noise = np.random.default_rng(0).integers(0, 9999, (50, 3, 64, 64)).astype("u2")
stacked = [(ArrayMetadata("inputs_bchw__m", "input", "m", "m"), [Row(a, UTM, affine(i)) for i, a in enumerate(noise)])]
single = [(ArrayMetadata(f"input_chw__m__{i:05d}", "input", "m", "m", i), [Row(a)]) for i, a in enumerate(noise)]
large = [(ArrayMetadata("input_chw__m__00003", "input", "m", "m", 3), [Row(noise.reshape(-1, 64, 64))])]
for arrays in (stacked, single, large):
    try:
        write("a.nc", 50, arrays, threads=2)
    except OSError as error:
        print(error.errno, error)
"""


@pytest.mark.parametrize("limit", [2000, 20_000, 300_000])
def test_a_file_that_cannot_be_finished_is_reported_and_removed(tmp_path, limit):
    """A limit of file sizes has the effect of a full disk: when HDF5 creates the file, writes, and
    closes it."""
    (tmp_path / "a.nc").write_bytes(b"old")
    command = [sys.executable, "-c", FULL, str(limit)]
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3
    assert all("the file could not be written (" in line and "a.nc" in line for line in done.stdout.splitlines())
    assert [p.name for p in tmp_path.iterdir()] == ["a.nc"]
    assert (tmp_path / "a.nc").read_bytes() == b"old"


def test_a_damaged_or_missing_file_is_reported(tmp_path):
    path = write(tmp_path / "a.nc", 2, [(ArrayMetadata("inputs_bchw__m", "input", "m", "m"), pixels(2, size=(64, 64)))])
    with NetcdfReader(path) as file:
        with pytest.raises(KeyError, match="nothing"):
            file.read("nothing")
        with pytest.raises(IndexError, match="rows 0 to 2 of 2"):
            file.read("inputs_bchw__m", [0, 2])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(StoreError, match="cannot be read as NetCDF"), NetcdfReader(path):
        pass
    with pytest.raises(FileNotFoundError, match="is missing"), NetcdfReader(tmp_path / "none.nc"):
        pass


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_number_of_rois(tmp_path):
    code = """
import resource, sys
import numpy as np
from tests.formats.test_netcdf import *
n, chip = int(sys.argv[1]), np.random.default_rng(0).integers(0, 999, (4, 64, 64)).astype("u2")
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
with NetcdfWriter("a.nc", lambda: file_metadata(n)) as file:
    rows = (Row(chip, UTM, affine(i)) for i in range(n))
    file.add(ArrayMetadata("inputs_bchw__m", "input", "m", "m"), (n, *chip.shape), chip.dtype, rows)
print(peak())
"""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    peaks = []
    for n in (300, 3000):
        command = [sys.executable, "-c", code, str(n)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 20, f"{peaks} MB for 10 and 100 MB of pixels"


def test_chunks_are_rois_or_several_or_parts():
    assert layout.chunk_sizes((1000, 12, 224, 224), 2, stacked=True) == (1, 12, 224, 224)
    assert layout.chunk_sizes((1000, 768), 4, stacked=True) == (85, 768)
    assert layout.chunk_sizes((10, 768), 4, stacked=True) == (10, 768)
    cut = layout.chunk_sizes((12, 5000, 5000), 2, stacked=False)
    assert np.prod(cut) * 2 <= layout.MAX_CHUNK_BYTES


def test_a_format_is_a_module_and_an_unknown_one_is_refused():
    assert format_module("netcdf").Writer is NetcdfWriter
    with pytest.raises(ValueError, match="allowed: 'npz', 'netcdf'"):
        format_module("zarr")


@pytest.mark.parametrize("projection", ["utm", "web_mercator"])
def test_bounds_of_rois_in_degrees(projection):
    found = lonlat_bounds([PointBuffer(15, 60, 1000), BBox(1, 2, 3, 4), PointBuffer(-60, -30, 500)], projection)
    assert found[1].tolist() == [1, 2, 3, 4]
    west, south, east, north = found[0]
    high = (north - south) * 111.4  # km
    assert high == pytest.approx(2.0 if projection == "utm" else 1.0, rel=0.01)
    assert (east - west) * 111.3 * 0.5 == pytest.approx(high, rel=0.02)
    assert (west + east) / 2 == pytest.approx(15, abs=1e-6)
