"""Points are requested once for models of square and of free input, in real runs on a loopback
Earth Engine."""

from __future__ import annotations

import numpy as np
import pytest

from rs_embed import BBox, ExportModelRequest, SensorSpec, load_export

from ..support.earth_engine import PROJECT
from ..support.exports import combined, export, run_folder, steps
from ..support.gee_runs import S2, Archive
from ..support.rasters import at, noise

RGB = SensorSpec(S2, ("B4", "B3", "B2"))
#: Without and with ``ModelInfo.square``. No embeddings: no weights are loaded.
MODELS = [
    ExportModelRequest("mosaiks", sensor=RGB),
    ExportModelRequest("remoteclip", model_config={"weights": "random"}),
]


@pytest.mark.heavy
def test_a_point_is_requested_once_and_a_box_once_for_each_footprint(tmp_path, monkeypatch):
    monkeypatch.setenv("EE_PROJECT", PROJECT)
    archive = Archive(tmp_path / "files")
    archive.make(noise(1, (3, 60, 60)), "2022-07-01", bands=("B2", "B3", "B4"))
    points = [at(10 + 10 * i, 20, 50) for i in range(3)]
    lon, lat = at(30, 40, 50).centre
    box = BBox(lon - 0.0006, lat - 0.0002, lon + 0.0006, lat + 0.0002)
    about = {"backend": "gee", "save_embeddings": False, "keep_work": "all"}
    with archive.served() as service:
        monkeypatch.setenv("RS_EMBED_GEE_URL", service.url)
        export(combined(tmp_path / "run"), points, MODELS, **about)
        assert service.counts()["pixels"] == 3
        assert steps(run_folder(tmp_path / "run"))["fetch"] == 1
        loaded = load_export(tmp_path / "run")
        assert np.array_equal(loaded.models["mosaiks"].inputs, loaded.models["remoteclip"].inputs)
        service.reset_counts()
        manifest = export(combined(tmp_path / "run"), [*points, box], MODELS, **about)
        assert service.counts()["pixels"] == 2
        assert manifest["items"] == {"ok": 4}
        assert sorted(s["square"] for s in manifest["sources"].values()) == [False, True]
        service.reset_counts()
        export(combined(tmp_path / "run"), [*points, box], MODELS, **about)
        assert service.counts()["pixels"] == 0
    loaded = load_export(tmp_path / "run")
    own, square = (loaded.models[name].raw_inputs() for name in ("mosaiks", "remoteclip"))
    for index in range(3):
        assert np.array_equal(own[index], square[index])
    assert own[3].shape[1] < own[3].shape[2] == square[3].shape[1] == square[3].shape[2]
