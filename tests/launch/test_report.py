"""The result that the end of a run prints, by ``export_batch`` and by Snakemake's command line;
and requests that would warn about every ROI, which are refused."""

from __future__ import annotations

import json
import sys

import pytest

from rs_embed import ExportConfig, ExportModelRequest, FetchSpec, ModelError, PointBuffer, plan_batch
from rs_embed.request.geometry import get_transformer

from ..support.exports import WINDOW, combined, export, log_of, places, run_folder, snakemake
from ..support.factories import assert_refusal


@pytest.mark.heavy
def test_the_end_of_a_run_counts_warnings(tmp_path, capsys, monkeypatch):
    centre = get_transformer("EPSG:32633", "EPSG:4326").transform(319005, 5692005)
    flat = PointBuffer(*centre, 3)  # 6 x 6 pixels of 1 m in one pixel of 10 m: constant
    small = [ExportModelRequest("mosaiks", model_config={"features": 8})]
    request = {"models": small, "fetch": FetchSpec(scale_m=1.0)}
    line = "rs-embed: 2 ROIs: 2 ok; 1 with warnings (1 constant bands)"
    manifest = export(combined(tmp_path / "run"), [*places(1), flat], **request)
    assert manifest["warnings"] == {"rois": 1, "kinds": {"constant_bands": 1}}
    assert line in capsys.readouterr().err.splitlines(), "also without progress"
    folder = run_folder(tmp_path / "run")
    assert line in log_of(folder), "by Snakemake itself"
    export(combined(tmp_path / "run"), [*places(1), flat], **request)
    assert line in capsys.readouterr().err.splitlines(), "also where nothing was left to do"
    again = snakemake("--cores", "2", "--configfile", str(folder / "config.yaml"), cwd=folder)
    assert (again.returncode, again.stderr.count(line)) == (0, 1), again.stderr
    export(combined(tmp_path / "usual"), places(1), small)
    assert capsys.readouterr().err == "", "there is nothing to say without progress"
    monkeypatch.setattr(sys, "stderr", None)
    export(combined(tmp_path / "run"), [*places(1), flat], **request)
    monkeypatch.undo()
    receipt = json.loads((folder / "merge.json").read_text())
    assert receipt["result"]["warnings"] == manifest["warnings"]


def test_random_weights_are_refused_where_every_roi_would_fail(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for model in (
        ExportModelRequest("remoteclip", model_config={"weights": "random"}),
        ExportModelRequest("terrafm", model_config={"weights": "random", "variant": "small"}),
    ):
        request = {"spatials": places(1), "temporal": WINDOW, "models": ["mosaiks", model], "backend": "sample"}
        with pytest.raises(ModelError) as error:
            plan_batch(target=combined(tmp_path / "run"), config=ExportConfig(fail_on_bad_input=True), **request)
        assert_refusal(error.value, f"models.{model.name}.model_config.weights: 'random'", "fail_on_bad_input")
    pixels = ExportConfig(fail_on_bad_input=True, save_embeddings=False)
    request["models"] = ["mosaiks", ExportModelRequest("remoteclip", model_config={"weights": "random"})]
    plan_batch(target=combined(tmp_path / "run"), config=pixels, **request)
    plan_batch(target=combined(tmp_path / "run"), config=ExportConfig(), **request)
    assert not (tmp_path / ".rs_embed").exists()
