"""Suspicious input in exports: rows of ``items()``, counts in manifests and receipts, and errors
with ``fail_on_bad_input``, with and without embeddings."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from rs_embed import ExportModelRequest, load_export
from rs_embed.formats import open_arrays
from rs_embed.launch.report import print_result
from rs_embed.stages.embed import embed
from rs_embed.stages.shared.jobs import StageError
from rs_embed.stages.shared.run_result import read_result
from rs_embed.stages.shared.state import examine_receipts
from rs_embed.store import receipts
from rs_embed.upkeep.summaries import format_result

from ..support.exports import places
from .test_stages import Fake, embed_all, fetch_all, make, rows, write_all  # noqa: F401 - make is a fixture

UNTRAINED = ExportModelRequest("remoteclip", model_config={"weights": "random"})


class Odd(Fake):
    """Like :class:`Fake`; of a ROI whose plan is ``fill`` three of four pixels have no data, and
    with ``scaled`` its numbers are reflectances."""

    def fetch(self, source, bands, roi, grid):
        chip, todo = super().fetch(source, bands, roi, grid), self.plan.get(roi.name)
        if todo == "scaled":
            return replace(chip, pixels=chip.pixels.astype(np.float32) / 10000)
        if todo == "fill":
            chip.pixels[:, :, chip.pixels.shape[2] // 4 :] = 0
            return replace(chip, coverage=(0.25,) * len(bands))
        return chip


ODD = {"p00001": "flat", "p00002": "fill", "p00003": "empty", "p00004": "scaled"}
KINDS_OF_ODD = {1: "constant_bands", 2: "mostly_empty", 4: "wrong_units"}


@pytest.mark.parametrize("format", ["npz", "netcdf"])
@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_warnings_of_pixels_alone_are_rows_and_counts(make, layout, format, capsys):  # noqa: F811
    run = make(n=6, provider=Odd(**ODD), layout=layout, format=format, save_embeddings=False)
    fetch_all(run), write_all(run)
    counts = {"rois": 3, "kinds": {"mostly_empty": 1, "constant_bands": 1, "wrong_units": 1}}
    assert json.loads((run.dir / run.plan.manifest).read_text())["warnings"] == counts
    result = load_export(run.plan.target)
    for table in (result.items(), result.items(per_model=True)):
        assert table["warning_kinds"].dropna().to_dict() == KINDS_OF_ODD
        assert table["warnings"].isna().tolist() == [True, False, False, True, False, True]
    assert result.models["mosaiks"].meta[2]["quality"]["kinds"] == ["mostly_empty"]
    stored = receipts.read(run.dir / run.plan.merge_receipt)["result"]
    assert stored == {"rois": 6, "statuses": {"ok": 5, "no_data": 1}, "warnings": counts} == read_result(run)
    capsys.readouterr()
    print_result(run, only_unusual=True)
    first, second = capsys.readouterr().err.splitlines()
    assert first == (
        "rs-embed: 6 ROIs: 5 ok, 1 no data; 3 with warnings (1 mostly without data, 1 constant bands, "
        "1 unexpected units of measure)"
    )
    assert second.endswith("items() lists statuses, errors and warnings") and "run" in second


@pytest.mark.heavy
def test_random_weights_are_a_warning_of_their_model_alone(make):  # noqa: F811
    run = make(spatials=places(2, 170), models=("mosaiks", UNTRAINED), provider=Odd(p00001="fill"), chunk_size=2)
    fetch_all(run), embed_all(run), write_all(run)
    counts = {"rois": 2, "kinds": {"mostly_empty": 1, "random_weights": 2}}
    assert read_result(run)["warnings"] == counts
    assert format_result(read_result(run)) == "2 ROIs: 2 ok; 2 with warnings (1 mostly without data, 2 random weights)"
    result = load_export(run.plan.target)
    table = result.items(per_model=True).set_index(["row", "model"])["warning_kinds"].dropna().to_dict()
    both = "mostly_empty, random_weights"
    assert table == {(0, "remoteclip"): "random_weights", (1, "mosaiks"): "mostly_empty", (1, "remoteclip"): both}
    assert result.items()["warning_kinds"].tolist() == ["random_weights", both], "each kind once"
    assert result.items()["warnings"][1].count("only 25.0 %") == 1


@pytest.mark.parametrize("save_inputs", [True, "model"])
@pytest.mark.parametrize("layout", ["combined", "per_item"])
def test_bad_input_without_embeddings_is_an_error(make, layout, save_inputs):  # noqa: F811
    common = {"n": 6, "layout": layout, "save_embeddings": False, "save_inputs": save_inputs}
    run = make(provider=Odd(**ODD), fail_on_bad_input=True, **common)
    fetch_all(run)
    message = r"^write failed for ROI 'p0000\d', model mosaiks: bad input: "
    with pytest.raises(StageError, match=message):
        write_all(run)
    assert not list(run.dir.glob("items/*.json"))
    tolerant = make(provider=Odd(**ODD), fail_on_bad_input=True, continue_on_error=True, **common)
    fetch_all(tolerant), write_all(tolerant)
    manifest = json.loads((run.dir / run.plan.manifest).read_text())
    (model,) = manifest["models"]
    assert (manifest["status"], model["failed_indices"], model["no_data_indices"]) == ("partial", [1, 2, 4], [3])
    assert model["errors_by_index"]["2"].startswith("ModelError: bad input: only 25.0 % of the ROI has data")
    assert {json.dumps(f) for f in model["failures_by_index"].values()} == {'{"stage": "write", "retryable": false}'}
    assert manifest["warnings"] == {"rois": 0, "kinds": {}}, "these are failures"
    result = load_export(tolerant.plan.target)
    assert result.items()["stage"].dropna().to_dict() == {1: "write", 2: "write", 4: "write"}
    found = result.models["mosaiks"].raw_inputs()
    assert [bool(np.isnan(row).all()) for row in found] == [False, False, False, True, False, False], "pixels are kept"
    if save_inputs == "model":
        (tensor,) = result.models["mosaiks"].model_inputs.values()
        assert [bool(np.isnan(row).all()) for row in tensor] == [False, True, True, True, True, False]


def test_models_that_share_pixels_fail_by_themselves(make):  # noqa: F811
    """The first model saves the pixels of both, and only it refuses them."""
    fits = ExportModelRequest("mosaiks", label="fits", model_config={"features": 8, "input_scale": 1.0})
    options = {"save_embeddings": False, "fail_on_bad_input": True, "continue_on_error": True}
    for layout in ("combined", "per_item"):
        provider = Odd(**dict.fromkeys(("p00000", "p00001", "p00002"), "scaled"))
        run = make(n=3, models=("mosaiks", fits), provider=provider, layout=layout, target=layout, **options)
        fetch_all(run), write_all(run)
        result = load_export(run.plan.target)
        assert {m.name: m.statuses() for m in result.models.values()} == {"mosaiks": ["failed"] * 3, "fits": ["ok"] * 3}
        assert np.array_equal(result.models["fits"].inputs, result.models["mosaiks"].inputs)
    with open_arrays(run.dir / run.plan.item_file(0)) as file:
        assert file.keys() == ["input_chw__mosaiks"]


def test_turning_the_check_on_examines_finished_pixels_again(make):  # noqa: F811
    common = {"n": 6, "save_embeddings": False, "chunk_size": 6}
    run = make(provider=Odd(**ODD), **common)
    fetch_all(run), write_all(run)
    strict = make(provider=Odd(), fail_on_bad_input=True, **common)
    states = examine_receipts(strict).states
    assert {state for path, state in states.items() if path.startswith("fetch")} == {"good"}
    assert states["items/00000.json"] == states["merge.json"] == "stale"
    assert {r["status"] for r in rows(strict, "fetch")} == {"ok", "no_data"}
    with_embeddings = make(provider=Odd(), n=6, chunk_size=6, target="other")
    assert with_embeddings.plan.items_key(with_embeddings.plan.chunks[0]) == make(
        provider=Odd(), n=6, chunk_size=6, target="other", fail_on_bad_input=True
    ).plan.items_key(with_embeddings.plan.chunks[0]), "there the embed jobs examine them"


def test_stored_embeddings_are_refused_and_missing_imagery_is_not(make):  # noqa: F811
    plan = {"p00001": "flat", "p00003": "noted"}

    class Noted(Odd):
        def fetch(self, source, bands, roi, grid):
            if roi.name != "p00003":
                return super().fetch(source, bands, roi, grid)
            self.plan["p00003"] = "empty"
            chip = super().fetch(source, bands, roi, grid)
            return replace(chip, band_warnings=(("there is no imagery: 0 images",),) * len(bands))

    run = make(provider=Noted(**plan))
    fetch_all(run), embed_all(run)
    tolerant = make(provider=Noted(), fail_on_bad_input=True, continue_on_error=True)
    fetch_all(tolerant)
    assert embed_all(tolerant) == [{"embedded": 0, "reused": 3}]
    assert [r["status"] for r in rows(tolerant, "embed")] == ["ok", "failed", "ok", "no_data"]
    write_all(tolerant)
    result = load_export(tolerant.plan.target)
    assert result.items()["warnings"].dropna().to_dict() == {3: "there is no imagery: 0 images"}
    assert format_result(read_result(tolerant)) == "4 ROIs: 2 ok, 1 no data, 1 failed"
    strict = make(provider=Noted(), fail_on_bad_input=True)
    fetch_all(strict)
    with pytest.raises(StageError, match="embed failed for ROI 'p00001', model mosaiks: bad input: constant bands"):
        embed(strict, strict.plan.units[0].id, "00000")


def test_a_model_that_refuses_its_input_stops_a_run_of_tensors(make, monkeypatch):  # noqa: F811
    from rs_embed import ModelError
    from rs_embed.models.mosaiks import Mosaiks

    def preprocess(self, image, options):
        raise ModelError("no such image")

    monkeypatch.setattr(Mosaiks, "preprocess", preprocess)
    run = make(save_inputs="model", save_embeddings=False)
    fetch_all(run)
    with pytest.raises(StageError, match=r"^write failed for ROI 'p0000\d', model mosaiks: no such image$"):
        write_all(run)


def test_the_line_about_an_ordinary_run(make, capsys, monkeypatch):  # noqa: F811
    run = make(n=1)
    print_result(run)
    assert capsys.readouterr().err == "", "it is not finished"
    fetch_all(run), embed_all(run), write_all(run)
    capsys.readouterr()
    print_result(run, only_unusual=True)
    assert capsys.readouterr() == ("", "")
    print_result(run)
    assert capsys.readouterr() == ("", "rs-embed: 1 ROI: 1 ok\n")
    monkeypatch.setattr("sys.stderr", None)
    print_result(run)
    receipt = json.loads((run.dir / "merge.json").read_text())
    del receipt["result"], receipt["sha256"]
    text = receipts.append_digest(json.dumps(receipt, separators=(",", ":"))[:-1])
    (run.dir / "merge.json").write_text(text)
    assert read_result(run) is None, "an earlier version has written it"
