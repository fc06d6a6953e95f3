"""``save_inputs="model"``: the tensors that entered the networks, beside the pixels they were made
of."""

from __future__ import annotations

import numpy as np
import pytest

from rs_embed import ExportConfig, ExportModelRequest, SensorSpec, load_export
from rs_embed.formats import open_arrays

from ..support.exports import content, times
from ..support.gee_runs import S2
from ..support.manifest_schema import check_manifest
from ..support.rasters import at, catalogue, noise, run, write
from ..support.work_folders import ONE, TWO, do, make


@pytest.mark.parametrize("format", ["npz", "netcdf"])
@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_the_tensors_are_those_of_the_model(tmp_path, layout, format):
    made = make(tmp_path, models=(ONE, TWO), layout=layout, format=format, save_inputs="model")
    result = load_export(tmp_path / "run")
    for path in [tmp_path / "run.json"] if layout == "combined" else (tmp_path / "run").glob("*.json"):
        check_manifest(path)
    for label, scale in (("mosaiks", 1e-4), ("rgb", 1e-4)):
        model = result.models[label]
        (tensor,) = model.model_inputs.values()
        assert (tensor.dtype, tensor.shape) == (np.float32, model.inputs.shape)
        assert np.array_equal(tensor, model.inputs * np.float32(scale))
    name = "run" if layout == "combined" else "run/p00000"
    with open_arrays(tmp_path / f"{name}{made.plan.suffix}") as file:
        assert {"model_input__mosaiks", "model_input__rgb"} < set(file.keys())
    store = times(tmp_path / ".rs_embed" / "store")
    make(tmp_path, models=(ONE, TWO), layout=layout, format=format)
    assert times(tmp_path / ".rs_embed" / "store") == store, "they are made of what is there"
    assert load_export(tmp_path / "run").models["rgb"].model_inputs == {}
    make(tmp_path, models=(ONE, TWO), layout=layout, format=format, save_inputs="model", save_embeddings=False)
    assert list(load_export(tmp_path / "run").models["rgb"].model_inputs) == ["pixels"]


def test_several_tensors_and_tiles(tmp_path):
    """prithvi's place and time beside its pixels; a large ROI in tiles."""
    bands = ("B2", "B3", "B4", "B8A", "B11", "B12")
    write(tmp_path / "a.tif", noise(0, (6, 400, 400)))
    catalogue(tmp_path, {"path": "a.tif", "bands": " ".join(bands), "collection": S2})
    options = {"weights": "random", "temporal_mode": "single"}
    made = run(
        tmp_path,
        [at(200, 200, 1120), at(200, 200, 1800)],
        models=[ExportModelRequest("prithvi", model_config=options)],
        sensor=SensorSpec(S2, bands),
        config=ExportConfig(save_inputs="model", save_embeddings=False, input_prep="tile"),
    )
    do(made)
    found = load_export(tmp_path / "out" / "run").models["prithvi"].model_inputs
    shapes = {name: [row.shape for row in rows] for name, rows in found.items()}
    assert shapes["pixels"] == [(6, 1, 224, 224), (4, 6, 1, 224, 224)]
    assert {name: [len(s) for s in found] for name, found in shapes.items() if name != "pixels"} == {
        "place": [1, 2],
        "time": [2, 3],
    }
    assert all(np.isfinite(row).all() for rows in found.values() for row in rows)


def test_equal_requests_give_equal_files(tmp_path):
    make(tmp_path / "a", save_inputs="model", chunk_size=1)
    make(tmp_path / "b", save_inputs="model", chunk_size=4)
    a, b = content(tmp_path / "a"), content(tmp_path / "b")
    assert a["run.npz"] == b["run.npz"]
