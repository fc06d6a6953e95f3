"""Dtypes from the raster to the file: every dtype that rasterio reads and every type of Earth
Engine, through every model, into every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rasterio.dtypes import dtype_fwd

from rs_embed import ExportConfig, ExportModelRequest, ExportTarget, load_export
from rs_embed.models import MODELS, get_model_info
from rs_embed.providers.gee.band_types import CASTS
from rs_embed.stages.shared.model_images import make_tensors
from rs_embed.store.objects import read_object

from ..support.gee_runs import IW, LINEAR, S2, Archive, settings
from ..support.rasters import ORIGIN, at, catalogue, noise, run, write
from ..support.work_folders import do

#: All but complex ones; a raster of float16 is read where GDAL has that type.
RASTERIO_DTYPES = sorted({name for name in dtype_fwd.values() if name and not name.startswith("complex")})
INFOS = {name: get_model_info(name) for name in sorted({get_model_info(name).id for name in MODELS})}
BANDS = {
    collection: tuple(dict.fromkeys(b for s in sensors if s.collection == collection for b in s.bands))
    for sensors in [[m.sensor for info in INFOS.values() for m in info.modalities.values()]]
    for collection in (S2, LINEAR)
}
#: Around the middle of the rasters; 60 x 60 pixels of 10 m.
SPOT = at(40, 40, 300)


def pixels_of(collection: str) -> np.ndarray:
    """Values that every dtype can represent, not the same in any two pixels of a row."""
    return noise(len(collection), (len(BANDS[collection]), 80, 80), "uint8", 127)


def requests(collections=(S2, LINEAR)) -> list[ExportModelRequest]:
    """Every model with every modality."""
    return [
        ExportModelRequest(
            name,
            label=f"{name}_{modality}",
            modality=modality,
            model_config={"features": 8} if name == "mosaiks" else {"weights": "random"},
        )
        for name, info in INFOS.items()
        for modality, about in info.modalities.items()
        if about.sensor.collection in collections
    ]


def planned(folder: Path, name: str, models, upto: str = "merge", *, format="npz", save_inputs=False, **changes):
    """A run for the rasters of a folder, done up to a step."""
    made = run(
        folder,
        [SPOT],
        models=models,
        sensor=None,
        target=ExportTarget.combined(str(folder / "out" / name)),
        config=ExportConfig(format=format, save_inputs=save_inputs),
        **changes,
    )
    return do(made, upto)


def export(folder: Path, name: str, **changes):
    """A finished export of the vectors of mosaiks."""
    planned(folder, name, ["mosaiks"], **changes)
    return load_export(folder / "out" / name).models["mosaiks"]


def write_rasters(folder: Path, dtype: str) -> None:
    for number, collection in enumerate(BANDS):
        write(folder / f"{number}.tif", pixels_of(collection).astype(dtype), names=BANDS[collection])
    rows = [{"path": f"{n}.tif", "bands": " ".join(BANDS[c]), "collection": c} for n, c in enumerate(BANDS)]
    catalogue(folder, *rows)


def tensors_of(folder: Path, **changes) -> dict[tuple[str, str], np.ndarray]:
    """What enters the network of every model."""
    made = planned(folder, "all", requests(), "fetch", **changes)
    return {
        (unit.key, name): tensor for unit in made.plan.units for name, tensor in make_tensors(made, unit, 0).items()
    }


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> tuple[dict, np.ndarray]:
    """The tensors of all models, and the vector of mosaiks, of the same values as uint16."""
    folder = tmp_path_factory.mktemp("uint16")
    write_rasters(folder, "uint16")
    return tensors_of(folder), export(folder, "run").embeddings


def check_tensors(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    for key, tensor in found.items():
        assert tensor.dtype == np.float32 and tensor.flags.c_contiguous, key
        assert tensor.tobytes() == wanted[key].tobytes(), key


@pytest.mark.parametrize("dtype", RASTERIO_DTYPES)
def test_every_dtype_of_rasterio_gives_every_model_the_same_numbers(tmp_path, expected, dtype):
    write_rasters(tmp_path, dtype)
    check_tensors(tensors_of(tmp_path), expected[0])
    for name, format in (("a", "npz"), ("b", "netcdf")):
        model = export(tmp_path, name, format=format, save_inputs="model")
        assert model.embeddings.tobytes() == expected[1].tobytes()
        pixels = model.raw_inputs()
        assert pixels.dtype == ("int16" if dtype == "int8" else dtype), "GDAL warps int8 as int16"
        column, row = (int(abs(model.meta[0]["affine"][i] - ORIGIN[i // 5]) // 10) for i in (2, 5))
        bands = [BANDS[S2].index(b) for b in ("B2", "B3", "B4", "B8")]
        height, width = pixels.shape[-2:]
        assert np.array_equal(pixels[0], pixels_of(S2)[bands, row : row + height, column : column + width])
        (tensor,) = model.model_inputs.values()
        assert tensor.tobytes() == (pixels.astype(np.float32) * np.float32(1e-4)).tobytes()


@pytest.mark.parametrize("dtype", CASTS)
def test_every_type_of_earth_engine_gives_every_model_the_same_numbers(tmp_path, expected, dtype):
    archive = Archive(tmp_path)
    for collection, properties in ((S2, {}), (LINEAR, {"cloud": None, **IW})):
        pixels = pixels_of(collection).astype(dtype)
        archive.make(pixels, "2022-07-01", bands=BANDS[collection], collection=collection, **properties)
    with archive.served() as service:
        about = {"backend": "gee", "gee": settings(service)}
        check_tensors(tensors_of(tmp_path, **about), expected[0])
    stored = [read_object(path).array for path in tmp_path.glob("out/.rs_embed/store/chips/**/*.npy")]
    assert stored and {array.dtype.name for array in stored} == {dtype}
