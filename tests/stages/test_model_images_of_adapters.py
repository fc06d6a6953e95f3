"""The tensors of every model with ``save_inputs="model"``: memory order and digests."""

from __future__ import annotations

import hashlib
import json

import pytest

from rs_embed import ExportConfig, ExportModelRequest, ExportTarget, SensorSpec, load_export
from rs_embed.models import MODELS, get_model_info
from rs_embed.stages.shared.model_images import make_tensors

from ..support.gee_runs import S2
from ..support.rasters import at, catalogue, noise, run, write
from ..support.work_folders import do

OPTIONS = {"mosaiks": {"features": 8}, "prithvi": {"weights": "random", "temporal_mode": "single"}}
#: 100 x 100 pixels are one input of every model, 400 x 400 pixels are 4 tiles of all but mosaiks
SIDES = 100, 400


@pytest.mark.parametrize("name", sorted({get_model_info(name).id for name in MODELS}))
def test_tensors_are_contiguous_and_have_the_digests_of_the_manifest(tmp_path, name):
    info = get_model_info(name)
    bands = info.modalities["s2"].sensor.bands
    write(tmp_path / "a.tif", noise(0, (len(bands), 500, 500)))
    catalogue(tmp_path, {"path": "a.tif", "bands": " ".join(bands), "collection": S2})
    options = OPTIONS.get(name, {"weights": "random"})
    made = run(
        tmp_path,
        [at(250, 250, side * 5) for side in SIDES],
        models=[ExportModelRequest(name, model_config=options)],
        sensor=SensorSpec(S2, bands),
        target=ExportTarget.per_item(str(tmp_path / "out" / "run")),
        config=ExportConfig(
            save_inputs="model", save_embeddings=False, input_prep="resize" if name == "mosaiks" else "tile"
        ),
    )
    do(made)
    found = load_export(tmp_path / "out" / "run").models[name].model_inputs
    (unit,) = made.plan.units
    for i, side in enumerate(SIDES):
        (manifest,) = (tmp_path / "out" / "run").glob(f"p{i:05d}*.json")
        records = json.loads(manifest.read_text())["models"][0]["model_inputs"]
        for tensor_name, tensor in make_tensors(made, unit, i).items():
            assert tensor.flags.c_contiguous
            assert records[tensor_name]["sha256"] == hashlib.sha256(tensor.tobytes()).hexdigest()
            assert found[tensor_name][i].tobytes() == tensor.tobytes()
            assert side == SIDES[0] or name == "mosaiks" or len(tensor) == 4
